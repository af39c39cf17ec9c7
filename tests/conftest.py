"""Shapes and types of the whole package are checked at run time in the tests, and only there."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # weights are never fetched: ask, and be told no at once

from jaxtyping import install_import_hook

with install_import_hook("relook", "typechecker.check"):
    import relook.cli
    import relook.correction
    import relook.demo
    import relook.evaluation
    import relook.models
    import relook.multicam
    import relook.report

import pytest
import torch
from PIL import Image

import relook
from networks import HalvesNet, make_torn, random_cnn, write_noise


@pytest.fixture
def halves() -> relook.Classifier:
    """The network with answers that can be computed by hand; see networks.HalvesNet."""
    return relook.Classifier(
        HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, labels=["red", "green"]
    )


@pytest.fixture
def halves_pixels() -> torch.Tensor:
    """Red in the left half, green in the right: (3, 4, 4)."""
    pixels = torch.zeros(3, 4, 4)
    pixels[0, :, :2] = 1
    pixels[1, :, 2:] = 1
    return pixels


@pytest.fixture
def cnn() -> relook.Classifier:
    """A random float64 network of 6 channels and 4 classes on 16×16 pixels."""
    return relook.Classifier(
        random_cnn(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), input_size=16
    )


@pytest.fixture
def noise() -> torch.Tensor:
    """Three float64 images for `cnn`: (3, 3, 16, 16)."""
    return torch.rand(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def lite0() -> relook.Classifier:
    """The bundled network."""
    return relook.load("bundled/efficientnet_lite0")


@pytest.fixture(scope="session")
def chelsea():
    """scikit-image's cat: its path."""
    from relook.demo import photos

    return photos()[0]


@pytest.fixture
def photo(tmp_path):
    """A small image file."""
    file = tmp_path / "photo.png"
    gradient = torch.linspace(0, 255, 40 * 30).reshape(30, 40).byte().numpy()
    Image.fromarray(gradient).convert("RGB").save(file)
    return file


@pytest.fixture
def grey():
    """A random network of 4 classes on 16×16 pixels."""
    return make_torn()


@pytest.fixture
def data(tmp_path):
    """40 images in four class folders, "0" to "3"."""
    root = tmp_path / "data"
    for index in range(40):
        folder = root / str(index % 4)
        folder.mkdir(parents=True, exist_ok=True)
        write_noise(folder / f"{index:02}.png", index)
    return root
