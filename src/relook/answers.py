"""Class outputs from whatever a network returns: a tensor, tuple, dict or dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relook.errors import ModelError

_NAMES = ("logits", "out")


class Answers(nn.Module):
    """Wrapper that returns the class outputs of a network with a tuple, dict or dataclass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Class outputs (N, classes)."""
        return class_outputs(self.network(inputs))


def class_outputs(returned: Any) -> Tensor:
    """Find the class outputs in the return value of a network.

    They are the returned tensor itself; or the item named `logits` or `out` in a dict, dataclass
    or named tuple; or the first item of another tuple or list, which auxiliary outputs may follow;
    or the only two-dimensional tensor in a dict or dataclass with other names.

    Raises:
        ModelError: no such tensor is found, or more than one is possible: a tuple of (N, 32) and
            (N, 10) could be features and classes.
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
    widths = {int(item.shape[1]) for item in rows}  # sizes are tensors while tracing
    if in_order and items and isinstance(items[0], Tensor) and len(widths) <= 1:
        return items[0]
    if not in_order and len(rows) == 1:
        return rows[0]
    holds = f" with {', '.join(map(str, named))}" if named else ""
    if in_order and len(widths) > 1:
        holds = f" with {' and '.join(f'(N, {item.shape[1]})' for item in rows)}"
    raise ModelError(
        f"the network returns a {type(returned).__name__}{holds}, in which relook cannot identify "
        "the class outputs: name them logits, or wrap the network in a module whose forward "
        "method returns only (N, classes)"
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return other tensors unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _named(returned: Any) -> dict[Any, Any]:
    """Items of a dict, dataclass or named tuple by name; empty for anything else."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {f.name: getattr(returned, f.name) for f in dataclasses.fields(returned)}
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    return {}
