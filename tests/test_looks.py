"""The looks that need no map, and the presets that a file keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relook
from networks import HalvesNet, counting_forwards
from relook.attribution import AttributionMaps
from relook.errors import ModelError, RelookError
from relook.gate import Gate
from relook.geometry import cut_pixels
from relook.looks import (
    Crops,
    Flip,
    Larger,
    Mask,
    Mirrored,
    Preset,
    Together,
    Whole,
    Zoom,
    make_look,
)
from relook.looks.crops import corner_boxes
from relook.looks.frame import grown
from relook.looks.larger import larger_size
from relook.looks.weights import weigh
from relook.looks.zoom import fitted, region


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
        relook.Corrector(classifier, look="larger").correct(numbered(112, 112))


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
    saved = Preset.of("poster", fill="mean", attribution="cam", k=2, gate=0.25)
    saved.save(file)
    assert Preset.read(file) == saved
    corrector = relook.Corrector(cnn, look=str(file))
    assert (corrector.k, corrector.gate) == (2, Gate(0.25))
    assert corrector.look == Mask(relook.CAM(), "mean")
    given = relook.Corrector(cnn, k=3, gate=0.5, look=str(file))
    assert (given.k, given.gate) == (3, Gate(0.5))


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
        ("[]", "is not a saved look"),
        (json.dumps({"k": 3}), "is not a saved look"),
        (json.dumps({"look": "poster", "colour": 1}), "is not a saved look"),
        (json.dumps({"look": "poster", "k": "three"}), "k, gate and budget must be numbers"),
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
        RelookError,
        match="poster, quick, best, around, closer, zoom, flip, whole, larger, uncropped, ends, rotations, "
        "symmetries, fivecrop, tencrop or network:MODEL, several",
    ):
        make_look("flop")


def test_what_views_weigh():
    y = torch.tensor([0.1, 0.5, 0.3, 0.1])
    classes = torch.tensor([1, 2])
    expected = {
        "poster": [[0.5] * 4, [0.3] * 4],
        "share": [[0.625] * 4, [0.375] * 4],
        "doubt": [[0.625 * 0.8] * 4, [0.375 * 0.8] * 4],  # 1 − (0.5 − 0.3)
        "own": [[0, 1, 0, 0], [0, 0, 1, 0]],
        "mean": [[0.5] * 4, [0.5] * 4],
    }
    for rule, weights in expected.items():
        torch.testing.assert_close(weigh(rule, y, classes), torch.tensor(weights).float())
    with pytest.raises(RelookError, match="choose one of poster, share, doubt, own, mean"):
        weigh("votes", y, classes)


def test_the_region_holds_all_that_is_at_least_the_threshold():
    seen = torch.zeros(4, 8)
    seen[1, 2], seen[2, 5], seen[3, 7] = 1.0, 0.4, 0.39
    assert region(seen, 0.4) == (2 / 8, 1 / 4, 6 / 8, 3 / 4)
    assert region(seen, 1.0) == (2 / 8, 1 / 4, 3 / 8, 2 / 4)
    assert region(seen * 0.5, 0.4) == (2 / 8, 1 / 4, 6 / 8, 3 / 4)  # of its own maximum


def test_the_box_keeps_the_shape_of_what_was_shown_and_stays_inside():
    shown, extent = (10.0, 0.0, 30.0, 20.0), (40, 20)
    # A quarter of the width, half of the height: a square of half the sides about its centre.
    assert fitted((0.5, 0.25, 0.75, 0.75), shown, extent, 0, 0.1) == (17.5, 5, 27.5, 15)
    # 20 % more on each side: 14 pixels.
    assert fitted((0.5, 0.25, 0.75, 0.75), shown, extent, 0.2, 0.1) == pytest.approx(
        (15.5, 3, 29.5, 17)
    )
    # In a corner it is moved, not cut; never smaller than `smallest`.
    assert fitted((0, 0, 0.1, 0.1), shown, extent, 0, 0.5) == (6, 0, 16, 10)
    assert fitted((0.9, 0.9, 1, 1), shown, extent, 0, 0.5) == pytest.approx((24, 10, 34, 20))
    # Never larger than the image.
    assert fitted((0, 0, 1, 1), shown, extent, 0.5, 0.1) == (10, 0, 30, 20)


def test_zoom_cuts_each_class_from_the_original(halves):
    """Red in one corner of a fine original, green in the opposite one: the views are the corners."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32, 0] = image[32:, 32:, 1] = 255
    correction = relook.Corrector(halves, look=Zoom(threshold=0.6, weights="own")).correct(image)
    assert correction.forwards == 1 + 2
    red, green = views = torch.stack([correction.view_of(i).pixels for i in range(2)])
    assert float(red[0].mean()) > 0.9
    assert float(green[1].mean()) > 0.9
    answers = halves(views)
    expected = correction.before.clone()
    expected[correction.classes[0]] += answers[0, correction.classes[0]]
    expected[correction.classes[1]] += answers[1, correction.classes[1]]
    torch.testing.assert_close(correction.after, expected / expected.sum())


