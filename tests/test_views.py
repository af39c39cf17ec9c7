"""Views that know region, shape and scale; symmetries; views asked in turn."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

import relook
from networks import counting_forwards
from relook.correction import settled
from relook.looks import (
    Flip,
    Frame,
    InTurn,
    Mirrored,
    Symmetries,
    Together,
    Uncropped,
    Whole,
    Zoom,
)
from relook.looks.ends import ends
from relook.looks.uncropped import uncropped
from test_looks import corners, means, numbered

CROP = (86, 23, 414, 352)
"""About what a crop of 224 in 256 shows of 500×375."""


def test_all_of_a_photo_has_its_own_shape_and_the_first_looks_scale():
    classifier = means(224, crop_pct=0.875)
    correction = relook.Corrector(classifier, look="uncropped").correct(numbered(240, 256))
    first, *_, view = classifier.network.shown  # between them whether it takes that size
    assert view.shape == (3, 256, 288)  # 256×273 in whole steps of 32
    assert corners([view]) == [(0, 6, 255, 233)]  # all columns, and rows as that shape allows
    [seen] = correction.views
    assert (seen.what, seen.frame) == ("uncropped", Frame("all", "own", 1.05))
    assert correction.forwards == 2
    assert correction.cost == pytest.approx(1 + 256 * 288 / 224**2)
    answers = torch.cat([classifier(first[None]), classifier(view[None])])
    torch.testing.assert_close(correction.after, answers.mean(dim=0))


def test_the_size_of_all_of_a_photo():
    """Of 500×375 and longer photos, crops of 224 from a shorter side of 256."""
    own = (224, 224)
    box, size = uncropped((500, 375), CROP, own, 1.0, 2.0)
    assert size == (256, 352)
    assert box == pytest.approx((0, 5.7, 500, 369.3), abs=1)
    # 16:9 would be 256×455 and cost 2.3: it is shown smaller.
    shown = (187.5, 23.4, 515.6, 351.6)
    assert uncropped((703, 375), shown, own, 1.0, 2.0)[1] == (224, 448)
    # 4:1 would lose its height: its ends are cut off instead.
    shown = (1000 - 164, 23.4, 1000 + 164, 351.6)
    box, size = uncropped((1500, 375), shown, own, 1.0, 2.0)
    assert size == (224, 448)
    assert box[3] - box[1] == pytest.approx(375)
    assert box[2] - box[0] == pytest.approx(750, abs=1)


@pytest.mark.parametrize("extent", [(500, 375), (375, 500), (3000, 300), (300, 300), (640, 480)])
@pytest.mark.parametrize("most", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("own", [(224, 224), (260, 260), (240, 240), (96, 128), (32, 32)])
def test_a_view_never_costs_more_than_allowed_nor_is_distorted(extent, most, own):
    width, height = extent
    scale = min(width / own[1], height / own[0]) * 0.875
    half = scale * own[1] / 2, scale * own[0] / 2
    shown = (width / 2 - half[0], height / 2 - half[1], width / 2 + half[0], height / 2 + half[1])
    box, size = uncropped(extent, shown, own, 1.0, most)
    assert size[0] * size[1] <= most * own[0] * own[1]
    assert size[0] >= own[0]
    assert size[1] >= own[1]
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(size[1] / size[0])
    inside = (-1e-6, -1e-6, width + 1e-6, height + 1e-6)
    assert box[0] >= inside[0]
    assert box[1] >= inside[1]
    assert box[2] <= inside[2]
    assert box[3] <= inside[3]


def test_a_network_of_one_size_gets_both_ends_of_a_long_photo():
    classifier = means(8, crop_pct=0.5, only=8)
    corrector = relook.Corrector(classifier, look="uncropped")
    classifier.network.shown.clear()
    correction = corrector.correct(numbered(16, 32))
    assert corners(classifier.network.shown[-2:]) == [(0, 4, 7, 11), (24, 4, 31, 11)]
    assert [view.frame for view in correction.views] == [Frame("part", "input", 1.0)] * 2
    assert (correction.forwards, correction.cost) == (3, 3.0)
    first, *two = (classifier(image[None])[0] for image in classifier.network.shown[-3:])
    torch.testing.assert_close(correction.after, (first + (two[0] + two[1]) / 2) / 2)
    assert correction.left_out == (
        "without the uncropped image, since Means accepts only 8×8; the two ends of longer "
        "photos instead",
    )


def test_the_ends_of_a_photo():
    assert ends((16, 32), (4, 12, 12, 20)) == ((4, 0, 12, 8), (4, 24, 12, 32))
    assert ends((16, 16), (4, 4, 12, 12)) == ()
    wide = means(8, crop_pct=0.5)
    correction = relook.Corrector(wide, look="ends").correct(numbered(16, 32))
    assert corners(wide.network.shown[-2:]) == [(0, 4, 7, 11), (24, 4, 31, 11)]
    assert correction.cost == 3
    square = relook.Corrector(wide, look="ends").correct(numbered(16, 16))
    assert square.no_view == (
        "without the ends of the photo, which is not longer than what the first look showed",
    )


def test_where_all_was_seen_there_is_nothing_uncropped():
    corrector = relook.Corrector(means(8), look="uncropped")
    correction = corrector.correct(numbered(16, 32))
    assert correction.forwards == 1
    assert correction.no_view == (
        "without the area around the crop, since the first look showed the whole image",
    )


@pytest.mark.parametrize(
    ("box", "size", "said"),
    [
        (CROP, (224, 224), Frame("crop", "input", 1.0)),
        (CROP, (288, 288), Frame("crop", "input", 1.29)),
        ((62.5, 0, 437.5, 375), (224, 224), Frame("square", "input", 0.88)),
        ((0, 0, 500, 375), (224, 299), Frame("all", "own", 0.88)),
        ((200, 100, 300, 200), (224, 224), Frame("part", "input", 3.28)),
    ],
)
def test_what_a_view_says_of_itself(box, size, said):
    assert Frame.of(box, size, CROP, (500, 375), (224, 224)) == said


def test_mirror_images_in_place_of_views():
    classifier = means(8, crop_pct=0.5)
    look = Mirrored(Whole(), alone=True)
    correction = relook.Corrector(classifier, look=look).correct(numbered(16, 16))
    assert [view.what for view in correction.views] == ["largest part, mirrored"]
    left, top, right, bottom = corners(classifier.network.shown)[1]
    assert left > right
    assert top < bottom


def turned(look):
    classifier = means(4)
    relook.Corrector(classifier, look=look).correct(numbered(4, 4))
    return corners(classifier.network.shown)


def test_rotations_and_the_eight_symmetries_of_a_square():
    """By their first and last pixels; the symmetries are all different, and all eight."""
    assert turned("rotations") == [(0, 0, 3, 3), (3, 0, 0, 3), (3, 3, 0, 0), (0, 3, 3, 0)]
    assert sorted(turned("symmetries")) == sorted(
        2 * [(0, 0, 3, 3), (3, 0, 0, 3), (3, 3, 0, 0), (0, 3, 3, 0)]
    )
    classifier = means(4)
    correction = relook.Corrector(classifier, look="symmetries").correct(numbered(4, 4))
    assert correction.forwards == 8
    assert len({image.numpy().tobytes() for image in classifier.network.shown}) == 8


def test_an_input_that_is_not_square_is_turned_by_a_half_where_quarters_are_refused():
    classifier = means((4, 8), only=8)
    correction = relook.Corrector(classifier, look=Symmetries()).correct(numbered(4, 8))
    assert corners(classifier.network.shown[-1:]) == [(7, 3, 0, 0)]
    assert correction.left_out == ("without quarter turns, since Means does not accept 8×4",)


def test_nothing_is_settled_where_what_is_left_could_decide_it():
    answers = torch.tensor([[0.3, 0.7], [0.8, 0.2]])  # leads of −0.4 and 0.6
    weights = torch.ones(2, 2)
    # The lead of 0.2 in sum is more than a weight of 0.19 can turn, whatever the view says.
    assert settled(answers, weights, torch.full((2,), 0.19))
    assert not settled(answers, weights, torch.full((2,), 1.0))


def test_networks_whose_answers_vary_are_asked_more():
    """The mean lead of three answers is 0.4 both times, 1.2 in sum. Of a weight that is left at
    worst a share of 1.5 · deviation + 0.2 − 0.4 goes to the other: none where the leads were 0.3,
    0.4 and 0.5, and 0.4 where they were 0, 0.4 and 0.8: all of the lead at a weight of 3. Two
    answers, 0.3 and 0.5, leave 4 · 0.1 + 0.4 − 0.4: all of their lead of 0.8 at a weight of 2.
    """
    weights, left = torch.ones(3, 2), torch.ones(2)
    steady = torch.tensor([[0.65, 0.35], [0.7, 0.3], [0.75, 0.25]])
    torn = torch.tensor([[0.5, 0.5], [0.7, 0.3], [0.9, 0.1]])
    assert settled(steady, weights, 9 * left)
    assert settled(torn, weights, 2.9 * left)
    assert not settled(torn, weights, 3.1 * left)
    two = steady[[0, 2]]
    assert settled(two, weights[:2], 1.9 * left)
    assert not settled(two, weights[:2], 2.1 * left)


class Sure(nn.Module):
    """Class 0 by a margin that grows with how white the image is; the other way if asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[4.0], [0.0]]))

    def forward(self, x):
        return self.fc(x.mean(dim=(1, 2, 3))[:, None])


