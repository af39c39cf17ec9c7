"""A run's folder: one process at a time, one set of settings, files written completely or not.

It is on this machine or at an address (see `relook.storage`), where it is used without a lock.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

from filelock import FileLock, Timeout

from relook.errors import RelookError, first_line
from relook.storage import (
    StorageError,
    delete,
    files_in,
    is_address,
    joined,
    open_file,
    shown,
    write,
)

_log = logging.getLogger("relook")

_PACKAGES = ("relook", "torch", "torchvision", "timm", "onnxruntime", "numpy", "pillow")
FORMAT = 2
"""Version of the format of run.json and the files beside it; other formats are refused."""
_SHOWN = 80
_TOLD = ("answers", "matched", "pairs", "left_out", "remarks", "training")
"""Keys of run.json that `_differences` leaves out: the names of the answers are compared on their
own; the others follow from what is compared, the matching of labels from the digest of the data
(which includes each image's class), the description of a training from its networks' digests."""


class RunError(RelookError):
    """A run's folder cannot be used: it holds another run, is in use, or cannot be read.

    >>> try:
    ...     relook.Evaluation.read("photos")
    ... except relook.evaluation.RunError as error:
    ...     print(error)
    photos: contains no run.json; pass the folder of a run
    """


@runtime_checkable
class Folder(Protocol):
    """A run's folder, wherever it is; its text is its name in messages. It can be pickled.

    Names of files are relative to the folder, with forward slashes.
    """

    @property
    def place(self) -> str:
        """The path or the address, for `folder_at`."""
        ...

    def named(self, name: str) -> str:
        """What messages call a file in the folder."""
        ...

    def hold(self) -> AbstractContextManager[None]:
        """Create the folder if need be, and lock it until the block or the process ends.

        Raises:
            RunError: the folder is in use by another process.
            OSError, StorageError: the folder cannot be used.
        """
        ...

    def tidy(self, inner: str) -> None:
        """Prepare a folder in this folder, and delete what an interrupted `write` left there."""
        ...

    def open(self, name: str) -> Any:
        """Open a file for reading bytes.

        Raises:
            FileNotFoundError: there is no such file.
            OSError, StorageError: it cannot be read.
        """
        ...

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file completely or, if interrupted, not at all."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        ...

    def sizes(self, inner: str) -> dict[str, int]:
        """The size in bytes of each file in a folder in this folder, by name, sorted."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def place(self) -> str:
        """See `Folder`."""
        return str(self.path)

    def named(self, name: str) -> str:
        """See `Folder`."""
        return str(self.path / name)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """See `Folder`. On a disk without file locks the folder is used unlocked, after a
        warning.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            yield

    def tidy(self, inner: str) -> None:
        """See `Folder`."""
        (self.path / inner).mkdir(exist_ok=True)
        for left in (self.path / inner).glob("*.writing"):
            left.unlink(missing_ok=True)

    def open(self, name: str) -> Any:
        """See `Folder`."""
        return (self.path / name).open("rb")

    def write(self, name: str, content: bytes | str) -> None:
        """See `Folder`."""
        write_atomically(self.path / name, content)

    def delete(self, name: str) -> None:
        """See `Folder`."""
        (self.path / name).unlink(missing_ok=True)

    def sizes(self, inner: str) -> dict[str, int]:
        """See `Folder`."""
        found: dict[str, int] = {}
        absent = (FileNotFoundError, NotADirectoryError)
        with suppress(*absent), os.scandir(self.path / inner) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                with suppress(FileNotFoundError):  # another process deleted it meanwhile
                    found[entry.name] = entry.stat().st_size
        return found


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at an address."""

    address: str

    def __str__(self) -> str:
        return shown(self.address)

    @property
    def place(self) -> str:
        """See `Folder`."""
        return self.address

    def named(self, name: str) -> str:
        """See `Folder`."""
        return shown(joined(self.address, name))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """See `Folder`. No storage at an address has locks: the folder is used unlocked, after a
        warning.
        """
        _log.warning(
            "relook: %s: storage at an address has no file locks; use the folder in one process "
            "only",
            self,
        )
        yield

    def tidy(self, inner: str) -> None:
        """See `Folder`."""
        for name in self.sizes(inner):
            if name.endswith(".writing"):
                self.delete(f"{inner}/{name}")

    def open(self, name: str) -> Any:
        """See `Folder`."""
        return open_file(joined(self.address, name))

    def write(self, name: str, content: bytes | str) -> None:
        """See `Folder`."""
        write(joined(self.address, name), _encoded(content))

    def delete(self, name: str) -> None:
        """See `Folder`."""
        delete(joined(self.address, name))

    def sizes(self, inner: str) -> dict[str, int]:
        """See `Folder`."""
        try:
            return dict(sorted(files_in(joined(self.address, inner))))
        except FileNotFoundError:
            return {}


def folder_at(place: str | os.PathLike[str] | Folder) -> Folder:
    """The folder at a path or an address.

    >>> from relook.folder import folder_at
    >>> print(folder_at("s3://bucket/run?region=eu-west-1").named("run.json"))
    s3://bucket/run/run.json
    """
    if isinstance(place, Folder):
        return place
    if is_address(place):
        return RemoteFolder(place)
    refuse_address(place)
    return LocalFolder(Path(place))


def refuse_address(path: str | os.PathLike[str]) -> None:
    """Refuse an address where a folder of this machine is meant, such as a Path made of one.

    Raises:
        RunError: the path is one.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", Path(path).as_posix()):
        raise RunError(
            f"{path}: is an address; pass it as a string to relook predict --rows or "
            "relook.predict, and a folder of this machine elsewhere"
        )


@contextmanager
def claimed(
    place: str | os.PathLike[str] | Folder, settings: Mapping[str, Any], begun: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Start a run in a folder or continue the one there; the folder is locked in the block.

    Yields the settings in run.json.

    A run that ends before it has saved any results leaves no run.json, so that another can start.

    Args:
        place: the run's folder, as `folder_at` takes it; it is created if it does not exist.
        settings: everything that the run depends on, as JSON values; stored in run.json.
        begun: returns whether the folder holds results of a run.

    Raises:
        RunError: the folder holds a run with other settings, data or versions (the message shows
            the difference), is in use by another process, or cannot be read or created.
    """
    folder = folder_at(place)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.hold())
        except OSError as error:
            raise RunError(
                f"{folder.named('run.json')}: cannot be used ({error}); choose another folder"
            ) from error
        try:
            found = _begin(folder, {"format": FORMAT, **settings}, begun)
        except StorageError as error:
            raise RunError(str(error)) from error
        try:
            yield found
        finally:
            with suppress(StorageError):  # it stays if the storage is out of reach
                if not begun():
                    folder.delete("run.json")


