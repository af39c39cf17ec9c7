"""The page of `relook compare`: the report of an evaluation, with what MultiCAM looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from relook.errors import RelookError
from relook.evaluation import Answer, LabelledImages, Row
from relook.gate import EVERY_IMAGE, Gate
from relook.multicam import FUSED, OBJECT, STAGE_NAMES, TARGET, Comparison, Trained, masked
from relook.report import charts
from relook.report.evaluation import figures, settings_of, spread
from relook.report.findings import best_correction, find_comparison
from relook.report.page import render_page
from relook.report.tiles import map_tile, photo_tile
from relook.words import duration, percent_range

GALLERY = 5
"""How many images of each kind are shown."""

_STARTS = {
    "bundled": "the bundled weights of {}",
    "own": "the own weights of {}",
    "none": "random weights of {}",
}


@dataclass(frozen=True)
class Said:
    """One network's answer to one image.

    Attributes:
        method: the network.
        label: its answer.
        probability: of that class.
        right: whether it is the true one.
    """

    method: str
    label: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Case:
    """One image of a gallery.

    Attributes:
        title: the image's name without its folders.
        label: its true class.
        photo, saliency, masked: what the networks see, where, and what ObjectNet is shown.
        hidden: how much of the image is hidden from it, 0 to 1.
        answers: of TargetNet, ObjectNet and MultiCAM.
    """

    title: str
    label: str
    photo: Image.Image
    saliency: Image.Image
    masked: Image.Image
    hidden: float
    answers: tuple[Said, ...]


def write_comparison(
    comparison: Comparison, trained: Trained, data: LabelledImages, file: Path
) -> None:
    """Write the page: one file, nothing fetched.

    Args:
        comparison: what came out.
        trained: the networks, for the galleries.
        data: the same test images.
        file: where the page goes, in a folder that is there.
    """
    statistics, training = comparison.statistics, comparison.training
    rows = [row for row in comparison.rows if row.before and row.after]
    gate = Gate.of(comparison.settings["gate"])
    stages = {STAGE_NAMES[name]: stage for name, stage in training.stages.items()}
    start = str(training.settings["weights"])
    words = _STARTS.get(start, f"weights of {{}} in a file ({start.removeprefix('file ')})")
    first = next(iter(training.stages.values()))

    def gallery(before: bool, after: bool) -> list[Case]:
        of_kind = [row for row in rows if _right(row) == (before, after)]
        return _gallery(of_kind, trained, data)

    render_page(
        "comparison.html.j2",
        file,
        **figures(
            statistics,
            {**statistics.rivals, FUSED: statistics.after},
            FUSED,
            TARGET,
            training.labels,
            comparison.rows,
        ),
        **settings_of(comparison.settings),
        found=find_comparison(comparison),
        comparison=comparison,
        compared=comparison.methods if rows else (),
        told=(TARGET, best_correction(comparison), FUSED),
        gate=None if gate == EVERY_IMAGE else gate,
        stages=stages,
        start=words.format(training.settings["backbone"]),
        images=first.images,
        validation=first.validation,
        learning_chart=charts.learning(
            {
                name: [(e.epoch, e.validation_accuracy, e.accuracy) for e in stage.epochs]
                for name, stage in stages.items()
            }
        ),
        fixed=gallery(False, True),
        broken=gallery(True, False),
        right=gallery(True, True),
        wrong=gallery(False, False),
        percent_range=percent_range,
        duration=duration,
    )


def _right(row: Row) -> tuple[bool, bool]:
    """Whether TargetNet and MultiCAM are right."""
    assert row.before is not None
    assert row.after is not None
    return row.before.best == row.label, row.after.best == row.label


def _gallery(rows: Sequence[Row], trained: Trained, data: LabelledImages) -> list[Case]:
    cases = []
    labels = trained.target.labels
    for row in spread(rows, GALLERY):
        try:
            pixels = trained.target.pixels(data.images[row.index].open())
            seen = masked(trained.fused, pixels)
        except (RelookError, RuntimeError, MemoryError):
            continue  # it went well a moment ago; its row stands
        answers = {TARGET: row.before, OBJECT: row.answers[OBJECT], FUSED: row.after}
        cases.append(
            Case(
                title=Path(row.image).name,
                label=labels[row.label],
                photo=photo_tile(pixels),
                saliency=map_tile(pixels, seen.saliency),
                masked=photo_tile(seen.image),
                hidden=seen.hidden,
                answers=tuple(
                    _said(method, answer, labels, row.label)
                    for method, answer in answers.items()
                    if answer
                ),
            )
        )
    return cases


def _said(method: str, answer: Answer, labels: Sequence[str], true: int) -> Said:
    return Said(method, labels[answer.best], answer.probabilities[0], answer.best == true)
