"""What the rows say: accumulators that merge, and the tests of the difference.

`Statistics` of parts computed apart add up to those of the whole; everything else is worked out
from them.
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

from relook.evaluation.rows import Answers, names_of
from relook.gate import AMBIGUOUS

Counted = TypeVar("Counted", "Tally", "Pairing", "Method", "Statistics")

BINS = 15
"""Of the reliability diagram: confidence in equal steps (Guo et al. 2017)."""
STEPS = 20
"""Of the histograms: gaps in equal steps from 0 to 1."""


@dataclass(frozen=True)
class Tally:
    """How good one method's answers are, and what they cost.

    >>> one = relook.evaluation.Tally(images=10, right=7, right5=9)
    >>> both = one + relook.evaluation.Tally(images=10, right=9, right5=10)
    >>> both.top1, both.top5
    (0.8, 0.95)
    >>> [round(end, 2) for end in both.interval]
    [0.58, 0.92]

    Attributes:
        images, right, right5: how many; top-1 right; the true class among the first five.
        brier: sum of the images' Brier scores.
        forwards, cost, seconds: sums.
        confident: (BINS,), images whose first probability is in each step.
        confidence: (BINS,), sum of those probabilities.
        correct: (BINS,), how many of them are right.
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

    @classmethod
    def of(cls, answers: Answers, labels: NDArray[Any]) -> Tally:
        """Of the answers to images of these classes."""
        confidence = answers.gap(None)
        step = np.minimum((confidence * BINS).astype(int), BINS - 1)
        right = answers.best == labels
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
        )

    def __add__(self, other: Tally) -> Tally:
        return _sum(self, other)

    @property
    def top1(self) -> float | None:
        """Share of right answers; None of no images."""
        return self.right / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of `top1` (Wilson 1927, the score interval of a proportion)."""
        from scipy.stats import binomtest

        if not self.images:
            return None
        found = binomtest(self.right, self.images).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    @property
    def top5(self) -> float | None:
        """Share with the true class among the first five."""
        return self.right5 / self.images if self.images else None

    @property
    def mean_brier(self) -> float | None:
        """Brier score: mean of sum over the classes of (probability − truth)²."""
        return self.brier / self.images if self.images else None

    @property
    def ece(self) -> float | None:
        """Expected calibration error: mean over the images of |confidence − accuracy| of the
        step (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3).
        """
        if not self.images:
            return None
        off = zip(self.confidence, self.correct, strict=True)
        return sum(abs(confidence - correct) for confidence, correct in off) / self.images


@dataclass(frozen=True)
class Pairing:
    """The same images before and after: the 2×2 table.

    >>> pairing = relook.evaluation.Pairing(both_right=70, fixed=12, broken=3, both_wrong=15)
    >>> pairing.before, pairing.after, pairing.gain
    (0.73, 0.82, 0.09)
    >>> round(pairing.p_value, 3), pairing.verdict
    (0.035, 'helps')

    Attributes:
        both_right, fixed, broken, both_wrong: images; fixed were wrong before and right after.
    """

    both_right: int = 0
    fixed: int = 0
    broken: int = 0
    both_wrong: int = 0

    @classmethod
    def of(cls, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Pairing:
        """Of images that were and are right."""
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
        """How many."""
        return self.both_right + self.fixed + self.broken + self.both_wrong

    @property
    def before(self) -> float | None:
        """Share that was right before; None of no images."""
        return (self.both_right + self.broken) / self.images if self.images else None

    @property
    def after(self) -> float | None:
        """Share that is right after."""
        return (self.both_right + self.fixed) / self.images if self.images else None

    @property
    def gain(self) -> float | None:
        """After − before."""
        return (self.fixed - self.broken) / self.images if self.images else None

    @property
    def p_value(self) -> float | None:
        """McNemar's exact test, two-sided: were fixed and broken equally likely, how often would
        they differ at least so much? 1 where nothing changed; None of no images.
        """
        from scipy.stats import binomtest

        if not self.images:
            return None
        changed = self.fixed + self.broken
        return float(binomtest(self.fixed, changed).pvalue) if changed else 1.0

    @property
    def mid_p(self) -> float | None:
        """McNemar's mid-p (Fagerland, Lydersen and Laake 2013, "The McNemar test for binary
        matched-pairs data: mid-p and asymptotic are better than exact conditional"): as `p_value`,
        but tables as likely as this one count half. It is less cautious with few changed answers.
        1 where nothing changed; None of no images.
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
        """About how many images McNemar's test at 5 % would need to find a difference with a power
        of 80 %, were images fixed and broken at just these rates (Connor 1987, "Sample size for
        testing differences in proportions for the paired-sample design"); rounded to two digits.
        None where as many were fixed as broken.
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
        """95 % interval of the gain: Wald's after one pseudo-image was added to fixed and to
        broken (Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of
        Binomial Proportions Based on Paired Data").
        """
        if not self.images:
            return None
        n = self.images + 2
        up, down = (self.fixed + 1) / n, (self.broken + 1) / n
        half = 1.959964 * ((up + down - (up - down) ** 2) / n) ** 0.5
        return max(-1.0, up - down - half), min(1.0, up - down + half)

    @property
    def verdict(self) -> Literal["helps", "no evidence", "hurts"]:
        """By McNemar's exact test at 5 %."""
        if self.p_value is None or self.p_value >= 0.05:
            return "no evidence"
        return "helps" if self.fixed > self.broken else "hurts"


@dataclass(frozen=True)
class Method:
    """One look's answers against the first ones.

    >>> evaluation = relook.evaluate(corrector, "photos", versus=["larger"])
    >>> larger = evaluation.statistics.rivals["larger"]
    >>> larger.tally.top1, larger.pairing.fixed, larger.against.fixed
    (1.0, 1, 1)

    Attributes:
        tally: over all images.
        pairing: the same, before and after.
        ambiguous: over those with gap(1,5) < 0.5 at the first look.
        against: the corrected answers as "before", these as "after": who is better of the two.
        notes: what the look did without, and on how many images.
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
    """Everything that is counted. `Statistics.of(rows_a) + Statistics.of(rows_b)` is that of both.

    >>> table = relook.evaluate(corrector, "photos").table
    >>> first, second = (relook.evaluation.Statistics.of(table[i : i + 1]) for i in range(2))
    >>> (first + second).before.images, (first + second).corrected
    (2, 2)
    >>> (first + second).labels
    Counter({285: 1, 967: 1})

    Attributes:
        errors: images that could not be classified.
        corrected: images that got a second look.
        labels: images of each class.
        before: the first answers.
        after: the corrected ones.
        rivals: other looks, by name.
        right_gaps: (STEPS,), gap(1,2) of the images first classified rightly: small is at risk.
        wrong_gaps: (STEPS,), Y[c_1] − Y[true] of those classified wrongly: small can be fixed.
        right_small, wrong_small: how many of each are ≤ 0.5.
        changes: how often an image of a class (true, before, after) changed its answer.
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
        """Of the rows of a table, see `relook.evaluation.rows.schema`; main answers are its `after`
        and all others its `rivals`.
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


def _steps(gaps: NDArray[Any]) -> NDArray[Any]:
    steps: NDArray[Any] = np.minimum((gaps * STEPS).astype(int), STEPS - 1)
    return steps


def _histogram(steps: NDArray[Any], length: int) -> tuple[int, ...]:
    """How often each step comes."""
    return tuple(np.bincount(steps, minlength=length).tolist())


def _sums(steps: NDArray[Any], values: NDArray[Any], length: int) -> tuple[float, ...]:
    """The sum of the values at each step."""
    return tuple(np.bincount(steps, weights=values, minlength=length).tolist())


def _counted(values: NDArray[Any]) -> Counter[int]:
    found, images = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), images.tolist(), strict=True)))


def _sum(one: Counted, other: Counted) -> Counted:
    """Both, field by field."""
    values = ((getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return type(one)(*(_plus(a, b) for a, b in values))


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, tuple):
        return tuple(x + y for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and not isinstance(a, Counter):
        both = {name: a[name] + b[name] for name in a if name in b}
        return {**a, **b, **both}
    return a + b
