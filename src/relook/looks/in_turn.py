"""The views of a look one after the other, until the answer is settled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from relook.attribution import Context
from relook.looks.protocol import Look, SecondLook, needs_layer


@dataclass(frozen=True)
class InTurn:
    """The views of a look in their order, each only where those before it have not settled the
    answer (see `relook.correction.settled`). It saves forwards; the answer is nearly always the
    same, its probabilities are those of the views that were asked about.

    Attributes:
        look: whose views are asked about; those that tell most come first.

    >>> look = relook.looks.InTurn(relook.looks.Symmetries(mirrored=True))
    >>> correction = relook.Corrector(classifier, look=look).correct("photo.jpg")
    >>> len(correction.made), len(correction.views) <= 7
    (7, True)
    """

    look: Look

    @property
    def needs_activations(self) -> bool:
        """If the look does."""
        return self.look.needs_activations

    @property
    def needs_layer(self) -> bool:
        """If the look does."""
        return needs_layer(self.look)

    @property
    def needs_original(self) -> bool:
        """If the look does."""
        return self.look.needs_original

    def __call__(self, context: Context) -> SecondLook:
        """The look's views, to be asked about in turn."""
        return replace(self.look(context), in_turn=True)
