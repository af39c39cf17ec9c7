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
    shape: tuple[int, ...]
    tensor: object  # stands for the output; an output is not kept, a network's fill gigabytes
    version: int  # an in-place activation returns the same tensor in its next version
    operation: str  # the last operation on the output, as autograd names it

    @property
    def key(self) -> tuple[int, int]:
        return id(self.tensor), self.version

    @property
    def has_space(self) -> bool:
        return len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1

    @property
    def pools(self) -> bool:
        is_leaf = next(self.module.children(), None) is None
        return "Pool" in self.operation or (is_leaf and "Pool" in type(self.module).__name__)

    @property
    def size(self) -> str:
        return "×".join(str(side) for side in self.shape[1:])


@dataclass(frozen=True)
class Probe:
    """What one forward of a network showed.

    Attributes:
        outputs: what the network returned for the probing input.
        calls: every module call that returned one tensor, in order of completion.
    """

    outputs: Any
    calls: tuple[_Call, ...]


_STANDS_FOR = "_relook_stands_for"


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


@contextmanager
def differentiating(network: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Gradients begin at `layer`: the list holds the maps of its last call, a leaf.

    What follows in the network works on a copy, so that an in-place operation after the layer
    finds no leaf in its way; what comes before it keeps nothing for a backward.
    """
    maps: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not has_space(output):
            return output
        torch.set_grad_enabled(True)
        maps[:] = [output.detach().clone().requires_grad_()]
        return maps[0].clone()

    handle = network.get_submodule(layer).register_forward_hook(cut)
    try:
        # Until the layer is reached; leaving this restores the caller's mode.
        with torch.inference_mode(False), torch.set_grad_enabled(False):
            yield maps
    finally:
        handle.remove()


def probe(network: nn.Module, inputs: Tensor) -> Probe:
    """Run the network once in eval mode and note what every module returned."""
    if any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers())):
        raise ModelError(
            f"{type(network).__name__}: made under torch.inference_mode(), which does not say what "
            "its layers do; make it outside"
        )
    calls: list[_Call] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                operation = output.grad_fn.name() if output.grad_fn else ""
                if not hasattr(output, _STANDS_FOR):
                    setattr(output, _STANDS_FOR, object())
                same = getattr(output, _STANDS_FOR)
                shape = tuple(output.shape)
                calls.append(_Call(name, module, shape, same, output._version, operation))

        return hook

    # Gradients are never computed; autograd only names the operations, and keeps nothing.
    nothing = torch.empty(0)
    nothing_kept = torch.autograd.graph.saved_tensors_hooks(lambda _: nothing, lambda _: nothing)
    handles = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if name]
    try:
        with evaluating(network), torch.inference_mode(False), torch.enable_grad(), nothing_kept:
            # No leaf, so that a network may begin with an in-place operation.
            outputs = network(inputs.detach().clone().requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    return Probe(outputs.detach() if isinstance(outputs, Tensor) else outputs, tuple(calls))


def find_target_layer(calls: tuple[_Call, ...], classes: int, aspect: float = 1.0) -> str | None:
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
    last_call = {call.name: index for index, call in enumerate(calls) if call.has_space}
    for index in reversed(range(before_classes)):
        call = calls[index]
        if _is_tokens(call.shape, aspect):
            return None
        if not call.has_space:
            continue
        same = [i for i in range(before_classes) if calls[i].key == call.key]
        if calls[same[0]].pools:
            continue
        names = [calls[i].name for i in same if last_call[calls[i].name] == i]
        if names:
            return min(names, key=lambda name: name.count("."))
    return None


def _before_class_maps(calls: tuple[_Call, ...], classes: int) -> int:
    """How many calls come before the layer that turns features into one value a class.

    That is the last layer with a weight matrix, if it puts out one channel a class; normalisation
    or a temperature may follow it.
    """
    for index in reversed(range(len(calls))):
        own = list(calls[index].module.parameters(recurse=False))
        if own and calls[index].shape[1:2] != (classes,):
            return len(calls)
        if any(parameter.ndim >= 2 for parameter in own):
            return index
    return len(calls)


def _is_tokens(shape: tuple[int, ...], aspect: float) -> bool:
    """Whether the features are no (channels, height, width) any more.

    A sequence of tokens has three dimensions; maps with the channels last, read with the channels
    first, have an aspect that no image of this input has.
    """
    if len(shape) == 3:
        return shape[1] > 1 and shape[2] > 1
    if len(shape) == 4:
        height, width = shape[2:]
        # Rounding in strided layers leaves ±1 on each side.
        return (height + 1) < aspect * (width - 1) or (height - 1) > aspect * (width + 1)
    return False


def last_maps(calls: tuple[_Call, ...], aspect: float, count: int = 3) -> list[str]:
    """The last layers with maps, to choose from where none was chosen: "name (K×h×w)"."""
    seen = {}
    for call in calls:
        if call.has_space and not _is_tokens(call.shape, aspect):
            seen[call.key] = f"{call.name!r} ({call.size})"
    return list(seen.values())[-count:]


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
    if _is_tokens(own[-1].shape, aspect):
        raise ModelError(
            f"layer {layer!r} gives {own[-1].size}, which are tokens or have their channels last; "
            f"relook needs maps of channels × height × width{instead}"
        )
    if not any(call.has_space for call in own):
        raise ModelError(
            f"layer {layer!r} gives {own[-1].size}, and only maps larger than 1×1 tell where "
            f"something was seen{instead}"
        )
