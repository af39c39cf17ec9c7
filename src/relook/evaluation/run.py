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
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
    def open(cls, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> Run:
        """Begin a run, or go on with the one that is there.

        Raises:
            RunError: the folder holds a run of other settings, data or versions, and the message
                shows the difference; or it cannot be read or made.
        """
        folder = Path(folder)
        file = folder / "run.json"
        wanted = json.loads(json.dumps(settings))
        try:
            (folder / "rows").mkdir(parents=True, exist_ok=True)
            if not file.exists():
                if any((folder / "rows").glob("*.parquet")):
                    raise RunError(f"{folder} holds rows but no run.json; choose another folder")
                write_atomically(file, json.dumps(wanted, indent=2, ensure_ascii=False))
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be used ({error}); choose another folder") from error
        different = list(_differences(found, wanted))
        if different:
            raise RunError(
                f"{folder} holds another run; choose another folder, or delete it to begin anew. "
                f"Different: {'; '.join(different)}"
            )
        for left in (folder / "rows").glob("*.writing"):
            left.unlink(missing_ok=True)
        return cls(folder, wanted)

    def rows(self) -> list[Row]:
        """All rows that are there, in the order of the data.

        Raises:
            RunError: a part cannot be read.
        """
        rows: dict[int, Row] = {}
        for part in self._parts():
            try:
                table = pyarrow.parquet.read_table(part, schema=SCHEMA)
            except (pyarrow.ArrowException, OSError) as error:
                raise RunError(
                    f"{part}: cannot be read ({error}); delete it, and its images are done again"
                ) from error
            rows |= {row.index: row for row in from_table(table)}
        return [rows[index] for index in sorted(rows)]

    def write(self, rows: Sequence[Row]) -> None:
        """Add a part: all of it or, if this is killed on the way, nothing."""
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(to_table(rows), sink)
        name = f"part-{time.time_ns()}-{os.getpid()}.parquet"
        write_atomically(self.folder / "rows" / name, sink.getvalue().to_pybytes())

    def compact(self) -> None:
        """All rows into one part. Killed on the way, it leaves rows twice, which `rows` knows."""
        parts = self._parts()
        if len(parts) > 1:
            self.write(self.rows())
            for part in parts:
                part.unlink()

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "rows").glob("part-*.parquet"))


def write_atomically(file: Path, content: bytes | str) -> None:
    """All of it or nothing, also where the power fails."""
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
