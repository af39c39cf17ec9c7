"""Images read for a classifier, and by threads while it is busy with those before them."""

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
"""They read images while the network is busy."""


@dataclass(frozen=True)
class Photo:
    """An image that was read, and what a classifier's network will see of it.

    Attributes:
        name: what results call it.
        original: the whole image, upright RGB.
        pixels: (3, H, W) in [0, 1], the classifier's crop.
        seconds: wall-clock time that this took.
    """

    name: str
    original: Image.Image
    pixels: Float[Tensor, "3 h w"]
    seconds: float

    @classmethod
    def read(cls, image: ImageSource, classifier: Classifier) -> Photo:
        """Read an image (see `relook.images.open_image`).

        Raises:
            ImageError: it cannot be read, or not be brought to the network's input size.
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
    """Reads items one batch ahead of whoever takes the results, and no further.

    A context manager: at its end nothing more is read.
    """

    def __init__(self, read: Callable[[T], R], items: Iterable[T]) -> None:
        """Read nothing yet.

        Args:
            read: called with each item, in a thread.
            items: iterated over as they are needed, in the thread that takes the results.
        """
        self._read = read
        self._items = iter(items)
        self._pool = ThreadPoolExecutor(THREADS)
        self._begun: deque[Future[R]] = deque()

    def take(self, count: int) -> list[R]:
        """The next results, in the order of the items; none at the end.

        Args:
            count: how many, and how many after them to begin reading.

        Raises:
            Exception: what `read` or the items raised.
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
