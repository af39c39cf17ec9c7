"""Names of the 1,000 ImageNet classes."""

from __future__ import annotations

from torchvision.models import VGG16_Weights


def imagenet_labels() -> tuple[str, ...]:
    """The first name of each class, as torchvision lists them; no two are the same."""
    return tuple(VGG16_Weights.IMAGENET1K_V1.meta["categories"])
