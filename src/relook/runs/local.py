"""A run in this process: images are read while the network works, and rows are saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import pyarrow

from relook.errors import ModelError, RelookError
from relook.images import quietly
from relook.reading import THREADS
from relook.runs.job import Batch, Item, Job
from relook.runs.reader import Reader
from relook.runs.run import Run
from relook.storage import StorageError

PART_SECONDS = 6.0
"""Seconds between writes; with the batch in progress, rows are written at least every 15 s."""

_IN_A_ROW = 20
"""Abort after this many consecutive failures of the network."""

OnRows = Callable[[pyarrow.Table], None]
"""Called with tables of rows as they are computed; first with those that the run already has."""


def run_locally(
    job: Job, items: Sequence[Item], run: Run | None, on_rows: OnRows | None = None
) -> list[pyarrow.Table]:
    """Compute the rows of images and save them as they come.

    Args:
        job: the work.
        items: the images that are left to do.
        run: where rows are saved; None: they are not saved.
        on_rows: called with rows as they are computed.

    Returns:
        The rows, if they are not saved; otherwise an empty list.

    Raises:
        RelookError: the network failed on many consecutive images; these are not saved.
    """
    waiting: list[pyarrow.Table] = []
    written = time.monotonic()
    try:
        for table in quietly(answered(job, items)):
            waiting.append(table)
            if on_rows:
                on_rows(table)
            if run and time.monotonic() - written >= PART_SECONDS:
                rows, waiting = pyarrow.concat_tables(waiting), []
                run.write(rows)
                written = time.monotonic()
    finally:
        if run and waiting:  # save the finished rows, whatever stopped the run
            run.write(pyarrow.concat_tables(waiting))
    return [] if run else waiting


def answered(
    job: Job, items: Sequence[Item], threads: int = THREADS
) -> Generator[pyarrow.Table, None, None]:
    """Yield the rows of images as they are ready, one for each image, in any order.

    An image that cannot be read gets a row with the reason. If the network fails, the images that
    it had are read again and answered one by one, to find the culprit.

    Args:
        job: the work.
        items: the images.
        threads: number of threads that read images, where that is fewer than usual.

    Raises:
        ModelError: the network does not support the work, whatever the image.
        RelookError: the network failed on many consecutive images.
    """
    given: dict[int, Item] = {}
    unread: list[pyarrow.Table] = []
    failed: list[pyarrow.Table] = []
    ended = False

    def batches(reader: Reader) -> Iterator[Batch]:
        nonlocal ended
        while True:
            batch, errors = reader.take()
            unread.extend(job.failed(item, error) for item, error in errors)
            if batch is None:
                ended = not errors
                return  # if there are errors alone, their rows do not wait for other images
            given.update((item.index, item) for item in batch.items)
            yield batch

    def held(*lists: list[pyarrow.Table]) -> Iterator[pyarrow.Table]:
        for tables in lists:
            yield from tables
            tables.clear()

    with Reader(job, items, threads) as reader:
        while not ended:
            culprits: list[Item] = []
            try:
                for table in job.answers(batches(reader)):
                    for index in table["index"].to_pylist():
                        del given[index]
                    yield from held(unread, failed)
                    yield table
                yield from held(unread)
                continue
            except (ModelError, StorageError):
                raise  # not the fault of any one image
            except (RelookError, RuntimeError, MemoryError) as error:
                # PyTorch raises RuntimeError, also when it is out of memory.
                if not given:
                    raise
                # The text alone: the error holds the frames, and in them all images of the batch.
                culprits, failure = list(given.values()), " ".join(str(error).split())
                given.clear()
            for item in culprits:
                found = _alone(job, item, failure if len(culprits) == 1 else None)
                if found["error"].null_count:
                    yield from held(unread, failed)
                    yield found
                    continue
                failed.append(found)
                if len(failed) == _IN_A_ROW:
                    raise RelookError(
                        f"the network failed on {_IN_A_ROW} images in a row; the last error: "
                        f"{found['error'][0].as_py()}; the rows before them are saved"
                    )
        yield from held(unread, failed)


def _alone(job: Job, item: Item, failure: str | None) -> pyarrow.Table:
    """Return the row of one image: its answer, or why the network fails on it.

    Args:
        job: the work.
        item: the image.
        failure: the network's failure, if it is known to be this image's.
    """
    if failure is None:
        with Reader(job, [item]) as reader:
            batch, errors = reader.take()
        if batch is None:
            return job.failed(*errors[0])
        try:
            return pyarrow.concat_tables(job.answers([batch]))
        except (ModelError, StorageError):
            raise
        except (RelookError, RuntimeError, MemoryError) as error:
            failure = " ".join(str(error).split())
    return job.failed(item, f"{item.name}: {failure}")
