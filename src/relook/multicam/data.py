"""Training, validation and test images of a MultiCAM."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from relook.errors import DataError, ImageError
from relook.evaluation import LabelledImage, LabelledImages, class_names, read_data
from relook.folder import RunError
from relook.images import quiet
from relook.labels import plain
from relook.words import count, some

Part = Literal["train", "validation", "test"]

TEST_SHARE = 0.3
"""Fraction of each class that becomes test images if the data have none of their own."""
VALIDATION_SHARE = 0.1
"""Fraction of each class's training images that is for validation: to choose the epoch to keep."""

_PARTS: dict[str, Part] = {"train": "train", "validation": "validation", "test": "test"}
_COLUMNS = ("image", "label", "part", "sha256")

OnImages = Callable[[int, int], None]
"""Called with (images read, all images)."""


@dataclass(frozen=True)
class TrainingImage:
    """One image with its class and the part of the data it belongs to.

    Attributes:
        name: path relative to the data.
        path: path of the file; None if the data contain the image itself.
        label: 0-based class index.
        part: "train", "validation" (see `VALIDATION_SHARE`) or "test".
        sha256: hash of the file's bytes, by which copies are recognised.
        content: bytes of the file, if the data contain them.
    """

    name: str
    path: Path | None
    label: int
    part: Part
    sha256: str
    content: bytes | None = field(default=None, repr=False)

    def open(self) -> Image.Image:
        """Open the image as RGB.

        Raises:
            ImageError: the image cannot be read.
        """
        return LabelledImage(self.name, self.path, self.label, self.content).open()


@dataclass(frozen=True)
class TrainingData:
    """Labelled images before the division into training, validation and test images.

    Attributes:
        root: the folder, or the folder of the table.
        labels: one label per class, in the order of the outputs.
        train: all images except those of `test`.
        test: images of test/; None if test images are yet to be split off.
    """

    root: Path
    labels: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages | None

    @property
    def content(self) -> str:
        """Hash of names, labels and file sizes."""
        return self.train.content + (self.test.content if self.test else "")

    @property
    def left_out(self) -> str:
        """Description of the files in the data's folders that are not used."""
        if self.test is None:
            return self.train.left_out
        parts = {"train": self.train.left_out, "test": self.test.left_out}
        return "; ".join(f"in {part}/ {told}" for part, told in parts.items() if told)

    @property
    def named(self) -> dict[str, LabelledImage]:
        """Images by their name in images.csv, which starts with train/ or test/ if the data have
        these folders.
        """
        if self.test is None:
            return {image.name: image for image in self.train.images}
        trained = {f"train/{image.name}": image for image in self.train.images}
        return trained | {f"test/{image.name}": image for image in self.test.images}


def is_divided(data: str | os.PathLike[str]) -> bool:
    """Whether the data are a folder that contains train/ and test/."""
    return all((Path(data) / part).is_dir() for part in ("train", "test"))


def read_training_data(data: str | os.PathLike[str]) -> TrainingData:
    """Read the classes and the list of images, without opening the images.

    Args:
        data: folder with train/ and test/, each with one folder per class; or class folders or a
            table, as for `read_data`.

    Raises:
        DataError: the data are missing, a class has too few images, or the classes of train/ and
            test/ differ.
    """
    root = Path(data)
    if root.is_dir() and not is_divided(root):
        for part in ("train", "test"):
            # A folder with images in it is a class of this name.
            if (root / part).is_dir() and any(p.is_dir() for p in (root / part).iterdir()):
                other = "test" if part == "train" else "train"
                raise DataError(
                    f"{root}: holds {part}/ but no {other}/; both are expected, or only class "
                    "folders, from which relook splits off test images"
                )
    own = root / "train" if is_divided(root) else root
    labels = class_names(own)
    _check_names(own, labels)
    train = read_data(own, labels)
    _check_counts(own, labels, train.images, 2 if own != root else 3)
    if own == root:
        return TrainingData(root if root.is_dir() else root.parent, labels, train, None)
    others = class_names(root / "test")
    if set(others) != set(labels):
        only = [("train", set(labels) - set(others)), ("test", set(others) - set(labels))]
        told = "; ".join(f"only in {p}/: {some(sorted(c))}" for p, c in only if c)
        raise DataError(f"{root}: the classes of train/ and test/ differ ({told})")
    test = read_data(root / "test", labels)
    _check_counts(root / "test", labels, test.images, 1)
    return TrainingData(root, labels, train, test)


def divide(
    data: TrainingData, seed: int, on_images: OnImages | None = None
) -> tuple[TrainingImage, ...]:
    """Read every image once, and divide them into training, validation and test images.

    `VALIDATION_SHARE` of each class's training images are drawn at random for validation. If there
    is no test/, `TEST_SHARE` of all images of the class are drawn before that for testing. Copies
    of one file stay together.

    Args:
        data: labelled images.
        seed: seed of the random division.
        on_images: called with the number of images read and of all images.

    Raises:
        DataError: a training image cannot be read, or the same image is in two classes or in both
            train/ and test/.
    """
    test = () if data.test is None else data.test.images
    images = [*data.train.images, *test]
    found, errors = [], []
    for number, (digest, error) in enumerate(_read(images), 1):
        found.append(digest)
        if error and number <= len(data.train.images):
            errors.append(error)
        if on_images:
            on_images(number, len(images))
    if errors:
        raise DataError(
            f"{data.root}: {count(len(errors), 'image')} cannot be used; repair or remove: "
            + some(errors)
        )
    fitted, held = found[: len(data.train)], found[len(data.train) :]
    _check_copies(data, fitted, held)
    chosen = _chosen(data, fitted, seed)
    prefix = "" if data.test is None else "train/"
    trained = [
        TrainingImage(prefix + i.name, i.path, i.label, chosen[digest], digest, i.content)
        for i, digest in zip(data.train.images, fitted, strict=True)
    ]
    tested = [
        TrainingImage(f"test/{i.name}", i.path, i.label, "test", digest, i.content)
        for i, digest in zip(test, held, strict=True)
    ]
    return (*trained, *tested)


