"""MultiCAM: what it hides, that it learns, that nothing is lost, and that no test image is trained on."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TextColumn
from safetensors.torch import load_file
from scipy.stats import binomtest
from torch import nn
from typer.testing import CliRunner

import relook
from networks import COLOURS, HalvesNet, counting_forwards, paint, random_cnn, write_scenes
from relook.attribution import Context
from relook.cli import app
from relook.cli.progress import TrainingBar
from relook.errors import ModelError, RelookError
from relook.evaluation import DataError, RunError, read_data
from relook.layout import Layout
from relook.multicam import (
    STAGES,
    Epoch,
    MultiCAM,
    Training,
    compare,
    load_stages,
    load_trained,
    mask_filter,
    masked,
    saliency,
    train_multicam,
    training,
    unseen_images,
)
from relook.multicam import Progress as TrainingProgress
from relook.multicam.data import divide, read_training_data
from relook.multicam.network import CamNet, ObjectNet
from relook.multicam.run import train
from relook.multicam.stages import Networks
from relook.multicam.training import Plan, Stage, fit
from relook.report.comparison import keep_cases
from relook.report.run import write_report
from relook.target import Target

HERE = Path(__file__).parent
SETTINGS = {"backbone": "networks:make_grey", "weights": "own"}
PLAN = Plan(epochs=6, rate=0.02, seed=0)


def small():
    return relook.Classifier(
        random_cnn(torch.float32), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), input_size=16
    )


@pytest.fixture
def scenes(tmp_path):
    """Three classes, 24 training and 10 test images each."""
    return write_scenes(tmp_path / "scenes")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(data, RUN) of a training that is done."""
    root = tmp_path_factory.mktemp("trained")
    scenes = write_scenes(root / "scenes")
    train(read_training_data(scenes), root / "run", small, PLAN, SETTINGS)
    return scenes, root / "run"


def halves_net():
    layout = Layout("channels-first", (2, 2), 3)
    return CamNet(HalvesNet(), Target("act", layout), "fc")


def inputs_of(left, right):
    """One 4×4 image, (red, green) of its left and of its right half."""
    image = torch.zeros(1, 3, 4, 4)
    for columns, colours in ((slice(0, 2), left), (slice(2, 4), right)):
        for channel, value in enumerate(colours):
            image[0, channel, :, columns] = value
    return image


# What it hides


def test_class_maps_saliency_and_mask_by_hand():
    net = halves_net()
    w = net.head.weight[0, 0].item()
    inputs = inputs_of((1, 0), (0, 0))  # red left, nothing right
    maps = net.maps(inputs)
    assert maps[0, 0].tolist() == [[1, 0], [1, 0]]
    class_maps = net.class_maps(maps)
    # w_red − mean of the two = w/2 for red, −w/2 for green.
    assert class_maps[0, 0].tolist() == [[pytest.approx(w / 2), 0], [pytest.approx(w / 2), 0]]
    assert class_maps[0, 1].tolist() == [[pytest.approx(-w / 2), 0], [pytest.approx(-w / 2), 0]]
    found = saliency(class_maps, inputs)
    assert found[0].tolist() == [pytest.approx([1, 0.75, 0.25, 0])] * 4
    assert mask_filter(found)[0].tolist() == [[1, 1, 1, 0]] * 4
    ramp = torch.tensor([[[0, 0.1, 0.125, 0.15, 0.2, 1]]])
    assert mask_filter(ramp)[0, 0].tolist() == pytest.approx([0, 0, 0.25, 0.5, 1, 1], abs=1e-6)


def test_a_place_counts_for_whichever_class_it_speaks():
    net = halves_net()
    found = saliency(
        net.class_maps(net.maps(inputs_of((1, 0), (0, 0.5)))), inputs_of((0, 0), (0, 0))
    )
    # Red, the answer, left; green half as strong right: both are seen, each by its own strength.
    assert found[0, 0].tolist() == pytest.approx([1, 0.875, 0.625, 0.5])


def test_an_image_without_evidence_is_not_hidden():
    net = halves_net()
    black = inputs_of((0, 0), (0, 0))
    assert saliency(net.class_maps(net.maps(black)), black).unique().tolist() == [1]
    half = torch.zeros(1, 2, 2, 2, dtype=torch.float16)
    assert saliency(half, black).unique().tolist() == [1]


def test_what_all_classes_share_does_not_count():
    """Softmax does not see a vector that is added to every class's weights; nor does the map."""
    net, torn = (CamNet(c.network, c.target, "fc") for c in (small(), small()))
    with torch.no_grad():
        torn.head.weight.add_(torch.tensor([3.0, -2.0, 5.0, 1.0, 0.0, -4.0]))
    inputs = torch.rand(2, 3, 16, 16)
    one, two = (saliency(n.class_maps(n.maps(inputs)), inputs) for n in (net, torn))
    assert torch.allclose(one, two, atol=1e-4)


