"""What a run does with its images: the images, and the work as one object that can be pickled."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.classifier import Classifier
from relook.errors import ImageError
from relook.images import Needed, open_image
from relook.storage import is_address, read, shown
from relook.text import readable

MANY = 128
"""For this many images or more, it pays to build the fastest engine first."""


@dataclass(frozen=True)
class Item:
    """One image of a run, not opened yet.

    Attributes:
        index: position in the data, from 0; identifies the image in the run.
        name: name of the image in the rows.
        source: path or address (see `relook.storage`) of the file, or its content.
        label: 0-based class index; −1 if the image has no label.
    """

    index: int
    name: str
    source: Path | str | bytes = field(repr=False)
    label: int = -1

    def open(self, needed: Needed | None = None) -> Image.Image:
        """Open the image as RGB.

        Args:
            needed: for `relook.images.open_image`.

        Raises:
            ImageError: the image cannot be read, or is a pipe or a device, which may never end.
            StorageError: the storage of an address cannot be read, whatever the image.
        """
        if isinstance(self.source, bytes):
            return open_image(self.source, self.name, needed)
        if is_address(self.source):
            return open_image(_read(self.source), shown(self.source), needed)
        if (
            os.path.exists(self.source)
            and not os.path.isfile(self.source)
            and not os.path.isdir(self.source)
        ):
            raise ImageError(
                f"{readable(self.source)}: is a pipe or a device, not a file; save its content to "
                "a file"
            )
        return open_image(self.source, needed=needed)


def _read(address: str) -> bytes:
    """The content of an image file at an address."""
    try:
        return read(address)
    except FileNotFoundError:
        raise ImageError(f"{shown(address)}: no such file; check the address") from None


@dataclass(frozen=True)
class Batch:
    """Images that have been read.

    Attributes:
        items: the n images.
        pixels: (n, 3, H, W) in [0, 1], the classifier's crops.
        originals: the whole images, if the work cuts views from them; otherwise None for each.
        seconds: wall-clock time of reading, per image.
    """

    items: Sequence[Item]
    pixels: Float[Tensor, "n 3 h w"]
    originals: Sequence[Image.Image | None]
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.items)


@runtime_checkable
class Job(Protocol):
    """Turns images into rows. A job can be pickled and sent to another process."""

    @property
    def classifier(self) -> Classifier:
        """The classifier whose crops the images are read as."""
        ...

    @property
    def networks(self) -> Sequence[Classifier]:
        """The classifier and all other networks that the work runs, to be moved to a device."""
        ...

    @property
    def schema(self) -> pyarrow.Schema:
        """Schema of the rows; among the columns are `index` and `error`."""
        ...

    @property
    def needs_original(self) -> bool:
        """Whether batches must hold the original images."""
        ...

    @property
    def detail(self) -> float:
        """Largest scale, relative to the first look, at which the originals are looked at;
        infinity if it is unknown.
        """
        ...

    def warm_up(self, images: int) -> None:
        """Prepare for this number of images, for example by building faster forms of networks."""
        ...

    def answers(self, batches: Iterable[Batch]) -> Iterator[pyarrow.Table]:
        """Yield the rows of images as they are ready, in any order, one for each image.

        Args:
            batches: read one after the other, when the work needs more images.

        Raises:
            RelookError, RuntimeError, MemoryError: the network failed; rows yielded before stay
                valid.
        """
        ...

    def failed(self, item: Item, error: str) -> pyarrow.Table:
        """Return the row of an image that could not be read or answered."""
        ...
