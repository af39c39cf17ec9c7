"""The work of a run: images read while the network is busy, rows out, what fails on the way."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.classifier import Classifier, FirstLook
from relook.errors import ImageError, ModelError, RelookError
from relook.evaluation.data import LabelledImage, LabelledImages, shuffled
from relook.evaluation.rows import Answer, Row
from relook.evaluation.run import Run
from relook.images import quiet
from relook.looks import Look, keeps_maps

PART_SECONDS = 6.0
"""A part is written when so much work is done: with the batch in flight, at least every 15 s."""

_BATCH = 32
_BATCH_OF_ORIGINALS = 4
"""Whole photos are tens of megabytes each, and twice as many are read ahead."""

_IN_A_ROW = 20
"""So many images that the network fails on, one after the other, are not the images' fault."""

THREADS = min(8, os.cpu_count() or 1)
"""They read images while the network is busy."""

MANY = 128
"""From so many images on, or wherever there are maps to make, the fastest engine is made first."""

Rows = Callable[[Sequence[Row]], None]
"""Told of rows as they come; first of those that were there already."""

Judge = Callable[[Sequence["Labelled"], Sequence[FirstLook], float], Iterator[Row]]
"""Rows of images, of their first looks and of the seconds that each of those took."""


@dataclass(frozen=True)
class Labelled:
    """One image of the data, read.

    Attributes:
        index: its place in the data.
        name, label: as in the data.
        pixels: what the network sees; None with an error.
        original: the whole image, where a look wants it.
        error: why it cannot be used.
    """

    index: int
    name: str
    label: int
    pixels: Float[Tensor, "3 h w"] | None = None
    original: Image.Image | None = None
    error: str | None = None

    def row(self, before: Answer | None = None, **more: Any) -> Row:
        """Its row."""
        return Row(self.index, self.name, self.label, before=before, **more)


def work(
    classifier: Classifier,
    data: LabelledImages,
    looks: Sequence[Look],
    judge: Judge,
    run: Run | None,
    on_rows: Rows | None,
    on_left: Callable[[Sequence[int]], None] | None = None,
) -> tuple[Row, ...]:
    """All rows of the data, those that are there already and those that `judge` still gives.

    Args:
        classifier: takes the first looks.
        data: the images.
        looks: what `judge` will do; says what the first looks have to keep.
        judge: see `Judge`; told of images that can be read only.
        run: where the rows are kept; None: nowhere.
        on_rows: told of the rows.
        on_left: told which images are still to be done, before the first of them is.

    Raises:
        RelookError: the network failed on many images in a row, which are not written.
    """
    rows = {row.index: row for row in run.rows()} if run else {}
    if rows and on_rows:
        on_rows(list(rows.values()))
    left = [index for index in shuffled(len(data)) if index not in rows]
    if len(left) >= MANY or (left and any(keeps_maps(look, classifier) for look in looks)):
        # Now, so that neither the time of an image nor its answer depends on where a run began.
        classifier.runner(MANY, classifier.input_size)
    if on_left:
        on_left(left)
    waiting: list[Row] = []
    written = time.monotonic()
    try:
        for row in _rows(classifier, data, left, looks, judge):
            rows[row.index] = row
            waiting.append(row)
            if on_rows:
                on_rows([row])
            if run and time.monotonic() - written >= PART_SECONDS:
                part, waiting = waiting, []
                run.write(part)
                written = time.monotonic()
    finally:
        if run and waiting:  # whatever stopped it: what is done is done
            run.write(waiting)
    if run:
        run.compact()
    return tuple(rows[index] for index in sorted(rows))


def _rows(
    classifier: Classifier,
    data: LabelledImages,
    indices: Sequence[int],
    looks: Sequence[Look],
    judge: Judge,
) -> Iterator[Row]:
    activations = any(keeps_maps(look, classifier) for look in looks)
    originals = any(look.needs_original for look in looks)

    def judged(batch: Sequence[Labelled]) -> Iterator[Row]:
        start = time.perf_counter()
        pixels = torch.stack([image.pixels for image in batch if image.pixels is not None])
        firsts = classifier.first_looks(pixels, activations, [image.original for image in batch])
        yield from judge(batch, firsts, (time.perf_counter() - start) / len(batch))

    failed: list[Row] = []
    for batch in _batches(classifier, data, indices, originals):
        yield from (image.row(error=image.error) for image in batch if image.error)
        for row in _each(judged, [image for image in batch if not image.error]):
            if row.error:
                failed.append(row)
                if len(failed) == _IN_A_ROW:
                    raise RelookError(
                        f"the network failed on {_IN_A_ROW} images in a row, the last time with: "
                        f"{row.error}; the rows before them are kept"
                    )
                continue
            yield from failed
            failed = []
            yield row
    yield from failed


def _each(
    judged: Callable[[Sequence[Labelled]], Iterator[Row]], batch: list[Labelled]
) -> Iterator[Row]:
    """Rows of a batch; if the network fails on it, image by image, and a row for the culprit."""
    if not batch:
        return
    done = 0
    try:
        for row in judged(batch):
            yield row
            done += 1
        return
    except ModelError:
        raise  # of no image in particular
    except (RelookError, RuntimeError, MemoryError) as error:
        # RuntimeError: what PyTorch raises, out of memory among it.
        failure = error
    if len(batch) == 1:
        message = f"{batch[0].name}: {' '.join(str(failure).split())}"
        yield batch[0].row(error=message)
        return
    for image in batch[done:]:
        yield from _each(judged, [image])


def _batches(
    classifier: Classifier, data: LabelledImages, indices: Sequence[int], originals: bool
) -> Iterator[list[Labelled]]:
    """The images, read by threads while the network is busy, one batch ahead of it."""
    size = _BATCH_OF_ORIGINALS if originals else _BATCH
    reading: deque[Future[Labelled]] = deque()
    ahead = iter(indices)
    with quiet(), ThreadPoolExecutor(THREADS) as pool:
        try:
            while True:
                for index in ahead:
                    image = data.images[index]
                    reading.append(pool.submit(read, classifier, index, image, originals))
                    if len(reading) == 2 * size:
                        break
                if not reading:
                    return
                yield [reading.popleft().result() for _ in range(min(size, len(reading)))]
        finally:
            for future in reading:
                future.cancel()


def read(classifier: Classifier, index: int, image: LabelledImage, original: bool) -> Labelled:
    """An image and what the network sees of it, or why it cannot be used."""
    labelled = Labelled(index, image.name, image.label)
    try:
        opened = image.open()
        pixels = classifier.pixels(opened)
    except (ImageError, ValueError, MemoryError) as error:
        return replace(labelled, error=str(error) or type(error).__name__)
    return replace(labelled, pixels=pixels, original=opened if original else None)
