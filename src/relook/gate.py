"""The gate: which images get a second look, because the classifier is unsure of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from relook.arguments import Number, real_number
from relook.errors import RelookError

__all__ = ["AMBIGUOUS", "EVERY_IMAGE", "NO_IMAGE", "Gate", "gap"]

AMBIGUOUS = 0.5
"""An image is ambiguous if gap(1,5) is below this: the poster's choice of images."""

_GAP2 = "gap2:"
_WANTED = "gate must be a gap from 0 to 1, or none"
EXAMPLES = "0.5 is gap(1,5) below 0.5, and gap2:0.6 is gap(1,2) below 0.6"


def gap(probabilities: Float[Tensor, "*n c"], j: int = 5) -> Float[Tensor, "*n"]:
    """Compute Y[c_1] − Y[c_j], a measure of how confident the classifier is.

    Args:
        probabilities: (..., C), class probabilities.
        j: rank of the class to compare with; the last class if there are fewer than j.

    >>> gap = relook.gate.gap(torch.tensor([0.5, 0.25, 0.125, 0.125]), j=2)
    >>> gap.item()
    0.25
    """
    top = probabilities.topk(min(j, probabilities.shape[-1]), dim=-1).values
    return top[..., 0] - top[..., -1]


@dataclass(frozen=True)
class Gate:
    """Images with gap(1,j) below a threshold get a second look; the others keep their first answer.

    gap(1,5) is the poster's choice. It depends on the number of classes: with six classes the fifth
    has almost no probability, so gap(1,5) is hardly less than Y[c_1]. gap(1,2), the lead of the
    first class over the second, has the same meaning for any number of classes.

    >>> relook.gate.Gate.of("gap2:0.6")
    Gate(below=0.6, j=2)
    >>> print(relook.gate.Gate.of(0.5))
    gap(1,5) below 0.5

    Attributes:
        below: threshold from 0 (no image) to 1; infinity for every image.
        j: rank of the class that the first is compared with, 2 or 5.
    """

    below: float
    j: int = 5

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RelookError: a value is out of range.
        """
        if self.j not in (2, 5):
            raise RelookError(f"a gate uses gap(1,2) or gap(1,5), not gap(1,{self.j})")
        if not 0 <= self.below <= 1 and self.below != math.inf:
            raise _refusal(self.setting)

    @classmethod
    def of(cls, value: Number | str | Gate) -> Gate:
        """Convert a setting to a gate.

        Args:
            value: a number for gap(1,5), such as 0.5; "gap2:" and a number for gap(1,2), such as
                "gap2:0.6"; "none" for a second look at every image; or a gate, returned as it is.

        Raises:
            RelookError: the setting is invalid or out of range.
        """
        if isinstance(value, Gate):
            return value
        if isinstance(value, str) and value == "none":
            return EVERY_IMAGE
        if isinstance(value, str) and value.endswith("%"):
            raise RelookError(
                f"gate {value} is a share of a data set, and a single image needs a gap instead: "
                f"relook evaluate DATA --gate {value} (in Python, "
                "relook.evaluation.gate_of_share) finds the gap for your images; use the gate that "
                "it reports, such as gap2:0.63"
            )
        try:
            if not isinstance(value, str):
                below, j = real_number(value, "gate"), 5
            elif value.startswith(_GAP2):
                below, j = float(value.removeprefix(_GAP2)), 2
            else:
                raise _refusal(value)
        except (RelookError, ValueError):
            raise _refusal(value) from None
        if math.isinf(below):
            raise _refusal(value)
        return cls(below, j)

    @property
    def setting(self) -> float | str:
        """The gate as a number or a string, for JSON and messages; `of` converts it back."""
        if math.isinf(self.below):
            return "none"
        # No gap is below 0, so both kinds of gap share one spelling for no second look at all.
        return float(self.below) if self.j == 5 or not self.below else f"{_GAP2}{self.below}"

    @property
    def name(self) -> str:
        """The quantity that is compared: "gap(1,2)" or "gap(1,5)"."""
        return f"gap(1,{self.j})"

    def __str__(self) -> str:
        """Return the gate in words: "gap(1,2) below 0.6", or "any gap"."""
        return "any gap" if math.isinf(self.below) else f"{self.name} below {self.below}"

    def gap(self, probabilities: Float[Tensor, " c"]) -> float:
        """Compute the gap of one image, to the same digits as `Answer.gap`."""
        top = probabilities.topk(min(self.j, len(probabilities))).values.tolist()
        return float(top[0] - top[-1])

    def passing(self, probabilities: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
        """Return which of n images get a second look, to the same digits as `gap` and `passes`."""
        top = probabilities.topk(min(self.j, probabilities.shape[1])).values
        top = top.cpu().double()  # not every device has float64
        return top[:, 0] - top[:, -1] < self.below

    def passes(self, gap: float) -> bool:
        """Return whether an image with this gap(1,j) gets a second look."""
        return gap < self.below


EVERY_IMAGE = Gate(math.inf)
"""Every image gets a second look."""

NO_IMAGE = Gate(0.0)
"""No image gets a second look."""


def _refusal(value: object) -> RelookError:
    return RelookError(f"{_WANTED}; not {value!r} ({EXAMPLES})")
