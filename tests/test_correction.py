"""The poster's equations with literal numbers, the gate, batches, and edge cases."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relook
from networks import HalvesNet, NaNNet, SmallCNN, counting_forwards, random_cnn
from relook.checks import check_pixels
from relook.correction import corrected_probabilities, correction_term, gap
from relook.evaluation import rivals_of
from relook.gate import EVERY_IMAGE, Gate
from relook.looks import LOOKS, Flip, Mask, Preset, SecondLook, Views


def as_image(pixels):
    return (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def test_equations_with_literal_numbers():
    y = torch.tensor([0.5, 0.25, 0.25])
    weights = torch.tensor([[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]])
    answers = torch.tensor([[0.2, 0.4, 0.4], [0.0, 1.0, 0.0]])
    r = correction_term(weights, answers)
    torch.testing.assert_close(r, torch.tensor([0.1, 0.45, 0.2]))
    # Y' = (0.6, 0.7, 0.45), which sums to 1 + 0.5 + 0.25.
    expected = torch.tensor([0.6, 0.7, 0.45]) / 1.75
    torch.testing.assert_close(corrected_probabilities(y, r), expected)


def test_gap():
    y = torch.tensor([0.05, 0.4, 0.3, 0.1, 0.08, 0.07])
    assert float(gap(y, 2)) == pytest.approx(0.1)
    assert float(gap(y, 5)) == pytest.approx(0.33)
    assert float(gap(y[:3] / 0.75, 5)) == pytest.approx(0.35 / 0.75)  # of the last, where fewer


def test_the_posters_correction_by_hand(halves, halves_pixels):
    """Y = (3/4, 1/4); f(M_1) = (9/10, 1/10), f(M_2) = (1/2, 1/2), so Y' = (1.55, 0.45)."""
    with counting_forwards(halves.network) as count:
        correction = relook.Corrector(halves).correct(as_image(halves_pixels))
    torch.testing.assert_close(correction.before, torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(correction.after, torch.tensor([0.775, 0.225]))
    assert correction.classes.tolist() == [0, 1]
    falling = torch.tensor([1, 0.75, 0.25, 0]).expand(4, 4)
    torch.testing.assert_close(correction.maps, torch.stack([falling, falling.flip(1)]))
    torch.testing.assert_close(correction.mask_images[0], halves_pixels * falling)
    torch.testing.assert_close(
        torch.stack([correction.view_of(i).probabilities for i in range(2)]),
        torch.tensor([[0.9, 0.1], [0.5, 0.5]]),
    )
    assert (correction.forwards, correction.cost) == (5, 5.0)  # 1 + 2 live channels + 2
    assert count == [5]
    assert correction.corrected
    assert not correction.changed


def test_map_values_up_to_the_threshold_become_zero(halves, halves_pixels):
    look = Mask(threshold=0.3)
    correction = relook.Corrector(halves, look=look).correct(as_image(halves_pixels))
    torch.testing.assert_close(correction.maps[0], torch.tensor([1, 0.75, 0, 0]).expand(4, 4))


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_hidden_pixels_become_the_fill(halves_pixels, fill):
    classifier = relook.Classifier(HalvesNet(), mean=(0.5, 0.25, 1), std=(1, 1, 1), input_size=4)
    look = Mask(relook.ScoreCAM(fill=fill))
    correction = relook.Corrector(classifier, look=look).correct(as_image(halves_pixels))
    hidden = torch.tensor({"black": (0, 0, 0), "mean": (0.5, 0.25, 1)}[fill])
    where = correction.maps[0] == 0
    assert where.any()
    for colour in range(3):
        assert (correction.mask_images[0, colour][where] == hidden[colour]).all()


def test_blur_keeps_the_colours_and_loses_the_detail(lite0, chelsea):
    from relook.fills import fill_image

    pixels = lite0.pixels(relook.images.open_image(chelsea))
    blurred = fill_image("blur", pixels, lite0.mean)
    torch.testing.assert_close(blurred.mean((1, 2)), pixels.mean((1, 2)), rtol=0.05, atol=0.02)
    assert float(blurred.diff(dim=2).abs().mean()) < 0.25 * float(pixels.diff(dim=2).abs().mean())


def test_blur_is_a_gaussian_of_a_twentieth_of_the_side():
    """Five pixels beyond a step edge, sigma 5.05: the normal distribution's 0.839."""
    from relook.fills import fill_image

    step = torch.zeros(3, 101, 101)
    step[:, :, 50:] = 1
    blurred = fill_image("blur", step, (0.0, 0.0, 0.0))
    expected = torch.distributions.Normal(0.0, 5.05).cdf(torch.tensor([-4.5, 0.5, 5.5]))
    torch.testing.assert_close(blurred[0, 50, [45, 50, 55]], expected, rtol=0, atol=0.01)


def test_flip_is_the_sum_of_both_answers(cnn, noise):
    corrector = relook.Corrector(cnn, look="flip")
    with counting_forwards(cnn.network) as count:
        after = corrector(noise)
    torch.testing.assert_close(after, (cnn(noise) + cnn(noise.flip(-1))) / 2)
    assert count == [6 + 0]


def test_flip_needs_no_maps(halves, halves_pixels):
    correction = relook.Corrector(halves, look=Flip()).correct(as_image(halves_pixels))
    assert correction.maps.shape == (0, 4, 4)
    assert correction.mask_images.shape == (0, 3, 4, 4)
    assert correction.view_of(0) is None
    assert (correction.forwards, correction.cost) == (2, 2.0)
    torch.testing.assert_close(correction.after, torch.tensor([0.75, 0.25]))


def test_a_look_of_ones_own_with_two_sizes_and_votes_for_one_class(cnn, noise):
    """A view may have another size and weigh for some classes only; cost counts its area."""

    class HalfSizeAndOwnVote:
        needs_activations = False
        needs_original = False

        def __call__(self, context):
            one_vote = torch.zeros(1, 4, dtype=torch.float64)
            one_vote[0, 2] = 3
            every_vote = torch.ones(1, 4, dtype=torch.float64)
            small = context.first.pixels[None, :, ::2, ::2]
            views = (Views(small, one_vote), Views(context.first.pixels[None] * 0.5, every_vote))
            return SecondLook(views)

    after = relook.Corrector(cnn, look=HalfSizeAndOwnVote())(noise)
    r = cnn(noise * 0.5)
    r[:, 2] += 3 * cnn(noise[:, :, ::2, ::2])[:, 2]
    expected = cnn(noise) + r
    torch.testing.assert_close(after, expected / expected.sum(1, keepdim=True))
    correction = relook.Corrector(cnn, look=HalfSizeAndOwnVote()).correct(as_image(noise[0]))
    assert (correction.forwards, correction.cost) == (3, 2.25)


@pytest.mark.parametrize("look", ["poster", "flip", "fivecrop", "tencrop", "larger"])
def test_batch_composition_changes_nothing(cnn, noise, look):
    corrector = relook.Corrector(cnn, k=2, look=look)
    together = corrector(noise)
    alone = torch.cat([corrector(image[None]) for image in noise])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(corrector(noise.flip(0)), alone.flip(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(together.sum(1), torch.ones(3, dtype=torch.float64))


def test_an_empty_batch(cnn, noise):
    assert relook.Corrector(cnn)(noise[:0]).shape == (0, 4)


def test_each_image_of_a_batch_has_its_own_classes(halves, halves_pixels):
    green = torch.zeros(3, 4, 4)
    green[1, :, :2], green[1, :, 2:] = 1, 0.9
    assert halves(torch.stack([halves_pixels, green])).argmax(1).tolist() == [0, 1]
    corrector = relook.Corrector(halves, k=1)
    together = corrector(torch.stack([halves_pixels, green]))
    alone = [corrector(image[None])[0] for image in (halves_pixels, green)]
    torch.testing.assert_close(together, torch.stack(alone))


def test_the_gate_leaves_a_sure_image_at_one_forward(halves, halves_pixels):
    """The gap is 0.5 exactly, and only below the gate is looked again."""
    for gate, forwards in [(0.5, 1), (0.51, 5), (0.0, 1), (None, 5), ("none", 5)]:
        with counting_forwards(halves.network) as count:
            correction = relook.Corrector(halves, gate=gate).correct(as_image(halves_pixels))
        assert (correction.forwards, count) == (forwards, [forwards])
        assert correction.corrected is (forwards == 5)
        if forwards == 1:
            assert torch.equal(correction.after, correction.before)
            assert correction.maps.shape == (0, 4, 4)
            assert correction.classes.tolist() == [0, 1]


def test_gate_works_image_by_image(halves, halves_pixels):
    grey = torch.full((3, 4, 4), 0.5)
    sure = torch.zeros(3, 4, 4)
    sure[0] = 1
    with counting_forwards(halves.network) as count:
        after = relook.Corrector(halves, gate=0.6)(torch.stack([sure, halves_pixels, grey]))
    torch.testing.assert_close(after[0], halves(sure[None])[0])
    torch.testing.assert_close(after[1], torch.tensor([0.775, 0.225]))
    assert count == [3 + 4]  # grey is unsure too, but all its maps are flat: nothing to ask


def test_k_of_one_and_of_all_classes(cnn, noise):
    for k in (1, 4):
        with counting_forwards(cnn.network) as count:
            correction = relook.Corrector(cnn, k=k).correct(as_image(noise[0]))
        assert correction.k == k
        assert correction.maps.shape == (k, 16, 16)
        assert [view.of for view in correction.views] == list(range(k))
        assert count == [1 + 6 + k]
        assert float(correction.after.sum()) == pytest.approx(1)


def test_k_defaults_to_five_or_all(cnn, halves):
    assert relook.Corrector(cnn).k == 4
    assert relook.Corrector(halves).k == 2


@pytest.mark.parametrize("k", [0, -1, 3])
def test_k_out_of_range(halves, k):
    with pytest.raises(relook.RelookError, match="k must be 1 to 2, the number of classes"):
        relook.Corrector(halves, k=k)


@pytest.mark.parametrize("gate", [-0.1, 1.5, float("nan")])
def test_gate_out_of_range(halves, gate):
    with pytest.raises(relook.RelookError, match="gate must be a gap from 0 to 1"):
        relook.Corrector(halves, gate=gate)


def test_a_flat_map_contributes_no_term_and_no_forward(halves):
    """All of a grey image's channels are constant: nothing was found anywhere."""
    grey = np.full((4, 4, 3), 128, np.uint8)
    with counting_forwards(halves.network) as count:
        correction = relook.Corrector(halves).correct(grey)
    assert count == [1]
    assert correction.corrected
    torch.testing.assert_close(correction.after, correction.before)
    assert not correction.maps.any()
    assert correction.mask_images.shape == (2, 3, 4, 4)
    assert not correction.mask_images.any()  # all of them hidden, in black
    assert [correction.view_of(i).probabilities for i in range(2)] == [None, None]
    assert correction.views == ()
    assert correction.forwards == 1


def test_one_flat_map_among_others(halves, halves_pixels):
    class OnlyTheSecond:
        def __call__(self, context):
            maps = torch.zeros(len(context.classes), 4, 4)
            maps[1, 0, 0] = 1
            return relook.attribution.AttributionMaps(maps, 0)

    corrector = relook.Corrector(halves, look=Mask(OnlyTheSecond()))
    correction = corrector.correct(as_image(halves_pixels))
    assert correction.forwards == 2
    assert correction.view_of(0).probabilities is None
    assert not correction.mask_images[0].any()
    assert correction.mask_images[1].any()
    expected = correction.before + 0.25 * correction.view_of(1).probabilities
    torch.testing.assert_close(correction.after, expected / expected.sum())


def test_maps_without_a_pixel_above_the_threshold_are_flat(halves, halves_pixels):
    class Faint:
        def __call__(self, context):
            return relook.attribution.AttributionMaps(
                torch.full((len(context.classes), 4, 4), 0.1), 0
            )

    correction = relook.Corrector(halves, look=Mask(Faint())).correct(as_image(halves_pixels))
    assert correction.forwards == 1


def test_state_is_as_before(noise):
    network = random_cnn(batch_norm=True)
    network.train()
    network.norm.eval()
    network.conv1.weight.requires_grad_(False)
    classifier = relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    after = relook.Corrector(classifier)(noise)
    check_untouched(network, before)
    assert not after.requires_grad
    assert torch.is_grad_enabled()


def check_untouched(network, before):
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name  # running statistics among them
    assert network.training
    assert network.act.training
    assert not network.norm.training
    assert not network.conv1.weight.requires_grad
    assert network.conv2.weight.requires_grad
    assert all(p.grad is None for p in network.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())


def test_state_is_as_before_after_an_exception(noise):
    class Breaks(SmallCNN):
        fuse = 3

        def forward(self, x):
            Breaks.fuse -= 1
            if Breaks.fuse < 0:
                raise RuntimeError("half-way")
            return super().forward(x)

    torch.manual_seed(0)
    network = Breaks(batch_norm=True).double().train()
    network.norm.eval()
    network.conv1.weight.requires_grad_(False)
    classifier = relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    corrector = relook.Corrector(classifier, look=Mask(relook.ScoreCAM(chunk=2)))
    with pytest.raises(RuntimeError, match="half-way"):
        corrector(noise)
    check_untouched(network, before)


def test_nan_names_the_image(tmp_path):
    classifier = relook.Classifier(NaNNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4)
    file = tmp_path / "blue.png"
    Image.new("RGB", (4, 4), (0, 0, 255)).save(file)
    with pytest.raises(relook.NotFiniteError, match=r"blue\.png: the network returned NaN"):
        relook.Corrector(classifier).correct(file)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(1, 3, 4, 4).byte(), "must be floats"),
        (torch.zeros(3, 4, 4), "shape"),
        (torch.zeros(1, 1, 4, 4), "shape"),
        (torch.full((1, 3, 4, 4), -2.0), "before mean/std normalisation"),
        (torch.full((1, 3, 4, 4), 255.0), "before mean/std normalisation"),
        (torch.full((1, 3, 4, 4), float("nan")), r"must be in \[0, 1\]"),
    ],
)
def test_pixels_that_are_none(pixels, message):
    with pytest.raises(relook.RelookError, match=message):
        check_pixels(pixels)


