"""The part of an image that a network sees, and its pixels at the network's input size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from relook.errors import RelookError

__all__ = ["Box", "Fit", "Geometry", "cut_pixels"]

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the original image; fractions are allowed."""

Fit = Literal["squash", "shorter-side", "cover"]

_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

# Resizing a panorama of 1 pixel height would need gigabytes before the crop; above this number of
# pixels only the crop itself is computed, which differs by rounding.
_LARGEST_RESIZE = 2**26


_OVERSAMPLED = 2
"""Least ratio of an image's sides to those that it is resized to, for an accurate resize."""


@dataclass(frozen=True)
class Geometry:
    """Resize and centre crop, in whole pixels as the model libraries do it.

    Attributes:
        crop: (height, width) of the network's input.
        resize: (height, width) to which the image is resized before the crop; equal to `crop` if
            nothing is cropped away.
        fit: how the image is resized. "squash": to exactly `resize`, whatever its aspect ratio.
            "shorter-side": the shorter side to resize[0], the other side in proportion, rounded
            down (torchvision's rule). "cover": in proportion, to the smallest size that covers
            `resize`, rounded (timm's rule for inputs that are not square).
        interpolation: "bilinear", "bicubic", "lanczos", "nearest", "box" or "hamming".
        corner: how the crop's corner is placed if the margin is an odd number of pixels: "rounded"
            (timm, torchvision) or "floored" (transformers).

    >>> from relook.geometry import Geometry
    >>> geometry = Geometry.centre((224, 224), crop_pct=0.875)
    >>> geometry.resize
    (256, 256)
    >>> geometry.crop_box(width=512, height=512)
    (32.0, 32.0, 480.0, 480.0)
    """

    crop: tuple[int, int]
    resize: tuple[int, int]
    fit: Fit
    interpolation: str = "bilinear"
    corner: Literal["rounded", "floored"] = "rounded"

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATION:
            raise RelookError(
                f"interpolation {self.interpolation!r} is unknown; choose one of "
                + ", ".join(_INTERPOLATION)
            )
        if min(self.crop) < 1 or any(r < c for r, c in zip(self.resize, self.crop, strict=True)):
            raise RelookError(f"the crop {self.crop} must lie within the resized {self.resize}")

    @classmethod
    def whole(cls, input_size: tuple[int, int], interpolation: str = "bilinear") -> Geometry:
        """The network sees the whole image, squashed to its input size (height, width)."""
        return cls(input_size, input_size, "squash", interpolation)

    @classmethod
    def centre(
        cls, input_size: tuple[int, int], crop_pct: float, interpolation: str = "bilinear"
    ) -> Geometry:
        """The network sees the centre of the image.

        Args:
            input_size: (height, width) of the network's input.
            crop_pct: the crop's sides as a share of the resized image's sides, above 0 up to 1.
            interpolation: as of the class.

        Raises:
            RelookError: `crop_pct` is out of range.
        """
        if not 0 < crop_pct <= 1:
            raise RelookError(f"crop_pct must be in (0, 1], not {crop_pct}")
        height, width = (math.floor(side / crop_pct) for side in input_size)
        fit: Fit = "shorter-side" if height == width else "cover"
        return cls(input_size, (height, width), fit, interpolation)

    def scaled(self, input_size: tuple[int, int]) -> Geometry:
        """The geometry for another input size (height, width), with the resize in proportion.

        The network sees the same part of an image.
        """
        sides = zip(self.resize, input_size, self.crop, strict=True)
        height, width = (resize * side // crop for resize, side, crop in sides)
        fit = self.fit
        if fit == "shorter-side" and height != width:
            fit = "cover"  # "shorter-side" resizes to a single number
        return replace(self, crop=input_size, resize=(height, width), fit=fit)

    def crop_box(self, width: int, height: int) -> Box:
        """The part of a width × height image that the network sees by default."""
        resized_width, resized_height = self._resized(width, height)
        left, top = self._offset(resized_width, resized_height)
        x, y = width / resized_width, height / resized_height
        return (left * x, top * y, (left + self.crop[1]) * x, (top + self.crop[0]) * y)

    def needed(self, width: int, height: int, detail: float = 1.0) -> tuple[int, int]:
        """The smallest (width, height) of an image that looks nearly the same to the network.

        A resize averages over several pixels; it is accurate as long as the image is at least twice
        as large as the result.

        Args:
            width: width of the image.
            height: height of the image.
            detail: largest scale of views relative to the centre crop.
        """
        resized = max(
            max(w / u, h / v)
            for u, v in ((width, height), (height, width))  # EXIF may turn it
            for w, h in [self._resized(u, v)]
        )
        scale = min(1.0, _OVERSAMPLED * detail * resized)
        return math.ceil(scale * width), math.ceil(scale * height)

    def pixels(
        self, image: Image.Image, box: Box | None = None, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "3 h w"]:
        """Pixels of a part of an image, in [0, 1].

        Args:
            image: an RGB image.
            box: the part, clipped to the image; the centre crop by default. With neither box nor
                size, the pixels equal those of the model library's own resize and crop.
            size: (height, width) of the result; the network's input size by default.

        Raises:
            RelookError: the box has no area inside the image.
        """
        if box is None and size is None:
            cut = self._library_crop(image)
        else:
            height, width = size or self.crop
            box = self.crop_box(image.width, image.height) if box is None else box
            cut = self._resize(image, (width, height), _inside(box, image.width, image.height))
        # By NumPy: PyTorch would wake threads of its own in each thread that reads images.
        colours = np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))
        return torch.from_numpy(np.divide(colours, np.float32(255), dtype=np.float32))

    def _library_crop(self, image: Image.Image) -> Image.Image:
        width, height = self._resized(image.width, image.height)
        if width * height > _LARGEST_RESIZE:
            box = self.crop_box(image.width, image.height)
            return self._resize(image, (self.crop[1], self.crop[0]), box)
        left, top = self._offset(width, height)
        # Resize, then crop, instead of one resize with a box: Pillow chooses the order of its two
        # passes by the size of the result, so the 8-bit rounding between them would differ.
        resized = self._resize(image, (width, height))
        return resized.crop((left, top, left + self.crop[1], top + self.crop[0]))

    def _resize(
        self, image: Image.Image, size: tuple[int, int], box: Box | None = None
    ) -> Image.Image:
        return image.resize(size, _INTERPOLATION[self.interpolation], box=box)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.fit == "squash":
            return self.resize[1], self.resize[0]
        if self.fit == "cover":
            ratio = min(height / self.resize[0], width / self.resize[1])
            return round(width / ratio), round(height / ratio)
        short = self.resize[0]
        if width <= height:
            return short, int(short * height / width)
        return int(short * width / height), short

    def _offset(self, width: int, height: int) -> tuple[int, int]:
        whole = round if self.corner == "rounded" else math.floor
        return whole((width - self.crop[1]) / 2), whole((height - self.crop[0]) / 2)


