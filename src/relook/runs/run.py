"""A run's folder: the settings, and the rows so far, in files that survive interruptions.

The folder holds `run.json` (settings, versions, a description of the data) and `rows/*.parquet`. A
finished run has all rows in one file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from relook.folder import RunError, claimed, write_atomically


@dataclass(frozen=True)
class Run:
    """A run's settings and rows in a folder.

    >>> from relook.evaluation.rows import schema_of
    >>> evaluation = relook.evaluate(corrector, "photos", output="run")
    >>> with relook.evaluation.Run.open("run", evaluation.settings, schema_of) as run:
    ...     print(len(run.table()))
    2

    Attributes:
        folder: the folder of the run.
        settings: everything that the rows depend on, as JSON values.
        schema_of: returns the schema of the rows, given the settings.
    """

    folder: Path
    settings: Mapping[str, Any]
    schema_of: Callable[[Mapping[str, Any]], pyarrow.Schema]

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any],
        schema_of: Callable[[Mapping[str, Any]], pyarrow.Schema],
    ) -> Iterator[Run]:
        """Start a run or continue the one in the folder; until this ends, the folder is locked.

        A run that ends without rows leaves no run.json, so that another can start in the folder.

        Raises:
            RunError: the folder holds a run with other settings, data or versions (the message
                shows the difference), is in use by another process, or cannot be read or created.
        """
        run = cls(Path(folder), json.loads(json.dumps(settings)), schema_of)
        with claimed(run.folder, run.settings, lambda: bool(run._parts())) as kept:
            run = cls(run.folder, kept, schema_of)  # a continued run keeps its own order of answers
            try:
                (run.folder / "rows").mkdir(exist_ok=True)
                for left in (run.folder / "rows").glob("*.writing"):
                    left.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(
                    f"{run.folder}: cannot be used ({error}); choose another folder"
                ) from error
            yield run

    @property
    def schema(self) -> pyarrow.Schema:
        """Schema of the rows."""
        return self.schema_of(self.settings)

    def table(self) -> pyarrow.Table:
        """Read all rows so far, in the order of the data.

        Raises:
            RunError: a file of rows cannot be read.
        """
        none = self.schema.empty_table()
        table = pyarrow.concat_tables([none, *map(self._read, self._parts())])
        _, places = np.unique(table["index"].to_numpy(), return_index=True)
        return table.take(places)

    def done(self) -> set[int]:
        """Return the indices of the images that have a row.

        Raises:
            RunError: a file of rows cannot be read.
        """
        parts = (self._read(part, ["index"])["index"] for part in self._parts())
        return {index for part in parts for index in part.to_pylist()}

    def write(self, rows: pyarrow.Table, name: str | None = None) -> None:
        """Write rows to a file, all or, if the process is killed meanwhile, none.

        Args:
            rows: the rows.
            name: name of the file, "part-….parquet", which is replaced if it exists; a new one by
                default.
        """
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(rows, sink)
        name = name or f"part-{time.time_ns()}-{os.getpid()}.parquet"
        write_atomically(self.folder / "rows" / name, sink.getvalue().to_pybytes())

    def has(self, name: str) -> bool:
        """Return whether there is a file of rows with this name."""
        return (self.folder / "rows" / name).is_file()

    def compact(self) -> None:
        """Merge all rows into one file, in order.

        If the process is killed meanwhile, some rows exist twice; `table` reads each only once.
        """
        parts = self._parts()
        if len(parts) < 2:
            return
        self.write(self.table())
        for part in parts:
            part.unlink()

    @classmethod
    def count(cls, folder: Path) -> int:
        """Return the number of rows of the run in a folder; 0 without a run."""
        rows = 0
        for part in _parts_in(folder):
            try:
                rows += pyarrow.parquet.read_metadata(part).num_rows
            except (pyarrow.ArrowException, OSError):
                continue  # damaged: whoever reads its rows will be told
        return rows

    def _read(self, part: Path, columns: list[str] | None = None) -> pyarrow.Table:
        try:
            with part.open("rb") as stream:  # Arrow itself opens only paths in UTF-8
                return pyarrow.parquet.read_table(stream, columns=columns, schema=self.schema)
        except (pyarrow.ArrowException, OSError) as error:
            raise RunError(
                f"{part}: cannot be read ({error}); delete it to have its images classified again"
            ) from error

    def _parts(self) -> list[Path]:
        return _parts_in(self.folder)


def _parts_in(folder: Path) -> list[Path]:
    """Return the files of rows in a run's folder, in the order of writing."""
    return sorted((folder / "rows").glob("part-*.parquet"))
