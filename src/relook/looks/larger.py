"""A larger test crop: more pixels for the network, of more of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from relook.attribution import Context, Note
from relook.looks.frame import grown
from relook.looks.protocol import SecondLook, Views

_SCALE = 9 / 7
"""Of each side of the input: 288 for 224 pixels."""
_STEP = 8
_TOO_FEW = Note("the larger input, for which the image has too few pixels")


@dataclass(frozen=True)
class Larger:
    """The network's crop grown until it meets the image's edge, at 9/7 of the input's sides
    (288 for 224 pixels, in whole steps of 8); its answer weighs as much as the first.

    Networks often do better on test images somewhat larger than those they were trained on
    (H. Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). One such forward costs
    1.65. It is given no more pixels than the image has there; where that is no step more than the
    network's own input there is no view.

    Attributes:
        required: whether a network that takes no other size than its own is an error, as it is of
            this look alone; if not, there is no view.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Larger())
    >>> [view] = corrector.correct("photo.jpg").views
    >>> tuple(view.pixels.shape), view.frame.region
    ((3, 288, 288), 'square')
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    required: bool = True

    def __call__(self, context: Context) -> SecondLook:
        """One view, or none."""
        classifier = context.classifier
        box = grown(context.shown, context.extent)
        own = context.size
        size = larger_size(own, min((box[3] - box[1]) / own[0], (box[2] - box[0]) / own[1]))
        if size == own:
            return SecondLook(no_view=(_TOO_FEW,))
        if not (self.required or classifier.takes(*size)):
            refused = Note(
                f"the larger input, which {classifier.name} does not take (its own is "
                f"{own[0]}×{own[1]})"
            )
            return SecondLook(left_out=(refused,))
        views = Views.cut(context, box, what="larger input", size=size)
        return SecondLook((views,))


def larger_size(own: tuple[int, int], there: float) -> tuple[int, int]:
    """(height, width) at 9/7, or up to `there`, in whole steps; never smaller than they are."""
    scale = min(_SCALE, there) + 1e-9
    height, width = (max(side, _STEP * int(side * scale / _STEP)) for side in own)
    return height, width
