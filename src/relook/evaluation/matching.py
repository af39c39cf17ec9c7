"""Matching the class names in a data set to the classes of a model."""

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
"""How names are sorted: "string" as in Python and torchvision's ImageFolder (0, 1, 10, 11, 2),
"natural" by the values of the numbers in them (0, 1, 2, 10, 11)."""

ORDERS: tuple[Order, ...] = ("string", "natural")

BY_ORDER = "in sorted order"
"""Beginning of `Matching.matched` if names were matched by their order alone."""

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
        matched: the rule that matched the names, as text.
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
    """Match names to classes by the first of four rules that fits all names.

    1. The model's labels. Each name is compared exactly, then in composed Unicode, then ignoring
       case, spaces, dashes and underscores; it must match exactly one label, and no two names the
       same one.
    2. Synset ids, if the classes are ImageNet's.
    3. 0-based class indices.
    4. Sorted order. There must be as many names as classes, no name may resemble a label, all names
       or none must be numbers, no two may be equal in composed Unicode, and string order and
       natural order must agree. If `order` is given, only the number of names matters.

    Args:
        names: class names in the data, each once.
        labels: the model's labels, one per class; placeholders (`ClassIndices`) match no name.
        where: the data set, for messages.
        indices: whether names that are numbers are class indices.
        order: the order of rule 4; None: string order and natural order must agree.
        unused: names of classes without images, which count in rule 4.
        doubt: why rule 4 needs an explicit order; a sentence for the message.
        hint: what else may be meant; a sentence for the message if there is no doubt.
        places: where each name is in the data ("row 3"), for messages; None for folders.

    Raises:
        DataError: no rule fits; the message shows which names do not match, and a remedy.
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
    # Names that resemble labels are meant as labels, and numbers in a table as indices.
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
    """Whether all names are labels or synset ids of the model's classes; indices do not count."""
    if len(by_label(names, labels)) == len(names):
        return True
    return is_imagenet(labels) and {*names} <= {*imagenet_synsets()}


def _everything(names: Sequence[str], labels: Sequence[str], unused: Sequence[str]) -> list[str]:
    """Return one name per class, or an empty list if there are more or fewer names than classes."""
    for known in ([*names], [*names, *unused]):
        if len(known) == len(labels):
            return known
    # A model without class names: folders named by some of its class indices.
    width = max(map(len, names))
    padded = any(len(name) > 1 and name.startswith("0") for name in names)
    numbers = [str(index).zfill(width if padded else 1) for index in range(len(labels))]
    if isinstance(labels, ClassIndices) and {*names} <= {*numbers}:
        return numbers
    return []


def _doubtful_order(names: Sequence[str], places: Mapping[str, str]) -> str:
    """Why neither order of the names can be trusted: a sentence, or an empty string.

    Programs write missing numbers in many ways (#N/A, -, ?, <NA>, unknown). Sorted among the
    numbers, such a name would become a class and shift the others.
    """
    forms = Counter(map(composed, names))
    same = [name for name in names if forms[composed(name)] > 1]
    if same:
        return f"{same[0]!r} exists in composed and in decomposed Unicode: rename one of the two"
    others = [name for name in names if not _NUMBER.fullmatch(name)]
    if len(others) in (0, len(names)):
        return ""
    numbers = [name for name in names if name not in others]
    odd, are = (others, "are not") if len(others) <= len(numbers) else (numbers, "are")
    told = some(
        [f"{name!r} ({places[name]})" if name in places else repr(name) for name in odd], _SHOWN
    )
    return (
        f"Some of its class names are numbers and some are not, so their order is a guess; those "
        f"that {are}: {told}. Correct or remove them; or, if all are classes, give their order: "
        "--class-order string or natural, in Python read_data(..., order=)"
    )


def _resembling(classes: Mapping[str, int], labels: Sequence[str]) -> str:
    """Which name resembles the label of another class: a sentence, or an empty string."""
    if isinstance(labels, ClassIndices):
        return ""
    for name, own in classes.items():
        like = [
            i for i, label in enumerate(labels) if len(label) > 2 and plain(label) in plain(name)
        ]
        if like and own not in like:
            return (
                f"In sorted order {name} would be {labels[own]}: use the model's names for the "
                "data's classes; or, if that is right, confirm it: --class-order string, in Python "
                'read_data(..., order="string")'
            )
    return ""


def _unsorted(names: Sequence[str], labels: Sequence[str]) -> str:
    """Why sorted names may not follow the order of the model's labels: a sentence, or "".

    Names that count up from 0 or 1 are in the model's order, whatever its labels are.
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
        f"The model's labels are not in sorted order ({some(labels, 3)}), so the data's names "
        "cannot be matched by their order: use the model's names; or, if they sort in the model's "
        "order, give that order: --class-order string or natural, in Python read_data(..., order=)"
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
        f"can be understood in two ways. {shown}. Give the order that the model was trained in: "
        "--class-order string (as torchvision's ImageFolder sorts) or --class-order natural, in "
        "Python read_data(..., order=); or name the model's classes with --labels FILE; or use a "
        "table of images and class indices"
    )


def _both(one: Sequence[str], other: Sequence[str], how: str) -> str:
    """The first few names of both orders, from where they differ."""
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
    """Sort key that compares character by character, but runs of digits by value."""
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
    """Build the error: the rule that fits most names, the names it does not fit, and a remedy."""
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
    # The likely cause comes before the names that do not match.
    return DataError(
        f"{where}: its {len(names)} class{' does' if len(names) == 1 else 'es do'} not match the "
        f"model's {len(labels)}. {hint}{'. ' if hint else ''}{fit}: "
        f"{some(strange, _SHOWN)}. The model has: {has}. {remedy}"
    )


def is_imagenet(labels: Sequence[str]) -> bool:
    """Whether these are the labels that relook gives to models with ImageNet's classes."""
    if len(labels) != 1000:
        return False
    from relook.imagenet import imagenet_labels

    return tuple(labels) == imagenet_labels()


def imagenet_synsets() -> dict[str, int]:
    """Return the class index of each synset id."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    return {synset: index for index, synset in enumerate(names)}
