"""What a network's answers depend on, as far as the network itself holds it."""

from __future__ import annotations

from collections.abc import Mapping
from types import BuiltinMethodType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Fingerprint = dict[str, object]
"""By the names of modules and their attributes, values that can be compared."""

_DEPTH = 4
"""So far into the attributes of attributes: config.block.scale is three deep."""
_MOST = 20_000
"""So many values are looked at; what comes after them counts as itself, whatever it holds."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def fingerprint(network: nn.Module) -> Fingerprint:
    """Of the network's tensors, modules and their attributes, in milliseconds.

    In-place operations, optimisers and `load_state_dict` among them, raise a tensor's version;
    what goes through `.data` past that shows in the tensor's sum, unless it only swaps values.
    What a forward reads from elsewhere, such as a global variable, is not seen.
    """
    walk = _Walk()
    walk.module(network, "")
    return walk.seen | _of_tensors(walk.tensors)


def _of_tensors(tensors: Mapping[str, Tensor]) -> Fingerprint:
    by_device: dict[torch.device, list[Tensor]] = {}
    with torch.no_grad():
        for t in tensors.values():
            half = t.dtype in (torch.float16, torch.bfloat16)
            total = t.sum(dtype=torch.float32 if half else None)
            wide = torch.float32 if t.device.type == "mps" else torch.float64
            by_device.setdefault(t.device, []).append(total.to(wide))
        sums = {device: iter(torch.stack(s).tolist()) for device, s in by_device.items()}
    return {
        f"{name}=": (
            t.data_ptr(),
            0 if t.is_inference() else t._version,
            tuple(t.shape),
            t.dtype,
            t.device,
            repr(next(sums[t.device])),  # as text, in which NaN equals NaN
        )
        for name, t in tensors.items()
    }


class _Itself:
    """An object that equals nothing but itself, and is kept so that no other gets its address."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


class _Walk:
    """Everything that hangs on a module, each object once."""

    def __init__(self) -> None:
        self.seen: Fingerprint = {}
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[int, object] = {}

    def module(self, network: nn.Module, prefix: str) -> None:
        modules = dict(network.named_modules())
        self._known |= {id(module): "module" for module in modules.values()}
        for name, module in modules.items():
            kind, own = type(module), f"{prefix}{name}"
            self.seen[f"{own}:"] = (kind, kind.forward, tuple(module._modules))
            for attribute, value in vars(module).items():
                if attribute not in _OF_EVERY_MODULE:
                    key = f"{own}.{attribute}"
                    self.seen[key] = self._comparable(value, key, _DEPTH)
        for name, tensor in (
            *network.named_parameters(remove_duplicate=False),
            *network.named_buffers(remove_duplicate=False),
        ):
            self.tensors[f"{prefix}{name}"] = tensor

    def _comparable(self, value: Any, key: str, depth: int) -> object:
        """A value that equals that of the same attribute later, if nothing in it has changed."""
        if isinstance(value, _PLAIN):
            return repr(value)
        if id(value) not in self._known:
            self._known[id(value)] = "…"  # for one that holds itself
            self._known[id(value)] = self._of(value, key, depth)
        return self._known[id(value)]

    def _of(self, value: Any, key: str, depth: int) -> object:
        if isinstance(value, Tensor):
            self.tensors[key] = value
            return "tensor"
        if isinstance(value, nn.Module):  # in a list, say, where `named_modules` does not find it
            self.module(value, f"{key}/")
            return "module"
        if isinstance(value, np.ndarray):
            return (value.shape, value.dtype, value.tobytes())
        if isinstance(value, MethodType | BuiltinMethodType):  # made anew at each look
            return (value.__name__, _Itself(value.__self__))
        if depth == 0 or len(self._known) > _MOST:
            return _Itself(value)
        if isinstance(value, Mapping):
            items = [(repr(k), v) for k, v in value.items()]
        elif isinstance(value, list | tuple):
            items = [(str(place), v) for place, v in enumerate(value)]
        elif isinstance(value, set | frozenset):
            return frozenset(map(repr, value))
        elif hasattr(value, "__dict__") and type(value).__module__ != "builtins":
            items = list(vars(value).items())
        else:
            return _Itself(value)  # functions and types among them
        return (type(value), *((k, self._comparable(v, f"{key}.{k}", depth - 1)) for k, v in items))
