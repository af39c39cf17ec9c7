"""The argument of looks and attribution methods: one image and the classes to explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from relook.classifier import Classifier
from relook.errors import RelookError
from relook.first_look import FirstLook
from relook.geometry import Box

Progress = Callable[[int, int], None]
"""Callback for progress, called with (forward passes done, forward passes in total)."""

Classes = SupportsIndex | Sequence[int] | NDArray[np.generic] | Int[Tensor, "..."]
"""One class index, or several in a list, an array or a tensor."""

_REMEDY = (
    "pass relook.attribution.Context(classifier, first, classes), with [first] = "
    'classifier.first_looks(pixels); from a photo: classifier.attribution("photo.jpg", classes, '
    "method=...)"
)


@dataclass(frozen=True, init=False)
class Context:
    """One image after the first look, and the classes to explain.

    Attributes:
        classifier: the classifier.
        first: the classifier's first look at the image.
        classes: (k,), class indices; for a look the top-k classes, most probable first.
        progress: called with (forward passes done, forward passes in total) while attribution maps
            are computed; None for no reports.

    >>> [first] = classifier.first_looks(torch.rand(1, 3, 224, 224))
    >>> context = relook.attribution.Context(classifier, first, [281, 285])
    >>> context.classes, context.size, context.shown
    (tensor([281, 285]), (224, 224), (0.0, 0.0, 224.0, 224.0))
    """

    classifier: Classifier
    first: FirstLook
    classes: Int[Tensor, " k"]
    progress: Progress | None
    _cuts: dict[tuple[Box, tuple[int, int] | None], Tensor] = field(
        init=False, repr=False, compare=False
    )

    def __init__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Classes,
        progress: Progress | None = None,
    ) -> None:
        """Check the arguments and move the classes to the classifier's device.

        Raises:
            RelookError: an argument has the wrong type, or the classifier has no such class.
        """
        if not isinstance(classifier, Classifier):
            raise RelookError(
                f"a Context needs a relook.Classifier first, not a {type(classifier).__name__}; "
                f"{_REMEDY}"
            )
        if not isinstance(first, FirstLook):
            raise RelookError(
                f"a Context needs the first look at an image, not a {type(first).__name__}; "
                f"{_REMEDY}"
            )
        # Attributes of a frozen dataclass can only be set this way.
        object.__setattr__(self, "classifier", classifier)
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "classes", class_indices(classifier, classes))
        object.__setattr__(self, "progress", progress)
        object.__setattr__(self, "_cuts", {})

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first look's pixels."""
        return self.first.size

    @property
    def extent(self) -> tuple[int, int]:
        """(width, height) of the image to cut views from: the original, or else the pixels."""
        return self.first.extent

    @property
    def shown(self) -> Box:
        """The part of the image that the first look showed, in pixels of `extent`."""
        return self.first.shown

    def cut(self, box: Box, size: tuple[int, int] | None = None) -> Float[Tensor, "3 h w"]:
        """Cut a box from the image, as pixels in [0, 1] (see `FirstLook.cut`).

        Looks that are made of others ask for the same pixels again, which are kept.

        Args:
            box: (left, top, right, bottom), in pixels of `extent`.
            size: (height, width) to resize the box to; the size of the first look by default.
        """
        left, top, right, bottom = box
        key = ((left, top, right, bottom), None if size is None else (size[0], size[1]))
        if key not in self._cuts:
            self._cuts[key] = self.first.cut(*key)
        return self._cuts[key].clone()


def check_context(method: object, context: object) -> None:
    """Raise RelookError if an attribution method was called with anything but a Context."""
    if not isinstance(context, Context):
        raise RelookError(
            f"{type(method).__name__} needs a Context, not a {type(context).__name__}; {_REMEDY}"
        )


def class_indices(classifier: Classifier, classes: Any) -> Int[Tensor, " k"]:
    """Convert class indices to a tensor on the classifier's device.

    Raises:
        RelookError: the indices are not whole numbers, or the classifier has no such class.
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
