"""A file, PIL image or array becomes one upright 8-bit RGB image, or an error for people."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from relook.errors import ImageError

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[np.generic]

WHITE = (255, 255, 255)


def image_name(source: ImageSource) -> str:
    """How messages and results call the image: its path, else what kind of object it is."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    filename = getattr(source, "filename", "")
    return str(filename) if filename else f"<{type(source).__name__}>"


def open_image(source: ImageSource) -> Image.Image:
    """Read one image as RGB.

    Greyscale, CMYK, 16-bit, palette and float images are converted; EXIF rotation is applied;
    transparent pixels are laid over white, as a viewer shows them; of an animation the first
    frame is taken.

    Args:
        source: a path, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4):
            integers in the range of their dtype, or floats in [0, 1].

    Raises:
        ImageError: the file is missing, a folder, empty, no image, truncated or a decompression
            bomb; the array has another shape or range; the image has only one pixel.
    """
    name = image_name(source)
    if isinstance(source, np.ndarray):
        image = _from_array(source)
    elif isinstance(source, Image.Image):
        with _pillow_errors(name):
            image = _to_rgb(source, name)
    elif isinstance(source, str | os.PathLike):
        image = _read(Path(source), name)
    else:
        raise ImageError(
            f"{name}: cannot be read as an image; pass a path, a PIL image or a numpy array (a "
            "tensor of pixels goes to the corrector itself: corrector(pixels))"
        )
    if image.width * image.height < 2:
        raise ImageError(f"{name}: the image is 1×1 pixel, there is nothing to look at")
    return image


def _read(path: Path, name: str) -> Image.Image:
    try:
        content = path.read_bytes()  # not lazily: pipes work too
    except IsADirectoryError:
        raise ImageError(
            f"{name}: is a folder, not an image; name the files in it ({name}/*)"
        ) from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{name}: cannot be read ({reason}); check the path") from None
    if not content:
        raise ImageError(f"{name}: the file is empty; copy or export it again")
    with _pillow_errors(name), Image.open(io.BytesIO(content)) as opened:
        return _to_rgb(opened, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings: it warns from half of its limit on, and a satellite scene is no
    attack; and of broken metadata, which is none of the pixels.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Whatever Pillow and its plugins raise becomes an ImageError."""
    try:
        # The list of filters is the whole process's: other threads than the main one leave it
        # alone, and who starts them calls `quiet` around.
        main = threading.current_thread() is threading.main_thread()
        with quiet() if main else nullcontext():
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
    try:
        image = ImageOps.exif_transpose(image)
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        image.load()  # a broken EXIF block says nothing about the pixels
    if image.mode == "1" or image.mode in ("RGB", "L", "CMYK", "YCbCr", "LAB", "HSV"):
        if "transparency" not in image.info:
            return image.convert("RGB")
        image = image.convert("RGBA")
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_uint8(np.asarray(image), name)).convert("RGB")
    image = image.convert("RGBA")  # palettes and everything with alpha
    canvas = Image.new("RGB", image.size, WHITE)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


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
        array = _to_uint8(array, name)
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def _to_uint8(array: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    """Scale to 0..255: floats in [0, 1] by 255, integers of up to 16 bits by 1/257.

    Pillow hands 16-bit greyscale out as 32-bit integers too, so the values decide, not the dtype.
    """
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name}: has NaN or infinite pixels")
    sixteen_bit = array.dtype in (np.uint16, np.dtype(">u2"), np.int32) and (
        array.dtype != np.int32 or high > 255
    )
    top = 1.0 if array.dtype.kind == "f" else 65535.0 if sixteen_bit else 255.0
    if low < 0 or high > top:
        raise ImageError(
            f"{name}: pixel values from {low:g} to {high:g}, expected 0 to {top:g}; rescale it"
        )
    return np.rint(array.astype(np.float64) * (255.0 / top)).astype(np.uint8)
