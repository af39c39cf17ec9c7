"""Zoom: the region of each class, cut from the original image at full resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from relook.attribution import CAM, Attribution, Context, Note
from relook.errors import RelookError
from relook.geometry import Box
from relook.looks.protocol import SecondLook, Views
from relook.looks.weights import check_rule, weigh

_NO_LAYER = Note("a closer look, since the network has no target layer")
_FAINT = 0.1
"""Map values up to this are not displayed, as in mask images."""


@dataclass(frozen=True)
class Zoom:
    """For each of the top-k classes, a crop around the region of its map, at the input size.

    The crop contains all map values of at least `threshold` times the maximum. It is extended to
    the aspect ratio of the first look's crop, so that nothing is distorted, and shifted into the
    image. A class whose map is 0 everywhere gets no view.

    Attributes:
        attribution: the method that computes the map of each class.
        threshold: share of the map's maximum, in (0, 1].
        margin: margin on each side, as a share of the box's longer side; ≥ 0.
        smallest: minimum side of the crop, as a share of the first look's crop; in (0, 1].
        magnification: maximum number of view pixels per pixel of the original, on each side;
            limits upsampling, which adds no detail.
        joint: whether to make a single view around the regions of all classes, with the sum of
            their weights; if it would equal the first look, there is no view.
        weights: the rule for the weight of each view, see `relook.looks.weights.weigh`.
        required: whether to raise an error if the network has no target layer; if False, such a
            network gets no view.

    Raises:
        RelookError: a value is unknown or out of range.

    >>> corrector = relook.Corrector(classifier, k=2, look=relook.looks.Zoom())
    >>> correction = corrector.correct("photo.jpg")
    >>> [(view.what, tuple(view.pixels.shape)) for view in correction.views]
    [('zoomed', (3, 224, 224)), ('zoomed', (3, 224, 224))]
    """

    needs_activations: ClassVar[bool] = True
    needs_original: ClassVar[bool] = True

    attribution: Attribution = field(default_factory=CAM)
    threshold: float = 0.4
    margin: float = 0.0
    smallest: float = 0.25
    magnification: float = math.inf
    joint: bool = False
    weights: str = "share"
    required: bool = True

    def __post_init__(self) -> None:
        check_rule(self.weights)
        if not 0 < self.threshold <= 1:
            raise RelookError(f"threshold must be in (0, 1], not {self.threshold}")
        if self.margin < 0:
            raise RelookError(f"margin must not be negative, but is {self.margin}")
        if not 0 < self.smallest <= 1:
            raise RelookError(f"smallest must be in (0, 1], not {self.smallest}")
        if not self.magnification > 0:
            raise RelookError(f"magnification must be above 0, not {self.magnification}")

    @property
    def needs_layer(self) -> bool:
        """Whether the look requires a target layer."""
        return self.required

    @property
    def detail(self) -> float:
        """The largest scale, relative to the first look, at which the original is seen."""
        return 1 / self.smallest

    def __call__(self, context: Context) -> SecondLook:
        """Return one view per class with a non-zero map, or a single view with `joint`."""
        first, classes = context.first, context.classes
        if first.activations is None and not self.required:
            return SecondLook(left_out=(_NO_LAYER,))
        seen = self.attribution(context)
        maps = seen.maps.amax(dim=0, keepdim=True) if self.joint else seen.maps
        shown, size = context.shown, context.size
        closest = max(size[1] / (shown[2] - shown[0]), size[0] / (shown[3] - shown[1]))
        smallest = min(1.0, max(self.smallest, closest / self.magnification))
        boxes = {}
        for i in maps.flatten(1).any(dim=1).nonzero().squeeze(1).tolist():
            part = region(maps[i], self.threshold)
            box = fitted(part, shown, context.extent, self.margin, smallest)
            if not (self.joint and same(box, shown)):
                boxes[i] = box
        clear = seen.maps.masked_fill(seen.maps <= _FAINT, 0)
        if not boxes:
            # The maps are still displayed, over the image as the network saw it.
            pixels = first.pixels.unsqueeze(0)
            nothing = torch.zeros_like(first.probabilities).unsqueeze(0)
            views = Views(pixels, nothing, what="zoomed", maps=clear, asked=False)
        else:
            found: Tensor | None = None
            if self.joint:
                weights = weigh(self.weights, first.probabilities, classes)
                weights = weights.sum(dim=0, keepdim=True)
            else:
                found = torch.tensor(list(boxes), device=classes.device)
                weights = weigh(self.weights, first.probabilities, classes[found])
            pixels = torch.stack([context.cut(box) for box in boxes.values()])
            views = Views(pixels, weights, found, "zoomed", tuple(boxes.values()), maps=clear)
        return SecondLook(
            (views,),
            seen.forwards,
            seen.backwards,
            left_out=seen.notes,
            no_view=_no_view(maps, len(boxes)),
        )


def _no_view(maps: Float[Tensor, "k h w"], views: int) -> tuple[Note, ...]:
    """Notes about the classes that got no view, and why."""
    seen = int(maps.flatten(1).any(dim=1).sum())
    if not seen:
        return (Note("a closer look, since no class was found in the image"),)
    if not views:
        return (Note("a closer look, since it would show the same as the first look"),)
    if views < len(maps):
        return (Note("a closer look at the classes that were not found in the image"),)
    return ()


def same(box: Box, other: Box) -> bool:
    """Whether two boxes agree within 5 % of their shorter side."""
    side = min(other[2] - other[0], other[3] - other[1])
    return max(abs(a - b) for a, b in zip(box, other, strict=True)) < 0.05 * side


def region(seen: Float[Tensor, "h w"], threshold: float) -> Box:
    """Bounding box of all values of at least `threshold` times the maximum.

    Returns:
        (left, top, right, bottom), as shares of width and height.
    """
    inside = seen >= threshold * seen.max()
    ys, xs = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
    height, width = seen.shape
    return (
        float(xs.min()) / width,
        float(ys.min()) / height,
        float(xs.max() + 1) / width,
        float(ys.max() + 1) / height,
    )


def fitted(part: Box, shown: Box, extent: tuple[int, int], margin: float, smallest: float) -> Box:
    """Turn a part of the first look's crop into a box of the image.

    The box is enlarged by the margin, extended to the aspect ratio of the crop, and shifted inside
    the image.

    Args:
        part: (left, top, right, bottom), as shares of the crop's width and height.
        shown: the crop, in pixels of the image.
        extent: (width, height) of the image.
        margin: margin on each side, as a share of the part's longer side.
        smallest: minimum side of the box, as a share of the crop.
    """
    wide, high = shown[2] - shown[0], shown[3] - shown[1]
    side = max(part[2] - part[0], part[3] - part[1]) * (1 + 2 * margin)
    # At most as large as the image: there is nothing beyond its edge.
    side = min(max(side, smallest), extent[0] / wide, extent[1] / high)
    half_width, half_height = side * wide / 2, side * high / 2
    x = shown[0] + wide * (part[0] + part[2]) / 2
    y = shown[1] + high * (part[1] + part[3]) / 2
    x = min(max(x, half_width), extent[0] - half_width)
    y = min(max(y, half_height), extent[1] - half_height)
    return x - half_width, y - half_height, x + half_width, y + half_height
