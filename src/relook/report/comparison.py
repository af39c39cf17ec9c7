"""The page of `relook compare`, and its gallery of images with what MultiCAM looked at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
from PIL import Image

from relook.evaluation import Answer, LabelledImages, Row
from relook.evaluation.rows import Answers
from relook.gate import EVERY_IMAGE, Gate
from relook.multicam import FUSED, OBJECT, STAGE_NAMES, TARGET, Comparison, Trained, masked
from relook.report import charts
from relook.report.evaluation import figures, settings_of
from relook.report.findings import best_correction, find_comparison
from relook.report.gallery import Picture, keep, read, spread
from relook.report.page import render_page
from relook.report.tiles import map_tile, photo_tile
from relook.words import duration, percent_range

GALLERY = 5
"""Most images of each kind that are shown."""

_STARTS = {
    "bundled": "the bundled weights of {}",
    "own": "the own weights of {}",
    "none": "random weights of {}",
}


@dataclass(frozen=True)
class Said:
    """One network's answer to one image.

    Attributes:
        method: the network's name.
        label: its most probable class.
        probability: probability of that class, 0 to 1.
        right: whether it is the true class.
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
        photo: the network's view of the image.
        saliency: the saliency map over the photo.
        masked: the masked image that ObjectNet classifies.
        hidden: fraction of the image that is masked, 0 to 1.
        answers: the answers of TargetNet, ObjectNet and MultiCAM.
    """

    title: str
    label: str
    photo: Image.Image
    saliency: Image.Image
    masked: Image.Image
    hidden: float
    answers: tuple[Said, ...]


def keep_cases(
    comparison: Comparison,
    trained: Trained,
    data: LabelledImages,
    folder: str | os.PathLike[str],
) -> None:
    """Save a gallery of images for the comparison's page, with what MultiCAM looked at.

    It holds at most `GALLERY` images of each kind, evenly spread over the data. An existing
    gallery of the same results is kept.

    Args:
        comparison: the result of the comparison.
        trained: the networks.
        data: the test images of the comparison.
        folder: the folder of the comparison.

    Raises:
        OSError: the folder cannot be written.

    >>> from relook.multicam import Comparison, load_trained, unseen_images
    >>> from relook.report.comparison import keep_cases
    >>> trained = load_trained("trained", load=relook.load)
    >>> images = unseen_images(trained.training, "scenes")
    >>> keep_cases(Comparison.read("compared"), trained, images, "compared")
    """
    labels = comparison.training.labels

    def ask(row: Row) -> Case:
        pixels = trained.target.pixels(data.images[row.index].open())
        seen = masked(trained.fused, pixels)
        answers = {TARGET: row.before, OBJECT: row.answers[OBJECT], FUSED: row.after}
        return Case(
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

    keep(folder, _chosen(comparison), ask, _case)


def read_cases(
    comparison: Comparison, folder: str | os.PathLike[str]
) -> dict[str, list[Case]] | None:
    """Read the gallery that `keep_cases` saved, by kind; None if there is none.

    Raises:
        RunError: the gallery is damaged.
    """
    return read(folder, _chosen(comparison), _case)


def comparison_page(folder: Path) -> None:
    """Write report.html, the self-contained page of the comparison in a folder.

    Raises:
        RunError: something in the folder cannot be read.
        OSError: the page cannot be written.
    """
    comparison = Comparison.read(folder)
    statistics, training = comparison.statistics, comparison.training
    gate = Gate.of(comparison.settings["gate"])
    stages = {STAGE_NAMES[name]: stage for name, stage in training.stages.items()}
    start = str(training.settings["weights"])
    words = _STARTS.get(start, f"weights of {{}} in a file ({start.removeprefix('file ')})")
    first = next(iter(training.stages.values()))

    render_page(
        "comparison.html.j2",
        folder / "report.html",
        **figures(
            statistics,
            {**statistics.rivals, FUSED: statistics.after},
            FUSED,
            TARGET,
            training.labels,
            comparison.table,
        ),
        **settings_of(comparison.settings),
        found=find_comparison(comparison),
        comparison=comparison,
        compared=comparison.methods if statistics.before.images else (),
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
        gallery=read_cases(comparison, folder),
        percent_range=percent_range,
        duration=duration,
    )


def _chosen(comparison: Comparison) -> dict[str, list[Row]]:
    """The rows of the images to show."""
    table = comparison.table.filter(pyarrow.compute.is_null(comparison.table["error"]))
    labels = table["label"].to_numpy()
    before, after = (Answers.of(table, name).best == labels for name in (TARGET, FUSED))
    kinds = {
        "fixed": ~before & after,
        "broken": before & ~after,
        "right": before & after,
        "wrong": ~before & ~after,
    }
    return {kind: spread(table, wanted, GALLERY) for kind, wanted in kinds.items()}


def _said(method: str, answer: Answer, labels: Sequence[str], true: int) -> Said:
    return Said(method, labels[answer.best], answer.probabilities[0], answer.best == true)


def _case(found: dict[str, Any], picture: Picture) -> Case:
    pictures = {name: picture(found[name]) for name in ("photo", "saliency", "masked")}
    return Case(**{**found, **pictures, "answers": tuple(Said(**one) for one in found["answers"])})
