"""The names that data give to classes, matched to the classes of a network."""

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
"""How names are sorted: "string" as Python and torchvision's ImageFolder do it (0, 1, 10, 11, 2),
"natural" by the value of the numbers in them (0, 1, 2, 10, 11)."""

ORDERS: tuple[Order, ...] = ("string", "natural")

BY_ORDER = "in sorted order"
"""How `Matching.matched` begins where names were not compared, but counted."""

_DIGITS = re.compile(r"([0-9]+)")
_INDEX = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_ORDER_SHOWN = 5
_SHOWN = 12


@dataclass(frozen=True)
class Matching:
    """The class of each name.

    Attributes:
        classes: 0-based class index of each name.
        matched: in words, how it was found.
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
    """The classes that names mean: all of them in the first way that fits all.

    By the classes' own labels, name by name: exactly, else by the same name in composed Unicode,
    else with case, spaces, dashes and underscores aside; each only where one name means one label.
    By synset id where the classes are those of ImageNet; by 0-based class index; else in sorted
    order, where there are as many names as classes, none of which is like a label, all or none of
    them are numbers, no two are one name in composed Unicode, and both orders are the same; or
    where one of the orders was asked for.

    Args:
        names: what the data call their classes, each once.
        labels: the network's, one a class; `ClassIndices` are no names, and match none.
        where: the data, for messages.
        indices: whether names that are numbers are class indices.
        order: for the last way; None: where string order and natural order agree.
        unused: further names, of classes without images, which count in the last way.
        doubt: why the last way is not to be taken unasked; a sentence for the message.
        hint: what may be meant instead, for the message, where there is no doubt.
        places: where the data have each name ("row 3"), for messages; None: it is a folder.

    Raises:
        DataError: none of these fits; the message shows what does not, and what to do.
    """
    own = by_label(names, labels)
    are_numbers = all(_INDEX.fullmatch(name) for name in names)
    if len(own) == len(names):
        note = " (the model's labels are numbers: the data's are taken for those, not for indices)"
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
    # Names that are like labels were meant to be these, and numbers in a table indices: no guess.
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
    """Whether all are names of the network's classes: labels or synset ids, not indices."""
    if len(by_label(names, labels)) == len(names):
        return True
    return is_imagenet(labels) and {*names} <= {*imagenet_synsets()}


def _everything(names: Sequence[str], labels: Sequence[str], unused: Sequence[str]) -> list[str]:
    """One name for each class, if there are so many; else nothing."""
    for known in ([*names], [*names, *unused]):
        if len(known) == len(labels):
            return known
    # Some of the numbers from 0 on, where nobody said what the classes are called.
    width = max(map(len, names))
    padded = any(len(name) > 1 and name.startswith("0") for name in names)
    numbers = [str(index).zfill(width if padded else 1) for index in range(len(labels))]
    if isinstance(labels, ClassIndices) and {*names} <= {*numbers}:
        return numbers
    return []


def _doubtful_order(names: Sequence[str], places: Mapping[str, str]) -> str:
    """Why the order of names says nothing, whichever it is; a sentence, or nothing.

    Programs write a number that is not there in many ways (#N/A, -, ?, <NA>, unknown): sorted
    among the numbers it would be a class, and would shift others.
    """
    forms = Counter(map(composed, names))
    same = [name for name in names if forms[composed(name)] > 1]
    if same:
        return f"{same[0]!r} is there in composed and in decomposed Unicode: rename one of the two"
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
        f"those that {are}: {told}. Put these right or leave them out; or, if all are classes, "
        "say in which order: --class-order string or natural, in Python read_data(..., order=)"
    )


def _resembling(classes: Mapping[str, int], labels: Sequence[str]) -> str:
    """Which name is like the label of another class than its own; a sentence, or nothing."""
    if isinstance(labels, ClassIndices):
        return ""
    for name, own in classes.items():
        like = [
            i for i, label in enumerate(labels) if len(label) > 2 and plain(label) in plain(name)
        ]
        if like and own not in like:
            return (
                f"In sorted order {name} would be {labels[own]}: name the data's classes as the "
                "model does; or, if that is right, say so: --class-order string, in Python "
                'read_data(..., order="string")'
            )
    return ""


def _unsorted(names: Sequence[str], labels: Sequence[str]) -> str:
    """Why sorted names are not in the order of the model's labels; a sentence, or nothing.

    Names that count from 0 or 1 on mean that order, whatever the labels are.
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
        "data's names says nothing: name them as the model does; or, if they sort in the model's "
        "order, say so: --class-order string or natural, in Python read_data(..., order=)"
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
        f"can be understood in two ways. {shown}. Say which one the model was trained in: "
        "--class-order string (as torchvision's ImageFolder sorts) or --class-order natural, in "
        "Python read_data(..., order=); or name the model's classes with --labels FILE; or pass a "
        "table of images and class indices"
    )


def _both(one: Sequence[str], other: Sequence[str], how: str) -> str:
    """The first few of both orders, from where they differ."""
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
    """Character by character as strings are compared, but a run of digits by its value."""
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
    """What fits least badly, what does not fit of it, and what to do."""
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
    named_by = f"Name all classes by the model's {', or all by its '.join(known_ways)}; or give "
    remedy = f"{named_by if known_ways else 'Give '}as many as it has, which sort in its order"
    if not named:
        remedy += "; or name the model's classes with --labels FILE"
    if indices and len(labels) in map(int, filter(_INDEX.fullmatch, names)):
        remedy += f". (Class indices begin with 0: the last one is {len(labels) - 1})"
    alike = [name for name, count in Counter(map(plain, names)).items() if count > 1]
    if named and alike and way == "labels":
        told = [name for name in names if plain(name) == alike[0]]
        form = ": composed and decomposed Unicode" if len({*map(composed, told)}) == 1 else ""
        remedy += f". ({' and '.join(map(repr, told))} are two classes to relook{form})"
    has = some(labels, _SHOWN) if named else f"{len(labels):,} classes without names"
    # What is meant instead comes before what does not fit.
    return DataError(
        f"{where}: its {len(names)} class{' does' if len(names) == 1 else 'es do'} not match the "
        f"model's {len(labels)}. {hint}{'. ' if hint else ''}{fit}: "
        f"{some(strange, _SHOWN)}. The model has: {has}. {remedy}"
    )


def is_imagenet(labels: Sequence[str]) -> bool:
    """Whether these are the labels that relook gives to networks of ImageNet's classes."""
    if len(labels) != 1000:
        return False
    from relook.imagenet import imagenet_labels

    return tuple(labels) == imagenet_labels()


def imagenet_synsets() -> dict[str, int]:
    """Class index of each synset id."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    return {synset: index for index, synset in enumerate(names)}
