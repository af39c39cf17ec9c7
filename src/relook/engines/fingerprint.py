"""Detection of changes to a network: its tensors, modules and their attributes."""

from __future__ import annotations

import array
import enum
import functools
import logging
import marshal
import os
import re
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relook.errors import first_line

_DEPTH = 12
"""Largest depth of nested attributes."""
_MOST = 100_000
"""Largest number of objects."""
_LARGE = 64
"""Containers of more plain values than this are compared as a whole."""
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...)),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout),
)
_THEMSELVES = (
    *(enum.Enum, re.Pattern, np.dtype, os.PathLike, logging.Logger, weakref.ReferenceType),
    *(torch.jit.ScriptFunction, property, staticmethod, classmethod),
)
"""Types whose objects do not change, or do not affect answers; compared by identity."""
_UNSEEN = (Iterator, memoryview, torch.ScriptObject)
"""Types whose changes cannot be detected and may affect answers."""
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class UnreadableError(Exception):
    """A network holds an object whose changes cannot be detected."""


@dataclass(frozen=True)
class Fingerprint:
    """The state of a network at one time, for comparisons.

    Attributes:
        values: comparable values by the name of the module, attribute or item.
        hooked: whether any module has hooks.
    """

    values: dict[str, object]
    hooked: bool

    def differences(self, other: Fingerprint) -> set[str]:
        """Names of the values that differ."""
        names = self.values.keys() | other.values.keys()
        return {name for name in names if self.values.get(name) != other.values.get(name)}


def fingerprint(network: nn.Module) -> Fingerprint:
    """Take a fingerprint of a network's tensors, modules, classes and attributes, in milliseconds.

    In-place operations, including those of optimisers and `load_state_dict`, raise a tensor's
    version. Changes through `.data` or NumPy do not, but change the tensor's sum, unless values
    are only swapped. Values that the forward method reads from elsewhere, such as global
    variables, are not included.

    Raises:
        UnreadableError: an attribute cannot be compared, or there are too many attributes.
    """
    walk = _Walk()
    walk.module(network, "")
    return Fingerprint(walk.seen | _of_tensors(walk.tensors), walk.hooked)


def _of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    by_device: dict[torch.device, list[Tensor]] = {}
    found: dict[str, object] = {}
    with torch.no_grad():
        try:
            for t in tensors.values():
                half = t.dtype in (torch.float16, torch.bfloat16)
                values = torch.view_as_real(t) if t.is_complex() else t
                summed = values.sum(dtype=torch.float32 if half else None)
                wide = torch.float32 if t.device.type == "mps" else torch.float64
                by_device.setdefault(t.device, []).append(summed.to(wide))
            sums = {device: iter(torch.stack(s).tolist()) for device, s in by_device.items()}
            for name, t in tensors.items():
                # Two entries: a forward method that rewrites a weight changes only the first.
                found[f"{name}@"] = (t.data_ptr(), 0 if t.is_inference() else t._version)
                total = repr(next(sums[t.device]))  # as text, in which NaN equals NaN
                found[f"{name}="] = (tuple(t.shape), t.dtype, t.device, total)
        except (RuntimeError, TypeError, ValueError) as error:  # sparse, of eight bits, not there
            raise UnreadableError(f"a tensor cannot be summed: {first_line(error)}") from error
    return found


