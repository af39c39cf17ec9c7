"""How the output of a layer is read as activation maps: channels first, channels last, tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]
"""(h, w): rows and columns of maps."""

_LARGEST_PREFIX = 16
"""Class, distillation and register tokens: so many stand before those of the image at most."""
_GUESSED_PREFIX = 2
"""The same where no maps tell the grid, and it is guessed from the number of tokens."""


@dataclass(frozen=True)
class Layout:
    """Where the places and the channels are in what a layer puts out.

    Attributes:
        kind: "channels-first": (N, K, h, w), as in most convolutional networks. "channels-last":
            (N, h, w, K). "tokens": (N, prefix + h·w, K), row by row.
        grid: (h, w) at the network's own input size.
        channels: K.
        prefix: how many tokens that stand for no place come first, the class token among them.
    """

    kind: Literal["channels-first", "channels-last", "tokens"]
    grid: Grid
    channels: int
    prefix: int = 0

    def maps(self, output: Tensor) -> Float[Tensor, "n k h w"] | None:
        """The output as maps, a view of it; None where it has no maps larger than 1×1."""
        if self.kind == "tokens":
            count = self.prefix + self.grid[0] * self.grid[1]
            if output.ndim != 3 or output.shape[1] != count:
                return None
            places = output[:, self.prefix :].transpose(1, 2)
            return places.reshape(len(output), self.channels, *self.grid)
        if output.ndim != 4:
            return None
        maps = output if self.kind == "channels-first" else output.permute(0, 3, 1, 2)
        return maps if maps.shape[2] * maps.shape[3] > 1 else None

    def without_places(self, output: Tensor) -> Tensor:
        """The output with 0 at every place; the tokens before them stay."""
        kept = output.clone()
        if self.kind == "tokens":
            kept[:, self.prefix :] = 0
            return kept
        return kept.zero_()

    def __str__(self) -> str:
        """As in "320×7×7", with what has to be known besides."""
        size = f"{self.channels}×{self.grid[0]}×{self.grid[1]}"
        if self.kind == "channels-first":
            return size
        if self.kind == "channels-last":
            return f"{size}, channels last"
        before = f" after {self.prefix} more" if self.prefix else ""
        return f"{size}, tokens{before}"


def read_layout(
    shape: tuple[int, ...], aspect: float, grids: Iterable[Grid], given: Grid | None = None
) -> Layout | None:
    """What the shape of one image's output says.

    Of the two orders of four dimensions, that one holds in which the maps have more nearly the
    aspect of the network's input; channels first where both have it.

    Args:
        shape: of the output for one image.
        aspect: height / width of the network's input.
        grids: of maps that came before it in the network: a sequence of h·w tokens, a few more
            in front, is read as the grid it was made of.
        given: the grid of tokens, where the user has said it.

    Returns:
        None where there are no maps larger than 1×1, or tokens of a grid that is not known. Where
        no maps came before, tokens that fill a grid of the input's aspect are read as that.
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
        closest = min(readings, key=lambda r: abs(r.grid[0] - aspect * r.grid[1]))
        return closest if closest.grid[0] * closest.grid[1] > 1 else None
    if not is_sequence(shape):
        return None
    count, channels = shape[1:]
    if given is not None:
        prefix = count - given[0] * given[1]
        return Layout("tokens", given, channels, prefix) if prefix >= 0 else None
    fitting = [grid for grid in grids if 0 <= count - grid[0] * grid[1] <= _LARGEST_PREFIX]
    if fitting:
        # The closest one: of a pyramid's grids, and where there is no class token.
        grid = max(fitting, key=lambda grid: grid[0] * grid[1])
        return Layout("tokens", grid, channels, count - grid[0] * grid[1])
    # A sequence that was thinned out on its way may have a grid that no maps had.
    for prefix in range(_GUESSED_PREFIX + 1):
        height = round(math.sqrt((count - prefix) * aspect))
        width = (count - prefix) // max(height, 1)
        whole = height * width == count - prefix > 1
        if whole and math.isclose(height / width, aspect, rel_tol=0.01):
            return Layout("tokens", (height, width), channels, prefix)
    return None


def is_sequence(shape: tuple[int, ...]) -> bool:
    """Whether this is a sequence of tokens, for one image."""
    return len(shape) == 3 and shape[0] == 1 and shape[1] > 1 and shape[2] > 1


def _has_aspect(grid: Grid, aspect: float) -> bool:
    """Maps of an image with that aspect; rounding in strided layers leaves ±1 on each side."""
    height, width = grid
    return (height + 1) >= aspect * (width - 1) and (height - 1) <= aspect * (width + 1)
