"""How the output of a layer is read as activation maps: channels first, channels last, tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]
"""(h, w): rows and columns of maps."""

_LARGEST_PREFIX = 16
"""Class, distillation and register tokens: so many stand before those of the image at most."""
_GUESSED_PREFIX = 2
"""The same where no maps tell the grid, and it is guessed from the number of tokens."""
_FEWEST_GUESSED = 9
"""So few tokens are more likely something else, such as learned queries."""


@dataclass(frozen=True)
class Layout:
    """Where the places and the channels are in what a layer puts out.

    Attributes:
        kind: "channels-first": (N, K, h, w), as in most convolutional networks. "channels-last":
            (N, h, w, K). "tokens": (N, prefix + h·w, K), row by row.
        grid: (h, w) at the network's own input size.
        channels: K.
        prefix: how many tokens that stand for no place come first, the class token among them.
        suffix: how many of them come last.
    """

    kind: Literal["channels-first", "channels-last", "tokens"]
    grid: Grid
    channels: int
    prefix: int = 0
    suffix: int = 0

    def maps(self, output: Tensor) -> Float[Tensor, "n k h w"] | None:
        """The output as maps, a view of it; None where it has no maps larger than 1×1."""
        if self.kind == "tokens":
            count = self.prefix + self.grid[0] * self.grid[1] + self.suffix
            if output.ndim != 3 or output.shape[1] != count:
                return None
            places = output[:, self._places].transpose(1, 2)
            return places.reshape(len(output), self.channels, *self.grid)
        if output.ndim != 4:
            return None
        maps = output if self.kind == "channels-first" else output.permute(0, 3, 1, 2)
        return maps if maps.shape[2] * maps.shape[3] > 1 else None

    def without_places(self, output: Tensor) -> Tensor:
        """The output with 0 at every place; the tokens before and after them stay."""
        kept = output.clone()
        if self.kind == "tokens":
            kept[:, self._places] = 0
            return kept
        return kept.zero_()

    @property
    def _places(self) -> slice:
        """Of the tokens."""
        return slice(self.prefix, self.prefix + self.grid[0] * self.grid[1])

    def with_class_token_last(self) -> Layout:
        """The same, with what was read as coming first coming last."""
        return replace(self, prefix=0, suffix=self.prefix + self.suffix)

    def __str__(self) -> str:
        """As in "320×7×7", with what has to be known besides."""
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
    """What the shape of one image's output says.

    Of the two orders of four dimensions, that one holds in which the maps have the aspect of the
    network's input; channels first where both have it.

    Args:
        shape: of the output for one image.
        aspect: height / width of the network's input.
        grids: of maps that came before it in the network: a sequence of h·w tokens, a few more
            in front, is read as the grid it was made of.
        given: the grid of tokens, where the user has said it.

    Returns:
        None where there are no maps larger than 1×1, or tokens of a grid that is not known. Where
        no maps came before, or larger ones of which every second row and column was kept some times
        over, tokens that fill a grid of the input's aspect are read as that.
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
        # The closest one: of a pyramid's grids, and where there is no class token.
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
    """Whether `other` is what is left of `grid` when every second row and column is kept, again and
    again.
    """
    while max(grid) > max(other):
        grid = (math.ceil(grid[0] / 2), math.ceil(grid[1] / 2))
    return grid == other


def is_sequence(shape: tuple[int, ...]) -> bool:
    """Whether this is a sequence of tokens, for one image."""
    return len(shape) == 3 and shape[0] == 1 and shape[1] > 1 and shape[2] > 1


def _has_aspect(grid: Grid, aspect: float) -> bool:
    """Maps of an image with that aspect; rounding in strided layers leaves ±1 on each side."""
    height, width = grid
    return (height + 1) >= aspect * (width - 1) and (height - 1) <= aspect * (width + 1)