def _begin(
    folder: Folder, settings: Mapping[str, Any], begun: Callable[[], bool]
) -> dict[str, Any]:
    """Write run.json, or compare the settings with those in it; return those in it."""
    file = folder.named("run.json")
    try:
        try:
            found = _read(folder)
        except FileNotFoundError:
            if begun():
                raise RunError(
                    f"{folder} holds parts of a run but no run.json; choose another folder"
                ) from None
            folder.write("run.json", json.dumps(settings, indent=2, ensure_ascii=False))
            found = _read(folder)
    except (OSError, ValueError) as error:
        if isinstance(error, RelookError):
            raise
        raise RunError(f"{file}: cannot be used ({error}); choose another folder") from error
    if not isinstance(found, dict):
        raise RunError(f"{file}: cannot be used (it contains no settings); choose another folder")
    _refuse_format(folder, found, "choose another folder")
    if found.get("kind") != settings.get("kind"):
        raise RunError(
            f"{folder} holds {_kind(found)}, written by another command; choose another folder"
        )
    different = list(_differences(found, settings))
    if not different and _names(found) != _names(settings):
        # The same looks under other names: rows that are there would not be found by them.
        different = [f"the answers were called {_names(found)} and are {_names(settings)} now"]
    if different:
        raise RunError(
            f"{folder} holds another run; choose another folder, or delete this one to start "
            f"again. Different: {'; '.join(different)}"
        )
    return found


def _read(folder: Folder) -> Any:
    """The content of run.json."""
    with folder.open("run.json") as file:
        return json.loads(file.read().decode("utf-8"))


def _names(settings: Mapping[str, Any]) -> list[Any]:
    """Return the names of a run's answers, those of the other looks in any order."""
    answers = settings.get("answers") or {}
    return [answers.get("first"), answers.get("main"), *sorted(answers.get("others", ()))]


