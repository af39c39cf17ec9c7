"""The findings of an evaluation or a comparison in sentences, backed by its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from relook.calibration import LEVEL
from relook.correction import AMBIGUOUS
from relook.evaluation import Method, Pairing, Statistics, Tally
from relook.evaluation.rows import CALIBRATED, not_calibrated
from relook.evaluation.selective import Unanswered
from relook.gate import EVERY_IMAGE, Gate
from relook.looks import Judgement
from relook.looks.presets import NETWORK
from relook.multicam import FUSED, OBJECT, TARGET, Comparison
from relook.words import count, duration, p, percent, points, points_range

_UNIT = "in units of one forward pass at the network's own input size"
_WORTH = 0.02
"""A difference in accuracy that matters in practice, as a fraction: 2 points."""
_WITHIN = 20
"""Collecting more than this many times the images is not a realistic way to decide."""
_FEW = 500
"""With fewer images than this, the bins of the calibration error are unreliable."""
_NOUNS = {"helps": "helps", "hurts": "hurts", "no evidence": "no evidence that it helps"}


@dataclass(frozen=True)
class Findings:
    """The findings of one evaluation or comparison.

    Attributes:
        verdict: the result of McNemar's exact test at 5 % over all images.
        title: the verdict in a few words.
        details: a sentence with the numbers behind the verdict.
        remarks: further findings, a sentence or two each.
    """

    verdict: Literal["helps", "no evidence", "hurts"]
    title: str
    details: str
    remarks: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The verdict with its numbers."""
        return f"{self.title}: {self.details[0].lower()}{self.details[1:]}"


def find(statistics: Statistics, gate: Gate) -> Findings:
    """The findings on a second look with this gate, as in `Corrector.gate`."""
    pairing = statistics.after.pairing
    if not pairing.images:
        return Findings("no evidence", "Nothing to judge", "No image could be classified.", ())
    verdict = pairing.verdict
    if not gate.below:
        told = (
            f"The gate is 0, so that all {count(pairing.images, 'image')} keep their first answer: "
            f"{percent(pairing.before or 0)} are right."
        )
        rival = _rival(statistics)
        return Findings(verdict, "No second look is taken", told, (rival,) if rival else ())
    asking, second_network = _second_network(statistics)
    remarks = [
        _undecided(pairing),
        _ambiguous(statistics, gate),
        _sure(statistics) if gate == EVERY_IMAGE else "",
        second_network,
        "" if asking and asking == _best_rival(statistics) else _rival(statistics),
        _calibration(statistics),
        *_cost(statistics),
        *_notes({"The second look": statistics.after, **statistics.other_looks}),
    ]
    return Findings(
        verdict,
        _title(pairing, "the second look"),
        _numbers(pairing),
        tuple(remark for remark in remarks if remark),
    )


def find_comparison(comparison: Comparison) -> Findings:
    """The findings on retraining with MultiCAM compared with correction."""
    statistics = comparison.statistics
    pairing = statistics.after.pairing
    if not pairing.images:
        return Findings("no evidence", "Nothing to judge", "No image could be classified.", ())
    remarks = [_correction(comparison), _head_to_head(comparison), _object(comparison)]
    remarks += _notes(statistics.rivals)
    if comparison.settings["gate"] == 0:
        remarks[0] = "The gate is 0: no correction looked at any image again."
    if undecided := _undecided(pairing):
        remarks.insert(0, undecided)
    return Findings(pairing.verdict, _title(pairing, "MultiCAM"), _numbers(pairing), tuple(remarks))


def _title(pairing: Pairing, what: str) -> str:
    """The verdict in a few words."""
    if pairing.verdict != "no evidence":
        return f"{what[:1].upper()}{what[1:]} {pairing.verdict}"
    if _too_few(pairing):
        return f"Too few images to tell whether {what} helps"
    return f"No evidence that {what} helps"


def _too_few(pairing: Pairing) -> bool:
    """Whether there may be a relevant difference that this number of images cannot show."""
    if pairing.verdict != "no evidence" or pairing.interval is None:
        return False
    low, high = pairing.interval
    needed = pairing.images_needed
    return high - low > 2 * _WORTH or (needed is not None and needed <= _WITHIN * pairing.images)


