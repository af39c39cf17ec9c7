"""The classifier and looks that a run applies to its images, as one picklable object."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow

from relook.calibration import tempered
from relook.classifier import Classifier
from relook.correction import Corrector, Outcome
from relook.evaluation.rows import (
    CALIBRATED,
    Answer,
    Asked,
    Names,
    Row,
    not_calibrated,
    schema,
    to_table,
)
from relook.first_look import FirstLook
from relook.looks import Judgement, Look, detail, keeps_maps, networks
from relook.runs import MANY, Batch, Item

_SLOW = 0.5
"""Seconds after which rows are handed on before their batch is done."""


@runtime_checkable
class Way(Protocol):
    """Computes answers for images whose first look has been taken."""

    @property
    def looks(self) -> Sequence[Look]:
        """The looks that are taken; they decide what first looks must keep."""
        ...

    def answers(
        self, images: Sequence[Item], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """Yield the answers for each image, by name, in order.

        Args:
            images: the images.
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
        tells_apart: whether to add two answers to those of a tuned look: the corrected one before
            its temperature, and the first one after a temperature of its own.
    """

    name: str
    corrector: Corrector
    tells_apart: bool = False

    @property
    def looks(self) -> Sequence[Look]:
        """The corrector's look."""
        return (self.corrector.look,)

    def answers(
        self, images: Sequence[Item], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """Yield one answer per image."""
        outcomes = self.corrector.look_again(firsts)
        learnt = self.corrector.learnt
        for image, outcome in zip(images, outcomes, strict=True):
            found = {self.name: shortened(outcome, image.label, seconds)}
            if learnt is not None and self.tells_apart:
                found[not_calibrated(self.name)] = _uncalibrated(outcome, image.label, seconds)
                found[CALIBRATED] = _calibrated(
                    outcome.first, learnt.first, self.corrector.classifier, image.label, seconds
                )
            yield found


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
        outcome.confidence,
        outcome.abstained,
        outcome.possible,
    )


def _uncalibrated(outcome: Outcome, label: int, seconds: float) -> Answer:
    """Summarise the corrected answer before the temperature that tuning chose."""
    return Answer.of(
        outcome.raw,
        label,
        outcome.forwards,
        outcome.cost,
        seconds + outcome.seconds,
        outcome.second is not None,
    )


def _calibrated(
    first: FirstLook, judgement: Judgement, classifier: Classifier, label: int, seconds: float
) -> Answer:
    """Summarise the first answer after its own temperature, judged by its own threshold."""
    y, abstention = first.probabilities, judgement.abstention
    confidence = float(judgement.confidence.of(y))
    abstained = abstention is not None and abstention.abstains(confidence)
    return Answer.of(
        tempered(y, judgement.temperature),
        label,
        forwards=1,
        cost=classifier.cost(*first.size),
        seconds=seconds,
        confidence=confidence,
        abstained=abstained,
        possible=abstention.possible(y) if abstention and abstained else (),
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
        keeps_views: whether the rows keep the first answers of all classes, as tuning needs them.
    """

    kind: str
    classifier: Classifier
    names: Names
    ways: Sequence[Way]
    settings: Mapping[str, Any]
    keeps_views: bool = False

    @property
    def keeps_maps(self) -> bool:
        """Whether first looks must keep the target layer's maps."""
        return any(keeps_maps(look, self.classifier) for way in self.ways for look in way.looks)

    @property
    def needs_original(self) -> bool:
        """Whether a look crops from the original image."""
        return any(look.needs_original for way in self.ways for look in way.looks)

    @property
    def detail(self) -> float:
        """Largest scale, relative to the first look, at which the looks see the originals."""
        return max((detail(look) for way in self.ways for look in way.looks), default=1.0)

    @property
    def networks(self) -> Sequence[Classifier]:
        """The classifier and the second networks of the looks."""
        second = (each for way in self.ways for look in way.looks for each in networks(look))
        return tuple(dict.fromkeys((self.classifier, *second)))

    @property
    def schema(self) -> pyarrow.Schema:
        """Schema of the rows."""
        return schema(self.names)

    def warm_up(self, images: int) -> None:
        """Build the fastest engine first for many images, or for looks that need maps."""
        if images >= MANY or self.keeps_maps:
            self.classifier.warm_up(max(images, MANY))

    def answers(self, batches: Iterable[Batch]) -> Iterator[pyarrow.Table]:
        """Yield the rows of images, in order; slow ones one by one, as soon as they are computed.

        Args:
            batches: the images; the first looks of a batch are taken together.

        Raises:
            RelookError: the network failed; the rows yielded before that are valid.
        """
        for batch in batches:
            rows: list[Row] = []
            start = time.monotonic()
            for row in self.rows(batch):
                rows.append(row)
                if time.monotonic() - start >= _SLOW:
                    yield to_table(rows, self.names)
                    rows, start = [], time.monotonic()
            if rows:
                yield to_table(rows, self.names)

    def failed(self, item: Item, error: str) -> pyarrow.Table:
        """Return the row of an image that could not be read or answered."""
        return to_table([self.row(item, {}, error)], self.names)

    def rows(self, batch: Batch) -> Iterator[Row]:
        """Yield the rows of images, in order, each as soon as it is computed.

        Args:
            batch: the images; their first looks are taken together.

        Raises:
            RelookError: the network failed; the rows yielded before that are valid.
        """
        start = time.perf_counter()
        images = batch.items
        firsts = self.classifier.first_looks(batch.pixels, self.keeps_maps, batch.originals)
        seconds = (time.perf_counter() - start) / len(images)
        others = [way.answers(images, firsts, seconds) for way in self.ways]
        for image, first, *answers in zip(images, firsts, *others, strict=True):
            found = {self.names.first: self._first(first, image.label, seconds)}
            for named in answers:
                found.update(named)
            yield self.row(image, found)

    def row(self, image: Item, answers: Mapping[str, Answer], error: str | None = None) -> Row:
        """Build the row of an image from its answers, or from an error."""
        return Row(image.index, image.name, image.label, self.names, answers, error)

    def _first(self, first: FirstLook, label: int, seconds: float) -> Answer:
        y, cost = first.probabilities, self.classifier.cost(*first.size)
        asked = Asked.of(y.unsqueeze(0), (1.0,), (cost,), (1,)) if self.keeps_views else None
        return Answer.of(y, label, forwards=1, cost=cost, seconds=seconds, asked=asked)
