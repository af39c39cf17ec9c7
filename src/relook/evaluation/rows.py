"""Rows of results, one per labelled image, and their Arrow schema."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from relook.errors import RelookError
from relook.gate import AMBIGUOUS

_METADATA = b"relook.names"
_LISTS = ("classes", "probabilities", "notes", "possible")

FIRST = "first look"
"""Name of the answers before the second look."""

CALIBRATED = "first look, calibrated"
"""Name of the first answers after a temperature of their own."""

_NOT_CALIBRATED = ", not calibrated"


def not_calibrated(name: str) -> str:
    """Return the name of the corrected answers called `name` as they are before the temperature."""
    return f"{name}{_NOT_CALIBRATED}"


def is_derived(name: str) -> bool:
    """Return whether answers differ from the first or the main ones by a temperature alone.

    Such answers tell the temperature's part from the second look's. They are no look of their own:
    the most probable classes are those of the answers they derive from.
    """
    return name == CALIBRATED or name.endswith(_NOT_CALIBRATED)


@dataclass(frozen=True)
class Names:
    """Names of the answers in the rows of a run.

    >>> list(relook.evaluation.Names("first look", "flip", ("larger",)))
    ['first look', 'flip', 'larger']

    Attributes:
        first: name of the answers before any second look, the baseline of all comparisons.
        main: name of the answers that the run evaluates; None if it compares many equally, as
            tuning does.
        others: names of all other answers.
    """

    first: str
    main: str | None = None
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that no name is used twice.

        Raises:
            RelookError: one is.
        """
        for name, times in Counter(self).items():
            if times > 1:
                raise RelookError(f"two answers are called {name!r}; give each a name of its own")

    def __iter__(self) -> Any:
        """Iterate over all names: first, main if there is one, then the others."""
        return iter((self.first, *([] if self.main is None else [self.main]), *self.others))

    def to_json(self) -> dict[str, Any]:
        """Return the names as they are stored in run.json."""
        return {"first": self.first, "main": self.main, "others": list(self.others)}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Names:
        """Restore names from the output of `to_json`."""
        return cls(found["first"], found["main"], tuple(found["others"]))


@dataclass(frozen=True, eq=False)
class Asked:
    """The answers to single views of one image, from which tuning computes those of many looks.

    Attributes:
        probabilities: (n, C) as n · C values of type float32, row by row.
        weights: the weight of each view's answer, n of them.
        costs: cost of each view, in forward passes at the network's own input size.
        batches: number of views in each batch; their sum is n.
    """

    probabilities: NDArray[np.float32]
    weights: tuple[float, ...]
    costs: tuple[float, ...]
    batches: tuple[int, ...]

    @classmethod
    def of(
        cls,
        answers: Float[Tensor, "n c"],
        weights: Sequence[float],
        costs: Sequence[float],
        batches: Sequence[int],
    ) -> Asked:
        """Keep the answers (n, C) to n views."""
        kept = answers.detach().to("cpu", torch.float32).flatten().numpy()
        return cls(kept, tuple(weights), tuple(costs), tuple(batches))


@dataclass(frozen=True)
class Answer:
    """Summary of the class probabilities for one image, and of their cost.

    >>> answer = relook.evaluation.Answer.of(
    ...     torch.tensor([0.25, 0.75]), label=1, forwards=1, cost=1.0, seconds=0.01
    ... )
    >>> answer.classes, answer.probabilities, answer.true, answer.brier
    ((1, 0), (0.75, 0.25), 0.75, 0.125)
    >>> answer.best, answer.gap(2)
    (1, 0.5)

    Attributes:
        classes: 0-based indices of the five most probable classes (or of all, if there are fewer),
            most probable first.
        probabilities: probabilities of these classes, from 0 to 1.
        true: probability of the true class, from 0 to 1.
        brier: Brier score, from 0 to 2: the sum over classes of (probability − truth)², with truth
            1 for the true class and 0 for the others.
        forwards: number of forward passes, including the first look's.
        cost: cost in units of one forward pass at the network's own input size.
        seconds: wall-clock time in seconds; the time of a batch is divided equally.
        corrected: whether a second look was taken.
        notes: what the look had to leave out (see `relook.looks.SecondLook`).
        confidence: how far the answer can be relied on, higher is surer; the probability of the
            most probable class unless tuning chose another measure (see
            `relook.calibration.Confidence`).
        abstained: whether the answer is not to be relied on, by a threshold that tuning chose.
        possible: if abstained, indices of the classes in question, most probable first.
        asked: the views behind the answer, kept by tuning; otherwise None.
    """

    classes: tuple[int, ...]
    probabilities: tuple[float, ...]
    true: float
    brier: float
    forwards: int
    cost: float
    seconds: float
    corrected: bool = False
    notes: tuple[str, ...] = ()
    confidence: float = math.nan
    abstained: bool = False
    possible: tuple[int, ...] = ()
    asked: Asked | None = None

    def __post_init__(self) -> None:
        """Set the confidence to the highest probability if none is given."""
        if math.isnan(self.confidence):
            object.__setattr__(self, "confidence", self.probabilities[0])

    @classmethod
    def of(
        cls,
        probabilities: Float[Tensor, " c"],
        label: int,
        forwards: int,
        cost: float,
        seconds: float,
        corrected: bool = False,
        notes: tuple[str, ...] = (),
        confidence: float = math.nan,
        abstained: bool = False,
        possible: tuple[int, ...] = (),
        asked: Asked | None = None,
    ) -> Answer:
        """Summarise the class probabilities of an image with the true class `label`."""
        p = probabilities.detach().to("cpu", torch.float64)
        top = p.topk(min(5, len(p)))
        true = float(p[label])
        return cls(
            classes=tuple(top.indices.tolist()),
            probabilities=tuple(top.values.tolist()),
            true=true,
            brier=float(p.square().sum()) - 2 * true + 1,
            forwards=forwards,
            cost=cost,
            seconds=seconds,
            corrected=corrected,
            notes=notes,
            confidence=confidence,
            abstained=abstained,
            possible=possible,
            asked=asked,
        )

    @property
    def best(self) -> int:
        """The most probable class."""
        return self.classes[0]

    def gap(self, j: int) -> float:
        """Return Y[c_1] − Y[c_j] for j up to 5; with fewer than j classes, c_j is the last one."""
        return self.probabilities[0] - self.probabilities[min(j, len(self.probabilities)) - 1]


