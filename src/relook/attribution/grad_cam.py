"""Grad-CAM: a channel weighs how much the class would gain by more of it."""

from __future__ import annotations

from dataclasses import dataclass

from relook.attribution.context import Context, check_context
from relook.attribution.protocol import AttributionMaps, combine


@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", eq. 1 and 2), with min-max as in Score-CAM:

        alpha_k^c = mean over (u, v) of dz^c / dA_k(u, v),
        L^c = s(ReLU(sum_k alpha_k^c · up(A_k))).

    z^c is the network's output before softmax; of a network that ends in probabilities it is
    log Y[c], which differs from it by what is the same for all classes. Any network that PyTorch
    can differentiate will do, at the price of one more forward and one backward: gradients run from
    each class's output back to the target layer only, which for the last maps is a small part of
    the network, and all classes together count as one backward through the whole of it. For a
    network that ends GAP → FC the maps are those of CAM, which costs nothing.

    >>> seen = classifier.attribution("photo.jpg", ["tabby"], method=relook.GradCAM())
    >>> tuple(seen.maps.shape), seen.forwards
    ((1, 224, 224), 2)
    """

    def __call__(self, context: Context) -> AttributionMaps:
        """Maps of the classes in question."""
        check_context(self, context)
        activations, gradients = context.classifier.gradients(context.first.pixels, context.classes)
        maps = combine(gradients.mean(dim=(2, 3)), activations, context.size)
        return AttributionMaps(maps, forwards=1, backwards=1)
