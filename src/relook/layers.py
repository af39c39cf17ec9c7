"""Watching a network's layers: what they return, and whether the answer depends on it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from relook.answers import class_outputs
from relook.errors import ModelError
from relook.layout import Layout
from relook.target import Call, Target
from relook.wrappers import uncompiled

REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)
"""Exceptions that networks raise for an input that they do not accept."""


@dataclass(frozen=True)
class Probe:
    """What one forward pass of a network showed.

    Attributes:
        outputs: what the network returned for the probing input.
        calls: every layer's call that returned a tensor, in order of completion.
        ends_in: the operations that the class outputs come from, such as "Addmm", "Sigmoid" or (in
            an ONNX graph) "Gemm". Operations that keep values in their range, up to a scale and a
            shift, are skipped. {""} if the operations are unknown; empty if only skipped ones lead
            from the input to the outputs.
    """

    outputs: Any
    calls: tuple[Call, ...]
    ends_in: frozenset[str] = frozenset({""})


Matrix = tuple[Tensor, Tensor | None]
"""The weights (C, K) of a layer that joins K features to C, and its bias (C)."""

Hook = Callable[[nn.Module, Any, Any], Any]
"""A forward hook: a module, its inputs and its output; what it returns replaces the output."""


@runtime_checkable
class Layers(Protocol):
    """The layers of a network. There are two kinds: the modules of a PyTorch network (`Modules`),
    and the nodes of an ONNX graph (`relook.models.graph.OnnxNetwork`).

    Everything that runs or hooks the network holds the lock of `exclusive` meanwhile.
    """

    @property
    def in_pytorch(self) -> bool:
        """Whether PyTorch computes the layers."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether the network computes in float32 or better."""
        ...

    def probe(self, inputs: Float[Tensor, "1 3 h w"]) -> Probe:
        """Run the network once in eval mode and note what every layer returned."""
        ...

    def recording(self, target: Target) -> AbstractContextManager[list[Tensor]]:
        """Record the maps (N, K, h, w) that the target layer returns: those of its last call.

        A layer that is called several times (a shared ReLU) is recorded at its last call that
        returns maps. The maps are copied, so that an in-place operation after the layer cannot
        overwrite them.
        """
        ...

    def differentiating(self, target: Target) -> AbstractContextManager[list[Tensor]]:
        """Let gradients begin at the target layer: the list holds the output of its last call, a
        leaf.

        What follows in the network works on a copy, so that an in-place operation after the layer
        does not change the leaf; what comes before it keeps nothing for a backward pass.

        Raises:
            ModelError: the network has no gradients.
        """
        ...

    def matters(self, target: Target, inputs: Float[Tensor, "1 3 h w"]) -> bool:
        """Whether the answer depends on what the target layer holds at the places of the image.

        After the last attention of a network that answers from its class token it does not: the
        other tokens are not used any more.
        """
        ...

    def matrices(self) -> Iterator[Matrix]:
        """Weights and biases of fully connected layers and convolutions, the last layer first.

        The weights of a convolution are flattened after their first dimension: (C, K) if it is 1×1.
        """
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