def test_the_maps_are_those_before_an_operation_in_place():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.ReLU(inplace=True), nn.Flatten(2)
    )
    net = CamNet(network, Target("0", Layout("channels-first", (14, 14), 4)), "0")
    inputs = torch.rand(1, 3, 16, 16)
    assert torch.equal(net.maps(inputs), network[0](inputs))


def test_object_net_sees_the_dataset_mean_where_nothing_speaks():
    target, network = halves_net(), halves_net()
    seen = ObjectNet(target, network).masked(
        inputs_of((1, 0), (0, 0)) + 0.5, target.maps(inputs_of((1, 0), (0, 0)))
    )
    assert seen[0, 2].tolist() == [pytest.approx([0.5, 0.5, 0.5, 0], abs=1e-6)] * 4


def test_the_fusion_begins_as_the_mean_of_both_answers():
    base, other = (
        small(),
        relook.Classifier(
            random_cnn(torch.float32, seed=3), mean=(0, 0, 0), std=(1, 1, 1), input_size=16
        ),
    )
    target, network = (CamNet(c.network, c.target, "fc") for c in (base, other))
    whole = ObjectNet(target, network)
    inputs = torch.rand(3, 3, 16, 16)
    expected = (target(inputs) + whole(inputs)) / 2
    assert torch.allclose(MultiCAM(whole)(inputs), expected, atol=1e-5)


# Training


def test_it_learns_and_keeps_every_stage(trained):
    scenes, run = trained
    found = Training.read(run)
    assert list(found.stages) == ["target", "object", "fusion"]
    for stage in found.stages.values():
        first, best = stage.epochs[0], stage.best
        assert (stage.images, stage.validation) == (66, 6)
        assert best.validation_loss <= first.validation_loss
    assert found.stages["target"].best.validation_accuracy == 1
    images = unseen_images(found, scenes)
    target, object_net, fused = load_stages(found, STAGES, load=relook.load)
    for classifier in (target, object_net, fused):
        pixels = torch.stack([classifier.pixels(Image.open(i.path)) for i in images.images])
        right = classifier(pixels).argmax(1) == torch.tensor([i.label for i in images.images])
        assert right.float().mean() > 0.9
    for name, stage in found.stages.items():
        kept = json.loads((run / name / "stage.json").read_text())
        assert kept["seconds"] == stage.seconds
        assert sorted(p.name for p in (run / name).iterdir()) == [
            "stage.json",
            "weights.safetensors",
        ]


def weights_of(run):
    return {
        f"{name}.{key}": value
        for name in ("target", "object", "fusion")
        for key, value in load_file(run / name / "weights.safetensors").items()
    }


def same_weights(one, two):
    a, b = weights_of(one), weights_of(two)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, tmp_path):
    scenes, run = trained
    torch.manual_seed(99)  # the caller's own random numbers are neither used nor changed
    before = torch.get_rng_state()
    train(read_training_data(scenes), tmp_path / "again", small, PLAN, SETTINGS)
    assert torch.equal(before, torch.get_rng_state())
    assert same_weights(run, tmp_path / "again")
    other = Plan(PLAN.epochs, PLAN.rate, seed=1)
    train(read_training_data(scenes), tmp_path / "other", small, other, SETTINGS)
    assert not same_weights(run, tmp_path / "other")


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from test_multicam import PLAN, SETTINGS, small
from relook.multicam import training
from relook.multicam.data import read_training_data
from relook.multicam.run import train
training.KEEP_SECONDS = 0.0
told = 0
def stop(progress):
    global told
    told += 1
    if told > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
train(read_training_data({data!r}), {run!r}, small, PLAN, SETTINGS, on_progress=stop)
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(trained, tmp_path):
    """Two steps and the validation make three reports an epoch; 19 of them are a stage."""
    scenes, run = trained
    own = tmp_path / "run"
    seen = []
    for after in (5, 21):  # within an epoch of the first stage, and of the second
        script = KILLED.format(here=str(HERE), after=after, data=str(scenes), run=str(own))
        killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        seen.append(sorted(p.parent.name for p in own.glob("*/stage.json")))
    assert seen == [[], ["target"]]
    (own / "object" / "resume.pt.writing").write_bytes(b"half of it")
    steps = []
    train(read_training_data(scenes), own, small, PLAN, SETTINGS, on_progress=steps.append)
    assert {step.stage for step in steps} == {"object", "fusion"}
    assert 0 < steps[0].epoch < 6  # where it was
    assert same_weights(run, own)
    assert not list(own.rglob("resume*"))
    again = []
    train(read_training_data(scenes), own, small, PLAN, SETTINGS, on_progress=again.append)
    assert again == []