def read_settings(place: str | os.PathLike[str] | Folder, *kinds: str) -> dict[str, Any]:
    """Read the settings in run.json of a run of one of these kinds.

    Args:
        place: the run's folder, as `folder_at` takes it.
        kinds: the kinds, as in run.json.

    Raises:
        RunError: the folder holds no run or one of another kind or format, or run.json cannot be
            read.
    """
    folder = folder_at(place)
    file = folder.named("run.json")
    try:
        found = _read(folder)
    except FileNotFoundError:
        raise RunError(f"{folder}: contains no run.json; pass the folder of a run") from None
    except StorageError as error:
        raise RunError(str(error)) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise RunError(f"{file}: cannot be read (it contains no settings)")
    _refuse_format(folder, found, "run the command again with another folder")
    if found.get("kind") not in kinds:
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise RunError(f"{folder}: holds {_kind(found)}; pass the folder of {wanted}")
    if found["kind"] != "multicam":
        needed = ("model", "data", *(() if found["kind"] == "prediction" else ("answers",)))
        missing = [key for key in needed if not found.get(key)]
        if missing:
            raise RunError(f"{file}: cannot be read ({', '.join(missing)} missing)")
    return found


_KINDS = {
    "evaluation": "an evaluation (relook evaluate)",
    "tuning": "a choice of relook evaluate --tune",
    "comparison": "a comparison (relook compare)",
    "prediction": "predictions (relook predict --rows)",
    "multicam": "a training (relook train-multicam)",
}


def _kind(settings: Mapping[str, Any]) -> str:
    """Describe the kind of a run with these settings, for messages."""
    return _KINDS.get(str(settings.get("kind")), "something else")


def _refuse_format(folder: Folder, found: Mapping[str, Any], remedy: str) -> None:
    """Raise RunError if a run has another format; the message gives its version of relook."""
    written = found.get("format", 0)
    if written != FORMAT:
        versions = found.get("versions")
        by = versions.get("relook", "unknown") if isinstance(versions, dict) else "unknown"
        raise RunError(
            f"{folder}: was written by another version of relook ({by}), in format {written}; "
            f"relook {version('relook')} reads format {FORMAT}: {remedy}, or use that version"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder for this process until the block or the process ends.

    The operating system locks the file `.lock`, so that a killed process leaves no lock behind. On
    a disk without file locks the folder is used unlocked, after a warning.

    Raises:
        RunError: the folder is in use by another process.
        OSError: the folder cannot be written to.
    """
    file = folder / ".lock"
    file.open("ab").close()  # if this fails, the folder is the reason, not the lock
    lock = FileLock(file, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(f"{folder}: another process is using it; wait for it, or stop it") from error
    except OSError as error:
        _log.warning(
            "relook: %s: its disk has no file locks (%s); use the folder in one process only",
            folder,
            first_line(error),
        )
    try:
        yield
    finally:
        lock.release()


def run_of(name: str) -> tuple[Path, str | None] | None:
    """Find the run that a path refers to.

    Returns:
        The run's folder, and the name of the folder in it that the path refers to (None: the run
        itself). None if the path refers to no run.
    """
    place = Path(name)
    try:
        if (place / "run.json").is_file():
            return place, None
        if place.is_dir() and (place.parent / "run.json").is_file():
            return place.parent, place.name
    except OSError:  # for example, the name is too long for a file
        pass
    return None


def write_atomically(file: Path, content: bytes | str) -> None:
    """Write a file completely or, if interrupted, not at all."""
    # A name of its own, since two processes may write one part of a run's rows, and hidden from
    # those who read the folder meanwhile.
    beside = file.with_name(f".{file.name}.{uuid4().hex[:8]}.writing")
    with beside.open("wb") as stream:
        stream.write(_encoded(content))
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def _encoded(content: bytes | str) -> bytes:
    # UTF-8 cannot encode lone surrogates; in JSON the escape \udce9 means the same.
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute the results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = found.get("called"), wanted.get("called")
        # The names of two looks show the difference better than all of their options.
        told = "look" if all(names) and names[0] != names[1] else "called"
        for key in dict.fromkeys((*wanted, *found)):
            if key == told or key in _TOLD:
                continue
            inner = ".".join(part for part in (name, "look" if key == "called" else key) if part)
            yield from _differences(found.get(key), wanted.get(key), inner)
    elif found != wanted:
        was, now = (json.dumps(value, ensure_ascii=False) for value in (found, wanted))
        unlike = (place for place, (a, b) in enumerate(zip(was, now, strict=False)) if a != b)
        start = max(0, next(unlike, 0) - _SHOWN // 2)
        yield f"{name} was {_short(was, start)} and is {_short(now, start)} now"


def _short(text: str, start: int) -> str:
    """Return a text, or, if it is long, the part around the first difference."""
    if len(text) <= _SHOWN:
        return text
    end = start + _SHOWN
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
