"""Reading a layer's output as activation maps: channels first, channels last or tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns (h, w) of maps."""

_LARGEST_PREFIX = 16
"""Largest number of class, distillation and register tokens before those of the image."""
_GUESSED_PREFIX = 2
"""The same limit if no maps show the grid and it is guessed from the number of tokens."""
_FEWEST_GUESSED = 9
"""Smallest number of tokens read as an image; fewer are likely something else, such as learned
queries."""


@dataclass(frozen=True)
class Layout:
    """Order of the dimensions in a layer's output.

    Attributes:
        kind: "channels-first": (N, K, h, w), as in most convolutional networks. "channels-last":
            (N, h, w, K). "tokens": (N, prefix + h·w + suffix, K), row by row.
        grid: (h, w) of the maps at the network's own input size.
        channels: number of channels K.
        prefix: number of tokens before those of the image, such as the class token.
        suffix: number of tokens after those of the image.
    """

    kind: Literal["channels-first", "channels-last", "tokens"]
    grid: Grid
    channels: int
    prefix: int = 0
    suffix: int = 0

    def maps(self, output: Tensor) -> Float[Tensor, "n k h w"] | None:
        """View of the output as maps; None if it has no maps larger than 1×1."""
        if self.kind == "tokens":
            count = self.prefix + self.grid[0] * self.grid[1] + self.suffix
            if output.ndim != 3 or output.shape[1] != count:
                return None
            places = output[:, self._places].transpose(1, 2)
            # Not `len`, which an exporter that traces this takes for a constant.
            return places.reshape(output.shape[0], self.channels, *self.grid)
        if output.ndim != 4:
            return None
        maps = output if self.kind == "channels-first" else output.permute(0, 3, 1, 2)
        return maps if maps.shape[2] * maps.shape[3] > 1 else None

    def without_places(self, output: Tensor) -> Tensor:
        """Copy of the output with the maps set to 0; other tokens, such as a class token, stay."""
        kept = output.clone()
        if self.kind == "tokens":
            kept[:, self._places] = 0
            return kept
        return kept.zero_()

    @property
    def _places(self) -> slice:
        """Indices of the image's tokens."""
        return slice(self.prefix, self.prefix + self.grid[0] * self.grid[1])

    def with_class_token_last(self) -> Layout:
        """The same layout with the tokens of `prefix` moved to `suffix`."""
        return replace(self, prefix=0, suffix=self.prefix + self.suffix)

    def __str__(self) -> str:
        """Size of the maps, such as "320×7×7", and the layout if it is not channels first."""
        size = f"{self.channels}×{self.grid[0]}×{self.grid[1]}"
        if self.kind == "channels-first":
            return size
        if self.kind == "channels-last":
            return f"{size}, channels last"
        others = f" after {self.prefix} more" if self.prefix else ""
        others += f" before {self.suffix} more" if self.suffix else ""
        return f"{size}, tokens{others}"


def read_layout(
    shape: tuple[int, ...], aspect: float, grids: Iterable[Grid], given: Grid | None = None
) -> Layout | None:
    """Infer the layout from the shape of the output for one image.

    Four dimensions are read in the order in which the maps have the aspect ratio of the network's
    input, and channels first if both orders have it.

    A sequence of tokens is read as one of the earlier grids if h·w tokens fill it, after a few
    others at the front. If there are no earlier grids, or if halving one of them repeatedly gives
    such a grid, tokens that fill a grid of the input's aspect ratio are read as that grid.

    Args:
        shape: shape of the output.
        aspect: height / width of the network's input.
        grids: grids of the maps of earlier layers.
        given: grid of tokens, if the user gave it.

    Returns:
        The layout; None if there are no maps larger than 1×1, or if the tokens' grid is unknown.
    """
    if len(shape) not in (3, 4) or shape[0] != 1:
        return None
    if len(shape) == 4:
        _, a, b, c = shape
        first = Layout("channels-first", (b, c), a)
        last = Layout("channels-last", (a, b), c)
        readings = [r for r in (first, last) if _has_aspect(r.grid, aspect)]
        if not readings:
            return None
        errors = [abs(r.grid[0] - aspect * r.grid[1]) for r in readings]
        best = readings[0] if errors[0] < 1 else readings[errors.index(min(errors))]
        return best if best.grid[0] * best.grid[1] > 1 else None
    if not is_sequence(shape):
        return None
    count, channels = shape[1:]
    known = [given] if given else list(grids)
    fitting = [grid for grid in known if 0 <= count - grid[0] * grid[1] <= _LARGEST_PREFIX]
    if fitting:
        # The largest grid: smaller ones belong to other levels of a pyramid.
        grid = max(fitting, key=lambda grid: grid[0] * grid[1])
        return Layout("tokens", grid, channels, count - grid[0] * grid[1])
    if given:
        return None
    for prefix in range(_GUESSED_PREFIX + 1):
        height = round(math.sqrt((count - prefix) * aspect))
        width = (count - prefix) // max(height, 1)
        whole = height * width == count - prefix >= _FEWEST_GUESSED
        if not whole or not math.isclose(height / width, aspect, rel_tol=0.01):
            continue
        if not known or any(_thinned(grid, (height, width)) for grid in known):
            return Layout("tokens", (height, width), channels, prefix)
    return None


def _thinned(grid: Grid, other: Grid) -> bool:
    """Whether `other` results from halving `grid` repeatedly, rounding up."""
    while max(grid) > max(other):
        grid = (math.ceil(grid[0] / 2), math.ceil(grid[1] / 2))
    return grid == other


def is_sequence(shape: tuple[int, ...]) -> bool:
    """Whether this is the shape of a sequence of tokens, for one image."""
    return len(shape) == 3 and shape[0] == 1 and shape[1] > 1 and shape[2] > 1


def _has_aspect(grid: Grid, aspect: float) -> bool:
    """Whether the grid has this aspect ratio, up to ±1 per side from rounding in strided layers."""
    height, width = grid
    return (height + 1) >= aspect * (width - 1) and (height - 1) <= aspect * (width + 1)
