"""Class names of a network, given as a list, a dict or a file, or not given at all."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relook.errors import ModelError, RelookError, first_line
from relook.text import decode, readable

__all__ = ["ClassIndices", "Labels", "class_labels", "read_labels"]

Labels = Iterable[Any] | Mapping[Any, Any]
"""Class names in any of the forms that `class_labels` accepts."""

_INDEX = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"[0-9]+(\.0*)?")


class ClassIndices(tuple[str, ...]):
    """Labels of a network without class names: "0", "1", …

    They are placeholders, not names: a folder called "10" is not matched to class 10.

    >>> from relook.labels import ClassIndices
    >>> ClassIndices.of(3)
    ('0', '1', '2')
    """

    __slots__ = ()

    @classmethod
    def of(cls, classes: int) -> ClassIndices:
        """The labels of this many classes."""
        return cls(map(str, range(classes)))


def class_labels(labels: Labels) -> tuple[str, ...]:
    """One name per class, in the order of the network's outputs.

    Args:
        labels: names in that order (numbers are converted to text); or a dict from class index to
            name or from name to class index, with indices as numbers or text; or a dict that holds
            one of these under "id2label", "label2id", "labels" or "names".

    Raises:
        ModelError: the labels have another form, or the indices of a dict are not 0, 1, 2, …, each
            once.

    >>> from relook.labels import class_labels
    >>> class_labels({"dog": 1, "cat": 0})
    ('cat', 'dog')
    """
    if isinstance(labels, ClassIndices):
        return labels
    if isinstance(labels, str | bytes):
        raise ModelError("labels must be a list with one name per class, not one string")
    if isinstance(labels, set | frozenset):
        raise ModelError("labels must be a list with one name per class: a set has no order")
    if not isinstance(labels, Mapping):
        if not isinstance(labels, Iterable):
            raise ModelError(
                f"labels must be a list with one name per class, not {type(labels).__name__}"
            )
        return tuple(map(_name, labels))
    for key in ("id2label", "label2id", "labels", "names"):
        if isinstance(labels.get(key), Mapping | list | tuple):
            return class_labels(labels[key])
    return _of_dict(labels)


def read_labels(file: Path) -> tuple[str, ...]:
    r"""The class names in a file.

    A text file has one name per line, in the order of the classes. A JSON file has a list of
    names, or a dict of class indices and names that `class_labels` accepts.

    Raises:
        RelookError: the file cannot be read.

    >>> from pathlib import Path
    >>> from relook.labels import read_labels
    >>> _ = Path("labels.txt").write_text("cat\ndog\n")
    >>> read_labels(Path("labels.txt"))
    ('cat', 'dog')
    """
    try:
        text = decode(file.read_bytes(), str(file))
        if file.suffix.lower() != ".json":
            return _lines(text)
        found = json.loads(text)
    except FileNotFoundError:
        raise RelookError(f"{file}: no such file of labels; check the path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, RelookError):
            raise
        raise RelookError(f"{file}: cannot be read as labels ({first_line(error)})") from error
    if not isinstance(found, list | dict):
        raise RelookError(
            f'{file}: must be a JSON list of names, or a dict: {{"0": "cat"}} or {{"cat": 0}}'
        )
    try:
        return tuple(name.strip() for name in class_labels(found))
    except ModelError as error:
        raise RelookError(f"{file}: {error}") from error


def plain(name: str) -> str:
    """A class name without differences of case, spaces, dashes and underscores."""
    same = unicodedata.normalize("NFKC", name)  # full-width letters become ordinary ones
    return " ".join(same.replace("_", " ").replace("-", " ").casefold().split())


def composed(name: str) -> str:
    """A name in composed Unicode (NFC): macOS stores é as e and an accent."""
    return unicodedata.normalize("NFC", name)


def by_label(names: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """The class indices of the names that match a label one to one.

    Names and labels are compared as they are, then in composed Unicode, then without case, spaces,
    dashes and underscores; numbers by value. A name takes the first match.
    """
    found: dict[str, int] = {}
    if isinstance(labels, ClassIndices):
        return found
    forms: tuple[Callable[[str], str], ...] = (str, composed, plain)
    if all(_NUMBER.fullmatch(name) for name in (*names, *labels)):
        forms = (str, lambda name: repr(float(name)))  # 01 and 1.0 are 1
    for form in forms:
        theirs, ours = Counter(map(form, labels)), Counter(map(form, names))
        index = {form(label): i for i, label in enumerate(labels)}
        for name in names:
            own = form(name)
            if name not in found and theirs[own] == 1 and ours[own] == 1:
                found[name] = index[own]
    return found


def _lines(text: str) -> tuple[str, ...]:
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def _of_dict(labels: Mapping[Any, Any]) -> tuple[str, ...]:
    by_index = {_index(key): name for key, name in labels.items()}
    by_name = {_index(index): name for name, index in labels.items()}
    found = [
        tuple(_name(names[index]) for index in range(len(labels)))
        for names in (by_index, by_name)
        if set(names) == set(range(len(labels)))
    ]
    if not found:
        raise ModelError(
            f"labels as a dict must have the class indices 0 to {len(labels) - 1}, each once, as "
            'keys ({"0": "cat"}) or as values ({"cat": 0})'
        )
    if found[0] != found[-1]:
        raise ModelError(
            "labels as a dict from numbers to numbers can be read in two ways; pass a list with "
            "one name per class"
        )
    return found[0]


def _index(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if _INDEX.fullmatch(value.strip()) else None
    is_whole = not isinstance(value, bool) and hasattr(value, "__index__")
    return int(value) if is_whole else None


def _name(value: Any) -> str:
    if isinstance(value, str):
        return readable(value)
    is_missing = value is None or value != value
    if is_missing or isinstance(value, bytes | Mapping | list | tuple | set):
        kind = "NaN" if value is not None and value != value else type(value).__name__
        raise ModelError(f"labels must be names, one per class; {kind} is not a name")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