def test_a_flat_map_gets_no_zoom(halves):
    black = np.zeros((8, 8, 3), np.uint8)
    correction = relook.Corrector(halves, look="zoom").correct(black)
    assert correction.forwards == 1
    torch.testing.assert_close(correction.after, correction.before)


def test_the_whole_is_the_larger_crop_at_the_networks_size():
    classifier = means(56, crop_pct=0.5)
    correction = relook.Corrector(classifier, look="whole").correct(numbered(112, 168))
    _, second = classifier.network.shown
    assert second.shape == (3, 56, 56)
    # Every second pixel of the centre square, of which the first column is 28.
    assert corners([second])[0][0] in (28, 29)
    assert corners([second])[0][2] in (138, 139)
    assert (correction.forwards, correction.cost) == (2, 2.0)
    seen_all = relook.Corrector(means(8), look="whole").correct(numbered(9, 9))
    assert seen_all.forwards == 1  # there is nothing more to see


def test_looks_compose(halves, cnn, noise):
    assert make_look("zoom+flip") == Together((Zoom(), Flip()))
    assert make_look("poster+whole", fill="mean").looks[1] == Whole()
    assert make_look("zoom+poster", budget=8).looks[0].attribution == relook.ScoreCAM(budget=8)
    with pytest.raises(RelookError, match="look 'flop' is unknown"):
        make_look("zoom+flop")
    with pytest.raises(RelookError, match=r"'zoom\+flip' has no fill"):
        make_look("zoom+flip", fill="mean")
    y, mirrored = cnn(noise), cnn(noise.flip(-1))
    zoom = relook.Corrector(cnn, k=2, look=Zoom())
    alone = zoom(noise)
    together = relook.Corrector(cnn, k=2, look="zoom+flip")(noise)
    # Zoom's views weigh 1 in all: Y + Z = 2 · alone; with the mirror image 3 in all.
    torch.testing.assert_close(together, (2 * alone + mirrored) / 3)
    with counting_forwards(cnn.network) as count:
        outcomes = list(
            relook.Corrector(cnn, k=2, look="zoom+flip").look_again(cnn.first_looks(noise))
        )
    assert [o.forwards for o in outcomes] == [1 + 2 + 1] * 3
    assert count == [3 * 4]
    assert y.shape == together.shape


def test_pictures_of_a_zoom_show_what_was_cut(tmp_path, halves):
    from relook.report.picture import save_picture
    from relook.report.story import tell

    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32, 0] = image[:, 32:, 1] = 255
    story = tell(relook.Corrector(halves, look="zoom+flip").correct(image))
    assert story.view_name == "zoomed"
    assert [mask.label for mask in story.masks] == ["red", "green"]
    save_picture(story, tmp_path / "zoom.png")
    assert (tmp_path / "zoom.png").stat().st_size > 10_000


def test_a_larger_input_is_never_more_than_the_image_has():
    assert larger_size((224, 224), 10.0) == (288, 288)
    assert larger_size((224, 224), 299 / 224) == (288, 288)
    assert larger_size((240, 240), 10.0) == (304, 304)
    assert larger_size((240, 240), 299 / 240) == (296, 296)
    assert larger_size((224, 224), 231 / 224) == (224, 224)  # not one step of 8
    assert larger_size((10, 10), 10.0) == (10, 10)  # a step of 8 would be more than 9/7
    assert larger_size((224, 160), 1.1) == (240, 176)
    classifier = means(56)  # sees all of a 56×56 image
    assert relook.Corrector(classifier, look="larger").correct(numbered(56, 56)).forwards == 1


