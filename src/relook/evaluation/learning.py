"""Learning from labelled images: the weights of views, the gate, a temperature, and a threshold.

Everything is computed from the answers to single views, which are asked once per image. The answers
of any weighted sum of views, asked in turn or not, under any gate, follow from these, and are those
that a `relook.Corrector` would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from relook.calibration import LEVEL, SMALLEST, Abstention, Confidence, agreement, tempered
from relook.correction import settled
from relook.evaluation.rows import FIRST
from relook.evaluation.statistics import Pairing
from relook.gate import Gate, gap
from relook.looks.learnt import Judgement

FOLDS = 5
"""Number of folds of the cross-validation."""

STRENGTHS = (16.0, 4.0, 1.0)
"""How strongly learnt weights are drawn to those of the preset: this times the squared distance,
divided by the number of images, is added to the log loss."""

SURE = 2.5
"""A candidate is taken if its mean gain in log loss over the preset is more than this many standard
errors. The best of many candidates looks better than it is, so that two would not be enough."""

_LEARNT_BELOW = 0.75
"""Weights are learnt on images with gap(1,2) below this, or all if fewer than `_FEW` are."""
_FEW = 20
_LEAST = 0.1
"""Parts with a smaller learnt weight are dropped; the first answer weighs 1."""
_MOST_PARTS = 6
_MOST_IMAGES = 3000
"""Weights are learnt on at most this many images: a few numbers need no more."""
_CHUNK = 4_000_000
"""Maximum number of probabilities in a batch of the computation."""

_STARTS = (0.5, 0.8)
"""Coverages at which the search for a threshold starts, each with an equal share of the error."""
_STEPS = 40
"""Number of coverages that are tested for a threshold, in equal steps."""
_SHARE = 1 / 3
"""Share of the images that is learnt from if a risk is given; the threshold needs fresh images."""

_NORMS = (2, 4, 6, 8)
"""Orders of the p-norm that are tried as a measure of confidence."""

Parts = tuple[tuple[int, float], ...]
"""Indices of parts and their weights, in the order in which they are asked."""


@dataclass(frozen=True)
class Kept:
    """The answers to single views of n images.

    A part is one look. Its views on an image fill some of its columns; they come in batches, after
    each of which a look that asks in turn may stop.

    Attributes:
        labels: (n,), the true classes.
        first: (n, C), the first answers.
        first_cost: (n,), cost of the first look.
        answers: (n, V, C), the answers to the views.
        weights: (n, V), their weights within their look.
        costs: (n, V), cost of the views; 0 where an image has no such view.
        maps: (n, P), cost of what a look spends before its views are asked.
        batches: for each part, the columns of each of its batches.
    """

    labels: Int[Tensor, " n"]
    first: Float[Tensor, "n c"]
    first_cost: Float[Tensor, " n"]
    answers: Float[Tensor, "n v c"]
    weights: Float[Tensor, "n v"]
    costs: Float[Tensor, "n v"]
    maps: Float[Tensor, "n p"]
    batches: tuple[tuple[tuple[int, ...], ...], ...]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, table: pyarrow.Table, parts: Sequence[str]) -> Kept:
        """Read the answers from the rows of a tuning, in their order, without rows with errors.

        Args:
            table: rows whose answers hold their views (see `relook.evaluation.rows.Asked`).
            parts: names of the answers of the parts.
        """
        table = table.filter(pyarrow.compute.is_null(table["error"])).combine_chunks()
        answers = table["answers"].combine_chunks()
        labels = torch.tensor(table["label"].to_numpy(), dtype=torch.int64)
        first = pyarrow.compute.struct_field(answers, FIRST)
        y = _floats(pyarrow.compute.struct_field(first, ["asked", "probabilities"]))
        y = y.reshape(len(labels), -1)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        maps = torch.zeros(len(labels), len(parts))
        batches: list[tuple[tuple[int, ...], ...]] = []
        for place, name in enumerate(parts):
            found = pyarrow.compute.struct_field(answers, name)
            layout = _read_part(found, y.shape[1])
            asked = torch.zeros(len(labels))
            of_part: list[tuple[int, ...]] = []
            for views in layout:
                of_part.append(tuple(range(len(columns), len(columns) + len(views))))
                columns += views
                asked += torch.stack([costs for _, _, costs in views]).sum(dim=0)
            batches.append(tuple(of_part))
            total = pyarrow.compute.fill_null(pyarrow.compute.struct_field(found, "cost"), 0.0)
            maps[:, place] = (torch.tensor(total.to_numpy(zero_copy_only=False)) - asked).clamp_min(
                0
            )
        none = y.new_zeros(len(labels), 0)
        stacked = [torch.stack(some, dim=1) for some in zip(*columns, strict=True)]
        views_, weights, costs = stacked or (y.new_zeros(len(labels), 0, y.shape[1]), none, none)
        first_cost = pyarrow.compute.struct_field(first, "cost").to_numpy(zero_copy_only=False)
        return cls(
            labels,
            y,
            torch.tensor(first_cost, dtype=torch.float32),
            views_,
            weights,
            costs,
            maps,
            tuple(batches),
        )

    def some(self, chosen: Tensor) -> Kept:
        """Return the answers for some of the images, by index or flag."""
        return replace(
            self,
            **{
                name: getattr(self, name)[chosen]
                for name in ("labels", "first", "first_cost", "answers", "weights", "costs", "maps")
            },
        )

    def gaps(self, j: int) -> Float[Tensor, " n"]:
        """gap(1,j) of the first answers."""
        return gap(self.first, j)

    def passes(self, gate: Gate) -> Bool[Tensor, " n"]:
        """Whether each image gets a second look."""
        return self.gaps(gate.j) < gate.below

    def corrected(self, parts: Parts, in_turn: bool) -> Corrected:
        """Compute the answers of a weighted sum of parts to all images, as a Corrector would."""
        n = len(self)
        raw, cost, agreed = self.first.clone(), self.first_cost.clone(), torch.ones(n)
        batches = [batch for part, _ in parts for batch in self.batches[part]]
        factor = {
            column: weight
            for part, weight in parts
            for batch in self.batches[part]
            for column in batch
        }
        columns = [column for batch in batches for column in batch]
        for part, _ in parts:
            cost += self.maps[:, part]
        if not columns:
            return Corrected(raw, cost, agreed)
        present = self.costs[:, columns] > 0
        patterns, group = torch.unique(present, dim=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            kept = [c for c, there in zip(columns, pattern.tolist(), strict=True) if there]
            steps = [[c for c in batch if c in set(kept)] for batch in batches]
            steps = [step for step in steps if step]
            if not steps:
                continue
            factors = torch.tensor([factor[c] for c in kept])
            members = torch.nonzero(group == number).flatten()
            size = max(1, _CHUNK // ((len(kept) + 1) * self.first.shape[1]))
            for some in members.split(size):
                found = self._in_steps(some, kept, [len(step) for step in steps], factors, in_turn)
                raw[some], agreed[some] = found[0], found[1]
                cost[some] += found[2]
        return Corrected(raw, cost, agreed)

    def _in_steps(
        self, some: Tensor, kept: list[int], steps: list[int], factors: Tensor, in_turn: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute answers, agreement and cost of images that have the same views."""
        ones = torch.ones(len(some), 1)
        answers = torch.cat([self.first[some].unsqueeze(1), self.answers[some][:, kept]], dim=1)
        weights = torch.cat([ones, factors * self.weights[some][:, kept]], dim=1)
        costs = self.costs[some][:, kept]
        ends = np.cumsum(steps).tolist()
        used = torch.full((len(some),), ends[-1])
        if in_turn:
            going = torch.arange(len(some))
            for end in ends[:-1]:
                left = weights[going, 1 + end :].sum(dim=1)
                spread = weights[going, : 1 + end].unsqueeze(-1)
                stop = settled(
                    answers[going, : 1 + end],
                    spread.expand(-1, -1, answers.shape[2]),
                    left.unsqueeze(-1).expand(-1, answers.shape[2]),
                )
                used[going[stop]] = end
                going = going[~stop]
        asked = torch.arange(1 + ends[-1]) <= used.unsqueeze(1)
        weights = weights * asked
        total = (weights.unsqueeze(-1) * answers).sum(dim=1)
        raw = total / total.sum(dim=1, keepdim=True)
        agreed = agreement(answers, weights, raw.argmax(dim=1))
        return raw, agreed, (costs * asked[:, 1:]).sum(dim=1)


