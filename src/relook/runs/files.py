"""The image files below a folder, and the files and folders there that are not used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relook.images import image_suffixes, looks_like_image
from relook.text import readable
from relook.words import count

_SYSTEM = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found"})
"""System folders, in lower case; hidden folders begin with a dot."""

_SHOWN = 6


@dataclass
class LeftOut:
    """Counts of what is not used in folders of images.

    Attributes:
        others: files that Pillow does not open as images, by the suffix of their name.
        twice: images that were given more than once; each is used once.
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
    twice: int = 0
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
            (self.twice, "image", "given more than once", []),
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


def images_below(
    folder: str | os.PathLike[str], above: frozenset[tuple[int, int]], left: LeftOut
) -> Iterator[os.DirEntry[str]]:
    """Find all images in a folder and its subfolders, in sorted order.

    Args:
        folder: the folder.
        above: the folders that contain it, as `identity` says.
        left: counts what is not used.
    """
    own = identity(folder)
    if own in above:
        left.loops += 1
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        left.unreadable += 1
        return
    for entry in entries:
        if kind_of(entry) != "folder":
            if is_image(entry, left):
                yield entry
        elif is_hidden(entry.name, folder=True):
            count_hidden(entry.path, above | {own}, left)
        else:
            yield from images_below(entry.path, above | {own}, left)


def count_hidden(
    folder: str | os.PathLike[str], above: frozenset[tuple[int, int]], left: LeftOut
) -> None:
    """Count the images in a hidden or system folder. The arguments are those of `images_below`."""
    images = sum(1 for _ in images_below(folder, above, LeftOut()))
    if images:
        left.images_hidden += images
        left.folders_hidden.add(readable(os.path.basename(folder)))


def is_hidden(name: str, folder: bool) -> bool:
    """Whether a file or a folder of this name is hidden, or the folder is a system's."""
    return name.startswith(".") or (
        folder and (name.casefold() in _SYSTEM or name.startswith("__"))
    )


def is_image(entry: os.DirEntry[str], left: LeftOut) -> bool:
    """Whether a file is an image that is used; if not, count it."""
    if is_hidden(entry.name, folder=False):
        left.hidden += 1
        return False
    kind = kind_of(entry)
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


def kind_of(entry: os.DirEntry[str]) -> Literal["folder", "file", "special", "broken"]:
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


def identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """What tells a folder from others, whatever the links that lead to it."""
    try:
        status = os.stat(folder)
    except OSError:
        return (-1, -1)
    return status.st_dev, status.st_ino
