"""A run's folder: what was asked for, and the rows so far, in parts that survive whatever happens.

RUN holds `run.json` (settings, versions, what the data were) and `rows/*.parquet`; when all rows
are there they are one file.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow
import pyarrow.parquet

from relook.errors import RelookError
from relook.evaluation.rows import SCHEMA, Row, from_table, to_table

_PACKAGES = ("relook", "torch", "torchvision", "timm", "onnxruntime", "numpy", "pillow")
_SHOWN = 80


class RunError(RelookError):
    """The folder holds another run, or rows that cannot be read."""


@dataclass(frozen=True)
class Run:
    """A folder with a run in it.

    Attributes:
        folder: where.
        settings: all that the rows depend on, as JSON.
    """

    folder: Path
    settings: Mapping[str, Any]

    @classmethod
    @contextmanager
    def open(cls, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> Iterator[Run]:
        """Begin a run, or go on with the one that is there; nobody else can until this ends.

        A run that ends without rows leaves no run.json: another may begin in its folder.

        Raises:
            RunError: the folder holds a run of other settings, data or versions, and the message
                shows the difference; another process works in it; it cannot be read or made.
        """
        run = cls(Path(folder), json.loads(json.dumps(settings)))
        file = run.folder / "run.json"
        try:
            (run.folder / "rows").mkdir(parents=True, exist_ok=True)
            lock = _lock(run.folder)
        except OSError as error:
            raise RunError(f"{file}: cannot be used ({error}); choose another folder") from error
        with lock:
            run._begin(file)
            try:
                yield run
            finally:
                if not run._parts():
                    file.unlink(missing_ok=True)

    def _begin(self, file: Path) -> None:
        """Write run.json, or compare with what is there."""
        try:
            if not file.exists():
                if self._parts():
                    raise RunError(
                        f"{self.folder} holds rows but no run.json; choose another folder"
                    )
                write_atomically(file, json.dumps(self.settings, indent=2, ensure_ascii=False))
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be used ({error}); choose another folder") from error
        different = list(_differences(found, self.settings))
        if different:
            raise RunError(
                f"{self.folder} holds another run; choose another folder, or delete it to begin "
                f"anew. Different: {'; '.join(different)}"
            )
        for left in (self.folder / "rows").glob("*.writing"):
            left.unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """All rows that are there, in the order of the data.

        Raises:
            RunError: a part cannot be read.
        """
        rows: dict[int, Row] = {}
        for part in self._parts():
            rows |= {row.index: row for row in from_table(self._read(part))}
        return [rows[index] for index in sorted(rows)]

    def write(self, rows: Sequence[Row]) -> None:
        """Add a part: all of it or, if this is killed on the way, nothing."""
        self._write(to_table(rows))

    def compact(self) -> None:
        """All rows into one part, in order. Killed on the way, it leaves rows twice, which `rows`
        knows.
        """
        parts = self._parts()
        if len(parts) < 2:
            return
        table = pyarrow.concat_tables(map(self._read, parts))
        _, places = np.unique(table["index"].to_numpy(), return_index=True)
        self._write(table.take(places))
        for part in parts:
            part.unlink()

    def _read(self, part: Path) -> pyarrow.Table:
        try:
            return pyarrow.parquet.read_table(part, schema=SCHEMA)
        except (pyarrow.ArrowException, OSError) as error:
            raise RunError(
                f"{part}: cannot be read ({error}); delete it, and its images are done again"
            ) from error

    def _write(self, table: pyarrow.Table) -> None:
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink)
        name = f"part-{time.time_ns()}-{os.getpid()}.parquet"
        write_atomically(self.folder / "rows" / name, sink.getvalue().to_pybytes())

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "rows").glob("part-*.parquet"))


def _lock(folder: Path) -> IO[bytes]:
    """The folder for this process alone, until the file is closed or the process ends.

    Raises:
        RunError: another process has it.
    """
    file = (folder / "rows" / ".lock").open("ab")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RunError(f"{folder}: another process is at work in it; wait, or stop it") from error
    except (ImportError, OSError):
        pass  # no such locks on this system, or on this disk
    return file


def write_atomically(file: Path, content: bytes | str) -> None:
    """All of it or nothing."""
    beside = file.with_name(file.name + ".writing")
    with beside.open("wb") as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def versions() -> dict[str, str]:
    """Of what computes the rows."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys((*wanted, *found)):
            inner = f"{name}.{key}" if name else key
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