def test_dropout_is_resumed_too(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "KEEP_SECONDS", 0.0)

    def dropping():
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(),
            nn.Linear(6, 3),
        )  # fmt: skip
        return relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16)

    class StopError(Exception):
        pass

    def stop(progress):
        if progress.epoch == 2 and progress.step == 2:
            raise StopError

    data, plan = read_training_data(scenes), Plan(3, 0.01, 0)
    train(data, tmp_path / "whole", dropping, plan, {})
    with pytest.raises(StopError):
        train(data, tmp_path / "parts", dropping, plan, {}, on_progress=stop)
    train(data, tmp_path / "parts", dropping, plan, {})
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_it_stops_early_and_keeps_the_best_epoch(scenes, tmp_path):
    data = read_training_data(scenes)
    images = divide(data, 0)
    networks = Networks.make(small, data.labels, 0)
    parts = ([i for i in images if i.part == p] for p in ("train", "validation"))
    stage = networks.stage("target")
    before = {k: v.clone() for k, v in stage.network.state_dict().items()}
    plan = Plan(epochs=40, rate=0.0, seed=0)  # nothing can get better
    epochs = fit(stage, networks.base, *parts, plan, tmp_path / "kept.pt")
    assert [e.epoch for e in epochs] == list(range(1 + 10))  # patience: a quarter of 40
    assert all(torch.equal(before[k], v) for k, v in stage.network.state_dict().items())


def test_what_is_kept_is_the_best_epoch_as_the_validation_images_have_it(scenes, tmp_path):
    data = read_training_data(scenes)
    images = divide(data, 0)
    networks = Networks.make(small, data.labels, 0)
    fitted, held = ([i for i in images if i.part == p] for p in ("train", "validation"))
    stage = networks.stage("target")
    epochs = fit(stage, networks.base, fitted, held, Plan(5, 3.0, 0), tmp_path / "kept.pt")
    best = min(epochs, key=lambda epoch: epoch.validation_loss)
    assert best.epoch < epochs[-1].epoch  # a rate that destroys what was learnt
    pixels = torch.stack([networks.base.pixels(Image.open(i.path)) for i in held])
    with torch.no_grad():
        logits = stage.network(networks.base.normalised(pixels))
    truth = torch.tensor([i.label for i in held])
    loss = nn.functional.cross_entropy(logits, truth).item()
    assert loss == pytest.approx(best.validation_loss, rel=1e-4)
    assert loss < epochs[-1].validation_loss


def test_the_learning_rate_rises_and_falls_over_all_epochs(scenes, tmp_path, monkeypatch):
    rates = []

    class Watched(torch.optim.AdamW):
        def step(self, *arguments):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    train(read_training_data(scenes), tmp_path / "run", small, Plan(10, 0.02, 0), SETTINGS)
    # Two steps an epoch, 20 a stage: the highest after a tenth of them, half of it after 11/20.
    assert rates[2] == max(rates) == 0.02
    assert rates[11] == pytest.approx(0.01)
    assert rates[19] < 0.001
    assert max(rates[-6:]) <= 0.002  # the fusion, at a tenth


def test_what_stands_still_is_not_trained(scenes, tmp_path):
    data = read_training_data(scenes)
    images = divide(data, 0)
    networks = Networks.make(small, data.labels, 0)
    fitted, held = ([i for i in images if i.part == p] for p in ("train", "validation"))
    for number, (name, still) in enumerate(
        (("object", [networks.target]), ("fusion", [networks.target, networks.object.network]))
    ):
        stage = networks.stage(name)
        kept = [{k: v.clone() for k, v in net.state_dict().items()} for net in still]
        moved = {k: v.clone() for k, v in stage.network.state_dict().items()}
        fit(stage, networks.base, fitted, held, Plan(2, 0.01, 0), tmp_path / f"{number}.pt")
        for net, state in zip(still, kept, strict=True):
            assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
        assert any(not torch.equal(moved[k], v) for k, v in stage.network.state_dict().items())


