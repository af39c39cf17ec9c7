"""The gate: which images the classifier is so unsure of that they get a second look."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from relook.arguments import Number, real_number
from relook.errors import RelookError

__all__ = ["AMBIGUOUS", "EVERY_IMAGE", "NO_IMAGE", "Gate", "gap"]

AMBIGUOUS = 0.5
"""An image is ambiguous where gap(1,5) is below this: the poster's choice of images."""

_GAP2 = "gap2:"
_WANTED = "gate must be a gap from 0 to 1, or none"
EXAMPLES = "0.5 is gap(1,5) below 0.5, and gap2:0.6 is gap(1,2) below 0.6"


def gap(probabilities: Float[Tensor, "*n c"], j: int = 5) -> Float[Tensor, "*n"]:
    """Y[c_1] − Y[c_j]: how sure the classifier is. With fewer than j classes, of the last.

    >>> gap = relook.gate.gap(torch.tensor([0.5, 0.25, 0.125, 0.125]), j=2)
    >>> gap.item()
    0.25
    """
    top = probabilities.topk(min(j, probabilities.shape[-1]), dim=-1).values
    return top[..., 0] - top[..., -1]


@dataclass(frozen=True)
class Gate:
    """Images with gap(1,j) below a number get a second look; the others keep their first answer.

    gap(1,5) is the poster's. It depends on how many classes there are: of six the fifth has next to
    nothing, so that gap(1,5) is hardly less than Y[c_1]. gap(1,2), the lead of the first class over
    the second, means the same for any number of classes.

    >>> relook.gate.Gate.of("gap2:0.6")
    Gate(below=0.6, j=2)
    >>> print(relook.gate.Gate.of(0.5))
    gap(1,5) below 0.5

    Attributes:
        below: 0 (no image) to 1; infinity for every image.
        j: 2 or 5.
    """

    below: float
    j: int = 5

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            RelookError: one is out of range.
        """
        if self.j not in (2, 5):
            raise RelookError(f"a gate is by gap(1,2) or gap(1,5), not by gap(1,{self.j})")
        if not 0 <= self.below <= 1 and self.below != math.inf:
            raise _refusal(self.setting)

    @classmethod
    def of(cls, value: Number | str | Gate) -> Gate:
        """The gate that a number (for gap(1,5)), "gap2:" and a number (for gap(1,2)), or "none"
        (for every image) stands for.

        Raises:
            RelookError: it is none of these, or out of range.
        """
        if isinstance(value, Gate):
            return value
        if isinstance(value, str) and value == "none":
            return EVERY_IMAGE
        if isinstance(value, str) and value.endswith("%"):
            raise RelookError(
                f"gate {value} is a share of many images, and an image alone has no rank among "
                f"them: relook evaluate DATA --gate {value} (in Python, "
                "relook.evaluation.gate_of_share) says which gap that is on images of yours; give "
                "that, as in gap2:0.63"
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
        """The gate as a number or a text, for JSON and messages; `of` reads it again."""
        if math.isinf(self.below):
            return "none"
        # No gap is below 0, whichever it is: one spelling for no second look at all.
        return float(self.below) if self.j == 5 or not self.below else f"{_GAP2}{self.below}"

    @property
    def name(self) -> str:
        """What it goes by: "gap(1,2)" or "gap(1,5)"."""
        return f"gap(1,{self.j})"

    def __str__(self) -> str:
        """In words: "gap(1,2) below 0.6", or "any gap"."""
        return "any gap" if math.isinf(self.below) else f"{self.name} below {self.below}"

    def gap(self, probabilities: Float[Tensor, " c"]) -> float:
        """How sure one image's class probabilities are, to the digit what `Answer.gap` says."""
        top = probabilities.topk(min(self.j, len(probabilities))).values.tolist()
        return float(top[0] - top[-1])

    def passes(self, gap: float) -> bool:
        """Whether an image with this gap(1,j) gets a second look."""
        return gap < self.below


EVERY_IMAGE = Gate(math.inf)
"""Every image gets a second look."""

NO_IMAGE = Gate(0.0)
"""No image gets one."""


def _refusal(value: object) -> RelookError:
    return RelookError(f"{_WANTED}; not {value!r} ({EXAMPLES})")