def test_where_it_is_not_required_a_network_of_one_size_gets_no_larger_input():
    classifier = means(56, only=56)
    corrector = relook.Corrector(classifier, look=Larger(required=False))
    assert corrector.correct(numbered(112, 112)).forwards == 1
    assert not classifier.takes(72, 72)
    any_size = means(56)
    corrector = relook.Corrector(any_size, look=Larger(required=False))
    with counting_forwards(any_size.network) as count:
        assert [corrector.correct(numbered(112, 112)).forwards for _ in range(3)] == [2, 2, 2]
    assert count == [3 * 2 + 1]  # whether it takes 72×72 is asked once


def test_mirrored_asks_about_every_view_twice():
    classifier = means(8, crop_pct=0.5)
    correction = relook.Corrector(classifier, look=Mirrored(Whole())).correct(numbered(16, 24))
    first, whole, mirrored = classifier.network.shown
    torch.testing.assert_close(mirrored, whole.flip(-1))
    answers = classifier(torch.stack([first, whole, mirrored]))
    torch.testing.assert_close(correction.after, answers.mean(dim=0))
    assert [view.what for view in correction.views] == ["largest part", "largest part, mirrored"]
    torch.testing.assert_close(correction.views[1].pixels, mirrored)
    torch.testing.assert_close(correction.views[1].probabilities, answers[2])


def test_mirrored_takes_the_other_look_where_there_is_no_view():
    sees_all = means(8)
    assert relook.Corrector(sees_all, look=Mirrored(Whole())).correct(numbered(8, 8)).forwards == 1
    quick = relook.Corrector(sees_all, gate="none", look="quick").correct(numbered(8, 8))
    flip = relook.Corrector(sees_all, look="flip").correct(numbered(8, 8))
    assert quick.forwards == flip.forwards == 2
    torch.testing.assert_close(quick.after, flip.after)


def test_a_hard_mask_keeps_or_hides_whole_pixels(halves, halves_pixels):
    """The red class's map falls 1, 3/4, 1/4, 0 over the columns; at 0.3 two columns are left."""
    look = Mask(relook.CAM(), threshold=0.3, hard=True)
    [outcome] = relook.Corrector(halves, k=1, look=look).look_again(
        halves.first_looks(halves_pixels[None])
    )
    kept = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(3, 4, 4)
    torch.testing.assert_close(outcome.second.views[0].pixels[0], halves_pixels * kept)
    falling = torch.tensor([1, 0.75, 0, 0]).expand(4, 4)
    torch.testing.assert_close(outcome.second.maps[0], falling)


def test_mask_images_can_vote_for_their_own_class(cnn, noise):
    [own] = relook.Corrector(cnn, k=2, look=Mask(relook.CAM(), weights="own")).look_again(
        cnn.first_looks(noise[:1])
    )
    weights = torch.zeros(2, 4, dtype=torch.float64)
    weights[0, own.classes[0]] = weights[1, own.classes[1]] = 1
    torch.testing.assert_close(own.second.views[0].weights, weights)
    expected = own.first.probabilities + (weights * own.view_answers[0]).sum(dim=0)
    torch.testing.assert_close(own.after, expected / expected.sum())


def fine_halves():
    """The same network on 16×16 pixels: its maps are 8×8."""
    return relook.Classifier(
        HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=16, labels=["red", "green"],
        interpolation="nearest",
    )  # fmt: skip


def test_a_joint_zoom_is_one_box_around_all_classes_and_one_vote():
    """Red in one corner, green beside it: the box around both, made square, is a quarter."""
    classifier = fine_halves()
    image = np.zeros((64, 64, 3), np.uint8)
    image[:16, :16, 0] = image[:16, 16:32, 1] = 255
    correction = relook.Corrector(classifier, look=Zoom(threshold=0.6, joint=True)).correct(image)
    assert correction.forwards == 1 + 1
    [view] = correction.views
    assert (view.what, view.of) == ("zoomed", None)
    expected = torch.zeros(3, 16, 16)
    expected[0, :8, :8] = expected[1, :8, 8:] = 1
    torch.testing.assert_close(view.pixels, expected)
    alone = classifier(view.pixels[None])[0]
    torch.testing.assert_close(correction.after, (correction.before + alone) / 2)
    one = relook.Corrector(classifier, k=1, look=Zoom(threshold=0.6, joint=True))
    [closer] = one.correct(image).views  # red leads by its bias
    torch.testing.assert_close(closer.pixels[0], torch.ones(16, 16))