@pytest.mark.parametrize(
    ("while_training", "message"),
    [(True, "the loss is nan in epoch 1"), (False, "the validation loss is nan after epoch 0")],
)
def test_a_loss_that_is_nan_ends_it(scenes, tmp_path, while_training, message):
    data = read_training_data(scenes)
    networks = Networks.make(small, data.labels, 0)
    images = divide(data, 0)
    parts = ([i for i in images if i.part == p] for p in ("train", "validation"))
    network = networks.target.network
    before = network.training

    def spoil(inputs):
        return inputs * float("nan") if network.training is while_training else inputs

    with pytest.raises(RelookError, match=f"target: {message}"):
        fit(Stage("target", network, spoil), networks.base, *parts, PLAN, tmp_path / "kept.pt")
    assert network.training is before  # as it came


def test_other_settings_are_refused(trained, tmp_path):
    scenes, run = trained
    shutil.copytree(run, tmp_path / "run")
    for plan in (Plan(7, 0.02, 0), Plan(6, 0.02, 1)):
        with pytest.raises(RunError, match=r"holds another run.*(epochs|seed) was"):
            train(read_training_data(scenes), tmp_path / "run", small, plan, SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["torchvision/googlenet", "timm/resnet10t", "bundled/efficientnet_lite0"]
)
def test_backbones_of_the_poster_and_of_timm_train_and_load(name, tmp_path):
    scenes = write_scenes(tmp_path / "scenes", train=3, test=1)
    train_multicam(
        scenes, tmp_path / "run", load=relook.load, backbone=name, weights="none", epochs=1
    )
    fused = relook.load(tmp_path / "run")
    pixels = torch.rand(1, 3, *fused.input_size)
    assert fused(pixels).sum() == pytest.approx(1)
    assert (
        relook.CAM()(Context(fused, fused.first_looks(pixels)[0], torch.tensor([0, 2]))).forwards
        == 0
    )
    keys = load_file(tmp_path / "run" / "target" / "weights.safetensors").keys()
    assert not [key for key in keys if key.startswith("aux")]
    # GoogLeNet's own weights come without, random ones with classifiers on the way.
    relook.load(tmp_path / "run" / "target")


def test_random_weights_of_a_function_are_random(scenes, tmp_path):
    from relook.multicam.door import _load

    own, reset = (_load(relook.load, "networks:make_grey", pretrained=p) for p in (True, False))
    assert torch.equal(own.network.conv1.weight, small().network.conv1.weight)
    assert not torch.equal(own.network.conv1.weight, reset.network.conv1.weight)
    half = relook.load("networks:make_grey", dtype="float16")
    assert _load(relook.load, "networks:make_grey").dtype == torch.float32
    assert half.dtype == torch.float16


def test_a_function_that_gives_one_network_twice_is_refused(scenes, tmp_path):
    one = small()
    with pytest.raises(ModelError, match="returns the same network twice"):
        train(read_training_data(scenes), tmp_path / "run", lambda: one, PLAN, SETTINGS)


@pytest.mark.parametrize("name", ["net.onnx", "hf/folder", "resnet18"])
def test_what_cannot_be_a_backbone_is_refused(name, scenes, tmp_path):
    with pytest.raises(ModelError, match=f"{name}: cannot be a backbone"):
        train_multicam(scenes, tmp_path / "run", load=relook.load, backbone=name)


def test_a_run_brings_no_code_and_no_run(trained, tmp_path, monkeypatch):
    scenes, run = trained
    with pytest.raises(ModelError, match="is itself a training run"):
        train_multicam(scenes, tmp_path / "other", load=relook.load, backbone=f"{run}/target")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "got")
    Path("got/evil.py").write_text("raise SystemExit('it ran')")
    for backbone, message in (("got.evil:make", "code inside this folder"), ("got", "a training")):
        settings = json.loads(Path("got/run.json").read_text())
        Path("got/run.json").write_text(json.dumps({**settings, "backbone": backbone}))
        with pytest.raises(ModelError, match=message):
            relook.load("got")


def test_a_backbone_that_does_not_end_so_is_refused(scenes, tmp_path):
    for name in ("torchvision/vgg11", "timm/convnext_atto"):
        with pytest.raises(ModelError, match=f"{name}: MultiCAM needs a network that ends with"):
            train_multicam(
                scenes, tmp_path / "run", load=relook.load, backbone=name, weights="none"
            )
    ended = nn.Sequential(random_cnn(torch.float32), nn.Softmax(1))

    def probabilities():
        return relook.Classifier(
            ended, mean=(0, 0, 0), std=(1, 1, 1), input_size=16, outputs="probabilities"
        )

    with pytest.raises(ModelError, match="needs a backbone that returns logits"):
        train(read_training_data(scenes), tmp_path / "run", probabilities, PLAN, SETTINGS)
    assert not (tmp_path / "run").exists()