def test_views_in_turn_stop_where_the_answer_is_settled():
    """White is class 0 at 98 %, whatever the view; grey is torn, and asked to the end."""
    classifier = relook.Classifier(Sure(), mean=(0, 0, 0), std=(1, 1, 1), input_size=8)
    looks = Together((Flip(), Flip(), Flip(), Flip()))
    white, grey = (Image.new("RGB", (8, 8), (v, v, v)) for v in (255, 3))
    corrector = relook.Corrector(classifier, look=InTurn(looks))
    with counting_forwards(classifier.network) as counted:
        sure = corrector.correct(white)
    assert sum(counted) == sure.forwards == sure.cost == 2
    assert len(sure.views) == 1
    assert sure.no_view == ("without the remaining views, since the answer was settled",)
    torch.testing.assert_close(sure.after, sure.before)
    torn = corrector.correct(grey)
    assert (torn.forwards, torn.no_view) == (5, ())
    all_of_them = relook.Corrector(classifier, look=looks).correct(white)
    assert all_of_them.forwards == 5
    assert all_of_them.after.argmax() == sure.after.argmax()


def test_each_image_of_a_batch_leaves_when_it_is_settled():
    """Its answer is the one it has alone."""
    classifier = relook.Classifier(Sure(), mean=(0, 0, 0), std=(1, 1, 1), input_size=8)
    look = InTurn(Together((Flip(), Flip(), Flip())))
    corrector = relook.Corrector(classifier, look=look)
    pixels = torch.stack([torch.full((3, 8, 8), v) for v in (1.0, 0.01, 0.6, 0.02)])
    firsts = classifier.first_looks(pixels, activations=False)
    outcomes = list(corrector.look_again(firsts))
    assert [outcome.forwards for outcome in outcomes] == [2, 4, 2, 4]
    for image, outcome in zip(pixels, outcomes, strict=True):
        [alone] = corrector.look_again(classifier.first_looks(image[None], False))
        assert alone.forwards == outcome.forwards
        torch.testing.assert_close(alone.after, outcome.after)


