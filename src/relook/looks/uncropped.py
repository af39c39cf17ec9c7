"""The whole photo at the scale of the first look, including what the centre crop cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from relook.attribution import Context, Note
from relook.geometry import Box
from relook.looks.ends import Ends
from relook.looks.frame import per_pixel, sees_all
from relook.looks.protocol import SecondLook, Views

_SEEN = Note("the area around the crop, since the first look showed the whole image")


@dataclass(frozen=True)
class Uncropped:
    """The whole photo in its own shape, undistorted and at the scale of the first look. Its answer
    weighs as much as the first answer.

    Networks recognise objects best at the scale that they were trained on. Resizing a larger part
    of the photo to the input size makes objects smaller; this look keeps their size and enlarges
    the input instead.

    A network that accepts only its own input size gets the two ends of an elongated photo instead,
    at the same scale (see `Ends`), and no view of other photos. If the first look showed the whole
    photo, there is no view.

    Attributes:
        scale: scale of the view relative to the first look.
        most: maximum cost of the view, in forward passes at the network's own input size. A photo
            that would cost more is scaled down, but its shorter side does not become smaller than
            the input's: from there on, its ends are cut off.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Uncropped())
    >>> [view] = corrector.correct("photo.jpg").views
    >>> tuple(view.pixels.shape), view.frame
    ((3, 256, 384), Frame(region='all', shape='own', scale=1.0))
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    scale: float = 1.0
    most: float = 2.0

    @property
    def detail(self) -> float:
        """The largest scale, relative to the first look, at which the original is seen."""
        return self.scale

    def __call__(self, context: Context) -> SecondLook:
        """Return one view, the two views of `Ends`, or none."""
        classifier, shown, own = context.classifier, context.shown, context.size
        if sees_all(shown, context.extent):
            return SecondLook(no_view=(_SEEN,))
        box, size = uncropped(context.extent, shown, own, self.scale, self.most)
        if size != own and not classifier.takes(*size):
            ends = Ends()(context).views
            note = Note(
                f"the uncropped image, since {classifier.name} accepts only {own[0]}×{own[1]}",
                instead="the two ends of longer photos" if ends else "",
            )
            return SecondLook(ends, left_out=(note,))
        return SecondLook((Views.cut(context, box, what="uncropped", size=size),))


def uncropped(
    extent: tuple[int, int], shown: Box, own: tuple[int, int], scale: float, most: float
) -> tuple[Box, tuple[int, int]]:
    """Return the box and the (height, width) of a view of the whole photo.

    Sides are multiples of a step of 8, 16 or 32 pixels, so that photos of similar shape can share a
    batch. For that, the box is up to half a step smaller than the photo; nothing is distorted.

    Args:
        extent: (width, height) of the photo.
        shown: the box that the first look showed.
        own: (height, width) of the network's input.
        scale: scale of the view relative to the first look.
        most: maximum cost, in forward passes at the network's own input size.
    """
    across, down = per_pixel(shown, own)
    width, height = scale * across * extent[0], scale * down * extent[1]
    area = own[0] * own[1]
    smaller = min(1.0, math.sqrt(most * area / (width * height)))
    smaller = max(smaller, min(1.0, max(own[1] / width, own[0] / height)))
    step = next((s for s in (32, 16, 8) if 7 * s <= min(own)), 8)
    wide, high = (
        max(side, step * round(smaller * length / step))
        for length, side in ((width, own[1]), (height, own[0]))
    )
    while wide * high > most * area and (wide > own[1] or high > own[0]):
        if wide - own[1] >= high - own[0]:
            wide = max(own[1], wide - step)
        else:
            high = max(own[0], high - step)
    # The largest box of that aspect ratio, at the horizontal and vertical scale of the first look.
    times = min(extent[0] * across / wide, extent[1] * down / high)
    half_width, half_height = times * wide / across / 2, times * high / down / 2
    x, y = extent[0] / 2, extent[1] / 2
    return (x - half_width, y - half_height, x + half_width, y + half_height), (high, wide)
