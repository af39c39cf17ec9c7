"""The page of an evaluation: first a summary, then the details."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from relook.evaluation import (
    Evaluation,
    Method,
    Statistics,
    Tally,
    Tuning,
)
from relook.gate import EVERY_IMAGE, Gate
from relook.report import charts
from relook.report.findings import find, judged
from relook.report.gallery import read_gallery
from relook.report.page import render_page
from relook.words import p, points, points_range, significance

_PAIRS = 8
_ERRORS = 20
_CANDIDATES = 10
_MILLION = 1_000_000


@dataclass(frozen=True)
class Change:
    """Number of images that were fixed from, or broken to, the same wrong class.

    Attributes:
        label: the true class.
        other: the wrong class, before the fix or after the break.
        images: number of these images.
    """

    label: str
    other: str
    images: int


def evaluation_page(folder: Path) -> None:
    """Write report.html, the self-contained page of the evaluation in a folder.

    Raises:
        RunError: something in the folder cannot be read.
        OSError: the page cannot be written.
    """
    evaluation = Evaluation.read(folder)
    tuning = Tuning.read(folder) if (folder / "tuned.json").exists() else None
    statistics, settings = evaluation.statistics, evaluation.settings
    gate = Gate.of(settings["gate"])
    name = evaluation.name
    render_page(
        "evaluation.html.j2",
        folder / "report.html",
        **figures(
            statistics,
            {name: statistics.after, **statistics.rivals},
            name,
            "before",
            evaluation.labels,
            evaluation.table,
        ),
        **settings_of(settings),
        found=find(statistics, gate),
        name=name,
        gate=gate,
        all_images=gate == EVERY_IMAGE,
        share=settings.get("gate_of_share"),
        tuning=tuning,
        candidates=tuning.candidates[:_CANDIDATES] if tuning else (),
        judged=judged,
        gallery=read_gallery(evaluation, folder),
    )


def figures(
    statistics: Statistics,
    methods: dict[str, Method],
    own: str,
    first: str,
    labels: Sequence[str],
    table: pyarrow.Table,
) -> dict[str, Any]:
    """Template variables of the tables and charts that all pages on labelled images share.

    Args:
        statistics: the statistics of the rows.
        methods: the methods by name, in the order of the tables.
        own: name of the method that the page is about, `statistics.after`.
        first: name for the first answers.
        labels: names of the classes.
        table: the rows of all images.
    """
    errors = table.filter(table["error"].is_valid()).select(["image", "error"]).to_pylist()
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
    """The settings as template variables, and as JSON text without the class names."""
    model = {key: value for key, value in settings["model"].items() if key != "labels"}
    text = json.dumps({**settings, "model": model}, indent=2, ensure_ascii=False)
    return {"settings": settings, "settings_text": text}


def _pairs(statistics: Statistics, labels: Sequence[str], fixed: bool) -> list[Change]:
    """The pairs of classes with the most fixed or broken images."""
    pairs: Counter[tuple[int, int]] = Counter()
    for (label, before, after), images in statistics.changes.items():
        if fixed and after == label:
            pairs[label, before] += images
        if not fixed and before == label:
            pairs[label, after] += images
    most = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_PAIRS]
    return [Change(labels[label], labels[other], images) for (label, other), images in most]


def _hours(tally: Tally, images: int = _MILLION) -> str:
    """The time that this number of images takes, in hours."""
    hours = tally.seconds / tally.images * images / 3600
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
