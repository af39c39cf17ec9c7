"""Matching of the class names in data to the classes of a network."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from relook.errors import DataError
from relook.labels import ClassIndices, by_label, composed, plain
from relook.words import some

Order = Literal["string", "natural"]
"""Order of names: "string", as in Python and torchvision's ImageFolder (0, 1, 10, 11, 2), or
"natural", by the value of the numbers in them (0, 1, 2, 10, 11)."""

ORDERS: tuple[Order, ...] = ("string", "natural")

BY_ORDER = "in sorted order"
"""The start of `Matching.matched` if names were matched by their order."""

_DIGITS = re.compile(r"([0-9]+)")
_INDEX = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_ORDER_SHOWN = 5
_SHOWN = 12


@dataclass(frozen=True)
class Matching:
    """The class of each name in the data.

    Attributes:
        classes: 0-based class index of each name.
        matched: how the names were matched, in words.
    """

    classes: Mapping[str, int]
    matched: str


def match(
    names: Sequence[str],
    labels: Sequence[str],
    where: str,
    *,
    indices: bool = False,
    order: Order | None = None,
    unused: Sequence[str] = (),
    doubt: str = "",
    hint: str = "",
    places: Mapping[str, str] | None = None,
) -> Matching:
    """Match the class names in data to a network's classes, by the first method that fits all.

    The methods are, in this order:

    1. By the network's labels: exactly, then in composed Unicode, then without case, spaces, dashes
       and underscores; always one name to one label.
    2. By synset id, if the classes are those of ImageNet.
    3. By 0-based class index.
    4. In sorted order, if there are as many names as classes and either `order` is given or the
       order is unambiguous: no name resembles a label, all or none are numbers, none are equal in
       composed Unicode, and string order equals natural order.

    Args:
        names: the class names in the data, each once.
        labels: the network's labels, one per class; `ClassIndices` do not match any name.
        where: the data, for messages.
        indices: whether names that are numbers are class indices.
        order: the order of the names for method 4; None if it must be unambiguous.
        unused: names of further classes without images, which are counted in method 4.
        doubt: a reason not to use method 4 unless `order` is given; a sentence for messages.
        hint: what may be meant instead, for messages, if there is no doubt.
        places: the place of each name in the data ("row 3"), for messages; None for folders.

    Raises:
        DataError: no method fits; the message shows which names do not fit, and what to do.
    """
    own = by_label(names, labels)
    are_numbers = all(_INDEX.fullmatch(name) for name in names)
    if len(own) == len(names):
        note = " (the model's labels are numbers, so the data's are read as labels, not as indices)"
        return Matching(own, "by label" + (note if indices and are_numbers else ""))
    if is_imagenet(labels):
        synsets = imagenet_synsets()
        if all(name in synsets for name in names):
            return Matching({name: synsets[name] for name in names}, "by synset id")
    if indices and are_numbers and all(int(name) < len(labels) for name in names):
        return Matching({name: int(name) for name in names}, "by class index")
    everything = _everything(names, labels, unused)
    if everything:
        doubt = doubt or _doubtful_order(everything, places or {}) or _unsorted(names, labels)
    # Do not guess if names resemble labels, or are numbers in a table: these are meant as indices.
    alike = not isinstance(labels, ClassIndices) and {*map(plain, names)} & {*map(plain, labels)}
    may_guess = not alike and not (indices and are_numbers) and not doubt
    if everything and (order or may_guess):
        found = _in_order(names, everything, where, order)
        if not order and (other := _resembling(found.classes, labels)):
            raise _mismatch(names, labels, where, own, indices, other)
        if len(everything) > len(names) and unused:
            return Matching(found.classes, f"{found.matched}, empty folders counted as classes")
        return found
    raise _mismatch(names, labels, where, own, indices, doubt or hint)


def are_known(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether all names are labels or synset ids of the network's classes."""
    if len(by_label(names, labels)) == len(names):
        return True
    return is_imagenet(labels) and {*names} <= {*imagenet_synsets()}