class _Itself:
    """Wrapper that compares an object by identity, and keeps it so that its id stays unique."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


class _Walk:
    """A walk over all objects that a module refers to, each object once."""

    def __init__(self) -> None:
        self.seen: dict[str, object] = {}
        self.tensors: dict[str, Tensor] = {}
        self.hooked = False
        self._known: dict[int, str] = {}
        self._classes: set[type] = set()
        self._kept: list[object] = []  # so that no other object gets the id of one of these

    def module(self, network: nn.Module, prefix: str) -> None:
        modules = dict(network.named_modules())
        self._known |= {id(module): f"{prefix}{name}" for name, module in modules.items()}
        for name, module in modules.items():
            own = f"{prefix}{name}"
            self.hooked |= bool(module._forward_hooks or module._forward_pre_hooks)
            self.seen[f"{own}:"] = (type(module), tuple(module._modules))
            self._of_class(type(module))
            for attribute, value in vars(module).items():
                if attribute not in _OF_EVERY_MODULE:
                    self._visit(value, f"{own}.{attribute}", _DEPTH)
        for name, tensor in (
            *network.named_parameters(remove_duplicate=False),
            *network.named_buffers(remove_duplicate=False),
        ):
            self.tensors[f"{prefix}{name}"] = tensor

    def _of_class(self, own: type) -> None:
        """Visit methods and class variables, except PyTorch's own."""
        for kind in own.__mro__:
            if kind in self._classes or kind.__module__.partition(".")[0] in ("torch", "builtins"):
                continue
            self._classes.add(kind)
            for name, value in vars(kind).items():
                key = f"{kind.__module__}.{kind.__qualname__}.{name}"
                if name.startswith(("__", "_abc_")) and name != "__call__":
                    continue
                closed = isinstance(value, FunctionType) and not value.__closure__
                if closed:  # most methods: they refer to no variables
                    self.seen[key] = _Itself(value)
                else:
                    try:
                        self._visit(value, key, _DEPTH)
                    except UnreadableError:  # for example inside a library's decorator
                        self.seen[key] = _Itself(value)

    def _visit(self, value: Any, key: str, depth: int) -> None:
        if isinstance(value, _PLAIN):
            self.seen[key] = repr(value)
        elif id(value) in self._known:
            self.seen[key] = self._known[id(value)]  # under another name
        else:
            self._known[id(value)] = key
            self._kept.append(value)
            if depth == 0 or len(self._kept) > _MOST:
                raise UnreadableError(f"{key} holds too many objects")
            whole = self._whole(value)
            if whole is not None:
                self.seen[key] = (type(value), len(value), whole)
                return
            self.seen[key] = self._shape(value)
            for name, part in self._parts(value, key):
                self._visit(part, f"{key}.{name}", depth - 1)

    def _shape(self, value: Any) -> object:
        """Comparable value of an object, without its parts."""
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return (value.shape, value.dtype, hash(value.tobytes()))
        if isinstance(value, np.generic):
            return repr(value)
        if isinstance(value, array.array | bytearray):
            return (type(value), bytes(value))
        if isinstance(value, (FunctionType, *_THEMSELVES)) or self._is_of_torch(value):
            return _Itself(value)
        if isinstance(value, BuiltinFunctionType):
            return value.__name__
        if isinstance(value, Mapping):
            return (type(value), tuple(map(repr, value)))
        if isinstance(value, list | tuple | deque | set | frozenset):
            return (type(value), len(value))
        if isinstance(value, type | ModuleType):
            return _Itself(value)
        return type(value)

    def _parts(self, value: Any, key: str) -> Iterable[tuple[object, Any]]:
        """Parts of an object by name."""
        if isinstance(value, Tensor):
            self.tensors[key] = value
            return ()
        if isinstance(value, nn.Module):  # for example in a list, unknown to `named_modules`
            self.module(value, f"{key}/")
            return ()
        known = isinstance(value, (array.array, bytearray, *_THEMSELVES))
        if known or self._is_of_torch(value):
            return ()
        if isinstance(value, np.ndarray):
            return enumerate(value.flat) if value.dtype.hasobject else ()
        if isinstance(value, FunctionType):
            kept = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
            more = [value.__defaults__, value.__kwdefaults__, value.__dict__ or None]
            return enumerate([*kept, *more])
        if isinstance(value, MethodType):
            return (("self", value.__self__), ("function", value.__func__))
        if isinstance(value, BuiltinFunctionType):
            return (("self", value.__self__),)
        if isinstance(value, functools.partial):
            return enumerate([value.func, value.args, value.keywords])
        if isinstance(value, type):
            self._of_class(value)
            return ()
        if isinstance(value, ModuleType):  # for example a module of settings
            named = ((n, v) for n, v in vars(value).items() if not n.startswith("__"))
            return [(name, part) for name, part in named if isinstance(part, _PLAIN)]
        if isinstance(value, _UNSEEN):
            raise UnreadableError(f"{key} is a {type(value).__name__}")
        own = [*getattr(value, "__dict__", {}).items(), *_slots(value)]
        if isinstance(value, Mapping):
            return [*((repr(name), part) for name, part in value.items()), *own]
        if isinstance(value, list | tuple | deque):
            return [*enumerate(value), *own]
        if isinstance(value, set | frozenset):
            return [*enumerate(sorted(value, key=repr)), *own]
        if not own and not hasattr(value, "__dict__"):
            self.seen[key] = _Itself(value)  # an extension type: a date, a generator, a lock
            return ()
        self._of_class(type(value))
        return own

    @staticmethod
    def _whole(value: Any) -> int | None:
        """Hash of a large container of plain values; None for any other object."""
        if type(value) in (list, tuple, dict, set, frozenset) and len(value) > _LARGE:
            try:
                return hash(marshal.dumps(value, 2))  # the last version without references
            except ValueError:
                pass  # it holds other values
        return None

    @staticmethod
    def _is_of_torch(value: Any) -> bool:
        """Whether the object is an operation or function of PyTorch."""
        own = type(value).__module__.partition(".")[0] == "torch"
        return own and callable(value) and not isinstance(value, Tensor | nn.Module)


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _slots(value: Any) -> list[tuple[str, Any]]:
    names = [name for kind in type(value).__mro__ for name in _names(vars(kind).get("__slots__"))]
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


def _names(slots: Any) -> list[str]:
    names = [slots] if isinstance(slots, str) else list(slots or ())
    return [name for name in names if name not in ("__dict__", "__weakref__")]