def test_uncropped_has_a_name_and_a_scale():
    assert relook.Corrector(means(8), look="uncropped").look == Uncropped(1.0, 2.0)


def test_pixels_alone_are_said_once_to_be_all_there_is(caplog):
    corrector = relook.Corrector(means(8, crop_pct=0.5), look="quick", gate="none")
    pixels = torch.rand(2, 3, 8, 8)
    corrector(pixels)
    corrector(pixels)
    [said] = [r.getMessage() for r in caplog.records]
    assert said.startswith(
        "relook: the look quick has only pixels to cut from: it cannot show what"
    )
    relook.Corrector(means(8), look="flip")(pixels)
    corrector.correct(numbered(16, 16))
    assert len(caplog.records) == 1


def test_what_is_joined_to_a_look_that_asks_in_turn_is_asked_about_all_the_same():
    classifier = relook.Classifier(Sure(), mean=(0, 0, 0), std=(1, 1, 1), input_size=8)
    look = Together((InTurn(Together((Flip(), Flip(), Flip()))), Flip()))
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    assert relook.Corrector(classifier, look=look).correct(white).forwards == 5
    both = Together((InTurn(Flip()), InTurn(Flip())))
    assert relook.Corrector(classifier, look=both).correct(white).forwards == 2


def test_what_there_is_instead_is_said_once():
    """A square photo has no ends, so the largest part stands in; the plain look adds nothing."""
    fixed = means(32, crop_pct=0.5, only=32)
    around = Mirrored(Uncropped(), otherwise=Mirrored(Whole(), alone=True), alone=True)
    corrector = relook.Corrector(fixed, look=Together((around, Uncropped())))
    assert corrector.correct(numbered(64, 64)).notes == (
        "without the uncropped image, since Means accepts only 32×32; the largest part, mirrored "
        "instead",
    )
    assert corrector.correct(numbered(64, 128)).notes == (
        "without the uncropped image, since Means accepts only 32×32; the two ends of longer photos "
        "instead",
    )
    alone = relook.Corrector(fixed, look=Uncropped()).correct(numbered(64, 64))
    assert alone.notes == ("without the uncropped image, since Means accepts only 32×32",)


