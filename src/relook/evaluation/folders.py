"""The images of class folders, and what lies there beside them."""

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
"""Folders that disks and programs make for themselves, in lower case; hidden ones begin with a
dot."""

_PARTS = (
    *("val", "validation", "valid", "valset", "minival", "dev", "eval", "evaluation", "test"),
    *("testing", "testset", "holdout", "train", "training", "trainset", "trainval", "fold"),
    "split",
)
"""Words by which the parts of a data set are called, in lower case; those to evaluate on first."""

_WORD = re.compile(r"[^\W\d_]+")
_CASES = re.compile(r"(?<=[a-z])(?=[A-Z])")

_SHOWN = 6


@dataclass
class LeftOut:
    """What lies in a folder of class folders and is not used.

    Attributes:
        others: files that Pillow does not open as images, by the ending of their name.
        outside: images that lie in no class folder.
        hidden: hidden files.
        images_hidden: images in folders that are hidden or a system's.
        folders_hidden: the names of those folders.
        special: pipes and devices.
        loops: links back to a folder that they lie in.
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
        """In words; nothing at all where nothing was left out."""
        most = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        endings = [f"{ending} {count:,}" for ending, count in most]
        parts: list[tuple[int, str, str, Collection[str]]] = [
            (self.others.total(), "file", "that Pillow does not open as an image", endings),
            (self.outside, "image", "outside of class folders", []),
            (self.images_hidden, "image", "in hidden or system folders", self.folders_hidden),
            (self.hidden, "hidden file", "", []),
            (self.special, "special file", "(a pipe or a device)", []),
            (self.loops, "link", "back to a folder that it lies in", []),
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
    """What a folder of class folders holds.

    Attributes:
        root: the folder.
        images: (path, name of its class folder) of each image, sorted.
        names: of all class folders, those without images among them, sorted.
        parts: the class folders that are parts of a data set rather than classes, those to
            evaluate on first: all images are in folders inside, and train, val, test or the like
            is a word of the name, or all class folders hold folders of the same names.
        left_out: what is not used.
        blank: class folders that hold nothing at all.
    """

    root: Path
    images: tuple[tuple[Path, str], ...]
    names: tuple[str, ...]
    parts: tuple[str, ...]
    left_out: LeftOut
    blank: tuple[str, ...]

    @property
    def are_called_parts(self) -> bool:
        """Whether every folder with images is called train, val, test or the like."""
        return all(_rank(name) is not None for _, name in self.images)

    def check_parts(self) -> None:
        """Raise DataError if the class folders are the parts of a data set."""
        with_images = {name for _, name in self.images}
        if self.parts and (len(self.parts) > 1 or with_images == set(self.parts)):
            listed = some([f"{part}/" for part in sorted(self.parts)], _SHOWN)
            are = "are parts of a data set" if len(self.parts) > 1 else "is a part of a data set"
            raise DataError(
                f"{readable(self.root)}: {listed} {are}, not classes: class folders lie inside. "
                f"Name the one that is meant: {readable(self.root / self.parts[0])}. (Where they "
                "are the classes: pass a table of images and labels, name the model's classes as "
                "the folders are called, or say in which order they are: --class-order)"
            )


def read_folders(root: Path) -> ClassFolders:
    """The images in the class folders of `root`, however deep, links to folders followed.

    An image is a file whose name ends as Pillow's formats do; or without any ending, if it begins
    like one.

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
    """Those class folders that are parts of a data set.

    Args:
        inner: the names of the folders with images in each of them; "" for itself.
    """
    ranks = {name: _rank(name) for name in inner}
    found = [name for name in inner if "" not in inner[name]]
    if not (len(found) > 1 and len(found) == len(inner) and _repeat([*inner.values()])):
        found = [name for name in found if ranks[name] is not None]
    return tuple(sorted(found, key=lambda name: (ranks[name] is None, ranks[name] or 0, name)))


def _repeat(inner: Sequence[set[str]]) -> bool:
    """Whether names repeat in all: as classes do in parts of a data set.

    One single name, as in cat/images and dog/images, says nothing.
    """
    known = [{*map(plain, names)} for names in inner]
    return len(set.union(*known)) > 1 and bool(set.intersection(*known))


def _rank(name: str) -> int | None:
    """The place in `_PARTS` of the first of its words in a name; None without any."""
    words = [word.casefold() for word in _WORD.findall(_CASES.sub(" ", name))]
    known = {*words, "".join(words)} & {*_PARTS}
    return min(map(_PARTS.index, known), default=None)


def _below(folder: Path, above: frozenset[tuple[int, int]], left: LeftOut) -> Iterator[Path]:
    """Every image in a folder and below; `above`: the folders that it lies in."""
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
    """Whether it is an image to be used; if not, it is counted."""
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
    left.others[readable(ending) or "without an ending"] += 1
    return False


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "special", "broken"]:
    """What it is, or what it links to; "broken": a link to nothing."""
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
