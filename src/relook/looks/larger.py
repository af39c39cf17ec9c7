"""A larger test crop at a larger input size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from relook.attribution import Context, Note
from relook.looks.frame import grown
from relook.looks.protocol import SecondLook, Views

_SCALE = 9 / 7
"""Factor for each side of the input: 288 instead of 224 pixels."""
_STEP = 8
_TOO_FEW = Note("the larger input, since the image has too few pixels")


@dataclass(frozen=True)
class Larger:
    """The network's crop enlarged to the image's edge, at 9/7 of the input size (288 instead of 224
    pixels, rounded down to a multiple of 8). Its answer weighs as much as the first answer.

    Networks often do better on test images somewhat larger than those they were trained on
    (H. Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). A forward pass at this
    size costs 1.65 forward passes at the input size. The crop is never upsampled beyond the image's
    own resolution; if that leaves no room for a larger input, there is no view.

    Attributes:
        required: whether to raise an error if the network accepts no other input size; if False,
            such a network gets no view.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Larger())
    >>> [view] = corrector.correct("photo.jpg").views
    >>> tuple(view.pixels.shape), view.frame.region
    ((3, 288, 288), 'square')
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True
    detail: ClassVar[float] = _SCALE

    required: bool = True

    def __call__(self, context: Context) -> SecondLook:
        """Return one view, or none."""
        classifier = context.classifier
        box = grown(context.shown, context.extent)
        own = context.size
        size = larger_size(own, min((box[3] - box[1]) / own[0], (box[2] - box[0]) / own[1]))
        if size == own:
            return SecondLook(no_view=(_TOO_FEW,))
        if not (self.required or classifier.takes(*size)):
            refused = Note(
                f"the larger input, since {classifier.name} accepts only {own[0]}×{own[1]}"
            )
            return SecondLook(left_out=(refused,))
        views = Views.cut(context, box, what="larger input", size=size)
        return SecondLook((views,))


def larger_size(own: tuple[int, int], there: float) -> tuple[int, int]:
    """Return `own` times 9/7, or times `there` if that is less, in multiples of 8 pixels.

    Args:
        own: (height, width) of the network's input; the result is never smaller.
        there: the factor at which the image's own resolution is reached.
    """
    scale = min(_SCALE, there) + 1e-9
    height, width = (max(side, _STEP * int(side * scale / _STEP)) for side in own)
    return height, width