def test_views_that_are_left_when_the_answer_is_settled_are_kept_with_their_maps(halves):
    """Red is red in the mirror too; where it was seen was found before the closer look is asked."""
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    red.paste((0, 0, 0), (8, 0, 16, 16))
    look = InTurn(Together((Flip(), Zoom(weights="mean"))))
    correction = relook.Corrector(halves, look=look).correct(red)
    assert [view.what for view in correction.views] == ["mirror image"]
    assert [view.what for view in correction.made] == ["mirror image", "zoomed"]
    assert correction.view_of(0).probabilities is None
    assert correction.view_of(1) is None  # there is no green
    falling = torch.tensor([1, 0.75, 0.25, 0]).expand(4, 4)
    torch.testing.assert_close(correction.maps, torch.stack([falling, torch.zeros(4, 4)]))
    assert correction.mask_images.shape == (0, 3, 4, 4)  # what was cut out is no mask image
    assert (correction.forwards, correction.attribution_forwards) == (2, 0)


def test_of_two_looks_at_each_class_the_first_is_shown(halves, halves_pixels):
    """The mask images with the answers to them, and not those to what was cut out beside them."""
    image = Image.fromarray((halves_pixels.permute(1, 2, 0).numpy() * 255).astype("uint8"))
    alone = relook.Corrector(halves, look="poster").correct(image)
    joined = relook.Corrector(halves, look="poster+zoom").correct(image)
    assert len(joined.views) == 4
    assert torch.equal(joined.mask_images, alone.mask_images)
    assert torch.equal(joined.maps, alone.maps)
    for place in range(2):
        own, expected = joined.view_of(place), alone.view_of(place)
        assert own.what == "mask image"
        torch.testing.assert_close(own.probabilities, expected.probabilities)