def test_what_is_no_classifier_and_no_tensor(halves):
    with pytest.raises(relook.RelookError, match=r"wrap your network in relook\.Classifier"):
        relook.Corrector.__init__.__wrapped__(
            relook.Corrector.__new__(relook.Corrector), HalvesNet()
        )
    with pytest.raises(relook.RelookError, match=r"not a ndarray; for a file, PIL image or array"):
        check_pixels(np.zeros((1, 3, 4, 4)))


def test_a_correction_in_short(halves, halves_pixels):
    correction = relook.Corrector(halves).correct(as_image(halves_pixels))
    assert repr(correction) == "<Correction <ndarray>: red → red, 5 forwards>"


def test_unknown_look(halves):
    with pytest.raises(relook.RelookError, match="look 'blink' is unknown; choose one of poster"):
        relook.Corrector(halves, look="blink")


def test_a_corrector_is_a_module(halves, halves_pixels):
    corrector = relook.Corrector(halves)
    assert isinstance(corrector, nn.Module)
    assert "classifier.network.fc.weight" in corrector.state_dict()
    assert corrector.double()(halves_pixels[None]).dtype == torch.float64


def test_json_of_a_correction(halves, halves_pixels):
    row = relook.Corrector(halves).correct(as_image(halves_pixels)).to_json()
    assert set(row) == {
        "image", "model", "k", "corrected", "before", "after", "forwards", "cost", "seconds"
    }  # fmt: skip
    assert row["before"] == [
        {"class": 0, "label": "red", "probability": pytest.approx(0.75)},
        {"class": 1, "label": "green", "probability": pytest.approx(0.25)},
    ]