def test_a_zoom_shows_no_pixel_of_the_original_larger_than_allowed():
    """A network that takes 16 pixels a side, and a map that is one point in the middle."""

    class Point:
        def __call__(self, context):
            maps = torch.zeros(len(context.classes), 16, 16)
            maps[:, 8, 8] = 1
            return AttributionMaps(maps, forwards=0)

    def seen(pixels, **options):
        corrector = relook.Corrector(fine_halves(), k=1, look=Zoom(Point(), **options))
        correction = corrector.correct(numbered(pixels, pixels))
        [(left, top, right, bottom)] = corners([view.pixels for view in correction.views])
        assert right - left == bottom - top
        return right - left + 1

    assert seen(128, smallest=0.01, magnification=1.0) == 16  # pixel for pixel
    assert seen(128, smallest=0.01, magnification=2.0) == 8
    assert seen(32, smallest=0.01, magnification=1.0) == 16
    assert seen(32, smallest=0.01, magnification=2.0) == 8
    assert seen(32, smallest=0.75, magnification=2.0) == 24
    # A network that sees every pixel of the image already: there is nothing to zoom into.
    look = Zoom(Point(), smallest=0.01, magnification=1.0, joint=True)
    assert relook.Corrector(fine_halves(), look=look).correct(numbered(16, 16)).forwards == 1
    # Nor is it zoomed out where there are fewer pixels yet, and a crop that could be left.
    cropped = relook.Classifier(
        HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=16, crop_pct=0.5
    )
    assert relook.Corrector(cropped, look=look).correct(numbered(20, 20)).forwards == 1


def test_a_zoom_weighs_less_the_surer_the_first_answer(halves):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:16, :16, 0] = image[:16, 16:32, 1] = 255
    look = Zoom(threshold=0.6, joint=True, weights="doubt")
    correction = relook.Corrector(fine_halves(), look=look).correct(image)
    y, view = correction.before, correction.views[0].probabilities
    doubt = 1 - float(y.max() - y.min())
    torch.testing.assert_close(correction.after, (y + doubt * view) / (1 + doubt))


def test_maps_of_a_zoom_are_shown_from_a_tenth_on(cnn, noise):
    [outcome] = relook.Corrector(cnn, look=Zoom()).look_again(cnn.first_looks(noise[:1]))
    maps = outcome.second.maps
    assert float(maps[maps > 0].min()) > 0.1
    assert float(maps.max()) == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [{"magnification": 0}, {"threshold": 0}, {"margin": -1}])
def test_a_zoom_that_cannot_be_is_refused(wrong):
    with pytest.raises(RelookError, match=next(iter(wrong))):
        Zoom(**wrong)


@pytest.mark.parametrize(("name", "views", "most"), [("quick", 2, 4), ("best", 4, 8)])
def test_the_presets_cost_what_they_promise(lite0, name, views, most):
    """640×427 photos: all of it is 256×384, or smaller to cost no more than 2."""
    from relook.demo import photos

    corrector = relook.Corrector(lite0, look=name, gate="none")
    asks_all = relook.Corrector(lite0, k=corrector.k, look=corrector.look.look)
    with counting_forwards(lite0.network) as count:
        correction = asks_all.correct(photos()[1])
        asked_of_pytorch = count[0]
    assert correction.forwards == 1 + views
    # Of PyTorch, or of the exported network; and whether the network takes another size.
    assert 1 <= asked_of_pytorch <= correction.forwards + 1
    sizes = [view.pixels.shape[-2:] for view in correction.views]
    assert correction.cost == pytest.approx(1 + sum(h * w for h, w in sizes) / 224**2)
    assert correction.cost <= most
    in_turn = corrector.correct(photos()[1])
    assert in_turn.cost <= correction.cost
    assert [v.what for v in in_turn.views] == [v.what for v in correction.views][
        : in_turn.forwards - 1
    ]
    answers = torch.stack([view.probabilities for view in correction.views])
    top = correction.before.topk(2).values
    doubt = float(1 - (top[0] - top[1]))
    weights = torch.tensor([1.0, 0.5] if name == "quick" else [0.75, 0.75 * doubt, 0.375, 0.75])
    expected = correction.before + (weights.unsqueeze(1) * answers).sum(dim=0)
    torch.testing.assert_close(correction.after, expected / expected.sum())
    assert correction.k == (2 if name == "best" else 5)


