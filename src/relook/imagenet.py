"""Names of the 1,000 ImageNet classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["imagenet_labels"]


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The name of each class in torchvision's list, in the order of the outputs; all differ.

    >>> from relook.imagenet import imagenet_labels
    >>> imagenet_labels()[:2]
    ('tench', 'goldfish')
    """
    # A copy of the list, since torchvision takes as long to import as PyTorch.
    file = Path(__file__).with_name("imagenet.txt")
    return tuple(file.read_text(encoding="utf-8").splitlines())
