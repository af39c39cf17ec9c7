"""True probabilities, confidence, and when not to answer: what tuning learns besides the look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relook.errors import RelookError

__all__ = ["LEVEL", "Abstention", "Confidence", "agreement", "tempered"]

LEVEL = 0.95
"""Probability with which the share of wrong answers stays within the risk that was asked for."""

SMALLEST = 1e-12
"""Smallest probability that a logarithm is taken of; smaller ones are set to it."""

Kind = Literal["probability", "agreement", "norm"]


def tempered(probabilities: Float[Tensor, "*n c"], temperature: float) -> Float[Tensor, "*n c"]:
    """Divide the logits by a temperature: p^(1/T), divided by its sum (Guo et al. 2017, "On
    Calibration of Modern Neural Networks", section 4.2). The order of the classes stays the same.

    Args:
        probabilities: (..., C), class probabilities that sum to 1.
        temperature: above 1 for flatter probabilities, below 1 for sharper ones.

    >>> relook.calibration.tempered(torch.tensor([0.75, 0.25]), temperature=0.5)
    tensor([0.9000, 0.1000])
    """
    if temperature == 1:
        return probabilities
    # Divided by the largest first, so that no power vanishes altogether.
    powers = (probabilities / probabilities.amax(dim=-1, keepdim=True)).pow(1 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True)


def agreement(
    answers: Float[Tensor, "*n v c"], weights: Float[Tensor, "*n v"], best: Int[Tensor, " *n"]
) -> Float[Tensor, " *n"]:
    """Compute the share of the answers, by weight, whose most probable class is `best`.

    Args:
        answers: (..., V, C), the first answer and those to the views.
        weights: (..., V), their weights; 0 for views that were not run.
        best: (...,), index of the class that the corrected answer gives.

    >>> answers = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.75, 0.125, 0.125]])
    >>> relook.calibration.agreement(answers, torch.tensor([1.0, 1.0, 2.0]), torch.tensor(0))
    tensor(0.7500)
    """
    same = answers.argmax(dim=-1) == best.unsqueeze(-1)
    return (weights * same).sum(dim=-1) / weights.sum(dim=-1)


@dataclass(frozen=True)
class Confidence:
    """A measure of how far an answer can be relied on; higher is surer.

    Attributes:
        kind: "probability": the highest probability, after the temperature. "agreement": that times
            the share of the views that agree with the answer. "norm": the highest logit divided by
            the p-norm of all logits (Cattelan and Silva 2023, "How to Fix a Broken Confidence
            Estimator", eq. 10); the logits are the logarithms of the probabilities minus their
            mean.
        temperature: temperature of "probability" and "agreement".
        p: order of the norm.

    >>> confidence = relook.calibration.Confidence(temperature=0.5)
    >>> confidence.of(torch.tensor([0.75, 0.25]))
    tensor(0.9000)
    """

    kind: Kind = "probability"
    temperature: float = 1.0
    p: int = 2

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RelookError: the kind is unknown, or a number is not positive.
        """
        if self.kind not in get_args(Kind):
            raise RelookError(f"confidence {self.kind!r} is unknown")
        if not (is_number(self.temperature) and self.temperature > 0):
            raise RelookError(f"a temperature must be above 0, not {self.temperature!r}")
        if not (isinstance(self.p, int) and self.p >= 1):
            raise RelookError(f"the order of a norm must be 1 or more, not {self.p!r}")

    def of(
        self,
        probabilities: Float[Tensor, "*n c"],
        agreement: Float[Tensor, "*n"] | float = 1.0,
    ) -> Float[Tensor, "*n"]:
        """Compute the confidence of answers.

        Args:
            probabilities: (..., C), the corrected probabilities before any temperature.
            agreement: (...,), see `agreement`; 1 for images without a second look.
        """
        if self.kind == "norm":
            logits = probabilities.clamp_min(SMALLEST).log()
            logits = logits - logits.mean(dim=-1, keepdim=True)
            norm: Tensor = torch.linalg.vector_norm(logits, self.p, dim=-1)
            return logits.amax(dim=-1) / norm.clamp_min(SMALLEST)
        highest = tempered(probabilities, self.temperature).amax(dim=-1)
        return highest * agreement if self.kind == "agreement" else highest

    def __str__(self) -> str:
        """Return the measure in words."""
        if self.kind == "norm":
            return f"the highest logit divided by the {self.p}-norm of the logits"
        if self.kind == "agreement":
            return "the probability of the answer times the share of the views that agree with it"
        return "the probability of the answer"


@dataclass(frozen=True)
class Abstention:
    """When not to answer: a threshold for the confidence, and the classes in question below it.

    With a probability of at least `LEVEL` over the choice of the labelled images, at most `risk` of
    the answers above the threshold are wrong, for images like these: the bound of Clopper and
    Pearson (1934), tested for a fixed sequence of coverages (Angelopoulos et al. 2021, "Learn then
    Test"). The set of classes in question holds the true class of an image with a probability of at
    least 1 − `risk` (split conformal prediction; Sadinle, Lei and Wasserman 2019, "Least Ambiguous
    Set-Valued Classifiers with Bounded Error Levels").

    Attributes:
        risk: share of wrong answers allowed among those that are given, between 0 and 1.
        confidence: the measure of confidence.
        threshold: answers with a lower confidence are not to be relied on; None if no threshold
            keeps the promise, so that no answer is.
        likely: classes whose probability, at the temperature of `confidence`, is at least this are
            in question.
        images: number of labelled images by which the threshold was chosen.
        answered: number of them at or above the threshold.
        wrong: number of these whose answer is wrong.

    >>> abstention = relook.calibration.Abstention(
    ...     risk=0.05, confidence=relook.calibration.Confidence(), threshold=0.8, likely=0.1
    ... )
    >>> abstention.abstains(0.75)
    True
    >>> abstention.possible(torch.tensor([0.05, 0.75, 0.2]))
    (1, 2)
    """

    risk: float
    confidence: Confidence
    threshold: float | None
    likely: float
    images: int = 0
    answered: int = 0
    wrong: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RelookError: the risk is not between 0 and 1.
        """
        if not (is_number(self.risk) and 0 < self.risk < 1):
            raise RelookError(
                f"risk is a share of wrong answers, above 0 and below 1 such as 0.05, not "
                f"{self.risk!r}"
            )

    def abstains(self, confidence: float) -> bool:
        """Return whether an answer with this confidence is not to be relied on."""
        return self.threshold is None or confidence < self.threshold

    def possible(self, probabilities: Float[Tensor, " c"]) -> tuple[int, ...]:
        """Return the classes in question, most probable first; at least one.

        Args:
            probabilities: (C,), the corrected probabilities before any temperature.
        """
        values, classes = tempered(probabilities, self.confidence.temperature).sort(descending=True)
        count = max(1, int((values >= self.likely).sum()))
        return tuple(classes[:count].tolist())

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Abstention:
        """Restore the values of `to_json`.

        Raises:
            RelookError: a value is missing, unknown or out of range.
        """
        try:
            numbers = [
                found["likely"],
                *([] if found["threshold"] is None else [found["threshold"]]),
            ]
            if not all(map(is_number, numbers)):
                raise RelookError("threshold and likely must be numbers")
            return cls(**{**found, "confidence": Confidence(**found["confidence"])})
        except (KeyError, TypeError) as error:
            raise RelookError(f"the values of abstention are invalid ({error})") from error


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]
