"""Calibration in equal bins, and the risk–coverage curve: by hand, and in any order of the rows."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from relook.evaluation import Answer, Evaluation, Names, Row, to_table
from relook.evaluation.selective import (
    Bin,
    aurc,
    ece_equal_mass,
    qualities,
    reliability,
    risk_coverage,
)


def bools(*values):
    return np.array(values, dtype=bool)


def test_the_area_by_hand():
    """The most confident 1, 2, 3 and 4: 0, 1/2, 1/3 and 2/4 of them are wrong."""
    confidence, right = np.array([0.6, 0.9, 0.7, 0.8]), bools(0, 1, 1, 0)
    coverage, risk = risk_coverage(confidence, right)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert aurc(confidence, right) == pytest.approx(1 / 3)
    # The best order of one wrong answer in four leaves (0 + 0 + 0 + 1/4) / 4, the worst
    # (1 + 1/2 + 1/3 + 1/4) / 4.
    assert aurc(confidence, bools(0, 1, 1, 1)) == pytest.approx(1 / 16)
    assert aurc(confidence, bools(1, 0, 1, 1)) == pytest.approx(25 / 48)


def test_only_the_order_of_the_confidence_counts():
    confidence, right = np.array([0.2, 0.9, 0.4, 0.7, 0.6]), bools(0, 1, 1, 0, 1)
    assert aurc(np.log(confidence) - 3, right) == aurc(confidence, right)


def test_ties_get_the_mean_over_their_orders():
    tied, right = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), bools(1, 1, 0, 0, 0)
    areas = []
    for order in itertools.permutations([0.5, 0.6, 0.7]):
        areas.append(aurc(np.array([0.9, *order, 0.1]), right))
    assert len(set(areas)) > 1
    assert aurc(tied, right) == pytest.approx(sum(areas) / 6)
    assert aurc(np.full(5, 0.3), right) == pytest.approx(3 / 5)


def test_bins_of_equally_many_images_by_hand():
    probability = np.array([0.5, 0.6, 0.9, 1.0, 0.9, 1.0])
    right = bools(0, 1, 1, 1, 0, 1)
    first, second, third = reliability(probability, right, bins=3)
    assert (first, second, third) == (Bin(2, 0.55, 0.5), Bin(2, 0.9, 0.5), Bin(2, 1.0, 1.0))
    assert ece_equal_mass(probability, right, bins=3) == pytest.approx((0.05 + 0.4 + 0) / 3)
    # Five images in two bins: three and two.
    assert [each.images for each in reliability(probability[:5], right[:5], bins=2)] == [3, 2]


def test_an_error_that_bins_of_equal_width_average_away():
    """All in the last fifteenth: 0.95, of which all are right, and 0.99, of which 0.9 are."""
    probability = np.array([0.95] * 10 + [0.99] * 10)
    right = np.array([True] * 19 + [False])
    assert abs(probability.mean() - right.mean()) == pytest.approx(0.02)
    assert ece_equal_mass(probability, right, bins=2) == pytest.approx((0.05 + 0.09) / 2)


def test_ties_on_both_sides_of_a_bins_end_count_alike():
    tied, right = np.full(4, 0.8), bools(1, 1, 0, 0)
    assert reliability(tied, right, bins=2) == (Bin(2, 0.8, 0.5), Bin(2, 0.8, 0.5))


def test_fewer_images_than_bins_and_none():
    assert ece_equal_mass(np.array([0.75, 0.25]), bools(1, 0)) == pytest.approx(0.25)
    assert len(reliability(np.array([0.75, 0.25]), bools(1, 0))) == 2
    nothing = np.array([])
    assert reliability(nothing, bools()) == ()
    assert (ece_equal_mass(nothing, bools()), aurc(nothing, bools())) == (None, None)


def test_the_order_of_the_rows_changes_nothing():
    generator = np.random.default_rng(0)
    confidence = generator.integers(1, 12, 200) / 12  # many ties
    right = generator.random(200) < confidence
    order = generator.permutation(200)
    assert aurc(confidence[order], right[order]) == aurc(confidence, right)
    assert reliability(confidence[order], right[order]) == reliability(confidence, right)
    assert 0 < aurc(confidence, right) < 1 - right.mean()


def test_the_quality_of_all_answers_of_a_table():
    names = Names("first look", "flip", ("larger",))

    def row(index, label, first, flip):
        answers = {
            name: Answer.of(torch.tensor(found), label, 1, 1.0, 0.1)
            for name, found in (("first look", first), ("flip", flip), ("larger", flip))
        }
        return Row(index, f"{index}.png", label, names, answers)

    rows = [
        row(0, 0, (0.75, 0.25), (0.5, 0.5)),
        row(1, 0, (0.125, 0.875), (0.75, 0.25)),
        Row(2, "2.png", 0, names, error="no image"),
    ]
    found = qualities(to_table(rows, names))
    assert list(found) == ["first look", "flip", "larger"]
    first, flip = found["first look"], found["flip"]
    assert first.log_loss == pytest.approx((math.log(4 / 3) + math.log(8)) / 2)
    assert first.brier == pytest.approx((2 * 0.0625 + 2 * 0.765625) / 2)
    # Each answer is alone in its bin: 0.75 is right and 0.875 wrong, which is the surer one.
    assert first.ece == first.ece_equal_mass == pytest.approx((0.25 + 0.875) / 2)
    assert first.aurc == pytest.approx((1 + 1 / 2) / 2)
    assert flip.log_loss == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert flip.aurc == 0
    assert found["larger"] == flip


NAMES = Names("first look", "flip")


def evaluation_of(rows, **settings):
    settings = {"answers": NAMES.to_json(), **settings}
    return Evaluation(settings, ("a", "b"), to_table(rows, NAMES))


def test_the_summary_says_what_the_rows_do():
    def row(index, label, first, flip, abstained=False):
        answers = {
            name: Answer.of(torch.tensor(found), label, 1, 1.0, 0.1)
            for name, found in (("first look", first), ("flip", flip))
        }
        answers["flip"] = replace(answers["flip"], abstained=abstained)
        return Row(index, f"{index}.png", label, NAMES, answers)

    rows = [
        row(0, 0, (0.75, 0.25), (0.75, 0.25)),
        row(1, 0, (0.125, 0.875), (0.25, 0.75)),
        row(2, 1, (0.5, 0.5), (0.375, 0.625), abstained=True),
    ]
    summary = evaluation_of(rows).summary()
    assert set(summary["calibration"]) == set(summary["selective"]) == {"before", "after"}
    after = summary["calibration"]["after"]
    assert after["nll"] == pytest.approx((math.log(4 / 3) + math.log(4) + math.log(8 / 5)) / 3)
    assert after["brier"] == pytest.approx((0.125 + 1.125 + 0.28125) / 3)
    assert after["ece"] == pytest.approx((0.375 + 0.5) / 3)  # 0.75 twice, one right, and 0.625
    assert after["ece_equal_mass"] == pytest.approx((0.375 + 0.25 + 0.25) / 3)
    # The two surest, 0.75, tie.
    assert summary["selective"]["after"] == {"aurc": pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)}
    assert "abstain" not in summary
    told = evaluation_of(rows, risk=0.25)
    assert told.summary()["abstain"] == {
        "risk": 0.25,
        "coverage": pytest.approx(2 / 3),
        "wrong": 0.5,
    }
    details = told.details()
    assert details["calibration"] == summary["calibration"]
    assert details["methods"]["flip"]["calibration"] == after
    assert details["methods"]["flip"]["selective"] == summary["selective"]["after"]
    assert details["methods"]["flip"]["abstain"]["wrong"] == 0.5
    nobody = [row(0, 0, (0.75, 0.25), (0.75, 0.25), abstained=True)]
    assert evaluation_of(nobody, risk=0.25).summary()["abstain"] == {
        "risk": 0.25, "coverage": 0.0, "wrong": None
    }  # fmt: skip


def test_the_summary_without_images_has_nulls():
    rows = [Row(0, "0.png", 0, NAMES, error="no image")]
    summary = json.loads(json.dumps(evaluation_of(rows, risk=0.05).summary()))
    nothing = {"ece": None, "ece_equal_mass": None, "nll": None, "brier": None}
    assert summary["calibration"] == {"before": nothing, "after": nothing}
    assert summary["selective"] == {"before": {"aurc": None}, "after": {"aurc": None}}
    assert summary["abstain"] == {"risk": 0.05, "coverage": None, "wrong": None}
