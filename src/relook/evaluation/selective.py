"""How far answers can be trusted: calibration in equal bins, and which answers to leave out.

These figures depend on the order of all images by their confidence, so that those of parts of a
data set do not add up as `relook.evaluation.Statistics` do. None of them depends on the order of
the rows: images with the same confidence get the mean of their errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from relook.evaluation.rows import Answers, names_of
from relook.evaluation.statistics import BINS, Tally


@dataclass(frozen=True)
class Bin:
    """Images with similar probabilities, one mark of a reliability diagram.

    Attributes:
        images: number of images.
        probability: mean of their highest probabilities, from 0 to 1.
        right: share of them that are right, from 0 to 1.
    """

    images: int
    probability: float
    right: float


@dataclass(frozen=True)
class Quality:
    """How far the probabilities of answers can be trusted; lower is better. None without images.

    >>> evaluation = relook.evaluate(corrector, "photos")
    >>> evaluation.qualities["first look"].aurc
    0.25

    Attributes:
        ece: expected calibration error in bins of equal width, from 0 to 1 (see `Tally.ece`).
        ece_equal_mass: the same in bins of equally many images (see `ece_equal_mass`).
        log_loss: mean of −log(probability of the true class), from 0 up.
        brier: mean Brier score, from 0 to 2.
        aurc: area under the risk–coverage curve, from 0 to 1 (see `aurc`).
    """

    ece: float | None
    ece_equal_mass: float | None
    log_loss: float | None
    brier: float | None
    aurc: float | None

    @classmethod
    def of(cls, answers: Answers, labels: NDArray[Any]) -> Quality:
        """Compute the figures of answers to images with the true classes `labels`, (n,)."""
        tally, right = Tally.of(answers, labels), answers.best == labels
        return cls(
            ece=tally.ece,
            ece_equal_mass=ece_equal_mass(answers.gap(None), right),
            log_loss=tally.mean_log_loss,
            brier=tally.mean_brier,
            aurc=aurc(answers.column("confidence"), right),
        )


@dataclass(frozen=True)
class Unanswered:
    """The images that were not answered, with their sets of classes in question.

    Attributes:
        images: number of images.
        classes: total number of classes in question.
        held: number of images whose true class is among those in question.
    """

    images: int
    classes: int
    held: int

    @classmethod
    def of(cls, answers: Answers, labels: NDArray[Any]) -> Unanswered:
        """Count the abstentions of answers to images with the true classes `labels`, (n,)."""
        abstained = answers.column("abstained").astype(bool)
        return cls(
            images=int(abstained.sum()),
            classes=int(answers.sizes("possible")[abstained].sum()),
            held=int(answers.holds(labels, "possible")[abstained].sum()),
        )

    @property
    def mean_size(self) -> float | None:
        """Mean number of classes in question; None without images."""
        return self.classes / self.images if self.images else None

    @property
    def share_held(self) -> float | None:
        """Share of images whose true class is in question, from 0 to 1; None without images."""
        return self.held / self.images if self.images else None


def classified(table: pyarrow.Table) -> tuple[dict[str, Answers], NDArray[Any]]:
    """Return the answers of a table's images by name, and their true classes, without errors."""
    table = table.filter(pyarrow.compute.is_null(table["error"])).combine_chunks()
    return {name: Answers.of(table, name) for name in names_of(table)}, table["label"].to_numpy()


def qualities(table: pyarrow.Table) -> dict[str, Quality]:
    """Return the `Quality` of all answers in a table of rows, by name."""
    answers, labels = classified(table)
    return {name: Quality.of(own, labels) for name, own in answers.items()}


def aurc(confidence: NDArray[Any], right: NDArray[np.bool_]) -> float | None:
    """Compute the area under the risk–coverage curve, from 0 to 1; lower is better.

    It is the mean over m = 1, …, n of the share of wrong answers among the m most confident ones
    (Geifman, Uziel and El-Yaniv 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers"). Of images that tie it is the expected value over their orders.

    Args:
        confidence: (n,), higher is surer.
        right: (n,), whether each answer is right.

    Returns:
        The area; None without images.
    """
    _, risk = risk_coverage(confidence, right)
    return float(risk.mean()) if len(risk) else None


def risk_coverage(
    confidence: NDArray[Any], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the risk–coverage curve.

    Args:
        confidence: (n,), higher is surer.
        right: (n,), whether each answer is right.

    Returns:
        coverage: (n,), m / n for m = 1, …, n.
        risk: (n,), share of wrong answers among the m most confident ones, from 0 to 1.
    """
    _, correct = _sorted(confidence, right)
    answered = np.arange(1, len(correct) + 1)
    wrong = np.cumsum(1 - correct[::-1])
    return answered / max(1, len(correct)), wrong / answered


def ece_equal_mass(
    probability: NDArray[Any], right: NDArray[np.bool_], bins: int = BINS
) -> float | None:
    """Compute the expected calibration error in bins of equally many images, from 0 to 1.

    Bins of equal width leave most images of a sure network in the last one; these do not (Nguyen
    and O'Connor 2015, "Posterior calibration and exploratory analysis for natural language
    processing models").

    Args:
        probability: (n,), highest probability of each image, from 0 to 1.
        right: (n,), whether each answer is right.
        bins: number of bins; sizes differ by at most one image.

    Returns:
        Mean over the images of |mean probability − share right| of their bin; None without images.
    """
    found = reliability(probability, right, bins)
    off = sum(each.images * abs(each.probability - each.right) for each in found)
    return off / len(right) if len(right) else None


def reliability(
    probability: NDArray[Any], right: NDArray[np.bool_], bins: int = BINS
) -> tuple[Bin, ...]:
    """Return bins of equally many images, from the least to the most probable.

    Where a bin ends among images of the same probability, each side gets their mean share right.

    Args:
        probability: (n,), highest probability of each image, from 0 to 1.
        right: (n,), whether each answer is right.
        bins: number of bins, or n if that is less; sizes differ by at most one image.
    """
    probability, correct = _sorted(probability, right)
    bins = min(bins, len(probability))
    if not bins:
        return ()
    return tuple(
        Bin(len(values), float(values.mean()), float(share.mean()))
        for values, share in zip(
            np.array_split(probability, bins), np.array_split(correct, bins), strict=True
        )
    )


def _sorted(
    values: NDArray[Any], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sort images by a value, and replace whether each is right by the mean of its ties."""
    found, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    means = np.bincount(group.ravel(), weights=right, minlength=len(found)) / np.maximum(sizes, 1)
    return np.repeat(found, sizes).astype(float), np.repeat(means, sizes)
