"""Many images corrected in batches: as one by one, in order, in few calls, and not read too soon."""

from __future__ import annotations

import io
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

import relook
from networks import NaNNet, counting_forwards
from relook.looks import Flip, InTurn, Mask, Together, Uncropped, Whole
from relook.reading import ReadAhead
from test_looks import means, numbered


def shades(count):
    """4×4 images, red on the left and more and more green on the right: surer first."""
    images = []
    for i in range(count):
        image = np.zeros((4, 4, 3), np.uint8)
        image[:, :2, 0], image[:, 2:, 1] = 255, 255 * i // count
        images.append(image)
    return images


@contextmanager
def counting_calls(network):
    calls = []
    handle = network.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        yield calls
    finally:
        handle.remove()


def assert_same(found, expected):
    for name in ("before", "after", "maps", "mask_images"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)
    assert found.classes.tolist() == expected.classes.tolist()
    for name in ("image", "corrected", "forwards", "attribution_forwards", "cost", "notes", "box"):
        assert getattr(found, name) == getattr(expected, name)
    assert [(view.what, view.of, view.box) for view in found.made] == [
        (view.what, view.of, view.box) for view in expected.made
    ]
    for view, other in zip(found.views, expected.views, strict=True):
        torch.testing.assert_close(view.probabilities, other.probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gate", [None, 0.6])
@pytest.mark.parametrize(
    "look",
    [
        "poster",
        "zoom+flip",
        InTurn(Together((Flip(), Flip(), Mask(relook.CAM())))),
        Mask(relook.GradCAM()),
    ],
)
def test_many_are_as_one_by_one(halves, look, gate):
    corrector = relook.Corrector(halves, look=look, gate=gate)
    alone = [corrector.correct(image) for image in shades(11)]
    together = list(corrector.correct_many(shades(11)))
    assert len({correction.corrected for correction in alone}) == (1 if gate is None else 2)
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)
        assert found.seconds > 0


def test_photos_of_different_sizes_are_as_one_by_one():
    """Their views have different sizes, and some have none."""
    classifier = means(32, crop_pct=0.5)
    corrector = relook.Corrector(classifier, look=Together((Uncropped(), Whole(), Flip())))
    photos = [numbered(*size) for size in ((64, 64), (64, 128), (128, 64), (32, 32), (70, 200))]
    alone = [corrector.correct(photo) for photo in photos]
    assert len({view.pixels.shape for correction in alone for view in correction.views}) > 3
    for found, expected in zip(corrector.correct_many(photos), alone, strict=True):
        assert_same(found, expected)


def test_first_looks_and_views_form_batches(halves):
    """Four images first, since nobody knows yet how large they are; then as many as there are."""
    corrector = relook.Corrector(halves, look="flip")
    with counting_calls(halves.network) as calls:
        for image in shades(12):
            corrector.correct(image)
    assert calls == [1] * 24
    with counting_calls(halves.network) as calls:
        found = list(corrector.correct_many(shades(12)))
    assert calls == [4, 4, 8, 8]
    assert [correction.forwards for correction in found] == [2] * 12
    # Of gated images only the unsure ones are asked about again: gap(1,5) is 1/2 with all green.
    gated = relook.Corrector(halves, look="flip", gate=0.6)
    with counting_calls(halves.network) as calls:
        corrected = [correction.corrected for correction in gated.correct_many(shades(12))]
    assert calls == [4, 8, sum(corrected)]
    assert 0 < sum(corrected) < 8
    assert corrected == sorted(corrected)


def test_an_image_that_cannot_be_read_comes_out_in_its_place(halves, tmp_path):
    """Among open files, bytes, paths and arrays; the others are corrected."""
    file = tmp_path / "a.png"
    Image.fromarray(shades(2)[1]).save(file)
    (tmp_path / "empty.png").touch()
    corrector = relook.Corrector(halves)
    with file.open("rb") as opened, counting_forwards(halves.network) as count:
        images = [
            opened, tmp_path / "none.png", file.read_bytes(), str(tmp_path / "empty.png"),
            io.BytesIO(file.read_bytes()), file, np.zeros((2, 2, 7)), Image.open(file),
        ]  # fmt: skip
        found = list(corrector.correct_many(images))
    names = [str(file), None, "<bytes>", None, "<BytesIO>", str(file), None, str(file)]
    assert [getattr(each, "image", None) for each in found] == names
    failed = [each for each in found if isinstance(each, relook.ImageError)]
    assert [str(error).rsplit("/", 1)[-1].split(";")[0] for error in failed] == [
        "none.png: no such file",
        "empty.png: the file is empty",
        "array of shape (2, 2, 7): expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)",
    ]
    expected = corrector.correct(file)
    for each in found:
        if isinstance(each, relook.Correction):
            torch.testing.assert_close(each.after, expected.after)
    assert count == [5 * (1 + 2 + 2)]
    [only] = corrector.correct_many([tmp_path / "none.png"])
    assert only.args == failed[0].args
    assert list(corrector.correct_many([])) == []