def _undecided(pairing: Pairing) -> str:
    """Explain a verdict of no evidence, and estimate how many images would decide."""
    if pairing.verdict != "no evidence":
        return ""
    images, needed = count(pairing.images, "image"), pairing.images_needed
    if not pairing.fixed + pairing.broken:
        return f"No answer of {images} changed, so there is nothing to decide by."
    told = (
        f"{images} are too few to decide"
        if _too_few(pairing)
        else f"There is no sign of a difference in {images}"
    )
    if needed is None:
        return f"{told}: as many answers were fixed as broken."
    return (
        f"{told}: were images fixed and broken at just these rates, McNemar's test would find it "
        f"in about {needed:,} images (at 5 %, with a power of 80 %). The rates themselves are "
        f"known from {count(pairing.fixed + pairing.broken, 'changed answer')} only."
    )


def best_correction(comparison: Comparison) -> str:
    """The name of the correction that is right most often; the cheapest of equal ones."""
    rivals = comparison.statistics.rivals
    corrections = {name: method for name, method in rivals.items() if name != OBJECT}
    return max(
        corrections,
        key=lambda name: (corrections[name].tally.right, -corrections[name].tally.cost),
        default="",
    )


def _correction(comparison: Comparison) -> str:
    """A sentence that compares the best correction with TargetNet."""
    name = best_correction(comparison)
    pairing = comparison.statistics.rivals[name].pairing
    # Bonferroni correction: the best of several was chosen on the same images.
    looks = len(comparison.statistics.rivals) - 1
    value = min(1.0, looks * (pairing.p_value or 0.0))
    if pairing.fixed <= pairing.broken:
        return (
            f"No correction is right more often than TargetNet alone; the best, {name}, fixed "
            f"{pairing.fixed:,} and broke {pairing.broken:,}."
        )
    verdict = "it helps" if value < 0.05 else "so that it may be luck"
    return (
        f"Of the corrections, which train nothing, {name} does best: it fixed {pairing.fixed:,} "
        f"and broke {pairing.broken:,}, {change(pairing)}; {p(value)} after correction for "
        f"{looks} looks, {verdict}."
    )


def _head_to_head(comparison: Comparison) -> str:
    """Sentences that compare MultiCAM with the best correction: accuracy, training time, cost."""
    name = best_correction(comparison)
    rival, own = comparison.statistics.rivals[name], comparison.statistics.after.tally
    more = own.right - rival.tally.right
    looks = len(comparison.statistics.rivals) - 1
    value = min(1.0, looks * (rival.against.p_value or 0.0))
    luck = "" if value < 0.05 else ": it may be luck"
    right = (
        f"right on {count(abs(more), 'image')} {'more' if more > 0 else 'fewer'} than {name} "
        f"({p(value)} after correction for {looks} looks{luck})"
        if more
        else f"right on as many images as {name}"
    )
    return (
        f"MultiCAM is {right}. It took {duration(comparison.seconds(FUSED))} to train in place of "
        f"{duration(comparison.seconds(TARGET))}, and costs {_average(own.cost, own.images)} per "
        f"image in place of {_average(rival.tally.cost, own.images)} ({_UNIT})."
    )


def _object(comparison: Comparison) -> str:
    pairing = comparison.statistics.rivals[OBJECT].pairing
    return (
        f"ObjectNet alone, which sees only what TargetNet's maps leave visible, is right on "
        f"{percent(pairing.after or 0)} ({p(pairing.p_value)} against TargetNet)."
    )


def _average(total: float, images: int) -> str:
    return f"{total / images:.2f}".removesuffix(".00")


def _numbers(pairing: Pairing) -> str:
    return (
        f"Of {count(pairing.images, 'image')} it fixed {pairing.fixed:,} and broke "
        f"{pairing.broken:,}, top-1 {change(pairing)} (gain {points(pairing.gain)} points, 95 % "
        f"interval {points_range(pairing.interval)}; McNemar's exact test {p(pairing.p_value)}, "
        f"mid-{p(pairing.mid_p)})."
    )


def _ambiguous(statistics: Statistics, gate: Gate) -> str:
    pairing = statistics.after.ambiguous
    if not pairing.images:
        if gate.j != 5:  # with few classes no image is ambiguous, but some may be unsure
            return f"No image is ambiguous (gap(1,5) < {AMBIGUOUS}); the gate goes by {gate.name}."
        return "No image is ambiguous (gap(1,5) < 0.5): there is hardly anything to correct."
    told = (
        f"Of the {count(pairing.images, 'ambiguous image')} (gap(1,5) < {AMBIGUOUS}) it fixed "
        f"{pairing.fixed:,} and broke {pairing.broken:,}: {change(pairing)} right, "
        f"{p(pairing.p_value)}"
    )
    if gate == Gate(AMBIGUOUS):
        return f"{told}. The others kept their first answer."
    return f"{told}; on those alone: {_NOUNS[pairing.verdict]}."


