"""Both ends of a long photo, at the scale of the first look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from relook.attribution import Context, Note
from relook.geometry import Box
from relook.looks.protocol import SecondLook, Views

_LONGER = 0.1
"""Of the crop's side, by which the photo has to be longer than it."""
_NO_ENDS = Note("the ends of the photo, which has none beyond what the network has seen")


@dataclass(frozen=True)
class Ends:
    """The two ends of a photo that is longer than what the network saw of it, each as large as
    that, in the middle of the shorter side; together they weigh as much as the first answer.

    At the network's own input size, so that any network takes them, and everything as large as in
    the first look. Of a photo that is not longer there is no view.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Ends())
    >>> for view in corrector.correct("photo.jpg").views:
    ...     print(view.what, [round(side) for side in view.box])
    one end [0, 19, 263, 281]
    one end [188, 19, 451, 281]
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    def __call__(self, context: Context) -> SecondLook:
        """Two views, or none."""
        boxes = ends(context.extent, context.shown)
        if not boxes:
            return SecondLook(no_view=(_NO_ENDS,))
        views = Views.cut(context, *boxes, what="one end", weight=1 / 2)
        return SecondLook((views,))


def ends(extent: tuple[int, int], shown: Box) -> tuple[Box, ...]:
    """Boxes as large as `shown` at both ends of a photo of (width, height) `extent`; none where
    that is not longer.
    """
    width, height = extent
    wide, high = shown[2] - shown[0], shown[3] - shown[1]
    # What the shorter side leaves over, the longer one does too: that is no end.
    across, down = width / wide, height / high
    if max(across, down) < min(across, down) + _LONGER:
        return ()
    if across > down:
        y = (height - high) / 2
        return tuple((x, y, x + wide, y + high) for x in (0.0, width - wide))
    x = (width - wide) / 2
    return tuple((x, y, x + wide, y + high) for y in (0.0, height - high))
