"""What a hidden pixel becomes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from relook.errors import RelookError

Fill = Literal["black", "mean", "blur"]
FILLS: tuple[str, ...] = get_args(Fill)

_BLUR_SIGMA = 0.05
"""Standard deviation of the blur as a share of the shorter side: 11 pixels of 224."""


def check_fill(fill: str) -> None:
    """Raise RelookError if there is no such fill."""
    if fill not in FILLS:
        raise RelookError(f"fill {fill!r} is unknown; choose one of {', '.join(FILLS)}")


def fill_image(
    fill: str, pixels: Float[Tensor, "3 h w"], mean: tuple[float, ...]
) -> Float[Tensor, "3 h w"]:
    """What stands where nothing of `pixels` is kept, in [0, 1].

    "black": pixel value 0. "mean": the dataset mean, which is what multiplying the
    mean/std-normalised tensor by 0 gives. "blur": the image itself, so blurred that its details
    are gone.
    """
    check_fill(fill)
    if fill == "black":
        return torch.zeros_like(pixels)
    if fill == "mean":
        return pixels.new_tensor(mean).reshape(3, 1, 1).expand_as(pixels)
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
    """M = X ⊙ L + fill ⊙ (1 − L): one image for each map of what to keep, written to `out`."""
    # Written as fill + L ⊙ (X − fill): one pass, and exactly X ⊙ L where the fill is black.
    return torch.addcmul(hidden, keep.unsqueeze(1), pixels - hidden, out=out)
