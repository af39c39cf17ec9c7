"""The one row type: what is known of one labelled image, and its Arrow schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow
import torch
from jaxtyping import Float
from torch import Tensor

from relook.correction import AMBIGUOUS


@dataclass(frozen=True)
class Answer:
    """Class probabilities in short, and what they cost.

    Attributes:
        classes: up to five most probable, most probable first.
        probabilities: theirs.
        true: probability of the true class.
        brier: sum over the classes of (probability − 1 if true else 0)²; 0 to 2.
        forwards: images through the network for it, the first look counted.
        cost: the same in units of one forward at the network's own input size.
        seconds: wall-clock time, for each image of a batch its share.
        notes: what the look did without, see `relook.looks.SecondLook`.
    """

    classes: tuple[int, ...]
    probabilities: tuple[float, ...]
    true: float
    brier: float
    forwards: int
    cost: float
    seconds: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        probabilities: Float[Tensor, " c"],
        label: int,
        forwards: int,
        cost: float,
        seconds: float,
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

    Attributes:
        index: its place in the data.
        image: its name.
        label: its true class.
        error: why it could not be classified; None where it was.
        corrected: whether it got a second look.
        before, after: the first answer and the corrected one; None with an error. Where ways to
            look again are tried (`tune`) all of them are rivals, and `after` is None.
        rivals: the answers of other looks, by name.
    """

    index: int
    image: str
    label: int
    error: str | None = None
    corrected: bool = False
    before: Answer | None = None
    after: Answer | None = None
    rivals: tuple[tuple[str, Answer], ...] = ()

    @property
    def ambiguous(self) -> bool:
        """Whether the first look was unsure: gap(1,5) < 0.5."""
        return self.before is not None and self.before.gap(5) < AMBIGUOUS

    @property
    def fixed(self) -> bool:
        """Wrong before and right after."""
        return self._right(self.after) and not self._right(self.before)

    @property
    def broken(self) -> bool:
        """Right before and wrong after."""
        return self._right(self.before) and not self._right(self.after)

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
        ("notes", pyarrow.list_(pyarrow.string())),
    ]
)

_RIVAL = pyarrow.struct([("look", pyarrow.string()), ("answer", _ANSWER)])

SCHEMA = pyarrow.schema(
    [
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
        ("before", _ANSWER),
        ("after", _ANSWER),
        ("rivals", pyarrow.list_(_RIVAL)),
    ]
)
"""Of a row. gap_*, ambiguous, fixed, broken, forwards and seconds follow from the answers; they are
there for those who read the table without relook."""


def to_table(rows: Sequence[Row]) -> pyarrow.Table:
    """Rows as an Arrow table of `SCHEMA`."""
    return pyarrow.Table.from_pylist([_record(row) for row in rows], schema=SCHEMA)


def from_table(table: pyarrow.Table) -> list[Row]:
    """What `to_table` wrote."""
    return [_row(record) for record in table.to_pylist()]


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
        "before": before and asdict(before),
        "after": after and asdict(after),
        "rivals": [{"look": look, "answer": asdict(answer)} for look, answer in row.rivals],
    }


def _row(record: dict[str, Any]) -> Row:
    return Row(
        index=record["index"],
        image=record["image"],
        label=record["label"],
        error=record["error"],
        corrected=record["corrected"],
        before=_answer(record["before"]),
        after=_answer(record["after"]),
        rivals=tuple((r["look"], _known(r["answer"])) for r in record["rivals"]),
    )


def _answer(record: dict[str, Any] | None) -> Answer | None:
    return None if record is None else _known(record)


def _known(record: dict[str, Any]) -> Answer:
    lists = {name: tuple(record[name] or ()) for name in ("classes", "probabilities", "notes")}
    return Answer(**{**record, **lists})