def test_best_is_about_two_classes_unless_that_is_said(cnn, tmp_path):
    assert relook.Corrector(cnn, look="best").k == 2
    assert relook.Corrector(cnn, look="best+flip").k == 2
    assert relook.Corrector(cnn, look="best", k=3).k == 3
    assert relook.Corrector(cnn, look="quick").k == 4
    Preset("best", k=0).save(tmp_path / "none.json")
    with pytest.raises(RelookError, match="k must be 1 to 4"):
        relook.Corrector(cnn, look=tmp_path / "none.json")
    with pytest.raises(RelookError, match="k must be 1 to 4"):
        relook.Corrector(cnn, k=0, look="best")


def test_best_works_where_there_is_no_cam_and_no_other_size():
    class FlatHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2)
            self.fc = nn.Linear(4 * 7 * 7, 3)

        def forward(self, x):
            return self.fc(self.conv(x).relu().flatten(1))

    torch.manual_seed(0)
    classifier = relook.Classifier(
        FlatHead(), mean=(0, 0, 0), std=(1, 1, 1), input_size=16, crop_pct=0.5, target_layer="conv"
    )
    image = np.zeros((64, 64, 3), np.uint8)
    image[24:32, 24:32] = 255  # what there is to see is in one place
    before = torch.get_rng_state()
    correction = relook.Corrector(classifier, look="best", gate="none").correct(image)
    assert [view.what for view in correction.views] == [
        "largest part, mirrored", "zoomed", "largest part"
    ]  # fmt: skip
    assert correction.cost == correction.forwards == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_best_works_where_no_layer_has_maps():
    """What can be asked is asked, and what cannot is said."""
    classifier = means(8, crop_pct=0.5)
    asks_all = relook.Corrector(classifier, look="best").look.look
    correction = relook.Corrector(classifier, look=asks_all).correct(numbered(16, 32))
    assert [view.what for view in correction.views] == [
        "uncropped, mirrored", "largest part", "uncropped"
    ]  # fmt: skip
    assert correction.left_out == ("without a closer look, since the network has no target layer",)
    with pytest.raises(ModelError, match="found no layer with maps"):
        relook.Corrector(means(8), look="zoom")


def test_an_answer_for_every_place_is_no_answer():
    """A fully convolutional network gives more than one answer for a larger input."""

    class Convolutional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Conv2d(4, 3, 56)

        def forward(self, x):
            return self.head(self.conv(x).relu()).flatten(1)

    torch.manual_seed(0)
    classifier = relook.Classifier(
        Convolutional(), mean=(0, 0, 0), std=(1, 1, 1), input_size=56, target_layer="conv"
    )
    assert not classifier.takes(72, 72)
    with pytest.raises(
        ModelError, match=r"takes no inputs of 72×72 \(it answers with \(1, 867\)\)"
    ):
        relook.Corrector(classifier, look="larger").correct(numbered(112, 112))
    kinds = {
        v.what for v in relook.Corrector(classifier, look="best").correct(numbered(112, 112)).views
    }
    assert "larger input" not in kinds


def test_what_was_spent_on_maps_counts_where_another_look_stands_in(halves, halves_pixels):
    zoom = Zoom(relook.GradCAM(), joint=True, magnification=1.0)
    corrector = relook.Corrector(halves, look=Mirrored(zoom, otherwise=Flip()))
    with counting_forwards(halves.network) as count:
        [outcome] = corrector.look_again(halves.first_looks(halves_pixels[None]))
    assert outcome.forwards == count[0] == 1 + 1 + 1
    assert outcome.cost == 1 + 1 + 2 + 1
    assert len(outcome.second.maps) == 2


