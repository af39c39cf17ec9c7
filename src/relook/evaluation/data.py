"""Labelled images from class folders or a table, matched to the classes of a model."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from relook.errors import DataError
from relook.evaluation.folders import ClassFolders, read_folders
from relook.evaluation.matching import (
    ORDERS,
    Matching,
    Order,
    are_known,
    is_imagenet,
    match,
)
from relook.labels import ClassIndices, by_label, composed
from relook.runs import Item
from relook.runs.tables import Table, columns_of, read_table, shown
from relook.storage import TABLES
from relook.text import readable

_PAIRS_SHOWN = 5


@dataclass(frozen=True)
class LabelledImage:
    """One image and its true class.

    >>> image = relook.evaluation.read_data("photos", classifier.labels).images[0]
    >>> image.name, classifier.labels[image.label]
    ('Egyptian cat/chelsea.png', 'Egyptian cat')
    >>> image.open().size
    (451, 300)

    Attributes:
        name: path relative to the data set, with forward slashes; unique in the data set and
            printable (see `relook.text.readable`).
        path: path of the image file; None if the data set itself holds the file's content.
        label: 0-based class index.
        content: bytes of the image file, if the data set itself holds them.
    """

    name: str
    path: Path | None
    label: int
    content: bytes | None = field(default=None, repr=False)

    @property
    def source(self) -> Path | bytes:
        """The image's path, or its bytes: an argument for `relook.images.open_image`."""
        source = self.path if self.content is None else self.content
        assert source is not None
        return source

    def open(self) -> Image.Image:
        """Open the image as RGB.

        Raises:
            ImageError: the image cannot be read, or is a pipe or a device, which may never end.
        """
        return Item(0, self.name, self.source, self.label).open()

    @property
    def size(self) -> int:
        """Size of the image file in bytes; -1 if there is no such file."""
        if self.content is not None:
            return len(self.content)
        try:
            return -1 if self.path is None else self.path.stat().st_size
        except (OSError, ValueError):
            return -1


