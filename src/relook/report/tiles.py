"""The small images that pictures and pages are made of."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from relook.geometry import Box

_COLOURS = matplotlib.colormaps["inferno"]
_OPACITY = 0.85
_GREY = 0.55
"""How far the photo fades to grey under a map, so that colour means "seen here" alone."""


def photo_tile(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """Pixels in [0, 1] as an image."""
    array = pixels.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def map_tile(pixels: Float[Tensor, "3 h w"], attribution: Float[Tensor, "h w"]) -> Image.Image:
    """An attribution map over its photo: the stronger, the brighter and the more opaque."""
    photo = pixels.permute(1, 2, 0).numpy().astype(np.float32)
    grey = photo.mean(axis=2, keepdims=True)
    photo = photo + _GREY * (grey - photo)
    strength = attribution.numpy().astype(np.float32)
    colours = _COLOURS(0.3 + 0.7 * strength)[:, :, :3]
    opacity = _OPACITY * strength[:, :, None]
    blended = photo * (1 - opacity) + colours * opacity
    return Image.fromarray(np.rint(blended * 255).clip(0, 255).astype(np.uint8))


def crop_tile(image: Image.Image, box: Box, height: int = 360) -> Image.Image:
    """The whole image with what the network does not see darkened."""
    scale = min(height / image.height, 3 * height / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (min(max(round(box[i] * scale), 0), size[i] - 1) for i in (0, 1))
    right, bottom = (
        min(max(round(box[2 + i] * scale), low + 1), size[i]) for i, low in ((0, left), (1, top))
    )
    inside = (left, top, right, bottom)
    dark = Image.blend(small, Image.new("RGB", size), 0.6)
    dark.paste(small.crop(inside), inside[:2])
    if inside != (0, 0, *size):
        ImageDraw.Draw(dark).rectangle(
            (left, top, right - 1, bottom - 1), outline=(255, 255, 255), width=2
        )
    return dark


def data_uri(image: Image.Image) -> str:
    """The image inside a page: a JPEG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
