"""The loop of a run: read images while the network works, save rows, and handle failures."""

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
"""Seconds between writes; with the batch in progress, rows are written at least every 15 s."""

_BATCH = 32
_BATCH_OF_ORIGINALS = 4
"""Smaller, as whole photos take tens of megabytes each and twice as many are read ahead."""

_IN_A_ROW = 20
"""Abort after this many consecutive failures of the network."""

MANY = 128
"""For this many images or more, or for looks that need maps, build the fastest engine first."""

Rows = Callable[[Sequence[Row]], None]
"""Called with rows as they are computed; first with those that the run already has."""


def work(
    experiment: Experiment,
    data: LabelledImages,
    run: Run | None,
    on_rows: Rows | None,
    on_left: Callable[[Sequence[int]], None] | None = None,
) -> pyarrow.Table:
    """Run an experiment and return the rows of all images, as a table in the order of the data.

    Args:
        experiment: the experiment, run on the images that have no row in `run` yet.
        data: the images.
        run: where rows are saved; None: they are not saved.
        on_rows: called with rows as they are computed; first with those already in `run`.
        on_left: called with the indices of the images left to do, before the first of them.

    Raises:
        RelookError: the network failed on many consecutive images; these are not saved.
    """
    names = run.names if run else experiment.names
    kept = run.table() if run else to_table((), names)
    if len(kept) and on_rows:
        on_rows(from_table(kept))
    done = set(kept["index"].to_pylist())
    left = [index for index in shuffled(len(data)) if index not in done]
    classifier = experiment.classifier
    if len(left) >= MANY or (left and experiment.keeps_maps):
        # Built now, so that an image's time and answer do not depend on where the run started.
        classifier.warm_up(MANY)
    if on_left:
        on_left(left)
    tables = [kept]
    waiting: list[Row] = []
    written = time.monotonic()

    def keep() -> None:
        nonlocal waiting
        part, waiting = to_table(waiting, names), []
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
        if waiting:  # save the finished rows, whatever stopped the run
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
                        f"the network failed on {_IN_A_ROW} images in a row; the last error: "
                        f"{row.error}; the rows before them are saved"
                    )
                continue
            yield from failed
            failed = []
            yield row
    yield from failed


def _each(experiment: Experiment, batch: list[Labelled]) -> Iterator[Row]:
    """Yield rows of a batch; if the network fails, run each image alone to find the culprit."""
    if not batch:
        return
    done = 0
    try:
        for row in experiment.rows(batch):
            yield row
            done += 1
        return
    except ModelError:
        raise  # not the fault of any one image
    except (RelookError, RuntimeError, MemoryError) as error:
        # PyTorch raises RuntimeError, also when it is out of memory.
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
    """Yield batches of images, which threads read one batch ahead of the network."""
    originals = experiment.needs_original

    def read_one(index: int) -> Labelled:
        return read(experiment.classifier, index, data.images[index], originals)

    with quiet(), ReadAhead(read_one, indices) as ahead:
        while batch := ahead.take(_BATCH_OF_ORIGINALS if originals else _BATCH):
            yield batch


def read(classifier: Classifier, index: int, image: LabelledImage, original: bool) -> Labelled:
    """Open and preprocess an image; if it cannot be used, return the reason as `error`."""
    labelled = Labelled(index, image.name, image.label)
    try:
        opened = image.open()
        pixels = classifier.pixels(opened)
    except (ImageError, ValueError, MemoryError) as error:
        return replace(labelled, error=str(error) or type(error).__name__)
    return replace(labelled, pixels=pixels, original=opened if original else None)
