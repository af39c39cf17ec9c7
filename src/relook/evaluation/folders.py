"""The images in class folders, and the files and folders that are not used."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relook.errors import DataError
from relook.images import image_suffixes, looks_like_image
from relook.labels import plain
from relook.text import readable
from relook.words import count, some

_SYSTEM = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found"})
"""System folders, in lower case; hidden folders begin with a dot."""

_PARTS = (
    *("val", "validation", "valid", "valset", "minival", "dev", "eval", "evaluation", "test"),
    *("testing", "testset", "holdout", "train", "training", "trainset", "trainval", "fold"),
    "split",
)
"""Names of the parts of a data set, in lower case; those to evaluate on come first."""

_WORD = re.compile(r"[^\W\d_]+")
_CASES = re.compile(r"(?<=[a-z])(?=[A-Z])")

_SHOWN = 6


@dataclass
class LeftOut:
    """Counts of what is not used in a folder of class folders.

    Attributes:
        others: files that Pillow does not open as images, by the suffix of their name.
        outside: images that lie in no class folder.
        hidden: hidden files.
        images_hidden: images in hidden or system folders.
        folders_hidden: the names of those folders.
        special: pipes and devices.
        loops: links to a folder that contains them.
        unreadable: folders that cannot be read.
        empty: class folders without an image.
    """

    others: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    hidden: int = 0
    images_hidden: int = 0
    folders_hidden: set[str] = field(default_factory=set)
    special: int = 0
    loops: int = 0
    unreadable: int = 0
    empty: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """The counts in words; empty if everything is used."""
        most = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        endings = [f"{ending} {count:,}" for ending, count in most]
        parts: list[tuple[int, str, str, Collection[str]]] = [
            (self.others.total(), "file", "that Pillow does not open as an image", endings),
            (self.outside, "image", "outside the class folders", []),
            (self.images_hidden, "image", "in hidden or system folders", self.folders_hidden),
            (self.hidden, "hidden file", "", []),
            (self.special, "special file", "(a pipe or a device)", []),
            (self.loops, "link", "to a folder that contains it", []),
            (self.unreadable, "folder", "that cannot be read", []),
            (len(self.empty), "class folder", "without an image", self.empty),
        ]
        told = [_told(*part) for part in parts if part[0]]
        return ", ".join(told)


def _told(number: int, thing: str, which: str, examples: Collection[str]) -> str:
    things = count(number, thing)
    shown = sorted(examples) if isinstance(examples, set) else list(examples)
    more = ", …" if len(shown) > _SHOWN else ""
    named = f"({', '.join(shown[:_SHOWN])}{more})" if shown else ""
    return " ".join(part for part in (things, which, named) if part)


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
    above = frozenset({_identity(root)})
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{readable(root)}: cannot be read ({error.strerror})") from error
    for entry in entries:
        path = root / entry.name
        if _kind(entry) != "folder":
            left.outside += _is_image(entry, left)
        elif _is_hidden(entry.name, folder=True):
            _count_hidden(path, above, left)
        else:
            name = readable(entry.name)
            found = sorted(_below(path, above, left))
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


def _below(folder: Path, above: frozenset[tuple[int, int]], left: LeftOut) -> Iterator[Path]:
    """All images in a folder and its subfolders; `above`: the folders that contain it."""
    own = _identity(folder)
    if own in above:
        left.loops += 1
        return
    try:
        entries = list(os.scandir(folder))
    except OSError:
        left.unreadable += 1
        return
    for entry in entries:
        path = folder / entry.name
        if _kind(entry) != "folder":
            if _is_image(entry, left):
                yield path
        elif _is_hidden(entry.name, folder=True):
            _count_hidden(path, above | {own}, left)
        else:
            yield from _below(path, above | {own}, left)


def _count_hidden(folder: Path, above: frozenset[tuple[int, int]], left: LeftOut) -> None:
    images = sum(1 for _ in _below(folder, above, LeftOut()))
    if images:
        left.images_hidden += images
        left.folders_hidden.add(readable(folder.name))


def _is_hidden(name: str, folder: bool) -> bool:
    return name.startswith(".") or (
        folder and (name.casefold() in _SYSTEM or name.startswith("__"))
    )


def _is_image(entry: os.DirEntry[str], left: LeftOut) -> bool:
    """Whether a file is an image that is used; if not, count it."""
    if _is_hidden(entry.name, folder=False):
        left.hidden += 1
        return False
    kind = _kind(entry)
    if kind == "special":
        left.special += 1
        return False
    ending = os.path.splitext(entry.name)[1].lower()
    if ending in image_suffixes():
        return True
    if not ending and kind == "file" and looks_like_image(Path(entry.path)):
        return True
    left.others[readable(ending) or "without a suffix"] += 1
    return False


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "special", "broken"]:
    """The kind of a file or of the target of a link; "broken" if the target does not exist."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except OSError:
        return "broken"
    return "special"


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError:
        return (-1, -1)
    return status.st_dev, status.st_ino
