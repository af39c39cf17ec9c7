"""The largest part of the image that has the input's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from relook.attribution import Context, Note
from relook.looks.frame import grown
from relook.looks.protocol import SecondLook, Views

_SEEN = Note("a larger part, since the first look showed all that fits the input's shape")


@dataclass(frozen=True)
class Whole:
    """The network's crop enlarged to the image's edge and resized to the network's own input size.

    It shows more of the image than the first look, at a smaller scale. If the first look showed as
    much, there is no view.

    Attributes:
        weight: weight of the view's answer; the first answer weighs 1.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Whole())
    >>> [view] = corrector.correct("photo.jpg").views
    >>> tuple(view.pixels.shape), view.frame.region
    ((3, 224, 224), 'square')
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True
    detail: ClassVar[float] = 1.0

    weight: float = 1.0

    def __call__(self, context: Context) -> SecondLook:
        """Return one view, or none."""
        shown = context.shown
        box = grown(shown, context.extent)
        if box[2] - box[0] < 1.01 * (shown[2] - shown[0]):
            return SecondLook(no_view=(_SEEN,))
        views = Views.cut(context, box, what="largest part", weight=self.weight)
        return SecondLook((views,))
