"""The looks that need no map, and the presets that a file keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relook
from networks import counting_forwards
from relook.errors import ModelError, RelookError
from relook.geometry import cut_pixels
from relook.looks import Crops, Flip, Mask, Preset, make_look
from relook.looks.crops import corner_boxes
from relook.looks.larger import grown


class Means(nn.Module):
    """Says how red and how green an image is, and remembers what it was shown."""

    def __init__(self, only=None) -> None:
        super().__init__()
        self.only = only
        self.fc = nn.Linear(2, 2)
        self.shown: list[torch.Tensor] = []
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(2) * 4)
            self.fc.bias.zero_()

    def forward(self, x):
        if self.only and x.shape[-1] != self.only:
            raise AssertionError(f"input is {x.shape[-1]}, not {self.only}")
        self.shown.extend(x)
        return self.fc(x.mean(dim=(2, 3))[:, :2])


def means(size=8, crop_pct=None, **options):
    network = Means(**options)
    classifier = relook.Classifier(
        network, mean=(0, 0, 0), std=(1, 1, 1), input_size=size, crop_pct=crop_pct,
        interpolation="nearest",
    )  # fmt: skip
    network.shown.clear()
    return classifier


def numbered(height, width):
    """An image whose red is its column and whose green is its row."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, :, 0] = np.arange(width)
    array[:, :, 1] = np.arange(height)[:, None]
    return Image.fromarray(array)


def corners(shown):
    """(first column, first row, last column, last row) of every image that was shown."""
    return [
        tuple(int((255 * image[c, y, x]).round()) for y, x in ((0, 0), (-1, -1)) for c in (0, 1))
        for image in shown
    ]


def test_five_crops_are_the_centre_and_the_corners_of_the_resized_image():
    classifier = means(8, crop_pct=0.5)
    correction = relook.Corrector(classifier, look="fivecrop").correct(numbered(16, 24))
    assert corners(classifier.network.shown) == [
        (8, 4, 15, 11),  # the first look
        (0, 0, 7, 7),
        (16, 0, 23, 7),
        (0, 8, 7, 15),
        (16, 8, 23, 15),
    ]
    assert (correction.forwards, correction.cost) == (5, 5.0)
    answers = classifier(torch.stack(classifier.network.shown[:5]))
    torch.testing.assert_close(correction.after, answers.mean(dim=0))


def test_ten_crops_are_five_and_their_mirror_images():
    classifier = means(8, crop_pct=0.5)
    correction = relook.Corrector(classifier, look="tencrop").correct(numbered(16, 24))
    shown = corners(classifier.network.shown)
    assert len(shown) == correction.forwards == 10
    mirrored = {(right, top, left, bottom) for left, top, right, bottom in shown[:5]}
    assert set(shown[5:]) == mirrored
    answers = classifier(torch.stack(classifier.network.shown[:10]))
    torch.testing.assert_close(correction.after, answers.mean(dim=0))


def test_a_network_that_sees_the_whole_image_gets_crops_of_seven_eighths():
    assert corner_boxes((32, 16), (0, 0, 32, 16)) == [
        (0, 0, 28, 14), (4, 0, 32, 14), (0, 2, 28, 16), (4, 2, 32, 16)
    ]  # fmt: skip


def test_crops_of_pixels_alone_are_cut_from_the_pixels(cnn, noise):
    after = relook.Corrector(cnn, look="fivecrop")(noise)
    boxes = corner_boxes((16, 16), (0, 0, 16, 16))
    views = [torch.stack([cut_pixels(p, box, (16, 16)) for p in noise]) for box in boxes]
    expected = torch.stack([cnn(noise), *(cnn(view) for view in views)]).mean(dim=0)
    torch.testing.assert_close(after, expected)


def test_a_cut_of_all_pixels_at_their_size_is_the_pixels(noise):
    torch.testing.assert_close(cut_pixels(noise[0], (0, 0, 16, 16), (16, 16)), noise[0])
    half = cut_pixels(noise[0], (8, 0, 16, 16), (16, 8))
    torch.testing.assert_close(half, noise[0, :, :, 8:])


