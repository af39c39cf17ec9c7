"""Statistics of the rows: counts and sums that can be added, and tests of the difference.

The `Statistics` of parts of a data set add up to those of the whole. Accuracies, intervals and
p-values are computed from them.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from relook.calibration import SMALLEST
from relook.evaluation.rows import Answers, is_derived, names_of
from relook.gate import AMBIGUOUS

Counted = TypeVar("Counted", "Tally", "Pairing", "Method", "Statistics")

BINS = 15
"""Number of bins of the calibration error: equal steps of confidence (Guo et al. 2017)."""
STEPS = 20
"""Number of bins of the histograms: gaps in equal steps from 0 to 1."""


@dataclass(frozen=True)
class Tally:
    """Accuracy, calibration, cost and abstention of one method's answers; tallies can be added.

    >>> one = relook.evaluation.Tally(images=10, right=7, right5=9)
    >>> both = one + relook.evaluation.Tally(images=10, right=9, right5=10)
    >>> both.top1, both.top5
    (0.8, 0.95)
    >>> [round(end, 2) for end in both.interval]
    [0.58, 0.92]
    >>> careful = relook.evaluation.Tally(images=10, right=7, abstained=5, answered_wrong=1)
    >>> careful.coverage, careful.risk
    (0.5, 0.2)

    Attributes:
        images: number of images.
        right: number of images whose most probable class is the true one.
        right5: number of images whose true class is among the five most probable.
        brier: sum of the images' Brier scores.
        forwards: total number of forward passes.
        cost: total cost in units of one forward pass at the network's own input size.
        seconds: total time in seconds.
        confident: (BINS,), number of images whose highest probability lies in each bin.
        confidence: (BINS,), sum of these probabilities.
        correct: (BINS,), number of these images that are right.
        log_loss: sum of the images' −log(probability of the true class), natural logarithm, with
            the probability clipped at `SMALLEST`.
        abstained: number of images whose answer is not to be relied on (see `Answer.abstained`).
        answered_wrong: number of the other images whose answer is wrong.
    """

    images: int = 0
    right: int = 0
    right5: int = 0
    brier: float = 0.0
    forwards: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    confident: tuple[int, ...] = (0,) * BINS
    confidence: tuple[float, ...] = (0.0,) * BINS
    correct: tuple[int, ...] = (0,) * BINS
    log_loss: float = 0.0
    abstained: int = 0
    answered_wrong: int = 0

    @classmethod
    def of(cls, answers: Answers, labels: NDArray[Any]) -> Tally:
        """Tally answers to images with the true classes `labels`, (n,)."""
        confidence = answers.gap(None)
        step = np.minimum((confidence * BINS).astype(int), BINS - 1)
        right = answers.best == labels
        abstained = answers.column("abstained").astype(bool)
        true = np.maximum(answers.column("true"), SMALLEST)
        return cls(
            images=len(labels),
            right=int(right.sum()),
            right5=int(answers.holds(labels).sum()),
            brier=float(answers.column("brier").sum()),
            forwards=int(answers.column("forwards").sum()),
            cost=float(answers.column("cost").sum()),
            seconds=float(answers.column("seconds").sum()),
            confident=_histogram(step, BINS),
            confidence=_sums(step, confidence, BINS),
            correct=_histogram(step[right], BINS),
            log_loss=float(-np.log(true).sum()),
            abstained=int(abstained.sum()),
            answered_wrong=int((~right & ~abstained).sum()),
        )

    def __add__(self, other: Tally) -> Tally:
        return _sum(self, other)

    @property
    def top1(self) -> float | None:
        """Share of right answers, from 0 to 1; None without images."""
        return self.right / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of `top1` (score interval, Wilson 1927); None without images."""
        from scipy.stats import binomtest

        if not self.images:
            return None
        found = binomtest(self.right, self.images).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    @property
    def top5(self) -> float | None:
        """Share of images whose true class is among the first five; None without images."""
        return self.right5 / self.images if self.images else None

    @property
    def mean_brier(self) -> float | None:
        """Mean Brier score: sum over the classes of (probability − truth)², from 0 to 2."""
        return self.brier / self.images if self.images else None

    @property
    def mean_log_loss(self) -> float | None:
        """Mean of −log(probability of the true class), from 0 up; None without images."""
        return self.log_loss / self.images if self.images else None

    @property
    def answered(self) -> int:
        """Number of images whose answer can be relied on: all that are not abstained from."""
        return self.images - self.abstained

    @property
    def coverage(self) -> float | None:
        """Share of the images that are answered, from 0 to 1; None without images."""
        return self.answered / self.images if self.images else None

    @property
    def risk(self) -> float | None:
        """Share of wrong answers among those given, from 0 to 1; None if none is."""
        return self.answered_wrong / self.answered if self.answered else None

    @property
    def ece(self) -> float | None:
        """Expected calibration error, from 0 to 1; None without images.

        It is the mean over the images of |confidence − accuracy| of their bin (Guo et al. 2017, "On
        Calibration of Modern Neural Networks", eq. 3).
        """
        if not self.images:
            return None
        off = zip(self.confidence, self.correct, strict=True)
        return sum(abs(confidence - correct) for confidence, correct in off) / self.images


