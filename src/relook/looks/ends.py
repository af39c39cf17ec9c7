"""The two ends of an elongated photo, at the scale of the first look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from relook.attribution import Context, Note
from relook.geometry import Box
from relook.looks.protocol import SecondLook, Views

_LONGER = 0.1
"""How much longer than the crop a photo has to be, as a share of the crop's side."""
_NO_ENDS = Note("the ends of the photo, which is not longer than what the first look showed")


@dataclass(frozen=True)
class Ends:
    """Two crops, one at each end of the photo's longer side, each as large as the first look's crop
    and centred along the shorter side. Together they weigh as much as the first answer.

    Both crops have the network's own input size and the scale of the first look. A photo that is
    not longer than the crop has no views.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Ends())
    >>> for view in corrector.correct("photo.jpg").views:
    ...     print(view.what, [round(side) for side in view.box])
    one end [0, 19, 263, 281]
    one end [188, 19, 451, 281]
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True
    detail: ClassVar[float] = 1.0

    def __call__(self, context: Context) -> SecondLook:
        """Return two views, or none."""
        boxes = ends(context.extent, context.shown)
        if not boxes:
            return SecondLook(no_view=(_NO_ENDS,))
        views = Views.cut(context, *boxes, what="one end", weight=1 / 2)
        return SecondLook((views,))


def ends(extent: tuple[int, int], shown: Box) -> tuple[Box, ...]:
    """Return boxes of the size of `shown` at both ends of a photo, or () if it is not longer.

    Args:
        extent: (width, height) of the photo.
        shown: the box that the first look showed.
    """
    width, height = extent
    wide, high = shown[2] - shown[0], shown[3] - shown[1]
    # A margin that surrounds the crop on all sides does not make a photo longer.
    across, down = width / wide, height / high
    if max(across, down) < min(across, down) + _LONGER:
        return ()
    if across > down:
        y = (height - high) / 2
        return tuple((x, y, x + wide, y + high) for x in (0.0, width - wide))
    x = (width - wide) / 2
    return tuple((x, y, x + wide, y + high) for y in (0.0, height - high))
