"""PyTorch with each BatchNorm folded into the convolution before it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from relook.engines.agreement import Normalise, as_trained, check_agreement

# Largest error of the folded network, relative to the largest output.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class Folded:
    """A copy of a network whose BatchNorms are folded into convolutions; other weights are shared.

    In eval mode BatchNorm scales and shifts each channel, which the convolution before it can do
    at no cost. One forward pass finds that convolution: its output is the BatchNorm's input.

    >>> from relook.engines import Folded
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()
    ... ).eval()
    >>> inputs = torch.rand(1, 3, 8, 8)
    >>> folded = Folded(network, inputs)
    >>> torch.allclose(folded(inputs), network(inputs), atol=1e-5)
    True
    """

    name = "PyTorch (BatchNorm folded)"

    def __init__(
        self,
        network: nn.Module,
        example: Float[Tensor, "1 3 h w"],
        memory_format: torch.memory_format = torch.channels_last,
        normalise: Normalise = as_trained,
    ) -> None:
        """Fold a network and check the result against it.

        Args:
            network: network in eval mode, on any device, of any floating-point type.
            example: input of the network's input size, device and dtype.
            memory_format: memory format of the network's inputs.
            normalise: function from pixels in [0, 1] to the network's inputs.

        Raises:
            RuntimeError: no BatchNorm can be folded, or the folded network's answers differ.
        """
        self._dtype = example.dtype
        self._format = memory_format
        # Rounding in half precision would hide a wrong fold, so the check runs in float32.
        exact = self._dtype in _TOLERANCE
        reference = network if exact else copy.deepcopy(network).float()
        example = example if exact else example.float()
        # TensorFloat-32, which cuDNN uses by default, rounds as much as half precision does.
        with torch.inference_mode(False), torch.no_grad(), cudnn.flags(allow_tf32=False):
            pairs = _pairs(reference, example)
            if not pairs:
                raise RuntimeError("no BatchNorm follows a convolution")
            folded = _folded(reference, pairs)
            tolerance = _TOLERANCE[example.dtype]
            check_agreement(folded, reference, example, tolerance, "folded", normalise)
            self._network = folded if exact else _folded(network, pairs)

    @torch.no_grad()
    def __call__(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute raw outputs for normalised inputs, at least float32."""
        inputs = inputs.to(self._dtype, memory_format=self._format)
        outputs: Tensor = self._network(inputs)
        return outputs.float() if self._dtype in (torch.float16, torch.bfloat16) else outputs


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm whose input is its output."""
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()
    last: list[Any] = ["", None, 0]  # only the last output is kept: all of them fill gigabytes

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            if isinstance(module, nn.Conv2d) and not is_parametrized(module):
                last[:] = [name, output, output._version]
            elif isinstance(module, nn.BatchNorm2d):
                # An in-place activation in between returns the same tensor with a higher version.
                same = inputs and inputs[0] is last[1] and inputs[0]._version == last[2]
                if same and module.running_var is not None:
                    pairs.append((last[0], name))
                last[:] = ["", None, 0]

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if name]
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    # A module that is called twice cannot be folded for one of the calls alone.
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)]


def _folded(network: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    # Copy the modules only: the memo makes deepcopy return each tensor itself.
    tensors = (*network.parameters(), *network.buffers())
    folded = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for convolution, norm in pairs:
        _fold(folded, convolution, norm)
    return folded


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
    # timm's BatchNorm contains its activation function.
    rest = [module for module in (getattr(bn, "drop", None), getattr(bn, "act", None)) if module]
    network.set_submodule(norm, nn.Sequential(*rest) if rest else nn.Identity())
