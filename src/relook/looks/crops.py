"""Five and ten crops: the classic way to more accuracy without retraining."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from relook.attribution import Context, Note
from relook.geometry import Box
from relook.looks.flip import Flip
from relook.looks.protocol import SecondLook, Views

_SHARE = 7 / 8
"""Of each side, for crops of an image that the network sees all of: 224 of 256 pixels."""
_NOTHING_BEYOND = Note(
    "corners beyond what the network has seen, which is the whole image",
    instead="corners of 7/8 of its sides",
)


@dataclass(frozen=True)
class Crops:
    """The four corners beside the first look's centre; with `flip` the mirror images of all five
    (A. Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural
    Networks", section 4.1). The first look is one of the five or ten, and all weigh the same.

    The corners are those of the resized image that the first look's centre crop is cut from. A
    network that sees the whole image has no such corners, nor have pixels without their original:
    they get those of crops with 7/8 of each side.

    Attributes:
        flip: ten crops in place of five.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Crops(flip=True))
    >>> correction = corrector.correct("photo.jpg")
    >>> correction.forwards, sorted({view.what for view in correction.views})
    (10, ['corner', 'corner, mirrored', 'mirror image'])
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    flip: bool = False

    def __call__(self, context: Context) -> SecondLook:
        """Four views, or nine."""
        corners = corner_boxes(context.extent, context.shown)
        cut = Views.cut(context, *corners, what="corner")
        views = [cut]
        if self.flip:
            views.append(replace(cut, pixels=cut.pixels.flip(-1), what="corner, mirrored"))
            views += Flip()(context).views
        shown = context.shown
        smaller = (corners[0][2] - corners[0][0]) < 0.999 * (shown[2] - shown[0])
        return SecondLook(tuple(views), no_view=(_NOTHING_BEYOND,) if smaller else ())


def corner_boxes(extent: tuple[int, int], shown: Box) -> list[Box]:
    """Boxes as large as `shown` in the four corners of an image of (width, height) `extent`."""
    width, height = extent
    wide, high = shown[2] - shown[0], shown[3] - shown[1]
    if wide > 0.999 * width and high > 0.999 * height:
        wide, high = _SHARE * width, _SHARE * height
    return [(x, y, x + wide, y + high) for y in (0, height - high) for x in (0, width - wide)]
