"""The work of a run: images read while the network is busy, rows out, what fails on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pyarrow

from relook.classifier import Classifier
from relook.errors import ImageError, ModelError, RelookError
from relook.evaluation.data import LabelledImage, LabelledImages, shuffled
from relook.evaluation.experiment import Experiment, Labelled
from relook.evaluation.rows import Row, from_table, to_table
from relook.evaluation.run import Run
from relook.images import quiet
from relook.reading import ReadAhead

PART_SECONDS = 6.0
"""Seconds of work per part: with the batch in flight, a part is written at least every 15 s."""

_BATCH = 32
_BATCH_OF_ORIGINALS = 4
"""Whole photos are tens of megabytes each, and twice as many are read ahead."""

_IN_A_ROW = 20
"""Abort after this many consecutive failures of the network."""

MANY = 128
"""From so many images on, or wherever there are maps to make, the fastest engine is made first."""

Rows = Callable[[Sequence[Row]], None]
"""Told of rows as they come; first of those that were there already."""


def work(
    experiment: Experiment,
    data: LabelledImages,
    run: Run | None,
    on_rows: Rows | None,
    on_left: Callable[[Sequence[int]], None] | None = None,
) -> pyarrow.Table:
    """The rows of all images, as a table in the order of the data.

    Args:
        experiment: answers those images that `run` has no rows of.
        data: the images.
        run: where the rows are kept; None: nowhere.
        on_rows: told of the rows: first of those that were there already.
        on_left: told which images are still to be done, before the first of them is.

    Raises:
        RelookError: the network failed on many images in a row, which are not written.
    """
    kept = run.table() if run else to_table((), experiment.names)
    if len(kept) and on_rows:
        on_rows(from_table(kept))
    done = set(kept["index"].to_pylist())
    left = [index for index in shuffled(len(data)) if index not in done]
    classifier = experiment.classifier
    if len(left) >= MANY or (left and experiment.keeps_maps):
        # Now, so that neither the time of an image nor its answer depends on where a run began.
        classifier.warm_up(MANY)
    if on_left:
        on_left(left)
    tables = [kept]
    waiting: list[Row] = []
    written = time.monotonic()

    def keep() -> None:
        nonlocal waiting
        part, waiting = to_table(waiting, experiment.names), []
        tables.append(part)
        if run:
            run.write(part)

    try:
        for row in _rows(experiment, data, left):
            waiting.append(row)
            if on_rows:
                on_rows([row])
            if time.monotonic() - written >= PART_SECONDS:
                keep()
                written = time.monotonic()
    finally:
        if waiting:  # whatever stopped it: what is done is done
            keep()
    if run:
        run.compact()
    return pyarrow.concat_tables(tables).sort_by("index").combine_chunks()


def _rows(experiment: Experiment, data: LabelledImages, indices: Sequence[int]) -> Iterator[Row]:
    failed: list[Row] = []
    for batch in _batches(experiment, data, indices):
        yield from (experiment.row(image, {}, image.error) for image in batch if image.error)
        for row in _each(experiment, [image for image in batch if not image.error]):
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


def _each(experiment: Experiment, batch: list[Labelled]) -> Iterator[Row]:
    """Rows of a batch; if the network fails on it, image by image, and a row for the culprit."""
    if not batch:
        return
    done = 0
    try:
        for row in experiment.rows(batch):
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
        yield experiment.row(batch[0], {}, message)
        return
    for image in batch[done:]:
        yield from _each(experiment, [image])


def _batches(
    experiment: Experiment, data: LabelledImages, indices: Sequence[int]
) -> Iterator[list[Labelled]]:
    """The images, read by threads while the network is busy, one batch ahead of it."""
    originals = experiment.needs_original

    def read_one(index: int) -> Labelled:
        return read(experiment.classifier, index, data.images[index], originals)

    with quiet(), ReadAhead(read_one, indices) as ahead:
        while batch := ahead.take(_BATCH_OF_ORIGINALS if originals else _BATCH):
            yield batch


def read(classifier: Classifier, index: int, image: LabelledImage, original: bool) -> Labelled:
    """An image and what the network sees of it, or why it cannot be used."""
    labelled = Labelled(index, image.name, image.label)
    try:
        opened = image.open()
        pixels = classifier.pixels(opened)
    except (ImageError, ValueError, MemoryError) as error:
        return replace(labelled, error=str(error) or type(error).__name__)
    return replace(labelled, pixels=pixels, original=opened if original else None)
