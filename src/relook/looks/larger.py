"""A larger test crop: more pixels for the network, of more of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from relook.attribution import Progress
from relook.classifier import Classifier, FirstLook
from relook.geometry import Box
from relook.looks.protocol import SecondLook, Views

_SCALE = 9 / 7
"""Of each side of the input: 288 for 224 pixels."""
_STEP = 8


@dataclass(frozen=True)
class Larger:
    """The network's crop grown until it meets the image's edge, at 9/7 of the input's sides
    (288 for 224 pixels, in steps of 8); its answer weighs as much as the first.

    Networks often do better on test images somewhat larger than those they were trained on
    (H. Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). The network has to
    take inputs of other sizes than its own. One such forward costs 1.65.
    """

    @property
    def needs_activations(self) -> bool:
        """No map is needed."""
        return False

    @property
    def needs_original(self) -> bool:
        """It shows what the first look's crop cut off."""
        return True

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Int[Tensor, " k"],
        progress: Progress | None = None,
    ) -> SecondLook:
        """One view."""
        box = grown(classifier.shown(first), first.extent)
        height, width = (
            max(side + 1, _STEP * round(side * _SCALE / _STEP)) for side in first.pixels.shape[1:]
        )
        view = classifier.cut(first, box, (height, width)).unsqueeze(0)
        return SecondLook.without_maps(
            first.pixels, Views(view, torch.ones_like(first.probabilities).unsqueeze(0))
        )


def grown(box: Box, extent: tuple[int, int]) -> Box:
    """The box, its shape and centre kept, as large as an image of (width, height) allows."""
    width, height = extent
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    wide, high = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    scale = max(1.0, min(min(x, width - x) / wide, min(y, height - y) / high))
    return x - scale * wide, y - scale * high, x + scale * wide, y + scale * high
