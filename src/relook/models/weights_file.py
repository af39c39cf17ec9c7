"""A file of weights, of whatever kind, opened without running what it brings along."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import tarfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from relook.errors import ModelError, first_line

_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_ONNX = re.compile(rb"\x08[\x01-\x1f](\x12[\x01-\x3f][ -~]|:)", re.DOTALL)
"""A version, then the producer's name or the graph."""
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_DAMAGE = (SafetensorError, RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError)

_UNREADABLE = (ValueError, EOFError, KeyError, zipfile.BadZipFile, UnicodeDecodeError, IndexError)


class StandsFor:
    """In place of any object beside the weights: takes what it is given, and does nothing.

    Attributes:
        of: the full name of its class or function.
    """

    of = ""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def load_plain(file: Path) -> object:
    """What is in a file of weights: tensors, in dicts and lists; other objects stand for nothing.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    _check_kind(file)
    try:
        if _is_safetensors(file):
            return load_file(file)
        return _unpickled(file)
    except pickle.UnpicklingError as error:
        # torch reports plain damage so too; its own text says which, over several lines.
        raise ModelError(
            f"{file}: not a file of plain tensors, or damaged; relook does not unpickle objects, "
            f"so save model.state_dict(), best as safetensors: {convert(file, _keys(file))}"
        ) from error
    except _DAMAGE as error:
        raise ModelError(
            f"{file}: cannot be read as a checkpoint ({first_line(error)}); save "
            "model.state_dict() again, best as safetensors"
        ) from error


def convert(file: Path, keys: Sequence[str] = (), load: str = "") -> str:
    """The command that makes a plain file of weights out of one that holds objects.

    Args:
        file: of a model or a state dict, or of a dict that holds one under `keys`.
        keys: that lead to the model.
        load: what reads the file; `torch.load` by default.
    """
    load = load or f"torch.load({file.name!r}, map_location='cpu', weights_only=False)"
    found = load + "".join(f"[{key!r}]" for key in keys)
    target = file.with_suffix(".safetensors").name
    return (
        f'python -c "import torch, safetensors.torch as s; m = {found}; '
        "m = m.state_dict() if hasattr(m, 'state_dict') else m; "
        "s.save_file({k: v.contiguous().clone() for k, v in m.items() if torch.is_tensor(v)}, "
        f'{target!r})" (it runs what the file brings along: only for a file that you trust, where '
        "its code is)"
    )


def _unpickled(file: Path) -> object:
    """By torch's restricted unpickler, in which every class that it does not know is a stand-in."""
    stand_ins: dict[str, Any] = {
        name: type(name.rpartition(".")[2], (StandsFor,), {"of": name})
        for name in _foreign_names(file)
    }
    while True:
        try:
            return _restricted(file, [(kind, name) for name, kind in stand_ins.items()])
        except pickle.UnpicklingError as error:
            # Some of them are dicts or lists, which are filled item by item; which ones, it says.
            filled = [
                name
                for name, kind in stand_ins.items()
                if issubclass(kind, StandsFor) and f"but got {kind}" in str(error)
            ]
            if not filled:
                raise
            makes = _a_list if "to lists" in str(error) or "extend lists" in str(error) else _a_dict
            stand_ins |= dict.fromkeys(filled, makes)


def _restricted(file: Path, allowed: list[Any]) -> object:
    with torch.serialization.safe_globals(allowed):
        return torch.load(file, map_location="cpu", weights_only=True)


class _a_dict:  # noqa: N801
    """Makes an empty dict, whatever it is given."""

    def __new__(cls, *_arguments: Any) -> Any:
        return OrderedDict()


class _a_list:  # noqa: N801
    """Makes an empty list, whatever it is given."""

    def __new__(cls, *_arguments: Any) -> Any:
        return []


