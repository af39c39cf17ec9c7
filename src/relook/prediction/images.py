"""The images that are named on a command line: files, folders and tables, here or at addresses."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from relook.errors import DataError
from relook.images import image_suffixes
from relook.runs import Item
from relook.runs.files import LeftOut, images_below, is_hidden
from relook.runs.tables import TableRow, read_table
from relook.storage import StorageError, files_in, is_address, is_table, joined, kind_of, shown
from relook.text import readable


@dataclass(frozen=True)
class FoundImages:
    """The images of several inputs, in the order of their rows.

    >>> from relook.prediction.images import find_images
    >>> found = find_images(["photo.jpg", "photos"])
    >>> [item.name for item in found.items]
    ['photo.jpg', 'photos/Egyptian cat/chelsea.png', 'photos/espresso/coffee.png']

    Attributes:
        items: the images, at least one, without labels; their names differ.
        left_out: description of the files in the folders that are not used, and of images that were
            given more than once; empty if there are none.
        content: digest of names and file sizes, which differs between data sets.
    """

    items: tuple[Item, ...]
    left_out: str
    content: str

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class _Found:
    """An image: its name in the rows, its path, address or content, and its size in bytes."""

    name: str
    source: str | bytes = field(repr=False)
    size: int


def find_images(inputs: Sequence[str | os.PathLike[str]]) -> FoundImages:
    """Find the images of several inputs: files, folders, and tables with a column `image`.

    Each input is a path or an address such as s3://bucket/photos (see `relook.storage`). Of a
    folder all images below it are used, in sorted order, but not what is hidden; at an address an
    image is known by the suffix of its name alone. In a table, images are paths relative to the
    table's folder, addresses or, in Parquet, the content of files; a column `label` is ignored.

    An image that is given more than once, as `photos` and `photos/cat.jpg` do, is used once. A file
    that is named itself is used whatever it is, so that its row says why it cannot be read.

    Names are relative to the input if it is a single folder, and as in the table if it is a single
    table; otherwise they begin with the input as it was given.

    >>> from relook.prediction.images import find_images
    >>> [item.name for item in find_images(["photos"]).items]
    ['Egyptian cat/chelsea.png', 'espresso/coffee.png']

    Raises:
        DataError: a table, or a folder at an address, does not exist or cannot be read, or there is
            no image.
    """
    left = LeftOut()
    items: list[Item] = []
    digest = hashlib.sha256()
    names: set[str] = set()
    sources: set[str] = set()
    for given in inputs:
        for found in _images_of(os.fspath(given), len(inputs) == 1, left):
            if isinstance(found.source, str):
                # One input does not name a file in two ways, unless it is a table.
                source = found.source
                if len(inputs) > 1 and not is_address(source):
                    source = os.path.abspath(source)
                if source in sources:
                    left.twice += 1
                    continue
                sources.add(source)
            name, number = found.name, 1
            while name in names:
                number += 1
                name = f"{found.name} ({number})"
            names.add(name)
            digest.update(f"{name}\0{found.size}\n".encode())
            items.append(Item(len(items), name, found.source))
    if not items:
        raise DataError(_nothing(inputs, left))
    return FoundImages(tuple(items), str(left), digest.hexdigest()[:16])


def _nothing(inputs: Sequence[str | os.PathLike[str]], left: LeftOut) -> str:
    """Why there is no image."""
    if not inputs:
        return "no image is given; pass image files, folders or tables"
    named = ", ".join(_shown(os.fspath(given)) for given in inputs)
    contains = f" ({'it contains' if len(inputs) == 1 else 'found'} {left})" if str(left) else ""
    return f"{named}: contains no image{contains}; pass image files, or folders of images"


def _shown(given: str) -> str:
    return shown(given) if is_address(given) else readable(given)


def _images_of(given: str, alone: bool, left: LeftOut) -> Iterator[_Found]:
    """The images of one input.

    Args:
        given: the input.
        alone: whether it is the only one.
        left: counts what is not used.
    """
    try:
        if is_address(given):
            yield from _at_address(given, alone, left)
        elif os.path.isdir(given):
            yield from _in_folder(given, alone, left)
        elif is_table(given):
            if not os.path.exists(given):
                raise DataError(f"{readable(given)}: there is no such table; check the path")
            yield from _in_table(given, alone)
        else:
            yield _Found(readable(given), given, _size(given))
    except StorageError as error:
        raise DataError(str(error)) from error


def _in_folder(folder: str, alone: bool, left: LeftOut) -> Iterator[_Found]:
    unreadable = left.unreadable
    start = len(os.path.join(folder, ""))
    first = "" if alone else PurePath(folder).as_posix()
    none = True
    for entry in images_below(folder, frozenset(), left):
        none = False
        inside = entry.path[start:].replace(os.sep, "/")
        name = posixpath.join(first, inside)
        try:
            size = entry.stat().st_size
        except OSError:  # a broken link
            size = -1
        yield _Found(readable(name), entry.path, size)
    if none and left.unreadable > unreadable and not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"{readable(folder)}: the folder cannot be read; check its permissions")


def _at_address(address: str, alone: bool, left: LeftOut) -> Iterator[_Found]:
    """The images of a file, folder or table at an address."""
    kind = kind_of(address)
    if kind != "folder" and is_table(address):
        yield from _in_table(address, alone)
        return
    if kind != "folder" and (kind == "file" or _is_image(address)):
        # A file that does not exist is a row that says so.
        yield _Found(_shown(address), address, -1)
        return
    try:
        files = files_in(address, deep=True)
    except FileNotFoundError:
        raise DataError(
            f"{_shown(address)}: there is no such file or folder; check the address"
        ) from None
    first = "" if alone else _shown(address)
    for name, size in sorted(files, key=lambda file: file[0].split("/")):
        if _is_used(name, left):
            yield _Found(posixpath.join(first, name), joined(address, name), size)


def _is_image(name: str) -> bool:
    shown = _shown(name)
    return posixpath.splitext(shown)[1].lower() in image_suffixes()


def _is_used(name: str, left: LeftOut) -> bool:
    """Whether a file below a folder at an address is an image that is used; if not, count it."""
    *folders, file = name.split("/")
    ending = posixpath.splitext(file)[1].lower()
    hidden = [folder for folder in folders if is_hidden(folder, folder=True)]
    if hidden:
        if ending in image_suffixes() and not is_hidden(file, folder=False):
            left.images_hidden += 1
            left.folders_hidden.add(hidden[0])
        return False
    if is_hidden(file, folder=False):
        left.hidden += 1
        return False
    if ending in image_suffixes():
        return True
    left.others[ending or "without a suffix"] += 1
    return False


def _in_table(table: str, alone: bool) -> Iterator[_Found]:
    file = table if is_address(table) else Path(table)
    for row in read_table(file, labelled=False).rows:
        source = row.source if isinstance(row.source, bytes) else os.fspath(row.source)
        yield _Found(_name_of(row, table, alone), source, _size(source))


def _name_of(row: TableRow, table: str, alone: bool) -> str:
    """The name of an image in a table: as it is written there, if this is the only table."""
    if isinstance(row.source, str) and is_address(row.name):
        return shown(row.name)
    written = readable(row.name)
    if alone:
        return written
    if isinstance(row.source, bytes):
        return f"{_shown(table)}: {written}"
    if is_address(table):
        return posixpath.join(posixpath.dirname(_shown(table)), written)
    return (PurePath(readable(table)).parent / written).as_posix()


def _size(source: str | bytes) -> int:
    """Size of an image file in bytes; -1 if there is no such file or it is at an address."""
    if isinstance(source, bytes):
        return len(source)
    try:
        return -1 if is_address(source) else os.stat(source).st_size
    except (OSError, ValueError):
        return -1
