"""Tables of images, labelled or not, in CSV and Parquet files from many programs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from relook.errors import DataError, RelookError, first_line
from relook.storage import StorageError, folder_of, is_address, joined, open_file
from relook.storage import shown as shown_address
from relook.text import decode, readable

_LABELLED = ("image", "label")
_UNLABELLED = ("image",)
_BETWEEN = ",;\t|"
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_INDEX = re.compile(r"[0-9]+")
_SEPARATOR = re.compile(r'"?sep=([^\r\n"])\1*"?[ \t]*(\r\n|\n|\r)', re.IGNORECASE)
"""Excel's first line that declares the separator, which is not part of the table."""

_MISSING = frozenset({"nan", "na", "n/a", "null", "none", "-nan"})
"""Ways in which programs write a missing number, in lower case."""

_LONGEST_PATH = 4096
_BYTES = re.compile(r"b['\"]|\{['\"](bytes|path)['\"]")
_SHOWN = 12


@dataclass(frozen=True)
class TableRow:
    """One image of a table.

    Attributes:
        number: the number of the row, for messages.
        name: the name of the image; unique in the table.
        source: the path or the address of the image file, or its content.
        label: the label as written in the table; empty if labels were not asked for.
    """

    number: int
    name: str
    source: Path | str | bytes
    label: str


@dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        file: the path or the address of the table.
        rows: the rows, at least one.
        are_numbers: whether the labels are numbers.
        class_names: names of the class indices, in order, from Hugging Face's datasets library.
    """

    file: Path | str
    rows: tuple[TableRow, ...]
    are_numbers: bool
    class_names: tuple[str, ...] | None = None

    def as_class_indices(self) -> Table:
        """The table with labels such as 3.0 written as 3; unchanged if labels are names.

        Raises:
            DataError: a label is missing, negative or not a whole number.
        """
        if not self.are_numbers:
            return self
        return replace(self, rows=tuple(self._with_index(row) for row in self.rows))

    def _with_index(self, row: TableRow) -> TableRow:
        if _INDEX.fullmatch(row.label):
            return row
        value = float(row.label) if _NUMBER.fullmatch(row.label) else math.nan
        if not math.isfinite(value) or value < 0 or value != int(value):
            raise DataError(
                f"{shown(self.file)}: row {row.number} ({_short(row.name)}) has the label "
                f"{_short(row.label)}; class indices are whole numbers from 0. Correct it, or "
                "remove the row"
            )
        return replace(row, label=str(int(value)))


def columns_of(file: Path) -> list[str]:
    """The names of a table's columns; empty if the file cannot be read as a table."""
    try:
        if file.suffix.lower() == ".parquet":
            with file.open("rb") as stream:
                return list(pyarrow.parquet.read_schema(stream).names)
        return next(_records(file, _LABELLED))[1]
    except (RelookError, OSError, pyarrow.ArrowException, StopIteration):
        return []


def read_table(file: Path | str, labelled: bool = True) -> Table:
    """Read the images of a table, with labels as they are written.

    Args:
        file: path of the table, or its address.
        labelled: read the labels. Otherwise a column of labels is ignored, and an image may be
            listed several times.

    Raises:
        DataError: the table cannot be read, a column is missing or duplicated, a row lacks its
            image or label, or an image with a label is listed twice.
    """
    columns = _LABELLED if labelled else _UNLABELLED
    try:
        table = _of_parquet(file, columns) if _is_parquet(file) else _of_csv(file, columns)
    except StorageError as error:
        raise DataError(str(error)) from error
    if not table.rows:
        raise DataError(f"{shown(file)}: the table has no rows")
    by_path = Counter(row.name for row in table.rows if not isinstance(row.source, bytes))
    twice = [name for name, count in by_path.items() if count > 1]
    if twice and labelled:
        more = f" (and others: {len(twice):,} in all)" if len(twice) > 1 else ""
        raise DataError(f"{shown(file)}: {_short(twice[0])} is listed twice{more}; keep one row")
    return replace(table, rows=tuple(_distinct(table.rows)))


