"""Activity: where the target layer is active, regardless of the class."""

from __future__ import annotations

from dataclasses import dataclass

from relook.attribution.context import Context, check_context
from relook.attribution.protocol import (
    AttributionMaps,
    activations_of,
    min_max,
    upsample,
)


@dataclass(frozen=True)
class Activity:
    """A map of the target layer's overall activity, the same for every class:
    s(up(sum_k ReLU(A_k))). It works with any target layer and needs no further forward pass.

    >>> method = relook.attribution.Activity()
    >>> seen = classifier.attribution("photo.jpg", ["tabby", "Egyptian cat"], method=method)
    >>> torch.equal(seen.maps[0], seen.maps[1]), seen.forwards
    (True, 1)
    """

    def __call__(self, context: Context) -> AttributionMaps:
        """Return the same map once for each class."""
        check_context(self, context)
        active = activations_of(context.first).relu().sum(dim=0, keepdim=True)
        maps = min_max(upsample(active, context.size)).expand(len(context.classes), -1, -1)
        return AttributionMaps(maps, forwards=0)
