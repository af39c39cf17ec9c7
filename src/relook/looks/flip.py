"""The mirror image: the cheapest second look, and the baseline to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from relook.attribution import Context
from relook.looks.protocol import SecondLook, Views


@dataclass(frozen=True)
class Flip:
    """The image mirrored left to right. Its answer weighs as much as the first answer.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Flip())
    >>> [view.what for view in corrector.correct("photo.jpg").views]
    ['mirror image']
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = False

    def __call__(self, context: Context) -> SecondLook:
        """Return one view, the mirror image."""
        weights = torch.ones_like(context.first.probabilities).unsqueeze(0)
        views = Views(
            context.first.pixels.flip(-1).unsqueeze(0),
            weights,
            what="mirror image",
            boxes=(context.shown,),
        )
        return SecondLook((views,))
