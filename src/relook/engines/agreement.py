"""Whether another form of a network answers as the network does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def check_agreement(
    form: Callable[[Tensor], Tensor],
    network: nn.Module,
    example: Tensor,
    tolerance: float,
    what: str,
) -> None:
    """Raise RuntimeError if two noise images like `example` get other answers.

    Args:
        form: the other form.
        network: in eval mode.
        example: (1, 3, h, w), of the size, device and type of its inputs.
        tolerance: relative to the largest output.
        what: the form is called in the message.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(2, *example.shape[1:], generator=generator).to(example)
    expected = network(inputs)
    error = (form(inputs) - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    if not float(error) < tolerance:
        raise RuntimeError(f"the {what} network is off by {float(error):.1e}")