def test_pictures_and_pages_show_every_view(tmp_path, halves):
    from relook.report.picture import save_picture
    from relook.report.story import tell

    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32, 0] = image[:, 32:, 1] = 255
    story = tell(relook.Corrector(halves, look="tencrop").correct(image))
    assert [view.what for view in story.views] == (
        ["corner"] * 4 + ["corner, mirrored"] * 4 + ["mirror image"]
    )
    assert story.masks == ()
    assert {view.answer for view in story.views} <= {"red", "green"}
    joint = tell(relook.Corrector(halves, look=Zoom(joint=True, threshold=0.9)).correct(image))
    assert [mask.mask_tile for mask in joint.masks] == [None, None]
    assert joint.view_name == ""
    for name, told in (("ten", story), ("joint", joint)):
        save_picture(told, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def wide():
    """Red left, green right: twice as wide as high."""
    image = np.zeros((448, 896, 3), np.uint8)
    image[:, :448, 0] = image[:, 448:, 1] = 255
    return Image.fromarray(image)


def test_a_network_of_one_size_is_said_to_lack_the_larger_input():
    """The same look with the same image, through networks that do and do not take other sizes."""
    look = Together((Whole(), Mirrored(Larger(required=False))))
    free, fixed = means(56, crop_pct=0.5), means(56, crop_pct=0.5, only=56)
    full = relook.Corrector(free, look=look).correct(wide())
    less = relook.Corrector(fixed, look=look).correct(wide())
    assert (len(full.views), full.left_out, full.no_view) == (3, (), ())
    assert [view.what for view in less.views] == ["largest part"]
    refused = "without the larger input, since Means accepts only 56×56"
    assert (less.left_out, less.no_view) == ((refused,), ())
    assert less.to_json()["notes"] == [refused]
    assert "notes" not in full.to_json()


def test_an_image_with_no_more_to_see_is_told_from_a_network_that_cannot():
    small = Image.new("RGB", (8, 8), (255, 0, 0))
    classifier = means(only=8)
    best = Together((Mirrored(Whole(), otherwise=Flip()), Larger(required=False)))
    correction = relook.Corrector(classifier, look=best).correct(small)
    assert correction.left_out == ()
    assert correction.no_view == (
        "without a larger part, since the first look showed all that fits the input's shape; "
        "the mirror image instead",
        "without the larger input, since the image has too few pixels",
    )
    assert [view.what for view in correction.views] == ["mirror image"]


def test_corners_of_an_image_that_was_seen_whole_are_said_to_be_smaller():
    classifier = means()
    assert relook.Corrector(classifier, look=Crops()).correct(wide()).no_view == (
        "without corners outside the crop, since the first look showed the whole image; corners "
        "with 7/8 of its sides instead",
    )
    cropping = means(crop_pct=0.5)
    assert relook.Corrector(cropping, look=Crops()).correct(wide()).notes == ()


def test_closer_looks_that_are_not_taken_are_explained(halves):
    """A grey image is red and green nowhere in particular; one all red is red everywhere."""
    grey = Image.new("RGB", (4, 4))
    said = {
        look: relook.Corrector(halves, look=look).correct(grey).no_view
        for look in (Zoom(), Zoom(joint=True), Mask(relook.CAM()))
    }
    assert list(said.values()) == [
        ("without a closer look, since no class was found in the image",),
        ("without a closer look, since no class was found in the image",),
        ("without mask images of any class, since none was found in the image",),
    ]
    everywhere = Zoom(joint=True, threshold=0.01)
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :, 0] = image[2:, :, 1] = 255
    assert relook.Corrector(halves, look=everywhere).correct(image).no_view == (
        "without a closer look, since it would show the same as the first look",
    )


def test_other_maps_in_place_of_cams_are_said(grey):
    look = Zoom(relook.CAM(otherwise=relook.attribution.Activity()))
    network = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    classifier = relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=4, name="net")
    image = Image.effect_noise((64, 64), 100).convert("RGB")
    assert relook.Corrector(classifier, look=look).correct(image).left_out == (
        "without the maps of CAM, because net does not end with global average pooling and one "
        "fully connected layer; those of Activity instead",
    )
    assert relook.Corrector(grey, look=look).correct(image).left_out == ()


def test_views_know_the_box_that_they_were_cut_from():
    """The crop is half as high as the image, and the whole the square in the middle."""
    classifier = means(56, crop_pct=0.5)
    look = Together((Mirrored(Whole()), Larger(), Flip(), Crops()))
    views = relook.Corrector(classifier, look=look).correct(wide()).views
    middle, crop = (224, 0, 672, 448), (336, 112, 560, 336)
    corners = [(0, 0, 224, 224), (672, 0, 896, 224), (0, 224, 224, 448), (672, 224, 896, 448)]
    assert [view.box for view in views] == [middle, middle, middle, crop, *corners]


def test_a_look_about_fewer_classes_keeps_the_boxes_of_theirs(cnn, noise):
    corrector = relook.Corrector(cnn, k=4, look=Zoom())
    [outcome] = corrector.look_again(cnn.first_looks(noise[:1]))
    [all_of], [two_of] = outcome.second.views, corrector.about(outcome, 2).second.views
    kept = [box for box, c in zip(all_of.boxes, all_of.of.tolist(), strict=True) if c < 2]
    assert list(two_of.boxes) == kept
    assert len(two_of.boxes) == len(two_of.pixels) < len(all_of.boxes)
