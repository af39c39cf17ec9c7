"""Grad-CAM: a channel weighs how much the class would gain by more of it."""

from __future__ import annotations

from dataclasses import dataclass

from relook.attribution.protocol import AttributionMaps, Classes, Progress, checked, combine
from relook.classifier import Classifier, FirstLook


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
    """

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Classes | None = None,
        progress: Progress | None = None,
    ) -> AttributionMaps:
        """Maps of `classes` for the image of `first`."""
        indices = checked(self, classifier, first, classes)
        activations, gradients = classifier.gradients(first.pixels, indices)
        size = first.size
        maps = combine(gradients.mean(dim=(2, 3)), activations, size)
        return AttributionMaps(maps, forwards=1, backwards=1)
