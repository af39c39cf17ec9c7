"""Find the gate that a given share of the images pass, such as the least sure fifth.

A single image has a gap, but no rank among other images. The gate is therefore the gap below which
that share of a data set's images lie. Their labels are not used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from relook.arguments import Number, real_number
from relook.classifier import Classifier
from relook.errors import DataError, RelookError
from relook.evaluation.data import LabelledImages
from relook.evaluation.experiment import Experiment
from relook.evaluation.rows import FIRST, Names
from relook.evaluation.work import work
from relook.gate import Gate
from relook.runs import OnRows

SAMPLE = 1000
"""Maximum number of images on which the gate is found."""

_DIGITS = 6
"""Maximum number of decimals of the gate: float32 has no finer gaps near 1."""

_J = 2


@dataclass(frozen=True)
class GateOfShare(Gate):
    """A gate on gap(1,2) that a share of the images pass; a `Corrector` accepts it as a gate.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> gate = relook.evaluation.gate_of_share(classifier, data, 0.5)
    >>> gate.j, gate.share, gate.images, gate.unsure
    (2, 0.5, 2, 1)

    Attributes:
        share: requested share of images that pass the gate, between 0 and 1.
        images: number of images on which the gate was found.
        unsure: number of these that pass it; if many gaps are equal, not exactly the share.
    """

    share: float = 0.0
    images: int = 0
    unsure: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the gate as it is stored in run.json."""
        return asdict(self)

    @classmethod
    def of_run(cls, folder: str | os.PathLike[str], share: float) -> GateOfShare | None:
        """Read the gate that the run (or tuning) in a folder found for this share, if any.

        A run continued on another machine thus has exactly the same gate.
        """
        for file in (Path(folder) / "run.json", Path(folder) / "tuning" / "run.json"):
            try:
                found = cls(**json.loads(file.read_text(encoding="utf-8"))["gate_of_share"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # no run, or another gate; an unusable run raises its error when continued
            if found.share == share:
                return found
        return None


def gate_of_share(
    classifier: Classifier,
    data: LabelledImages,
    share: Number,
    on_rows: OnRows | None = None,
) -> GateOfShare:
    """Find the gate on gap(1,2) that the least sure share of the images pass.

    If there are more than 1,000 images, 1,000 are chosen at random, the same ones every time.
    Labels are not used. The forward passes, one per image, are not counted in an evaluation.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> gate = relook.evaluation.gate_of_share(classifier, data, 0.5)
    >>> print(gate)
    gap(1,2) below 0.04
    >>> corrector = relook.Corrector(classifier, gate=gate, look="flip")

    Args:
        classifier: takes the first looks.
        data: the images.
        share: share of the images, between 0 and 1: 0.2 for the least sure fifth.
        on_rows: called with the images' rows as they are computed.

    Raises:
        RelookError: the share is not between 0 and 1, or the network failed on many images.
        DataError: no image can be used.
    """
    share = real_number(share, "share")
    if not 0 < share < 1:
        raise RelookError(
            f"the share of images that pass a gate must be between 0 and 1 (0 % and 100 %), not "
            f"{share:g}; use the gate 0 for no image, or none for every image"
        )

    names = Names(FIRST)
    experiment = Experiment("gate", classifier, names, (), {})
    table = work(experiment, data.sample(SAMPLE), None, on_rows)
    gaps = sorted(table["gap_1_2"].drop_null().to_pylist())
    if not gaps:
        error = next((e for e in table["error"].to_pylist() if e), "there are no images")
        raise DataError(f"no image could be classified to find the gate of this share: {error}")
    below = _between(gaps, max(1, round(share * len(gaps))))
    return GateOfShare(below, _J, share, len(gaps), sum(gap < below for gap in gaps))


def _between(gaps: Sequence[float], count: int) -> float:
    """The shortest decimal above the `count` smallest gaps; equal gaps may also lie below it."""
    last, following = gaps[count - 1], gaps[count] if count < len(gaps) else math.inf
    below = 1.0
    for digits in range(2, _DIGITS + 1):
        step = 10**-digits
        below = round(math.floor(last / step) * step, digits)
        while below <= last and below < 1:
            below = round(below + step, digits)
        if below <= following:
            break
    return below