def test_where_the_weights_come_from(scenes, tmp_path, lite0):
    from relook.multicam.door import _start

    assert _start("bundled/efficientnet_lite0", None) == ({}, "bundled")
    assert _start("timm/resnet18", None) == ({}, "own")
    assert _start("timm/resnet18", "none") == ({"pretrained": False}, "none")
    with pytest.raises(ModelError, match="timm/resnet18 has no bundled weights"):
        _start("timm/resnet18", "bundled")
    with pytest.raises(ModelError, match="no such file; pass a file of weights"):
        _start("timm/resnet18", "weights.pth")
    # Both networks begin with the ImageNet weights, and with class layers of their own.
    networks = Networks.make(relook.load, COLOURS, 0)
    for net in (networks.target, networks.object.network):
        assert torch.equal(net.network.conv_stem.weight, lite0.network.conv_stem.weight)
        assert net.head.weight.shape == (3, 1280)
    assert not torch.equal(networks.target.head.weight, networks.object.network.head.weight)


# Bad data


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "train" / "red").rename(d / "train" / "Blue"), "'Blue' and 'blue' differ"),
        (lambda d: shutil.rmtree(d / "test" / "red"), r"differ \(only in train/: red\)"),
        (lambda d: (d / "test" / "pink").mkdir(), r"differ \(only in test/: pink\)"),
        (lambda d: (d / "train" / "red" / "00.png").write_bytes(b"no image"), "red/00.png"),
        (lambda d: [f.unlink() for f in (d / "train" / "red").iterdir()], r"red \(0\)"),
        (lambda d: [f.unlink() for f in (d / "test" / "red").iterdir()], r"test.*red \(0\)"),
        (lambda d: shutil.rmtree(d / "test"), "holds train/ but no test/"),
        (
            lambda d: shutil.copy(d / "train/red/03.png", d / "test/red/copy.png"),
            "test/red/copy.png is train/red/03.png",
        ),
        (
            lambda d: shutil.copy(d / "train/red/03.png", d / "train/blue/copy.png"),
            "same image is in two classes: blue/copy.png and red/03.png",
        ),
    ],
)
def test_bad_data_is_said_before_the_training(scenes, tmp_path, spoil, message):
    spoil(scenes)
    with pytest.raises(DataError, match=message):
        train(read_training_data(scenes), tmp_path / "run", small, PLAN, SETTINGS)
    assert not (tmp_path / "run" / "run.json").exists()


def test_odd_names_are_no_trouble(tmp_path):
    for colour, label in enumerate(("train", 'a "b", c')):
        for index, name in enumerate(("a\rb", 'x, "y"', "z\n", "ü")):
            paint(tmp_path / "data" / label / f"{name}.png", colour, index)
    found = train(
        read_training_data(tmp_path / "data"), tmp_path / "run", small, Plan(1, 0.01, 0), SETTINGS
    )
    assert found.labels == ('a "b", c', "train")
    assert {i.name for i in found.images} == {
        path.relative_to(tmp_path / "data").as_posix()
        for path in (tmp_path / "data").rglob("*.png")
    }
    rows = (tmp_path / "run" / "images.csv").read_bytes()
    (tmp_path / "run" / "images.csv").write_bytes(rows[:-80])
    with pytest.raises(RunError, match="cannot be read as the list of images"):
        Training.read(tmp_path / "run")


def test_the_output_is_no_class(scenes):
    with pytest.raises(DataError, match="choose an output folder elsewhere"):
        train(read_training_data(scenes / "train"), scenes / "train" / "run", small, PLAN, SETTINGS)
    train(read_training_data(scenes), scenes / "run", small, Plan(1, 0.01, 0), SETTINGS)


def test_one_class_is_none(tmp_path):
    paint(tmp_path / "red" / "0.png", 0, 0)
    with pytest.raises(DataError, match="has one class"):
        read_training_data(tmp_path)


def test_an_image_that_goes_missing_does_not_lose_the_work(scenes, tmp_path):
    shown = []

    def remove(progress):
        shown.append(progress)
        if progress.ended and progress.ended.epoch == 1:
            shutil.move(scenes / "train", scenes / "away")

    data = read_training_data(scenes)
    with pytest.raises(RelookError, match=r"png: .*restore it, and run the same command again"):
        train(data, tmp_path / "run", small, PLAN, SETTINGS, on_progress=remove)
    shutil.move(scenes / "away", scenes / "train")
    steps = []
    train(data, tmp_path / "run", small, PLAN, SETTINGS, on_progress=steps.append)
    assert steps[0].ended.epoch == 1


