"""The images in class folders, and the files and folders that are not used."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relook.errors import DataError
from relook.labels import plain
from relook.runs.files import (
    LeftOut,
    count_hidden,
    identity,
    images_below,
    is_hidden,
    is_image,
    kind_of,
)
from relook.text import readable
from relook.words import some

_PARTS = (
    *("val", "validation", "valid", "valset", "minival", "dev", "eval", "evaluation", "test"),
    *("testing", "testset", "holdout", "train", "training", "trainset", "trainval", "fold"),
    "split",
)
"""Names of the parts of a data set, in lower case; those to evaluate on come first."""

_WORD = re.compile(r"[^\W\d_]+")
_CASES = re.compile(r"(?<=[a-z])(?=[A-Z])")

_SHOWN = 6


@dataclass(frozen=True)
class ClassFolders:
    """The content of a folder of class folders.

    Attributes:
        root: the folder.
        images: (path, name of its class folder) of each image, sorted.
        names: the names of all class folders, with or without images, sorted.
        parts: class folders that are parts of a data set rather than classes; those to evaluate on
            come first. All their images are in subfolders, and their name contains train, val, test
            or the like, or all class folders contain subfolders of the same names.
        left_out: the files and folders that are not used.
        blank: class folders that are empty.
    """

    root: Path
    images: tuple[tuple[Path, str], ...]
    names: tuple[str, ...]
    parts: tuple[str, ...]
    left_out: LeftOut
    blank: tuple[str, ...]

    @property
    def are_called_parts(self) -> bool:
        """Whether all folders with images are named train, val, test or the like."""
        return all(_rank(name) is not None for _, name in self.images)

    def check_parts(self) -> None:
        """Raise DataError if the class folders are the parts of a data set."""
        with_images = {name for _, name in self.images}
        if self.parts and (len(self.parts) > 1 or with_images == set(self.parts)):
            listed = some([f"{part}/" for part in sorted(self.parts)], _SHOWN)
            are = "are parts of a data set" if len(self.parts) > 1 else "is a part of a data set"
            raise DataError(
                f"{readable(self.root)}: {listed} {are}, not classes: class folders lie inside. "
                f"Pass the one that you mean: {readable(self.root / self.parts[0])}. (If they are "
                "the classes: pass a table of images and labels, or give the model's classes the "
                "names of the folders, or give their order: --class-order)"
            )


def read_folders(root: Path) -> ClassFolders:
    """Find the images in the class folders of `root`, at any depth, following links to folders.

    Images are files with a suffix of one of Pillow's formats, and files without a suffix that begin
    like an image.

    Raises:
        DataError: the folder cannot be read.
    """
    left = LeftOut()
    images: list[tuple[Path, str]] = []
    names: list[str] = []
    inner: dict[str, set[str]] = {}
    blank: list[str] = []
    above = frozenset({identity(root)})
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{readable(root)}: cannot be read ({error.strerror})") from error
    for entry in entries:
        path = root / entry.name
        if kind_of(entry) != "folder":
            left.outside += is_image(entry, left)
        elif is_hidden(entry.name, folder=True):
            count_hidden(path, above, left)
        else:
            name = readable(entry.name)
            found = sorted(Path(image.path) for image in images_below(path, above, left))
            images += [(image, name) for image in found]
            names.append(name)
            if not found:
                left.empty.append(name)
                if not any(path.iterdir()):
                    blank.append(name)
            else:
                depth = len(path.parts)
                paths = (image.parts[depth:] for image in found)
                inner[name] = {parts[0] if len(parts) > 1 else "" for parts in paths}
    return ClassFolders(root, tuple(images), tuple(names), _parts(inner), left, tuple(blank))


def _parts(inner: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The class folders that are parts of a data set.

    Args:
        inner: for each class folder, the names of its subfolders with images; "" for itself.
    """
    ranks = {name: _rank(name) for name in inner}
    found = [name for name in inner if "" not in inner[name]]
    if not (len(found) > 1 and len(found) == len(inner) and _repeat([*inner.values()])):
        found = [name for name in found if ranks[name] is not None]
    return tuple(sorted(found, key=lambda name: (ranks[name] is None, ranks[name] or 0, name)))


def _repeat(inner: Sequence[set[str]]) -> bool:
    """Whether names repeat in all class folders, as classes do in the parts of a data set.

    A single name, as in cat/images and dog/images, does not count.
    """
    known = [{*map(plain, names)} for names in inner]
    return len(set.union(*known)) > 1 and bool(set.intersection(*known))


def _rank(name: str) -> int | None:
    """The first position in `_PARTS` of a word in a name; None if there is no such word."""
    words = [word.casefold() for word in _WORD.findall(_CASES.sub(" ", name))]
    known = {*words, "".join(words)} & {*_PARTS}
    return min(map(_PARTS.index, known), default=None)
