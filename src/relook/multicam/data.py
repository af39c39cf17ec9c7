"""Which images a MultiCAM is trained on, which stop it early, and which it must never see."""

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
"""Of each class, where the data have no test images of their own."""
VALIDATION_SHARE = 0.1
"""Of each class's training images: they choose the epoch to keep, and nothing is fitted to them."""

_PARTS: dict[str, Part] = {"train": "train", "validation": "validation", "test": "test"}
_COLUMNS = ("image", "label", "part", "sha256")

OnImages = Callable[[int, int], None]
"""Called with (images read, images in all)."""


@dataclass(frozen=True)
class TrainingImage:
    """One image, its class, and what it is for.

    Attributes:
        name: its path relative to the data.
        path: where it is; None where the data hold the image itself.
        label: 0-based class index.
        part: "train", "validation" (see `VALIDATION_SHARE`) or "test".
        sha256: of the file's bytes: a copy of it is the same image.
        content: of its file, where the data hold that.
    """

    name: str
    path: Path | None
    label: int
    part: Part
    sha256: str
    content: bytes | None = field(default=None, repr=False)

    def open(self) -> Image.Image:
        """The image as RGB.

        Raises:
            ImageError: it cannot be read.
        """
        return LabelledImage(self.name, self.path, self.label, self.content).open()


@dataclass(frozen=True)
class TrainingData:
    """Labelled images that are not yet divided into training, validation and test images.

    Attributes:
        root: the folder, or the folder of the table.
        labels: the classes, in the order of the outputs.
        train: all images but those of `test`.
        test: those of DATA/test; None where they are still to be split off.
    """

    root: Path
    labels: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages | None

    @property
    def content(self) -> str:
        """A digest of names, labels and file sizes."""
        return self.train.content + (self.test.content if self.test else "")

    @property
    def left_out(self) -> str:
        """What lies in the data's folders and is not used, in words."""
        if self.test is None:
            return self.train.left_out
        parts = {"train": self.train.left_out, "test": self.test.left_out}
        return "; ".join(f"in {part}/ {told}" for part, told in parts.items() if told)

    @property
    def named(self) -> dict[str, LabelledImage]:
        """Each image by its name in images.csv, which begins with train/ or test/ where the data
        have these folders.
        """
        if self.test is None:
            return {image.name: image for image in self.train.images}
        trained = {f"train/{image.name}": image for image in self.train.images}
        return trained | {f"test/{image.name}": image for image in self.test.images}


def is_divided(data: str | os.PathLike[str]) -> bool:
    """Whether the data are a folder with the folders train/ and test/."""
    return all((Path(data) / part).is_dir() for part in ("train", "test"))


def read_training_data(data: str | os.PathLike[str]) -> TrainingData:
    """The classes and images of a folder with train/ and test/, or of one to be split.

    Args:
        data: a folder that holds train/ and test/ with a folder for each class; or class folders,
            or a table, as `read_data` takes them.

    Raises:
        DataError: there is no such data, a class has too few images, or the classes of train/ and
            test/ differ.
    """
    root = Path(data)
    if root.is_dir() and not is_divided(root):
        for part in ("train", "test"):
            # One that holds images itself is a class of that name.
            if (root / part).is_dir() and any(p.is_dir() for p in (root / part).iterdir()):
                other = "test" if part == "train" else "train"
                raise DataError(
                    f"{root}: holds {part}/ but no {other}/; both are expected, or class folders "
                    "alone, of which some images are split off as test images"
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
    """Read every image once, and decide which are for training, for validation and for testing.

    In each class `VALIDATION_SHARE` of the training images are drawn with the seed; where there is
    no test/, `TEST_SHARE` of all images are drawn before that. Copies of one file stay together.

    Raises:
        DataError: an image of the training cannot be read, is in two classes, or is among both
            the training and the test images.
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
            f"{data.root}: {count(len(errors), 'image')} cannot be used; put right or remove: "
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
    """SHA-256 of each image's file; empty for one that cannot be read."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_digest, images))


def write_images(images: Sequence[TrainingImage], labels: Sequence[str]) -> str:
    """The list as CSV: image, label, part, sha256."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((i.name, labels[i.label], i.part, i.sha256) for i in images)
    return text.getvalue()


def read_images(
    file: Path, images: Mapping[str, LabelledImage], labels: Sequence[str]
) -> tuple[TrainingImage, ...]:
    """The images of a list that `write_images` wrote.

    Args:
        file: the list.
        images: the images of the data by name (see `TrainingData.named`); of others the name is
            taken for the path.
        labels: the classes.

    Raises:
        RunError: it cannot be read.
    """
    index = {label: place for place, label in enumerate(labels)}
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            rows = list(csv.DictReader(stream))
        listed = tuple(_listed(row, images, index) for row in rows)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise RunError(f"{file}: cannot be read as the list of images ({error})") from error
    if not listed or any(i.sha256 is None or (not i.sha256 and i.part != "test") for i in listed):
        raise RunError(f"{file}: cannot be read as the list of images (it is cut off)")
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
                "or underscores; rename one, or make one class of both"
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
    """Raise DataError for an image in two classes, or among both training and test images.

    Args:
        data: the images.
        fitted: digests of the training images.
        held: digests of the test images.
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
    """The part that each image belongs to, by its digest."""
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
                "to train, to choose and to test on"
            )
        parts: list[Part] = ["test"] * tested + ["validation"] * held  # type: ignore[assignment]
        parts += ["train"] * (left - len(parts))
        chosen |= dict(zip(distinct, parts, strict=True))
    return chosen


def _read(images: Sequence[LabelledImage]) -> Iterator[tuple[str, str]]:
    """(digest, error) of each image, in order; decoded once, so that damage is known now."""
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
    if not image.source.is_file():  # a pipe has no end to wait for
        return ""
    try:
        with image.source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