def digests(images: Sequence[LabelledImage]) -> list[str]:
    """SHA-256 of each image's file; empty for files that cannot be read."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_digest, images))


def write_images(images: Sequence[TrainingImage], labels: Sequence[str]) -> str:
    """Write the list of images as CSV with the columns image, label, part and sha256."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((i.name, labels[i.label], i.part, i.sha256) for i in images)
    return text.getvalue()


def read_images(
    file: Path, images: Mapping[str, LabelledImage], labels: Sequence[str]
) -> tuple[TrainingImage, ...]:
    """Read a list of images that `write_images` wrote.

    Args:
        file: CSV file.
        images: images of the data by name (see `TrainingData.named`); for other images the name is
            used as the path.
        labels: one label per class.

    Raises:
        RunError: the file cannot be read.
    """
    index = {label: place for place, label in enumerate(labels)}
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            rows = list(csv.DictReader(stream))
        listed = tuple(_listed(row, images, index) for row in rows)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise RunError(f"{file}: cannot be read as the list of images ({error})") from error
    if not listed or any(i.sha256 is None or (not i.sha256 and i.part != "test") for i in listed):
        raise RunError(f"{file}: cannot be read as the list of images (it is incomplete)")
    return listed


def _listed(
    row: Mapping[str, str], images: Mapping[str, LabelledImage], index: Mapping[str, int]
) -> TrainingImage:
    name = row["image"]
    known = images.get(name)
    path, content = (Path(name), None) if known is None else (known.path, known.content)
    part = _PARTS[row["part"]]
    return TrainingImage(name, path, index[row["label"]], part, row["sha256"], content)


def _check_names(root: Path, labels: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for label in labels:
        other = first.setdefault(plain(label), label)
        if other != label:
            raise DataError(
                f"{root}: the classes {other!r} and {label!r} differ only in case, spaces, dashes "
                "or underscores; rename one of them, or merge them"
            )


def _check_counts(
    root: Path, labels: Sequence[str], images: Sequence[LabelledImage], least: int
) -> None:
    if len(labels) < 2:
        raise DataError(f"{root}: has one class ({labels[0]}); a classifier needs two or more")
    counts = [0] * len(labels)
    for image in images:
        counts[image.label] += 1
    few = [f"{name} ({n})" for name, n in zip(labels, counts, strict=True) if n < least]
    if few:
        needed = f"at least {least} image{'s' if least > 1 else ''}"
        raise DataError(
            f"{root}: every class needs {needed}; these have fewer: {some(few)}. Add images, or "
            "remove the class"
        )


def _check_copies(data: TrainingData, fitted: Sequence[str], held: Sequence[str]) -> None:
    """Raise DataError if the same image is in two classes, or in both train/ and test/.

    Args:
        data: labelled images.
        fitted: hashes of the training images.
        held: hashes of the test images.
    """
    trained = list(zip(data.train.images, fitted, strict=True))
    first = {digest: image for image, digest in reversed(trained)}
    twice = [
        f"{first[digest].name} and {image.name}"
        for image, digest in trained
        if first[digest].label != image.label
    ]
    if twice:
        raise DataError(
            f"{data.root}: the same image is in two classes: {some(twice)}; remove one of the two"
        )
    tested = () if data.test is None else data.test.images
    seen = [
        f"test/{image.name} is train/{first[digest].name}"
        for image, digest in zip(tested, held, strict=True)
        if digest in first
    ]
    if seen:
        raise DataError(
            f"{data.root}: {count(len(seen), 'test image')} also among the training images: "
            f"{some(seen)}; remove one of the two"
        )


def _chosen(data: TrainingData, digests: Sequence[str], seed: int) -> dict[str, Part]:
    """The part that each image belongs to, by its hash."""
    by_class: dict[int, list[str]] = defaultdict(list)
    for image, digest in zip(data.train.images, digests, strict=True):
        by_class[image.label].append(digest)
    chosen: dict[str, Part] = {}
    for label, members in by_class.items():
        distinct = list(dict.fromkeys(members))
        random.Random(f"{seed} {data.labels[label]}").shuffle(distinct)
        left = len(distinct)
        tested = max(1, round(TEST_SHARE * left)) if data.test is None else 0
        held = max(1, round(VALIDATION_SHARE * (left - tested)))
        if left - tested - held < 1:
            raise DataError(
                f"{data.root}: class {data.labels[label]} has {left} different images, too few "
                "for training, validation and testing"
            )
        parts: list[Part] = ["test"] * tested + ["validation"] * held  # type: ignore[assignment]
        parts += ["train"] * (left - len(parts))
        chosen |= dict(zip(distinct, parts, strict=True))
    return chosen


def _read(images: Sequence[LabelledImage]) -> Iterator[tuple[str, str]]:
    """Yield (hash, error) of each image, in order; images are decoded to detect damage now."""
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(_examine, images)


def _examine(image: LabelledImage) -> tuple[str, str]:
    try:
        image.open()
    except (ImageError, ValueError, MemoryError) as error:
        return "", str(error) or type(error).__name__
    return _digest(image), ""


def _digest(image: LabelledImage) -> str:
    if isinstance(image.source, bytes):
        return hashlib.sha256(image.source).hexdigest()
    if not image.source.is_file():  # reading a pipe may never end
        return ""
    try:
        with image.source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
