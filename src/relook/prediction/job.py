"""A corrector at work on many images: first looks in batches, second looks of the unsure ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property

import pyarrow
import torch
from jaxtyping import Bool
from torch import Tensor

from relook.classifier import Classifier
from relook.correction import Corrector, Outcome, SecondLooks, Waiting
from relook.first_look import FirstLook, FirstLooks
from relook.looks import detail, networks
from relook.prediction.rows import Columns, Form
from relook.reading import THREADS
from relook.runs import MANY, Batch, Item

_SLOW = 3.0
"""Seconds after which rows do not wait for the views of their whole batch."""

_OPEN = 4
"""Images whose views wait for others of their size, in batches of the network."""


@dataclass(frozen=True)
class Predicting:
    """The answers of one corrector, as rows; a `relook.runs.Job`.

    First looks at one batch, and the views of unsure images of those before it, are made and run at
    the same time, in threads.

    Attributes:
        corrector: computes the answers.
        all_classes: whether the rows hold the probabilities of all classes.
    """

    corrector: Corrector
    all_classes: bool = False

    @property
    def classifier(self) -> Classifier:
        """The corrector's classifier."""
        return self.corrector.classifier

    @property
    def networks(self) -> Sequence[Classifier]:
        """The classifier and the second networks of the look."""
        return tuple(dict.fromkeys((self.classifier, *networks(self.corrector.look))))

    @cached_property
    def form(self) -> Form:
        """The columns of the rows."""
        return Form(self.classifier.labels, self.all_classes, self.corrector.risk is not None)

    @property
    def schema(self) -> pyarrow.Schema:
        """Schema of the rows."""
        return self.form.schema

    @property
    def needs_original(self) -> bool:
        """Whether the look cuts views from the originals."""
        return self._looks_again and self.corrector.look.needs_original

    @property
    def detail(self) -> float:
        """Largest scale, relative to the first look, at which the look sees the originals."""
        return detail(self.corrector.look)

    @property
    def _looks_again(self) -> bool:
        return self.corrector.gate.below > 0

    @property
    def _keeps_maps(self) -> bool:
        return self._looks_again and self.corrector.needs_activations

    def warm_up(self, images: int) -> None:
        """Build the fastest engine first for many images, or for looks that need maps."""
        if images >= MANY or self._keeps_maps:
            self.classifier.warm_up(max(images, MANY))

    def answers(self, batches: Iterable[Batch]) -> Iterator[pyarrow.Table]:
        """Yield the rows of images: those without a second look first, in batches.

        Raises:
            RelookError, RuntimeError, MemoryError: the network failed; rows yielded before stay
                valid.
        """
        opened: dict[int, _Opened] = {}
        making: list[Future[tuple[int, Waiting]]] = []
        looks = SecondLooks(self.corrector)
        most = _OPEN * self.classifier.chunk_size(*self.classifier.input_size)
        pool = ThreadPoolExecutor(THREADS + 1)
        try:
            with self.classifier.unchanged():
                for batch in batches:
                    looking = pool.submit(self._first_looks, batch)
                    # Meanwhile the views of the batch before are run.
                    yield from self._gathered(making, looks, opened)
                    yield from self._corrected(looks.full(most), opened)
                    firsts, seconds = looking.result()
                    unsure = self.corrector.gate.passing(firsts.probabilities)
                    kept = ~unsure.to(firsts.probabilities.device)
                    yield from self._kept(batch.items, firsts.probabilities, kept, seconds)
                    making = []
                    for place in unsure.nonzero().flatten().tolist():
                        item = batch.items[place]
                        opened[item.index] = _Opened(item, seconds)
                        making.append(pool.submit(self._views, item.index, firsts[place]))
                    del firsts, looking, batch
                yield from self._gathered(making, looks, opened)
                yield from self._corrected(looks.rest(), opened)
        finally:
            pool.shutdown(cancel_futures=True)

    def _gathered(
        self,
        making: Sequence[Future[tuple[int, Waiting]]],
        looks: SecondLooks,
        opened: dict[int, _Opened],
    ) -> Iterator[pyarrow.Table]:
        """Add views as they are made. If that takes long, as with exact Score-CAM, yield the rows
        of those that are there meanwhile.
        """
        start = time.monotonic()
        for future in as_completed(making):
            looks.add(*future.result())
            if time.monotonic() - start >= _SLOW:
                yield from self._corrected(looks.rest(), opened)
                start = time.monotonic()

    def failed(self, item: Item, error: str) -> pyarrow.Table:
        """Return the row of an image that could not be read or answered."""
        return self.form.failed(item, error)

    def _first_looks(self, batch: Batch) -> tuple[FirstLooks, float]:
        """The first looks, and the seconds that reading and they took per image."""
        start = time.perf_counter()
        pixels, originals = batch.pixels, batch.originals
        firsts = self.classifier.first_look_batch(pixels, self._keeps_maps, originals)
        return firsts, batch.seconds + (time.perf_counter() - start) / len(batch)

    def _views(self, index: int, first: FirstLook) -> tuple[int, Waiting]:
        return index, self.corrector.views_of(first).without_pixels()

    def _kept(
        self, items: Sequence[Item], y: Tensor, kept: Bool[Tensor, " n"], seconds: float
    ) -> Iterator[pyarrow.Table]:
        """Yield the rows of images whose first answer is kept, if there are any."""
        count = int(kept.sum())
        if not count:
            return
        cost = self.classifier.cost(*self.classifier.input_size)
        judged = self.corrector.judged(y[kept], corrected=False)
        columns = Columns(
            before=y[kept],
            after=judged.after,
            corrected=torch.zeros(count, dtype=torch.bool),
            forwards=[1] * count,
            cost=[cost] * count,
            seconds=[seconds] * count,
            notes=[()] * count,
            confidence=judged.confidence,
            abstained=judged.abstained,
            possible=judged.possible,
        )
        yield self.form.table([items[i] for i in kept.nonzero().flatten().tolist()], columns)

    def _corrected(
        self, found: Iterable[tuple[int, Outcome]], opened: dict[int, _Opened]
    ) -> Iterator[pyarrow.Table]:
        """Yield the rows of images that got a second look, if there are any."""
        done = [(opened.pop(index), outcome) for index, outcome in found]
        if not done:
            return
        images, outcomes = zip(*done, strict=True)
        columns = Columns(
            before=torch.stack([outcome.first.probabilities for outcome in outcomes]),
            after=torch.stack([outcome.after for outcome in outcomes]),
            corrected=torch.ones(len(outcomes), dtype=torch.bool),
            forwards=[outcome.forwards for outcome in outcomes],
            cost=[outcome.cost for outcome in outcomes],
            seconds=[each.seconds + outcome.seconds for each, outcome in done],
            notes=[outcome.second.notes if outcome.second else () for outcome in outcomes],
            confidence=torch.tensor([outcome.confidence for outcome in outcomes]),
            abstained=torch.tensor([outcome.abstained for outcome in outcomes]),
            possible=[outcome.possible for outcome in outcomes],
        )
        yield self.form.table([each.item for each in images], columns)


@dataclass(frozen=True)
class _Opened:
    """An image whose second look is in work, and the seconds that it took until then."""

    item: Item
    seconds: float