@dataclass(frozen=True)
class Corrected:
    """Answers to n images.

    Attributes:
        raw: (n, C), probabilities before any temperature.
        cost: (n,), cost in forward passes at the network's own input size.
        agreed: (n,), share of the views that agree with the answer.
    """

    raw: Float[Tensor, "n c"]
    cost: Float[Tensor, " n"]
    agreed: Float[Tensor, " n"]

    def under(self, kept: Kept, gate: Gate) -> Corrected:
        """Return the answers if only images that pass the gate get the second look."""
        passing = kept.passes(gate)
        return Corrected(
            torch.where(passing.unsqueeze(1), self.raw, kept.first),
            torch.where(passing, self.cost, kept.first_cost),
            torch.where(passing, self.agreed, torch.ones(())),
        )


@dataclass(frozen=True)
class Way:
    """A way to take second looks: weighted parts under a gate.

    Attributes:
        parts: indices and weights of the parts, in order; empty for no second look.
        gate: which images get the second look.
        in_turn: whether views are asked in turn.
    """

    parts: Parts
    gate: Gate
    in_turn: bool = True


@dataclass(frozen=True)
class Tried:
    """A way with its cross-validated results on the images of the choice.

    Attributes:
        way: the way; if its weights were learnt, those learnt on all images.
        learnt: strength by which its weights were drawn to the preset's; None if they are fixed.
        log_loss: mean log loss, each image judged by what was learnt from the others.
        cost: mean cost per image.
        pairing: fixed and broken answers, against the first look.
        sure: gain in log loss over the preset, in standard errors.
    """

    way: Way
    learnt: float | None
    log_loss: float
    cost: float
    pairing: Pairing
    sure: float


