"""Reading images for a classifier, in threads that work ahead of the network."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Generic, TypeVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.classifier import Classifier
from relook.errors import ImageError
from relook.images import ImageSource, image_name, open_image

T = TypeVar("T")
R = TypeVar("R")

THREADS = min(8, os.cpu_count() or 1)
"""Number of threads that read images while the network is busy."""


@dataclass(frozen=True)
class Photo:
    """An image and the network's crop of it.

    Attributes:
        name: name of the image in results.
        original: the whole image, upright RGB.
        pixels: (3, H, W) in [0, 1], the classifier's crop.
        seconds: wall-clock time of reading and cropping.
    """

    name: str
    original: Image.Image
    pixels: Float[Tensor, "3 h w"]
    seconds: float

    @classmethod
    def read(cls, image: ImageSource, classifier: Classifier) -> Photo:
        """Read an image (see `relook.images.open_image`) and cut the classifier's crop.

        Raises:
            ImageError: the image cannot be read, or cannot be resized to the network's input.
        """
        start = time.perf_counter()
        name = image_name(image)
        original = open_image(image)
        try:
            pixels = classifier.pixels(original)
        except (MemoryError, ValueError) as error:
            raise ImageError(f"{name}: cannot be cut to the network's input ({error})") from error
        return cls(name, original, pixels, time.perf_counter() - start)


class ReadAhead(Generic[T, R]):
    """Read items in threads, at most one batch ahead of the consumer.

    Use it as a context manager: on exit, items that are not being read yet are dropped.
    """

    def __init__(self, read: Callable[[T], R], items: Iterable[T]) -> None:
        """Set up the threads; nothing is read before the first call of `take`.

        Args:
            read: function that is called with each item in one of the threads.
            items: the items, iterated over as needed in the thread that calls `take`.
        """
        self._read = read
        self._items = iter(items)
        self._pool = ThreadPoolExecutor(THREADS)
        self._begun: deque[Future[R]] = deque()

    def take(self, count: int) -> list[R]:
        """Return the next results in the order of the items; fewer, then none, at the end.

        Args:
            count: number of results to return, and of further items to start reading.

        Raises:
            Exception: whatever `read` or the iteration over the items raised.
        """
        for item in islice(self._items, max(0, 2 * count - len(self._begun))):
            self._begun.append(self._pool.submit(self._read, item))
        return [self._begun.popleft().result() for _ in range(min(count, len(self._begun)))]

    def __enter__(self) -> ReadAhead[T, R]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