def _everything(names: Sequence[str], labels: Sequence[str], unused: Sequence[str]) -> list[str]:
    """One name for each class, if there are as many; otherwise empty."""
    for known in ([*names], [*names, *unused]):
        if len(known) == len(labels):
            return known
    # The names are some of the numbers from 0, and the network has no class names.
    width = max(map(len, names))
    padded = any(len(name) > 1 and name.startswith("0") for name in names)
    numbers = [str(index).zfill(width if padded else 1) for index in range(len(labels))]
    if isinstance(labels, ClassIndices) and {*names} <= {*numbers}:
        return numbers
    return []


def _doubtful_order(names: Sequence[str], places: Mapping[str, str]) -> str:
    """Why no order of the names can be trusted; a sentence, or empty.

    Programs write missing numbers in many ways (#N/A, -, ?, <NA>, unknown): sorted among the
    numbers, these would be taken for a class, and shift the others.
    """
    forms = Counter(map(composed, names))
    same = [name for name in names if forms[composed(name)] > 1]
    if same:
        return f"{same[0]!r} occurs in composed and in decomposed Unicode: rename one of the two"
    others = [name for name in names if not _NUMBER.fullmatch(name)]
    if len(others) in (0, len(names)):
        return ""
    numbers = [name for name in names if name not in others]
    odd, are = (others, "are not") if len(others) <= len(numbers) else (numbers, "are")
    told = some(
        [f"{name!r} ({places[name]})" if name in places else repr(name) for name in odd], _SHOWN
    )
    return (
        f"Some of its class names are numbers and some are not, so that their order is a guess; "
        f"those that {are}: {told}. Correct or remove these; or, if all are classes, give "
        "their order: --class-order string or natural, in Python read_data(..., order=)"
    )


def _resembling(classes: Mapping[str, int], labels: Sequence[str]) -> str:
    """The name that resembles another class's label than its own; a sentence, or empty."""
    if isinstance(labels, ClassIndices):
        return ""
    for name, own in classes.items():
        like = [
            i for i, label in enumerate(labels) if len(label) > 2 and plain(label) in plain(name)
        ]
        if like and own not in like:
            return (
                f"In sorted order {name} would be {labels[own]}: name the data's classes as the "
                "model does; or, if that is correct, pass --class-order string, in Python "
                'read_data(..., order="string")'
            )
    return ""


def _unsorted(names: Sequence[str], labels: Sequence[str]) -> str:
    """Why sorted names are not in the order of the model's labels; a sentence, or empty.

    Names that count from 0 or 1 are in the order of the classes, whatever the labels are.
    """
    if isinstance(labels, ClassIndices) or any(
        [*labels] == sorted(labels, key=key) for key in (composed, _natural, plain)
    ):
        return ""
    if all(_INDEX.fullmatch(name) for name in names):
        values = sorted(map(int, names))
        if values in (list(range(len(labels))), list(range(1, len(labels) + 1))):
            return ""
    return (
        f"The model's labels are not in sorted order ({some(labels, 3)}), so that the order of the "
        "data's names may differ: name them as the model does; or, if they sort in the model's "
        "order, pass --class-order string or natural, in Python read_data(..., order=)"
    )


def _in_order(
    names: Sequence[str], everything: Sequence[str], where: str, order: Order | None
) -> Matching:
    string, natural = sorted(everything, key=composed), sorted(everything, key=_natural)
    if order is not None:
        chosen = string if order == "string" else natural
        place = {name: index for index, name in enumerate(chosen)}
        return Matching({name: place[name] for name in names}, f"{BY_ORDER} ({order})")
    decomposed = sorted(everything, key=lambda name: unicodedata.normalize("NFD", name))
    places = [{n: i for i, n in enumerate(o)} for o in (string, natural, decomposed)]
    if all(place[name] == places[0][name] for name in names for place in places):
        return Matching({name: places[0][name] for name in names}, BY_ORDER)
    if all(place[name] == places[0][name] for name in names for place in places[:2]):
        shown = f"With accents composed they are {_both(string, decomposed, 'decomposed')}"
    else:
        shown = f"As strings they are {_both(string, natural, 'by the numbers in them')}"
    raise DataError(
        f"{where}: its {len(everything):,} class names are not those of the model, and their order "
        f"can be understood in two ways. {shown}. Choose the one that the model was trained with: "
        "--class-order string (as torchvision's ImageFolder sorts) or --class-order natural, in "
        "Python read_data(..., order=); or name the model's classes with --labels FILE; or use a "
        "table of images and class indices"
    )