def test_a_split_holds_its_shares_and_keeps_copies_together(tmp_path):
    for index in range(20):
        paint(tmp_path / "red" / f"{index}.png", 0, index)
        shutil.copy(tmp_path / "red" / f"{index}.png", tmp_path / "red" / f"copy {index}.png")
        paint(tmp_path / "blue" / f"{index}.png", 2, index)
    images = divide(read_training_data(tmp_path), 3)
    blue = [i.part for i in images if i.label == 0]
    assert [blue.count(part) for part in ("train", "validation", "test")] == [13, 1, 6]
    parts = {i.name: i.part for i in images}
    for index in range(20):
        assert parts[f"red/{index}.png"] == parts[f"red/copy {index}.png"]
    assert images == divide(read_training_data(tmp_path), 3)
    assert images != divide(read_training_data(tmp_path), 4)


# The folder is a model


def test_the_folder_is_a_model_name(trained, scenes, tmp_path):
    _, run = trained
    fused, target = relook.load(run), relook.load(f"{run}/target")
    assert (fused.target_layer, target.target_layer) == ("joined", "act")
    assert fused.labels == COLOURS
    file = scenes / "test" / "red" / "00.png"
    for classifier in (fused, target, relook.load(run / "object")):
        correction = relook.Corrector(classifier).correct(file)
        assert correction.labels[int(correction.after.argmax())] == "red"
        assert len(correction.maps) == 3
    evaluation = relook.evaluate(relook.Corrector(fused, look="best"), scenes / "test")
    assert evaluation.statistics.before.images == 30
    relook.export(fused, tmp_path / "net.onnx")
    exported = relook.load(tmp_path / "net.onnx")
    pixels = torch.rand(5, 3, 16, 16)
    assert torch.allclose(exported(pixels), fused(pixels), atol=1e-5)
    assert torch.allclose(
        fused.many(pixels.repeat(30, 1, 1, 1)), fused(pixels).repeat(30, 1), atol=1e-5
    )


def test_each_network_is_asked_once(trained):
    fused = relook.load(trained[1])
    whole = fused.network
    with (
        counting_forwards(whole.object.target.network) as target,
        counting_forwards(whole.object.network.network) as second,
    ):
        fused(torch.rand(7, 3, 16, 16))
    assert (target, second) == ([7], [7])


