"""Grad-CAM: each channel is weighted by the mean gradient of the class with respect to it."""

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

    z^c is the network's output before softmax; for a network that returns probabilities, log Y[c],
    which differs from it by a constant that is the same for all classes. Grad-CAM works with any
    network that PyTorch can differentiate and takes one more forward pass and one backward pass.
    Gradients are propagated only from each class's output back to the target layer, usually a small
    part of the network, so all classes together count as one backward pass. For a network that ends
    with global average pooling and one fully connected layer, the maps equal those of CAM, which
    needs no further pass.

    >>> seen = classifier.attribution("photo.jpg", ["tabby"], method=relook.GradCAM())
    >>> tuple(seen.maps.shape), seen.forwards
    ((1, 224, 224), 2)
    """

    def __call__(self, context: Context) -> AttributionMaps:
        """Compute the maps of `context.classes`."""
        check_context(self, context)
        activations, gradients = context.classifier.gradients(context.first.pixels, context.classes)
        maps = combine(gradients.mean(dim=(2, 3)), activations, context.size)
        return AttributionMaps(maps, forwards=1, backwards=1)
