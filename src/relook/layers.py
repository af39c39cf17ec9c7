"""The target layer: finding it by watching one forward, and recording what it puts out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relook.errors import ModelError


@dataclass(frozen=True)
class _Call:
    """One module's turn in the probing forward."""

    name: str
    module: nn.Module
    output: Tensor
    version: int  # an in-place activation returns the same tensor in its next version
    operation: str  # the last operation on the output, as autograd names it

    @property
    def key(self) -> tuple[int, int]:
        return id(self.output), self.version

    @property
    def pools(self) -> bool:
        return "Pool" in self.operation or "Pool" in type(self.module).__name__

    @property
    def size(self) -> str:
        return "×".join(str(side) for side in self.output.shape[1:])


@dataclass(frozen=True)
class Probe:
    """What one forward of a network showed.

    Attributes:
        outputs: what the network returned for the probing input.
        calls: every module call that returned one tensor, in order of completion.
    """

    outputs: Any
    calls: tuple[_Call, ...]


def has_space(output: Any) -> bool:
    """Whether a module's output is a batch of maps larger than 1×1."""
    return isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run in eval mode; every module gets its own flag back, also after an exception."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def recording(network: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Record the maps that `layer` puts out: the list holds those of its last call.

    A layer that is called several times (a shared ReLU) is recorded at its last call that
    returns maps. The maps are copied, so that an in-place operation after the layer cannot
    rewrite them.
    """
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if has_space(output):
            maps[:] = [output.detach().clone()]

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        yield maps
    finally:
        handle.remove()


def probe(network: nn.Module, inputs: Tensor) -> Probe:
    """Run the network once in eval mode and note what every module returned."""
    calls: list[_Call] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                operation = output.grad_fn.name() if output.grad_fn else ""
                calls.append(_Call(name, module, output, output._version, operation))

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if name]
    try:
        # Gradients are never computed; autograd only names the operations. The input is not a
        # leaf, so that a network may begin with an in-place operation.
        with evaluating(network), torch.enable_grad():
            outputs = network(inputs.detach().requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    return Probe(outputs.detach() if isinstance(outputs, Tensor) else outputs, tuple(calls))


def find_target_layer(
    calls: tuple[_Call, ...], classes: int, aspect: float = 1.0
) -> str | None:
    """The last layer with maps larger than 1×1 before pooling, after its activation function.

    Of the modules that return the very same maps (a block and its last activation) the outermost
    is named. Maps with one channel a class, which a 1×1 convolution makes in place of a fully
    connected layer, are not activation maps but class maps, and are passed over.

    Args:
        calls: of a probing forward.
        classes: how many the network tells apart.
        aspect: height / width of the network's input.

    Returns:
        The layer's name, or None where there is none: nothing has maps, or the network turns
        them into tokens.
    """
    before_classes = _before_class_maps(calls, classes)
    last_call = {call.name: index for index, call in enumerate(calls) if has_space(call.output)}
    for index in reversed(range(before_classes)):
        call = calls[index]
        if _is_tokens(call.output, aspect):
            return None
        if not has_space(call.output):
            continue
        same = [i for i in range(before_classes) if calls[i].key == call.key]
        if calls[same[0]].pools:
            continue
        names = [calls[i].name for i in same if last_call[calls[i].name] == i]
        if names:
            return min(names, key=lambda name: name.count("."))
    return None


def _before_class_maps(calls: tuple[_Call, ...], classes: int) -> int:
    """How many calls come before the layer that turns features into one value a class."""
    for index in reversed(range(len(calls))):
        call = calls[index]
        if next(call.module.parameters(recurse=False), None) is not None:
            return index if call.output.shape[1:2] == (classes,) else len(calls)
    return len(calls)


def _is_tokens(output: Tensor, aspect: float) -> bool:
    """Whether the features are no (channels, height, width) any more.

    A sequence of tokens has three dimensions; maps with the channels last, read with the channels
    first, have an aspect that no image of this input has.
    """
    if output.ndim == 3:
        return output.shape[1] > 1 and output.shape[2] > 1
    if output.ndim == 4:
        height, width = output.shape[2:]
        # Rounding in strided layers leaves ±1 on each side.
        return (height + 1) < aspect * (width - 1) or (height - 1) > aspect * (width + 1)
    return False


def check_layer(
    network: nn.Module, calls: tuple[_Call, ...], layer: str, classes: int, aspect: float = 1.0
) -> None:
    """Raise ModelError, with what to pass instead, if `layer` gives no maps larger than 1×1."""
    names = [name for name, _ in network.named_modules() if name]
    found = find_target_layer(calls, classes, aspect)
    instead = f"; pass another, for instance {found!r}" if found else "; pass another"
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4)
        closest = ", ".join(repr(name) for name in close) or f"{found!r}"
        raise ModelError(f"layer {layer!r} is not in the network; closest: {closest}")
    own = [call for call in calls if call.name == layer]
    if not own:
        raise ModelError(f"layer {layer!r} is never called, or returns no tensor{instead}")
    if not any(has_space(call.output) for call in own):
        raise ModelError(
            f"layer {layer!r} gives {own[-1].size}, and only maps larger than 1×1 tell where "
            f"something was seen{instead}"
        )
