"""A run's folder: the settings, and the rows so far, in files that survive interruptions.

The folder holds `run.json` (settings, versions, a description of the data) and `rows/*.parquet`. A
finished run has one row for each image there, all in one file unless there are very many.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from relook.folder import Folder, RemoteFolder, RunError, claimed, folder_at
from relook.storage import StorageError

_ROWS = "rows"
_SMALL = 256 * 2**20
"""Parts of at most this many bytes together are merged into one file when a run is finished."""


@dataclass(frozen=True)
class Run:
    """A run's settings and rows in a folder.

    >>> from relook.evaluation.rows import schema_of
    >>> evaluation = relook.evaluate(corrector, "photos", output="run")
    >>> with relook.evaluation.Run.open("run", evaluation.settings, schema_of) as run:
    ...     print(len(run.table()))
    2

    Attributes:
        folder: the folder of the run, on this machine or at an address.
        settings: everything that the rows depend on, as JSON values.
        schema_of: returns the schema of the rows, given the settings.
    """

    folder: Folder
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

        Args:
            folder: path or address of the folder. At an address there is no lock.
            settings: everything that the rows depend on, as JSON values.
            schema_of: returns the schema of the rows, given the settings.

        Raises:
            RunError: the folder holds a run with other settings, data or versions (the message
                shows the difference), is in use by another process, or cannot be read or created.
        """
        run = cls(folder_at(folder), json.loads(json.dumps(settings)), schema_of)
        with claimed(run.folder, run.settings, lambda: bool(run._parts())) as kept:
            run = cls(run.folder, kept, schema_of)  # a continued run keeps its own order of answers
            try:
                run.folder.tidy(_ROWS)
            except StorageError as error:
                raise RunError(str(error)) from error
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

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pyarrow.Table]:
        """Read the rows so far, file by file, in any order; one for each image.

        Args:
            columns: names of the columns to read, as far as the rows have them; all by default.

        Raises:
            RunError: a file of rows cannot be read.
        """
        names = [name for name in self.schema.names if columns is None or name in columns]
        for part, new, rows in self._new_rows():
            found = self._read(part, names)
            # A process that was killed while it merged the parts left some rows twice.
            yield found if len(new) == rows else found.take(new)

    def write(self, rows: pyarrow.Table, name: str | None = None) -> None:
        """Write rows to a new file, all or, if the process is killed meanwhile, none.

        Args:
            rows: the rows.
            name: name of the file, without its folder; by default one that sorts after those that
                were written before.
        """
        name = name or f"part-{time.time_ns()}-{os.getpid()}.parquet"
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(rows, sink)
        self.folder.write(f"{_ROWS}/{name}", sink.getvalue().to_pybytes())

    def has(self, name: str) -> bool:
        """Return whether there is a file of rows with this name."""
        try:
            with self.folder.open(f"{_ROWS}/{name}"):
                return True
        except FileNotFoundError:
            return False

    def compact(self) -> None:
        """Leave one row for each image: in one file, in order; in the files that there are, if they
        are too large together to be read at once.

        If the process is killed meanwhile, some rows exist twice; `table` reads each only once.
        """
        sizes = _parts_in(self.folder)
        if len(sizes) < 2:
            return
        if sum(sizes.values()) > _SMALL:
            self._drop_repeated()
            return
        self.write(self.table())
        for part in sizes:
            self.folder.delete(f"{_ROWS}/{part}")

    def _drop_repeated(self) -> None:
        """Rewrite the parts with rows of images that a part before them has a row of."""
        for part, new, rows in self._new_rows():
            if not new:
                self.folder.delete(f"{_ROWS}/{part}")
            elif len(new) < rows:
                self.write(self._read(part).take(new), part)

    def _new_rows(self) -> Iterator[tuple[str, list[int], int]]:
        """Yield each part, the places of its rows that no part before has, and its length."""
        seen: set[int] = set()
        for part in self._parts():
            own = self._read(part, ["index"])["index"].to_pylist()
            new = []
            for place, index in enumerate(own):
                if index not in seen:
                    seen.add(index)
                    new.append(place)
            yield part, new, len(own)

    @classmethod
    def count(cls, folder: str | os.PathLike[str] | Folder) -> int:
        """Return the number of rows of the run in a folder; 0 without a run."""
        rows, place = 0, folder_at(folder)
        try:
            parts = _parts_in(place)
        except StorageError:
            return 0
        for part in parts:
            try:
                with place.open(f"{_ROWS}/{part}") as stream:
                    rows += pyarrow.parquet.read_metadata(stream).num_rows
            except (pyarrow.ArrowException, OSError, StorageError):
                continue  # damaged: whoever reads its rows will be told
        return rows

    def _read(self, part: str, columns: list[str] | None = None) -> pyarrow.Table:
        name = f"{_ROWS}/{part}"
        try:
            with self.folder.open(name) as stream:  # Arrow itself opens only paths in UTF-8
                return pyarrow.parquet.read_table(stream, columns=columns, schema=self.schema)
        except (pyarrow.ArrowException, OSError) as error:
            far = "check the connection, or " if isinstance(self.folder, RemoteFolder) else ""
            raise RunError(
                f"{self.folder.named(name)}: cannot be read ({error}); {far}delete it to have its "
                "images classified again"
            ) from error

    def _parts(self) -> list[str]:
        return list(_parts_in(self.folder))


def _parts_in(folder: Folder) -> dict[str, int]:
    """Return the sizes of the files of rows in a run's folder, by name, in the order of writing."""
    return {
        name: size
        for name, size in folder.sizes(_ROWS).items()
        if name.startswith("part-") and name.endswith(".parquet")
    }
