"""Learning from kept answers: they are a Corrector's, and what is learnt is right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

import relook
from networks import random_cnn, write_noise
from relook.calibration import Abstention, Confidence, tempered
from relook.digest import labels_digest, weights_digest
from relook.evaluation import Run, read_data, tune
from relook.evaluation.learning import (
    Corrected,
    Kept,
    Way,
    aurc_parts,
    choose_confidence,
    find_threshold,
    fit_temperature,
    learn,
    learn_weights,
    log_losses,
)
from relook.evaluation.rows import schema_of
from relook.evaluation.selective import aurc
from relook.folder import folder_at, read_settings
from relook.gate import EVERY_IMAGE, Gate
from relook.looks import Judgement, Learnt, Part, Preset

LOOKS = ["around", "closer", "whole", "flip", "larger", "tencrop", "symmetries", "zoom"]


@pytest.fixture
def small():
    """A float32 network of four classes that also takes larger inputs."""
    network = random_cnn(torch.float32, seed=3)
    return relook.Classifier(network, mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16)


@pytest.fixture
def scenes(small, tmp_path):
    """Images of several shapes in four folders."""
    for label in range(4):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for number in range(3):
            write_noise(tmp_path / "data" / str(label) / f"{number}.png", 10 * label + number, 24)
    return read_data(tmp_path / "data", small.labels)


def kept_of(small, scenes, folder, looks):
    tune(small, scenes, folder, looks=looks, gates=["none"])
    settings = read_settings(folder / "tuning", "tuning")
    names = list(settings["ways"])
    ways = [Preset.of_json(way) for way in settings["ways"].values()]
    return Kept.of(Run(folder_at(folder / "tuning"), settings, schema_of).table(), names), ways


@pytest.mark.parametrize("in_turn", [True, False])
def test_kept_answers_are_those_of_a_corrector(small, scenes, tmp_path, in_turn):
    """Any sum of looks, asked in turn or not: same answers, cost and agreement, to float32."""
    kept, ways = kept_of(small, scenes, tmp_path / "run", LOOKS)
    sums = [
        [(0, 0.75), (1, 0.5), (2, 0.375)],
        [(3, 1.0), (6, 0.2)],
        [(5, 0.3), (4, 0.7), (0, 0.1)],
        [(len(ways) - 1, 2.0), (1, 0.5)],
    ]
    stopped = False
    for some in sums:
        parts = tuple(
            Part(ways[place].look, weight, ways[place].k_or(4), **ways[place].options)
            for place, weight in some
        )
        look = "+".join(part.look for part in parts)
        preset = Preset(look, gate=EVERY_IMAGE, learnt=Learnt(parts, in_turn, EVERY_IMAGE))
        corrector = relook.Corrector(
            small, look=replace(preset, learnt=preset.learnt).make(small), k=4
        )
        found = kept.corrected(tuple(some), in_turn)
        for number, image in enumerate(scenes.images):
            correction = corrector.correct(image.path)
            torch.testing.assert_close(found.raw[number], correction.after, atol=1e-6, rtol=1e-5)
            assert float(found.cost[number]) == pytest.approx(correction.cost, rel=1e-5)
            stopped |= any("settled" in note for note in correction.no_view)
    assert stopped == in_turn


def random_kept(n=400, classes=3, seed=0, parts=2):
    """A first answer that is right for 70 %; part 0 adds nothing, part 1 is right for 95 %."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)

    def answers(right):
        top = np.where(random.random(n) < right, labels, random.integers(classes, size=n))
        p = np.full((n, classes), 0.2)
        p[np.arange(n), top] = 0.6
        return torch.tensor(p, dtype=torch.float32)

    first = answers(0.55)
    views = torch.stack([first, answers(0.93)], dim=1)[:, :parts]
    ones = torch.ones(n, parts)
    return Kept(
        torch.tensor(labels),
        first,
        torch.ones(n),
        views,
        ones,
        ones,
        torch.zeros(n, parts),
        tuple(((part,),) for part in range(parts)),
    )


def test_a_part_that_knows_better_is_learnt_and_one_that_does_not_is_not():
    kept = random_kept()
    preset = Way(((0, 0.5),), EVERY_IMAGE)
    weights = dict(learn_weights(kept, preset.parts, strength=1.0))
    assert weights[1] > 3 * weights.get(0, 0.1)
    lesson = learn(kept, [preset], [EVERY_IMAGE], max_cost=2.0)
    assert [part for part, _ in lesson.way.parts] == [1]  # two parts would cost 3
    assert lesson.tried[0].sure > 2.5
    assert all(tried.cost <= 2.0 for tried in lesson.tried)