@dataclass(frozen=True)
class LabelledImages:
    """The images of one data set, in the order of their rows.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> len(data), data.matched, len(data.sample(1))
    (2, 'by label', 1)
    >>> one, other = data.halves()
    >>> len(one), len(other)
    (1, 1)

    Attributes:
        images: the images, at least one.
        matched: how class names in the data were matched to the model's classes, as text.
        pairs: (name in the data, label in the model) for every class name; pairs that differ come
            first.
        left_out: description of the files in the data's folder that are not used; empty if all
            files are used.
    """

    images: tuple[LabelledImage, ...]
    matched: str
    pairs: tuple[tuple[str, str], ...] = ()
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def items(self, order: Iterable[int] | None = None) -> list[Item]:
        """Return the images as the items of a run, in this order of indices."""
        indices = range(len(self)) if order is None else order
        return [
            Item(index, image.name, image.source, image.label)
            for index in indices
            for image in [self.images[index]]
        ]

    @property
    def examples(self) -> str:
        """The first few pairs as text: "n01440764 → tench, n01443537 → goldfish, …"."""
        shown = ", ".join(f"{name} → {label}" for name, label in self.pairs[:_PAIRS_SHOWN])
        return shown + (", …" if len(self.pairs) > _PAIRS_SHOWN else "")

    @property
    def content(self) -> str:
        """Digest of names, labels and file sizes, which differs between data sets."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.name}\0{image.label}\0{image.size}\n".encode())
        return digest.hexdigest()[:16]

    def described(self) -> dict[str, Any]:
        """Return the data as settings of a run, with a digest of names, labels and file sizes."""
        return {
            "data": {
                "images": len(self),
                "classes": len({image.label for image in self.images}),
                "matched": self.matched,
                "pairs": self.examples,
                "left_out": self.left_out,
                "content": self.content,
            }
        }

    def sample(self, count: int) -> LabelledImages:
        """Choose `count` images at random, the same ones every time; all if there are fewer."""
        chosen = sorted(shuffled(len(self.images))[:count])
        return replace(self, images=tuple(self.images[index] for index in chosen))

    def halves(self) -> tuple[LabelledImages, LabelledImages]:
        """Split the images at random into two halves, the same ones every time.

        The images of each class are divided as evenly as possible. Tuning chooses a look on the
        first half, and the second half measures it.

        Raises:
            DataError: there is only one image.
        """
        if len(self.images) < 2:
            raise DataError(
                "one image cannot be split into two halves, one to choose on and one to measure on"
            )
        order = sorted(shuffled(len(self.images)), key=lambda index: self.images[index].label)
        first, second = (
            replace(self, images=tuple(self.images[index] for index in sorted(order[start::2])))
            for start in (0, 1)
        )
        return first, second


def shuffled(count: int) -> list[int]:
    """Return the indices 0 to count − 1 in a random order, the same one every time.

    In data sorted by class, the first images belong to only a few classes, and interim results
    would describe only these.
    """
    order = list(range(count))
    random.Random(0).shuffle(order)
    return order


def read_data(
    data: str | os.PathLike[str], labels: Sequence[str], order: Order | None = None
) -> LabelledImages:
    """Read labelled images from a folder with one folder per class, or from a table.

    A table is a CSV, TSV or Parquet file with the columns `image` and `label`. `image` holds paths
    relative to the table's folder; in Parquet it may also hold the bytes of the image file, or both
    as {bytes, path}.

    The folders' names, or the labels in the table, are matched to the model's classes by the first
    of these rules that fits all names (see `relook.evaluation.matching.match`): the model's labels;
    synset ids, if the classes are ImageNet's; 0-based class indices, in a table or if the classes
    are ImageNet's; sorted order, if there are as many names as classes and the order is
    unambiguous. Classes may be without images.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> data.examples
    'Egyptian cat → Egyptian cat, espresso → espresso'
    >>> [image.label for image in data.images]
    [285, 967]

    Args:
        data: path of the folder or the table.
        labels: the classifier's labels, one per class. Folders are not matched by name to the
            placeholder labels of a classifier without class names (`relook.labels.ClassIndices`).
        order: how names are sorted if they are matched in sorted order: "string" (0, 1, 10, 2) or
            "natural" (0, 1, 2, 10). None: both orders must agree.

    Raises:
        DataError: the data do not exist or hold no image, a column is missing, or no rule matches
            all names to classes; the message then shows both lists.
    """
    if order is not None and order not in ORDERS:
        raise DataError(f'order must be "string" or "natural", not {order!r}')
    root = Path(data)
    if root.is_dir():
        return _of_folder(root, labels, order)
    if root.suffix.lower() in TABLES and root.is_file():
        return _of_table(read_table(root), labels, order)
    raise _no_data(root)


def _no_data(root: Path) -> DataError:
    name = readable(root)
    if not os.path.exists(root):
        return DataError(f"{name}: there is no such folder or table")
    return DataError(
        f"{name}: neither a folder of class folders nor a table (.csv or .parquet) with the "
        "columns image and label"
    )


def class_names(data: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the classes in a data set, for training a new classifier.

    These are the names of the folders, including those without images, or the labels in the table.
    They are sorted; by value, if all are numbers. Class names that Hugging Face Datasets stored in
    a table keep their order.

    >>> relook.evaluation.class_names("photos")
    ('Egyptian cat', 'espresso')

    Raises:
        DataError: the data do not exist, or the file is not a table of labelled images.
    """
    root = Path(data)
    if root.is_dir():
        found = read_folders(root)
        found.check_parts()
        return tuple(_sorted(set(map(composed, found.names))))
    if root.suffix.lower() in TABLES and root.is_file():
        table = read_table(root).as_class_indices()
        return table.class_names or tuple(_sorted({composed(row.label) for row in table.rows}))
    raise _no_data(root)


def _sorted(names: set[str]) -> list[str]:
    found = sorted(names)
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found


def _of_folder(root: Path, labels: Sequence[str], order: Order | None) -> LabelledImages:
    found = read_folders(root)
    tables, told = _tables_in(root)
    if not found.images:
        what = (
            f"none of its {len(found.names)} folders contains an image that Pillow can open"
            if found.names
            else "it contains no folders; expected one folder per class, or a table with the "
            "columns image and label"
        )
        left = f" (it contains {found.left_out})" if str(found.left_out) else ""
        raise DataError(f"{readable(root)}: {what}{left}{'. ' if told else ''}{told}")
    names = sorted({name for _, name in found.images})
    if order is None and not are_known(names, labels):
        found.check_parts()
    matching = match(
        names,
        labels,
        readable(root),
        indices=is_imagenet(labels),  # folders named by number are indices only for ImageNet
        order=order,
        unused=found.blank,
        doubt=told if tables else _doubt(found),
        hint=told,
    )
    images = tuple(
        LabelledImage(readable(path.relative_to(root).as_posix()), path, matching.classes[name])
        for path, name in found.images
    )
    return _labelled(images, matching, labels, str(found.left_out))


