"""From a photo to maps of chosen classes, and calls that cannot be."""

from __future__ import annotations

import doctest
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import relook
from networks import HalvesNet
from relook.attribution import Activity, Context
from relook.attribution.context import check_context, class_indices
from relook.attribution.seen import named_classes
from relook.errors import ImageError, RelookError

METHODS = [relook.ScoreCAM(), relook.CAM(), relook.GradCAM(), Activity()]


@pytest.fixture
def red_and_green(halves_pixels, tmp_path):
    """Red left, green right: a file."""
    file = tmp_path / "halves.png"
    Image.fromarray((halves_pixels.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(file)
    return file


def test_maps_of_a_photo_are_those_of_the_method(halves, red_and_green, halves_pixels):
    """By hand: red falls from 1 to 0 over the columns, green rises; Y = (3/4, 1/4)."""
    seen = halves.attribution(red_and_green, classes=["green", 0])
    assert seen.image == str(red_and_green)
    assert seen.classes.tolist() == [1, 0]
    assert seen.labels == ("green", "red")
    torch.testing.assert_close(seen.probabilities, torch.tensor([0.25, 0.75]))
    rising = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(4, 4)
    torch.testing.assert_close(seen.maps, torch.stack([rising, rising.flip(1)]))
    torch.testing.assert_close(seen.pixels, halves_pixels)
    assert (seen.original.size, seen.box, seen.notes) == ((4, 4), (0, 0, 4, 4), ())
    assert seen.forwards == 1 + 2  # two live channels
    free = relook.attribute(halves, red_and_green, [0], method="cam")
    torch.testing.assert_close(free.maps, rising.flip(1)[None])
    assert free.forwards == 1


@pytest.mark.parametrize("method", ["scorecam", "cam", "gradcam", *METHODS[:3]])
def test_every_method_and_every_image_source(halves, red_and_green, method):
    of = relook.attribute(halves, np.asarray(Image.open(red_and_green)), method=method)
    assert of.classes.tolist() == [0, 1]  # the most probable, of a network of two classes
    assert of.maps.shape == (2, 4, 4)
    assert float(of.maps.max()) == 1


def test_classes_in_any_iterable_that_has_an_order(halves):
    assert named_classes(halves, (c for c in ("green", 0))).tolist() == [1, 0]
    assert named_classes(halves, range(2)).tolist() == [0, 1]


@pytest.mark.parametrize("classes", [{0, 1}, frozenset({1}), {"red": 0}])
def test_classes_without_an_order(halves, classes):
    with pytest.raises(RelookError, match=f"not a {type(classes).__name__}; pass a list"):
        named_classes(halves, classes)


def test_a_picture_goes_into_a_new_folder(halves, tmp_path):
    photo = np.zeros((4, 4, 3), np.uint8)
    relook.attribute(halves, photo).save_picture(tmp_path / "new" / "maps" / "o.png")
    relook.Corrector(halves).correct(photo).save_picture(tmp_path / "more" / "o.png")
    for file in ("new/maps/o.png", "more/o.png"):
        assert Image.open(tmp_path / file).format == "PNG"


def test_pictures_and_images_are_open_files_too(halves, red_and_green):
    for content in (red_and_green.read_bytes(), io.BytesIO(red_and_green.read_bytes())):
        seen = halves.attribution(content, [0])
        assert (seen.image, seen.forwards) == (f"<{type(content).__name__}>", 3)
    with red_and_green.open("rb") as file:
        correction = relook.Corrector(halves).correct(file)
    assert correction.image == str(red_and_green)
    assert float(correction.before[0]) == pytest.approx(0.75)
    for drawn in (seen, correction):
        picture = io.BytesIO()
        drawn.save_picture(picture)
        picture.seek(0)
        assert Image.open(picture).format == "PNG"


def test_classes_by_name():
    labels = ["tabby_cat", "Tabby Cat", "crane", "Crane", "crane", "Café"]
    network = HalvesNet()
    network.fc = torch.nn.Linear(3, 6)
    classifier = relook.Classifier(
        network, mean=(0, 0, 0), std=(1, 1, 1), input_size=4, labels=labels
    )

    def of(classes):
        return named_classes(classifier, classes).tolist()

    assert of("Tabby Cat") == [1]  # as it is written
    assert of(["Crane", "cafe\u0301", 2]) == [3, 5, 2]  # é in two characters
    assert of(np.array([4, 0])) == of(torch.tensor([4, 0])) == of([4, 0]) == [4, 0]
    assert of(3) == of(np.int64(3)) == [3]
    for name, said in (
        ("crane", "2 classes are called 'crane': 2, 4; pass the index"),
        ("TABBY-CAT", "2 classes are called 'TABBY-CAT': 0, 1"),
        ("cranes", "no class is called 'cranes'; closest: 'crane'"),
        ("cat", "no class is called 'cat'; closest: 'Tabby Cat'"),
        ("zzz", "no class is called 'zzz'"),
    ):
        with pytest.raises(RelookError, match="class") as raised:
            of(name)
        assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (2, "HalvesNet has no class 2: its 2 classes are 0 to 1"),
        ([0, -1], "HalvesNet has no class -1"),
        ([0.0, 1.0], "classes must be whole numbers, not torch.float32"),
        ([True, False], "classes must be whole numbers, not torch.bool"),
        ([[0, 1]], "classes must be one row, not of shape (1, 2)"),
        ("red", "classes must be class indices, not 'red'"),
        (None, "classes must be class indices, not None"),
        ([0, "red"], "classes must be class indices"),
    ],
)
def test_classes_that_are_none(halves, classes, said):
    with pytest.raises(RelookError) as raised:
        class_indices(halves, classes)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_an_index_a_list_and_an_array(halves, halves_pixels, method):
    [first] = halves.first_looks(halves_pixels[None])
    expected = method(Context(halves, first, torch.tensor([1]))).maps
    for classes in (1, [1], np.array([1])):
        assert torch.equal(method(Context(halves, first, classes)).maps, expected)
    with pytest.raises(RelookError, match="has no class 2"):
        method(Context(halves, first, [2]))


