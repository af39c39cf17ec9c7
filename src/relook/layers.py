"""Watching a network's layers: what they put out, and whether the answer depends on it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from relook.answers import class_outputs
from relook.errors import ModelError
from relook.layout import Layout
from relook.target import Call, Target
from relook.wrappers import uncompiled

REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)
"""What networks raise on an input they do not take."""


@dataclass(frozen=True)
class Probe:
    """What one forward of a network showed.

    Attributes:
        outputs: what the network returned for the probing input.
        calls: every layer's call that returned a tensor, in order of completion.
        ends_in: the operations that the class outputs come from, as "Addmm", "Sigmoid" or (of an
            ONNX graph) "Gemm", apart from what keeps values within what they were, up to a scale
            and a shift; "" where that cannot be told. Nothing where they come from the input itself
            so.
    """

    outputs: Any
    calls: tuple[Call, ...]
    ends_in: frozenset[str] = frozenset({""})


Matrix = tuple[Tensor, Tensor | None]
"""The weights (C, K) of a layer that joins K features to C, and its bias (C)."""


@runtime_checkable
class ShowsLayers(Protocol):
    """A module that shows its layers itself, where there is nothing to hook: an ONNX graph."""

    @property
    def is_exact(self) -> bool:
        """Whether it computes in float32 or better."""
        ...

    def probe(self, inputs: Tensor) -> Probe:
        """Run once and say what every layer put out."""
        ...

    def recording(self, target: Target) -> AbstractContextManager[list[Tensor]]:
        """As the function of that name."""
        ...

    def matters(self, target: Target, inputs: Tensor) -> bool:
        """As the function of that name."""
        ...

    def matrices(self) -> Iterator[Matrix]:
        """As the function of that name."""
        ...


_STANDS_FOR = "_relook_stands_for"
_POOLING = re.compile("Pool(?!Former)")


_TURN = threading.RLock()


def exclusive() -> AbstractContextManager[bool]:
    """The lock to hold while a network is run, hooked, exported or switched to eval mode.

    Hooks and mode flags sit on modules, which threads share: in two threads at once, the maps of
    one image would be taken for those of another, and a forward pass would run in train mode. It
    is one lock for the process, since networks may share modules (members of an ensemble, a
    temperature around a network), and PyTorch's exporter keeps its state in the process. The same
    thread may take it again.
    """
    return _TURN


def _after_fork() -> None:
    """A forked process has no other threads: what they held is free."""
    global _TURN
    _TURN = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run in eval mode, one thread at a time; every module gets its own flag back, also after an
    exception.
    """
    with exclusive():
        flags = [(module, module.training) for module in network.modules()]
        network.eval()
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training


@contextmanager
def recording(network: nn.Module, target: Target) -> Iterator[list[Tensor]]:
    """Record the maps (N, K, h, w) that the target layer puts out: those of its last call.

    A layer that is called several times (a shared ReLU) is recorded at its last call that
    returns maps. The maps are copied, so that an in-place operation after the layer cannot
    rewrite them.
    """
    if isinstance(network, ShowsLayers):
        with exclusive(), network.recording(target) as maps:
            yield maps
        return
    maps = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found = _maps_of(output, target.layout)
        if found is not None:
            maps[:] = [found.detach().clone(memory_format=torch.contiguous_format)]

    with _hooked(network, target.layer, keep):
        yield maps


@contextmanager
def differentiating(network: nn.Module, target: Target) -> Iterator[list[Tensor]]:
    """Gradients begin at the target layer: the list holds the output of its last call, a leaf.

    What follows in the network works on a copy, so that an in-place operation after the layer
    finds no leaf in its way; what comes before it keeps nothing for a backward.
    """
    if isinstance(network, ShowsLayers):
        raise ModelError("an ONNX graph has no gradients; use Score-CAM (--attribution scorecam)")
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if _maps_of(output, target.layout) is None:
            return output
        torch.set_grad_enabled(True)
        leaves[:] = [_first_tensor(output).detach().clone().requires_grad_()]
        return _replaced(output, leaves[0].clone())

    # Until the layer is reached; leaving this restores the caller's mode.
    with (
        _hooked(network, target.layer, cut),
        torch.inference_mode(False),
        torch.set_grad_enabled(False),
    ):
        yield leaves


def matrices(network: nn.Module) -> Iterator[Matrix]:
    """Weights and biases of fully connected layers and convolutions, the last layer first.

    The weights of a convolution are flattened after their first dimension: (C, K) if it is 1×1.
    """
    if isinstance(network, ShowsLayers):
        yield from network.matrices()
        return
    for module in reversed(list(network.modules())):
        if isinstance(module, nn.Linear | nn.Conv2d):
            bias = None if module.bias is None else module.bias.detach()
            yield module.weight.detach().flatten(1), bias


