"""What a network returned, a tensor or something around one, as one value a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relook.errors import ModelError

_NAMES = ("logits", "out")


class Answers(nn.Module):
    """A network that returns a tuple, dict or dataclass, as one that returns class outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, classes), from whatever the network returns."""
        return class_outputs(self.network(inputs))


def class_outputs(returned: Any) -> Tensor:
    """The class outputs in what a network returned.

    That is a tensor; what is called `logits` or `out` in a dict, dataclass or named tuple; the
    first item of another tuple or list, after which auxiliary answers may follow; the only tensor
    of (N, classes) in a dict or dataclass of other names.

    Raises:
        ModelError: nothing of that is there, or more than one thing could be meant: a tuple of
            (N, 32) and (N, 10) could be features and classes.
    """
    if isinstance(returned, Tensor):
        return returned
    named = _named(returned)
    for name in _NAMES:
        if isinstance(named.get(name), Tensor):
            return named[name]  # type: ignore[no-any-return]
    in_order = isinstance(returned, tuple | list)
    items = list(returned) if in_order else list(named.values())
    rows = [item for item in items if isinstance(item, Tensor) and item.ndim == 2]
    widths = {int(item.shape[1]) for item in rows}  # tensors while a network is traced
    if in_order and items and isinstance(items[0], Tensor) and len(widths) <= 1:
        return items[0]
    if not in_order and len(rows) == 1:
        return rows[0]
    holds = f" of {', '.join(map(str, named))}" if named else ""
    if in_order and len(widths) > 1:
        holds = f" with {' and '.join(f'(N, {item.shape[1]})' for item in rows)}"
    raise ModelError(
        f"the network returns a {type(returned).__name__}{holds}, in which relook cannot tell the "
        "class outputs: name them logits, or wrap "
        "the network in a module whose forward returns (N, classes) alone"
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, in float32 if it is in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _named(returned: Any) -> dict[Any, Any]:
    """The parts of a dict, dataclass or named tuple by their names."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {f.name: getattr(returned, f.name) for f in dataclasses.fields(returned)}
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    return {}
