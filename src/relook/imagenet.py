"""Names of the 1,000 ImageNet classes."""

from __future__ import annotations

from torchvision.models import VGG16_Weights

__all__ = ["imagenet_labels"]


def imagenet_labels() -> tuple[str, ...]:
    """The name of each class in torchvision's list, in the order of the outputs; all differ.

    >>> from relook.imagenet import imagenet_labels
    >>> imagenet_labels()[:2]
    ('tench', 'goldfish')
    """
    return tuple(VGG16_Weights.IMAGENET1K_V1.meta["categories"])
