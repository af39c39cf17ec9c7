"""The choice of the target layer, from one forward pass that recorded all layers."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from relook.errors import ModelError
from relook.layout import Grid, Layout, is_sequence, read_layout

_MOST_TRIES = 12
"""Largest number of layers tested for whether the answer depends on them."""


@dataclass(frozen=True)
class Call:
    """One call of a layer in the probing forward pass.

    Attributes:
        name: name of the layer.
        shape: shape of its output.
        key: identity of the output; equal for two calls that returned the same tensor.
        pools: whether the output was pooled.
        weighs: largest number of dimensions of the layer's own weights; 0 if it has no weights.
        is_leaf: whether the layer contains no other layers.
    """

    name: str
    shape: tuple[int, ...]
    key: object
    pools: bool
    weighs: int
    is_leaf: bool

    @property
    def projects(self) -> bool:
        """Whether the output is that of a single linear layer or convolution."""
        return self.is_leaf and self.weighs >= 2

    @property
    def size(self) -> str:
        """Shape of the output for one image, such as "320×7×7"."""
        return "×".join(str(side) for side in self.shape[1:])


@dataclass(frozen=True)
class Target:
    """A target layer.

    Attributes:
        layer: name of the layer.
        layout: how its output is read as maps.
    """

    layer: str
    layout: Layout


def find_target(
    calls: tuple[Call, ...],
    classes: int,
    aspect: float = 1.0,
    grid: Grid | None = None,
    counts: Callable[[Target], bool] = lambda _: True,
) -> Target | None:
    """Find the last layer with maps larger than 1×1 before pooling, after its activation function.

    If several modules return the same maps (a block and its last activation), the outermost one is
    chosen. These are skipped:

    - class maps: one channel per class, from a 1×1 convolution in place of a fully connected layer;
    - tokens that come directly from a linear layer (queries, keys, values);
    - layers that the answer does not depend on, such as the tokens beside a class token after the
      last attention. Once one is found, only whole blocks with the same number of channels and
      the same grid are considered.

    Only modules are seen: an activation function or a sum in the network's own forward method,
    which comes after the last module, is not.

    Args:
        calls: calls of the probing forward pass.
        classes: number of classes of the network.
        aspect: height / width of the network's input.
        grid: (rows, columns) of tokens, if the user gave them.
        counts: tells whether the answer depends on a layer.

    Returns:
        The target layer. If the answer depends on none of the layers with maps, the last of them;
        None if no layer has maps, or if tokens of an unknown grid come last.
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
        # A block may pass on the output of another block, which is considered in its own turn.
        same = [i for i in same if f"{maker.name}.".startswith(f"{calls[i].name}.")]
        if index not in same or maker.pools:
            continue
        is_leaf = all(calls[i].is_leaf for i in same)
        if unread and in_tokens and (is_leaf or not _like(layout, unread.layout)):
            continue  # inside an unused block, parts (queries, values) may still be used
        names = [calls[i].name for i in same if last_call.get(calls[i].name) == i]
        if not names or tries == _MOST_TRIES:
            continue
        tries += 1
        layout = layout.with_class_token_last() if last else layout
        target = Target(min(names, key=lambda name: name.count(".")), layout)
        if counts(target):
            # If the answer depends on the last tokens only, the class token is one of them.
            other = Target(target.layer, layout.with_class_token_last())
            if unread or not layout.prefix or counts(other):
                return target
            target, last = other, True
        unread = unread or target
    return unread


def _like(layout: Layout, other: Layout) -> bool:
    """Whether both layouts have the same grid and the same number of channels."""
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
    """Number of calls before the layer that turns features into one value per class.

    That layer is the last one with a weight matrix, if it has one output channel per class;
    normalisation or a temperature may follow it. Without such a layer, all calls are counted.
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
    """The last `count` layers with maps, for a message: "'name' (K×h×w)"."""
    seen = {}
    for call, layout in zip(calls, _layouts(calls, aspect, grid), strict=True):
        if layout:
            seen[call.key] = f"{call.name!r} ({layout})"
    return list(seen.values())[-count:]


def has_tokens(calls: tuple[Call, ...]) -> bool:
    """Whether any layer returns a sequence of tokens."""
    return any(is_sequence(call.shape) for call in calls)


def named_target(
    names: list[str],
    calls: tuple[Call, ...],
    layer: str,
    search: Callable[[], Target | None],
    aspect: float = 1.0,
    grid: Grid | None = None,
) -> Target:
    """Return the layer with the given name as the target.

    Args:
        names: names of all layers.
        calls: calls of the probing forward pass.
        layer: name that the user gave.
        search: finds a layer to suggest; called only if the given one cannot be the target.
        aspect: height / width of the network's input.
        grid: (rows, columns) of tokens, if the user gave them.

    Raises:
        ModelError: the layer is unknown, is not called or has no maps larger than 1×1; the message
            suggests another one.
    """
    if layer not in names:
        found = search()
        close = difflib.get_close_matches(layer, dict.fromkeys(names), n=3, cutoff=0.4)
        closest = ", ".join(repr(name) for name in close) or (found and repr(found.layer))
        hint = f"; closest: {closest}" if closest else ""
        hint += f"; by default relook uses {found.layer!r}" if found else ""
        raise ModelError(f"layer {layer!r} is not in the network{hint}")
    layouts = _layouts(calls, aspect, grid)
    own = [index for index, call in enumerate(calls) if call.name == layer]
    if not own:
        raise ModelError(f"layer {layer!r} is never called, or returns no tensor{_instead(search)}")
    read = [layout for layout in (layouts[index] for index in own) if layout]
    if read:
        return Target(layer, read[-1])
    last = calls[own[-1]]
    if is_sequence(last.shape):
        which = f"that do not fill a grid of {grid[0]}×{grid[1]}" if grid else "of an unknown grid"
        raise ModelError(
            f"layer {layer!r} returns {last.size}, tokens {which}; give the rows and columns of "
            "the image's tokens with token_grid= or --token-grid, for instance 14x14"
        )
    raise ModelError(
        f"layer {layer!r} returns {last.size}, but only maps larger than 1×1 show where in the "
        f"image something was seen{_instead(search)}"
    )


def _instead(search: Callable[[], Target | None]) -> str:
    """The suggestion at the end of a message about a layer that cannot be the target."""
    found = search()
    return f"; pass another, for instance {found.layer!r}" if found else "; pass another"
