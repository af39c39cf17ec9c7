"""The views of a look run one after the other, until the answer is settled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from relook.attribution import Context
from relook.looks.composed import Composed
from relook.looks.protocol import Look, SecondLook


@dataclass(frozen=True)
class InTurn(Composed):
    """Run the views of a look one after the other and stop as soon as the answer is settled (see
    `relook.correction.settled`). This saves forward passes. The predicted class is nearly always
    the same; the probabilities are computed from the views that were run.

    Attributes:
        look: the look whose views are run; its most informative views should come first.

    >>> look = relook.looks.InTurn(relook.looks.Symmetries(mirrored=True))
    >>> correction = relook.Corrector(classifier, look=look).correct("photo.jpg")
    >>> len(correction.made), len(correction.views) <= 7
    (7, True)
    """

    look: Look

    @property
    def parts(self) -> tuple[Look, ...]:
        """The look."""
        return (self.look,)

    def __call__(self, context: Context) -> SecondLook:
        """Return the look's views, marked to be run one after the other."""
        return replace(self.look(context), in_turn=True)