def test_a_larger_crop_is_nine_sevenths_and_reaches_the_edge():
    classifier = means(56, crop_pct=0.5)
    correction = relook.Corrector(classifier, look="larger").correct(numbered(112, 168))
    first, second = classifier.network.shown
    assert first.shape == (3, 56, 56)
    assert second.shape == (3, 72, 72)  # 56 · 9/7
    left, top, right, bottom = corners([second])[0]
    assert (left, top, right, bottom) == (28, 0, 139, 111)
    assert correction.forwards == 2
    assert correction.cost == pytest.approx(1 + (9 / 7) ** 2)
    answers = torch.cat([classifier(first[None]), classifier(second[None])])
    torch.testing.assert_close(correction.after, answers.mean(dim=0))


def test_a_box_grows_in_its_shape_about_its_centre():
    assert grown((8, 4, 16, 12), (24, 16)) == (4, 0, 20, 16)
    assert grown((0, 0, 24, 16), (24, 16)) == (0, 0, 24, 16)


def test_a_network_of_one_size_refuses_the_larger_crop_by_name():
    classifier = means(56, only=56)
    with pytest.raises(ModelError, match="takes no inputs of 72×72"):
        relook.Corrector(classifier, look="larger").correct(numbered(56, 56))


def test_the_gate_holds_crops_back():
    classifier = means(8)
    with counting_forwards(classifier.network) as count:
        correction = relook.Corrector(classifier, gate=0.0, look="tencrop").correct(numbered(9, 9))
    assert count == [1]
    assert not correction.corrected


def test_a_preset_makes_its_look():
    assert Preset("tencrop").make() == Crops(flip=True)
    assert Preset(fill="mean", budget=8).make() == Mask(
        relook.ScoreCAM(fill="mean", budget=8), "mean"
    )


def test_a_saved_preset_is_what_the_corrector_takes(tmp_path, cnn):
    file = tmp_path / "tuned.json"
    saved = Preset("poster", fill="mean", attribution="cam", k=2, gate=0.25)
    saved.save(file)
    assert Preset.read(file) == saved
    corrector = relook.Corrector(cnn, look=str(file))
    assert (corrector.k, corrector.gate) == (2, 0.25)
    assert corrector.look == Mask(relook.CAM(), "mean")
    given = relook.Corrector(cnn, k=3, gate=0.5, look=str(file))
    assert (given.k, given.gate) == (3, 0.5)


def test_options_have_the_last_word_over_a_file(tmp_path):
    file = tmp_path / "tuned.json"
    Preset("poster", fill="mean", k=2).save(file)
    assert Preset.of(str(file), fill="blur") == Preset("poster", fill="blur", k=2)
    assert Preset.of("flip") == Preset("flip")
    assert Preset.of("flip").make() == Flip()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as a saved look"),
        ("[]", "is no saved look"),
        (json.dumps({"k": 3}), "is no saved look"),
        (json.dumps({"look": "poster", "colour": 1}), "is no saved look"),
        (json.dumps({"look": "poster", "k": "three"}), "k, gate and budget are numbers"),
        (json.dumps({"look": "postr"}), "look 'postr' is unknown"),
        (json.dumps({"look": "poster", "fill": "pink"}), "pink"),
    ],
)
def test_a_file_that_is_no_preset_is_named(tmp_path, cnn, content, said):
    file = tmp_path / "tuned.json"
    file.write_text(content)
    with pytest.raises(RelookError, match=said) as raised:
        relook.Corrector(cnn, look=str(file))
    assert "tuned.json" in str(raised.value)


def test_an_unknown_look_lists_the_known_ones():
    with pytest.raises(
        RelookError, match="poster, flip, fivecrop, tencrop, larger, or name a file"
    ):
        make_look("flop")