def _tables_in(root: Path) -> tuple[list[Path], str]:
    """Tables of images in a folder, and a sentence about them or about other tables there."""
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in TABLES)
    files = [file for file in files if file.is_file()]
    tables = [file for file in files if {"image", "label"} <= {*columns_of(file)}]
    if tables:
        return tables, f"It contains a table of images: pass that instead ({readable(tables[0])})"
    if files:
        name = readable(files[0].name)
        return (
            [],
            f"It also contains {name}; a table of images needs the columns image and label",
        )
    return [], ""


def _doubt(found: ClassFolders) -> str:
    """Why the folders may not be classes: a sentence for the message, or an empty string."""
    if found.parts:
        return (
            f"The folder {found.parts[0]} contains class folders itself: pass it instead if you "
            f"meant that one ({readable(found.root / found.parts[0])})"
        )
    if found.are_called_parts:
        return (
            "Folders with these names are usually parts of a data set, with one folder per class "
            "inside; if they are the classes, add --class-order string or natural"
        )
    names = {name for _, name in found.images}
    if len(names) == 1 and all(path.parent.parent != found.root for path, _ in found.images):
        [name] = names
        return (
            f"Its only folder, {name}, contains folders itself: pass it instead if those are the "
            f"classes ({readable(found.root / name)})"
        )
    return ""


def _of_table(table: Table, labels: Sequence[str], order: Order | None) -> LabelledImages:
    where = shown(table.file)
    far = [row for row in table.rows if isinstance(row.source, str)]
    if far:
        raise DataError(
            f"{where}: row {far[0].number} is at an address ({readable(far[0].name)}), which only "
            "relook predict reads; copy the images to this machine and list their paths"
        )
    exact = not isinstance(labels, ClassIndices) and {r.label for r in table.rows} <= {*labels}
    if not exact:
        table = table.as_class_indices()
    names = sorted({row.label for row in table.rows})
    titles = _titles(names, table.class_names, where)
    matching = _by_title(titles, labels, where)
    if matching is None:
        matching = match(names, labels, where, indices=True, order=order, places=_rows_of(table))
    images = tuple(
        LabelledImage(
            row.name,
            row.source if isinstance(row.source, Path) else None,
            matching.classes[row.label],
            row.source if isinstance(row.source, bytes) else None,
        )
        for row in table.rows
    )
    return _labelled(images, matching, labels, "", titles)


def _rows_of(table: Table) -> dict[str, str]:
    """For each label, the rows that have it, as text: "row 3 and 5 more"."""
    rows: dict[str, list[int]] = {}
    for row in table.rows:
        rows.setdefault(row.label, []).append(row.number)
    return {
        label: f"row {numbers[0]}" + (f" and {len(numbers) - 1:,} more" if len(numbers) > 1 else "")
        for label, numbers in rows.items()
    }


def _titles(names: Sequence[str], class_names: Sequence[str] | None, where: str) -> dict[str, str]:
    """Class names that the table itself stores for its class indices."""
    if class_names is None:
        return {}
    strange = [name for name in names if int(name) >= len(class_names)]
    if strange:
        raise DataError(
            f"{where}: it names {len(class_names):,} classes, but has labels beyond these: "
            f"{', '.join(strange[:5])}"
        )
    return {name: class_names[int(name)] for name in names}


def _by_title(titles: dict[str, str], labels: Sequence[str], where: str) -> Matching | None:
    """Match by the class names that the table stores, if all of them are labels of the model."""
    if not titles or len(set(titles.values())) < len(titles):
        return None
    own = by_label([*titles.values()], labels)
    if len(own) < len(titles):
        other = [f"{n} ({t})" for n, t in titles.items() if t in own and own[t] != int(n)]
        if other:
            raise DataError(
                f"{where}: the model has some of the table's class names at other indices: "
                f"{', '.join(other[:5])}. Use the model's class names as labels"
            )
        return None
    return Matching({name: own[title] for name, title in titles.items()}, "by label")


def _labelled(
    images: tuple[LabelledImage, ...],
    matching: Matching,
    labels: Sequence[str],
    left_out: str,
    titles: dict[str, str] | None = None,
) -> LabelledImages:
    """Build the data set with its pairs of names; pairs that differ come first."""
    class_of, titles = matching.classes, titles or {}
    names = sorted(class_of, key=lambda name: (class_of[name], name))
    names.sort(key=lambda name: titles.get(name, name) == labels[class_of[name]])
    unnamed = isinstance(labels, ClassIndices)
    pairs = tuple(
        (
            f"{name} ({titles[name]})" if name in titles else name,
            f"class {class_of[name]}" if unnamed else labels[class_of[name]],
        )
        for name in names
    )
    return LabelledImages(images, matching.matched, pairs, left_out)
