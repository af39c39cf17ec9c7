"""Rows of answers, one per image, as flat Arrow tables for those who read them without relook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relook.runs import Item


@dataclass(frozen=True)
class Columns:
    """The answers for n images, as columns.

    Attributes:
        before: (n, C), the first answers.
        after: (n, C), the answers given.
        corrected: (n,), whether there was a second look.
        forwards: n numbers of forward passes.
        cost: n costs, in forward passes at the network's own input size.
        seconds: n wall-clock times.
        notes: for each image, what the look had to leave out.
        confidence: (n,), how far the answers can be relied on; higher is surer.
        abstained: (n,), whether they are not to be relied on.
        possible: for each abstained answer, the classes in question; otherwise empty.
    """

    before: Float[Tensor, "n c"]
    after: Float[Tensor, "n c"]
    corrected: Bool[Tensor, " n"]
    forwards: Sequence[int]
    cost: Sequence[float]
    seconds: Sequence[float]
    notes: Sequence[Sequence[str]]
    confidence: Float[Tensor, " n"]
    abstained: Bool[Tensor, " n"]
    possible: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Form:
    """Which columns the rows have.

    Attributes:
        labels: names of the classes.
        all_classes: whether the rows hold the probabilities of all classes.
        with_risk: whether the rows say which answers are not to be relied on.
    """

    labels: tuple[str, ...]
    all_classes: bool
    with_risk: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Form:
        """Return the form of the rows of a run with these settings."""
        labels = tuple(settings["model"]["labels"])
        return cls(labels, settings["all_classes"], settings.get("risk") is not None)

    @property
    def schema(self) -> pyarrow.Schema:
        """The Arrow schema of the rows.

        `class`, `label` and `probability` are the answer given; those with `first_` the answer
        before the second look. `probabilities` (of all classes, in their order) is there with
        `all_classes`; `confidence`, `abstained` and `possible` (labels of the classes in question)
        with a risk. Where `error` is not null, the columns of answers are.
        """
        columns = [
            ("index", pyarrow.int64()),
            ("image", pyarrow.string()),
            ("error", pyarrow.string()),
            ("corrected", pyarrow.bool_()),
            ("class", pyarrow.int32()),
            ("label", pyarrow.string()),
            ("probability", pyarrow.float64()),
            ("first_class", pyarrow.int32()),
            ("first_label", pyarrow.string()),
            ("first_probability", pyarrow.float64()),
            ("forwards", pyarrow.int64()),
            ("cost", pyarrow.float64()),
            ("seconds", pyarrow.float64()),
            ("notes", pyarrow.list_(pyarrow.string())),
        ]
        if self.with_risk:
            columns += [
                ("confidence", pyarrow.float64()),
                ("abstained", pyarrow.bool_()),
                ("possible", pyarrow.list_(pyarrow.string())),
            ]
        if self.all_classes:
            columns.append(("probabilities", pyarrow.list_(pyarrow.float32())))
        return pyarrow.schema(columns)

    def table(self, items: Sequence[Item], found: Columns) -> pyarrow.Table:
        """Return the rows of images."""
        labels = pyarrow.array(self.labels)

        def best(name: str, probabilities: Tensor) -> dict[str, Any]:
            values, classes = probabilities.double().max(dim=1)
            chosen = pyarrow.array(classes.int().numpy())
            return {
                f"{name}class": chosen,
                f"{name}label": labels.take(chosen),
                f"{name}probability": pyarrow.array(values.numpy()),
            }

        before, after = found.before.cpu(), found.after.cpu()
        columns = {
            "index": [item.index for item in items],
            "image": [item.name for item in items],
            "error": pyarrow.nulls(len(items), pyarrow.string()),
            "corrected": pyarrow.array(found.corrected.cpu().numpy()),
            **best("", after),
            **best("first_", before),
            "forwards": found.forwards,
            "cost": found.cost,
            "seconds": found.seconds,
            "notes": found.notes,
        }
        if self.with_risk:
            columns["confidence"] = pyarrow.array(found.confidence.cpu().double().numpy())
            columns["abstained"] = pyarrow.array(found.abstained.cpu().numpy())
            columns["possible"] = [[self.labels[c] for c in some] for some in found.possible]
        if self.all_classes:
            ends = torch.arange(len(items) + 1, dtype=torch.int32) * len(self.labels)
            values = after.float().contiguous().flatten().numpy()
            columns["probabilities"] = pyarrow.ListArray.from_arrays(ends.numpy(), values)
        return pyarrow.table(columns, schema=self.schema)

    def failed(self, item: Item, error: str) -> pyarrow.Table:
        """Return the row of an image that could not be read or answered."""
        row = {
            "index": item.index,
            "image": item.name,
            "error": error,
            "corrected": False,
            "forwards": 0,
            "cost": 0.0,
            "seconds": 0.0,
        }
        return pyarrow.Table.from_pylist([row], schema=self.schema)
