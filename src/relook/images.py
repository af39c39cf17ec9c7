"""A file, PIL image or array becomes one upright 8-bit RGB image, or an error for people."""

from __future__ import annotations

import functools
import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from relook.errors import ImageError
from relook.metadata import without_metadata
from relook.text import readable


@runtime_checkable
class ReadableFile(Protocol):
    """A file that is open for reading bytes, such as `open(path, "rb")` or `io.BytesIO`."""

    def read(self) -> bytes:
        """All that is left of its content."""
        ...


@runtime_checkable
class WritableFile(Protocol):
    """A file that is open for writing bytes, such as `open(path, "wb")` or `io.BytesIO`."""

    def write(self, content: bytes, /) -> object:
        """Add these bytes."""
        ...


ImageSource = str | os.PathLike[str] | bytes | ReadableFile | Image.Image | NDArray[np.generic]
"""A path, the content of a file, an open file, a PIL image or an array."""

Needed = Callable[[int, int], tuple[int, int]]
"""Function from an image's (width, height) to the smallest one that is needed of it."""

T = TypeVar("T")

WHITE = (255, 255, 255)

_log = logging.getLogger("relook")
_DARK = 1 / 8
"""Of the range: integers that all are below may be of fewer bits than their file."""

_HALVED = re.compile(";16[BLN]")
"""In what Pillow calls the way it unpacks 16-bit channels; ";16" alone is 5, 6 and 5 bits."""

_DEPTHS = (8, 10, 12, 14, 16, 24)
_told_dark: set[float] = set()
"""The ranges of which an image was said to be dark: a folder of such images is one message."""


_NO_PHOTOS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
"""Formats that Pillow lists and cannot read, or that are pages to be drawn."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The endings of file names that Pillow reads as images, in lower case, each with its dot.

    >>> ".jfif" in image_suffixes(), ".pdf" in image_suffixes()
    (True, False)
    """
    known = Image.registered_extensions()
    formats = _formats() | {"MPO"}  # opened as a JPEG, which it is
    return frozenset(suffix for suffix, name in known.items() if name in formats)


def _formats() -> frozenset[str]:
    Image.init()
    return frozenset(Image.OPEN) - _NO_PHOTOS


def looks_like_image(file: Path) -> bool:
    """Whether the beginning of a file, whatever its name, is that of an image."""
    try:
        with _pillow_errors(str(file)), Image.open(file, formats=sorted(_formats())):
            return True
    except ImageError:
        return False


def image_name(source: ImageSource) -> str:
    """What messages and results call the image: its path, else what kind of object it is."""
    if isinstance(source, str | os.PathLike):
        return readable(source)
    filename = getattr(source, "filename", "") or getattr(source, "name", "")
    if isinstance(filename, str | bytes | os.PathLike) and filename:  # of some files it is a number
        return readable(os.fsdecode(filename))
    return f"<{type(source).__name__}>"


