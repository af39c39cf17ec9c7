"""The one row type: what is known of one labelled image, and its Arrow schema."""

from __future__ import annotations

import json
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

from relook.gate import AMBIGUOUS

_METADATA = b"relook.names"


@dataclass(frozen=True)
class Names:
    """Which answers the rows of a run hold.

    >>> list(relook.evaluation.Names("first look", "flip", ("larger",)))
    ['first look', 'flip', 'larger']

    Attributes:
        first: name of the first answers, which all others are compared with.
        main: name of the answers that the run is about; None where it is about none in particular,
            as in a choice (`tune`).
        others: names of all other answers.
    """

    first: str
    main: str | None = None
    others: tuple[str, ...] = ()

    def __iter__(self) -> Any:
        """All names, the first answers' before the main ones'."""
        return iter((self.first, *([] if self.main is None else [self.main]), *self.others))

    def to_json(self) -> dict[str, Any]:
        """What run.json holds of them."""
        return {"first": self.first, "main": self.main, "others": list(self.others)}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Names:
        """What `to_json` gave."""
        return cls(found["first"], found["main"], tuple(found["others"]))


@dataclass(frozen=True)
class Answer:
    """Class probabilities in short, and what they cost.

    >>> answer = relook.evaluation.Answer.of(
    ...     torch.tensor([0.25, 0.75]), label=1, forwards=1, cost=1.0, seconds=0.01
    ... )
    >>> answer.classes, answer.probabilities, answer.true, answer.brier
    ((1, 0), (0.75, 0.25), 0.75, 0.125)
    >>> answer.best, answer.gap(2)
    (1, 0.5)

    Attributes:
        classes: up to five most probable, most probable first.
        probabilities: theirs.
        true: probability of the true class.
        brier: sum over the classes of (probability − 1 if true else 0)²; 0 to 2.
        forwards: forward passes for it, that of the first look included.
        cost: the same in units of one forward pass at the network's own input size.
        seconds: wall-clock time; of images in one batch, an equal share each.
        corrected: whether a second look was taken.
        notes: what the look did without, see `relook.looks.SecondLook`.
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
    ) -> Answer:
        """Shorten class probabilities."""
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
        )

    @property
    def best(self) -> int:
        """The answer: the most probable class."""
        return self.classes[0]

    def gap(self, j: int) -> float:
        """Y[c_1] − Y[c_j], with fewer classes of the last; j up to 5."""
        return self.probabilities[0] - self.probabilities[min(j, len(self.probabilities)) - 1]


@dataclass(frozen=True)
class Row:
    """What is known of one labelled image.

    >>> row = relook.evaluate(corrector, "photos").rows[0]
    >>> row.image, classifier.labels[row.label], classifier.labels[row.before.best]
    ('Egyptian cat/chelsea.png', 'Egyptian cat', 'tiger cat')
    >>> row.ambiguous, row.corrected, row.fixed
    (True, True, False)

    Attributes:
        index: its place in the data.
        image: its name.
        label: its true class.
        names: which answers the rows of this run hold.
        answers: by name; empty with an error. An answer that was not asked for is left out.
        error: why the image could not be classified; None where it was.
    """

    index: int
    image: str
    label: int
    names: Names
    answers: Mapping[str, Answer] = field(default_factory=dict)
    error: str | None = None

    @property
    def before(self) -> Answer | None:
        """The first answer."""
        return self.answers.get(self.names.first)

    @property
    def after(self) -> Answer | None:
        """The answer that the run is about."""
        return None if self.names.main is None else self.answers.get(self.names.main)

    @property
    def corrected(self) -> bool:
        """Whether a second look was taken for it."""
        return self.after is not None and self.after.corrected

    @property
    def ambiguous(self) -> bool:
        """Whether the first answer was unsure: gap(1,5) < 0.5."""
        return self.before is not None and self.before.gap(5) < AMBIGUOUS

    @property
    def fixed(self) -> bool:
        """Wrong before and right after."""
        return self._right(self.after) and not self._right(self.before)

    @property
    def broken(self) -> bool:
        """Right before and wrong after."""
        return self._right(self.before) and self.after is not None and not self._right(self.after)

    def _right(self, answer: Answer | None) -> bool:
        return answer is not None and answer.best == self.label


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
    ]
)


@cache
def schema(names: Names) -> pyarrow.Schema:
    """The Arrow schema of rows with these answers.

    `answers` has a field for each name. The columns gap_*, ambiguous, fixed, broken, corrected,
    forwards and seconds follow from the first answer and the main one; they are there for those
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


def names_of(table: pyarrow.Table) -> Names:
    """Which answers the rows of a table hold."""
    return Names.of(json.loads(table.schema.metadata[_METADATA]))


def to_table(rows: Sequence[Row], names: Names) -> pyarrow.Table:
    """Rows as an Arrow table of `schema(names)`.

    >>> names = relook.evaluation.Names("first look", "flip")
    >>> rows = relook.evaluate(corrector, "photos").rows
    >>> relook.evaluation.to_table(rows, names)["gap_1_2"].to_numpy().round(1)
    array([0. , 0.9])
    """
    return pyarrow.Table.from_pylist([_record(row) for row in rows], schema=schema(names))


def from_table(table: pyarrow.Table) -> list[Row]:
    """The rows of a table that `to_table` made.

    >>> table = relook.evaluate(corrector, "photos").table
    >>> [row.image for row in relook.evaluation.from_table(table)]
    ['Egyptian cat/chelsea.png', 'espresso/coffee.png']
    """
    names = names_of(table)
    return [_row(record, names) for record in table.to_pylist()]


@dataclass(frozen=True)
class Answers:
    """The answers of one name in a table, as columns.

    Attributes:
        found: an array of answers; the properties ask for one without nulls.
    """

    found: pyarrow.StructArray

    @classmethod
    def of(cls, table: pyarrow.Table, name: str) -> Answers:
        """Of that name, in the order of the table's rows."""
        return cls(pyarrow.compute.struct_field(table["answers"].combine_chunks(), name))

    def column(self, field: str) -> NDArray[Any]:
        """The values of a field that is no list."""
        values: NDArray[Any] = self.found.field(field).to_numpy(zero_copy_only=False)
        return values

    @property
    def best(self) -> NDArray[Any]:
        """The most probable class of each answer."""
        classes, starts, _ = self._list("classes")
        first: NDArray[Any] = classes[starts]
        return first

    def gap(self, j: int | None) -> NDArray[Any]:
        """Y[c_1] − Y[c_j] of each answer, with fewer classes of the last; Y[c_1] for None."""
        probabilities, starts, ends = self._list("probabilities")
        top: NDArray[Any] = probabilities[starts]
        return top if j is None else top - probabilities[np.minimum(starts + j, ends) - 1]

    def holds(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether the class of that label is among the first five of each answer."""
        classes, starts, ends = self._list("classes")
        rows = np.repeat(np.arange(len(starts)), ends - starts)
        return np.bincount(rows[classes == labels[rows]], minlength=len(starts)) > 0

    def notes(self) -> Counter[str]:
        """How many answers have each note."""
        counted = self.found.field("notes").flatten().value_counts().to_pylist()
        return Counter({each["values"]: each["counts"] for each in counted})

    def _list(self, field: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """All values of a field of lists, and where each list begins and ends."""
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
    lists = {name: tuple(record[name]) for name in ("classes", "probabilities", "notes")}
    return Answer(**{**record, **lists})
