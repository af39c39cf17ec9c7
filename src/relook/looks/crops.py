"""Five and ten crops: the classic test-time augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from relook.attribution import Context, Note
from relook.geometry import Box
from relook.looks.flip import Flip
from relook.looks.protocol import SecondLook, Views

_SHARE = 7 / 8
"""Share of each side that a crop keeps when the network sees the whole image: 224 of 256 pixels."""
_NOTHING_BEYOND = Note(
    "corners outside the crop, since the first look showed the whole image",
    instead="corners with 7/8 of its sides",
)


@dataclass(frozen=True)
class Crops:
    """The four corner crops, in addition to the centre crop of the first look; with `flip` also
    the mirror images of all five (A. Krizhevsky et al. 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks", section 4.1). All five or ten crops have equal weight.

    The crops lie in the corners of the resized image. If the first look already covered the whole
    image, or if only pixels are given, the corner crops have 7/8 of each side.

    Attributes:
        flip: whether to use ten crops instead of five.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Crops(flip=True))
    >>> correction = corrector.correct("photo.jpg")
    >>> correction.forwards, sorted({view.what for view in correction.views})
    (10, ['corner', 'corner, mirrored', 'mirror image'])
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    flip: bool = False

    def __call__(self, context: Context) -> SecondLook:
        """Return four views, or nine with `flip`."""
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
    """Return four boxes of the size of `shown`, one in each corner of an image of `extent`.

    If `shown` is the whole image, the boxes have 7/8 of each side.

    Args:
        extent: (width, height) of the image.
        shown: the box that the first look showed.
    """
    width, height = extent
    wide, high = shown[2] - shown[0], shown[3] - shown[1]
    if wide > 0.999 * width and high > 0.999 * height:
        wide, high = _SHARE * width, _SHARE * height
    return [(x, y, x + wide, y + high) for y in (0, height - high) for x in (0, width - wide)]
