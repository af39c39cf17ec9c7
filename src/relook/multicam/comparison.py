"""Comparison of MultiCAM with corrections of its TargetNet, on the same images."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow
import torch
from jaxtyping import Float
from torch import Tensor

from relook.arguments import Number
from relook.classifier import Classifier
from relook.correction import AMBIGUOUS, Corrector
from relook.digest import weights_digest
from relook.evaluation import (
    Answer,
    DataError,
    LabelledImages,
    Method,
    Pairing,
    Row,
    Statistics,
    Tally,
    from_table,
    read_data,
)
from relook.evaluation.experiment import Corrected, Experiment, Way
from relook.evaluation.matching import BY_ORDER
from relook.evaluation.rows import Names, schema_of
from relook.evaluation.work import work
from relook.fills import fill_image, hide
from relook.first_look import FirstLook
from relook.folder import folder_at, read_settings
from relook.gate import Gate
from relook.layers import evaluating
from relook.looks import Look
from relook.multicam.data import digests, is_divided
from relook.multicam.network import MultiCAM, mask_filter, saliency
from relook.multicam.run import StageRecord, Training
from relook.multicam.stages import FUSED, OBJECT, TARGET
from relook.runs import Item, OnRows, Run
from relook.runs.spelling import describe, named
from relook.words import some

KIND = "comparison"
LOOKS = ("poster", "flip", "quick", "best")
"""Looks that correct TargetNet's answers."""

_STAGES = {OBJECT: ("target", "object"), FUSED: ("target", "object", "fusion")}
_CLASSES = 12


@dataclass(frozen=True)
class Trained:
    """The networks of a training run.

    Attributes:
        training: the training run.
        target: TargetNet alone.
        object: ObjectNet alone, on images masked by TargetNet.
        fused: MultiCAM.

    >>> from relook.multicam import load_trained
    >>> trained = load_trained("trained", load=relook.load)
    >>> trained.target.labels
    ('blue', 'green', 'red')
    """

    training: Training
    target: Classifier
    object: Classifier
    fused: Classifier


