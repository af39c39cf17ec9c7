"""A run's folder: what was asked for, and the rows so far, in parts that survive whatever happens.

RUN holds `run.json` (settings, versions, what the data were) and `rows/*.parquet`; when all rows
are there they are one file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from relook.evaluation.rows import SCHEMA, Row, from_table, to_table
from relook.folder import RunError, claimed, write_atomically


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
        with claimed(run.folder, run.settings, lambda: bool(run._parts())):
            try:
                (run.folder / "rows").mkdir(exist_ok=True)
                for left in (run.folder / "rows").glob("*.writing"):
                    left.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"{run.folder}: cannot be used ({error})") from error
            yield run

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
            with part.open("rb") as stream:  # Arrow itself takes no paths but those in UTF-8
                return pyarrow.parquet.read_table(stream, schema=SCHEMA)
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