@dataclass(frozen=True)
class Lesson:
    """What was learnt.

    Attributes:
        way: the chosen way.
        after: what was learnt about the corrected answers.
        first: the same about the first answers.
        tried: all ways, the chosen one first, then by log loss.
        fell_back: whether the preset costs too much, so that a cheaper form of it took its place.
    """

    way: Way
    after: Judgement
    first: Judgement
    tried: tuple[Tried, ...]
    fell_back: bool = False


def learn(
    kept: Kept,
    preset: Sequence[Way],
    gates: Sequence[Gate],
    max_cost: float | None = None,
    risk: float | None = None,
) -> Lesson:
    """Choose a way, and learn a temperature, a measure of confidence and a threshold for it.

    The choice is made by cross-validated log loss after one temperature. The preset is kept unless
    another way is better by more than `SURE` standard errors and right at least as often.

    Args:
        kept: the answers to single views of labelled images.
        preset: the preset, and what to fall back on, in this order, if it costs too much.
        gates: gates to try.
        max_cost: maximum of the mean cost per image; None for the preset's.
        risk: share of wrong answers allowed among those given; None for no threshold.
    """
    order = torch.tensor(np.random.default_rng(0).permutation(len(kept)), dtype=torch.int64)
    share = len(kept) if risk is None else math.ceil(_SHARE * len(kept))
    learning, fresh = kept.some(order[:share]), kept.some(order[share:])
    course = _Course(learning)
    way, tried, fell_back = course.choose(preset, gates, max_cost)
    # The threshold's images may take part in these, as the order of the classes does not change.
    of_first = fit_temperature(kept.first, kept.labels)
    corrected = kept.some(kept.passes(way.gate))
    raw = corrected.corrected(way.parts, way.in_turn).raw
    of_corrected = fit_temperature(raw, corrected.labels, around=of_first)

    def judge(way: Way, temperature: float) -> Judgement:
        answers = learning.corrected(way.parts, way.in_turn).under(learning, way.gate)
        own = fit_temperature(answers.raw, learning.labels)
        confidence = choose_confidence(answers, learning.labels, own)
        abstention = None
        if risk is not None:
            unseen = fresh.corrected(way.parts, way.in_turn).under(fresh, way.gate)
            abstention = find_threshold(unseen, fresh.labels, confidence, risk)
        return Judgement(temperature, confidence, abstention)

    of_none = judge(Way((), Gate(0.0)), of_first)
    return Lesson(way, judge(way, of_corrected), of_none, tried, fell_back)


