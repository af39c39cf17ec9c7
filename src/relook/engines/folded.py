"""PyTorch with each BatchNorm folded into the convolution before it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_TOLERANCE_HALF = 5e-2
"""How far the folded network may be off, relative to the largest output, by dtype."""


class Folded:
    """A copy of the network without its BatchNorms; it shares all other weights.

    In eval mode BatchNorm is a scale and a shift of each channel, which the convolution before it
    can do at no cost. Which convolution that is shows in one forward: its output is what the
    BatchNorm gets.
    """

    name = "PyTorch (BatchNorm folded)"

    def __init__(self, network: nn.Module, example: Float[Tensor, "1 3 h w"]) -> None:
        """Fold a network, which must be in eval mode, and check the result against it.

        Args:
            network: on any device, of any floating-point type.
            example: of the size, device and type of its inputs.

        Raises:
            RuntimeError: there is nothing to fold, or the folded network answers differently.
        """
        self._dtype = example.dtype
        with torch.no_grad():
            pairs = _pairs(network, example)
            if not pairs:
                raise RuntimeError("no BatchNorm follows a convolution")
            # A copy of the modules alone: copying a tensor gives the tensor itself.
            tensors = (*network.parameters(), *network.buffers())
            self._network = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
            for convolution, norm in pairs:
                _fold(self._network, convolution, norm)
            generator = torch.Generator().manual_seed(1)
            inputs = torch.rand(2, 3, *example.shape[-2:], generator=generator).to(example)
            expected = network(inputs)
            error = (self(inputs) - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
        if not float(error) < _TOLERANCE.get(example.dtype, _TOLERANCE_HALF):
            raise RuntimeError(f"the folded network is off by {float(error):.1e}")

    @torch.no_grad()
    def __call__(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Raw outputs for normalised inputs, at least float32."""
        inputs = inputs.to(self._dtype, memory_format=torch.channels_last)
        outputs: Tensor = self._network(inputs)
        return outputs.float() if self._dtype in (torch.float16, torch.bfloat16) else outputs


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm that gets its very output."""
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()
    last: list[Any] = ["", None]  # one output is held at a time: all of them fill gigabytes

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            if isinstance(module, nn.Conv2d):
                last[:] = [name, output]
            elif isinstance(module, nn.BatchNorm2d):
                if inputs and inputs[0] is last[1] and module.running_var is not None:
                    pairs.append((last[0], name))
                last[:] = ["", None]

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if name]
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    # A module that is called twice has two roles.
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)]


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)

    def wide(tensor: Tensor | None) -> Any:
        return tensor.float() if tensor is not None and tensor.dtype != torch.float64 else tensor

    weight, bias = fuse_conv_bn_weights(
        wide(conv.weight),
        wide(conv.bias),
        wide(bn.running_mean),
        wide(bn.running_var),
        bn.eps,
        wide(bn.weight),
        wide(bn.bias),
    )
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    # timm's BatchNorm brings its activation along.
    rest = [module for module in (getattr(bn, "drop", None), getattr(bn, "act", None)) if module]
    network.set_submodule(norm, nn.Sequential(*rest) if rest else nn.Identity())
