"""What is known of a model: filled by every source, overruled by the caller, written and read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import relook
from networks import HalvesNet
from relook.geometry import Geometry
from relook.models.export import export
from relook.multicam.data import read_training_data
from relook.multicam.run import train
from relook.multicam.training import Plan
from relook.preprocessing import Preprocessing
from relook.record import Record, classifier_of
from test_multicam import SETTINGS, small, write_scenes

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
TORN = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "input_size": (16, 16)}
WHOLE = {"resize": (16, 16), "fit": "squash", "interpolation": "bilinear", "corner": "rounded"}


def known(name):
    record = vars(Record.of_classifier(relook.load(name, pretrained=False)))
    return {key: value for key, value in record.items() if value is not None and key != "labels"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "bundled/efficientnet_lite0",
            {
                "input_size": (224, 224), "resize": (256, 256), "fit": "shorter-side",
                "interpolation": "bicubic", "corner": "rounded", **HALVES,
                "outputs": "logits", "target_layer": "bn2",
            },
        ),
        (
            "timm/test_vit",
            {
                "input_size": (160, 160), "resize": (168, 168), "fit": "shorter-side",
                "interpolation": "bicubic", "corner": "rounded", **HALVES,
                "outputs": "logits", "target_layer": "blocks.4", "token_grid": (10, 10),
            },
        ),
        (
            "torchvision/squeezenet1_1",
            {
                "input_size": (224, 224), "resize": (256, 256), "fit": "shorter-side",
                "interpolation": "bilinear", "corner": "rounded", **IMAGENET,
                "outputs": "logits", "target_layer": "features",
            },
        ),
        ("networks:make_torn", TORN | WHOLE | {"outputs": "logits", "target_layer": "act"}),
    ],
)  # fmt: skip
def test_sources_fill_it(name, expected):
    assert known(name) == expected


def test_a_file_and_a_run_fill_it(tmp_path):
    export(relook.load("networks:make_torn", labels=list("abcd")), tmp_path / "net.onnx")
    beside = {"outputs": "logits", "target_layer": "/act/Relu"}
    assert known(str(tmp_path / "net.onnx")) == TORN | WHOLE | beside
    assert Record.read(tmp_path / "net.onnx") == Record(
        **TORN, **WHOLE, **beside, layout="NCHW", labels=("a", "b", "c", "d")
    )
    scenes = write_scenes(tmp_path / "scenes", train=3, test=1)
    train(read_training_data(scenes), tmp_path / "run", small, Plan(1, 0.02, 0), SETTINGS)
    joined = {"outputs": "logits", "target_layer": "joined"}
    assert known(str(tmp_path / "run")) == TORN | WHOLE | joined
    resized = relook.load(tmp_path / "run", input_size=24, labels=["x", "y", "z"])
    assert (resized.input_size, resized.target_layer) == ((24, 24), "joined")
    assert resized.labels == ("x", "y", "z")
    with pytest.raises(relook.ModelError, match=r"run: does not take inputs of 2×2 .*own 16×16"):
        relook.load(tmp_path / "run", input_size=2)


def test_what_the_caller_says_counts():
    """And a resize stays in proportion to the input size."""
    found = Record(input_size=(224, 224), crop_pct=0.95, mean=(0, 0, 0), std=(1, 1, 1))
    assert found.geometry == Geometry((224, 224), (235, 235), "shorter-side")
    said = found.given(Record(input_size=(192, 192), mean=(0.5, 0.5, 0.5), labels=("a",)))
    assert said.geometry == Geometry((192, 192), (201, 201), "shorter-side")  # 235 · 192 // 224
    assert (said.mean, said.std, said.labels) == ((0.5, 0.5, 0.5), (1, 1, 1), ("a",))
    wide = found.given(Record(input_size=(112, 224)))
    assert wide.geometry == Geometry((112, 224), (117, 235), "cover")
    assert found.given(Record()) == found
    # A size for a record without one: the resize is as it was written.
    free = Record(resize=(20, 20), mean=(0, 0, 0), std=(1, 1, 1))
    assert free.given(Record(input_size=(16, 16))).geometry == Geometry(
        (16, 16), (20, 20), "shorter-side"
    )


def test_a_classifier_of_a_network_and_its_record():
    known = Record(input_size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1), labels=("red", "green"))
    classifier = classifier_of(HalvesNet(), known, Record(labels=("a", "b")), "halves")
    assert classifier.name == "halves"
    assert classifier.labels == ("a", "b")
    assert classifier.geometry == Geometry.whole((4, 4))
    with pytest.raises(relook.ModelError, match="halves has 2 classes, but 3 labels were given"):
        classifier_of(HalvesNet(), known, Record(labels=("a", "b", "c")), "halves")
    # What does not come from the size is not put down to it.
    with pytest.raises(relook.ModelError, match=r"^layer 'no' is not in the network"):
        classifier_of(HalvesNet(), known, Record(input_size=(8, 8), target_layer="no"), "halves")


def test_inputs_are_the_classifier_s():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    image = Image.fromarray(pixels)
    prepared = Preprocessing(Geometry.centre((16, 16), 0.8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    classifier = classifier_of(relook.load("networks:make_torn").network, Record.of(prepared))
    expected = classifier.normalised(classifier.pixels(image))
    assert torch.equal(prepared.inputs(image), expected)
    assert prepared.scaled((32, 32)).geometry.resize == (40, 40)


def test_fields_that_nobody_knows_are_not_written(tmp_path):
    known = Record(mean=(0, 0, 0), std=(1, 1, 1), labels=("é",))
    file = known.write(tmp_path / "net.onnx")
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "mean": [0, 0, 0], "std": [1, 1, 1], "labels": ["é"],
    }  # fmt: skip
    assert Record.read(tmp_path / "net.onnx") == known
