"""All of the photo at the scale of the first look: what the centre crop threw away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from relook.attribution import Context, Note
from relook.geometry import Box
from relook.looks.ends import Ends
from relook.looks.frame import per_pixel, sees_all
from relook.looks.protocol import SecondLook, Views

_SEEN = Note("what lies around the crop: the network has seen all of the image")


@dataclass(frozen=True)
class Uncropped:
    """All of the photo, in its own shape, nothing cropped, nothing distorted, and everything in it
    as large as in the first look; its answer weighs as much as the first.

    A network knows things at the scale that it was trained on. The largest square of a photo
    brought to the network's input shows more by showing it smaller; this does not.

    A network that takes no other size than its own gets the two ends of a photo that is longer
    than its input's shape (see `Ends`), at the same scale, which share the weight; of other photos
    it gets nothing. Where the network saw all there is no view.

    Attributes:
        scale: of the view, relative to the first look.
        most: what the view may cost, in forwards at the network's own input size. A longer photo
            is shown smaller, and any photo where the crop leaves little of it; and where its
            shorter side would be less than the input's, its ends are cut off.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Uncropped())
    >>> [view] = corrector.correct("photo.jpg").views
    >>> tuple(view.pixels.shape), view.frame
    ((3, 256, 384), Frame(region='all', shape='own', scale=1.0))
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    scale: float = 1.0
    most: float = 2.0

    def __call__(self, context: Context) -> SecondLook:
        """One view, or two, or none."""
        classifier, shown, own = context.classifier, context.shown, context.size
        if sees_all(shown, context.extent):
            return SecondLook(no_view=(_SEEN,))
        box, size = uncropped(context.extent, shown, own, self.scale, self.most)
        if size != own and not classifier.takes(*size):
            ends = Ends()(context).views
            note = Note(
                f"the uncropped image, since {classifier.name} takes {own[0]}×{own[1]} alone",
                instead="the two ends of longer photos" if ends else "",
            )
            return SecondLook(ends, left_out=(note,))
        return SecondLook((Views.cut(context, box, what="uncropped", size=size),))


def uncropped(
    extent: tuple[int, int], shown: Box, own: tuple[int, int], scale: float, most: float
) -> tuple[Box, tuple[int, int]]:
    """The box and the (height, width) of a view of all of a photo.

    Sides are whole steps, so that photos of nearly one shape can be asked about together, and the
    box loses up to half a step for it: nothing is distorted.
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
    # The largest part of that shape: `wide` is to `high` as its sides are in the first look.
    times = min(extent[0] * across / wide, extent[1] * down / high)
    half_width, half_height = times * wide / across / 2, times * high / down / 2
    x, y = extent[0] / 2, extent[1] / 2
    return (x - half_width, y - half_height, x + half_width, y + half_height), (high, wide)