@dataclass(frozen=True)
class Row:
    """The results for one labelled image.

    >>> row = relook.evaluate(corrector, "photos").rows[0]
    >>> row.image, classifier.labels[row.label], classifier.labels[row.before.best]
    ('Egyptian cat/chelsea.png', 'Egyptian cat', 'tiger cat')
    >>> row.ambiguous, row.corrected, row.fixed
    (True, True, False)

    Attributes:
        index: position in the data set, from 0.
        image: name in the data set.
        label: true class, as a 0-based index.
        names: names of the answers in the rows of the run.
        answers: answers by name; empty if there was an error. In tuning, ways whose gates the image
            does not pass have no answer.
        error: why the image could not be classified; None if it was.
    """

    index: int
    image: str
    label: int
    names: Names
    answers: Mapping[str, Answer] = field(default_factory=dict)
    error: str | None = None

    @property
    def before(self) -> Answer | None:
        """The answer before the second look; None if there was an error."""
        return self.answers.get(self.names.first)

    @property
    def after(self) -> Answer | None:
        """The answer that the run evaluates; None if there is none."""
        return None if self.names.main is None else self.answers.get(self.names.main)

    @property
    def corrected(self) -> bool:
        """Whether the image got a second look."""
        return self.after is not None and self.after.corrected

    @property
    def ambiguous(self) -> bool:
        """Whether the first look was unsure: gap(1,5) < 0.5."""
        return self.before is not None and self.before.gap(5) < AMBIGUOUS

    @property
    def fixed(self) -> bool:
        """Whether the answer was wrong before and is right after the second look."""
        return self._right(self.after) and not self._right(self.before)

    @property
    def broken(self) -> bool:
        """Whether the answer was right before and is wrong after the second look."""
        return self._right(self.before) and self.after is not None and not self._right(self.after)

    def _right(self, answer: Answer | None) -> bool:
        return answer is not None and answer.best == self.label


_ASKED = pyarrow.struct(
    [
        ("probabilities", pyarrow.list_(pyarrow.float32())),
        ("weights", pyarrow.list_(pyarrow.float64())),
        ("costs", pyarrow.list_(pyarrow.float64())),
        ("batches", pyarrow.list_(pyarrow.int32())),
    ]
)

