"""Small images for pictures and pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from relook.geometry import Box

_OPACITY = 0.85
_PART = (217, 72, 15)
_GREY = 0.55
"""How far the photo fades to grey under a map, so that only the map has strong colours."""


def photo_tile(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """Pixels in [0, 1] as an 8-bit image."""
    array = pixels.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def map_tile(pixels: Float[Tensor, "3 h w"], attribution: Float[Tensor, "h w"]) -> Image.Image:
    """An attribution map over its photo; higher values are brighter and more opaque."""
    import matplotlib  # here, since answers on screen need none of it

    photo = pixels.permute(1, 2, 0).numpy().astype(np.float32)
    grey = photo.mean(axis=2, keepdims=True)
    photo = photo + _GREY * (grey - photo)
    strength = attribution.numpy().astype(np.float32)
    colours = matplotlib.colormaps["inferno"](0.3 + 0.7 * strength)[:, :, :3]
    opacity = _OPACITY * strength[:, :, None]
    blended = photo * (1 - opacity) + colours * opacity
    return Image.fromarray(np.rint(blended * 255).clip(0, 255).astype(np.uint8))


def crop_tile(
    image: Image.Image, box: Box, height: int = 360, boxes: Sequence[Box] = ()
) -> Image.Image:
    """The whole image, darkened outside the part that the network sees.

    Args:
        image: the whole image.
        box: the part that the network sees.
        height: height of the tile in pixels; smaller for images more than three times as wide.
        boxes: other parts, each drawn as an outline with its number, counted from 1.
    """
    scale = min(height / image.height, 3 * height / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.LANCZOS)
    inside = _scaled(box, scale, size)
    left, top, right, bottom = inside
    dark = Image.blend(small, Image.new("RGB", size), 0.6)
    dark.paste(small.crop(inside), inside[:2])
    if inside != (0, 0, *size):
        ImageDraw.Draw(dark).rectangle(
            (left, top, right - 1, bottom - 1), outline=(255, 255, 255), width=2
        )
    for number, part in enumerate(boxes, 1):
        _outline(dark, _scaled(part, scale, size), number)
    return dark


def _scaled(box: Box, scale: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in whole pixels of a tile, at least one pixel in size."""
    left, top = (min(max(round(box[i] * scale), 0), size[i] - 1) for i in (0, 1))
    right, bottom = (
        min(max(round(box[2 + i] * scale), low + 1), size[i]) for i, low in ((0, left), (1, top))
    )
    return left, top, right, bottom


def _outline(tile: Image.Image, box: tuple[int, int, int, int], number: int) -> None:
    left, top, right, bottom = box
    draw = ImageDraw.Draw(tile)
    draw.rectangle((left, top, right - 1, bottom - 1), outline=_PART, width=3)
    side = 20
    # Place the numbers of boxes that share a corner side by side.
    x = min(left + (number - 1) * (side + 2), max(left, right - side))
    draw.rectangle((x, top, x + side, top + side), fill=_PART)
    draw.text((x + side / 2, top + side / 2), f"{number}", fill="white", anchor="mm", font_size=14)


def data_uri(image: Image.Image) -> str:
    """The image as a data URI: a JPEG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
