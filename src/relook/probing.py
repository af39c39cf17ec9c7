"""Images to try a network on, and what it reads of them while it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_SCALARS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.allclose.default,
)
"""What makes a number of Python out of a tensor, as `if x.min() < 0` and `x.item()` do."""

_ARRAYS = (Tensor.numpy, Tensor.tolist, Tensor.__array__)
"""What takes values out of a tensor past PyTorch's own operations."""


def probing_pixels(height: int, width: int) -> Float[Tensor, "8 3 h w"]:
    """Eight images in [0, 1] that have little in common; the same every time.

    Noise, the same of another seed in few large blocks, a ramp, black and white blocks, noise that
    is nearly black, nearly white, nearly grey, and red. None is flat: normalisation layers would
    blow up the rounding of a flat image.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(8, 3, height, width, generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    blocks = noise[1, :, rows // max(1, height // 4), columns // max(1, width // 4)]
    ramp = (rows / max(1, height - 1) + columns / max(1, width - 1)) / 2
    board = ((rows // max(1, height // 2) + columns // max(1, width // 2)) % 2).float()
    red = 0.05 * noise[7]
    red[0] = 1 - red[0]
    return torch.stack(
        [
            noise[0],
            blocks,
            ramp.expand(3, -1, -1) * 0.9 + 0.1 * noise[2],
            board.expand(3, -1, -1),
            0.05 * noise[4],
            1 - 0.05 * noise[5],
            0.45 + 0.1 * noise[6],
            red,
        ]
    )


class ValuesRead:
    """A context in which every value that Python code reads out of a tensor is noted.

    A network that decides by such values (`if x.min() < 0`) can neither be exported by tracing nor
    be trusted to answer about an image whatever the rest of its batch. Shapes are no values.

    Attributes:
        values: what was read, in order.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._modes = (_Scalars(self.values), _Arrays(self.values))

    def __enter__(self) -> ValuesRead:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)  # type: ignore[no-untyped-call]


class _Scalars(TorchDispatchMode):
    def __init__(self, values: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values = values

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SCALARS:
            self._values.append(result)
        return result


class _Arrays(TorchFunctionMode):
    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self._values = values

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ARRAYS:
            self._values.append(np.asarray(result).tobytes())
        return result