@dataclass(frozen=True)
class _Course:
    """The cross-validated choice of a way."""

    kept: Kept

    @cached_property
    def folds(self) -> list[Tensor]:
        """Flags of the images of each fold; the images are in random order already."""
        place = torch.arange(len(self.kept)) % FOLDS
        return [place == fold for fold in range(min(FOLDS, len(self.kept)))]

    def choose(
        self, preset: Sequence[Way], gates: Sequence[Gate], max_cost: float | None
    ) -> tuple[Way, tuple[Tried, ...], bool]:
        """Return the chosen way, all ways tried, and whether the preset costs too much."""
        none = Way((), Gate(0.0))
        right = self.kept.first.argmax(dim=1) == self.kept.labels
        found: dict[Way, tuple[float | None, Tensor, float, Pairing]] = {}
        for way, strength, losses, answers in self._all(preset, gates):
            now = answers.raw.argmax(dim=1) == self.kept.labels
            pairing = Pairing.of(right.numpy(), now.numpy())
            cost = float(answers.cost.mean())
            if strength is not None:  # what is saved may cost more than the folds' weights do
                whole = self.kept.corrected(way.parts, way.in_turn).under(self.kept, way.gate)
                cost = float(whole.cost.mean())
            found.setdefault(way, (strength, losses, cost, pairing))
        most = found[preset[0]][2] if max_cost is None else max_cost
        affordable = [way for way in found if found[way][2] <= most + 1e-6]
        base = next((way for way in preset if way in affordable), none)
        tried = {}
        for way in affordable:
            strength, losses, cost, pairing = found[way]
            gain = _in_errors(found[base][1] - losses)
            tried[way] = Tried(way, strength, float(losses.mean()), cost, pairing, gain)
        balance = tried[base].pairing
        better = [
            one
            for one in tried.values()
            if one.sure > SURE
            and one.pairing.fixed - one.pairing.broken >= balance.fixed - balance.broken
        ]
        best = min(better, key=lambda one: one.log_loss, default=tried[base])
        others = sorted(
            (one for one in tried.values() if one is not best), key=lambda one: one.log_loss
        )
        return best.way, (best, *others), base != preset[0]

    def _all(
        self, preset: Sequence[Way], gates: Sequence[Gate]
    ) -> Iterator[tuple[Way, float | None, Tensor, Corrected]]:
        """Yield each way with its strength, and its cross-validated losses and answers."""
        kept = self.kept
        nothing = kept.corrected((), False)
        yield Way((), Gate(0.0)), None, self._losses(nothing, Gate(0.0)), nothing
        in_turn = preset[0].in_turn
        fixed = [way.parts for way in preset]
        fixed += [((part, 1.0),) for part in range(len(kept.batches))]
        for parts in dict.fromkeys(fixed):
            answers = kept.corrected(parts, in_turn)
            own = [way.gate for way in preset if way.parts == parts]
            for gate in dict.fromkeys((*own, *gates)):
                under = answers.under(kept, gate)
                yield Way(parts, gate, in_turn), None, self._losses(under, gate), under
        if len(kept) < FOLDS * 2 or not kept.answers.shape[1]:
            return
        for strength in STRENGTHS:
            yield from self._learnt(preset[0], gates, strength)

    def _learnt(
        self, preset: Way, gates: Sequence[Gate], strength: float
    ) -> Iterator[tuple[Way, float | None, Tensor, Corrected]]:
        """Yield the ways with weights learnt at one strength: all parts, and fewer of them."""
        kept = self.kept
        final = learn_weights(kept, preset.parts, strength)
        folds = [learn_weights(kept.some(~fold), preset.parts, strength) for fold in self.folds]
        for count in range(1, len(final) + 1):
            parts = final[:count]
            whole = kept.corrected(parts, preset.in_turn)
            raw, cost, agreed = whole.raw.clone(), whole.cost.clone(), whole.agreed.clone()
            for fold, of_fold in zip(self.folds, folds, strict=True):
                own = kept.some(fold).corrected(of_fold[:count], preset.in_turn)
                raw[fold], cost[fold], agreed[fold] = own.raw, own.cost, own.agreed
            answers = Corrected(raw, cost, agreed)
            for gate in dict.fromkeys((preset.gate, *gates)):
                under = answers.under(kept, gate)
                losses = self._losses(under, gate)
                yield Way(parts, gate, preset.in_turn), strength, losses, under

    @cached_property
    def of_first(self) -> list[float]:
        """Temperature of the first answers, fitted without each fold."""
        kept = self.kept
        return [fit_temperature(kept.first[~fold], kept.labels[~fold]) for fold in self.folds]

    def _losses(self, answers: Corrected, gate: Gate) -> Float[Tensor, " n"]:
        """Log loss of each image, after temperatures fitted on the other folds: one for corrected
        answers, one for the others.
        """
        losses, passing = torch.zeros(len(self.kept)), self.kept.passes(gate)
        for fold, of_first in zip(self.folds, self.of_first, strict=True):
            others = passing & ~fold
            own = fit_temperature(answers.raw[others], self.kept.labels[others], around=of_first)
            for some, temperature in ((fold & passing, own), (fold & ~passing, of_first)):
                losses[some] = log_losses(answers.raw[some], self.kept.labels[some], temperature)
        return losses


