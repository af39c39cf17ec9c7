"""Which layer is the target layer: told by what one forward showed of all layers."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from relook.errors import ModelError
from relook.layout import Grid, Layout, is_sequence, read_layout

_MOST_TRIES = 12
"""So many layers are asked about at most whether the answer depends on them."""


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
class Target:
    """A target layer and how its output is read."""

    layer: str
    layout: Layout


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
    search: Callable[[], Target | None],
    aspect: float = 1.0,
    grid: Grid | None = None,
) -> Target:
    """The layer of that name as target.

    Args:
        names: of all layers.
        calls: of a probing forward.
        layer: the name that the user gave.
        search: finds a layer to suggest; called only if this one cannot be the target.
        aspect: height / width of the network's input.
        grid: of tokens, where the user has said it.

    Raises:
        ModelError: it gives no maps larger than 1×1; with what to pass instead.
    """
    if layer not in names:
        found = search()
        close = difflib.get_close_matches(layer, dict.fromkeys(names), n=3, cutoff=0.4)
        closest = ", ".join(repr(name) for name in close) or (found and repr(found.layer))
        hint = f"; closest: {closest}" if closest else ""
        hint += f"; without it {found.layer!r} is taken" if found else ""
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
        which = f"not of a grid of {grid[0]}×{grid[1]}" if grid else "of a grid that is not known"
        raise ModelError(
            f"layer {layer!r} gives {last.size}, tokens {which}; say the rows and columns of the "
            "image's tokens with token_grid= or --token-grid, for instance 14x14"
        )
    raise ModelError(
        f"layer {layer!r} gives {last.size}, and only maps larger than 1×1 tell where "
        f"something was seen{_instead(search)}"
    )


def _instead(search: Callable[[], Target | None]) -> str:
    """The end of a message about a layer that cannot be the target."""
    found = search()
    return f"; pass another, for instance {found.layer!r}" if found else "; pass another"
