"""Which part of the photo a view shows, and at which scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from relook.geometry import Box

Region = Literal["crop", "square", "all", "part"]

_MOST = 0.9
"""Share of the photo's area that counts as all of it, since sides are rounded to a step."""
_ALIKE = 0.02
"""Tolerance within which two boxes count as the same, as a share of their sides."""


@dataclass(frozen=True)
class Frame:
    """Which part of the photo a view shows, in which shape and at which scale.

    Attributes:
        region: "crop": the part that the first look showed; "square": that part enlarged to the
            photo's edge at the same aspect ratio; "all": the whole photo; "part": any other part.
        shape: "input" if the view has the aspect ratio of the network's own input, otherwise "own".
        scale: size of objects in the view relative to the first look: 1 is the same size, 2 is
            twice as wide and twice as high.

    >>> box, shown = (0, 0, 500, 375), (86, 23, 414, 352)
    >>> relook.looks.Frame.of(box, (256, 341), shown, (500, 375), (224, 224))
    Frame(region='all', shape='own', scale=1.0)
    """

    region: Region
    shape: Literal["input", "own"]
    scale: float

    @classmethod
    def of(
        cls,
        box: Box,
        size: tuple[int, int],
        shown: Box,
        extent: tuple[int, int],
        own: tuple[int, int],
    ) -> Frame:
        """Describe a box of the photo that was resized to a view.

        Args:
            box: the box, in pixels of the photo.
            size: (height, width) of the view.
            shown: the box that the first look showed, in pixels of the photo.
            extent: (width, height) of the photo.
            own: (height, width) of the first look.
        """
        width, height = box[2] - box[0], box[3] - box[1]
        (across, down), (own_across, own_down) = per_pixel(box, size), per_pixel(shown, own)
        same_shape = abs(math.log(size[1] * own[0] / (size[0] * own[1]))) < _ALIKE
        return cls(
            region=_region(box, shown, extent, width * height),
            shape="input" if same_shape else "own",
            scale=round(math.sqrt(across * down / (own_across * own_down)), 2),
        )


def grown(box: Box, extent: tuple[int, int]) -> Box:
    """Enlarge a box to the edge of an image of (width, height), keeping its shape and centre."""
    width, height = extent
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    wide, high = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    scale = max(1.0, min(min(x, width - x) / wide, min(y, height - y) / high))
    return x - scale * wide, y - scale * high, x + scale * wide, y + scale * high


def per_pixel(box: Box, size: tuple[int, int]) -> tuple[float, float]:
    """Return the horizontal and vertical scale at which a box is resized to (height, width)."""
    return size[1] / (box[2] - box[0]), size[0] / (box[3] - box[1])


def sees_all(shown: Box, extent: tuple[int, int]) -> bool:
    """Whether a box covers the whole photo, within 2 % of its sides."""
    return _alike(shown, (0.0, 0.0, float(extent[0]), float(extent[1])))


def _region(box: Box, shown: Box, extent: tuple[int, int], area: float) -> Region:
    if _alike(box, shown):
        return "crop"
    if area >= _MOST * extent[0] * extent[1]:
        return "all"
    return "square" if _alike(box, grown(shown, extent)) else "part"


def _alike(box: Box, other: Box) -> bool:
    wide, high = other[2] - other[0], other[3] - other[1]
    sides = (wide, high, wide, high)
    return all(abs(a - b) <= _ALIKE * s for a, b, s in zip(box, other, sides, strict=True))
