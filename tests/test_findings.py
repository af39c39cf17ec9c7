"""The sentences of an evaluation: what they say of literal counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from relook.evaluation import Method, Pairing, Statistics, Tally
from relook.evaluation.rows import CALIBRATED, not_calibrated
from relook.evaluation.selective import Unanswered
from relook.gate import EVERY_IMAGE, NO_IMAGE, Gate
from relook.report.findings import find, temperature_alone, unanswered
from relook.words import p, percent, percent_range, points, points_range, some


def tally(images, right, forwards, seconds=1.0):
    return Tally(images, right, right, 0.0, forwards, float(forwards), seconds)


def statistics(pairing, ambiguous=None, forwards=3000, rivals=None):
    images = pairing.images
    right = pairing.both_right + pairing.fixed
    after = Method(
        tally(images, right, forwards, 2.5), pairing, ambiguous or pairing, Pairing(right)
    )
    before = tally(images, pairing.both_right + pairing.broken, images)
    return Statistics(corrected=40, before=before, after=after, rivals=rivals or {})


def test_helps_with_the_numbers():
    found = find(statistics(Pairing(900, 30, 5, 65)), gate=Gate(0.5))
    assert found.verdict == "helps"
    assert found.sentence == (
        "The second look helps: of 1,000 images it fixed 30 and broke 5, top-1 90.5\u00a0% → "
        "93.0\u00a0% (gain +2.5 points, 95 % interval +1.3 to +3.7; McNemar's exact test p < 0.001, mid-p < 0.001)."
    )


def test_hurts_and_no_evidence():
    assert find(statistics(Pairing(900, 5, 30, 65)), Gate(0.5)).title == "The second look hurts"
    none = find(statistics(Pairing(130, 11, 11, 100)), Gate(0.5))
    assert none.verdict == "no evidence"
    assert none.title == "Too few images to tell whether the second look helps"
    many = find(statistics(Pairing(700, 15, 16, 269)), Gate(0.5))
    assert many.verdict == "no evidence"
    assert many.title == "No evidence that the second look helps"
    assert "fixed 11 and broke 11" in none.sentence
    assert "gain 0.0 points" in none.sentence
    assert "p = 1.00" in none.sentence


def test_without_a_gate_the_ambiguous_and_the_sure_images_are_told_apart():
    everything, ambiguous = Pairing(900, 20, 60, 20), Pairing(20, 15, 4, 61)
    found = find(statistics(everything, ambiguous), gate=EVERY_IMAGE)
    assert found.verdict == "hurts"
    told = " ".join(found.remarks)
    assert "Of the 100 ambiguous images (gap(1,5) < 0.5) it fixed 15 and broke 4" in told
    assert "on those alone: helps" in told
    assert "it fixed 5 and broke 56: a gate of 0.5 would leave them alone" in told
    gated = " ".join(find(statistics(ambiguous, ambiguous), gate=Gate(0.5)).remarks)
    assert "The others kept their first answer" in gated
    assert "would leave them alone" not in gated


@pytest.mark.parametrize(
    ("right", "against", "said"),
    [
        (960, Pairing(930, 30, 5, 40), "flip beats it: right on 30 images more (p < 0.001 after "
         "correction for 2 rivals), "),
        (936, Pairing(922, 14, 5, 59), "flip was right on 6 images more here"),  # p = 0.064 · 2
        (933, Pairing(928, 5, 2, 65), "flip was right on 3 images more here, which may be luck "
         "(p = 0.91 after correction for 2 rivals)"),
        (930, Pairing(930, 0, 0, 70), "The best rival, flip, is right on as many images"),
        (928, Pairing(928, 0, 2, 70), "Of the rivals none is right more often; the best, flip, is "
         "right on 2 images fewer (p = 0.50)"),
    ],
)  # fmt: skip
def test_rivals_are_named_plainly(right, against, said):
    flip = Method(tally(1000, right, 2000), Pairing(), Pairing(), against)
    bad = replace(flip, tally=tally(1000, 900, 5000))
    found = find(statistics(Pairing(900, 30, 5, 65), rivals={"bad": bad, "flip": flip}), Gate(0.5))
    [told] = [remark for remark in found.remarks if "flip" in remark]
    assert told.startswith(said)
    assert (
        "at a cost of 2.00 per image in place of 3.00 (in units of one forward pass at the network's own input size)"
        in told
    )


def test_the_cost_is_said():
    told = find(statistics(Pairing(900, 30, 5, 65), forwards=12345), Gate(0.5)).remarks[-1]
    assert "40 images got a second look" in told
    assert "12.35 forward passes on average in place of 1, and 2.5 times as long" in told


def test_nothing_to_judge_and_nothing_looked_at():
    assert find(Statistics(errors=3), Gate(0.5)).title == "Nothing to judge"
    assert find(statistics(Pairing(9, 0, 0, 1)), gate=NO_IMAGE).title == "No second look is taken"


def test_numbers_in_words():
    assert [p(value) for value in (None, 0.0004, 0.0212, 0.58, 1.0)] == [
        "p –", "p < 0.001", "p = 0.021", "p = 0.58", "p = 1.00"
    ]  # fmt: skip
    assert [points(value) for value in (-0.1, 0.0004, 0.025, None)] == ["−10.0", "0.0", "+2.5", "–"]
    assert points_range((-0.009, 0.0091)) == "−0.9 to +0.9"
    assert percent_range((0.912, 0.95)) == "91.2–95.0"
    assert points_range(None) == percent_range(None) == "–"
    assert [percent(share) for share in (0.0, 0.0004, 0.3927)] == [
        "0.0\u00a0%", "< 0.1\u00a0%", "39.3\u00a0%"
    ]  # fmt: skip


def test_lists_are_cut_short_and_say_by_how_much():
    assert some(["a", "b"]) == "a, b"
    assert some("abcde") == "a, b, c, d, e"
    assert some(range(1205), 3) == "0, 1, 2 and 1,202 more"


def test_what_a_look_does_without_is_said_once_a_run():
    own = statistics(Pairing(900, 30, 5, 65))
    best = Method(tally(1000, 930, 2000), notes=Counter({"without the larger input": 214}))
    flip = Method(tally(1000, 900, 2000))
    own = replace(
        own,
        after=replace(own.after, notes=Counter({"without a": 1, "without b": 2000})),
        rivals={"best": best, "flip": flip},
    )
    assert find(own, Gate(0.5)).remarks[-3:] == (
        "The second look worked without b (on 2,000 images).",
        "The second look worked without a (on 1 image).",
        "best worked without the larger input (on 214 images).",
    )


def test_few_images_are_not_taken_for_a_useless_look():
    """83.3 → 88.3 % of 60 images."""
    found = find(statistics(Pairing(50, 3, 0, 7)), Gate(0.5))
    assert found.title == "Too few images to tell whether the second look helps"
    assert "McNemar's exact test p = 0.25, mid-p = 0.12" in found.details
    assert found.remarks[0] == (
        "60 images are too few to decide: were images fixed and broken at just these rates, "
        "McNemar's test would find it in about 160 images (at 5 %, with a power of 80 %). The "
        "rates themselves are known from 3 changed answers only."
    )


@pytest.mark.parametrize(
    ("pairing", "title", "said"),
    [
        (Pairing(700, 15, 16, 269), "No evidence that",
         "There is no sign of a difference in 1,000 images: were images fixed"),
        (Pairing(4900, 3, 3, 94), "No evidence that",
         "There is no sign of a difference in 5,000 images: as many answers were fixed as broken."),
        (Pairing(30, 3, 3, 24), "Too few images",
         "60 images are too few to decide: as many answers were fixed as broken."),
        (Pairing(30, 0, 0, 30), "Too few images",
         "No answer of 60 images changed, so there is nothing to decide by."),
        (Pairing(1, 0, 0, 0), "Too few images", "No answer of 1 image changed"),
    ],
)  # fmt: skip
def test_no_evidence_says_of_how_much(pairing, title, said):
    found = find(statistics(pairing), Gate(0.5))
    assert found.title.startswith(title)
    assert found.remarks[0].startswith(said)
    assert "decide" not in " ".join(find(statistics(Pairing(900, 30, 5, 65)), Gate(0.5)).remarks)


def test_cost_and_forwards_are_two_sentences_with_their_units():
    own = statistics(Pairing(900, 30, 5, 65), forwards=2170)
    larger = replace(own.after, tally=replace(own.after.tally, cost=2490.0))
    told = find(replace(own, after=larger), Gate(0.5)).remarks
    assert "takes 2.17 forward passes on average in place of 1" in told[-2]
    assert told[-1] == (
        "Its cost is 2.49 on average in place of 1 (in units of one forward pass at the network's "
        "own input size)."
    )


def test_probabilities_that_are_less_true_are_said_to_be():
    own = statistics(Pairing(900, 30, 5, 65))

    def bins(confidence):
        """All answers in one step, as sure as that on average."""
        step = (0,) * 14
        return {"confident": (*step, 1000), "confidence": (*step, confidence)}

    def told(before, after):
        first = replace(own.before, correct=(0,) * 14 + (905,), **bins(before))
        tally = replace(own.after.tally, correct=(0,) * 14 + (930,), **bins(after))
        remarks = find(
            replace(own, before=first, after=replace(own.after, tally=tally)), Gate(0.5)
        ).remarks
        return [remark for remark in remarks if "ECE" in remark]

    assert told(935.0, 880.0) == [
        "The corrected probabilities are less well calibrated than the first ones: the expected "
        "calibration error (ECE) is 3.0\u00a0% before and 5.0\u00a0% after."
    ]
    assert told(955.0, 930.0) == []


def log_losses(own, before, after):
    """The statistics with these mean log losses."""
    images = own.before.images
    tally = replace(own.after.tally, log_loss=after * images)
    first = replace(own.before, log_loss=before * images)
    return replace(own, before=first, after=replace(own.after, tally=tally))


def test_a_worse_log_loss_is_said_with_or_without_the_calibration_error():
    own = log_losses(statistics(Pairing(900, 30, 5, 65)), 0.4264, 0.4273)
    # Sure of 880 right answers in 1,000: of the first 905 are right, of the corrected ones 930.
    step = (0,) * 14
    sure = {"confident": (*step, 1000), "confidence": (*step, 880.0)}
    first = replace(own.before, correct=(*step, 905), **sure)
    after = replace(own.after.tally, correct=(*step, 930), **sure)
    both = replace(own, before=first, after=replace(own.after, tally=after))
    said = "The corrected probabilities are less true than the first ones: the log loss is 0.426 before and 0.427 after"

    def told(statistics):
        return [remark for remark in find(statistics, Gate(0.5)).remarks if "log loss" in remark]

    assert told(own) == [f"{said}."]
    assert told(both) == [
        f"{said}, the expected calibration error (ECE) 2.5\u00a0% before and 5.0\u00a0% after."
    ]
    assert told(log_losses(own, 0.4273, 0.4264)) == []


def test_a_better_log_loss_and_few_images_are_said_beside_a_worse_calibration_error():
    own = statistics(Pairing(50, 3, 0, 7))
    worse = {"confident": (0,) * 14 + (60,), "correct": (0,) * 14 + (50,)}
    first = replace(own.before, log_loss=36.0, confidence=(0,) * 14 + (52.0,), **worse)
    after = replace(own.after.tally, log_loss=30.0, confidence=(0,) * 14 + (56.0,), **worse)
    found = find(replace(own, before=first, after=replace(own.after, tally=after)), Gate(0.5))
    [told] = [remark for remark in found.remarks if "ECE" in remark]
    assert told.endswith(
        "10.0\u00a0% after; by the log loss they are better: 0.600 before, 0.500 after. 60 images say "
        "little of it."
    )


@pytest.mark.parametrize(
    ("cost", "against", "said"),
    [
        (1580, Pairing(915, 25, 5, 55), "A second network is the better way to spend the cost: only "
         "network:sibling is right on 25 images and only the second look on 5 (p < 0.001), at a "
         "cost of 1.58 per image in place of 3.00 (in units of one forward pass at the network's "
         "own input size)."),
        (3000, Pairing(915, 8, 5, 72), "A second network was right more often, at no more cost: "
         "only network:sibling is right on 8 images and only the second look on 5 (p = 0.58: it "
         "may be luck), at a cost of 3.00 per image in place of 3.00 (in"),
        (3100, Pairing(915, 25, 5, 55), "A second network does better, at more cost: only "
         "network:sibling is right on 25 images and only the second look on 5 (p < 0.001), at a "
         "cost of 3.10 per image in place of 3.00 (in"),
    ],
)  # fmt: skip
def test_a_second_network_that_is_the_better_way_is_said_to_be(cost, against, said):
    sibling = Method(tally(1000, 930 + against.fixed - against.broken, cost), against=against)
    found = find(
        statistics(Pairing(900, 30, 5, 65), rivals={"network:sibling": sibling}), Gate(0.5)
    )
    [told] = [remark for remark in found.remarks if "network:" in remark]
    assert told.startswith(said)


@pytest.mark.parametrize(
    ("cost", "against"),
    [
        (1580, Pairing(925, 5, 5, 65)),  # as good
        (1580, Pairing(915, 5, 15, 65)),  # worse
        (3100, Pairing(915, 8, 5, 72)),  # at more cost, and it may be luck
    ],
)
def test_a_second_network_that_is_not_is_a_rival_like_others(cost, against):
    sibling = Method(tally(1000, 930 + against.fixed - against.broken, cost), against=against)
    found = find(
        statistics(Pairing(900, 30, 5, 65), rivals={"network:sibling": sibling}), Gate(0.5)
    )
    assert "second network" not in " ".join(found.remarks)
    assert sum("network:sibling" in remark for remark in found.remarks) == 1


def test_the_best_rival_is_said_beside_a_second_network_that_is_another():
    flip = Method(tally(1000, 960, 5000), against=Pairing(930, 30, 0, 40))
    sibling = Method(tally(1000, 950, 1580), against=Pairing(925, 25, 5, 45))
    rivals = {"flip": flip, "network:sibling+best": sibling}
    found = find(statistics(Pairing(900, 30, 5, 65), rivals=rivals), Gate(0.5))
    told = [remark for remark in found.remarks if "rivals" in remark]
    assert told[0].startswith(
        "A second network is the better way to spend the cost: only network:sibling+best is right "
        "on 25 images and only the second look on 5 (p < 0.001 after correction for 2 rivals)"
    )
    assert told[1].startswith("flip beats it: right on 30 images more")


def test_answers_that_differ_by_a_temperature_are_no_rivals():
    """Neither is the best one, nor counts for Bonferroni's correction, nor repeats a note."""
    own = statistics(Pairing(900, 30, 5, 65))
    notes = Counter({"without the larger input": 3})
    flip = Method(tally(1000, 936, 2000), against=Pairing(922, 14, 5, 59))
    same = Method(tally(1000, 999, 3000), against=Pairing(930, 69, 0, 1), notes=notes)
    own = replace(own, after=replace(own.after, notes=notes), rivals={"flip": flip})
    derived = {CALIBRATED: same, not_calibrated("network:x+best"): same}
    found = find(replace(own, rivals={"flip": flip, **derived}), Gate(0.5))
    assert found == find(own, Gate(0.5))
    assert any("flip was right on 6 images more here" in remark for remark in found.remarks)
    assert find(replace(own, rivals=derived), Gate(0.5)) == find(replace(own, rivals={}), Gate(0.5))


