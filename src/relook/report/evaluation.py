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
from relook.evaluation.rows import CALIBRATED, is_derived, names_of
from relook.evaluation.selective import (
    Quality,
    Unanswered,
    classified,
    reliability,
    risk_coverage,
)
from relook.evaluation.statistics import BINS
from relook.gate import EVERY_IMAGE, Gate
from relook.report import charts
from relook.report.findings import find, judged, temperature_alone, unanswered
from relook.report.gallery import read_gallery
from relook.report.page import render_page
from relook.words import p, points, points_range, significance

_PAIRS = 8
_ERRORS = 20
_CANDIDATES = 10
_MILLION = 1_000_000
_IN_A_BIN = 20
"""Fewer images say too little of the share that is right for a mark in the diagram."""


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
            evaluation.risk,
        ),
        **settings_of(settings),
        temperature=temperature_alone(statistics, name),
        left=_left(evaluation),
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
    risk: float | None = None,
) -> dict[str, Any]:
    """Template variables of the tables and charts that all pages on labelled images share.

    Args:
        statistics: the statistics of the rows.
        methods: the methods by name, in the order of the tables.
        own: name of the method that the page is about, `statistics.after`.
        first: name for the first answers.
        labels: names of the classes.
        table: the rows of all images.
        risk: share of wrong answers that was asked for; None if none was.
    """
    errors = table.filter(table["error"].is_valid()).select(["image", "error"]).to_pylist()
    answers, true = classified(table)
    answers = {first: answers[names_of(table).first], **{name: answers[name] for name in methods}}
    right = {name: found.best == true for name, found in answers.items()}
    shown = [name for name in answers if name in (first, own, CALIBRATED)]
    bins = max(1, min(BINS, len(true) // _IN_A_BIN))
    looks = {name: method for name, method in methods.items() if not is_derived(name)}
    return {
        "statistics": statistics,
        "methods": methods,
        "looks": looks,
        "calibrated": CALIBRATED,
        "qualities": {name: Quality.of(found, true) for name, found in answers.items()},
        "own": own,
        "first": first,
        "classes": len(labels),
        "tallies": {first: statistics.before, **{m: methods[m].tally for m in methods}},
        "fixed_pairs": _pairs(statistics, labels, fixed=True),
        "broken_pairs": _pairs(statistics, labels, fixed=False),
        "errors": errors[:_ERRORS],
        "error_count": len(errors),
        "gains_chart": charts.gains(looks, own) if len(true) else "",
        "right_chart": charts.gap_histogram(
            statistics.right_gaps, "gap(1,2) of images first right"
        ),
        "wrong_chart": charts.gap_histogram(
            statistics.wrong_gaps, "Y[c₁] − Y[true] of images first wrong"
        ),
        "reliability_chart": charts.reliability(
            {name: reliability(answers[name].gap(None), right[name], bins) for name in shown}, own
        ),
        "in_a_bin": len(true) // bins,
        "risk_chart": charts.risk_coverage(
            {
                name: risk_coverage(answers[name].column("confidence"), right[name])
                for name in shown
            },
            own,
            risk,
        ),
        "risk": risk,
        "relative": _relative,
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


def _left(evaluation: Evaluation) -> list[str]:
    """Sentences on the images that were left to a person; none without a risk or images."""
    statistics, risk = evaluation.statistics, evaluation.risk
    if risk is None or not statistics.before.images:
        return []
    answers, labels = classified(evaluation.table)
    own, calibrated = evaluation.name, statistics.rivals.get(CALIBRATED)
    told = [("The second look", own, statistics.after.tally)]
    if calibrated:
        told.append(("The first look after a temperature", CALIBRATED, calibrated.tally))
    return [
        unanswered(who, tally, Unanswered.of(answers[name], labels), risk)
        for who, name, tally in told
    ]


def _relative(now: float, was: float) -> str:
    """A change relative to what was: "−17 %"; "–" if that is nothing."""
    return f"{100 * (now / was - 1):+.0f}\u00a0%".replace("-", "−") if was else "–"


def _hours(tally: Tally, images: int = _MILLION) -> str:
    """The time that this number of images takes, in hours."""
    hours = tally.seconds / tally.images * images / 3600
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