def _sure(statistics: Statistics) -> str:
    everything, ambiguous = statistics.after.pairing, statistics.after.ambiguous
    fixed, broken = everything.fixed - ambiguous.fixed, everything.broken - ambiguous.broken
    if broken <= fixed:
        return ""
    return (
        f"Of the others, which the network was surer of, it fixed {fixed:,} and broke "
        f"{broken:,}: a gate of {AMBIGUOUS} would leave them alone, and save their forward passes."
    )


def _rival(statistics: Statistics) -> str:
    """A sentence that compares the best rival with the second look."""
    if not statistics.other_looks:
        return ""
    name = _best_rival(statistics)
    rival, own = statistics.rivals[name], statistics.after.tally
    more = rival.tally.right - own.right
    cost = (
        f"at a cost of {rival.tally.cost / own.images:.2f} per image in place of "
        f"{own.cost / own.images:.2f} ({_UNIT})"
    )
    if more <= 0:
        return (
            f"Of the rivals none is right more often; the best, {name}, is right on "
            f"{count(-more, 'image')} fewer ({p(rival.against.p_value)}), {cost}."
            if more
            else f"The best rival, {name}, is right on as many images, {cost}."
        )
    # Bonferroni correction: the best of several was chosen on the same images.
    rivals = len(statistics.other_looks)
    value = min(1.0, rivals * (rival.against.p_value or 0.0))
    told = p(value) + (f" after correction for {rivals} rivals" if rivals > 1 else "")
    better = f"right on {count(more, 'image')} more"
    if value < 0.05 and rival.against.verdict == "helps":
        return f"{name} beats it: {better} ({told}), {cost}."
    return f"{name} was {better} here, which may be luck ({told}), {cost}."


def _best_rival(statistics: Statistics) -> str:
    """The name of the rival that is right most often; empty without rivals."""
    rivals = statistics.other_looks
    return max(rivals, key=lambda name: rivals[name].tally.right, default="")


def _second_network(statistics: Statistics) -> tuple[str, str]:
    """The best rival with a second network, and a sentence on it.

    Both are empty unless that rival does better than the second look, either at no more cost or
    significantly.
    """
    own, rivals = statistics.after.tally, statistics.other_looks
    asking = [n for n in rivals if any(part.startswith(NETWORK) for part in n.split("+"))]
    for name in sorted(asking, key=lambda n: (-rivals[n].tally.right, rivals[n].tally.cost)):
        tally, against = rivals[name].tally, rivals[name].against
        # Bonferroni correction: the best of several was chosen on the same images.
        value = min(1.0, len(rivals) * (against.p_value or 0.0))
        is_sure, no_dearer = value < 0.05, tally.cost <= own.cost
        if against.fixed <= against.broken or not (is_sure or no_dearer):
            continue
        told = p(value) + (f" after correction for {len(rivals)} rivals" if len(rivals) > 1 else "")
        title = "A second network does better, at more cost"
        if no_dearer:
            title = "A second network is the better way to spend the cost"
        if not is_sure:
            title = "A second network was right more often, at no more cost"
        return name, (
            f"{title}: only {name} is right on {count(against.fixed, 'image')} and only the second "
            f"look on {against.broken:,} ({told}{'' if is_sure else ': it may be luck'}), at a "
            f"cost of {tally.cost / own.images:.2f} per image in place of "
            f"{own.cost / own.images:.2f} ({_UNIT})."
        )
    return "", ""


def _cost(statistics: Statistics) -> list[str]:
    before, after = statistics.before, statistics.after.tally
    told = (
        f"{count(statistics.corrected, 'image')} got a second look. An image takes "
        f"{after.forwards / after.images:,.2f} forward passes on average in place of 1, and "
        f"{after.seconds / max(before.seconds, 1e-9):.1f} times as long."
    )
    if round(after.cost / after.images, 2) == round(after.forwards / after.images, 2):
        return [told]
    larger = f"Its cost is {after.cost / after.images:,.2f} on average in place of 1 ({_UNIT})."
    return [told, larger]


