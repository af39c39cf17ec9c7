"""Images read in threads, in order, as batches, ahead of the network within a bound of memory."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.errors import ImageError
from relook.reading import THREADS
from relook.runs.job import Batch, Item, Job
from relook.storage import StorageError

_LARGEST = 256
"""Maximum number of images per batch; inputs as small as 32×32 are quick to classify."""
_BATCHES = 3
"""Number of batches that are read ahead, if memory allows."""
_PIXELS = 16_000_000
"""Number of pixels of originals from which a batch takes no more images: 48 MB."""


@dataclass(frozen=True)
class _Read:
    """An image that was read, or the reason why it could not be."""

    item: Item
    pixels: Float[Tensor, "3 h w"] | None
    original: Image.Image | None
    seconds: float
    error: str = ""

    @property
    def size(self) -> int:
        return 0 if self.original is None else self.original.width * self.original.height


class Reader:
    """Reads images in threads, a few batches ahead of the consumer.

    Use it as a context manager: on exit, images that are not being read yet are dropped.

    Memory stays bounded however slow the consumer is: a batch holds fewer images if the originals
    are large, and threads wait while the originals that were read have many pixels. At most one
    image in each thread goes beyond the bound.
    """

    def __init__(self, job: Job, items: Iterable[Item], threads: int = THREADS) -> None:
        """Set up the threads; nothing is read before the first call of `take`."""
        self._job = job
        self._items = enumerate(items)
        height, width = job.classifier.input_size
        self._most = max(1, min(_LARGEST, 4 * job.classifier.chunk_size(height, width)))
        self._pool = ThreadPoolExecutor(min(threads, THREADS))
        self._begun: deque[Future[_Read]] = deque()
        self._room = _Room(_BATCHES * _PIXELS)
        self._next = self._taken = 0

    def take(self) -> tuple[Batch | None, list[tuple[Item, str]]]:
        """Return the next images in their order, and those that cannot be read, with the reasons.

        Returns:
            The images as a batch, or None if none of them can be read; and those that cannot be.
            None and an empty list at the end.
        """
        self._room.leave(self._taken)
        self._taken = 0
        while len(self._begun) < _BATCHES * self._most:
            number, item = next(self._items, (-1, None))
            if item is None:
                break
            self._begun.append(self._pool.submit(self._read, number, item))
        found: list[_Read] = []
        failed: list[tuple[Item, str]] = []
        while self._begun and len(found) + len(failed) < self._most and self._taken < _PIXELS:
            self._room.admit(self._next)
            self._next += 1
            read = self._begun.popleft().result()
            self._taken += read.size
            if read.pixels is None:
                failed.append((read.item, read.error))
            else:
                found.append(read)
        if not found:
            return None, failed
        # By NumPy: PyTorch would wake threads of its own, whose spinning takes the cores.
        crops = [read.pixels.numpy() for read in found if read.pixels is not None]
        pixels = torch.from_numpy(np.stack(crops))
        seconds = sum(read.seconds for read in found) / len(found)
        originals = [read.original for read in found]
        return Batch([read.item for read in found], pixels, originals, seconds), failed

    def _read(self, number: int, item: Item) -> _Read:
        if self._job.needs_original:
            self._room.wait(number)
        read = _read(self._job, item)
        self._room.enter(read.size)
        return read

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._room.close()
        self._pool.shutdown(cancel_futures=True)


def _read(job: Job, item: Item) -> _Read:
    """Open an image and cut the classifier's crop."""
    start = time.perf_counter()
    classifier = job.classifier
    needed = partial(classifier.geometry.needed, detail=job.detail if job.needs_original else 1.0)
    try:
        original = item.open(needed)
        pixels = classifier.pixels(original)
    except StorageError:
        raise  # not the image's fault: the same command goes on once the storage is back
    except (ImageError, ValueError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        return _Read(item, None, None, time.perf_counter() - start, reason)
    kept = original if job.needs_original else None
    return _Read(item, pixels, kept, time.perf_counter() - start)


class _Room:
    """The pixels of the originals that are in memory; threads wait while there are too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._admitted = -1
        self._changed = threading.Condition()

    def wait(self, number: int) -> None:
        """Wait until there is room, or until the consumer waits for this image."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < self._most or number <= self._admitted)

    def enter(self, pixels: int) -> None:
        """Count the pixels of an image that was read."""
        with self._changed:
            self._held += pixels

    def leave(self, pixels: int) -> None:
        """Count images out, once the consumer has used them."""
        with self._changed:
            self._held -= pixels
            self._changed.notify_all()

    def admit(self, number: int) -> None:
        """Let this image be read, whether there is room or not: the consumer waits for it."""
        with self._changed:
            self._admitted = number
            self._changed.notify_all()

    def close(self) -> None:
        """Let all threads go on."""
        with self._changed:
            self._most = sys.maxsize
            self._changed.notify_all()
