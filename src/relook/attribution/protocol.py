"""What every attribution method takes and gives, and the steps that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from relook.classifier import Classifier, FirstLook
from relook.errors import RelookError

Progress = Callable[[int, int], None]
"""Told (forwards done, forwards in all) as an attribution goes on."""


@dataclass(frozen=True)
class AttributionMaps:
    """Where each class was seen.

    Attributes:
        maps: (k, H, W) in [0, 1], one a class; all 0 where nothing was found.
        forwards: how many images went through the network for them, the first look not counted.
        backwards: how many times gradients went back through it.
        notes: what was done otherwise than the method says because the network does not allow it:
            in words, each beginning with "without".
    """

    maps: Float[Tensor, "k h w"]
    forwards: int
    backwards: int = 0
    notes: tuple[str, ...] = ()


Classes = SupportsIndex | Sequence[int] | NDArray[np.generic] | Int[Tensor, "..."]
"""Class indices: one, or several in a list, an array or a tensor."""


@runtime_checkable
class Attribution(Protocol):
    """A method that says where the network saw each of several classes in one image."""

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Int[Tensor, " k"],
        progress: Progress | None = None,
    ) -> AttributionMaps:
        """Attribution maps of `classes` for the image of `first`, which holds activations."""
        ...


def class_indices(classifier: Classifier, classes: Any) -> Int[Tensor, " k"]:
    """Class indices as a tensor on the classifier's device, if they are such.

    Raises:
        RelookError: they are no whole numbers, or the classifier has no such class.
    """
    remedy = "pass an index, or a list, array or tensor of them, such as [281, 285]"
    try:
        found = torch.as_tensor(classes, device=classifier.device)
    except (TypeError, ValueError, RuntimeError):
        raise RelookError(f"classes must be class indices, not {classes!r}; {remedy}") from None
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        if found.numel():
            raise RelookError(f"classes must be whole numbers, not {found.dtype}; {remedy}")
        found = found.long()
    if found.ndim > 1:
        raise RelookError(f"classes must be one row, not of shape {tuple(found.shape)}; {remedy}")
    found = found.reshape(-1).long()
    count = len(classifier.labels)
    outside = found[(found < 0) | (found >= count)]
    if len(outside):
        raise RelookError(
            f"{classifier.name} has no class {int(outside[0])}: its {count:,} classes are 0 to "
            f"{count - 1:,}"
        )
    return found


def checked(method: object, classifier: object, first: object, classes: Any) -> Int[Tensor, " k"]:
    """The classes that a method was called with, if it was called with what it needs.

    Raises:
        RelookError: it was not; the message says what to pass.
    """
    name = type(method).__name__
    call = (
        f"call it as relook.{name}()(classifier, first, classes), with [first] = "
        'classifier.first_looks(pixels); from a photo: classifier.attribution("photo.jpg", '
        "classes, method=...)"
    )
    if not isinstance(classifier, Classifier):
        raise RelookError(
            f"{name} needs a relook.Classifier first, not a {type(classifier).__name__}; {call}"
        )
    if not isinstance(first, FirstLook):
        raise RelookError(
            f"{name} needs the first look at an image, not a {type(first).__name__}; {call}"
        )
    if classes is None:
        raise RelookError(f"{name} needs the classes whose maps are wanted; {call}")
    return class_indices(classifier, classes)


def activations_of(first: FirstLook) -> Float[Tensor, "k u v"]:
    """The target layer's maps, or a RelookError if the first look was taken without them."""
    if first.activations is None:
        raise RelookError("this first look has no activation maps: take it with activations=True")
    return first.activations


def full_precision(like: Tensor) -> torch.autocast:
    """A context in which the caller's autocast, meant for the network, leaves maps alone."""
    return torch.autocast(like.device.type, enabled=False)


def upsample(
    maps: Float[Tensor, "n u v"], size: tuple[int, int], align_corners: bool = False
) -> Float[Tensor, "n h w"]:
    """up: bilinear to (H, W)."""
    return interpolate(
        maps.unsqueeze(1), size, mode="bilinear", align_corners=align_corners
    ).squeeze(1)


def min_max(maps: Float[Tensor, "n h w"], eps: float = 0.0) -> Float[Tensor, "n h w"]:
    """s: each map to [0, 1] by its own minimum and maximum; a flat map becomes all 0."""
    return rescale(
        maps, maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True), eps
    )


def rescale(
    maps: Float[Tensor, "n h w"],
    low: Float[Tensor, "n 1 1"],
    high: Float[Tensor, "n 1 1"],
    eps: float = 0.0,
) -> Float[Tensor, "n h w"]:
    """(maps − low) / (high − low + eps); 0 where that has no width."""
    span = high - low + eps
    return (maps - low).div_(torch.where(span > 0, span, torch.ones_like(span)))


def combine(
    weights: Float[Tensor, "c k"], activations: Float[Tensor, "k u v"], size: tuple[int, int]
) -> Float[Tensor, "c h w"]:
    """L^c = s(ReLU(sum_k alpha_k^c · up(A_k))) for every class at once.

    Upsampling is linear, so the sum is taken at the maps' own size and upsampled once.
    """
    with full_precision(activations):
        summed = torch.einsum("ck,kuv->cuv", weights, activations)
    return min_max(upsample(summed, size).relu())