def log_losses(
    probabilities: Float[Tensor, "n c"], labels: Int[Tensor, " n"], temperature: float = 1.0
) -> Float[Tensor, " n"]:
    """Compute −log of the probability of the true class, after a temperature."""
    true = tempered(probabilities, temperature).gather(1, labels.unsqueeze(1)).squeeze(1)
    return -true.clamp_min(SMALLEST).log()


def fit_temperature(
    probabilities: Float[Tensor, "n c"], labels: Int[Tensor, " n"], around: float = 1.0
) -> float:
    """Find the temperature with the lowest log loss (Guo et al. 2017, section 4.2).

    A weak prior, log T normal around log `around` with a deviation of 0.5, keeps it finite where
    few images, all of them right, would call for probabilities of 1.

    Args:
        probabilities: (n, C), answers before any temperature.
        labels: (n,), the true classes.
        around: the temperature without any images.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return around
    logs = probabilities.double().clamp_min(1e-30).log()
    true = logs.gather(1, labels.unsqueeze(1)).squeeze(1)

    def loss(log_t: float) -> float:
        sharper = math.exp(-log_t)
        fit = (torch.logsumexp(sharper * logs, dim=1) - sharper * true).sum()
        return float(fit) + 2 * (log_t - math.log(around)) ** 2

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-3})
    return float(math.exp(found.x))


def learn_weights(kept: Kept, preset: Parts, strength: float) -> Parts:
    """Learn the weights of parts together with one temperature, drawn to those of the preset.

    The log loss of the unsure images is minimised over weights of 0 or more (Shanmugam et al. 2021,
    "Better Aggregation in Test-Time Augmentation"), plus `strength` times the squared distance to
    the preset's weights, divided by the number of images. Without the temperature, weights would
    shrink only because averaging makes probabilities flatter.

    Returns:
        The parts with weights of at least 0.1: those of the preset in its order, then the others by
        weight.
    """
    from scipy.optimize import minimize

    unsure = kept.gaps(2) < _LEARNT_BELOW
    some = kept.some(unsure) if unsure.sum() >= _FEW else kept
    some = some.some(torch.arange(min(len(some), _MOST_IMAGES)))
    start = np.zeros(len(kept.batches))
    for part, weight in preset:
        start[part] = weight
    columns = [[c for batch in part for c in batch] for part in kept.batches]
    first = some.first.double()
    weights = torch.stack([some.weights[:, own].sum(dim=1) for own in columns], dim=1).double()
    sums = torch.stack(
        [(some.weights[:, own].unsqueeze(-1) * some.answers[:, own]).sum(dim=1) for own in columns],
        dim=1,
    ).double()
    labels, origin = some.labels.unsqueeze(1), torch.tensor(start)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        x = torch.tensor(values, requires_grad=True)
        factors, sharper = x[:-1], (-x[-1]).exp()
        total = first + torch.einsum("p,npc->nc", factors, sums)
        share = (total / (1 + weights @ factors).unsqueeze(1)).clamp_min(1e-30).log() * sharper
        fit = (torch.logsumexp(share, dim=1) - share.gather(1, labels).squeeze(1)).mean()
        fit = fit + strength * (factors - origin).square().sum() / len(some)
        fit.backward()
        assert x.grad is not None
        return float(fit.detach()), x.grad.numpy()

    with torch.enable_grad():
        found = minimize(
            loss,
            np.append(start, 0.0),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 3.0)] * len(start) + [(-2.5, 2.5)],
            options={"maxiter": 80},
        )
    learnt = {part: round(float(x), 3) for part, x in enumerate(found.x[:-1]) if x >= _LEAST}
    order = {part: place for place, (part, _) in enumerate(preset)}
    ranked = sorted(learnt, key=lambda part: (order.get(part, len(order)), -learnt[part]))
    return tuple((part, learnt[part]) for part in ranked[:_MOST_PARTS])


def choose_confidence(
    answers: Corrected, labels: Int[Tensor, " n"], temperature: float
) -> Confidence:
    """Choose the measure of confidence that ranks right answers before wrong ones best.

    That is the one with the smallest area under the risk–coverage curve. The probability of the
    answer is kept unless another measure is better by more than `SURE` standard errors of the
    difference per image, each judged with a temperature that was fitted on other images.
    """
    right = (answers.raw.argmax(dim=1) == labels).numpy()
    default = Confidence(temperature=temperature)
    if right.all() or len(right) < 2 * FOLDS:
        return default
    others = [
        Confidence("agreement", temperature),
        *(Confidence("norm", temperature, p) for p in _NORMS),
    ]
    place = torch.arange(len(labels)) % FOLDS
    temperatures = torch.ones(len(labels))
    for fold in range(FOLDS):
        own = place != fold
        temperatures[~own] = fit_temperature(answers.raw[own], labels[own])

    def parts(measure: Confidence) -> NDArray[np.float64]:
        found = torch.ones(len(labels))
        for fold in range(FOLDS):
            of_fold = place == fold
            judged = replace(measure, temperature=float(temperatures[of_fold][0]))
            found[of_fold] = judged.of(answers.raw[of_fold], answers.agreed[of_fold])
        return aurc_parts(found.double().numpy(), right)

    own_parts = parts(default)
    found = {measure: parts(measure) for measure in others}
    better = [
        measure for measure in others if _in_errors(torch.tensor(own_parts - found[measure])) > SURE
    ]
    return min(better, key=lambda measure: float(found[measure].mean()), default=default)


def aurc_parts(confidence: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute what each image adds to the area under the risk–coverage curve, times n.

    A wrong answer at rank r counts in the shares of wrong answers among the m most confident for
    all m ≥ r: it adds the sum of 1/m. Images of equal confidence add their mean.

    Args:
        confidence: (n,), higher is surer.
        right: (n,), whether each answer is right.
    """
    n = len(right)
    order = np.argsort(-confidence, kind="stable")
    added = np.empty(n)
    added[order] = np.cumsum((1 / np.arange(1, n + 1))[::-1])[::-1]
    _, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=added) / size
    parts: NDArray[np.float64] = np.where(right, 0.0, mean[group])
    return parts


