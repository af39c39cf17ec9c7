"""Fewer masked forwards than channels: which are spent, and what is made of them."""

from __future__ import annotations

import pytest
import torch

import oracles
import relook
from networks import counting_forwards, random_cnn
from relook.attribution import VARIANTS, Context
from relook.attribution.budget import choose
from relook.attribution.score_cam import live_channels
from relook.errors import RelookError
from relook.looks import Flip, make_look

OWN = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "input_size": 16}
CLASSES = torch.tensor([0, 1, 2])


@pytest.fixture
def wide():
    """24 channels, all of them live."""
    return relook.Classifier(random_cnn(channels=24), **OWN, target_layer="act")


@pytest.fixture
def first(wide, noise):
    [first] = wide.first_looks(noise[:1])
    assert live_channels(first.activations).all()
    return first


def random_masks(count=10, seed=3):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, 3, 4, dtype=torch.float64, generator=generator)
    masks = maps * torch.rand(count, 1, 1, dtype=torch.float64, generator=generator)
    scores = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    return maps, masks, scores


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_equals_the_gaussian_process_of_the_textbook(count, outputs):
    maps, masks, scores = random_masks()
    if outputs:
        scores = 4 * scores - 2
    sample = choose(maps, masks, count, outputs)
    expected, asked = oracles.kriged_scores(maps, masks, count, lambda i: scores[i], outputs)
    assert sample.asked.tolist() == asked
    completed = sample.complete(scores[sample.asked].T)
    torch.testing.assert_close(completed, expected, rtol=0, atol=1e-9)


def test_what_was_asked_about_is_kept_as_it_is():
    maps, masks, scores = random_masks()
    sample = choose(maps, masks, 5)
    completed = sample.complete(scores[sample.asked].T)
    assert torch.equal(completed[:, sample.asked], scores[sample.asked].T)


def test_masks_that_are_alike_share_a_forward():
    """Four masks, each three times: four forwards see all of them, and know all scores."""
    maps, masks, scores = random_masks(4)
    maps, masks, scores = (x.repeat(3, *[1] * (x.ndim - 1)) for x in (maps, masks, scores))
    sample = choose(maps, masks, 4)
    assert sorted(i % 4 for i in sample.asked.tolist()) == [0, 1, 2, 3]
    completed = sample.complete(scores[sample.asked].T)
    torch.testing.assert_close(completed, scores.T, rtol=0.1, atol=0.02)


def test_equal_scores_are_carried_over():
    maps, masks, _ = random_masks()
    sample = choose(maps, masks, 3, outputs=True)
    completed = sample.complete(torch.full((2, 3), -1.25, dtype=torch.float64))
    torch.testing.assert_close(completed, torch.full((2, 10), -1.25, dtype=torch.float64))


def test_probabilities_stay_probabilities():
    """Never below 0 nor above 1, whatever is extrapolated."""
    maps, masks, _ = random_masks()
    masks[0] /= 100
    sample = choose(maps, masks, 3)
    scores = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).double()
    completed = sample.complete(scores)
    assert (completed >= 0).all()
    assert (completed <= 1).all()
    assert not completed[1].any()
    assert completed[2].max() == 1
    assert completed[2, 0] < 0.2 or 0 in sample.asked  # it shows next to nothing


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("budget", [1, 5, 23])
def test_no_more_forwards_than_the_budget(wide, first, budget, variant):
    with counting_forwards(wide.network) as count:
        seen = relook.ScoreCAM(variant, budget=budget)(Context(wide, first, CLASSES))
    assert count == [budget]
    assert seen.forwards == budget


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("budget", [24, 1000, None])
def test_a_budget_that_is_enough_is_exact(wide, first, budget, variant):
    exact = relook.ScoreCAM(variant)(Context(wide, first, CLASSES))
    seen = relook.ScoreCAM(variant, budget=budget)(Context(wide, first, CLASSES))
    assert torch.equal(seen.maps, exact.maps)
    assert seen.forwards == exact.forwards == 24


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_budget_brings_the_maps_closer(wide, first, variant):
    exact = relook.ScoreCAM(variant)(Context(wide, first, CLASSES)).maps
    off = [
        float(
            (relook.ScoreCAM(variant, budget=n)(Context(wide, first, CLASSES)).maps - exact)
            .abs()
            .mean()
        )
        for n in (2, 20)
    ]
    assert off[1] < off[0] / 2
    assert off[1] < 0.02


def test_several_classes_equal_one_at_a_time(wide, first):
    method = relook.ScoreCAM(budget=7)
    together = method(Context(wide, first, CLASSES)).maps
    for i in range(3):
        torch.testing.assert_close(
            together[i], method(Context(wide, first, CLASSES[i : i + 1])).maps[0]
        )


def test_chunk_size_changes_nothing(wide, first):
    whole = relook.ScoreCAM(budget=7)(Context(wide, first, CLASSES)).maps
    for chunk in (1, 3, 100):
        pieces = relook.ScoreCAM(budget=7, chunk=chunk)(Context(wide, first, CLASSES)).maps
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


def test_channel_order_changes_nothing(wide, first, noise):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    network = random_cnn(channels=24)
    with torch.no_grad():
        for weights in (network.conv2.weight, network.conv2.bias):
            weights.copy_(weights[order])
        network.fc.weight.copy_(network.fc.weight[:, order])
    shuffled = relook.Classifier(network, **OWN, target_layer="act")
    [again] = shuffled.first_looks(noise[:1])
    method = relook.ScoreCAM(budget=9)
    torch.testing.assert_close(
        method(Context(shuffled, again, CLASSES)).maps,
        method(Context(wide, first, CLASSES)).maps,
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(noise, first, wide, dtype):
    half = relook.Classifier(random_cnn(dtype, channels=24), **OWN, target_layer="act")
    [other] = half.first_looks(noise[:1].float())
    method = relook.ScoreCAM(budget=20)
    torch.testing.assert_close(
        method(Context(half, other, CLASSES)).maps.double(),
        method(Context(wide, first, CLASSES)).maps,
        rtol=0,
        atol=0.1,
    )


def test_fast_is_64(noise):
    network = random_cnn(channels=70)
    classifier = relook.Classifier(network, **OWN, target_layer="act")
    with counting_forwards(network) as count:
        relook.Corrector(classifier, k=2, budget="fast")(noise[:1])
    assert count == [1 + 64 + 2]


def test_the_corrector_passes_the_budget_on(wide, noise):
    with counting_forwards(wide.network) as count:
        named = relook.Corrector(wide, k=2, budget=5)(noise[:1])
    assert count == [1 + 5 + 2]
    mask = relook.looks.Mask(relook.ScoreCAM(budget=5))
    torch.testing.assert_close(relook.Corrector(wide, k=2, look=mask)(noise[:1]), named)


@pytest.mark.parametrize("budget", [0, -3, True])
def test_what_is_no_budget(wide, budget):
    with pytest.raises(RelookError, match="budget must be at least 1 forward pass"):
        relook.ScoreCAM(budget=budget)


def test_a_budget_without_score_cam_is_refused(wide):
    with pytest.raises(RelookError, match="CAM needs no forward"):
        make_look("poster", attribution="cam", budget=8)
    with pytest.raises(RelookError, match="'flip' has no budget"):
        relook.Corrector(wide, look="flip", budget=8)
    with pytest.raises(RelookError, match="set it on the object"):
        relook.Corrector(wide, look=Flip(), budget=8)
