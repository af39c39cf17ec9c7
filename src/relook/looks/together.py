"""Several looks combined: all their views together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from relook.attribution import Context, Note
from relook.looks.composed import Composed
from relook.looks.protocol import Look, SecondLook


@dataclass(frozen=True)
class Together(Composed):
    """Several looks combined: R is the sum of their correction terms.

    Attributes:
        looks: two or more looks; pictures show the maps of the first look that has any.
        weight: factor for the weights of all views; the first answer weighs 1.

    >>> look = relook.looks.Together((relook.looks.Flip(), relook.looks.Whole(weight=0.5)))
    >>> correction = relook.Corrector(classifier, look=look).correct("photo.jpg")
    >>> [view.what for view in correction.views]
    ['mirror image', 'largest part']
    """

    looks: tuple[Look, ...]
    weight: float = 1.0

    @property
    def parts(self) -> tuple[Look, ...]:
        """The looks."""
        return self.looks

    def __call__(self, context: Context) -> SecondLook:
        """Return the views of all looks, in order."""
        second = together(*(look(context) for look in self.looks))
        if self.weight == 1:
            return second
        views = (replace(views, weights=self.weight * views.weights) for views in second.views)
        return replace(second, views=tuple(views))


def together(*seconds: SecondLook) -> SecondLook:
    """Combine second looks: all their views, the sum of their passes, and all their notes."""
    return SecondLook(
        # If any look runs all of its views at once, none of them may be skipped.
        in_turn=all(second.in_turn for second in seconds),
        views=tuple(views for second in seconds for views in second.views),
        forwards=sum(second.forwards for second in seconds),
        backwards=sum(second.backwards for second in seconds),
        left_out=_each_once(note for second in seconds for note in second.left_out),
        no_view=_each_once(note for second in seconds for note in second.no_view),
    )


def _each_once(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Remove duplicate notes, keeping one that names a replacement if there is one."""
    found: dict[str, Note] = {}
    for note in notes:
        if not found.setdefault(note.without, note).instead:
            found[note.without] = note
    return tuple(found.values())