def find_threshold(
    answers: Corrected, labels: Int[Tensor, " n"], confidence: Confidence, risk: float
) -> Abstention:
    """Find the lowest threshold that keeps the share of wrong answers within the risk.

    For each coverage in equal steps, "more than `risk` of these answers are wrong" is tested by the
    exact binomial test, which is the bound of Clopper and Pearson (1934). The tests are made in two
    sequences fixed beforehand, which start at coverages of 50 and 80 % with half of the allowed
    error each and go on upwards until one fails; a sequence that reaches the start of the next adds
    its error to that (Angelopoulos et al. 2021, "Learn then Test: Calibrating Predictive Algorithms
    to Achieve Risk Control", section 4). The promise is exact for images that nothing was learnt
    from.

    Args:
        answers: answers to images that nothing was learnt from.
        labels: (n,), their true classes.
        confidence: the measure.
        risk: share of wrong answers allowed among those given.
    """
    from scipy.stats import binom

    n = len(labels)
    found = confidence.of(answers.raw, answers.agreed).double().numpy()
    wrong = (answers.raw.argmax(dim=1) != labels).numpy()
    surest = np.sort(found)[::-1]
    threshold: float | None = None
    answered = mistakes = 0
    starts = {round(start * _STEPS) for start in _STARTS}
    allowed = 0.0
    for step in range(1, _STEPS + 1):
        if step in starts:
            allowed += (1 - LEVEL) / len(starts)
        count = round(step * n / _STEPS)
        if not allowed or not count:
            continue
        # Images with equal confidence are answered together, or not at all.
        given = found >= surest[count - 1]
        if binom.cdf(wrong[given].sum(), given.sum(), risk) <= allowed:
            threshold = float(surest[count - 1])
            answered, mistakes = int(given.sum()), int(wrong[given].sum())
        else:
            allowed = 0.0
    true = tempered(answers.raw, confidence.temperature).gather(1, labels.unsqueeze(1)).flatten()
    # Split conformal prediction: rank ⌊risk (n + 1)⌋ of the true classes' probabilities.
    rank = math.floor(risk * (n + 1))
    likely = float(true.sort().values[rank - 1]) if rank >= 1 else 0.0
    return Abstention(risk, confidence, threshold, likely, n, answered, mistakes)


