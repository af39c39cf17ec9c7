"""Files of weights in all their formats, opened without running code from the file."""

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
"""The start of an ONNX file: a version, then the producer's name or the graph."""
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_DAMAGE = (SafetensorError, RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError)

_UNREADABLE = (ValueError, EOFError, KeyError, zipfile.BadZipFile, UnicodeDecodeError, IndexError)


class StandsFor:
    """Stand-in for any object beside the weights: accepts all arguments and does nothing.

    Attributes:
        of: the full name of the class or function that it replaces.
    """

    of = ""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def load_plain(file: Path) -> object:
    """Read a file of weights: tensors in dicts and lists, with stand-ins for all other objects.

    Raises:
        ModelError: the file is missing, damaged or not a file of weights.
    """
    _check_kind(file)
    try:
        if _is_safetensors(file):
            return load_file(file)
        return _unpickled(file)
    except pickle.UnpicklingError as error:
        # torch also raises this for damaged files; its own message has several lines.
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
    """A command that converts a file with pickled objects to a file of plain tensors.

    Args:
        file: a file with a model or a state dict, or with a dict that has one under `keys`.
        keys: the keys that lead to the model.
        load: Python code that reads the file; `torch.load` by default.
    """
    load = load or f"torch.load({file.name!r}, map_location='cpu', weights_only=False)"
    found = load + "".join(f"[{key!r}]" for key in keys)
    target = file.with_suffix(".safetensors").name
    return (
        f'python -c "import torch, safetensors.torch as s; m = {found}; '
        "m = m.state_dict() if hasattr(m, 'state_dict') else m; "
        "s.save_file({k: v.contiguous().clone() for k, v in m.items() if torch.is_tensor(v)}, "
        f'{target!r})" (it runs code from the file: only for files that you trust, where their '
        "classes can be imported)"
    )


def _unpickled(file: Path) -> object:
    """Read a pickle with torch's restricted unpickler, with stand-ins for all unknown classes."""
    stand_ins: dict[str, Any] = {
        name: type(name.rpartition(".")[2], (StandsFor,), {"of": name})
        for name in _foreign_names(file)
    }
    while True:
        try:
            return _restricted(file, [(kind, name) for name, kind in stand_ins.items()])
        except pickle.UnpicklingError as error:
            # Some are dicts or lists, which are filled item by item; the error names them.
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
    """Make an empty dict from any arguments."""

    def __new__(cls, *_arguments: Any) -> Any:
        return OrderedDict()


class _a_list:  # noqa: N801
    """Make an empty list from any arguments."""

    def __new__(cls, *_arguments: Any) -> Any:
        return []


_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Common keys of the weights in checkpoints."""


def _keys(file: Path) -> list[str]:
    """The likely key of the weights in a pickled dict, judged by the strings in the file."""
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
    """Names of the classes and functions in a pickle, read without running it."""
    found = set()
    try:
        for stream in _pickles(file):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    # Pickles may use Python 2's names; add those of Python 3.
                    module, _, name = str(argument).partition(" ")
                    today = NAME_MAPPING.get((module, name)) or (
                        IMPORT_MAPPING.get(module, module),
                        name,
                    )
                    found |= {f"{module}.{name}", ".".join(today)}
    except _UNREADABLE:
        return []  # damaged, or not a pickle: reading it raises an error later
    return sorted(found)


def _pickles(file: Path) -> Iterator[Any]:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    yield io.BytesIO(archive.read(name))
        return
    with file.open("rb") as stream:
        for _ in range(4):  # before PyTorch 1.6: magic number, version, system, object
            yield stream


def _is_safetensors(file: Path) -> bool:
    if file.suffix == ".safetensors":
        return True
    with file.open("rb") as stream:
        head = stream.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length + 8 <= file.stat().st_size


def _check_kind(file: Path) -> None:
    """Raise ModelError if the file is not a checkpoint, with what it is and what to do."""
    if file.is_dir():
        inside = sorted(p.name for p in file.iterdir() if p.suffix in _SUFFIXES)
        such = f", such as {file / inside[0]}" if inside else ""
        raise ModelError(f"{file}: a folder; pass the file of weights in it{such}")
    if not file.is_file():
        raise ModelError(f"{file}: no such checkpoint; check the path")
    with file.open("rb") as stream:
        head = stream.read(64)
    what = _other_kind(file, head)
    if what:
        raise ModelError(f"{file}: {what}")


def _other_kind(file: Path, head: bytes) -> str:
    """What a file is and what to do, if it is not a checkpoint; empty if it may be one."""
    if not head:
        return "empty; save or download it again"
    if file.suffix.lower() == ".onnx" or _ONNX.match(head):
        return f"an ONNX file, which is a model with its own weights; pass it as --model {file}"
    for start, command in _PACKED.items():
        if head.startswith(start):
            return f"compressed; unpack it first ({command} {file.name})"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the weights; fetch them with git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "a web page, not weights; download it again"
    if head.startswith(b"\x89HDF"):
        return "HDF5 weights, as Keras writes them; export the model to ONNX, and pass that file"
    if head.lstrip()[:1] == b"{" and file.suffix == ".json":
        return "JSON and not weights; pass the file of weights beside it"
    if zipfile.is_zipfile(file):
        return _other_archive(file)
    # PyTorch wrote tar archives before version 0.1.10.
    if tarfile.is_tarfile(file):
        return "a tar archive; unpack it, and pass the file of weights in it"
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
            "a TorchScript program, not only weights; save its state dict: "
            f"{convert(file, load=load)}"
        )
    if any("serialized_exported_program" in name or "/models/" in name for name in names):
        load = f"torch.export.load({file.name!r}).module()"
        return (
            "a torch.export program, not only weights; save its state dict: "
            f"{convert(file, load=load)}"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays and not tensors; save them as a state dict, best as safetensors"
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras model; export it to ONNX, and pass that file"
    return "a ZIP archive and not a checkpoint; unpack it, and pass the file of weights in it"
