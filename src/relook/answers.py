"""What a network returned, a tensor or something around one, as one value a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from relook.errors import ModelError


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

    That is a tensor; what is called `logits` in a dict, dataclass or named tuple; the first item
    of another tuple or list, after which features or auxiliary answers may follow; the only
    tensor of (N, classes) in a dict or dataclass of other names.

    Raises:
        ModelError: nothing of that is there, or more than one thing could be meant.
    """
    if isinstance(returned, Tensor):
        return returned
    named = _named(returned)
    if isinstance(named.get("logits"), Tensor):
        return named["logits"]  # type: ignore[no-any-return]
    if isinstance(returned, tuple | list) and returned and isinstance(returned[0], Tensor):
        return returned[0]
    rows = [value for value in named.values() if isinstance(value, Tensor) and value.ndim == 2]
    if len(rows) == 1:
        return rows[0]
    holds = f" of {', '.join(map(str, named))}" if named else ""
    raise ModelError(
        f"the network returns a {type(returned).__name__}{holds}, in which relook cannot tell the "
        "class outputs: name them logits, put them first in a tuple, or wrap the network in a "
        "module whose forward returns (N, classes) alone"
    )


def _named(returned: Any) -> dict[Any, Any]:
    """The parts of a dict, dataclass or named tuple by their names."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {f.name: getattr(returned, f.name) for f in dataclasses.fields(returned)}
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    return {}