@pytest.mark.parametrize(
    ("both", "said"),
    [
        (0.43, "to 0.430: the second look makes the probabilities truer than a temperature could."),
        (0.4702, "to 0.470: a temperature does as much without a second look."),
        (0.5, "to 0.500: the probabilities would be truer with the temperature alone."),
    ],
)
def test_the_temperatures_part_is_told_from_the_second_looks(both, said):
    own = log_losses(statistics(Pairing(900, 30, 5, 65)), 0.592, both)
    alone = Method(replace(own.before, log_loss=470.0))
    look = Method(replace(own.after.tally, log_loss=560.0))
    start = "The temperature alone takes the log loss from 0.592 to 0.470, "
    together = f"second look and temperature together {said}"
    known = replace(own, rivals={CALIBRATED: alone, not_calibrated("best"): look})
    assert temperature_alone(known, "best") == (
        f"{start}the second look alone to 0.560, {together}"
    )
    assert temperature_alone(known, "flip") == f"{start}{together}"
    assert temperature_alone(own, "best") == ""
    assert temperature_alone(Statistics(rivals={CALIBRATED: alone}), "best") == ""


def test_what_is_left_to_a_person():
    own = Tally(images=400, right=370, abstained=88, answered_wrong=9)
    assert unanswered("The second look", own, Unanswered(88, 299, 84), 0.05) == (
        "The second look answers 312 of 400 images (78.0\u00a0%), 9 of them wrong: 2.9\u00a0%, where "
        "at most 5.0\u00a0% were asked for. A person would still have to look at 88: of these, 3.4 "
        "classes are in question on average, the true class among them for 95.5\u00a0%."
    )
    everything = Tally(images=400, right=390, answered_wrong=10)
    told = unanswered("The second look", everything, Unanswered(0, 0, 0), 0.05)
    assert told.endswith(", where at most 5.0\u00a0% were asked for. None is left to a person.")
    nothing = Tally(images=400, right=370, abstained=400)
    assert unanswered("The second look", nothing, Unanswered(400, 800, 300), 0.001) == (
        "The second look answers none of 400 images: no threshold could be promised to keep the "
        "share of wrong answers within 0.1\u00a0%, or none of the images reaches it. A person would "
        "still have to look at 400: of these, 2.0 classes are in question on average, the true "
        "class among them for 75.0\u00a0%."
    )