def matters(network: nn.Module, target: Target, inputs: Tensor) -> bool:
    """Whether the answer depends on what the target layer holds at the places of the image.

    After the last attention of a network that answers from its class token it does not: what
    the other tokens hold then is read by nobody.
    """
    if isinstance(network, ShowsLayers):
        return network.matters(target, inputs)

    def forget(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if _maps_of(output, target.layout) is None:
            return output
        return _replaced(output, target.layout.without_places(_first_tensor(output)))

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        return None

    with torch.no_grad(), evaluating(network):
        before = _reached(network, inputs, target.layer, leave)
        try:
            after = _reached(network, inputs, target.layer, forget)
        except REFUSALS:
            return True  # it looks at what it is given, and does not take nothing
    return any(not torch.equal(b, a) for b, a in zip(before, after, strict=True))


def _reached(
    network: nn.Module, inputs: Tensor, layer: str, hook: Callable[..., Any]
) -> list[Tensor]:
    """The network's answer, and what the fully connected layer made it of that it comes from.

    That layer may have weights of zero, as some begin with, and answer the same of anything.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen.append((inputs[0].clone(), output))

    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with exclusive():
        handles = [module.register_forward_hook(keep) for module in linear]
        try:
            with _hooked(network, layer, hook):
                outputs = class_outputs(network(inputs))
        finally:
            for handle in handles:
                handle.remove()
    return [outputs, *(features for features, output in seen if output is outputs)]


@contextmanager
def _hooked(network: nn.Module, layer: str, hook: Callable[..., Any]) -> Iterator[None]:
    with exclusive():
        handle = network.get_submodule(layer).register_forward_hook(hook)
        try:
            with uncompiled(network):
                yield
        finally:
            handle.remove()


def _first_tensor(output: Any) -> Any:
    """A module's output, or the first of several: blocks may return attention weights too."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _replaced(output: Any, tensor: Tensor) -> Any:
    """The output with another tensor as its first."""
    if not isinstance(output, tuple | list):
        return tensor
    items = (tensor, *output[1:])
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def _maps_of(output: Any, layout: Layout) -> Tensor | None:
    tensor = _first_tensor(output)
    if not isinstance(tensor, Tensor):
        return None
    return layout.maps(tensor.dequantize() if tensor.is_quantized else tensor)


def probe(network: nn.Module, inputs: Tensor) -> Probe:
    """Run the network once in eval mode and note what every module returned."""
    if isinstance(network, ShowsLayers):
        return network.probe(inputs)
    if any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers())):
        raise ModelError(
            f"{type(network).__name__}: made under torch.inference_mode(), which does not say what "
            "its layers do; make it outside"
        )
    calls: list[Call] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            if isinstance(tensor, Tensor):
                calls.append(_call(name, module, tensor))

        return hook

    # Gradients are never computed; autograd only names the operations, and keeps nothing.
    nothing = torch.empty(0)
    nothing_kept = torch.autograd.graph.saved_tensors_hooks(lambda _: nothing, lambda _: nothing)
    with exclusive():
        handles = [
            m.register_forward_hook(note(name)) for name, m in network.named_modules() if name
        ]
        try:
            with (
                uncompiled(network),
                evaluating(network),
                torch.inference_mode(False),
                torch.enable_grad(),
                nothing_kept,
            ):
                # No leaf, so that a network may begin with an in-place operation.
                outputs = network(inputs.detach().clone().requires_grad_().clone())
        finally:
            for handle in handles:
                handle.remove()
    return Probe(outputs, tuple(calls), _ends_in(outputs))


# The operations of autograd that keep values within what they were, up to a scale and a shift.
_PASSES_ON = re.compile(
    "(View|UnsafeView|Reshape|Squeeze|Unsqueeze|Flatten|Transpose|Permute|T|Clone|ToCopy|Alias|"
    "Expand|Select|Slice|Cat|Stack|Flip|Mul|Div|Add|Sub|Rsub|Neg|Mean|Sum|Amax|Amin|Max|Min|"
    "Maximum|Minimum|AvgPool2D|AdaptiveAvgPool2D|MaxPool2DWithIndices|AdaptiveMaxPool2D|Clamp|"
    "ClampMin|ClampMax|Hardtanh|Relu|Threshold|LeakyRelu|Where)Backward"
)


def _ends_in(outputs: Any) -> frozenset[str]:
    """What the class outputs come from, by autograd's names: "Addmm" of a fully connected layer."""
    try:
        left = [class_outputs(outputs).grad_fn]
    except ModelError:
        return frozenset()  # what is wrong with them is said where they are checked
    found, seen = set(), set()
    if left == [None]:
        found.add("")  # nothing can be told
    while left:
        operation = left.pop()
        if operation is None or operation in seen:
            continue
        seen.add(operation)
        if _PASSES_ON.match(operation.name()):
            left += [parent for parent, _ in operation.next_functions]
        elif "AccumulateGrad" not in operation.name():  # a parameter, or the input itself
            found.add(operation.name().partition("Backward")[0])
    return frozenset(found)


def _call(name: str, module: nn.Module, output: Tensor) -> Call:
    operation = output.grad_fn.name() if output.grad_fn else ""
    is_leaf = next(module.children(), None) is None or is_parametrized(module)
    # Stands for the output, which is not kept: those of a network fill gigabytes.
    if not hasattr(output, _STANDS_FOR):
        setattr(output, _STANDS_FOR, object())
    own = [parameter.ndim for parameter in module.parameters(recurse=False)]
    if isinstance(weight := getattr(module, "weight", None), Tensor):
        own.append(weight.ndim)  # of a parametrised layer, which has it from elsewhere
    return Call(
        name=name,
        shape=tuple(output.shape),
        # An in-place activation returns the same tensor in its next version.
        key=(getattr(output, _STANDS_FOR), output._version),
        pools="Pool" in operation or (is_leaf and bool(_POOLING.search(type(module).__name__))),
        weighs=max(own, default=0),
        is_leaf=is_leaf,
    )
