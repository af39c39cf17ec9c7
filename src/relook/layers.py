"""The target layer: finding it by watching one forward, and recording what it puts out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from relook.answers import class_outputs
from relook.errors import ModelError
from relook.layout import Grid, Layout, is_sequence, read_layout
from relook.wrappers import uncompiled


@dataclass(frozen=True)
class Call:
    """One layer's turn in the probing forward.

    Attributes:
        name: of the layer.
        shape: of its output.
        key: the same for two calls that returned the very same tensor.
        pools: whether the output was pooled.
        weighs: the most dimensions that a weight of the layer itself has; 0: it has none.
        is_leaf: whether the layer holds no others.
    """

    name: str
    shape: tuple[int, ...]
    key: object
    pools: bool
    weighs: int
    is_leaf: bool

    @property
    def projects(self) -> bool:
        """Whether the output is that of a weight matrix alone, before anything is made of it."""
        return self.is_leaf and self.weighs >= 2

    @property
    def size(self) -> str:
        """The shape for one image, as in "320×7×7"."""
        return "×".join(str(side) for side in self.shape[1:])


@dataclass(frozen=True)
class Probe:
    """What one forward of a network showed.

    Attributes:
        outputs: what the network returned for the probing input.
        calls: every layer's call that returned a tensor, in order of completion.
    """

    outputs: Any
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Target:
    """A target layer and how its output is read."""

    layer: str
    layout: Layout


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
_MOST_TRIES = 12
"""So many layers are asked about at most whether the answer depends on them."""


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
def recording(network: nn.Module, target: Target) -> Iterator[list[Tensor]]:
    """Record the maps (N, K, h, w) that the target layer puts out: those of its last call.

    A layer that is called several times (a shared ReLU) is recorded at its last call that
    returns maps. The maps are copied, so that an in-place operation after the layer cannot
    rewrite them.
    """
    if isinstance(network, ShowsLayers):
        with network.recording(target) as maps:
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
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
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
    return layout.maps(tensor) if isinstance(tensor, Tensor) else None


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
    handles = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if name]
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
    return Probe(outputs, tuple(calls))


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


def find_target(
    calls: tuple[Call, ...],
    classes: int,
    aspect: float = 1.0,
    grid: Grid | None = None,
    counts: Callable[[Target], bool] = lambda _: True,
) -> Target | None:
    """The last layer with maps larger than 1×1 before pooling, after its activation function.

    Of the modules that return the very same maps (a block and its last activation) the outermost
    is named. Maps with one channel a class, which a 1×1 convolution makes in place of a fully
    connected layer, are not activation maps but class maps, and are passed over. So are tokens
    that a weight matrix has just made (queries, keys, values), and what the answer does not
    depend on: beside a class token, the other tokens after the last attention. From there on only
    whole blocks are considered, with as many channels and places.

    Maps are those of modules: an activation or a sum that is a function in the network's own
    forward comes after the last module's maps, and is not seen.

    Args:
        calls: of a probing forward.
        classes: how many the network tells apart.
        aspect: height / width of the network's input.
        grid: of tokens, where the user has said it.
        counts: whether the answer depends on the layer.

    Returns:
        The last one there is where the answer depends on none; None where nothing has maps, or
        tokens of an unknown grid come last.
    """
    before_classes = _before_class_maps(calls, classes)
    layouts = _layouts(calls, aspect, grid)
    last_call = {call.name: index for index, call in enumerate(calls) if layouts[index]}
    in_tokens = has_tokens(calls)
    unread = None
    tries = 0
    last = False  # whether the class token comes last
    for index in reversed(range(before_classes)):
        call, layout = calls[index], layouts[index]
        if layout is None:
            if is_sequence(call.shape):
                break
            continue
        if call.projects and layout.kind != "channels-first":
            continue
        same = [i for i in range(before_classes) if calls[i].key == call.key]
        maker = calls[same[0]]
        # A block may pass on what another has made: that one's turn comes.
        same = [i for i in same if f"{maker.name}.".startswith(f"{calls[i].name}.")]
        if index not in same or maker.pools:
            continue
        is_leaf = all(calls[i].is_leaf for i in same)
        if unread and in_tokens and (is_leaf or not _like(layout, unread.layout)):
            continue  # what is in a block that nobody reads (queries, values) may still be read
        names = [calls[i].name for i in same if last_call.get(calls[i].name) == i]
        if not names or tries == _MOST_TRIES:
            continue
        tries += 1
        layout = layout.with_class_token_last() if last else layout
        target = Target(min(names, key=lambda name: name.count(".")), layout)
        if counts(target):
            # If the answer depends on none but the last tokens, the class token is among these.
            other = Target(target.layer, layout.with_class_token_last())
            if unread or not layout.prefix or counts(other):
                return target
            target, last = other, True
        unread = unread or target
    return unread


def _like(layout: Layout, other: Layout) -> bool:
    """Whether both are of the same stream of features."""
    return (layout.grid, layout.channels) == (other.grid, other.channels)


def _layouts(calls: tuple[Call, ...], aspect: float, given: Grid | None) -> list[Layout | None]:
    grids: list[Grid] = []
    layouts = []
    for call in calls:
        layout = read_layout(call.shape, aspect, grids, given)
        layouts.append(layout)
        if layout and layout.prefix == 0 and layout.grid not in grids:
            grids.append(layout.grid)
    return layouts


def _before_class_maps(calls: tuple[Call, ...], classes: int) -> int:
    """How many calls come before the layer that turns features into one value a class.

    That is the last layer with a weight matrix, if it puts out one channel a class; normalisation
    or a temperature may follow it.
    """
    for index in reversed(range(len(calls))):
        if calls[index].weighs and calls[index].shape[1:2] != (classes,):
            return len(calls)
        if calls[index].weighs >= 2:
            return index
    return len(calls)


def last_maps(
    calls: tuple[Call, ...], aspect: float, grid: Grid | None = None, count: int = 3
) -> list[str]:
    """The last layers with maps, to choose from where none was chosen: "name (K×h×w)"."""
    seen = {}
    for call, layout in zip(calls, _layouts(calls, aspect, grid), strict=True):
        if layout:
            seen[call.key] = f"{call.name!r} ({layout})"
    return list(seen.values())[-count:]


def has_tokens(calls: tuple[Call, ...]) -> bool:
    """Whether any layer puts out a sequence of tokens."""
    return any(is_sequence(call.shape) for call in calls)


def named_target(
    names: list[str],
    calls: tuple[Call, ...],
    layer: str,
    found: Target | None,
    aspect: float = 1.0,
    grid: Grid | None = None,
) -> Target:
    """The layer of that name as target.

    Args:
        names: of all layers.
        calls: of a probing forward.
        layer: the name that the user gave.
        found: the layer that was found without it, to suggest.
        aspect: height / width of the network's input.
        grid: of tokens, where the user has said it.

    Raises:
        ModelError: it gives no maps larger than 1×1; with what to pass instead.
    """
    instead = f"; pass another, for instance {found.layer!r}" if found else "; pass another"
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4)
        closest = ", ".join(repr(name) for name in close) or (found and repr(found.layer))
        hint = f"; closest: {closest}" if closest else ""
        raise ModelError(f"layer {layer!r} is not in the network{hint}")
    layouts = _layouts(calls, aspect, grid)
    own = [index for index, call in enumerate(calls) if call.name == layer]
    if not own:
        raise ModelError(f"layer {layer!r} is never called, or returns no tensor{instead}")
    read = [layout for layout in (layouts[index] for index in own) if layout]
    if read:
        return Target(layer, read[-1])
    last = calls[own[-1]]
    if is_sequence(last.shape):
        which = f"not of a grid of {grid[0]}×{grid[1]}" if grid else "of a grid that is not known"
        raise ModelError(
            f"layer {layer!r} gives {last.size}, tokens {which}; say the rows and columns of the "
            "image's tokens with token_grid= or --token-grid, for instance 14x14"
        )
    raise ModelError(
        f"layer {layer!r} gives {last.size}, and only maps larger than 1×1 tell where "
        f"something was seen{instead}"
    )
