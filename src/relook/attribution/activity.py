"""Activity: where the target layer saw anything at all."""

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
    """Where the target layer is active, for no class in particular: s(up(sum_k ReLU(A_k))), the
    same map for every class. It asks nothing of the network and needs no forward.

    >>> method = relook.attribution.Activity()
    >>> seen = classifier.attribution("photo.jpg", ["tabby", "Egyptian cat"], method=method)
    >>> torch.equal(seen.maps[0], seen.maps[1]), seen.forwards
    (True, 1)
    """

    def __call__(self, context: Context) -> AttributionMaps:
        """One map, as often as there are classes."""
        check_context(self, context)
        active = activations_of(context.first).relu().sum(dim=0, keepdim=True)
        maps = min_max(upsample(active, context.size)).expand(len(context.classes), -1, -1)
        return AttributionMaps(maps, forwards=0)