def _calibration(statistics: Statistics) -> str:
    """A sentence if the corrected probabilities are worse than the first ones by some measure."""
    before, after = statistics.before, statistics.after.tally
    if before.ece is None or after.ece is None:
        return ""
    was, now = (round(tally.mean_log_loss or 0.0, 3) for tally in (before, after))
    off = round(after.ece, 3) > round(before.ece, 3)
    error = f"{percent(before.ece)} before and {percent(after.ece)} after"
    if now > was:
        told = (
            "The corrected probabilities are less true than the first ones: the log loss is "
            f"{was:.3f} before and {now:.3f} after"
        )
        told += f", the expected calibration error (ECE) {error}" if off else ""
    elif off:
        told = (
            "The corrected probabilities are less well calibrated than the first ones: the "
            f"expected calibration error (ECE) is {error}"
        )
        told += (
            f"; by the log loss they are better: {was:.3f} before, {now:.3f} after"
            if now < was
            else ""
        )
    else:
        return ""
    if before.images < _FEW:
        return f"{told}. {count(before.images, 'image')} say little of it."
    return f"{told}."


def temperature_alone(statistics: Statistics, name: str) -> str:
    """A sentence that tells the temperature's part in the log loss from the second look's.

    Empty unless the rows have the first answers after a temperature of their own.

    Args:
        statistics: the statistics of the rows.
        name: name of the main answers.
    """
    alone, look = (statistics.rivals.get(each) for each in (CALIBRATED, not_calibrated(name)))
    if alone is None or not statistics.before.images:
        return ""
    tallies = statistics.before, alone.tally, statistics.after.tally
    before, tempered, both = (round(tally.mean_log_loss or 0.0, 3) for tally in tallies)
    told = f"The temperature alone takes the log loss from {before:.3f} to {tempered:.3f}"
    if look is not None:
        told += f", the second look alone to {look.tally.mean_log_loss or 0.0:.3f}"
    told += f", second look and temperature together to {both:.3f}"
    if both < tempered:
        return f"{told}: the second look makes the probabilities truer than a temperature could."
    if both > tempered:
        return f"{told}: the probabilities would be truer with the temperature alone."
    return f"{told}: a temperature does as much without a second look."


def unanswered(who: str, tally: Tally, left: Unanswered, risk: float) -> str:
    """Sentences on the images that were answered, and on those that were left to a person.

    Args:
        who: whose answers these are, at the beginning of a sentence.
        tally: the tally of the answers, at least one.
        left: the images that were not answered.
        risk: share of wrong answers that was asked for, between 0 and 1.
    """
    images = count(tally.images, "image")
    if tally.risk is None:
        told = (
            f"{who} answers none of {images}: no threshold could be promised to keep the share of "
            f"wrong answers within {percent(risk)}, or none of the images reaches it."
        )
    else:
        told = (
            f"{who} answers {tally.answered:,} of {images} ({percent(tally.coverage or 0)}), "
            f"{tally.answered_wrong:,} of them wrong: {percent(tally.risk)}, where at most "
            f"{percent(risk)} were asked for."
        )
    if not left.images:
        return f"{told} None is left to a person."
    return (
        f"{told} A person would still have to look at {left.images:,}: of these, "
        f"{left.mean_size or 0:.1f} classes are in question on average, the true class among them "
        f"for {percent(left.share_held or 0)}."
    )


def _notes(methods: Mapping[str, Method]) -> list[str]:
    """A sentence for each view that a look left out, with the number of images."""
    return [
        f"{name} worked {note} (on {count(images, 'image')})."
        for name, method in methods.items()
        for note, images in method.notes.most_common()
    ]


def change(pairing: Pairing) -> str:
    """The accuracy before and after, for example "63.9 % → 64.3 %"."""
    return f"{percent(pairing.before or 0)} → {percent(pairing.after or 0)}"


def judged(judgement: Judgement) -> list[str]:
    """Sentences on the temperature, the confidence and the threshold that tuning learnt."""
    told = [
        f"temperature {judgement.temperature:.2f} of corrected answers; answers are ranked by "
        f"{judgement.confidence}"
    ]
    found = judgement.abstention
    if found is None:
        return told
    if found.threshold is None:
        return [
            *told,
            f"no threshold can be promised for a risk of {percent(found.risk)} by "
            f"{count(found.images, 'image')}: no answer is to be relied on; more labelled images, "
            "a higher risk or a better network may change that",
        ]
    return [
        *told,
        f"of {count(found.images, 'image')} kept for it, {found.answered:,} are answered with a "
        f"confidence of at least {found.threshold:.3f}, {found.wrong:,} of them wrongly: with a "
        f"probability of {percent(LEVEL)}, at most {percent(found.risk)} of such answers are wrong",
    ]