def test_few_images_keep_the_preset_and_calibrate_it():
    kept = random_kept(n=12, parts=1)
    preset = Way(((0, 0.5),), EVERY_IMAGE)
    lesson = learn(kept, [preset], [EVERY_IMAGE, Gate(0.4, j=2)])
    assert lesson.way == preset
    assert lesson.after.temperature != 1
    assert lesson.after.confidence.kind == "probability"


def test_a_preset_that_costs_too_much_is_replaced_by_a_cheaper_form_of_it():
    kept = random_kept(parts=1)
    presets = [Way(((0, 0.5),), EVERY_IMAGE), Way(((0, 0.5),), Gate(0.3, j=2))]
    lesson = learn(kept, presets, [EVERY_IMAGE], max_cost=1.5)
    assert lesson.way == presets[1]  # no image passes its gate, as every gap is 0.4
    assert learn(kept, presets, [EVERY_IMAGE], max_cost=2.0).way.parts


def test_the_temperature_is_that_of_the_closed_form():
    """Of two classes at 0.9, right for 75 %: 0.9^(1/T) / (0.9^(1/T) + 0.1^(1/T)) = 0.75, T = 2."""
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(40_000, 1)
    labels = (torch.arange(40_000) % 4 == 0).long()
    assert fit_temperature(probabilities, labels) == pytest.approx(2.0, abs=0.01)
    calibrated = tempered(probabilities[:1], 2.0)
    torch.testing.assert_close(calibrated, torch.tensor([[0.75, 0.25]]))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(log_losses(probabilities, labels, 2.0).mean()) == pytest.approx(expected)


def test_answers_that_are_not_averaged_have_the_temperature_of_the_first_look(small, scenes):
    """Through a Corrector: above the gate p^(1/T1), below it p^(1/T) of the corrected answer."""
    first = [small.first_looks(small.pixels(image.open())[None])[0] for image in scenes.images]
    gaps = sorted(float(relook.gate.gap(each.probabilities, 2)) for each in first)
    gate = Gate((gaps[5] + gaps[6]) / 2, j=2)
    made_on = {"labels": labels_digest(small), "weights": weights_digest(small)}
    learnt = Learnt((Part("flip", 1.0, 4),), False, gate, Judgement(0.5), Judgement(2.0), made_on)
    corrector = relook.Corrector(small, look=Preset("flip", gate=gate, learnt=learnt))
    plain = relook.Corrector(small, look="flip", gate=gate)
    corrections = [corrector.correct(image.path) for image in scenes.images]
    for image, found in zip(scenes.images, corrections, strict=True):
        raw = plain.correct(image.path).after
        expected = raw.pow(2) if found.corrected else raw.pow(0.5)
        torch.testing.assert_close(found.after, expected / expected.sum())
    assert sum(found.corrected for found in corrections) == 6


def test_images_that_are_all_right_do_not_make_probabilities_of_1():
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(10, 1)
    assert 0.3 < fit_temperature(probabilities, torch.zeros(10, dtype=torch.long)) < 1
    assert fit_temperature(probabilities[:0], torch.zeros(0, dtype=torch.long)) == 1


