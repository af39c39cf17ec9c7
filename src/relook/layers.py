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

from relook.answers import Answers, class_outputs
from relook.errors import ModelError
from relook.layout import Layout
from relook.target import Call, Target
from relook.wrappers import uncompiled

REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)
"""Exceptions that networks raise for an input that they do not accept."""


@dataclass(frozen=True)
class Probe:
    """Record of one forward pass of a network.

    Attributes:
        outputs: return value of the network for the probing input.
        calls: calls of layers that returned a tensor, in order of completion.
        ends_in: last operations before the class outputs, such as "Addmm", "Sigmoid" or (in an
            ONNX graph) "Gemm". Operations that keep values in their range, up to a scale and a
            shift, are skipped. {""} if the operations are unknown; empty if all operations from
            the input to the outputs are skipped.
    """

    outputs: Any
    calls: tuple[Call, ...]
    ends_in: frozenset[str] = frozenset({""})


Matrix = tuple[Tensor, Tensor | None]
"""Weights (C, K) of a layer that maps K features to C, and its bias (C)."""

Hook = Callable[[nn.Module, Any, Any], Any]
"""A forward hook: takes a module, its inputs and its output; may return another output."""


@runtime_checkable
class Layers(Protocol):
    """The layers of a network: the modules of a PyTorch network (`Modules`), or the nodes of an
    ONNX graph (`relook.models.graph.OnnxNetwork`).

    Methods that run or hook the network hold the lock of `exclusive`.
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
        """Run the network once in eval mode and record the output of every layer."""
        ...

    def recording(self, target: Target) -> AbstractContextManager[list[Tensor]]:
        """Record the target layer's maps (N, K, h, w) of each forward pass, in the list returned.

        If a layer is called several times (a shared ReLU), its last call that returns maps counts.
        The maps are copied, so that a later in-place operation cannot overwrite them.
        """
        ...

    def differentiating(self, target: Target) -> AbstractContextManager[list[Tensor]]:
        """Compute gradients from the target layer on; the list holds its output as a leaf.

        The output is that of the layer's last call that returns maps. Later layers work on a copy,
        so that an in-place operation does not change the leaf. Earlier layers save nothing for a
        backward pass.

        Raises:
            ModelError: the network has no gradients.
        """
        ...

    def matters(self, target: Target, inputs: Float[Tensor, "1 3 h w"]) -> bool:
        """Whether the network's answer depends on the target layer's maps.

        After the last attention of a network with a class token it does not: only the class token
        is used from there on.
        """
        ...

    def matrices(self) -> Iterator[Matrix]:
        """Weights and biases of fully connected layers and convolutions, from the last layer on.

        The weights of a convolution are flattened after their first dimension; a 1×1 convolution
        gives (C, K).
        """
        ...


_STANDS_FOR = "_relook_stands_for"
_POOLING = re.compile("Pool(?!Former)")


_TURN = threading.RLock()


def exclusive() -> AbstractContextManager[bool]:
    """Lock to hold while a network is run, hooked, exported or switched to eval mode.

    Threads share modules, and with them hooks and mode flags: without the lock, one thread would
    record the maps of another thread's image, or run the network in train mode. There is one
    reentrant lock per process, since networks may share modules (members of an ensemble, a
    temperature around a network) and PyTorch's exporter has global state.
    """
    return _TURN


def _after_fork() -> None:
    """Replace the lock in a forked process, where the thread that held it does not exist."""
    global _TURN
    _TURN = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, for one thread at a time, and restore each module's flag."""
    with exclusive():
        flags = [(module, module.training) for module in network.modules()]
        network.eval()
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training


