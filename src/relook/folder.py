"""A run's folder: one process at a time, one set of settings, files written completely or not."""

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


@contextmanager
def claimed(
    folder: Path, settings: Mapping[str, Any], begun: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Start a run in a folder or continue the one there; the folder is locked in the block.

    Yields the settings in run.json.

    A run that ends before it has saved any results leaves no run.json, so that another can start.

    Args:
        folder: the run's folder; it is created if it does not exist.
        settings: everything that the run depends on, as JSON values; stored in run.json.
        begun: returns whether the folder holds results of a run.

    Raises:
        RunError: the folder holds a run with other settings, data or versions (the message shows
            the difference), is in use by another process, or cannot be read or created.
    """
    file = folder / "run.json"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
        except OSError as error:
            raise RunError(f"{file}: cannot be used ({error}); choose another folder") from error
        found = _begin(file, {"format": FORMAT, **settings}, begun())
        try:
            yield found
        finally:
            if not begun():
                file.unlink(missing_ok=True)


def _begin(file: Path, settings: Mapping[str, Any], begun: bool) -> dict[str, Any]:
    """Write run.json, or compare the settings with those in it; return those in it."""
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
        raise RunError(f"{file}: cannot be used (it contains no settings); choose another folder")
    _refuse_format(file.parent, found, "choose another folder")
    if found.get("kind") != settings.get("kind"):
        raise RunError(
            f"{file.parent} holds {_kind(found)}, written by another command; choose another folder"
        )
    different = list(_differences(found, settings))
    if not different and _names(found) != _names(settings):
        # The same looks under other names: rows that are there would not be found by them.
        different = [f"the answers were called {_names(found)} and are {_names(settings)} now"]
    if different:
        raise RunError(
            f"{file.parent} holds another run; choose another folder, or delete this one to start "
            f"again. Different: {'; '.join(different)}"
        )
    return found


def _names(settings: Mapping[str, Any]) -> list[Any]:
    """Return the names of a run's answers, those of the other looks in any order."""
    answers = settings.get("answers") or {}
    return [answers.get("first"), answers.get("main"), *sorted(answers.get("others", ()))]


def read_settings(folder: Path, *kinds: str) -> dict[str, Any]:
    """Read the settings in run.json of a run of one of these kinds.

    Raises:
        RunError: the folder holds no run or one of another kind or format, or run.json cannot be
            read.
    """
    file = folder / "run.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder}: contains no run.json; pass the folder of a run") from None
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


def _refuse_format(folder: Path, found: Mapping[str, Any], remedy: str) -> None:
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
    beside = file.with_name(file.name + ".writing")
    with beside.open("wb") as stream:
        stream.write(
            # UTF-8 cannot encode lone surrogates; in JSON the escape \udce9 means the same.
            content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        )
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


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