def _both(one: Sequence[str], other: Sequence[str], how: str) -> str:
    """The first names in both orders, from the place where they differ."""
    unlike = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    start = max(0, unlike - 2)
    few = [
        ("… " if start else "")
        + ", ".join(order[start : start + _ORDER_SHOWN])
        + (" …" if len(order) > start + _ORDER_SHOWN else "")
        for order in (one, other)
    ]
    return f"{few[0]}; {how} {few[1]}"


def _natural(name: str) -> tuple[list[tuple[int, int]], str]:
    """A sort key that compares strings by character, but runs of digits by their value."""
    key = []
    for part in filter(None, _DIGITS.split(composed(name))):
        if _INDEX.fullmatch(part):
            key.append((ord("0"), int(part)))
        else:
            key += [(ord(character), 0) for character in part]
    return key, name


def _mismatch(
    names: Sequence[str],
    labels: Sequence[str],
    where: str,
    own: Mapping[str, int],
    indices: bool,
    hint: str,
) -> DataError:
    """The error that shows the closest method, the names that do not fit it, and what to do."""
    named = not isinstance(labels, ClassIndices)
    known = {str(index) for index in range(len(labels))} if indices else set()
    ways = {"class indices": [n for n in names if (n.lstrip("0") or "0") not in known]}
    if named:
        ways = {"labels": [name for name in names if name not in own], **ways}
    if is_imagenet(labels):
        ways["synset ids"] = [name for name in names if name not in imagenet_synsets()]
    way, strange = min(ways.items(), key=lambda item: len(item[1]))
    rest = len(names) - len(strange)
    fit = f"{rest} of them fit the model's {way}; these do not" if rest else "None fits"
    known_ways = [w for w in ways if w != "class indices" or indices]
    named_by = f"Name all classes by the model's {', or all by its '.join(known_ways)}; or use "
    remedy = f"{named_by if known_ways else 'Use '}as many names as it has, sorted in its order"
    if not named:
        remedy += "; or name the model's classes with --labels FILE"
    if indices and len(labels) in map(int, filter(_INDEX.fullmatch, names)):
        remedy += f". (Class indices begin at 0; the last one is {len(labels) - 1})"
    alike = [name for name, count in Counter(map(plain, names)).items() if count > 1]
    if named and alike and way == "labels":
        told = [name for name in names if plain(name) == alike[0]]
        form = ": composed and decomposed Unicode" if len({*map(composed, told)}) == 1 else ""
        remedy += f". ({' and '.join(map(repr, told))} count as two classes{form})"
    has = some(labels, _SHOWN) if named else f"{len(labels):,} classes without names"
    # The hint comes before the names that do not fit.
    return DataError(
        f"{where}: its {len(names)} class{' does' if len(names) == 1 else 'es do'} not match the "
        f"model's {len(labels)}. {hint}{'. ' if hint else ''}{fit}: "
        f"{some(strange, _SHOWN)}. The model has: {has}. {remedy}"
    )


def is_imagenet(labels: Sequence[str]) -> bool:
    """Whether these are relook's labels for the ImageNet classes."""
    if len(labels) != 1000:
        return False
    from relook.imagenet import imagenet_labels

    return tuple(labels) == imagenet_labels()


def imagenet_synsets() -> dict[str, int]:
    """The class index of each ImageNet synset id."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    return {synset: index for index, synset in enumerate(names)}
