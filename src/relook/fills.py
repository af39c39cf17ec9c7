"""Fills: the colours that replace hidden pixels."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from relook.errors import RelookError

__all__ = ["FILLS", "Fill", "fill_image", "hide"]

Fill = Literal["black", "mean", "blur"]
FILLS: tuple[str, ...] = get_args(Fill)

_BLUR_SIGMA = 0.05
"""Standard deviation of the blur as a share of the shorter side: 11 pixels for 224."""


def check_fill(fill: str) -> None:
    """Raise RelookError if the fill is unknown."""
    if fill not in FILLS:
        raise RelookError(f"fill {fill!r} is unknown; choose one of {', '.join(FILLS)}")


def fill_image(
    fill: str, pixels: Float[Tensor, "3 h w"], mean: tuple[float, ...]
) -> Float[Tensor, "3 h w"]:
    """The image that shows where pixels are hidden, with values in [0, 1].

    Args:
        fill: "black": pixel value 0. "mean": the mean of the training data, equivalent to
            multiplying the normalised tensor by 0. "blur": the image itself, heavily blurred.
        pixels: the image, in [0, 1].
        mean: the classifier's mean per colour channel, in [0, 1].

    Raises:
        RelookError: the fill is unknown.

    >>> from relook.fills import fill_image
    >>> fill_image("mean", torch.rand(3, 8, 8), mean=(0.5, 0.4, 0.3))[:, 0, 0]
    tensor([0.5000, 0.4000, 0.3000])
    """
    check_fill(fill)
    if fill == "black":
        return torch.zeros_like(pixels)
    if fill == "mean":
        return pixels.new_tensor(mean).reshape(3, 1, 1).expand_as(pixels)
    from torchvision.transforms.functional import gaussian_blur  # takes as long as torch itself

    sigma = max(_BLUR_SIGMA * min(pixels.shape[-2:]), 0.5)
    radius = min(int(3 * sigma + 0.5), min(pixels.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma, sigma])
    return blurred.clamp(0, 1)


def hide(
    pixels: Float[Tensor, "3 h w"],
    keep: Float[Tensor, "n h w"],
    hidden: Float[Tensor, "3 h w"],
    out: Float[Tensor, "n 3 h w"] | None = None,
) -> Float[Tensor, "n 3 h w"]:
    """Mask images M = X ⊙ L + fill ⊙ (1 − L), one for each map L.

    Args:
        pixels: the image X.
        keep: the maps L, in [0, 1]: 1 keeps a pixel, 0 replaces it.
        hidden: the fill, as `fill_image` returns it.
        out: a tensor to write the result to.

    >>> from relook.fills import hide
    >>> white, black = torch.ones(3, 1, 2), torch.zeros(3, 1, 2)
    >>> hide(white, torch.tensor([[[1.0, 0.25]]]), black)[0, 0]
    tensor([[1.0000, 0.2500]])
    """
    # Computed as fill + L ⊙ (X − fill): one pass, and exactly X ⊙ L if the fill is black.
    return torch.addcmul(hidden, keep.unsqueeze(1), pixels - hidden, out=out)
