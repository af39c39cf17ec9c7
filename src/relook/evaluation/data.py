"""Labelled images: a folder of class folders, or a table; their names matched to the classes."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from relook.errors import DataError, ImageError
from relook.evaluation.folders import ClassFolders, read_folders
from relook.evaluation.matching import (
    ORDERS,
    Matching,
    Order,
    are_known,
    is_imagenet,
    match,
)
from relook.evaluation.tables import TABLES, Table, columns_of, read_table
from relook.images import open_image
from relook.labels import ClassIndices, by_label, composed
from relook.text import readable

_PAIRS_SHOWN = 5


@dataclass(frozen=True)
class LabelledImage:
    """One image and the class it belongs to.

    >>> image = relook.evaluation.read_data("photos", classifier.labels).images[0]
    >>> image.name, classifier.labels[image.label]
    ('Egyptian cat/chelsea.png', 'Egyptian cat')
    >>> image.open().size
    (451, 300)

    Attributes:
        name: its path relative to the data, with forward slashes; unique among them, and readable
            (see `relook.text.readable`).
        path: where it is; None where the data hold the image itself.
        label: 0-based class index.
        content: of its file, where the data hold that.
    """

    name: str
    path: Path | None
    label: int
    content: bytes | None = field(default=None, repr=False)

    @property
    def source(self) -> Path | bytes:
        """What `relook.images.open_image` takes; `open` reads it with this image's name."""
        source = self.path if self.content is None else self.content
        assert source is not None
        return source

    def open(self) -> Image.Image:
        """The image as RGB.

        Raises:
            ImageError: it cannot be read, or is a pipe or a device, for whose end one could wait.
        """
        source = self.source
        if isinstance(source, bytes):
            return open_image(source, self.name)
        if os.path.exists(source) and not os.path.isfile(source) and not os.path.isdir(source):
            name = readable(source)
            raise ImageError(f"{name}: is a pipe or a device, not a file; save its content in one")
        return open_image(source)

    @property
    def size(self) -> int:
        """Of its file, in bytes; -1 where there is none."""
        if self.content is not None:
            return len(self.content)
        try:
            return -1 if self.path is None else self.path.stat().st_size
        except (OSError, ValueError):
            return -1


