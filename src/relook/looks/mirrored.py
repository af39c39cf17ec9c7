"""The mirror images of a look's views, in addition to the views or instead of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from relook.attribution import Context
from relook.looks.composed import Composed
from relook.looks.protocol import Look, SecondLook
from relook.looks.together import together


@dataclass(frozen=True)
class Mirrored(Composed):
    """Every view of `look`, and the same view mirrored left to right, at the same weight.

    Attributes:
        look: the look whose views are mirrored.
        otherwise: the look to use if `look` has no view of an image; None for no views.
        alone: whether to use only the mirror images and not the views themselves.

    >>> look = relook.looks.Mirrored(relook.looks.Whole())
    >>> correction = relook.Corrector(classifier, look=look).correct("photo.jpg")
    >>> [view.what for view in correction.views]
    ['largest part', 'largest part, mirrored']
    """

    look: Look
    otherwise: Look | None = None
    alone: bool = False

    @property
    def parts(self) -> tuple[Look, ...]:
        """The look, and the one that is used instead of it."""
        return (self.look,) if self.otherwise is None else (self.look, self.otherwise)

    def __call__(self, context: Context) -> SecondLook:
        """Return twice as many views as the look has, or as many with `alone`."""
        second = self.look(context)
        if not second.asked and self.otherwise is not None:
            other = self.otherwise(context)
            instead = " and ".join(dict.fromkeys(views.what for views in other.asked))
            if instead:
                second = second.with_instead(f"the {instead}")
            return together(second, other)
        views = second.views if self.alone else second.asked
        mirrored = tuple(
            replace(
                some,
                pixels=some.pixels.flip(-1),
                of=some.of if self.alone else None,
                what=f"{some.what}, mirrored",
            )
            for some in views
        )
        return replace(second, views=mirrored if self.alone else (*second.views, *mirrored))