@dataclass(frozen=True)
class Pairing:
    """Right and wrong answers to the same images before and after: a 2×2 table.

    >>> pairing = relook.evaluation.Pairing(both_right=70, fixed=12, broken=3, both_wrong=15)
    >>> pairing.before, pairing.after, pairing.gain
    (0.73, 0.82, 0.09)
    >>> round(pairing.p_value, 3), pairing.verdict
    (0.035, 'helps')

    Attributes:
        both_right: number of images that were right before and are right after.
        fixed: number that were wrong before and are right after.
        broken: number that were right before and are wrong after.
        both_wrong: number that were wrong before and are wrong after.
    """

    both_right: int = 0
    fixed: int = 0
    broken: int = 0
    both_wrong: int = 0

    @classmethod
    def of(cls, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Pairing:
        """Count images by whether they were right before and after, (n,) each."""
        return cls(
            int((before & after).sum()),
            int((after & ~before).sum()),
            int((before & ~after).sum()),
            int((~before & ~after).sum()),
        )

    def __add__(self, other: Pairing) -> Pairing:
        return _sum(self, other)

    @property
    def images(self) -> int:
        """Number of images."""
        return self.both_right + self.fixed + self.broken + self.both_wrong

    @property
    def before(self) -> float | None:
        """Share of images that were right before; None without images."""
        return (self.both_right + self.broken) / self.images if self.images else None

    @property
    def after(self) -> float | None:
        """Share of images that are right after; None without images."""
        return (self.both_right + self.fixed) / self.images if self.images else None

    @property
    def gain(self) -> float | None:
        """Change in accuracy, after − before, from −1 to 1; None without images."""
        return (self.fixed - self.broken) / self.images if self.images else None

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value of McNemar's exact test.

        It is the probability that fixed and broken differ at least as much as here if both are
        equally likely. 1 if no answer changed; None without images.
        """
        from scipy.stats import binomtest

        if not self.images:
            return None
        changed = self.fixed + self.broken
        return float(binomtest(self.fixed, changed).pvalue) if changed else 1.0

    @property
    def mid_p(self) -> float | None:
        """McNemar's mid-p value, which is less conservative than `p_value` if few answers changed.

        Tables exactly as likely as this one count half (Fagerland, Lydersen and Laake 2013, "The
        McNemar test for binary matched-pairs data: mid-p and asymptotic are better than exact
        conditional"). 1 if no answer changed; None without images.
        """
        from scipy.stats import binom

        if self.p_value is None:
            return None
        changed = self.fixed + self.broken
        if not changed:
            return 1.0
        here = float(binom.pmf(self.fixed, changed, 0.5))
        # The mirrored table is as likely; where fixed equals broken it is this one.
        return self.p_value - (here / 2 if self.fixed == self.broken else here)

    @property
    def images_needed(self) -> int | None:
        """Approximate sample size for McNemar's test at 5 % to detect this difference.

        The power is 80 %, for images fixed and broken at the rates seen here (Connor 1987, "Sample
        size for testing differences in proportions for the paired-sample design"); rounded up to
        two digits. None if equally many were fixed and broken.
        """
        if not self.images or self.fixed == self.broken:
            return None
        changed = (self.fixed + self.broken) / self.images
        gain = (self.fixed - self.broken) / self.images
        found: float = (
            1.959964 * changed**0.5 + 0.841621 * (changed - gain**2) ** 0.5
        ) ** 2 / gain**2
        digits: int = 10 ** max(0, math.floor(math.log10(found)) - 1)
        return math.ceil(found / digits) * digits

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of `gain`; None without images.

        It is the Wald interval with one pseudo-image added to fixed and one to broken (Bonett and
        Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions
        Based on Paired Data").
        """
        if not self.images:
            return None
        n = self.images + 2
        up, down = (self.fixed + 1) / n, (self.broken + 1) / n
        half = 1.959964 * ((up + down - (up - down) ** 2) / n) ** 0.5
        return max(-1.0, up - down - half), min(1.0, up - down + half)

    @property
    def verdict(self) -> Literal["helps", "no evidence", "hurts"]:
        """Whether the second look helps or hurts, by McNemar's exact test at 5 %."""
        if self.p_value is None or self.p_value >= 0.05:
            return "no evidence"
        return "helps" if self.fixed > self.broken else "hurts"


@dataclass(frozen=True)
class Method:
    """The answers of one look, compared with the first answers.

    >>> evaluation = relook.evaluate(corrector, "photos", versus=["larger"])
    >>> larger = evaluation.statistics.rivals["larger"]
    >>> larger.tally.top1, larger.pairing.fixed, larger.against.fixed
    (1.0, 1, 1)

    Attributes:
        tally: accuracy, calibration and cost on all images.
        pairing: all images, before and after this look.
        ambiguous: the same for images with gap(1,5) < 0.5 at the first look.
        against: the main corrected answers as "before", this look's as "after".
        notes: what the look had to leave out, with the number of images.
    """

    tally: Tally = field(default_factory=Tally)
    pairing: Pairing = field(default_factory=Pairing)
    ambiguous: Pairing = field(default_factory=Pairing)
    against: Pairing = field(default_factory=Pairing)
    notes: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Method) -> Method:
        return _sum(self, other)


@dataclass(frozen=True)
class Statistics:
    """All counts and sums over the rows of a run; `Statistics` of parts of a run can be added.

    >>> table = relook.evaluate(corrector, "photos").table
    >>> first, second = (relook.evaluation.Statistics.of(table[i : i + 1]) for i in range(2))
    >>> (first + second).before.images, (first + second).corrected
    (2, 2)
    >>> (first + second).labels
    Counter({285: 1, 967: 1})

    Attributes:
        errors: number of images that could not be classified.
        corrected: number of images that got a second look.
        labels: number of images of each class.
        before: the answers before the second look.
        after: the corrected answers.
        rivals: all other answers, by name (see also `other_looks`).
        right_gaps: (STEPS,), histogram of gap(1,2) of the images that were right before; those with
            a small gap are at risk.
        wrong_gaps: (STEPS,), histogram of Y[c_1] − Y[true] of the images that were wrong before;
            those with a small gap may be fixed.
        right_small: number of images in `right_gaps` with a gap ≤ 0.5.
        wrong_small: number of images in `wrong_gaps` with a gap ≤ 0.5.
        changes: number of images whose answer changed, by (true class, class before, class after).
    """

    errors: int = 0
    corrected: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    before: Tally = field(default_factory=Tally)
    after: Method = field(default_factory=Method)
    rivals: dict[str, Method] = field(default_factory=dict)
    right_gaps: tuple[int, ...] = (0,) * STEPS
    wrong_gaps: tuple[int, ...] = (0,) * STEPS
    right_small: int = 0
    wrong_small: int = 0
    changes: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    @classmethod
    def of(cls, table: pyarrow.Table) -> Statistics:
        """Compute the statistics of a table of rows (see `relook.evaluation.rows.schema`).

        The main answers become `after`, and the answers of the other looks `rivals`.
        """
        names = names_of(table)
        assert names.main is not None, "a choice has no main answers"
        errors = table["error"].is_valid()
        table = table.filter(pyarrow.compute.invert(errors)).combine_chunks()
        labels = table["label"].to_numpy()
        answers = {name: Answers.of(table, name) for name in names}
        first, main = answers[names.first], answers[names.main]
        ambiguous = first.gap(5) < AMBIGUOUS
        right = first.best == labels
        lead, wrong_by = first.gap(2)[right], (first.gap(None) - first.column("true"))[~right]
        changed = first.best != main.best

        def method(name: str) -> Method:
            own = answers[name]
            now = own.best == labels
            return Method(
                tally=Tally.of(own, labels),
                pairing=Pairing.of(right, now),
                ambiguous=Pairing.of(right[ambiguous], now[ambiguous]),
                against=Pairing.of(main.best == labels, now),
                notes=own.notes(),
            )

        changes = np.stack([labels, first.best, main.best], axis=1)[changed]
        found, images = np.unique(changes, axis=0, return_counts=True)
        return cls(
            errors=int(pyarrow.compute.sum(errors).as_py() or 0),
            corrected=int(main.column("corrected").sum()),
            labels=_counted(labels),
            before=Tally.of(first, labels),
            after=method(names.main),
            rivals={name: method(name) for name in names.others},
            right_gaps=_histogram(_steps(lead), STEPS),
            wrong_gaps=_histogram(_steps(wrong_by), STEPS),
            right_small=int((lead <= AMBIGUOUS).sum()),
            wrong_small=int((wrong_by <= AMBIGUOUS).sum()),
            changes=Counter(dict(zip(map(tuple, found.tolist()), images.tolist(), strict=True))),
        )

    def __add__(self, other: Statistics) -> Statistics:
        return _sum(self, other)

    @property
    def other_looks(self) -> dict[str, Method]:
        """The rivals that are looks of their own, without those that `is_derived` tells apart."""
        return {name: method for name, method in self.rivals.items() if not is_derived(name)}


def _steps(gaps: NDArray[Any]) -> NDArray[Any]:
    steps: NDArray[Any] = np.minimum((gaps * STEPS).astype(int), STEPS - 1)
    return steps


def _histogram(steps: NDArray[Any], length: int) -> tuple[int, ...]:
    """Count the values in each bin."""
    return tuple(np.bincount(steps, minlength=length).tolist())


def _sums(steps: NDArray[Any], values: NDArray[Any], length: int) -> tuple[float, ...]:
    """Sum the values in each bin."""
    return tuple(np.bincount(steps, weights=values, minlength=length).tolist())


def _counted(values: NDArray[Any]) -> Counter[int]:
    found, images = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), images.tolist(), strict=True)))


def _sum(one: Counted, other: Counted) -> Counted:
    """Add two objects field by field."""
    values = ((getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return type(one)(*(_plus(a, b) for a, b in values))


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, tuple):
        return tuple(x + y for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and not isinstance(a, Counter):
        both = {name: a[name] + b[name] for name in a if name in b}
        return {**a, **b, **both}
    return a + b