def open_image(
    source: ImageSource, name: str | None = None, needed: Needed | None = None
) -> Image.Image:
    """Read one image as RGB.

    Greyscale, CMYK, 16-bit, palette and float images are converted; EXIF rotation is applied;
    transparent pixels are laid over white, as a viewer shows them; of an animation the first
    frame is taken. Metadata that are damaged do not matter: the pixels are read as they lie.
    Integers of more than 8 bits are scaled by the depth of the file; where all are below an eighth
    of that, as 12-bit values in a 16-bit file are, a warning says so, once for each depth.

    Args:
        source: a path, the content of a file as bytes, a file that is open for reading bytes (read
            once, from where it stands to its end; it stays open), a PIL image, or an array (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4): floats in [0, 1], uint16 from 0 to 65535, other
            integers from 0 to 255.
            Pillow's 32-bit integer images (mode "I") are taken for 16-bit ones, which it makes
            them of; those of a TIFF file are in the range that the file says.
        name: what messages call the image; its path by default.
        needed: decode JPEG files at a half, a quarter or an eighth of their size, if that is at
            least the size that this function returns; much faster for large photos.

    Raises:
        ImageError: the file is missing, a folder, empty, no image, truncated, a decompression bomb
            or open as text; the array has another shape or range; the image has only one pixel.
    """
    name = name or image_name(source)
    if isinstance(source, bytes):
        image = _decode(source, name, needed)
    elif isinstance(source, np.ndarray):
        image = _from_array(source)
    elif isinstance(source, Image.Image):
        with _pillow_errors(name):
            image = _to_rgb(source, name)
    elif isinstance(source, str | os.PathLike):
        image = _read(Path(source), name, needed)
    elif isinstance(source, ReadableFile):
        image = _decode(_rest(source, name), name, needed)
    else:
        raise ImageError(
            f"{name}: cannot be read as an image; pass a path, an open file, a PIL image or a "
            "numpy array (a tensor of pixels goes to the corrector itself: corrector(pixels))"
        )
    if image.width * image.height < 2:
        raise ImageError(f"{name}: the image is 1×1 pixel, there is nothing to look at")
    return image


def _read(path: Path, name: str, needed: Needed | None) -> Image.Image:
    try:
        content = path.read_bytes()  # not lazily: pipes work too
    except IsADirectoryError:
        raise ImageError(
            f"{name}: is a folder, not an image; name the files in it ({name}/*), or, where its "
            f"images are labelled, run relook evaluate {name}"
        ) from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{name}: cannot be read ({reason}); check the path") from None
    return _decode(content, name, needed)


def _rest(file: Any, name: str) -> bytes:
    """All that is left of an open file."""
    as_text = f'{name}: is open as text; open it for reading bytes: open(file, "rb")'
    if isinstance(file, io.TextIOBase):
        raise ImageError(as_text)
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"{name}: cannot be read ({error}); open it again") from None
    if isinstance(content, str):
        raise ImageError(as_text)
    if not isinstance(content, bytes):
        if isinstance(content, Coroutine):
            content.close()  # else Python warns that nobody waited for it
        raise ImageError(
            f"{name}: its read() gives a {type(content).__name__}, not bytes; pass the bytes, or "
            "the file inside (of an upload its .file)"
        )
    if not content:
        raise ImageError(
            f"{name}: nothing is left to read; go back to the beginning of the file with seek(0)"
        )
    return content


def _decode(content: bytes, name: str, needed: Needed | None) -> Image.Image:
    if not content:
        raise ImageError(f"{name}: the file is empty; copy or export it again")
    with _pillow_errors(name):
        try:
            return _opened(content, name, needed)
        except (ImageError, Image.DecompressionBombError, MemoryError):
            raise
        except Exception:
            # Pillow gives up a PNG for a text or a profile that is damaged, and a TIFF for a tag.
            bare = without_metadata(content)
            if bare == content:
                raise
        return _opened(bare, name, needed)