_ANSWER = pyarrow.struct(
    [
        ("classes", pyarrow.list_(pyarrow.int32())),
        ("probabilities", pyarrow.list_(pyarrow.float64())),
        ("true", pyarrow.float64()),
        ("brier", pyarrow.float64()),
        ("forwards", pyarrow.int64()),
        ("cost", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
        ("corrected", pyarrow.bool_()),
        ("notes", pyarrow.list_(pyarrow.string())),
        ("confidence", pyarrow.float64()),
        ("abstained", pyarrow.bool_()),
        ("possible", pyarrow.list_(pyarrow.int32())),
        ("asked", _ASKED),
    ]
)


@cache
def schema(names: Names) -> pyarrow.Schema:
    """Return the Arrow schema of rows with these answers.

    The column `answers` has one field per name. The columns gap_*, ambiguous, fixed, broken,
    corrected, forwards and seconds repeat or follow from the first and the main answer, for those
    who read the table without relook.
    """
    columns = [
        ("index", pyarrow.int64()),
        ("image", pyarrow.string()),
        ("label", pyarrow.int32()),
        ("error", pyarrow.string()),
        ("corrected", pyarrow.bool_()),
        ("gap_1_2", pyarrow.float64()),
        ("gap_1_5", pyarrow.float64()),
        ("ambiguous", pyarrow.bool_()),
        ("fixed", pyarrow.bool_()),
        ("broken", pyarrow.bool_()),
        ("forwards", pyarrow.int64()),
        ("seconds", pyarrow.float64()),
        ("answers", pyarrow.struct([(name, _ANSWER) for name in names])),
    ]
    return pyarrow.schema(columns, metadata={_METADATA: json.dumps(names.to_json())})


def names_in(settings: Mapping[str, Any]) -> Names:
    """Return the names of the answers in the rows of a run with these settings."""
    return Names.of(settings["answers"])


def schema_of(settings: Mapping[str, Any]) -> pyarrow.Schema:
    """Return the schema of the rows of a run with these settings."""
    return schema(names_in(settings))


def names_of(table: pyarrow.Table) -> Names:
    """Return the names of the answers in a table."""
    return Names.of(json.loads(table.schema.metadata[_METADATA]))


def to_table(rows: Sequence[Row], names: Names) -> pyarrow.Table:
    """Convert rows to an Arrow table with the schema `schema(names)`.

    >>> names = relook.evaluation.Names("first look", "flip")
    >>> rows = relook.evaluate(corrector, "photos").rows
    >>> relook.evaluation.to_table(rows, names)["gap_1_2"].to_numpy().round(1)
    array([0. , 0.9])
    """
    return pyarrow.Table.from_pylist([_record(row) for row in rows], schema=schema(names))


def from_table(table: pyarrow.Table) -> list[Row]:
    """Convert a table made by `to_table` back to rows.

    >>> table = relook.evaluate(corrector, "photos").table
    >>> [row.image for row in relook.evaluation.from_table(table)]
    ['Egyptian cat/chelsea.png', 'espresso/coffee.png']
    """
    names = names_of(table)
    return [_row(record, names) for record in table.to_pylist()]


@dataclass(frozen=True)
class Answers:
    """All answers with one name in a table, as columns.

    Attributes:
        found: array of n answers; the methods require that none is null.
    """

    found: pyarrow.StructArray

    @classmethod
    def of(cls, table: pyarrow.Table, name: str) -> Answers:
        """Select the answers with a name, in the order of the table's rows."""
        return cls(pyarrow.compute.struct_field(table["answers"].combine_chunks(), name))

    def column(self, field: str) -> NDArray[Any]:
        """Return the n values of a field that is not a list."""
        values: NDArray[Any] = self.found.field(field).to_numpy(zero_copy_only=False)
        return values

    @property
    def best(self) -> NDArray[Any]:
        """The most probable class of each answer, (n,)."""
        classes, starts, _ = self._list("classes")
        first: NDArray[Any] = classes[starts]
        return first

    def gap(self, j: int | None) -> NDArray[Any]:
        """Return Y[c_1] − Y[c_j] of each answer as `Answer.gap` does; for j = None, Y[c_1]."""
        probabilities, starts, ends = self._list("probabilities")
        top: NDArray[Any] = probabilities[starts]
        return top if j is None else top - probabilities[np.minimum(starts + j, ends) - 1]

    def holds(self, labels: NDArray[Any], field: str = "classes") -> NDArray[np.bool_]:
        """Return whether each label, (n,), is among the classes in a field of its answer.

        Args:
            labels: (n,), class indices.
            field: "classes", the five most probable ones, or "possible".
        """
        classes, starts, ends = self._list(field)
        rows = np.repeat(np.arange(len(starts)), ends - starts)
        return np.bincount(rows[classes == labels[rows]], minlength=len(starts)) > 0

    def sizes(self, field: str) -> NDArray[Any]:
        """Return the number of values in a field of lists, (n,)."""
        _, starts, ends = self._list(field)
        sizes: NDArray[Any] = ends - starts
        return sizes

    def notes(self) -> Counter[str]:
        """Count the answers with each note."""
        counted = self.found.field("notes").flatten().value_counts().to_pylist()
        return Counter({each["values"]: each["counts"] for each in counted})

    def _list(self, field: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return all values of a field of lists, and where each list starts and ends."""
        lists = self.found.field(field)
        offsets = lists.offsets.to_numpy()
        return lists.values.to_numpy(), offsets[:-1], offsets[1:]


def _record(row: Row) -> dict[str, Any]:
    before, after = row.before, row.after
    return {
        "index": row.index,
        "image": row.image,
        "label": row.label,
        "error": row.error,
        "corrected": row.corrected,
        "gap_1_2": before and before.gap(2),
        "gap_1_5": before and before.gap(5),
        "ambiguous": row.ambiguous,
        "fixed": row.fixed,
        "broken": row.broken,
        "forwards": after and after.forwards,
        "seconds": after and after.seconds,
        "answers": {name: asdict(answer) for name, answer in row.answers.items()},
    }


def _row(record: dict[str, Any], names: Names) -> Row:
    return Row(
        index=record["index"],
        image=record["image"],
        label=record["label"],
        names=names,
        answers={name: _answer(found) for name, found in record["answers"].items() if found},
        error=record["error"],
    )


def _answer(record: dict[str, Any]) -> Answer:
    lists = {name: tuple(record[name]) for name in _LISTS}
    asked = record["asked"] and Asked(
        np.array(record["asked"]["probabilities"], np.float32),
        *(tuple(record["asked"][name]) for name in ("weights", "costs", "batches")),
    )
    return Answer(**{**record, **lists, "asked": asked})
