"""A look with other weights, about fewer classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from relook.attribution import Context
from relook.looks.composed import Composed
from relook.looks.protocol import Look, SecondLook


@dataclass(frozen=True)
class Weighted(Composed):
    """A look whose weights are multiplied by a factor, as tuning chooses them.

    Attributes:
        look: the look.
        weight: factor for the weights of its views, 0 or more.
        k: number of top classes that the look considers; None for those of the corrector. Fewer
            are considered if the corrector has fewer.

    >>> look = relook.looks.Weighted(relook.looks.Flip(), weight=0.5)
    >>> [first] = classifier.first_looks(torch.rand(1, 3, 224, 224))
    >>> [views] = look(relook.attribution.Context(classifier, first, torch.tensor([281]))).views
    >>> views.weights[0, 0].item()
    0.5
    """

    look: Look
    weight: float
    k: int | None = None

    @property
    def parts(self) -> tuple[Look, ...]:
        """The look."""
        return (self.look,)

    def __call__(self, context: Context) -> SecondLook:
        """Return the look's views with their new weights."""
        second = self.look(replace(context, classes=context.classes[: self.k]))
        views = (replace(some, weights=self.weight * some.weights) for some in second.views)
        return replace(second, views=tuple(views))
