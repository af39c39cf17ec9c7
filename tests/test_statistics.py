"""Rows and what they say: literal numbers, and parts that add up to the whole."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from relook.evaluation import (
    Answer,
    Method,
    Names,
    Pairing,
    Row,
    Statistics,
    from_table,
    to_table,
)
from relook.evaluation.rows import CALIBRATED, not_calibrated
from relook.evaluation.selective import Unanswered, classified

NAMES = Names("first look", "poster", ("flip",))


def answer(*probabilities, label=0, forwards=1, corrected=False):
    return Answer.of(torch.tensor(probabilities), label, forwards, float(forwards), 0.5, corrected)


def row(index, label, before, after, corrected=False, flip=(0.2, 0.8, 0)):
    answers = {
        "first look": answer(*before, label=label),
        "poster": answer(*after, label=label, forwards=7, corrected=corrected),
        "flip": answer(*flip, label=label),
    }
    return Row(index, f"{index}.png", label, NAMES, answers)


def counts(rows):
    return Statistics.of(to_table(rows, NAMES))


ROWS = [
    row(0, 0, (0.9, 0.1, 0.0), (0.9, 0.1, 0.0)),
    row(1, 1, (0.4, 0.35, 0.25), (0.3, 0.4, 0.3), corrected=True),
    row(2, 2, (0.3, 0.3, 0.4), (0.5, 0.2, 0.3), corrected=True),
    row(3, 2, (0.8, 0.1, 0.1), (0.8, 0.1, 0.1)),
    Row(4, "4.png", 1, NAMES, error="no image"),
]


def test_an_answer_in_short():
    short = answer(0.1, 0.2, 0.05, 0.3, 0.25, 0.1, label=2)
    assert short.classes[:3] == (3, 4, 1)
    assert short.probabilities == pytest.approx((0.3, 0.25, 0.2, 0.1, 0.1))
    assert short.true == pytest.approx(0.05)
    assert short.gap(2) == pytest.approx(0.05)
    assert short.gap(5) == pytest.approx(0.2)
    # 0.1² + 0.2² + 0.95² + 0.3² + 0.25² + 0.1²
    assert short.brier == pytest.approx(1.115)


def test_rows_come_back_from_arrow():
    rows = [*ROWS, row(5, 0, (0.6, 0.4, 0), (0.6, 0.4, 0))]
    table = to_table(rows, NAMES)
    assert from_table(table) == rows
    assert table["ambiguous"].to_pylist() == [False, True, True, False, False, False]
    assert table["fixed"].to_pylist() == [False, True, False, False, False, False]
    assert table["broken"].to_pylist() == [False, False, True, False, False, False]
    assert table["error"].to_pylist()[4] == "no image"


def test_counts_by_hand():
    counted = counts(ROWS)
    assert (counted.errors, counted.corrected, counted.before.images) == (1, 2, 4)
    assert (counted.before.right, counted.after.tally.right) == (2, 2)
    assert counted.before.top1 == 0.5
    assert counted.before.top5 == 1
    assert counted.after.pairing == Pairing(both_right=1, fixed=1, broken=1, both_wrong=1)
    assert counted.after.ambiguous == Pairing(fixed=1, broken=1)
    assert counted.labels == {0: 1, 1: 1, 2: 2}
    assert counted.changes == {(1, 0, 1): 1, (2, 2, 0): 1}
    assert (counted.before.forwards, counted.after.tally.forwards) == (4, 28)
    # gap(1,2) of the right ones: 0.8 and 0.1; Y[c_1] − Y[true] of the wrong ones: 0.05 and 0.7.
    assert (counted.right_small, counted.wrong_small) == (1, 1)
    assert (sum(counted.right_gaps), sum(counted.wrong_gaps)) == (2, 2)


def test_calibration_by_hand():
    counted = counts([ROWS[0], ROWS[3]]).before
    # confidences 0.9 (right) and 0.8 (wrong) lie in different fifteenths
    assert counted.ece == pytest.approx((0.1 + 0.8) / 2)
    assert counted.mean_brier == pytest.approx((0.02 + (0.64 + 0.01 + 0.81)) / 2)


def test_log_loss_by_hand():
    """The true classes have the probabilities 0.9 and 0.1, and none at all."""
    counted = counts([ROWS[0], ROWS[3]]).before
    assert counted.mean_log_loss == pytest.approx((0.105361 + 2.302585) / 2, abs=1e-6)
    impossible = counts([row(0, 2, (0.5, 0.5, 0.0), (0.5, 0.5, 0.0))]).before
    assert impossible.log_loss == pytest.approx(27.631021)  # 12 ln 10
    assert (counted + impossible).log_loss == pytest.approx(30.038967, abs=1e-6)


def abstaining(index, label, probabilities, possible=()):
    """A row whose corrected answer is not to be relied on if classes are in question."""
    made = row(index, label, probabilities, probabilities)
    after = replace(made.answers["poster"], abstained=bool(possible), possible=possible)
    return replace(made, answers={**made.answers, "poster": after})


def test_abstention_by_hand():
    rows = [
        abstaining(0, 0, (0.9, 0.1, 0.0)),
        abstaining(1, 1, (0.8, 0.1, 0.1)),
        abstaining(2, 0, (0.7, 0.2, 0.1)),
        abstaining(3, 1, (0.5, 0.4, 0.1), possible=(0, 1)),
        abstaining(4, 2, (0.5, 0.4, 0.1), possible=(0, 1)),
        abstaining(5, 0, (0.4, 0.3, 0.3), possible=(0, 1, 2)),
        Row(6, "6.png", 1, NAMES, error="no image"),
    ]
    counted = counts(rows)
    after = counted.after.tally
    assert (after.images, after.abstained, after.answered, after.answered_wrong) == (6, 3, 3, 1)
    assert (after.coverage, after.risk) == (0.5, pytest.approx(1 / 3))
    assert (counted.before.coverage, counted.before.risk) == (1, 0.5)
    twice = (counted + counts(rows[3:])).after.tally
    assert (twice.coverage, twice.risk) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert counts(rows[3:]).after.tally.risk is None
    assert counts([]).before.coverage is None
    answers, labels = classified(to_table(rows, NAMES))
    left = Unanswered.of(answers["poster"], labels)
    assert (left.images, left.classes, left.held) == (3, 7, 2)
    assert (left.mean_size, left.share_held) == (pytest.approx(7 / 3), pytest.approx(2 / 3))
    assert Unanswered.of(answers["flip"], labels).mean_size is None


def test_answers_that_differ_by_a_temperature_are_no_other_looks():
    counted = Statistics(rivals={name: Method() for name in ("flip", CALIBRATED)})
    counted.rivals[not_calibrated("best")] = Method()
    assert list(counted.rivals) == ["flip", "first look, calibrated", "best, not calibrated"]
    assert list(counted.other_looks) == ["flip"]


def random_rows(count):
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index in range(count):
        p = torch.rand(3, 7, generator=generator).mul(6).softmax(1).tolist()
        rows.append(row(index, index % 7, p[0], p[1], corrected=index % 3 == 0, flip=p[2]))
        if index % 10 == 9:
            rows[-1] = Row(index, f"{index}.png", index % 7, NAMES, error="no image")
    return rows


def test_columns_say_what_a_loop_over_the_rows_says():
    rows = random_rows(60)
    counted = counts(rows)
    good = [row for row in rows if not row.error]
    assert (counted.errors, counted.before.images) == (6, 54)
    assert counted.corrected == sum(row.corrected for row in good)
    for tally, name in (
        (counted.before, "first look"),
        (counted.after.tally, "poster"),
        (counted.rivals["flip"].tally, "flip"),
    ):
        answers = [row.answers[name] for row in good]
        pairs = list(zip(answers, [row.label for row in good], strict=True))
        assert tally.right == sum(a.best == label for a, label in pairs)
        assert tally.right5 == sum(label in a.classes for a, label in pairs)
        assert tally.brier == pytest.approx(sum(a.brier for a in answers), abs=1e-9)
        assert tally.log_loss == pytest.approx(sum(-math.log(a.true) for a in answers), abs=1e-9)
        assert tally.seconds == pytest.approx(0.5 * 54)
        fifteenth = [a.probabilities[0] for a in answers if 7 / 15 <= a.probabilities[0] < 8 / 15]
        assert tally.confident[7] == len(fifteenth) > 0
        assert tally.confidence[7] == pytest.approx(sum(fifteenth), abs=1e-9)
    flip = counted.rivals["flip"]
    wins = [row for row in good if row.answers["flip"].best == row.label != row.before.best]
    assert flip.pairing.fixed == len(wins) > 0
    assert flip.ambiguous.fixed == sum(row.ambiguous for row in wins)
    assert flip.ambiguous.images == sum(row.ambiguous for row in good) < 54
    assert flip.against.fixed == sum(
        row.answers["flip"].best == row.label != row.after.best for row in good
    )
    assert counted.after.pairing.broken == sum(row.broken for row in good) > 0
    leads = [row.before.gap(2) for row in good if row.before.best == row.label]
    assert sum(counted.right_gaps[:5]) == sum(lead < 0.25 for lead in leads)
    assert counted.right_small == sum(lead <= 0.5 for lead in leads)


def test_parts_add_up_to_the_whole():
    generator = random.Random(0)
    rows = random_rows(66)
    whole = counts(rows)
    generator.shuffle(rows)
    parts = counts(rows[:13]) + counts(rows[13:14]) + counts(rows[14:])
    assert parts.after.pairing == whole.after.pairing
    assert parts.rivals["flip"].pairing == whole.rivals["flip"].pairing
    assert whole.rivals["flip"].pairing.images == 60
    assert parts.changes == whole.changes
    assert parts.right_gaps == whole.right_gaps
    assert parts.before.ece == pytest.approx(whole.before.ece)
    assert parts.before.mean_brier == pytest.approx(whole.before.mean_brier)


def test_the_posters_table():
    """3,553 / 538 / 464 / 7,936: 32.16 → 32.75 %, McNemar p ≈ 0.02."""
    poster = Pairing(3553, 538, 464, 7936)
    assert poster.images == 12491
    assert poster.before == pytest.approx(0.3216, abs=1e-4)
    assert poster.after == pytest.approx(0.3275, abs=1e-4)
    assert poster.gain == pytest.approx(74 / 12491)
    assert poster.p_value == pytest.approx(0.0212, abs=5e-4)
    assert poster.verdict == "helps"
    low, high = poster.interval
    assert 0 < low < poster.gain < high < 0.012


def test_mcnemar_by_hand():
    # of 5 changes 5 fixed: 2 · (1/2)^5
    assert Pairing(10, 5, 0, 3).p_value == pytest.approx(0.0625)
    assert Pairing(10, 5, 0, 3).verdict == "no evidence"
    assert Pairing(10, 0, 6, 3).verdict == "hurts"
    assert Pairing(10, 0, 0, 3).p_value == 1
    assert Pairing(10, 0, 0, 3).interval[0] < 0 < Pairing(10, 0, 0, 3).interval[1]


def test_nothing_to_divide_by_is_none():
    empty = counts([])
    assert (empty.before.top1, empty.before.ece, empty.after.pairing.gain) == (None, None, None)
    assert (empty.after.pairing.p_value, empty.after.pairing.interval) == (None, None)
    assert empty.after.pairing.verdict == "no evidence"


@pytest.mark.parametrize(
    ("fixed", "broken", "exact", "mid"),
    [
        (7, 1, 18 / 256, 10 / 256),  # the first example of Fagerland et al.: 0.0703 and 0.0391
        (1, 7, 18 / 256, 10 / 256),
        (3, 0, 2 / 8, 1 / 8),
        (6, 0, 2 / 64, 1 / 64),
        (1, 1, 1.0, 0.75),  # all tables but this one count in full, and this one half
        (2, 2, 1.0, 1 - 3 / 16),
        (0, 0, 1.0, 1.0),
    ],
)
def test_mid_p(fixed, broken, exact, mid):
    pairing = Pairing(10, fixed, broken, 5)
    assert pairing.p_value == pytest.approx(exact)
    assert pairing.mid_p == pytest.approx(mid)


def test_mid_p_of_no_images():
    assert Pairing().mid_p is None


def test_images_needed():
    """By hand: (1.96 √0.05 + 0.8416 √(0.05 − 0.05²))² / 0.05² = 154.6, in two digits."""
    assert Pairing(50, 3, 0, 7).images_needed == 160
    assert Pairing(50, 0, 3, 7).images_needed == 160
    # (1.96 √0.031 + 0.8416 √(0.031 − 10⁻⁶))² / 10⁻⁶ = 243,317
    assert Pairing(700, 15, 16, 269).images_needed == 250_000
    # All images fixed: (1.96 + 0)² = 3.84
    assert Pairing(0, 10, 0, 0).images_needed == 4
    assert Pairing(50, 3, 3, 4).images_needed is None
    assert Pairing(50, 0, 0, 4).images_needed is None
    assert Pairing().images_needed is None
