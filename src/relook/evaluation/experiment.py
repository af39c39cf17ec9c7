"""The classifier and looks that a run applies to its images, as one picklable object."""

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
    """One image of a data set, opened and preprocessed.

    Attributes:
        index: position in the data set, from 0.
        name: name in the data set.
        label: 0-based class index.
        pixels: input of the network, values in [0, 1]; None if the image cannot be used.
        original: the whole image, if a look crops from it.
        error: why the image cannot be used; None if it can.
    """

    index: int
    name: str
    label: int
    pixels: Float[Tensor, "3 h w"] | None = None
    original: Image.Image | None = None
    error: str | None = None


@runtime_checkable
class Way(Protocol):
    """Computes answers for images whose first look has been taken."""

    @property
    def looks(self) -> Sequence[Look]:
        """The looks that are taken; they decide what first looks must keep."""
        ...

    def answers(
        self, images: Sequence[Labelled], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """Yield the answers for each image, by name, in order.

        Args:
            images: images without errors.
            firsts: the first look at each image.
            seconds: duration of the first look per image.
        """
        ...


@dataclass(frozen=True)
class Corrected:
    """The answers of one corrector.

    Attributes:
        name: name of the answers.
        corrector: computes them.
    """

    name: str
    corrector: Corrector

    @property
    def looks(self) -> Sequence[Look]:
        """The corrector's look."""
        return (self.corrector.look,)

    def answers(
        self, images: Sequence[Labelled], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """Yield one answer per image."""
        outcomes = self.corrector.look_again(firsts)
        for image, outcome in zip(images, outcomes, strict=True):
            yield {self.name: shortened(outcome, image.label, seconds)}


def shortened(outcome: Outcome, label: int, seconds: float) -> Answer:
    """Summarise an outcome as an answer; `seconds` is the duration of the first look."""
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
    """A classifier and the looks to run on images, with their settings; it can be pickled.

    >>> experiment = relook.evaluation.experiment_of(corrector, rivals={})
    >>> experiment.kind, list(experiment.names)
    ('evaluation', ['first look', 'flip'])
    >>> experiment.keeps_maps, experiment.needs_original
    (False, False)

    Attributes:
        kind: "evaluation", "tuning", "comparison" or "gate".
        classifier: takes the first looks.
        names: names of the answers.
        ways: compute all answers after the first.
        settings: everything except the data that the rows depend on, as JSON values.
    """

    kind: str
    classifier: Classifier
    names: Names
    ways: Sequence[Way]
    settings: Mapping[str, Any]

    @property
    def keeps_maps(self) -> bool:
        """Whether first looks must keep the target layer's maps."""
        return any(keeps_maps(look, self.classifier) for way in self.ways for look in way.looks)

    @property
    def needs_original(self) -> bool:
        """Whether a look crops from the original image."""
        return any(look.needs_original for way in self.ways for look in way.looks)

    def rows(self, images: Sequence[Labelled]) -> Iterator[Row]:
        """Yield the rows of images, in order, each as soon as it is computed.

        Args:
            images: images without errors; their first looks are taken as one batch.

        Raises:
            RelookError: the network failed; the rows yielded before that are valid.
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
        """Build the row of an image from its answers, or from an error."""
        return Row(image.index, image.name, image.label, self.names, answers, error)

    def _first(self, first: FirstLook, label: int, seconds: float) -> Answer:
        cost = self.classifier.cost(*first.size)
        return Answer.of(first.probabilities, label, forwards=1, cost=cost, seconds=seconds)