@dataclass(frozen=True)
class LabelledImages:
    """The images of one data set in the order they are evaluated in.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> len(data), data.matched, len(data.sample(1))
    (2, 'by label', 1)
    >>> one, other = data.halves()
    >>> len(one), len(other)
    (1, 1)

    Attributes:
        images: at least one.
        matched: in words, how the data's names were matched to the classes.
        pairs: (name in the data, label of the class) of every name; those that differ first.
        left_out: in words, what lies in the data's folder and is not used; empty if nothing does.
    """

    images: tuple[LabelledImage, ...]
    matched: str
    pairs: tuple[tuple[str, str], ...] = ()
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def examples(self) -> str:
        """The first few pairs, in words: "n01440764 → tench, n01443537 → goldfish, …"."""
        shown = ", ".join(f"{name} → {label}" for name, label in self.pairs[:_PAIRS_SHOWN])
        return shown + (", …" if len(self.pairs) > _PAIRS_SHOWN else "")

    @property
    def content(self) -> str:
        """A digest of names, labels and file sizes: another for other data."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.name}\0{image.label}\0{image.size}\n".encode())
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


def read_data(
    data: str | os.PathLike[str], labels: Sequence[str], order: Order | None = None
) -> LabelledImages:
    """Labelled images of a folder of class folders, or of a CSV or Parquet table.

    A table has the columns `image`, a path beside the table (or in Parquet the bytes of the file,
    or both as {bytes, path}), and `label`. The names of the folders or the labels in the table are
    matched to the classes, all of them in the first way that fits all (see
    `relook.evaluation.matching.match`): by the classes' own labels, by synset id or 0-based index
    where the classes are those of ImageNet, by 0-based index in a table, else in sorted order where
    the counts agree and there is only one such order. Not every class needs images.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> data.examples
    'Egyptian cat → Egyptian cat, espresso → espresso'
    >>> [image.label for image in data.images]
    [285, 967]

    Args:
        data: the folder or the table.
        labels: the classifier's, one a class. Those of a classifier whose classes nobody named
            (`relook.labels.ClassIndices`) are no names: folders are not matched to them by name.
        order: "string" or "natural": the order of the classes where names do not tell, and these
            two are not the same (0, 1, 10, 2 or 0, 1, 2, 10).

    Raises:
        DataError: there is no such data, no image in it, a column is missing, or the names match
            the classes in none of these ways; the message shows both lists.
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
    """The classes of data that no classifier knows yet: the folders' names, those without images
    among them, or the table's labels; sorted, by value where all are numbers. Names that Hugging
    Face's datasets wrote into a table keep their order.

    >>> relook.evaluation.class_names("photos")
    ('Egyptian cat', 'espresso')

    Raises:
        DataError: there is no such data, or it is no such table.
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
            f"none of its {len(found.names)} folders holds an image that Pillow opens"
            if found.names
            else "it holds no folders; one a class is expected, or a table with image and label"
        )
        left = f" (it holds {found.left_out})" if str(found.left_out) else ""
        raise DataError(f"{readable(root)}: {what}{left}{'. ' if told else ''}{told}")
    names = sorted({name for _, name in found.images})
    if order is None and not are_known(names, labels):
        found.check_parts()
    matching = match(
        names,
        labels,
        readable(root),
        indices=is_imagenet(labels),  # which everybody knows; no other folders' numbers are
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
    """Tables of images that lie in a folder; and a sentence about these, or about others."""
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in TABLES)
    files = [file for file in files if file.is_file()]
    tables = [file for file in files if {"image", "label"} <= {*columns_of(file)}]
    if tables:
        return tables, f"It holds a table of images: name that instead ({readable(tables[0])})"
    if files:
        name = readable(files[0].name)
        return (
            [],
            f"It holds {name} too: to be used as a table it needs the columns image and label",
        )
    return [], ""


def _doubt(found: ClassFolders) -> str:
    """Why folders are perhaps no classes."""
    if found.parts:
        return (
            f"The folder {found.parts[0]} holds class folders itself: name it instead if it is "
            f"meant ({readable(found.root / found.parts[0])})"
        )
    if found.are_called_parts:
        return (
            "Folders of these names are parts of a data set, and hold a folder for each class; "
            "where they are the classes, say so with --class-order string or natural"
        )
    names = {name for _, name in found.images}
    if len(names) == 1 and all(path.parent.parent != found.root for path, _ in found.images):
        [name] = names
        return (
            f"Its one folder, {name}, holds folders itself: name that instead if those are the "
            f"classes ({readable(found.root / name)})"
        )
    return ""


def _of_table(table: Table, labels: Sequence[str], order: Order | None) -> LabelledImages:
    where = readable(table.file)
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
    """In which rows each label is, in words."""
    rows: dict[str, list[int]] = {}
    for row in table.rows:
        rows.setdefault(row.label, []).append(row.number)
    return {
        label: f"row {numbers[0]}" + (f" and {len(numbers) - 1:,} more" if len(numbers) > 1 else "")
        for label, numbers in rows.items()
    }


def _titles(names: Sequence[str], class_names: Sequence[str] | None, where: str) -> dict[str, str]:
    """What the table itself calls its class indices."""
    if class_names is None:
        return {}
    strange = [name for name in names if int(name) >= len(class_names)]
    if strange:
        raise DataError(
            f"{where}: names {len(class_names):,} classes, and has labels beyond: "
            f"{', '.join(strange[:5])}"
        )
    return {name: class_names[int(name)] for name in names}


def _by_title(titles: dict[str, str], labels: Sequence[str], where: str) -> Matching | None:
    """By the names that the table gives to its class indices, where all of them are labels."""
    if not titles or len(set(titles.values())) < len(titles):
        return None
    own = by_label([*titles.values()], labels)
    if len(own) < len(titles):
        other = [f"{n} ({t})" for n, t in titles.items() if t in own and own[t] != int(n)]
        if other:
            raise DataError(
                f"{where}: names its class indices, and the model has some of the names at other "
                f"indices: {', '.join(other[:5])}. Give the labels as names that the model has"
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
    """With the names and what they were matched to; those that are spelt otherwise first."""
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
