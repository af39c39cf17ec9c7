"""Check that another form of a network gives the network's answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from relook.probing import probing_pixels

Normalise = Callable[[Tensor], Tensor]
"""Function from pixels in [0, 1] to a network's inputs."""


def as_trained(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Normalise pixels to [−2, 2], about the range of most networks' inputs."""
    return (pixels - 0.5) / 0.25


@torch.no_grad()
def check_agreement(
    form: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    network: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    example: Float[Tensor, "1 3 h w"],
    tolerance: float,
    what: str,
    normalise: Normalise = as_trained,
    images: int = 8,
) -> None:
    """Raise RuntimeError if any of (up to) eight very different images gets a different answer.

    Args:
        form: the other form of the network. It returns the outputs, or a tuple of them and the
            target layer's maps.
        network: the network, in eval mode, which returns the same.
        example: input of the network's input size, device and dtype.
        tolerance: largest error, relative to the largest value for the image, or to a tenth of
            the largest value for all images if that is more.
        what: adjective for the form in the message, such as "exported".
        normalise: function from pixels in [0, 1] to the network's inputs.
        images: number of these images to try, the first ones, which have the most detail.
    """
    inputs = normalise(probing_pixels(*example.shape[2:])[:images]).to(example)
    # One at a time: a batch of large images may not fit into memory.
    each = [_several(network(image)) for image in inputs.split(1)]
    expected = [torch.cat(parts) for parts in zip(*each, strict=True)]
    subjects = (f"the {what} network is", f"the {what} network's maps are")
    for subject, found, right in zip(subjects, _several(form(inputs)), expected, strict=False):
        error = _error(found.flatten(1), right.flatten(1))
        if not error < tolerance:
            raise RuntimeError(f"{subject} off by {error:.1e}")


def _several(returned: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (returned,) if isinstance(returned, Tensor) else returned


def _error(found: Float[Tensor, "n m"], expected: Float[Tensor, "n m"]) -> float:
    size = expected.abs().amax(dim=1)
    size = size.clamp_min(max(1e-6, 0.1 * float(size.max())))
    return float(((found - expected).abs().amax(dim=1) / size).max())