class Modules:
    """The modules of a PyTorch network, watched by forward hooks. See `Layers` for the methods."""

    in_pytorch = True

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    @property
    def is_exact(self) -> bool:
        """Whether the network computes in float32 or better."""
        tensor = floating_point_tensor(self._network)
        return tensor is None or tensor.dtype in (torch.float32, torch.float64)

    def probe(self, inputs: Float[Tensor, "1 3 h w"]) -> Probe:
        """Run the network once in eval mode and note what every module returned.

        Raises:
            ModelError: the network was made under `torch.inference_mode`.
        """
        network = self._network
        if any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers())):
            raise ModelError(
                f"{type(network).__name__}: made under torch.inference_mode(), which does not say "
                "what its layers do; make it outside"
            )
        calls: list[Call] = []

        def note(name: str) -> Hook:
            def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
                tensor = _first_tensor(output)
                if isinstance(tensor, Tensor):
                    calls.append(_call(name, module, tensor))

            return hook

        # Gradients are never computed; autograd only names the operations, and keeps nothing.
        nothing = torch.empty(0)
        nothing_kept = torch.autograd.graph.saved_tensors_hooks(
            lambda _: nothing, lambda _: nothing
        )
        with (
            self._hooked([(m, note(name)) for name, m in network.named_modules() if name]),
            evaluating(network),
            torch.inference_mode(False),
            torch.enable_grad(),
            nothing_kept,
        ):
            # No leaf, so that a network may begin with an in-place operation.
            outputs = network(inputs.detach().clone().requires_grad_().clone())
        return Probe(outputs, tuple(calls), _ends_in(outputs))

    @contextmanager
    def recording(self, target: Target) -> Iterator[list[Tensor]]:
        """Record the maps (N, K, h, w) that the target layer returns: those of its last call."""
        maps: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found = _maps_of(output, target.layout)
            if found is not None:
                maps[:] = [found.detach().clone(memory_format=torch.contiguous_format)]

        with self._hooked([(self._layer(target), keep)]):
            yield maps

    @contextmanager
    def differentiating(self, target: Target) -> Iterator[list[Tensor]]:
        """Let gradients begin at the target layer: the list holds the output of its last call."""
        leaves: list[Tensor] = []

        def cut(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if _maps_of(output, target.layout) is None:
                return output
            torch.set_grad_enabled(True)
            leaves[:] = [_first_tensor(output).detach().clone().requires_grad_()]
            return _replaced(output, leaves[0].clone())

        # Until the layer is reached; leaving this restores the caller's mode.
        with (
            self._hooked([(self._layer(target), cut)]),
            torch.inference_mode(False),
            torch.set_grad_enabled(False),
        ):
            yield leaves

    def matters(self, target: Target, inputs: Float[Tensor, "1 3 h w"]) -> bool:
        """Whether the answer depends on what the target layer holds at the places of the image."""

        def forget(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if _maps_of(output, target.layout) is None:
                return output
            return _replaced(output, target.layout.without_places(_first_tensor(output)))

        with torch.no_grad(), evaluating(self._network):
            before = self._answer_and_features(inputs, [])
            try:
                after = self._answer_and_features(inputs, [(self._layer(target), forget)])
            except REFUSALS:
                return True  # the network reads what it is given, and fails on zeros
        return any(not torch.equal(b, a) for b, a in zip(before, after, strict=True))

    def matrices(self) -> Iterator[Matrix]:
        """Weights and biases of fully connected layers and convolutions, the last layer first."""
        for module in reversed(list(self._network.modules())):
            if isinstance(module, nn.Linear | nn.Conv2d):
                bias = None if module.bias is None else module.bias.detach()
                yield module.weight.detach().flatten(1), bias

    def _answer_and_features(
        self, inputs: Float[Tensor, "1 3 h w"], hooks: list[tuple[nn.Module, Hook]]
    ) -> list[Tensor]:
        """The network's answer, and the inputs of the fully connected layer that it comes from.

        That layer may have weights of zero, as some begin with, and so give the same answer for
        any input.
        """
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                seen.append((inputs[0].clone(), output))

        linear = [(m, keep) for m in self._network.modules() if isinstance(m, nn.Linear)]
        with self._hooked([*linear, *hooks]):
            outputs = class_outputs(self._network(inputs))
        return [outputs, *(features for features, output in seen if output is outputs)]

    def _layer(self, target: Target) -> nn.Module:
        return self._network.get_submodule(target.layer)

    @contextmanager
    def _hooked(self, hooks: list[tuple[nn.Module, Hook]]) -> Iterator[None]:
        """Add forward hooks; no other thread runs a network until they are removed again."""
        with exclusive(), ExitStack() as added:
            for module, hook in hooks:
                added.callback(module.register_forward_hook(hook).remove)
            with uncompiled(self._network):
                yield


def floating_point_tensor(network: nn.Module) -> Tensor | None:
    """The first parameter of a network, else its first buffer, in floating point."""
    tensors = chain(network.parameters(), network.buffers())  # lazily: networks have many
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def layers_of(network: nn.Module) -> Layers:
    """The layers of a network, PyTorch module or ONNX graph."""
    return network if isinstance(network, Layers) else Modules(network)


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