def test_weights_fall_to_the_presets_as_the_strength_grows():
    kept = random_kept()
    preset = ((0, 0.5), (1, 0.5))

    def distance(strength):
        learnt = dict(learn_weights(kept, preset, strength))
        return sum((learnt.get(part, 0.0) - weight) ** 2 for part, weight in preset)

    distances = [distance(strength) for strength in (1.0, 16.0, 1e4)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4


def answers_of(confidence, right):
    """Answers of two classes with these confidences; the label is 0 where they are right."""
    top = torch.tensor(confidence, dtype=torch.float32)
    raw = torch.stack([top, 1 - top], dim=1)
    labels = torch.tensor(np.where(right, 0, 1))
    ones = torch.ones(len(top))
    return Corrected(raw, ones, ones), labels


def test_a_threshold_is_the_lowest_that_passes_the_exact_tests():
    """200 answers, wrong ones only among the least confident: tests at 50 %, 52.5 %, …"""
    n = 200
    confidence = np.linspace(0.99, 0.6, n)
    right = np.arange(n) < 160
    found = find_threshold(*answers_of(confidence, right), Confidence(), risk=0.05)
    # At 80 % the second start adds its half: 0.05 in all. At 82.5 % 5 of 165 are wrong.
    assert binom.cdf(0, 160, 0.05) <= 0.05
    assert binom.cdf(5, 165, 0.05) > 0.05
    assert (found.answered, found.wrong, found.images) == (160, 0, 200)
    assert found.threshold == pytest.approx(confidence[159])


def test_no_threshold_is_promised_by_few_images():
    answers, labels = answers_of(np.linspace(0.9, 0.8, 40), np.ones(40, bool))
    found = find_threshold(answers, labels, Confidence(), risk=0.05)
    assert found.threshold is None
    assert found.abstains(1.0)


def test_the_promise_on_wrong_answers_holds():
    """Wrong with probability 0.02 + 0.16 u at rank u: the true share wrong above rank u is
    0.02 + 0.08 u, above 0.05 from u = 0.375 on. No more than 5 % of the thresholds may be lower.
    """
    random = np.random.default_rng(0)
    broken = 0
    for _ in range(400):
        u = random.random(300)
        right = random.random(300) >= 0.02 + 0.06 * u
        answers, labels = answers_of(0.99 - 0.4 * u, right)
        found = find_threshold(answers, labels, Confidence(), risk=0.04)
        rank = 0.0 if found.threshold is None else (0.99 - found.threshold) / 0.4
        broken += 0.02 + 0.03 * rank > 0.04
    assert broken <= 0.05 * 400 + 2 * math.sqrt(400 * 0.05 * 0.95)


def test_the_classes_in_question_hold_the_true_class():
    """Of 1,000 fresh images, at least 90 % less two standard errors."""
    random = np.random.default_rng(0)

    def draw(n):
        raw = torch.tensor(random.dirichlet([0.5] * 5, size=n), dtype=torch.float32)
        labels = torch.tensor([random.choice(5, p=p / p.sum()) for p in raw.double().numpy()])
        return raw, labels

    raw, labels = draw(500)
    ones = torch.ones(500)
    found = find_threshold(Corrected(raw, ones, ones), labels, Confidence(), risk=0.1)
    fresh, true = draw(1000)
    inside = [int(t) in found.possible(p) for p, t in zip(fresh, true, strict=True)]
    sizes = [len(found.possible(p)) for p in fresh]
    assert np.mean(inside) >= 0.9 - 2 * math.sqrt(0.1 * 0.9 / 1000)
    assert np.mean(sizes) < 4


def test_conformal_rank_is_that_of_the_definition():
    """19 images at a risk of 0.1: the ⌊0.1 · 20⌋ = 2nd smallest probability of a true class."""
    top = np.linspace(0.55, 0.91, 19)
    answers, labels = answers_of(top, np.ones(19, bool))
    found = find_threshold(answers, labels, Confidence(), risk=0.1)
    assert found.likely == pytest.approx(top[1])
    few = find_threshold(*answers_of([0.9, 0.8], [True, True]), Confidence(), risk=0.1)
    assert few.likely == 0  # no set but that of all classes can be promised


def test_a_measure_that_ranks_better_is_chosen():
    """Two kinds of images: confidence says nothing, agreement everything."""
    random = np.random.default_rng(0)
    right = random.random(400) < 0.7
    answers, labels = answers_of(0.6 + 0.3 * random.random(400), right)
    agreed = torch.tensor(np.where(right, 1.0, 0.25), dtype=torch.float32)
    chosen = choose_confidence(replace(answers, agreed=agreed), labels, 1.0)
    assert chosen.kind == "agreement"
    assert choose_confidence(answers, labels, 1.0).kind == "probability"


def test_what_images_add_to_the_area_sums_to_it():
    random = np.random.default_rng(0)
    confidence, right = random.integers(20, size=100) / 20, random.random(100) < 0.8
    assert aurc_parts(confidence, right).mean() == pytest.approx(aurc(confidence, right))
    # Of three answers the second is wrong: shares of 0, 1/2 and 1/3.
    parts = aurc_parts(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
    assert parts == pytest.approx([0, 1 / 2 + 1 / 3, 0])


def test_the_p_norm_is_that_of_the_definition():
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    z = np.log([0.7, 0.2, 0.1])
    z = z - z.mean()
    expected = z.max() / (np.abs(z) ** 4).sum() ** 0.25
    assert float(Confidence("norm", p=4).of(p)) == pytest.approx(expected)


@pytest.mark.parametrize("risk", [0, 1, -0.1, math.nan])
def test_a_risk_that_is_none_is_refused(risk):
    with pytest.raises(relook.errors.RelookError, match="share of wrong answers"):
        Abstention(risk, Confidence(), None, 0.0)
