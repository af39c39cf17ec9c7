"""A run's folder: what was asked for, and the rows so far, in parts that survive whatever happens.

RUN holds `run.json` (settings, versions, what the data were) and `rows/*.parquet`; when all rows
are there they are one file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from relook.evaluation.rows import Names, schema, to_table
from relook.folder import RunError, claimed, write_atomically


@dataclass(frozen=True)
class Run:
    """A folder with a run in it.

    >>> evaluation = relook.evaluate(corrector, "photos", output="run")
    >>> with relook.evaluation.Run.open("run", evaluation.settings) as run:
    ...     print(list(run.names), len(run.table()))
    ['first look', 'flip'] 2

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

    @property
    def names(self) -> Names:
        """Which answers the rows hold."""
        return Names.of(self.settings["answers"])

    def table(self) -> pyarrow.Table:
        """All rows that are there, in the order of the data, as `to_table` makes them.

        Raises:
            RunError: a part cannot be read.
        """
        none = to_table((), self.names)
        table = pyarrow.concat_tables([none, *map(self._read, self._parts())])
        _, places = np.unique(table["index"].to_numpy(), return_index=True)
        return table.take(places)

    def write(self, rows: pyarrow.Table) -> None:
        """Add a part: all of it or, if this is killed on the way, nothing."""
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(rows, sink)
        name = f"part-{time.time_ns()}-{os.getpid()}.parquet"
        write_atomically(self.folder / "rows" / name, sink.getvalue().to_pybytes())

    def compact(self) -> None:
        """All rows into one part, in order. Killed on the way, it leaves rows twice, which `table`
        knows.
        """
        parts = self._parts()
        if len(parts) < 2:
            return
        self.write(self.table())
        for part in parts:
            part.unlink()

    @classmethod
    def done(cls, folder: Path) -> int:
        """How many rows the run in a folder has; 0 where there is no run."""
        return sum(pyarrow.parquet.read_metadata(p).num_rows for p in cls(folder, {})._parts())

    def _read(self, part: Path) -> pyarrow.Table:
        try:
            with part.open("rb") as stream:  # Arrow itself takes no paths but those in UTF-8
                return pyarrow.parquet.read_table(stream, schema=schema(self.names))
        except (pyarrow.ArrowException, OSError) as error:
            raise RunError(
                f"{part}: cannot be read ({error}); delete it, and its images are done again"
            ) from error

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "rows").glob("part-*.parquet"))
