"""Labelled images: a folder of class folders, or a table; their names matched to the classes."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relook.errors import RelookError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
"""What is taken for an image in a folder, in any case."""

_TABLES = {".csv", ".parquet"}


class DataError(RelookError):
    """The labelled data cannot be used as they are."""


@dataclass(frozen=True)
class LabelledImage:
    """One image and the class it belongs to.

    Attributes:
        name: its path relative to the data, with forward slashes; unique among them.
        path: where it is.
        label: 0-based class index.
    """

    name: str
    path: Path
    label: int


@dataclass(frozen=True)
class LabelledImages:
    """The images of one data set in the order they are evaluated in.

    Attributes:
        images: at least one.
        matched: in words, how the data's names were matched to the classes.
    """

    images: tuple[LabelledImage, ...]
    matched: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def content(self) -> str:
        """A digest of names, labels and file sizes: another for other data."""
        digest = hashlib.sha256()
        for image in self.images:
            try:
                size = image.path.stat().st_size
            except OSError:
                size = -1
            digest.update(f"{image.name}\0{image.label}\0{size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def sample(self, count: int) -> LabelledImages:
        """So many of them at random, the same every time; all if there are no more."""
        chosen = sorted(shuffled(len(self.images))[:count])
        return replace(self, images=tuple(self.images[index] for index in chosen))

    def halves(self) -> tuple[LabelledImages, LabelledImages]:
        """Two halves at random, the same every time, with as many images of each class as can be:
        what is chosen on one is measured on the other.

        Raises:
            DataError: there is only one image.
        """
        if len(self.images) < 2:
            raise DataError("one image has no two halves: one to choose on, one to measure on")
        order = sorted(shuffled(len(self.images)), key=lambda index: self.images[index].label)
        first, second = (
            replace(self, images=tuple(self.images[index] for index in sorted(order[start::2])))
            for start in (0, 1)
        )
        return first, second


def shuffled(count: int) -> list[int]:
    """The order in which images are taken: data sorted by class would make the figures on the
    way, and the first N images, those of a few classes.
    """
    order = list(range(count))
    random.Random(0).shuffle(order)
    return order


def read_data(data: str | os.PathLike[str], labels: Sequence[str]) -> LabelledImages:
    """Labelled images of a folder of class folders, or of a CSV or Parquet table.

    A table has the columns `image`, a path beside the table, and `label`. The names of the folders
    or the labels in the table are matched to the classes, all of them in the first way that fits
    all: by the classes' own labels (case, spaces and underscores aside), by synset id or 0-based
    index where the classes are those of ImageNet, by 0-based index in a table, else in sorted
    order where the counts agree. Not every class needs images.

    Args:
        data: the folder or the table.
        labels: the classifier's, one a class.

    Raises:
        DataError: there is no such data, no image in it, a column is missing, or the names match
            the classes in none of these ways; the message shows both lists.
    """
    root = Path(data)
    if root.is_dir():
        pairs = _of_folder(root)
        return _label(pairs, labels, root, index_allowed=_is_imagenet(labels))
    if root.suffix.lower() in _TABLES and root.is_file():
        return _label(_of_table(root), labels, root, index_allowed=True)
    raise _no_data(root)


def _no_data(root: Path) -> DataError:
    if not root.exists():
        return DataError(f"{root}: there is no such folder or table")
    return DataError(
        f"{root}: neither a folder of class folders nor a table (.csv or .parquet) with the "
        "columns image and label"
    )


def class_names(data: str | os.PathLike[str]) -> tuple[str, ...]:
    """The classes of data that no classifier knows yet: the folders' names, those without images
    among them, or the table's labels; sorted, by value where all are numbers.

    Raises:
        DataError: there is no such data, or it is no such table.
    """
    root = Path(data)
    if root.is_dir():
        return tuple(_sorted(folder.name for folder in _class_folders(root)))
    if root.suffix.lower() in _TABLES and root.is_file():
        return tuple(_sorted({label for _, _, label in _of_table(root)}))
    raise _no_data(root)


def _sorted(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found


def _class_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _of_folder(root: Path) -> list[tuple[str, Path, str]]:
    """(name, path, class name) of every image in every class folder, sorted."""
    folders = _class_folders(root)
    found = [
        (path.relative_to(root).as_posix(), path, folder.name)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        what = (
            f"none of its {len(folders)} folders holds an image ({', '.join(sorted(SUFFIXES))})"
            if folders
            else "it holds no folders; one a class is expected, or a table with image and label"
        )
        raise DataError(f"{root}: {what}")
    return found


def _of_table(table: Path) -> list[tuple[str, Path, str]]:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if table.suffix.lower() == ".csv":
            # As text: an index stays one, and a label of digits loses no leading zero.
            text = pyarrow.csv.ConvertOptions(
                column_types={"image": pyarrow.string(), "label": pyarrow.string()},
                strings_can_be_null=True,
            )
            columns = pyarrow.csv.read_csv(table, convert_options=text)
        else:
            columns = pyarrow.parquet.read_table(table)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{table}: cannot be read as a table ({error})") from error
    missing = [name for name in ("image", "label") if name not in columns.column_names]
    if missing:
        raise DataError(
            f"{table}: has no column {' and no '.join(missing)}, but "
            f"{', '.join(columns.column_names)}"
        )
    rows = list(zip(columns["image"].to_pylist(), columns["label"].to_pylist(), strict=True))
    if not rows:
        raise DataError(f"{table}: has no rows")
    for number, (image, label) in enumerate(rows, 2):
        if not image or label is None or str(label).strip() == "":
            raise DataError(f"{table}: row {number} lacks its image or its label")
    names = [str(image) for image, _ in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{table}: {twice} is there twice")
    return [
        (name, table.parent / name, str(label).strip())
        for name, (_, label) in zip(names, rows, strict=True)
    ]


def _label(
    pairs: Sequence[tuple[str, Path, str]], labels: Sequence[str], root: Path, index_allowed: bool
) -> LabelledImages:
    names = _sorted({name for _, _, name in pairs})
    classes, matched = _match(names, labels, index_allowed, root)
    images = tuple(LabelledImage(name, path, classes[own]) for name, path, own in pairs)
    return LabelledImages(images, matched)


def _match(
    names: Sequence[str], labels: Sequence[str], index_allowed: bool, root: Path
) -> tuple[Mapping[str, int], str]:
    """Class index of each name, and how it was found."""
    counts = Counter(map(plain, labels))
    # A label that two classes share names neither.
    own = {plain(label): i for i, label in enumerate(labels) if counts[plain(label)] == 1}
    if all(plain(name) in own for name in names):
        return {name: own[plain(name)] for name in names}, "by label"
    if _is_imagenet(labels):
        synsets = _imagenet_synsets()
        if all(name in synsets for name in names):
            return {name: synsets[name] for name in names}, "by synset id"
    if index_allowed and all(name.isdecimal() and int(name) < len(labels) for name in names):
        return {name: int(name) for name in names}, "by class index"
    # Names that fit in part were meant to be these: their order is not to be trusted.
    none_fits = not any(plain(name) in own for name in names)
    if len(names) == len(labels) and none_fits:
        return {name: index for index, name in enumerate(names)}, "in sorted order"
    indices = {str(index) for index in range(len(labels))} if index_allowed else set()
    ways = {
        "labels": [name for name in names if plain(name) not in own],
        "class indices": [name for name in names if (name.lstrip("0") or "0") not in indices],
    }
    if _is_imagenet(labels):
        ways["synset ids"] = [name for name in names if name not in _imagenet_synsets()]
    way, strange = min(ways.items(), key=lambda item: len(item[1]))
    rest = len(names) - len(strange)
    fit = f"{rest} of them fit the model's {way}; these do not" if rest else "None fits"
    raise DataError(
        f"{root}: its {len(names)} classes do not match the model's {len(labels)}. {fit}: "
        f"{_some(strange)}. The model has: {_some(labels)}. Name all classes by the model's "
        f"{', or all by its '.join(w for w in ways if w != 'class indices' or indices)}; or give "
        "as many as it has, in its order once sorted"
    )


def plain(name: str) -> str:
    """What two spellings of one class name have in common: case, spaces, - and _ aside."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _some(names: Sequence[Any], count: int = 12) -> str:
    shown = ", ".join(map(str, names[:count]))
    return f"{shown}, … ({len(names)} in all)" if len(names) > count else shown


def _is_imagenet(labels: Sequence[str]) -> bool:
    if len(labels) != 1000:
        return False
    from relook.imagenet import imagenet_labels

    return tuple(labels) == imagenet_labels()


def _imagenet_synsets() -> dict[str, int]:
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    return {synset: index for index, synset in enumerate(names)}