def shown(file: Path | str) -> str:
    """What messages call a table, by its path or its address."""
    return readable(shown_address(file) if is_address(file) else file)


def _is_parquet(file: Path | str) -> bool:
    return shown(file).lower().endswith(".parquet")


def _opened(file: Path | str) -> Any:
    """A table as an open file."""
    if not is_address(file):
        return Path(file).open("rb")
    try:
        return open_file(file)
    except FileNotFoundError:
        raise DataError(f"{shown(file)}: there is no such table; check the address") from None


def _distinct(rows: Iterable[TableRow]) -> Iterator[TableRow]:
    """Make the names of images unique: those inside the table may share a file name."""
    taken: set[str] = set()
    for row in rows:
        name = f"{row.name} (row {row.number})" if row.name in taken else row.name
        taken.add(name)
        yield replace(row, name=name)


def _of_csv(file: Path | str, columns: Sequence[str]) -> Table:
    records = _records(file, columns)
    _, header = next(records, (0, []))
    if not header:
        raise DataError(f"{shown(file)}: the file is empty; expected {_listed(columns)}")
    _check_columns(file, header, columns)
    places = [header.index(name) for name in columns]
    rows = []
    for number, record in records:
        if len(record) != len(header):
            raise DataError(
                f"{shown(file)}: cannot be read as a table (row {number} has "
                f"{len(record)} values, the header {len(header)})"
            )
        image, *label = (record[place] for place in places)
        rows.append(_row(file, number, image, label[0].strip() if label else None))
    known = {row.label for row in rows if row.label.casefold() not in _MISSING}
    are_numbers = bool(known) and all(map(_NUMBER.fullmatch, known))
    return Table(file, tuple(rows), are_numbers)


def _records(file: Path | str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, values) of each record of a CSV file, without blank lines.

    The separator is the one in Excel's line `sep=`; otherwise a comma, or the one with which the
    first line has these columns.
    """
    try:
        with _opened(file) as stream:
            text = decode(stream.read(), shown(file))
        said = _SEPARATOR.match(text)
        text = text[said.end() :] if said else text
        between = (
            said[1] if said else max(_BETWEEN, key=lambda mark: _recognised(text, mark, columns))
        )
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True)
        for record in reader:
            if record:
                yield reader.line_num + bool(said), record
    except RelookError as error:
        raise DataError(str(error)) from error
    except (OSError, csv.Error) as error:
        raise DataError(
            f"{shown(file)}: cannot be read as a table ({first_line(error)})"
        ) from error


def _recognised(text: str, between: str, columns: Sequence[str]) -> tuple[int, int]:
    """The number of required columns in the first line, spelt exactly and approximately."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=between)
    header = next(reader, [])
    roughly = {name.strip().casefold() for name in header}
    return len({*header} & {*columns}), len(roughly & {*columns})


def _of_parquet(file: Path | str, wanted: Sequence[str]) -> Table:
    try:
        with _opened(file) as stream:  # Arrow only opens paths in UTF-8
            schema = pyarrow.parquet.read_schema(stream)
            _check_columns(file, schema.names, wanted)
            columns = pyarrow.parquet.read_table(stream, columns=list(wanted))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{shown(file)}: cannot be read as a table ({first_line(error)})"
        ) from error
    images = columns["image"]
    _check_image_type(file, images.type)
    if "label" not in wanted:
        found = enumerate(images.to_pylist(), 1)
        return Table(file, tuple(_row(file, number, image, None) for number, image in found), False)
    labels = columns["label"]
    _check_label_type(file, labels.type)
    rows = tuple(
        _row(file, number, image, _label(label))
        for number, (image, label) in enumerate(
            zip(images.to_pylist(), labels.to_pylist(), strict=True), 1
        )
    )
    kind = _values(labels.type)
    numeric = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)
    known = {row.label for row in rows if row.label.casefold() not in _MISSING}
    are_numbers = numeric or (bool(known) and all(map(_NUMBER.fullmatch, known)))
    return Table(file, rows, are_numbers, _class_names(schema) if numeric else None)


