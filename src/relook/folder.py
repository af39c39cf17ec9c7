"""A run's folder: one process at a time, one set of settings, files that are whole or not there."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from relook.errors import RelookError, first_line

_log = logging.getLogger("relook")

_PACKAGES = ("relook", "torch", "torchvision", "timm", "onnxruntime", "numpy", "pillow")
FORMAT = 1
"""Of what run.json and the files beside it hold; a run of another format is refused."""
_SHOWN = 80
_TOLD = ("answers", "matched", "pairs", "left_out", "remarks", "training")
"""Keys of run.json that are not compared, since they follow from others: the names of the answers
from the looks, how labels were matched from the digest of the data (it holds the class of each
image), what is known of a training from the digests of its networks."""


class RunError(RelookError):
    """The folder holds another run, or something that cannot be read.

    >>> try:
    ...     relook.Evaluation.read("photos")
    ... except relook.evaluation.RunError as error:
    ...     print(error)
    photos: holds no run.json; name the folder of a run
    """


@contextmanager
def claimed(folder: Path, settings: Mapping[str, Any], begun: Callable[[], bool]) -> Iterator[None]:
    """Begin a run in this folder, or go on with the one that is there; nobody else can meanwhile.

    A run that ends before anything is kept of it leaves no run.json: another may begin there.

    Args:
        folder: made where it is not there.
        settings: all that the run depends on, as JSON has it; kept in run.json.
        begun: whether anything of a run is kept there.

    Raises:
        RunError: the folder holds a run of other settings, data or versions, and the message
            shows the difference; another process works in it; it cannot be read or made.
    """
    file = folder / "run.json"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
        except OSError as error:
            raise RunError(f"{file}: cannot be used ({error}); choose another folder") from error
        _begin(file, {"format": FORMAT, **settings}, begun())
        try:
            yield
        finally:
            if not begun():
                file.unlink(missing_ok=True)


def _begin(file: Path, settings: Mapping[str, Any], begun: bool) -> None:
    """Write run.json, or compare with what is there."""
    try:
        if not file.exists():
            if begun:
                raise RunError(
                    f"{file.parent} holds parts of a run but no run.json; choose another folder"
                )
            write_atomically(file, json.dumps(settings, indent=2, ensure_ascii=False))
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{file}: cannot be used ({error}); choose another folder") from error
    if not isinstance(found, dict):
        raise RunError(f"{file}: cannot be used (it holds no settings); choose another folder")
    _refuse_format(file.parent, found, "choose another folder")
    if found.get("kind") != settings.get("kind"):
        raise RunError(
            f"{file.parent} holds {_kind(found)}, which another command wrote; choose another "
            "folder"
        )
    different = list(_differences(found, settings))
    if different:
        raise RunError(
            f"{file.parent} holds another run; choose another folder, or delete it to begin "
            f"anew. Different: {'; '.join(different)}"
        )


def read_settings(folder: Path, *kinds: str) -> dict[str, Any]:
    """What run.json of a run of one of these kinds holds.

    Raises:
        RunError: the folder holds no run, one of another kind or of another format, or run.json
            cannot be read.
    """
    file = folder / "run.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder}: holds no run.json; name the folder of a run") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise RunError(f"{file}: cannot be read (it holds no settings)")
    _refuse_format(folder, found, "run the command again with another folder")
    if found.get("kind") not in kinds:
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise RunError(f"{folder}: holds {_kind(found)}; name the folder of {wanted}")
    return found


_KINDS = {
    "evaluation": "an evaluation (relook evaluate)",
    "tuning": "a choice of relook evaluate --tune",
    "comparison": "a comparison (relook compare)",
    "multicam": "a training (relook train-multicam)",
}


def _kind(settings: Mapping[str, Any]) -> str:
    """What a run of these settings is called."""
    return _KINDS.get(str(settings.get("kind")), "something else")


def _refuse_format(folder: Path, found: Mapping[str, Any], remedy: str) -> None:
    """Raise RunError for a run of another format, with the version of relook that wrote it."""
    written = found.get("format", 0)
    if written != FORMAT:
        by = (found.get("versions") or {}).get("relook", "unknown")
        raise RunError(
            f"{folder}: was written by another version of relook ({by}), in format {written}; "
            f"relook {version('relook')} reads format {FORMAT}: {remedy}, or use that version"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep the folder for this process alone, until the block or the process ends.

    The lock is the operating system's, on the file `.lock`, so that a killed process leaves none.
    On a disk without such locks the folder is used unlocked, and a warning says so.

    Raises:
        RunError: another process has the folder.
        OSError: the folder cannot be written to.
    """
    file = folder / ".lock"
    file.open("ab").close()  # where this fails, the reason is the folder and not the lock
    lock = FileLock(file, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(f"{folder}: another process is at work in it; wait, or stop it") from error
    except OSError as error:
        _log.warning(
            "relook: %s: its disk has no file locks (%s); start no second process in this folder",
            folder,
            first_line(error),
        )
    try:
        yield
    finally:
        lock.release()


def run_of(name: str) -> tuple[Path, str | None] | None:
    """The run that a name stands for, and the part of the run that is meant.

    Returns:
        The run's folder, and the name of the folder in it that is meant (None: the run itself);
        None where the name stands for no run.
    """
    place = Path(name)
    try:
        if (place / "run.json").is_file():
            return place, None
        if place.is_dir() and (place.parent / "run.json").is_file():
            return place.parent, place.name
    except OSError:  # the name is too long for a file, among others
        pass
    return None


def write_atomically(file: Path, content: bytes | str) -> None:
    """All of it or nothing."""
    beside = file.with_name(file.name + ".writing")
    with beside.open("wb") as stream:
        stream.write(
            # In JSON, `\udce9` is the character itself: half of one is no UTF-8.
            content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        )
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def versions() -> dict[str, str]:
    """Of what computes the results."""
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
        # What two looks are called tells them apart better than all of their options.
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
    """All of it, or what lies around the first difference."""
    if len(text) <= _SHOWN:
        return text
    end = start + _SHOWN
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
