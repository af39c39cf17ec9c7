"""Pixels equal to the libraries' own, and boxes that lead back to the original image."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms import str_to_interp_mode
from torchvision.models import get_model_weights

import relook
from relook.geometry import Geometry
from relook.images import open_image
from relook.models import timm as timm_models
from relook.models import torchvision as torchvision_models

SIZES = [(451, 300), (300, 451), (224, 224), (256, 256), (33, 31), (2, 2), (3000, 100), (37, 2000)]


def noise_image(width, height):
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def library_pixels(transform, mean, std, image):
    normalised = transform(image)
    return normalised * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "config",
    [
        {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic"},
        {"crop_pct": 0.95, "crop_mode": "center", "interpolation": "bilinear"},
        {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic"},
        {"crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bilinear"},
        {"crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic", "tall": True},
    ],
    ids=str,
)
def test_pixels_are_timms(config, size):
    config = dict(config)
    input_size = (3, 192, 128) if config.pop("tall", False) else (3, 224, 224)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    transform = timm.data.create_transform(
        input_size=input_size, mean=mean, std=std, is_training=False, **config
    )
    if getattr(transform.transforms[0], "interpolation", None) != str_to_interp_mode(
        config["interpolation"]
    ):
        pytest.skip("this timm resizes for inputs that are not square with another interpolation")
    image = noise_image(*size)
    ours = timm_models.geometry_of(config, input_size[1:]).pixels(image)
    theirs = library_pixels(transform, mean, std, image)
    assert float((ours - theirs).abs().max()) < 1e-5  # far below 1/255: the same bytes


@pytest.mark.parametrize(
    ("name", "side", "crop_pct"),
    [("resnet10t.c3_in1k", 224, 0.95), ("fasternet_t0.in1k", 224, 0.9), ("test_vit", 160, 0.95)],
)
def test_timm_networks_are_tested_at_their_test_size(name, side, crop_pct):
    """As timm's validate.py does it: resnet10t is trained at 176×176, fasternet with all of it."""
    classifier = relook.load(f"timm/{name}", pretrained=False)
    config = timm.data.resolve_data_config(model=timm.create_model(name), use_test_size=True)
    assert classifier.input_size == (side, side) == config["input_size"][1:]
    assert config["crop_pct"] == crop_pct
    transform = timm.data.create_transform(**config)
    for size in SIZES:
        image = noise_image(*size)
        theirs = library_pixels(transform, config["mean"], config["std"], image)
        assert float((classifier.pixels(image) - theirs).abs().max()) < 1e-5


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "name", ["vgg16.IMAGENET1K_V1", "resnet152.IMAGENET1K_V2", "inception_v3.IMAGENET1K_V1",
             "efficientnet_b1.IMAGENET1K_V2", "efficientnet_b0.IMAGENET1K_V1"]
)  # fmt: skip
def test_pixels_are_torchvisions(name, size):
    base, suffix = name.split(".")
    transform = get_model_weights(base)[suffix].transforms()
    image = noise_image(*size)
    ours = torchvision_models.geometry_of(transform).pixels(image)
    theirs = library_pixels(transform, transform.mean, transform.std, image)
    assert float((ours - theirs).abs().max()) < 1e-5


def test_another_size_shows_the_same_part_of_the_image():
    """By hand: 256/224 of 112 is 128, and of 150 is 171.4; a shorter side is one number."""
    own = Geometry((224, 224), (256, 256), "shorter-side", "bicubic", "floored")
    assert own.scaled((112, 112)) == Geometry(
        (112, 112), (128, 128), "shorter-side", "bicubic", "floored"
    )
    assert own.scaled((112, 150)) == Geometry((112, 150), (128, 171), "cover", "bicubic", "floored")
    assert Geometry.whole((8, 8)).scaled((6, 10)) == Geometry.whole((6, 10))
    assert own.scaled((224, 224)) == own


def test_the_box_is_the_exact_inverse_of_resize_and_crop():
    """451×300 becomes 384×256; the crop takes columns 80 to 304 and rows 16 to 240 of that."""
    geometry = Geometry.centre((224, 224), 0.875, "bicubic")
    x, y = 451 / 384, 300 / 256
    assert geometry.crop_box(451, 300) == pytest.approx((80 * x, 16 * y, 304 * x, 240 * y))


def test_the_box_cut_again_gives_the_same_pixels(chelsea):
    image = open_image(chelsea)
    geometry = Geometry.centre((224, 224), 0.875, "bicubic")
    box = geometry.crop_box(image.width, image.height)
    difference = (geometry.pixels(image, box) - geometry.pixels(image)).abs()
    assert float(difference.max()) <= 2 / 255  # Pillow rounds between its two passes
    assert float(difference.mean()) < 0.01 / 255


def test_a_box_is_cut_at_the_input_size():
    image = Image.new("RGB", (100, 80))
    image.paste((255, 0, 0), (50, 0, 100, 80))
    geometry = Geometry.whole((8, 8))
    left, right = geometry.pixels(image, (0, 0, 40, 80)), geometry.pixels(image, (60, 0, 100, 80))
    assert left.shape == right.shape == (3, 8, 8)
    assert not left.any()
    assert (right[0] == 1).all()
    assert geometry.pixels(image, (60, 0, 100, 80), size=(4, 6)).shape == (3, 4, 6)


def test_a_box_beyond_the_image_is_cut_off():
    image = Image.new("RGB", (10, 10), (255, 255, 255))
    pixels = Geometry.whole((4, 4)).pixels(image, (-50, -50, 5, 5))
    assert (pixels == 1).all()
    with pytest.raises(ValueError, match=r"no area inside the 10×10 image"):
        Geometry.whole((4, 4)).pixels(image, (20, 0, 30, 10))


def test_without_a_crop_the_network_sees_everything(halves):
    assert halves.geometry.crop_box(100, 50) == (0, 0, 100, 50)


def test_its_own_size_is_not_touched():
    """A 32×32 network sees every pixel of a 32×32 image."""
    image = noise_image(32, 32)
    expected = torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255
    assert torch.equal(Geometry.whole((32, 32)).pixels(image), expected)


def test_a_one_pixel_high_panorama_needs_no_gigabytes():
    pixels = Geometry.centre((224, 224), 0.875).pixels(noise_image(200_000, 1))
    assert pixels.shape == (3, 224, 224)
    assert pixels.std() > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Geometry.centre((4, 4), 1.5), r"crop_pct must be in \(0, 1\]"),
        (lambda: Geometry.whole((4, 4), "cubic"), "interpolation 'cubic' is unknown"),
        (lambda: Geometry((8, 8), (4, 4), "squash"), "must lie within"),
    ],
)
def test_wrong_geometry(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_classifier_cuts_pixels(lite0, chelsea):
    image = open_image(chelsea)
    assert torch.equal(lite0.pixels(image), lite0.geometry.pixels(image))
    assert lite0.pixels(image, (0, 0, 100, 100), (32, 48)).shape == (3, 32, 48)
    assert isinstance(lite0, relook.Classifier)