_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Under which the weights lie in many checkpoints."""


def _keys(file: Path) -> list[str]:
    """The key that leads to the weights in a pickle of a dict, as far as its words tell."""
    operations: list[tuple[str, object]] = []
    with suppress(*_UNREADABLE):
        for stream in _pickles(file):
            operations = [(op.name, argument) for op, argument, _ in pickletools.genops(stream)]
    names = [name for name, _ in operations if name != "FRAME"]
    start = names.index("PROTO") + 1 if "PROTO" in names else 0
    words = {argument for name, argument in operations if "UNICODE" in name}
    is_dict = names[start : start + 1] == ["EMPTY_DICT"]
    return [key for key in _KEYS if key in words][:1] if is_dict else []


def _foreign_names(file: Path) -> list[str]:
    """Classes and functions that a pickle names, read off it without running it."""
    found = set()
    try:
        for stream in _pickles(file):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    # Under Python 2's names, as pickles have them, and under those of today.
                    module, _, name = str(argument).partition(" ")
                    today = NAME_MAPPING.get((module, name)) or (
                        IMPORT_MAPPING.get(module, module),
                        name,
                    )
                    found |= {f"{module}.{name}", ".".join(today)}
    except _UNREADABLE:
        return []  # damaged, or no pickle: what reads it says so
    return sorted(found)


def _pickles(file: Path) -> Iterator[Any]:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    yield io.BytesIO(archive.read(name))
        return
    with file.open("rb") as stream:
        for _ in range(4):  # before PyTorch 1.6: a number, a version, the system, and the object
            yield stream


def _is_safetensors(file: Path) -> bool:
    if file.suffix == ".safetensors":
        return True
    with file.open("rb") as stream:
        head = stream.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length + 8 <= file.stat().st_size


def _check_kind(file: Path) -> None:
    """Raise ModelError for what is no checkpoint, and say what it is and what to do."""
    if file.is_dir():
        inside = sorted(p.name for p in file.iterdir() if p.suffix in _SUFFIXES)
        such = f", such as {file / inside[0]}" if inside else ""
        raise ModelError(f"{file}: a folder; name the file of weights in it{such}")
    if not file.is_file():
        raise ModelError(f"{file}: no such checkpoint; check the path")
    with file.open("rb") as stream:
        head = stream.read(64)
    what = _other_kind(file, head)
    if what:
        raise ModelError(f"{file}: {what}")


def _other_kind(file: Path, head: bytes) -> str:
    """What a file is that is no checkpoint, and what to do; nothing where it may be one."""
    if not head:
        return "empty; save or download it again"
    if file.suffix.lower() == ".onnx" or _ONNX.match(head):
        return f"an ONNX file, which is a model with weights of its own; pass it as --model {file}"
    for start, command in _PACKED.items():
        if head.startswith(start):
            return f"compressed; unpack it first ({command} {file.name})"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and not the weights; fetch them with git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "a web page and not weights; download it again"
    if head.startswith(b"\x89HDF"):
        return "HDF5 weights, as Keras writes them; export the model to ONNX, and name that file"
    if head.lstrip()[:1] == b"{" and file.suffix == ".json":
        return "JSON and not weights; name the file of weights beside it"
    if zipfile.is_zipfile(file):
        return _other_archive(file)
    # Also what PyTorch wrote before its version 0.1.10.
    if tarfile.is_tarfile(file):
        return "a tar archive; unpack it, and name the file of weights in it"
    return ""


def _other_archive(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return ""
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        load = f"torch.jit.load({file.name!r}, map_location='cpu')"
        return (
            "TorchScript, a program and not weights alone; save its state dict: "
            f"{convert(file, load=load)}"
        )
    if any("serialized_exported_program" in name or "/models/" in name for name in names):
        load = f"torch.export.load({file.name!r}).module()"
        return (
            "a program of torch.export and not weights alone; save its state dict: "
            f"{convert(file, load=load)}"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of NumPy and not tensors; save them as a state dict, best as safetensors"
    if any(name.endswith(".weights.h5") for name in names):
        return "a model of Keras; export it to ONNX, and name that file"
    return "a ZIP archive and no checkpoint; unpack it, and name the file of weights in it"
