"""What a look or an attribution method is called with: one image, and the classes in question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
"""Called with (forward passes done, forward passes in all) as an attribution goes on."""

Classes = SupportsIndex | Sequence[int] | NDArray[np.generic] | Int[Tensor, "..."]
"""Class indices: one, or several in a list, an array or a tensor."""

_REMEDY = (
    "pass relook.attribution.Context(classifier, first, classes), with [first] = "
    'classifier.first_looks(pixels); from a photo: classifier.attribution("photo.jpg", classes, '
    "method=...)"
)


@dataclass(frozen=True, init=False)
class Context:
    """One image that the classifier has looked at, and the classes in question.

    Attributes:
        classifier: the classifier.
        first: its first look at the image.
        classes: (k,), class indices; for a look the top-k classes, the most probable first.
        progress: called with (forward passes done, forward passes in all) while an attribution
            goes on.

    >>> [first] = classifier.first_looks(torch.rand(1, 3, 224, 224))
    >>> context = relook.attribution.Context(classifier, first, [281, 285])
    >>> context.classes, context.size, context.shown
    (tensor([281, 285]), (224, 224), (0.0, 0.0, 224.0, 224.0))
    """

    classifier: Classifier
    first: FirstLook
    classes: Int[Tensor, " k"]
    progress: Progress | None

    def __init__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Classes,
        progress: Progress | None = None,
    ) -> None:
        """Bring the classes to the classifier's device.

        Raises:
            RelookError: an argument is of another type, or the classifier has no such class.
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
        # The way to set an attribute of a frozen dataclass.
        object.__setattr__(self, "classifier", classifier)
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "classes", class_indices(classifier, classes))
        object.__setattr__(self, "progress", progress)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first look's pixels."""
        return self.first.size

    @property
    def extent(self) -> tuple[int, int]:
        """(width, height) of what there is to cut views from: the original, else the pixels."""
        return self.first.extent

    @property
    def shown(self) -> Box:
        """The part of the image that the first look showed, in pixels of `extent`."""
        return self.first.shown

    def cut(self, box: Box, size: tuple[int, int] | None = None) -> Float[Tensor, "3 h w"]:
        """Pixels in [0, 1] of any box of the image (see `Classifier.cut`).

        Args:
            box: in pixels of `extent`.
            size: (height, width) to resize the box to; that of the first look by default.
        """
        return self.first.cut(box, size)


def check_context(method: object, context: object) -> None:
    """Raise RelookError where an attribution method was called with something else."""
    if not isinstance(context, Context):
        raise RelookError(
            f"{type(method).__name__} needs a Context, not a {type(context).__name__}; {_REMEDY}"
        )


def class_indices(classifier: Classifier, classes: Any) -> Int[Tensor, " k"]:
    """Class indices as a tensor on the classifier's device.

    Raises:
        RelookError: they are not whole numbers, or the classifier has no such class.
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
