"""Several looks at one image: all their views together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from relook.attribution import Context, Note
from relook.looks.protocol import Look, SecondLook, needs_layer


@dataclass(frozen=True)
class Together:
    """R is the sum of what each look adds.

    Attributes:
        looks: two or more; the maps of the first that makes any are shown.
        weight: by which the weights of all their views are multiplied; the first answer weighs 1.

    >>> look = relook.looks.Together((relook.looks.Flip(), relook.looks.Whole(weight=0.5)))
    >>> correction = relook.Corrector(classifier, look=look).correct("photo.jpg")
    >>> [view.what for view in correction.views]
    ['mirror image', 'largest part']
    """

    looks: tuple[Look, ...]
    weight: float = 1.0

    @property
    def needs_activations(self) -> bool:
        """If one of them does."""
        return any(look.needs_activations for look in self.looks)

    @property
    def needs_layer(self) -> bool:
        """If one of them does."""
        return any(needs_layer(look) for look in self.looks)

    @property
    def needs_original(self) -> bool:
        """If one of them does."""
        return any(look.needs_original for look in self.looks)

    def __call__(self, context: Context) -> SecondLook:
        """The views of all, in their order."""
        second = together(*(look(context) for look in self.looks))
        if self.weight == 1:
            return second
        views = (replace(views, weights=self.weight * views.weights) for views in second.views)
        return replace(second, views=tuple(views))


def together(*seconds: SecondLook) -> SecondLook:
    """All views, and all that was spent on their maps."""
    return SecondLook(
        # What was joined to a look that asks in turn is asked about whatever that one says.
        in_turn=all(second.in_turn for second in seconds),
        views=tuple(views for second in seconds for views in second.views),
        forwards=sum(second.forwards for second in seconds),
        backwards=sum(second.backwards for second in seconds),
        left_out=_each_once(note for second in seconds for note in second.left_out),
        no_view=_each_once(note for second in seconds for note in second.no_view),
    )


def _each_once(notes: Iterable[Note]) -> tuple[Note, ...]:
    """In order; of several that do without the same the first that has something instead."""
    found: dict[str, Note] = {}
    for note in notes:
        if not found.setdefault(note.without, note).instead:
            found[note.without] = note
    return tuple(found.values())