class Modules:
    """The modules of a PyTorch network, recorded by forward hooks. See `Layers` for the methods."""

    in_pytorch = True

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    @property
    def is_exact(self) -> bool:
        """Whether the network computes in float32 or better."""
        tensor = floating_point_tensor(self._network)
        return tensor is None or tensor.dtype in (torch.float32, torch.float64)

    def probe(self, inputs: Float[Tensor, "1 3 h w"]) -> Probe:
        """Run the network once in eval mode and record the output of every module.

        Raises:
            ModelError: the network was created under `torch.inference_mode`.
        """
        network = self._network
        if any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers())):
            raise ModelError(
                f"{type(network).__name__}: created under torch.inference_mode(), which hides what "
                "its layers compute; create it outside"
            )
        calls: list[Call] = []

        def note(name: str) -> Hook:
            def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
                tensor = _first_tensor(output)
                if isinstance(tensor, Tensor):
                    calls.append(_call(name, module, tensor))

            return hook

        # Autograd is only used for the names of operations: no gradient is computed or saved.
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
            # The second clone is not a leaf, so that the network may begin with an in-place
            # operation.
            outputs = network(inputs.detach().clone().requires_grad_().clone())
        return Probe(outputs, tuple(calls), _ends_in(outputs))

    @contextmanager
    def recording(self, target: Target) -> Iterator[list[Tensor]]:
        """Record the maps (N, K, h, w) of the target layer's last call."""
        maps: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found = _maps_of(output, target.layout)
            if found is not None:
                maps[:] = [found.detach().clone(memory_format=torch.contiguous_format)]

        with self._hooked([(self._layer(target), keep)]):
            yield maps

    @contextmanager
    def differentiating(self, target: Target) -> Iterator[list[Tensor]]:
        """Compute gradients from the target layer on; the list holds its output as a leaf."""
        leaves: list[Tensor] = []

        def cut(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if _maps_of(output, target.layout) is None:
                return output
            torch.set_grad_enabled(True)
            leaves[:] = [_first_tensor(output).detach().clone().requires_grad_()]
            return _replaced(output, leaves[0].clone())

        # No gradients until the layer is reached; leaving the block restores the caller's mode.
        with (
            self._hooked([(self._layer(target), cut)]),
            torch.inference_mode(False),
            torch.set_grad_enabled(False),
        ):
            yield leaves

    def matters(self, target: Target, inputs: Float[Tensor, "1 3 h w"]) -> bool:
        """Whether the network's answer depends on the target layer's maps."""

        def forget(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if _maps_of(output, target.layout) is None:
                return output
            return _replaced(output, target.layout.without_places(_first_tensor(output)))

        with torch.no_grad(), evaluating(self._network):
            before = self._answer_and_features(inputs, [])
            try:
                after = self._answer_and_features(inputs, [(self._layer(target), forget)])
            except REFUSALS:
                return True  # the network fails on zeros there, so it uses the maps
        return any(not torch.equal(b, a) for b, a in zip(before, after, strict=True))

    def matrices(self) -> Iterator[Matrix]:
        """Weights and biases of fully connected layers and convolutions, from the last layer on."""
        for module in reversed(list(self._network.modules())):
            if isinstance(module, nn.Linear | nn.Conv2d):
                bias = None if module.bias is None else module.bias.detach()
                yield module.weight.detach().flatten(1), bias

    def _answer_and_features(
        self, inputs: Float[Tensor, "1 3 h w"], hooks: list[tuple[nn.Module, Hook]]
    ) -> list[Tensor]:
        """The network's answer, and the input of the fully connected layer that computes it.

        The input is needed since that layer may be initialised with zero weights, which give the
        same answer for any input.
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
        """Add forward hooks and remove them afterwards, with the lock held in between."""
        with exclusive(), ExitStack() as added:
            for module, hook in hooks:
                added.callback(module.register_forward_hook(hook).remove)
            with uncompiled(self._network):
                yield


def floating_point_tensor(network: nn.Module) -> Tensor | None:
    """The first floating-point parameter of a network, else its first floating-point buffer."""
    tensors = chain(network.parameters(), network.buffers())  # a lazy chain: networks have many
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def layers_of(network: nn.Module) -> Layers:
    """The layers of a network, PyTorch module or ONNX graph, or of the network inside `Answers`."""
    network = network.network if isinstance(network, Answers) else network
    return network if isinstance(network, Layers) else Modules(network)


def _first_tensor(output: Any) -> Any:
    """A module's output, or the first of several, since blocks may return attention weights too."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _replaced(output: Any, tensor: Tensor) -> Any:
    """The output with its first tensor replaced."""
    if not isinstance(output, tuple | list):
        return tensor
    items = (tensor, *output[1:])
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def _maps_of(output: Any, layout: Layout) -> Tensor | None:
    tensor = _first_tensor(output)
    if not isinstance(tensor, Tensor):
        return None
    return layout.maps(tensor.dequantize() if tensor.is_quantized else tensor)


# Autograd's operations that keep values in their range, up to a scale and a shift.
_PASSES_ON = re.compile(
    "(View|UnsafeView|Reshape|Squeeze|Unsqueeze|Flatten|Transpose|Permute|T|Clone|ToCopy|Alias|"
    "Expand|Select|Slice|Cat|Stack|Flip|Mul|Div|Add|Sub|Rsub|Neg|Mean|Sum|Amax|Amin|Max|Min|"
    "Maximum|Minimum|AvgPool2D|AdaptiveAvgPool2D|MaxPool2DWithIndices|AdaptiveMaxPool2D|Clamp|"
    "ClampMin|ClampMax|Hardtanh|Relu|Threshold|LeakyRelu|Where)Backward"
)


def _ends_in(outputs: Any) -> frozenset[str]:
    """Operations that compute the class outputs, by autograd's names; see `Probe.ends_in`."""
    try:
        left = [class_outputs(outputs).grad_fn]
    except ModelError:
        return frozenset()  # `relook.checks` reports what is wrong with the outputs
    found, seen = set(), set()
    if left == [None]:
        found.add("")  # unknown: the outputs carry no gradient
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
    # Identifies the output, which is not kept: the outputs of all layers fill gigabytes.
    if not hasattr(output, _STANDS_FOR):
        setattr(output, _STANDS_FOR, object())
    own = [parameter.ndim for parameter in module.parameters(recurse=False)]
    if isinstance(weight := getattr(module, "weight", None), Tensor):
        own.append(weight.ndim)  # a parametrised layer computes its weight
    return Call(
        name=name,
        shape=tuple(output.shape),
        # An in-place activation returns the same tensor with a higher version.
        key=(getattr(output, _STANDS_FOR), output._version),
        pools="Pool" in operation or (is_leaf and bool(_POOLING.search(type(module).__name__))),
        weighs=max(own, default=0),
        is_leaf=is_leaf,
    )
