"""What answers the images of a run: one object that can be sent to another process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.classifier import Classifier
from relook.correction import Corrector, Outcome
from relook.evaluation.rows import Answer, Names, Row
from relook.first_look import FirstLook
from relook.looks import Look, keeps_maps


@dataclass(frozen=True)
class Labelled:
    """One image of the data, read.

    Attributes:
        index: its place in the data.
        name, label: as in the data.
        pixels: what the network sees; None with an error.
        original: the whole image, where a look cuts from it.
        error: why the image cannot be used.
    """

    index: int
    name: str
    label: int
    pixels: Float[Tensor, "3 h w"] | None = None
    original: Image.Image | None = None
    error: str | None = None


@runtime_checkable
class Way(Protocol):
    """A way to answer images that have had their first look."""

    @property
    def looks(self) -> Sequence[Look]:
        """The looks that it takes, for what first looks have to keep."""
        ...

    def answers(
        self, images: Sequence[Labelled], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """Answers by name, for each image in order.

        Args:
            images: that can be read.
            firsts: their first looks.
            seconds: that the first look of each of them took.
        """
        ...


@dataclass(frozen=True)
class Corrected:
    """The answers of one corrector, under one name."""

    name: str
    corrector: Corrector

    @property
    def looks(self) -> Sequence[Look]:
        """Its look."""
        return (self.corrector.look,)

    def answers(
        self, images: Sequence[Labelled], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """One answer per image."""
        outcomes = self.corrector.look_again(firsts)
        for image, outcome in zip(images, outcomes, strict=True):
            yield {self.name: shortened(outcome, image.label, seconds)}


def shortened(outcome: Outcome, label: int, seconds: float) -> Answer:
    """A corrected answer in short; `seconds` are those of the first look."""
    return Answer.of(
        outcome.after,
        label,
        outcome.forwards,
        outcome.cost,
        seconds + outcome.seconds,
        outcome.second is not None,
        outcome.second.notes if outcome.second else (),
    )


@dataclass(frozen=True)
class Experiment:
    """What answers images, with its settings. It can be pickled.

    >>> experiment = relook.evaluation.experiment_of(corrector, rivals={})
    >>> experiment.kind, list(experiment.names)
    ('evaluation', ['first look', 'flip'])
    >>> experiment.keeps_maps, experiment.needs_original
    (False, False)

    Attributes:
        kind: "evaluation", "tuning", "comparison" or "gate".
        classifier: takes the first looks.
        names: of the answers.
        ways: what gives all answers but the first ones.
        settings: all that the rows depend on beside the data, as JSON has it.
    """

    kind: str
    classifier: Classifier
    names: Names
    ways: Sequence[Way]
    settings: Mapping[str, Any]

    @property
    def keeps_maps(self) -> bool:
        """Whether first looks keep the target layer's maps."""
        return any(keeps_maps(look, self.classifier) for way in self.ways for look in way.looks)

    @property
    def needs_original(self) -> bool:
        """Whether a look cuts from the original image."""
        return any(look.needs_original for way in self.ways for look in way.looks)

    def rows(self, images: Sequence[Labelled]) -> Iterator[Row]:
        """The rows of images, in order, each as soon as it is known.

        Args:
            images: that can be read; their first looks are taken as one batch.

        Raises:
            RelookError: the network failed; the rows before are right.
        """
        start = time.perf_counter()
        pixels = torch.stack([image.pixels for image in images if image.pixels is not None])
        originals = [image.original for image in images]
        firsts = self.classifier.first_looks(pixels, self.keeps_maps, originals)
        seconds = (time.perf_counter() - start) / len(images)
        others = [way.answers(images, firsts, seconds) for way in self.ways]
        for image, first, *answers in zip(images, firsts, *others, strict=True):
            found = {self.names.first: self._first(first, image.label, seconds)}
            for named in answers:
                found.update(named)
            yield self.row(image, found)

    def row(self, image: Labelled, answers: Mapping[str, Answer], error: str | None = None) -> Row:
        """The row of an image."""
        return Row(image.index, image.name, image.label, self.names, answers, error)

    def _first(self, first: FirstLook, label: int, seconds: float) -> Answer:
        cost = self.classifier.cost(*first.size)
        return Answer.of(first.probabilities, label, forwards=1, cost=cost, seconds=seconds)
