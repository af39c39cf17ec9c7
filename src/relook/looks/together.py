"""Several looks at one image: all their views together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from relook.attribution.context import Context
from relook.looks.protocol import Look, SecondLook, needs_layer


@dataclass(frozen=True)
class Together:
    """R is the sum of what each look adds.

    Attributes:
        looks: two or more. Maps and mask images are those of the first that makes any.
        weight: by which the weights of all their views are multiplied; the first answer weighs 1.
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
    """All views and what was spent; the maps of the first that has any."""
    shown = next((second for second in seconds if len(second.maps)), seconds[0])
    return SecondLook(
        # What was joined to a look that asks in turn is asked about whatever that one says.
        in_turn=all(second.in_turn for second in seconds),
        views=tuple(views for second in seconds for views in second.views),
        maps=shown.maps,
        mask_images=shown.mask_images,
        forwards=sum(second.forwards for second in seconds),
        backwards=sum(second.backwards for second in seconds),
        left_out=_merged(second.left_out for second in seconds),
        no_view=_merged(second.no_view for second in seconds),
    )


def _merged(notes: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Each note once, in order, and not again without what there is instead."""
    all_notes = tuple(dict.fromkeys(note for some in notes for note in some))
    return tuple(note for note in all_notes if not any(n.startswith(f"{note};") for n in all_notes))
