"""The page of an evaluation: what a manager reads, and what an engineer digs in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from relook.correction import Corrector
from relook.errors import RelookError
from relook.evaluation import (
    Evaluation,
    LabelledImages,
    Method,
    Row,
    Statistics,
    Tally,
    Tuning,
)
from relook.report import charts
from relook.report.findings import find
from relook.report.page import render_page
from relook.report.story import Story, tell
from relook.words import p, points, points_range, significance

GALLERY = 6
"""How many of the fixed and of the broken images are shown."""

_PAIRS = 8
_ERRORS = 20
_CANDIDATES = 10
_MILLION = 1_000_000

OnGallery = Callable[[str, int, int], None]
"""Told (image, forward passes done, forward passes in all)."""


@dataclass(frozen=True)
class Shown:
    """One image of a gallery.

    Attributes:
        story: what happened to it.
        label: its true class.
    """

    story: Story
    label: str


@dataclass(frozen=True)
class Change:
    """Images of a class whose answer went from one class to another.

    Attributes:
        label: the true class.
        other: what it was taken for, before it was fixed or after it was broken.
        images: how many.
    """

    label: str
    other: str
    images: int


def write_report(
    evaluation: Evaluation,
    corrector: Corrector,
    data: LabelledImages,
    file: Path,
    name: str,
    tuning: Tuning | None = None,
    progress: OnGallery | None = None,
) -> None:
    """Write the page: one file, nothing fetched.

    The images of the galleries are corrected once more for their maps, `GALLERY` of each kind at
    most, evenly spread over the data.

    Args:
        evaluation: what came out.
        corrector: what it came from.
        data: the same data.
        file: where the page goes, in a folder that is there.
        name: what to call the look.
        tuning: how it was chosen, on other images.
        progress: told (image, forward passes done, in all) while the galleries are made.
    """
    statistics = evaluation.statistics
    methods = {name: statistics.after, **statistics.rivals}
    own = name
    if name in statistics.rivals:  # a rival of the same name is not the same look
        own = f"{name} (this run)"
        methods = {own: statistics.after, **statistics.rivals}
    render_page(
        "evaluation.html.j2",
        file,
        **figures(statistics, methods, own, "before", evaluation.labels, evaluation.rows),
        **settings_of(evaluation.settings),
        found=find(statistics, corrector.gate),
        name=name,
        corrector=corrector,
        share=evaluation.settings.get("gate_of_share"),
        tuning=tuning,
        candidates=tuning.candidates[:_CANDIDATES] if tuning else (),
        fixed=_gallery([r for r in evaluation.rows if r.fixed], corrector, data, progress),
        broken=_gallery([r for r in evaluation.rows if r.broken], corrector, data, progress),
    )


def figures(
    statistics: Statistics,
    methods: dict[str, Method],
    own: str,
    first: str,
    labels: Sequence[str],
    rows: Sequence[Row],
) -> dict[str, Any]:
    """What every page about labelled images shows: tables and diagrams.

    Args:
        statistics: of the rows.
        methods: in the order of the tables.
        own: the one that the page is about, `statistics.after`.
        first: what to call the first answers.
        labels: the classes' names.
        rows: of all images.
    """
    errors = [row for row in rows if row.error]
    classified = bool(statistics.before.images)
    return {
        "statistics": statistics,
        "methods": methods,
        "own": own,
        "first": first,
        "classes": len(labels),
        "tallies": {first: statistics.before, **{m: methods[m].tally for m in methods}},
        "fixed_pairs": _pairs(statistics, labels, fixed=True),
        "broken_pairs": _pairs(statistics, labels, fixed=False),
        "errors": errors[:_ERRORS],
        "error_count": len(errors),
        "gains_chart": charts.gains(methods, own) if classified else "",
        "right_chart": charts.gap_histogram(
            statistics.right_gaps, "gap(1,2) of images first right"
        ),
        "wrong_chart": charts.gap_histogram(
            statistics.wrong_gaps, "Y[c₁] − Y[true] of images first wrong"
        ),
        "reliability_chart": charts.reliability(statistics.before, statistics.after.tally),
        "p": p,
        "points": points,
        "points_range": points_range,
        "significance": significance,
        "hours": _hours,
        "million": _MILLION,
    }


def settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and their text without a thousand class names."""
    model = {key: value for key, value in settings["model"].items() if key != "labels"}
    text = json.dumps({**settings, "model": model}, indent=2, ensure_ascii=False)
    return {"settings": settings, "settings_text": text}


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """So many of them at most, evenly spread over the data."""
    count = min(count, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def _gallery(
    rows: Sequence[Row],
    corrector: Corrector,
    data: LabelledImages,
    progress: OnGallery | None,
) -> list[Shown]:
    shown = []
    for row in spread(rows, GALLERY):
        told = partial(progress, f"gallery: {Path(row.image).name}") if progress else None
        try:
            correction = corrector.correct(data.images[row.index].open(), told)
        except (RelookError, RuntimeError, MemoryError):
            continue  # it went well a moment ago; its row stands
        if row.after:  # the time that counted is the run's
            correction = replace(correction, image=row.image, seconds=row.after.seconds)
        shown.append(Shown(tell(correction), corrector.classifier.labels[row.label]))
    return shown


def _pairs(statistics: Statistics, labels: Sequence[str], fixed: bool) -> list[Change]:
    """The pairs of classes with most fixed, or broken, images."""
    pairs: Counter[tuple[int, int]] = Counter()
    for (label, before, after), images in statistics.changes.items():
        if fixed and after == label:
            pairs[label, before] += images
        if not fixed and before == label:
            pairs[label, after] += images
    most = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_PAIRS]
    return [Change(labels[label], labels[other], images) for (label, other), images in most]


def _hours(tally: Tally, images: int = _MILLION) -> str:
    """How long so many images take at this rate."""
    hours = tally.seconds / tally.images * images / 3600
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