def cut_pixels(
    pixels: Float[Tensor, "3 h w"], box: Box, size: tuple[int, int]
) -> Float[Tensor, "3 u v"]:
    """Pixels of a box, resized by antialiased bilinear interpolation.

    Args:
        pixels: in [0, 1].
        box: the part to cut, clipped to the image and widened to whole pixels.
        size: (height, width) of the result.

    Raises:
        RelookError: the box has no area inside the image.

    >>> from relook.geometry import cut_pixels
    >>> cut_pixels(torch.rand(3, 224, 224), (50, 50, 150, 100), size=(64, 64)).shape
    torch.Size([3, 64, 64])
    """
    left, top, right, bottom = _inside(box, pixels.shape[2], pixels.shape[1])
    part = pixels[:, int(top) : math.ceil(bottom), int(left) : math.ceil(right)]
    # PyTorch has no antialiasing in half precision.
    wide = part.unsqueeze(0).to(torch.promote_types(part.dtype, torch.float32))
    resized = interpolate(wide, size, mode="bilinear", antialias=True, align_corners=False)
    return resized.squeeze(0).clamp(0, 1).to(pixels.dtype)


def _inside(box: Box, width: int, height: int) -> Box:
    """The part of the box that lies inside the image."""
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], float(width)), min(box[3], float(height))
    if right <= left or bottom <= top:
        raise RelookError(f"the box {box} has no area inside the {width}×{height} image")
    return left, top, right, bottom