def through_torch(corrector):
    file = io.BytesIO()
    torch.save(corrector, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(corrector, protocol):
    return pickle.loads(pickle.dumps(corrector, protocol))  # noqa: S301


@pytest.mark.parametrize("look", [*LOOKS, "zoom+flip"])
def test_a_copy_answers_as_the_original(look):
    """A deep copy, one that went through torch.save, and one of every pickle protocol."""
    classifier = relook.load("networks:make_torn")
    corrector = relook.Corrector(classifier, k=3, look=look)
    pixels = torch.rand(2, 3, 16, 16)
    answers = corrector(pixels)
    copies = [copy.deepcopy(corrector), through_torch(corrector)]
    copies += [pickled(corrector, protocol) for protocol in range(6)]
    for other in copies:
        assert torch.equal(other(pixels), answers)
        assert (other.k, other.gate) == (corrector.k, corrector.gate)
        assert other.classifier.memory_format == classifier.memory_format


@pytest.mark.parametrize("source", ["ONNX", "channels first"])
def test_copies_of_other_networks(tmp_path, source):
    if source == "ONNX":
        relook.export(relook.load("networks:make_torn"), tmp_path / "NET.ONNX")
        classifier = relook.load(tmp_path / "NET.ONNX")
    else:
        maps, tail = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(64, 3)
        network = nn.Sequential(maps, Rows(), tail)
        classifier = relook.Classifier(network, mean=(0,) * 3, std=(1,) * 3, input_size=16)
    assert classifier.memory_format == torch.contiguous_format
    corrector = relook.Corrector(classifier)
    pixels = torch.rand(2, 3, 16, 16)
    answers = corrector(pixels)
    for protocol in (0, 2, 4):
        assert torch.equal(pickled(corrector, protocol)(pixels), answers)


class Rows(nn.Module):
    """Takes its input for rows of numbers as they lie in memory."""

    def forward(self, x):
        return x.view(len(x), -1)


def test_another_process_answers_the_same(halves, halves_pixels):
    corrector = relook.Corrector(halves)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(corrector, (halves_pixels[None],))
    assert torch.equal(found, corrector(halves_pixels[None]))


def test_numbers_of_other_libraries(halves, halves_pixels, tmp_path):
    expected = relook.Corrector(halves, k=1, gate=0.75, budget=3)(halves_pixels[None])
    for k, gate, budget in (
        (1.0, np.float32(0.75), np.int64(3)),
        (np.int8(1), torch.tensor(0.75), 3.0),
        (torch.tensor(1), np.array(0.75), torch.tensor(3)),
    ):
        corrector = relook.Corrector(halves, k=k, gate=gate, budget=budget)
        assert (corrector.k, corrector.gate) == (1, Gate(0.75))
        assert type(corrector.k) is int
        assert type(corrector.gate.below) is float
        assert corrector.look == relook.Corrector(halves, k=1, budget=3).look
        assert torch.equal(corrector(halves_pixels[None]), expected)
    assert relook.Corrector(halves, gate="none", look=Flip()).gate == EVERY_IMAGE
    # What is chosen by such numbers can be saved.
    Preset.of("flip", k=np.int64(2), gate=np.float64(0.5)).save(tmp_path / "look.json")
    assert Preset.read(tmp_path / "look.json") == Preset.of("flip", k=2, gate=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": True}, "k must be a whole number, not True"),
        ({"k": 1.5}, "k must be a whole number, not 1.5"),
        ({"k": float("nan")}, "k must be a whole number, not nan"),
        ({"k": np.array([1, 2])}, "k must be a whole number"),
        ({"k": np.bool_(True)}, "k must be a whole number"),
        ({"gate": np.float32("nan")}, "gate must be a gap from 0 to 1, or none"),
        ({"gate": True}, "gate must be a gap from 0 to 1, or none; not True"),
        ({"gate": np.float64(1.5)}, "gate must be a gap from 0 to 1, or none; not 1.5"),
        ({"budget": 2.5}, "budget must be a whole number, not 2.5"),
        ({"budget": True}, "budget must be a whole number, not True"),
        ({"budget": 0}, "budget must be at least 1 forward pass"),
    ],
)
def test_numbers_that_are_none(halves, options, message):
    with pytest.raises(relook.RelookError, match=message):
        relook.Corrector(halves, **options)


def test_a_tuned_look_by_its_path(halves, halves_pixels, tmp_path, monkeypatch):
    file = tmp_path / "tuned.json"
    Preset.of("flip", k=1, gate=0.9).save(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    for look in (file, str(file), Path("~/tuned.json"), "~/tuned.json", np.str_(file)):
        corrector = relook.Corrector(halves, look=look)
        assert (corrector.k, corrector.gate, corrector.look) == (1, Gate(0.9), Flip())
    with pytest.raises(relook.RelookError, match=r"none\.json: cannot be read as a saved look"):
        relook.Corrector(halves, look=tmp_path / "none.json")
    rivals = rivals_of(relook.Corrector(halves), [file, "fivecrop"])
    assert list(rivals) == [str(file), "fivecrop"]
    assert rivals[str(file)].gate == Gate(0.9)