def test_what_a_method_is_called_with_wrongly(halves, halves_pixels):
    [first] = halves.first_looks(halves_pixels[None])
    remedy = 'from a photo: classifier.attribution("photo.jpg", classes, method=...)'
    for arguments, said in (
        ((HalvesNet(), first, 0), "a Context needs a relook.Classifier first, not a HalvesNet"),
        ((halves_pixels, first, 0), "a Context needs a relook.Classifier first, not a Tensor"),
        ((halves, halves_pixels, 0), "a Context needs the first look at an image, not a Tensor"),
        ((halves, first, None), "classes must be class indices, not None"),
    ):
        with pytest.raises(RelookError) as raised:
            Context.__init__.__wrapped__(Context.__new__(Context), *arguments)
        assert str(raised.value).startswith(said)
        assert remedy in str(raised.value) or "pass an index, or a list" in str(raised.value)
    for method in METHODS:
        with pytest.raises(RelookError) as raised:
            check_context(method, halves_pixels)
        assert str(raised.value).startswith(
            f"{type(method).__name__} needs a Context, not a Tensor"
        )
        assert remedy in str(raised.value)
    [bare] = halves.first_looks(halves_pixels[None], activations=False)
    with pytest.raises(RelookError, match="take it with activations=True"):
        relook.CAM()(Context(halves, bare, 0))


def test_outside_of_the_tests_calls_fail_the_same_way():
    """Here shapes and types are checked before a method is; elsewhere they are not."""
    code = """
import torch, relook
from networks import make_halves
for wrong in (torch.rand(1, 3, 4, 4), make_halves()):
    for method in (relook.ScoreCAM(), relook.CAM(), relook.GradCAM()):
        try:
            method(wrong)
        except relook.RelookError:
            print("refused")
"""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["refused"] * 6, done.stderr


def test_methods_and_images_that_are_none(halves, tmp_path, red_and_green):
    with pytest.raises(RelookError, match="method 'lime' is unknown; choose one of scorecam, cam"):
        halves.attribution(red_and_green, method="lime")
    with pytest.raises(ImageError, match=r"no\.png: no such file"):
        halves.attribution(tmp_path / "no.png")


def test_what_is_drawn(halves, red_and_green, tmp_path):
    seen = halves.attribution(red_and_green)
    red, green = (np.asarray(seen.overlay(of)).astype(int) for of in ("red", 1))
    assert red.shape == green.shape == (4, 4, 3)
    assert np.array_equal(np.asarray(seen.overlay()), red)  # the first
    # A map is bright where its class was seen, and leaves the (greyed) photo alone elsewhere.
    assert red[0, 0].sum() > red[0, 3].sum()
    assert green[0, 3].sum() > green[0, 0].sum()
    with pytest.raises(
        RelookError, match=r"no map of class 'blue' was computed; choose one of 0 \(red\), 1"
    ):
        seen.overlay("blue")
    seen.save_picture(tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width == 3 * round(2.5 * 110)  # the photo and two maps
    with pytest.raises(RelookError, match=r"name one that ends in \.png"):
        seen.save_picture(tmp_path / "maps.jpg")


def test_a_correction_draws_itself(halves, red_and_green, tmp_path):
    correction = relook.Corrector(halves).correct(red_and_green)
    correction.save_picture(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 1000
    with pytest.raises(RelookError, match=r"name one that ends in \.png"):
        correction.save_picture(tmp_path / "picture")


def test_examples_in_docstrings():
    finder = doctest.DocTestFinder(recurse=False)
    for thing in (relook.attribute, relook.Classifier.attribution, relook.attribution.Seen.overlay):
        [test] = finder.find(getattr(thing, "__wrapped__", thing), thing.__qualname__)
        assert test.examples
        runner = doctest.DocTestRunner()
        assert runner.run(test).failed == 0
