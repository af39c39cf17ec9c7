"""CAM, for networks that end with global average pooling (GAP) and a fully connected layer (FC)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relook.attribution.context import Context, check_context
from relook.attribution.protocol import (
    Attribution,
    AttributionMaps,
    Note,
    activations_of,
    combine,
)
from relook.classifier import Classifier
from relook.errors import ModelError
from relook.first_look import FirstLook
from relook.layers import layers_of


@dataclass(frozen=True)
class CAM:
    """Class activation mapping (Zhou et al. 2016, "Learning Deep Features for Discriminative
    Localization", eq. 2), with ReLU and min-max as in Score-CAM:

        L^c = s(ReLU(sum_k w_k^c · up(A_k))),

    where w_k^c is the weight of the fully connected layer from channel k to class c. CAM needs no
    forward pass beyond the first look.

    Attributes:
        otherwise: the method to use if the network does not end with global average pooling and one
            fully connected layer; None raises an error for such a network.

    >>> seen = classifier.attribution("photo.jpg", ["tabby", "Egyptian cat"], method=relook.CAM())
    >>> tuple(seen.maps.shape), seen.forwards
    ((2, 224, 224), 1)
    """

    otherwise: Attribution | None = None

    def __call__(self, context: Context) -> AttributionMaps:
        """Compute the maps of `context.classes`.

        Raises:
            ModelError: the network does not end with global average pooling of the target layer
                and one fully connected layer, and `otherwise` is None.
        """
        check_context(self, context)
        try:
            weights = class_weights(context.classifier, context.first)[context.classes]
        except ModelError:
            if self.otherwise is None:
                raise
            seen = self.otherwise(context)
            return replace(seen, notes=(self._note(context.classifier), *seen.notes))
        return AttributionMaps(
            combine(weights, activations_of(context.first), context.size), forwards=0
        )

    def _note(self, classifier: Classifier) -> Note:
        return Note(
            f"the maps of CAM, because {classifier.name} does not end with global average pooling "
            "and one fully connected layer",
            instead=f"those of {type(self.otherwise).__name__}",
        )


def class_weights(classifier: Classifier, first: FirstLook) -> Float[Tensor, "c k"]:
    """Find the weights of the fully connected layer that follows global average pooling.

    The layer is not guessed from names: applied to the pooled maps of this image, it must reproduce
    the network's output.

    Returns:
        One row per class, one column per channel of the target layer.

    Raises:
        ModelError: the network has no such layer.
    """
    pooled = activations_of(first).mean(dim=(1, 2))
    # Half precision allows only a coarse comparison.
    exact = classifier.is_exact and not torch.is_autocast_enabled(pooled.device.type)
    tolerance = 1e-4 if exact else 5e-2
    for weights, bias in layers_of(classifier.network).matrices():
        if weights.shape != (len(first.outputs), len(pooled)):
            continue
        weights = weights.to(pooled)
        answer = weights @ pooled
        if bias is not None:
            answer = answer + bias.to(pooled)
        answers = (answer, answer.softmax(dim=0))  # the network may end with a softmax of its own
        scale = first.outputs.abs().max().clamp_min(1e-6)
        error = min(float((a - first.outputs).abs().max() / scale) for a in answers)
        if error < tolerance:
            return weights
    raise ModelError(
        f"{classifier.name}: CAM needs a network that ends with global average pooling of the "
        f"target layer ({classifier.target_layer}) and one fully connected layer; this one does "
        "not, use Score-CAM (--attribution scorecam)"
    )
