"""The gate that lets a share of the images pass: of all images the least sure fifth, for instance.

One image has no rank among others; a gap it has. So the gap that this share lies below is found on
images of the data, without their labels, and that is the gate.
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
from relook.evaluation.rows import Names
from relook.evaluation.work import Rows, work
from relook.gate import Gate

SAMPLE = 1000
"""The first answers of so many images tell which gap it is."""

_DIGITS = 6
"""After the point, at most: float32 knows no finer gaps near 1."""

_J = 2


@dataclass(frozen=True)
class GateOfShare(Gate):
    """A gate by gap(1,2), and how it was found. A `Corrector` takes it like any other gate.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> gate = relook.evaluation.gate_of_share(classifier, data, 0.5)
    >>> gate.j, gate.share, gate.images, gate.unsure
    (2, 0.5, 2, 1)

    Attributes:
        share: of the images that were to pass it, between 0 and 1.
        images: how many it was found on.
        unsure: how many of those pass it; where many gaps are equal not quite the share.
    """

    share: float = 0.0
    images: int = 0
    unsure: int = 0

    def to_json(self) -> dict[str, Any]:
        """What run.json holds of it."""
        return asdict(self)

    @classmethod
    def of_run(cls, folder: str | os.PathLike[str], share: float) -> GateOfShare | None:
        """The gate that the run in this folder found for the same share, or its choice (`tune`).

        Going on with it, a run has the same gate to the last digit on another machine too.
        """
        for file in (Path(folder) / "run.json", Path(folder) / "tuning" / "run.json"):
            try:
                found = cls(**json.loads(file.read_text(encoding="utf-8"))["gate_of_share"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # no run, or of another gate: what is wrong with it, going on will say
            if found.share == share:
                return found
        return None


def gate_of_share(
    classifier: Classifier,
    data: LabelledImages,
    share: Number,
    on_rows: Rows | None = None,
) -> GateOfShare:
    """The gate by gap(1,2) that the least sure share of the data passes.

    Of more than 1,000 images a sample tells, the same every time. Labels are not looked at, and the
    forward passes, one an image, count for no image of an evaluation.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> gate = relook.evaluation.gate_of_share(classifier, data, 0.5)
    >>> print(gate)
    gap(1,2) below 0.04
    >>> corrector = relook.Corrector(classifier, gate=gate, look="flip")

    Args:
        classifier: takes the first looks.
        data: the images.
        share: between 0 and 1, as in 0.2 for the least sure fifth.
        on_rows: told of the images' rows as they come.

    Raises:
        RelookError: the share is not between 0 and 1, or the network failed on many images.
        DataError: no image can be used.
    """
    share = real_number(share, "share")
    if not 0 < share < 1:
        raise RelookError(
            f"the share of images that pass a gate lies between 0 and 1 (0 % and 100 %); not "
            f"{share:g}. The gate 0 is for no image, none for every image"
        )

    names = Names("first look")
    experiment = Experiment("gate", classifier, names, (), {})
    table = work(experiment, data.sample(SAMPLE), None, on_rows)
    gaps = sorted(table["gap_1_2"].drop_null().to_pylist())
    if not gaps:
        error = next((e for e in table["error"].to_pylist() if e), "there are no images")
        raise DataError(f"no image tells which gap the share lies below: {error}")
    below = _between(gaps, max(1, round(share * len(gaps))))
    return GateOfShare(below, _J, share, len(gaps), sum(gap < below for gap in gaps))


def _between(gaps: Sequence[float], count: int) -> float:
    """The shortest number that so many of the sorted gaps lie below; where gaps are equal, more."""
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