def test_an_image_that_the_network_fails_on_comes_out_in_its_place(tmp_path):
    """As the first of a batch, amid one, and as a view of which the first look was fine."""
    classifier = relook.Classifier(NaNNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4)
    Image.new("RGB", (4, 4), (0, 0, 255)).save(tmp_path / "blue.png")
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    images = [tmp_path / "blue.png", red, red, tmp_path / "blue.png", red]
    found = list(relook.Corrector(classifier, look="flip").correct_many(images))
    assert [type(each).__name__ for each in found] == [
        "NotFiniteError", "Correction", "Correction", "NotFiniteError", "Correction"
    ]  # fmt: skip
    assert str(found[3]).startswith(f"{tmp_path / 'blue.png'}: the network returned NaN")
    assert [each.forwards for each in found if isinstance(each, relook.Correction)] == [2, 2, 2]
    # A crop leaves the blue edge out, which all of the photo shows.
    cropped = relook.Classifier(
        NaNNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, crop_pct=0.5, interpolation="nearest"
    )
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[..., 0] = 255
    edge[0] = 0, 0, 255
    plain = np.zeros((8, 8, 3), np.uint8)
    corners = relook.Corrector(cropped, look="fivecrop")
    found = list(corners.correct_many([plain, edge, plain]))
    assert [type(each).__name__ for each in found] == [
        "Correction", "NotFiniteError", "Correction"
    ]  # fmt: skip
    torch.testing.assert_close(found[2].after, corners.correct(plain).after)


def test_what_is_no_images_fault_is_raised(halves):
    corrector = relook.Corrector(means(56, only=56), look="larger")
    photos = [numbered(112, 112)] * 2
    with pytest.raises(relook.ModelError, match="takes no inputs of 72×72"):
        list(corrector.correct_many(photos))
    for single in ("a.png", b"", io.BytesIO(), Image.new("RGB", (4, 4)), shades(1)[0]):
        with pytest.raises(
            relook.RelookError, match="several images, such as a list; for one image"
        ):
            relook.Corrector(halves).correct_many.__wrapped__(relook.Corrector(halves), single)
    assert len(list(relook.Corrector(halves).correct_many(np.stack(shades(3))))) == 3


def test_images_are_read_no_further_ahead_than_needed(halves):
    """One batch beyond the one that is worked on; with the generator closed, no more at all."""
    taken = []

    def images():
        for image in shades(200):
            taken.append(image)
            yield image

    threads = threading.active_count()
    found = relook.Corrector(halves, look="flip").correct_many(images())
    assert taken == []
    next(found)
    assert len(taken) == 2 * 4
    for _ in range(4):
        next(found)
    assert len(taken) == 4 + 2 * 32
    found.close()
    assert len(taken) == 4 + 2 * 32
    assert threading.active_count() == threads


def test_large_photos_are_read_few_at_a_time(halves):
    taken = []

    def images():
        for _ in range(20):
            taken.append(Image.new("L", (3000, 2000)))
            yield taken[-1]

    found = relook.Corrector(halves, look="flip").correct_many(images())
    for _ in range(5):
        next(found)
    assert len(taken) == 4 + 2 * 5  # 32 megapixels hold five


def test_the_callers_filters_of_warnings_are_left_alone(halves):
    with warnings.catch_warnings():
        found = relook.Corrector(halves, look="flip").correct_many(shades(9))
        next(found)
        warnings.simplefilter("error")
        before = list(warnings.filters)
        next(found)
        assert warnings.filters == before
        found.close()
        assert warnings.filters == before


def test_reading_ahead_keeps_the_order_and_raises_what_was_raised():
    def read(number):
        if number == 3:
            raise ValueError("three")
        return -number

    with ReadAhead(read, range(5)) as ahead:
        assert ahead.take(2) == [0, -1]
        with pytest.raises(ValueError, match="three"):
            ahead.take(2)
    with ReadAhead(read, range(3)) as ahead:
        assert ahead.take(2) == [0, -1]
        assert ahead.take(2) == [-2]
        assert ahead.take(2) == []
