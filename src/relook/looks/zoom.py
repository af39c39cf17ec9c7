"""Zoom: the region of each class cut again from the original pixels, where the fine detail is."""

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

_NO_LAYER = Note("a closer look, since the network has no layer with maps to find a place by")
_FAINT = 0.1
"""Map values up to this are not shown, as those of mask images."""


@dataclass(frozen=True)
class Zoom:
    """For each of the top-k classes the box around where it was seen, at the network's input size.

    The box holds all of the map that is at least `threshold` of its maximum. It is made wider or
    higher until it has the shape of what the network sees, so that nothing is distorted, and moved
    into the image. A class whose map is flat gets no view.

    Attributes:
        attribution: where a class was seen.
        threshold: of the map's maximum, in (0, 1].
        margin: on each side, in shares of the box's own sides.
        smallest: of each side, in shares of what the first look showed: no closer look than that.
        magnification: a pixel of the original becomes at most so many of the view's, on each side:
            there is no more detail to be seen than the original has.
        joint: one box around where any of the classes was seen, and one view, which weighs what
            those of the classes would together; none where it would show what the first look did.
        weights: what a view's answer weighs, see `relook.looks.weights`.
        required: whether a network without a target layer is an error, as it is of this look
            alone; if not, there is no view.

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
        """If it is required."""
        return self.required

    def __call__(self, context: Context) -> SecondLook:
        """One view a class that was seen anywhere, or one for all."""
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
            # The maps are shown all the same, beside the image as the network has seen it.
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
    """What was not looked at more closely, and why."""
    seen = int(maps.flatten(1).any(dim=1).sum())
    if not seen:
        return (Note("a closer look: the classes were seen nowhere"),)
    if not views:
        return (Note("a closer look, which would show what the network has seen already"),)
    if views < len(maps):
        return (Note("a closer look at some of the classes, which were seen nowhere"),)
    return ()


def same(box: Box, other: Box) -> bool:
    """Whether two boxes are one, to 5 % of their sides."""
    side = min(other[2] - other[0], other[3] - other[1])
    return max(abs(a - b) for a, b in zip(box, other, strict=True)) < 0.05 * side


def region(seen: Float[Tensor, "h w"], threshold: float) -> Box:
    """Around all values of at least `threshold` of the maximum; in shares of width and height."""
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
    """A part of what was shown, in pixels of the image: with margin, in the shape of what was
    shown, and moved inside.
    """
    wide, high = shown[2] - shown[0], shown[3] - shown[1]
    side = max(part[2] - part[0], part[3] - part[1]) * (1 + 2 * margin)
    # As large as the image allows: past its edge there is nothing to see.
    side = min(max(side, smallest), extent[0] / wide, extent[1] / high)
    half_width, half_height = side * wide / 2, side * high / 2
    x = shown[0] + wide * (part[0] + part[2]) / 2
    y = shown[1] + high * (part[1] + part[3]) / 2
    x = min(max(x, half_width), extent[0] - half_width)
    y = min(max(y, half_height), extent[1] - half_height)
    return x - half_width, y - half_height, x + half_width, y + half_height