def _label(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return "" if value is None else str(value).strip()


def _class_names(schema: pyarrow.Schema) -> tuple[str, ...] | None:
    """The names in a ClassLabel column of Hugging Face's datasets library."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"]["label"]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _values(kind: pyarrow.DataType) -> pyarrow.DataType:
    return kind.value_type if pyarrow.types.is_dictionary(kind) else kind


def _check_image_type(file: Path | str, image: pyarrow.DataType) -> None:
    image = _values(image)
    is_image = pyarrow.types.is_struct(image) and {"bytes", "path"} & {f.name for f in image}
    if pyarrow.types.is_nested(image) and not is_image:
        raise DataError(
            f"{shown(file)}: the column image holds {_short(str(image))}; expected paths, the "
            "bytes of image files, or both as {bytes, path}"
        )


def _check_label_type(file: Path | str, label: pyarrow.DataType) -> None:
    label = _values(label)
    if pyarrow.types.is_nested(label):
        raise DataError(
            f"{shown(file)}: the column label holds {_short(str(label))}; one class per image "
            "is expected"
        )


def _check_columns(file: Path | str, found: Sequence[str], wanted: Sequence[str]) -> None:
    twice = [name for name in wanted if list(found).count(name) > 1]
    if twice:
        raise DataError(
            f"{shown(file)}: has the column {' and the column '.join(twice)} twice; keep one"
        )
    missing = [name for name in wanted if name not in found]
    if missing:
        like = [repr(name) for name in found if name.strip().casefold() in missing]
        remedy = f"; write {' and '.join(like)} in lower case without spaces" if like else ""
        listed = ", ".join(map(_short, found[:_SHOWN])) + (", …" if len(found) > _SHOWN else "")
        raise DataError(
            f"{shown(file)}: has no column {' and no '.join(missing)}, only {listed}{remedy}"
        )


def _listed(columns: Sequence[str]) -> str:
    return f"column{'s' if len(columns) > 1 else ''} {' and '.join(columns)}"


def _row(file: Path | str, number: int, image: Any, label: str | None) -> TableRow:
    """The row of an image; `label` is None if the table is read without labels."""
    name, content = f"row {number}", None
    if isinstance(image, dict):
        name, content, image = image.get("path") or name, image.get("bytes"), image.get("path")
    elif isinstance(image, bytes):
        content = image
    if label == "" or (content is None and not image):
        lacks = "its image" if label is None else "its image or its label"
        raise DataError(f"{shown(file)}: row {number} lacks {lacks}")
    if content is not None:
        return TableRow(number, name, content, label or "")
    text = str(image)
    if len(text) > _LONGEST_PATH or _BYTES.match(text):
        raise DataError(
            f"{shown(file)}: the image of row {number} is the content of a file, written as "
            "text, instead of a path; save the table as Parquet, where a column can hold bytes"
        )
    return TableRow(number, text, _source(file, text), label or "")


def _source(file: Path | str, text: str) -> Path | str:
    """The path or the address of an image, relative to the table's folder unless it is absolute."""
    if is_address(text):
        return text
    if not is_address(file):
        return _path(Path(file).parent, text)
    if os.path.isabs(text):
        return Path(text)
    folder, inside = folder_of(file), posixpath.normpath(text.replace("\\", "/"))
    while inside.startswith("../"):  # an object store takes .. for the name of a folder
        folder, inside = folder_of(folder), inside.removeprefix("../")
    return joined(folder, inside)


def _path(folder: Path, text: str) -> Path:
    """A path relative to the table; Windows' backslashes become slashes if that file exists."""
    path = folder / text
    if "\\" in text and not os.path.exists(path):
        other = folder / text.replace("\\", "/")
        if os.path.exists(other):
            return other
    return path


def _short(text: str, count: int = 80) -> str:
    return text if len(text) <= count else f"{text[:count]}…"
