"""The interface of attribution methods, and the steps that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from relook.attribution.context import Context
from relook.errors import RelookError
from relook.first_look import FirstLook


@dataclass(frozen=True)
class Note:
    """A part of a look or an attribution method that was skipped.

    >>> str(relook.attribution.Note("quarter turns", instead="the half turn"))
    'without quarter turns; the half turn instead'

    Attributes:
        without: what was skipped, and why.
        instead: what was done instead; empty for nothing.
    """

    without: str
    instead: str = ""

    def __str__(self) -> str:
        return f"without {self.without}" + (f"; {self.instead} instead" if self.instead else "")


@dataclass(frozen=True)
class AttributionMaps:
    """Maps of where the network sees each class, and what computing them took.

    Attributes:
        maps: (k, H, W) in [0, 1], one map per class; all 0 if the class was not found.
        forwards: number of forward passes, one per image, not counting the first look.
        backwards: number of backward passes.
        notes: what was skipped because the network does not support it.

    >>> [first] = classifier.first_looks(torch.rand(1, 3, 224, 224))
    >>> found = relook.CAM()(relook.attribution.Context(classifier, first, [281, 285]))
    >>> tuple(found.maps.shape), found.forwards, found.notes
    ((2, 224, 224), 0, ())
    """

    maps: Float[Tensor, "k h w"]
    forwards: int
    backwards: int = 0
    notes: tuple[Note, ...] = ()


@runtime_checkable
class Attribution(Protocol):
    """An attribution method: a function from one image to a map of each class.

    >>> def brightness(context):
    ...     grey = context.first.pixels.mean(dim=0)
    ...     maps = grey.expand(len(context.classes), -1, -1)
    ...     return relook.attribution.AttributionMaps(maps, forwards=0)
    >>> classifier.attribution("photo.jpg", ["tabby", "tiger cat"], method=brightness)
    <Seen photo.jpg: tabby, tiger cat, 1 forwards>
    """

    def __call__(self, context: Context) -> AttributionMaps:
        """Compute the maps of `context.classes`; the first look must hold activations."""
        ...


def activations_of(first: FirstLook) -> Float[Tensor, "k u v"]:
    """Return the target layer's maps A_k.

    Raises:
        RelookError: the first look was taken without activations.
    """
    if first.activations is None:
        raise RelookError("this first look has no activation maps: take it with activations=True")
    return first.activations


def full_precision(like: Tensor) -> torch.autocast:
    """Return a context manager that turns off autocast, which is meant for the network only."""
    return torch.autocast(like.device.type, enabled=False)


def upsample(
    maps: Float[Tensor, "n u v"], size: tuple[int, int], align_corners: bool = False
) -> Float[Tensor, "n h w"]:
    """up: bilinear upsampling to `size` = (H, W)."""
    return interpolate(
        maps.unsqueeze(1), size, mode="bilinear", align_corners=align_corners
    ).squeeze(1)


def min_max(maps: Float[Tensor, "n h w"], eps: float = 0.0) -> Float[Tensor, "n h w"]:
    """s: rescale each map to [0, 1] by its own minimum and maximum; a constant map becomes 0."""
    return rescale(
        maps, maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True), eps
    )


def rescale(
    maps: Float[Tensor, "n h w"],
    low: Float[Tensor, "n 1 1"],
    high: Float[Tensor, "n 1 1"],
    eps: float = 0.0,
) -> Float[Tensor, "n h w"]:
    """Compute (maps − low) / (high − low + eps), or 0 if the denominator is 0."""
    span = high - low + eps
    return (maps - low).div_(torch.where(span > 0, span, torch.ones_like(span)))


def combine(
    weights: Float[Tensor, "c k"], activations: Float[Tensor, "k u v"], size: tuple[int, int]
) -> Float[Tensor, "c h w"]:
    """Compute L^c = s(ReLU(sum_k alpha_k^c · up(A_k))) for every class at once.

    Upsampling is linear, so the sum is computed at the maps' own size and upsampled once.
    """
    with full_precision(activations):
        summed = torch.einsum("ck,kuv->cuv", weights, activations)
    return min_max(upsample(summed, size).relu())
