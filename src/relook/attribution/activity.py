"""Activity: where the target layer saw anything at all."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from relook.attribution.protocol import (
    AttributionMaps,
    Progress,
    activations_of,
    min_max,
    upsample,
)
from relook.classifier import Classifier, FirstLook


@dataclass(frozen=True)
class Activity:
    """Where the target layer is active, for no class in particular: s(up(sum_k ReLU(A_k))), the
    same map for every class. It asks nothing of the network and needs no forward.
    """

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Int[Tensor, " k"],
        progress: Progress | None = None,
    ) -> AttributionMaps:
        """One map, as often as there are `classes`."""
        size = (first.pixels.shape[1], first.pixels.shape[2])
        active = activations_of(first).relu().sum(dim=0, keepdim=True)
        maps = min_max(upsample(active, size)).expand(len(classes), -1, -1)
        return AttributionMaps(maps, forwards=0)