def test_folders_that_hold_no_model_say_so(trained, grey, data, tmp_path):
    scenes, run = trained
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "object")
    assert relook.load(tmp_path / "run" / "target").labels == COLOURS
    with pytest.raises(ModelError, match="not finished, object is missing"):
        relook.load(tmp_path / "run")
    (tmp_path / "run" / "target" / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(RelookError, match=r"target/weights.safetensors: cannot be used"):
        relook.load(tmp_path / "run" / "target")
    relook.evaluate(relook.Corrector(grey), data, tmp_path / "rows")
    with pytest.raises(RelookError, match=r"holds an evaluation .*; pass the folder of a training"):
        relook.load(tmp_path / "rows")
    with pytest.raises(ModelError, match=r"a folder without run\.json"):
        relook.load(scenes)
    with pytest.raises(ModelError, match="has its own weights"):
        relook.load(run, checkpoint=run / "target" / "weights.safetensors")


# Comparing


def test_what_it_was_trained_on_is_refused_wherever_it_lies(trained, tmp_path):
    scenes, run = trained
    found = Training.read(run)
    with pytest.raises(DataError, match="was trained on 72 of these 72 images"):
        unseen_images(found, scenes / "train")
    other = tmp_path / "other"
    shutil.copytree(scenes / "test", other)
    assert len(unseen_images(found, other)) == 30
    shutil.copy(scenes / "train" / "red" / "05.png", other / "red" / "new name.png")
    with pytest.raises(DataError, match=r"1 of these 31 images \(red/new name.png\)"):
        unseen_images(found, other)
    with pytest.raises(DataError, match="1 of these 31 images"):
        compare(load_trained(run, load=relook.load), read_data(other, COLOURS))


def test_other_classes_are_not_taken_in_sorted_order(trained, tmp_path):
    scenes, run = trained
    for name in COLOURS:
        shutil.copytree(scenes / "test" / name, tmp_path / f"other {name}s")
    with pytest.raises(DataError, match="which are: blue, green, red"):
        unseen_images(Training.read(run), tmp_path)


def test_of_what_relook_split_the_test_images_are_taken(scenes, tmp_path):
    data = scenes / "train"
    found = train(read_training_data(data), tmp_path / "run", small, Plan(1, 0.02, 5), SETTINGS)
    held = {i.name for i in found.images if i.part == "test"}
    images = unseen_images(found, data)
    assert {i.name for i in images.images} == held
    assert len(held) == 3 * 7
    assert "21 of 72 that were split off" in images.matched
    with (tmp_path / "run" / "images.csv").open() as stream:
        assert {row["image"] for row in csv.DictReader(stream) if row["part"] == "test"} == held
    paint(data / "red" / "unknown.png", 0, 77)
    with pytest.raises(DataError, match="was trained on 51 of these 73"):
        unseen_images(found, data)


def test_images_in_a_table_itself_are_trained_on_and_known_again(scenes, tmp_path):
    files = sorted((scenes / "train").rglob("*.png"))
    table = pyarrow.table(
        {
            "image": [file.read_bytes() for file in files],
            "label": [file.parent.name for file in files],
        }
    )
    file = scenes / "t.parquet"
    pyarrow.parquet.write_table(table, file)
    plan = Plan(1, 0.02, 5)
    data = read_training_data(file)
    found = train(data, tmp_path / "run", small, plan, SETTINGS)
    assert {i.name for i in found.images} == {f"row {n}" for n in range(1, 73)}
    for known in (file, scenes / "train"):
        assert len(unseen_images(found, known)) == 3 * 7
    again = train(data, tmp_path / "run", small, plan, SETTINGS)
    assert again.stages == found.stages


def test_names_that_are_no_utf8_and_decomposed_classes_are_trained_on(scenes, tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        folder = (scenes / part / "red").rename(scenes / part / unicodedata.normalize(form, "rosé"))
        (folder / "00.png").rename(folder / os.fsdecode(b"x\xe9.png"))
    found = train(read_training_data(scenes), tmp_path / "run", small, Plan(1, 0.02, 5), SETTINGS)
    assert found.labels == ("blue", "green", "rosé")
    assert {"train/rosé/x\\xe9.png"} <= {image.name for image in found.images}
    assert [i.label for i in unseen_images(found, scenes).images].count(2) == 10


def test_the_rows_are_what_each_network_says(trained, tmp_path):
    scenes, run = trained
    nets = load_trained(run, load=relook.load)
    images = unseen_images(nets.training, scenes)
    comparison = compare(nets, images, tmp_path / "out")
    rows = {row["method"]: row for row in comparison.summary()["rows"]}
    assert list(rows) == [
        "TargetNet", "TargetNet + poster", "TargetNet + flip", "TargetNet + quick",
        "TargetNet + best", "ObjectNet", "MultiCAM",
    ]  # fmt: skip
    truth = torch.tensor([i.label for i in images.images])
    pixels = torch.stack([nets.target.pixels(Image.open(i.path)) for i in images.images])
    corrected = {
        f"TargetNet + {look}": relook.Corrector(nets.target, gate=0.5, look=look)
        for look in ("poster", "flip", "quick", "best")
    }
    answers = {
        name: torch.stack([c.correct(i.path).after for i in images.images]).argmax(1)
        for name, c in corrected.items()
    }
    answers["TargetNet"] = nets.target(pixels).argmax(1)
    answers["ObjectNet"] = nets.object(pixels).argmax(1)
    answers["MultiCAM"] = nets.fused(pixels).argmax(1)
    first = answers["TargetNet"] == truth
    for name, row in rows.items():
        right = answers[name] == truth
        assert row["top1"] == pytest.approx(float(right.float().mean()))
        fixed, broken = int((right & ~first).sum()), int((first & ~right).sum())
        if name == "TargetNet":
            assert row["p_value"] is None
        elif fixed + broken:
            assert row["p_value"] == binomtest(fixed, fixed + broken).pvalue
        else:
            assert row["p_value"] == 1
        # Wilson's interval, written out.
        n, p, z = len(truth), row["top1"], 1.959964
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        assert (row["low"], row["high"]) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert [rows[n]["forwards"] for n in ("TargetNet", "ObjectNet", "MultiCAM")] == [1, 2, 2]
    stages = [stage.seconds for stage in nets.training.stages.values()]
    assert [m.seconds for m in comparison.methods] == [stages[0]] * 5 + [
        sum(stages[:2]),
        sum(stages),
    ]
    again = compare(nets, images, tmp_path / "out")
    assert again.summary() == comparison.summary()


def test_what_is_shown_is_what_object_net_sees(trained):
    scenes, run = trained
    fused = relook.load(run)
    pixels = fused.pixels(Image.open(scenes / "test" / "red" / "01.png"))
    seen = masked(fused, pixels)
    whole = fused.network.object
    inputs = fused.normalised(pixels[None])
    assert torch.allclose(
        fused.normalised(seen.image[None]),
        whole.masked(inputs, whole.target.maps(inputs)),
        atol=1e-5,
    )
    assert float(seen.saliency.max()) == pytest.approx(1)
    assert seen.hidden == pytest.approx(1 - float(mask_filter(seen.saliency[None]).mean()))
    assert 0 < seen.hidden < 1


# The command line


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_train_compare_and_predict_from_a_terminal(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy = ("--backbone", "networks:make_torn")
    done = command("train-multicam", "scenes", "--output", "run", "--epochs", 2, *toy)
    assert done.exit_code == 0, done.stderr
    for text in ("TargetNet", "ObjectNet", "fusion", "validation loss"):
        assert text in done.stdout
    assert "relook compare scenes --model run" in done.stderr
    assert "epoch 1" not in done.stderr  # quiet in a pipe
    compared = command(
        "compare",
        "scenes",
        "--model",
        "run",
        "--output",
        "out",
        "--json",
    )
    assert compared.exit_code == 0, compared.stderr
    rows = json.loads(compared.stdout.splitlines()[-1])["rows"]
    assert [set(row) for row in rows] == [
        {"method", "top1", "low", "high", "p_value", "forwards"}
    ] * 7
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("Retrain, or just correct?", "TargetNet + best", "89.80 → 91.79 %", "saliency of"):
        assert text in page
    predicted = command(
        "predict",
        "scenes/test/red/00.png",
        "--model",
        "run",
        "--json",
    )
    assert predicted.exit_code == 0, predicted.stderr
    assert {entry["label"] for entry in json.loads(predicted.stdout)["after"]} == set(COLOURS)
    refused = command("compare", "scenes/train", "--model", "run", "--output", "no")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "was trained on 72 of these 72 images" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_evaluate_says_what_was_trained_on(trained):
    scenes, run = trained
    for part, said in (("train", "was trained on 72 of these 72 images"), ("test", "")):
        result = command(
            "evaluate", scenes / part, "--model", run / "target", "--look", "flip", "--output",
            run.parent / f"evaluated {part}",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        assert ("was trained on" in result.stderr) is bool(said)
        assert said in result.stderr


def test_an_unreadable_test_image_is_reported_and_the_others_are_done(
    trained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    scenes, run = trained
    shutil.copytree(scenes / "test", tmp_path / "test")
    (tmp_path / "test" / "red" / "00.png").write_bytes(b"no image")
    result = command("compare", "test", "--model", run, "--output", "out")
    assert result.exit_code == 1
    assert "29 test images, 1 other could not be used" in result.stdout
    assert "00.png" in result.stderr


def test_where_nothing_can_be_read_every_method_has_a_row(trained, tmp_path):
    _, run = trained
    for name in COLOURS:
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "0.png").write_bytes(b"no image " + name.encode())
    nets = load_trained(run, load=relook.load)
    data = read_data(tmp_path / "bad", COLOURS)
    comparison = compare(nets, data, tmp_path / "compared", budget="fast")
    rows = comparison.summary()["rows"]
    assert [row["top1"] for row in rows] == [None] * 7
    assert rows[1]["method"] == "TargetNet + poster (fast)"
    keep_cases(comparison, nets, data, tmp_path / "compared")
    assert "Nothing to judge" in write_report(tmp_path / "compared").read_text()


def test_the_bar_says_each_epoch_once():
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=150)
    with Progress(TextColumn("{task.fields[told]}"), console=console) as progress:
        bar = TrainingBar(progress)
        for epoch in (0, 1, 2):
            for step in (1, 2) if epoch else ():
                bar(TrainingProgress("target", epoch, 2, step, 2, 1.5, 0.25))
            ended = Epoch(epoch, 1.5 if epoch else None, 0.25 if epoch else None, 0.125, 0.75, 1.0)
            bar(TrainingProgress("target", epoch, 2, 2 if epoch else 0, 2, 1.5, 0.25, ended))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told.getvalue())
    for line in ("epoch 0: before the training", "epoch 1: loss 1.500", "epoch 2: loss 1.500"):
        assert text.count(line) == 1
    assert "validation loss 0.125" in text
    assert "25.0\u00a0% right · validation 75.0\u00a0%" in text


def test_bad_usage_of_the_training_is_said(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (scenes / "train" / "red" / "07.png").write_bytes(b"no image")
    toy = ("--backbone", "networks:make_torn", "--output", "run")
    for arguments, message in (
        (("scenes", *toy), "red/07.png"),
        (("nowhere", *toy), "nowhere"),
        (
            ("scenes/test", "--output", "run", "--weights", "w.pth"),
            "no such file; pass a file of weights",
        ),
        (("scenes/test", "--output", "run", "--backbone", "timm/vgg99"), "timm/vgg99"),
        (("scenes/test", "--output", "run", "--backbone", "timm/resnet18"), "file of them with"),
    ):
        result = command("train-multicam", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
