"""Rotations and mirror images, for images without a natural orientation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from relook.attribution import Context, Note
from relook.looks.protocol import SecondLook, Views


@dataclass(frozen=True)
class Symmetries:
    """The image rotated by 90, 180 and 270 degrees; with `mirrored` all symmetries of a square,
    which are eight with the first look. All have equal weight.

    For satellite images, cells, and other images without a natural orientation. If the input is not
    square and the network does not accept it rotated by 90 degrees, only the rotation by 180
    degrees is used.

    Attributes:
        mirrored: whether to use the eight symmetries instead of the four rotations.

    >>> corrector = relook.Corrector(classifier, look=relook.looks.Symmetries())
    >>> [view.what for view in corrector.correct("photo.jpg").views]
    ['turned by 90°', 'turned by 180°', 'turned by 270°']
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = False

    mirrored: bool = False

    def __call__(self, context: Context) -> SecondLook:
        """Return three views, or seven with `mirrored`; one or three without quarter turns."""
        classifier, first = context.classifier, context.first
        height, width = first.size
        quarters = height == width or classifier.takes(width, height)
        turns = (1, 2, 3) if quarters else (2,)
        ways = [(turn, False) for turn in turns]
        if self.mirrored:
            ways += [(turn, True) for turn in (0, *turns)]
        weights = torch.ones_like(first.probabilities).unsqueeze(0)
        shown = (context.shown,)
        views = [
            Views(_turned(first.pixels, *way).unsqueeze(0), weights, what=_what(*way), boxes=shown)
            for way in ways
        ]
        refused = Note(f"quarter turns, since {classifier.name} does not accept {width}×{height}")
        return SecondLook(tuple(views), left_out=() if quarters else (refused,))


def _turned(pixels: Tensor, turn: int, mirrored: bool) -> Tensor:
    turned = torch.rot90(pixels, turn, (1, 2))
    return turned.flip(-1) if mirrored else turned


def _what(turn: int, mirrored: bool) -> str:
    if not turn:
        return "mirror image"
    return f"turned by {90 * turn}°" + (", mirrored" if mirrored else "")