@dataclass(frozen=True)
class Compared:
    """Results of one method.

    Attributes:
        method: name of the method.
        tally: counts over all test images.
        pairing: comparison of TargetNet (before) and this method (after); None for TargetNet.
        seconds: training time that the method needs.

    >>> from relook.multicam import Comparison
    >>> multicam = Comparison.read("compared").methods[-1]
    >>> multicam.method, multicam.tally.images
    ('MultiCAM', 30)
    """

    method: str
    tally: Tally
    pairing: Pairing | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """One row of `relook compare --json`."""
        low, high = self.tally.interval or (None, None)
        return {
            "method": self.method,
            "top1": self.tally.top1,
            "low": low,
            "high": high,
            "p_value": self.pairing and self.pairing.p_value,
            "forwards": self.tally.forwards / self.tally.images if self.tally.images else None,
        }


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison: TargetNet's answers come first, MultiCAM's are the main ones.

    Attributes:
        settings: all settings that the rows depend on, as in run.json.
        training: training run of the networks: settings, classes and stages, without images.
        table: one row per test image, in the order of the data.

    >>> from relook.multicam import Comparison
    >>> comparison = Comparison.read("compared")
    >>> [method.method for method in comparison.methods][:3]
    ['TargetNet', 'TargetNet + poster (fast)', 'TargetNet + flip']
    """

    settings: Mapping[str, Any]
    training: Training
    table: pyarrow.Table

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Comparison:
        """Read the folder of a comparison; the training's folder is not needed.

        Raises:
            RunError: the folder contains no comparison, has another format, or cannot be read.
        """
        settings = read_settings(folder, KIND)
        return cls(
            settings, _training(settings), Run(folder_at(folder), settings, schema_of).table()
        )

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows as objects."""
        return tuple(from_table(self.table))

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of the rows."""
        return Statistics.of(self.table)

    @cached_property
    def methods(self) -> tuple[Compared, ...]:
        """Results of TargetNet, its corrections, ObjectNet and MultiCAM, in this order."""
        counted = self.statistics
        found = [Compared(TARGET, counted.before, None, self.seconds(TARGET))]
        for name in (*self.settings["looks"], OBJECT, FUSED):
            method = counted.after if name == FUSED else counted.rivals.get(name, Method())
            found.append(Compared(name, method.tally, method.pairing, self.seconds(name)))
        return tuple(found)

    def seconds(self, method: str) -> float:
        """Training time that a method needs, in seconds."""
        return sum(self.training.stages[name].seconds for name in _STAGES.get(method, ("target",)))

    def summary(self) -> dict[str, Any]:
        """The JSON object of `relook compare --json`."""
        return {"rows": [method.to_json() for method in self.methods]}

    def details(self) -> dict[str, Any]:
        """The summary with more details, as in summary.json."""
        more = [
            {
                "method": method.method,
                "images": method.tally.images,
                "right": method.tally.right,
                "fixed": method.pairing and method.pairing.fixed,
                "broken": method.pairing and method.pairing.broken,
                "cost": method.tally.cost,
                "seconds": method.tally.seconds,
                "training_seconds": method.seconds,
                "ece": method.tally.ece,
                "brier": method.tally.mean_brier,
            }
            for method in self.methods
        ]
        return {**self.summary(), "errors": self.statistics.errors, "methods": more}


def compare(
    trained: Trained,
    data: LabelledImages,
    output: str | os.PathLike[str] | None = None,
    *,
    k: int | None = None,
    gate: Number | str | Gate = AMBIGUOUS,
    budget: int | Literal["fast"] | None = None,
    on_rows: OnRows | None = None,
) -> Comparison:
    """Classify the test images with TargetNet, its corrections, ObjectNet and MultiCAM.

    Unreadable images, `output` and interrupted runs are handled as in `relook.evaluate`.

    Args:
        trained: the networks.
        data: images that the networks were not trained on, from `unseen_images`.
        output: folder of the comparison.
        k: number of classes that the corrections consider, as for `Corrector`.
        gate: gate of all corrections, as for `Corrector`.
        budget: budget of the poster's maps, as for `Corrector`.
        on_rows: called with the rows of each batch.

    Raises:
        DataError: the networks were trained on some of the images.
        RunError: `output` contains something else.
        RelookError: k, gate or budget is out of range.
        ModelError: a network does not support a look.

    >>> from relook.multicam import compare, load_trained, unseen_images
    >>> trained = load_trained("trained", load=relook.load)
    >>> images = unseen_images(trained.training, "scenes")
    >>> comparison = compare(trained, images, budget="fast")
    >>> len(comparison.rows)
    30
    """
    _refuse_seen(trained.training, data, digests(data.images))
    target, one = trained.target, Gate.of(gate)
    looks = {
        _name(look, budget): Corrector(target, k, one, look, budget if look == "poster" else None)
        for look in LOOKS
    }
    networks = {OBJECT: trained.object, FUSED: trained.fused}
    names = Names(TARGET, FUSED, (*looks, OBJECT))
    settings = {
        "kind": KIND,
        "answers": names.to_json(),
        "gate": one.setting,
        "looks": {name: named(corrector) for name, corrector in looks.items()},
        **describe(target),
        "networks": {name: weights_digest(network) for name, network in networks.items()},
        "training": {
            "folder": str(trained.training.folder),
            "settings": dict(trained.training.settings),
            "stages": {name: asdict(stage) for name, stage in trained.training.stages.items()},
        },
    }
    ways: list[Way] = [Corrected(name, corrector) for name, corrector in looks.items()]
    ways += [Asked(name, network) for name, network in networks.items()]
    experiment = Experiment(KIND, target, names, ways, settings)
    settings = {**settings, **data.described()}
    with nullcontext() if output is None else Run.open(output, settings, schema_of) as run:
        table = work(experiment, data, run, on_rows)
        kept = run.settings if run else json.loads(json.dumps(settings))
        found = Comparison(kept, _training(kept), table)
        if run:
            run.folder.write("summary.json", json.dumps(found.details(), indent=2))
    return found


def _training(settings: Mapping[str, Any]) -> Training:
    """The training run as far as the settings of a comparison describe it."""
    held = settings["training"]
    stages = {name: StageRecord.of_json(stage) for name, stage in held["stages"].items()}
    labels = tuple(held["settings"]["labels"])
    return Training(Path(held["folder"]), held["settings"], labels, (), stages)


@dataclass(frozen=True)
class Asked:
    """The answers of ObjectNet or MultiCAM, each of which runs two networks."""

    name: str
    classifier: Classifier

    @property
    def looks(self) -> Sequence[Look]:
        """No looks."""
        return ()

    def answers(
        self, images: Sequence[Item], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """Yield one answer per image, from two forward passes."""
        start = time.perf_counter()
        probabilities = self.classifier(torch.stack([first.pixels for first in firsts]))
        own = (time.perf_counter() - start) / len(images)
        for image, p in zip(images, probabilities, strict=True):
            yield {self.name: Answer.of(p, image.label, forwards=2, cost=2.0, seconds=own)}


def unseen_images(training: Training, data: str | os.PathLike[str]) -> LabelledImages:
    """Select the images that the networks may be tested on.

    If the data contain train/ and test/, these are the images in test/. If relook split off test
    images for the training, and the data are the same images or some of them, these are the test
    images. Otherwise they are all images. Images are recognised by the hash of their files,
    whatever their path.

    Raises:
        DataError: the data cannot be used, their classes differ, or the networks were trained on
            some of the images.

    >>> from relook.multicam import Training, unseen_images
    >>> len(unseen_images(Training.read("trained"), "scenes"))
    30
    """
    root = os.fspath(data)
    found = read_data(os.path.join(root, "test") if is_divided(data) else root, training.labels)
    if found.matched.startswith(BY_ORDER):  # a guess, not needed for networks trained by relook
        raise DataError(
            f"{root}: its classes differ from those of {training.folder}, which are: "
            f"{some(training.labels, _CLASSES)}"
        )
    parts = {image.sha256: image.part for image in training.images}
    own = digests(found.images)
    known = [parts.get(digest) for digest in own]
    held = [place for place, part in enumerate(known) if part == "test"]
    if training.split and held and all(part or not d for part, d in zip(known, own, strict=True)):
        images = tuple(found.images[place] for place in held)
        told = f"{found.matched}; the {len(images):,} of {len(found):,} that were split off"
        return replace(found, images=images, matched=told)
    _refuse_seen(training, found, own)
    return found


def seen_in_training(training: Training, data: LabelledImages) -> list[str]:
    """Names of the images that the networks were trained or validated on.

    >>> from relook.evaluation import read_data
    >>> from relook.multicam import Training, seen_in_training
    >>> training = Training.read("trained")
    >>> len(seen_in_training(training, read_data("scenes/train", training.labels)))
    72
    """
    return _seen(training, data, digests(data.images))


def _seen(training: Training, data: LabelledImages, own: Sequence[str]) -> list[str]:
    known = {image.sha256 for image in training.images if image.part != "test"}
    return [i.name for i, digest in zip(data.images, own, strict=True) if digest in known]


def _refuse_seen(training: Training, data: LabelledImages, own: Sequence[str]) -> None:
    """Raise DataError if the networks were trained on any of the images (`own`: their hashes)."""
    seen = _seen(training, data, own)
    if seen:
        raise DataError(
            f"{training.folder}: was trained on {len(seen):,} of these {len(data):,} images "
            f"({some(seen)}), and cannot be tested on them; pass images that it has not seen"
        )


def _name(look: str, budget: int | Literal["fast"] | None) -> str:
    """Name of TargetNet with this correction in the rows."""
    less = f" ({'fast' if budget == 'fast' else f'budget {budget}'})"
    return f"{TARGET} + {look}{less if budget is not None and look == 'poster' else ''}"


@dataclass(frozen=True)
class Masked:
    """Saliency and masked version of one image, on the CPU.

    Attributes:
        saliency: (H, W) in [0, 1], large where TargetNet sees any of the classes.
        image: (3, H, W) in [0, 1], ObjectNet's input: hidden pixels have the dataset's mean.
        hidden: fraction of the image that is hidden, in [0, 1].

    >>> from relook.images import open_image
    >>> from relook.multicam import masked
    >>> multicam = relook.load("trained")
    >>> seen = masked(multicam, multicam.pixels(open_image("scenes/test/red/00.png")))
    >>> seen.saliency.shape, 0 <= seen.hidden <= 1
    (torch.Size([16, 16]), True)
    """

    saliency: Float[Tensor, "h w"]
    image: Float[Tensor, "3 h w"]
    hidden: float


@torch.no_grad()
def masked(classifier: Classifier, pixels: Float[Tensor, "3 h w"]) -> Masked:
    """Compute TargetNet's saliency for an image, and the masked image that ObjectNet gets.

    Args:
        classifier: classifier with a MultiCAM network.
        pixels: one image in [0, 1].

    >>> from relook.images import open_image
    >>> from relook.multicam import masked
    >>> multicam = relook.load("trained")
    >>> seen = masked(multicam, multicam.pixels(open_image("scenes/test/red/00.png")))
    >>> seen.image.shape
    torch.Size([3, 16, 16])
    """
    network = classifier.network
    assert isinstance(network, MultiCAM)
    target = network.object.target
    inputs = classifier.normalised(pixels.unsqueeze(0)).to(classifier.dtype)
    with evaluating(target):
        [found] = saliency(target.class_maps(target.maps(inputs)), inputs).float().cpu()
    hidden = fill_image("mean", pixels, classifier.mean)
    kept = mask_filter(found.unsqueeze(0))
    [image] = hide(pixels, kept, hidden)
    return Masked(found, image, 1 - float(kept.mean()))
