"""The mirror image: the cheapest second look, and the rival to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from relook.attribution import Progress
from relook.classifier import Classifier, FirstLook
from relook.looks.protocol import SecondLook, Views


@dataclass(frozen=True)
class Flip:
    """f of the image mirrored left to right, at the weight of the first answer: Y' is their sum."""

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = False

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Int[Tensor, " k"],
        progress: Progress | None = None,
    ) -> SecondLook:
        """One view, the mirror image."""
        weights = torch.ones_like(first.probabilities).unsqueeze(0)
        views = Views(
            first.pixels.flip(-1).unsqueeze(0),
            weights,
            what="mirror image",
            boxes=(classifier.shown(first),),
        )
        return SecondLook.without_maps(first.pixels, views)
