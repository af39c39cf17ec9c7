"""Activity: where the target layer saw anything at all."""

from __future__ import annotations

from dataclasses import dataclass

from relook.attribution.protocol import (
    AttributionMaps,
    Classes,
    Progress,
    activations_of,
    checked,
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
        classes: Classes,
        progress: Progress | None = None,
    ) -> AttributionMaps:
        """One map, as often as there are `classes`."""
        indices = checked(self, classifier, first, classes)
        size = first.size
        active = activations_of(first).relu().sum(dim=0, keepdim=True)
        maps = min_max(upsample(active, size)).expand(len(indices), -1, -1)
        return AttributionMaps(maps, forwards=0)