def _opened(content: bytes, name: str, needed: Needed | None) -> Image.Image:
    with Image.open(io.BytesIO(content)) as opened:
        if needed is not None:
            opened.draft(None, needed(*opened.size))
        return _to_rgb(opened, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings: it warns from half of its limit on, and a satellite scene is no
    attack; and of broken metadata, which is none of the pixels.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def quietly(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """The same items, each made as `quiet` says where this is the main thread; between them the
    filters are the caller's.
    """
    with closing(items):
        while True:
            with quiet() if _in_main_thread() else nullcontext():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


def _in_main_thread() -> bool:
    """The list of filters is the whole process's: other threads leave it alone."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Whatever Pillow and its plugins raise becomes an ImageError."""
    try:
        # Whoever starts other threads calls `quiet` around them.
        with quiet() if _in_main_thread() else nullcontext():
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not an image that Pillow can read; convert it to PNG or JPEG"
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ImageError(
            f"{name}: more than {limit:.0f} megapixels, refused as a possible decompression bomb; "
            "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"
        ) from None
    except Exception as error:
        raise ImageError(
            f"{name}: the image data is damaged or cut off ({error}); copy or export it again"
        ) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Upright 8-bit RGB. Loads the pixels, so that damage shows here and not later."""
    top = _top(image)
    halved = _is_halved(image)
    image.load()
    if halved:  # Pillow keeps the upper 8 of the 16 bits
        channels = np.asarray(image.convert("RGB"))
        _tell_if_dark(256.0 * int(channels.max()) + 255, 65535.0, name, "at most ")
    image = _upright(image)
    if image.mode == "1" or image.mode in ("RGB", "L", "CMYK", "YCbCr", "LAB", "HSV"):
        if "transparency" not in image.info:
            return image.convert("RGB")
        image = image.convert("RGBA")
    if top is not None:
        array = np.asarray(image)
        if top == _UINT32:  # which Pillow hands out as signed
            array = array.view(np.uint32)
        return Image.fromarray(_to_uint8(array, top, name)).convert("RGB")
    image = image.convert("RGBA")  # palettes and everything with alpha
    canvas = Image.new("RGB", image.size, WHITE)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF block says; as it lies where that says nothing that can be read."""
    try:
        with _pillow_errors(""):
            method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except ImageError:
        return image
    return image if method is None else image.transpose(method)


def _is_halved(image: Image.Image) -> bool:
    """Whether a file has 16 bits a channel of which Pillow reads 8, as of all colours."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    tiles = getattr(image, "tile", None) or []
    return any(_HALVED.search(str(tile[3])) for tile in tiles)


def _tell_if_dark(high: float, top: float, name: str, about: str = "") -> None:
    """Say that integers of more than 8 bits fill little of their range."""
    if not 0 < high < top * _DARK or top in _told_dark:
        return
    _told_dark.add(top)
    bits = next(depth for depth in _DEPTHS if high < 2**depth)
    _log.warning(
        "%s: its brightest pixel is %s%.0f of %.0f; if it holds %d-bit values, scale them first "
        "(reported for the first such image only)",
        name,
        about,
        high,
        top,
        bits,
    )


_UINT32 = float(2**32 - 1)


def _top(image: Image.Image) -> float | None:
    """The value of white in an image of more than 8 bits, by its depth; None for other images.

    Pillow scales a PGM to 16 bits itself, whatever its maxval.
    """
    if image.mode == "F":
        return 1.0
    if not image.mode.startswith("I"):
        return None
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    bits, kind = (tags.get(tag, (default,)) for tag, default in ((258, 16), (339, 1)))
    signed = kind[0] == 2
    return float(2 ** (bits[0] - signed) - 1)


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    name = f"array of shape {array.shape}"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"{name}: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if 0 in array.shape:
        raise ImageError(f"{name}: has no pixels")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        kind, size = array.dtype.kind, array.dtype.itemsize
        if kind not in "fiu":
            raise ImageError(f"{name}: holds {array.dtype}, expected integers or floats")
        top = 1.0 if kind == "f" else 65535.0 if kind == "u" and size == 2 else 255.0
        array = _to_uint8(array, top, name)
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def _to_uint8(array: NDArray[np.generic], top: float, name: str) -> NDArray[np.uint8]:
    """Scale 0..top to 0..255: by what the values can be, never by what they are."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name}: has NaN or infinite pixels")
    if low < 0 or high > top:
        remedy = "rescale it"
        if top == 255.0 and high <= 65535:
            remedy += ", or pass 16-bit values as uint16"
        raise ImageError(
            f"{name}: pixel values from {low:g} to {high:g}, expected 0 to {top:g}; {remedy}"
        )
    if top > 255:
        _tell_if_dark(high, top, name)
    return np.rint(array.astype(np.float64) * (255.0 / top)).astype(np.uint8)