def _in_errors(gains: Tensor) -> float:
    """Mean of paired gains in standard errors of it."""
    if len(gains) < 2:
        return 0.0
    error = float(gains.double().std()) / math.sqrt(len(gains))
    return float(gains.double().mean()) / error if error else 0.0


def _floats(values: pyarrow.ListArray) -> Tensor:
    return torch.tensor(values.flatten().to_numpy(zero_copy_only=False), dtype=torch.float32)


def _read_part(
    found: pyarrow.StructArray, classes: int
) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """Read the views of one part: answers, weights and costs of each view of each batch."""
    asked = pyarrow.compute.struct_field(found, "asked")
    weights, costs, batches = (
        [values or [] for values in pyarrow.compute.struct_field(asked, name).to_pylist()]
        for name in ("weights", "costs", "batches")
    )
    flat = _floats(pyarrow.compute.struct_field(asked, "probabilities")).reshape(-1, classes)
    n = len(found)
    layout: list[list[tuple[Tensor, Tensor, Tensor]]] = []
    start = 0
    for image, sizes in enumerate(batches):
        view = 0
        for batch, size in enumerate(sizes):
            if batch == len(layout):
                layout.append([])
            for place in range(size):
                if place == len(layout[batch]):
                    none = torch.zeros(n, classes), torch.zeros(n), torch.zeros(n)
                    layout[batch].append(none)
                of_answers, of_weights, of_costs = layout[batch][place]
                of_answers[image] = flat[start + view]
                of_weights[image] = weights[image][view]
                of_costs[image] = costs[image][view]
                view += 1
        start += view
    return layout
