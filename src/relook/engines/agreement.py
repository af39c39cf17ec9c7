"""Whether another form of a network answers as the network does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relook.probing import probing_pixels

Normalise = Callable[[Tensor], Tensor]
"""Makes a network's inputs of pixels in [0, 1]."""


def as_trained(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Inputs from −2 to 2, as most normalisation gives."""
    return (pixels - 0.5) / 0.25


@torch.no_grad()
def check_agreement(
    form: Callable[[Tensor], Tensor],
    network: nn.Module,
    example: Float[Tensor, "1 3 h w"],
    tolerance: float,
    what: str,
    normalise: Normalise = as_trained,
) -> None:
    """Raise RuntimeError if any of eight very different images gets another answer.

    Args:
        form: the other form.
        network: in eval mode.
        example: of the size, device and type of its inputs.
        tolerance: relative to the largest output for an image, or to a tenth of the largest of all.
        what: the form is called in the message.
        normalise: what makes its inputs of pixels.
    """
    inputs = normalise(probing_pixels(*example.shape[2:])).to(example)
    # One at a time: a batch of large images may not fit.
    expected = torch.cat([network(image) for image in inputs.split(1)])
    found = form(inputs)
    size = expected.abs().amax(dim=1)
    size = size.clamp_min(max(1e-6, 0.1 * float(size.max())))
    error = float(((found - expected).abs().amax(dim=1) / size).max())
    if not error < tolerance:
        raise RuntimeError(f"the {what} network is off by {error:.1e}")
