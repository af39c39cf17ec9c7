"""ONNX files as models: the same answers and maps as the network that they came from."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import relook
from networks import HalvesNet, SmallCNN, random_cnn
from relook.attribution import Context
from relook.models.graph import OnnxNetwork

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def write(network, file, example, names=("y",), axes=None):
    torch.onnx.export(
        network.eval(),
        (example,),
        file,
        input_names=["x"],
        output_names=list(names),
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}} if axes is None else axes,
        dynamo=False,
        opset_version=17,
    )
    return file


class Wrapped(nn.Module):
    """A network between what its graph takes and what it gives."""

    def __init__(self, network, before=None, after=None):
        super().__init__()
        self.network = network
        self.before = before or (lambda x: x)
        self.after = after or (lambda y: y)

    def forward(self, x):
        return self.after(self.network(self.before(x)))


@pytest.fixture
def torn():
    """A convolutional network of random weights that answers clearly, float32."""
    return random_cnn(torch.float32, batch_norm=True).eval()


def corrected(classifier, pixels, **options):
    """(probabilities, maps) of each image, with the exact Score-CAM."""
    corrector = relook.Corrector(
        classifier, k=2, look=relook.looks.Mask(relook.ScoreCAM(**options))
    )
    found = [corrector.correct(p.permute(1, 2, 0).mul(255).byte().numpy()) for p in pixels]
    return torch.stack([f.after for f in found]), torch.stack([f.maps for f in found])


@pytest.mark.parametrize("look", ["poster", "zoom", "tencrop"])
def test_the_bundled_network_answers_the_same(lite0, chelsea, tmp_path, look):
    relook.export(lite0, tmp_path / "net.onnx")
    exported = relook.load(str(tmp_path / "net.onnx"))
    budget = 64 if look == "poster" else None
    expected = relook.Corrector(lite0, gate="none", look=look, budget=budget).correct(chelsea)
    found = relook.Corrector(exported, gate="none", look=look, budget=budget).correct(chelsea)
    for part in ("before", "after", "maps", "mask_images"):
        torch.testing.assert_close(
            getattr(found, part), getattr(expected, part), atol=1e-4, rtol=0, msg=part
        )
    assert found.classes.tolist() == expected.classes.tolist()
    assert found.forwards == expected.forwards
    assert exported.labels == lite0.labels
    assert exported.geometry == lite0.geometry
    assert exported.target_layer == "/bn2/act/Clip"
    assert exported.remarks == ()


def test_a_resnet_answers_the_same(tmp_path):
    torch.manual_seed(0)
    resnet = relook.load("timm/resnet10t", pretrained=False)
    with torch.no_grad():
        for module in resnet.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        resnet.network.fc.weight.mul_(20)
    relook.export(resnet, tmp_path / "net.onnx")
    exported = relook.load(str(tmp_path / "net.onnx"))
    pixels = torch.rand(2, 3, *resnet.input_size)
    expected, maps = corrected(resnet, pixels, budget=32)
    assert float(expected.max(dim=1).values.min()) > 0.01  # of 1000 classes: no flat answer
    found, own = corrected(exported, pixels, budget=32)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(own, maps, atol=1e-4, rtol=0)
    # What the sidecar says is what is found without it.
    exported.aim()
    assert exported.target_layer == "/layer4/layer4.0/act2/Relu"


def test_maps_by_hand(halves_pixels, tmp_path):
    """As Score-CAM of `HalvesNet`: red falls from 1 to 0 over the columns, green rises."""
    file = write(HalvesNet(), tmp_path / "net.onnx", torch.rand(1, 3, 4, 4))
    classifier = relook.load(str(file), **PLAIN, labels=["red", "green"])
    correction = relook.Corrector(classifier).correct(
        halves_pixels.permute(1, 2, 0).mul(255).byte().numpy()
    )
    torch.testing.assert_close(correction.before, torch.tensor([0.75, 0.25]))
    columns = torch.tensor([1, 0.75, 0.25, 0])
    torch.testing.assert_close(correction.maps[0], columns.expand(4, 4), atol=1e-6, rtol=0)
    assert classifier.target_layer.endswith("Relu")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_fixed_batches_and_both_orders(torn, tmp_path, batch, order):
    last = order == "NHWC"
    network = Wrapped(torn, lambda x: x.permute(0, 3, 1, 2)) if last else torn
    example = torch.rand(batch, *((16, 16, 3) if last else (3, 16, 16)))
    file = write(network, tmp_path / "net.onnx", example, axes={})
    classifier = relook.load(str(file), **PLAIN)
    assert (classifier.network.order, classifier.network.batch) == (order, batch)
    pixels = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(classifier(pixels), torn(pixels).softmax(1), atol=1e-5, rtol=0)
    expected = corrected(relook.Classifier(torn, **PLAIN, input_size=16), pixels)
    for found, wanted in zip(corrected(classifier, pixels), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


class ChannelsLast(nn.Module):
    """Dense layers over maps with the channels last, as exporters of Keras write them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.dense = nn.Linear(8, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.fc(self.dense(x).relu().mean(dim=(1, 2)))


def test_maps_with_the_channels_last(tmp_path):
    torch.manual_seed(0)
    network = ChannelsLast().eval()
    file = write(network, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    classifier = relook.load(str(file), **PLAIN)
    assert str(classifier.layout) == "6×4×4, channels last"
    pixels = torch.rand(1, 3, 16, 16)
    [first] = classifier.first_looks(pixels)
    with torch.no_grad():
        expected = network.dense(network.conv(pixels).permute(0, 2, 3, 1)).relu()
    torch.testing.assert_close(first.activations, expected[0].permute(2, 0, 1))


def test_softmax_inside(torn, tmp_path):
    network = Wrapped(torn, after=lambda y: y.softmax(1))
    classifier = relook.load(
        str(write(network, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))), **PLAIN
    )
    assert classifier.returns == "probabilities"
    pixels = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(classifier(pixels), torn(pixels).softmax(1), atol=1e-6, rtol=0)


def test_half_precision(torn, tmp_path):
    file = write(copy.deepcopy(torn).half(), tmp_path / "net.onnx", torch.rand(1, 3, 16, 16).half())
    classifier = relook.load(str(file), **PLAIN)
    pixels = torch.rand(2, 3, 16, 16)
    answers = classifier(pixels)
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers, torn(pixels).softmax(1), atol=5e-3, rtol=0)
    expected = corrected(relook.Classifier(torn, **PLAIN, input_size=16), pixels)
    torch.testing.assert_close(corrected(classifier, pixels)[1], expected[1], atol=2e-2, rtol=0)


def quantised(source, form, size):
    """The graph in 8 bits, after it has seen some noise; another file."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        quantize_dynamic,
        quantize_static,
    )

    class Noise(CalibrationDataReader):
        def __init__(self):
            generator = np.random.default_rng(0)
            self.left = [generator.random((1, 3, size, size), np.float32) for _ in range(16)]

        def get_next(self):
            return {"x": self.left.pop()} if self.left else None

    file = source.with_name("net.onnx")
    if form == "dynamic":
        quantize_dynamic(source, file)
    else:
        quantize_static(source, file, Noise(), quant_format=QuantFormat[form])
    return file


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_eight_bits(torn, tmp_path, form):
    source = write(torn, tmp_path / "float.onnx", torch.rand(1, 3, 16, 16))
    file = quantised(source, form, 16)
    classifier = relook.load(str(file), **PLAIN)
    assert str(classifier.layout) == "6×4×4"
    pixels = torch.rand(2, 3, 16, 16)
    answers = classifier(pixels)
    torch.testing.assert_close(answers.sum(1), torch.ones(2))
    torch.testing.assert_close(answers, torn(pixels).softmax(1), atol=0.05, rtol=0)
    own = relook.Classifier(torn, **PLAIN, input_size=16)
    [first], [expected] = classifier.first_looks(pixels[:1]), own.first_looks(pixels[:1])
    # The same maps to what 256 steps can say, and as numbers, not as codes.
    largest = float(expected.activations.max())
    torch.testing.assert_close(first.activations, expected.activations, atol=0.06 * largest, rtol=0)


def test_bytes_as_input(torn, tmp_path):
    """As TensorFlow exports them: pixels from 0 to 255, the channels last."""
    network = Wrapped(torn, lambda x: x.permute(0, 3, 1, 2).float() / 255)
    example = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    file = write(network, tmp_path / "net.onnx", example)
    classifier = relook.load(str(file))  # which normalises itself, or is told otherwise
    assert classifier.std == (1 / 255,) * 3
    pixels = torch.randint(0, 256, (2, 3, 16, 16)) / 255
    torch.testing.assert_close(classifier(pixels), torn(pixels).softmax(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("mean", "std", "values"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "from -2.12 to 2.64"),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "from -2.12 to -1.79"),
        ((0, 0, 0), (1, 1, 1), "from 0 to 1"),
        ((0.5, 0.5, 0.5), (0.5 / 255, 0.5 / 255, 0.5 / 255), "from -255 to 255"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_bytes_that_would_hold_next_to_nothing(torn, tmp_path, mean, std, values, beside):
    """With ImageNet's mean and std four values are left of 256."""
    network = Wrapped(torn, lambda x: x.permute(0, 3, 1, 2).float() / 255)
    example = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    file = str(write(network, tmp_path / "net.onnx", example))
    said = {"mean": mean, "std": std}
    if beside:
        (tmp_path / "net.json").write_text(json.dumps(said))
        said = {}
    with pytest.raises(relook.ModelError, match=f"takes bytes .*{values}; omit mean and std"):
        relook.load(file, **said)


def test_bytes_of_another_scale(torn, tmp_path):
    """A graph may be made for half the range: what it is told is what it gets."""
    network = Wrapped(torn, lambda x: x.permute(0, 3, 1, 2).float() / 127)
    example = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    file = str(write(network, tmp_path / "net.onnx", example))
    classifier = relook.load(file, mean=(0, 0, 0), std=np.full(3, 1 / 127))
    assert classifier.input_range == (0, 127)
    pixels = torch.randint(0, 128, (2, 3, 16, 16)) / 127
    torch.testing.assert_close(classifier(pixels), torn(pixels).softmax(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("before", "factor"),
    [
        (lambda x: x / 255, 1 / 255),
        (lambda x: x.permute(0, 3, 1, 2) * (1 / 127.5) - 1, 1 / 127.5),
        (lambda x: (x - torch.full((3, 1, 1), 120.0)) / torch.full((3, 1, 1), 58.0), 1 / 58),
    ],
)
def test_pixels_that_would_be_scaled_twice(torn, tmp_path, caplog, before, factor):
    """A graph that scales pixels up to 255 itself, as Keras's do, with ImageNet's mean and std."""
    last = abs(factor - 1 / 127.5) < 1e-6
    example = torch.rand(1, 16, 16, 3) if last else torch.rand(1, 3, 16, 16)
    file = str(write(Wrapped(torn, before), tmp_path / "net.onnx", example))
    classifier = relook.load(file, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert classifier.network.input_factor == pytest.approx(factor)
    [said] = caplog.messages
    assert "takes pixels up to 255, but with this mean and std it gets values from -2.12" in said
    caplog.clear()
    relook.load(file, mean=(0, 0, 0), std=(1 / 255,) * 3)
    relook.load(str(write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))), **PLAIN)
    assert not caplog.messages


CAFFE = torch.tensor([123.7, 116.8, 103.9]).view(3, 1, 1)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class InputNorm(nn.Module):
    """BatchNorm as the first layer, with what it learned of its input."""

    def __init__(self, mean, std):
        super().__init__()
        self.norm = nn.BatchNorm2d(3).eval()
        self.norm.running_mean.fill_(mean)
        self.norm.running_var.fill_(std**2)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (lambda x: x - CAFFE, "subtracts 115 from its input itself, and"),
        (lambda x: x[:, [2, 1, 0]] - CAFFE.flip(0), "subtracts 115"),
        (lambda x: x.flip(1) - CAFFE.flip(0), "subtracts 115"),
        (lambda x: torch.cat(x.split(1, 1)[::-1], 1) - CAFFE.flip(0), "subtracts 115"),
        (InputNorm(120, 60), "subtracts 120 from its input itself and multiplies it by 0.0167"),
        (lambda x: x.clamp(0, 255) / 255, "multiplies its input by 0.00392"),
        (lambda x: x.clamp(0, 255), "cuts its input off at 255"),
    ],
    ids=["caffe", "BGR", "flipped", "split", "BatchNorm", "clamp and scale", "clamp"],
)
def test_graphs_made_for_pixels_up_to_255(torn, tmp_path, caplog, before, said):
    example = torch.rand(1, 3, 16, 16)
    file = str(write(Wrapped(torn, before), tmp_path / "net.onnx", example))
    relook.load(file, **IMAGENET)
    [found] = caplog.messages
    assert said in found
    assert "takes pixels up to 255, but with this mean and std it gets values from -2.12" in found
    assert "mean 0,0,0 and std 0.00392157,0.00392157,0.00392157 (1/255) it does" in found
    caplog.clear()
    classifier = relook.load(file, mean=(0, 0, 0), std=(1 / 255,) * 3)
    assert not caplog.messages
    expected = torn(before(example * 255)).softmax(1)
    torch.testing.assert_close(classifier(example), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "before",
    [
        lambda x: (x - 0.45) / 0.225,
        lambda x: x.clamp(0, 1) * 2 - 1,
        lambda x: x * 255 - CAFFE,
        InputNorm(0.45, 0.25),
    ],
    ids=["ImageNet", "TensorFlow", "caffe", "BatchNorm"],
)
def test_pixels_that_would_be_normalised_twice(torn, tmp_path, caplog, before):
    file = tmp_path / "net.onnx"
    write(Wrapped(torn, before), file, torch.rand(1, 3, 16, 16))
    relook.load(str(file), **IMAGENET)
    [said] = caplog.messages
    assert "takes pixels in [0, 1] as they are, but with this mean and std it gets" in said
    assert (
        "from -2.12 to 2.64; with mean 0,0,0 and std 1,1,1 it does all of the normalisation" in said
    )
    caplog.clear()
    relook.load(str(file), **PLAIN)
    assert not caplog.messages


def test_pixels_up_to_255_that_would_be_centred_twice(torn, tmp_path, caplog):
    file = tmp_path / "net.onnx"
    write(Wrapped(torn, lambda x: x - CAFFE), file, torch.rand(1, 3, 16, 16))
    relook.load(str(file), mean=(0.485, 0.456, 0.406), std=(1 / 255,) * 3)
    assert "takes pixels up to 255 as they are" in caplog.text
    assert "values from -124 to 151; with mean 0,0,0 and std 0.00392157" in caplog.text


def test_a_first_batch_norm_of_normalised_values_is_no_normalisation_of_pixels(
    torn, tmp_path, caplog
):
    file = tmp_path / "net.onnx"
    write(Wrapped(torn, InputNorm(0.1, 1.1)), file, torch.rand(1, 3, 16, 16))
    relook.load(str(file), **IMAGENET)
    assert not caplog.messages


def test_a_vision_transformer(tmp_path):
    """The last block's tokens are read by nobody: in the graph as in the network."""
    torch.manual_seed(0)
    import timm

    network = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5
    )
    own = relook.Classifier(network, **PLAIN, input_size=32)
    assert own.target_layer == "blocks.1"
    relook.export(own, tmp_path / "net.onnx")
    exported = relook.load(str(tmp_path / "net.onnx"))
    pixels = torch.rand(1, 3, 32, 32)
    [expected], [found] = own.first_looks(pixels), exported.first_looks(pixels)
    torch.testing.assert_close(found.activations, expected.activations, atol=1e-5, rtol=1e-4)
    exported.aim()
    [again] = exported.first_looks(pixels)
    torch.testing.assert_close(again.activations, expected.activations, atol=1e-5, rtol=1e-4)


def test_cam_finds_the_weights_in_the_graph(torn, tmp_path):
    file = write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    exported = relook.load(str(file), **PLAIN)
    own = relook.Classifier(torn, **PLAIN, input_size=16)
    pixels = torch.rand(1, 3, 16, 16)
    [mine], [theirs] = own.first_looks(pixels), exported.first_looks(pixels)
    classes = torch.tensor([0, 3])
    expected = relook.CAM()(Context(own, mine, classes)).maps
    assert float(expected.max()) == 1
    torch.testing.assert_close(
        relook.CAM()(Context(exported, theirs, classes)).maps, expected, atol=1e-4, rtol=0
    )
    with pytest.raises(relook.ModelError, match="an ONNX graph has no gradients; use Score-CAM"):
        relook.GradCAM()(Context(exported, theirs, classes))


def test_another_layer_by_its_nodes_name(torn, tmp_path):
    file = str(write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16)))
    classifier = relook.load(file, **PLAIN, target_layer="/conv1/Conv")
    assert classifier.layout.grid == (16, 16)
    [first] = classifier.first_looks(torch.ones(1, 3, 16, 16) / 2)
    with torch.no_grad():
        expected = torn.conv1(torch.ones(1, 3, 16, 16) / 2)[0]
    torch.testing.assert_close(first.activations, expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(relook.ModelError, match=r"'/conv1/Con' is not in the .* '/conv1/Conv'"):
        relook.load(file, **PLAIN, target_layer="/conv1/Con")
    with pytest.raises(relook.ModelError, match=r"returns 4, but only maps larger than 1×1 show"):
        relook.load(file, **PLAIN, target_layer="/fc/Gemm")


def node_of_pools():
    """conv → relu → max pool (2×2) → conv with one channel a class → global pool → softmax."""
    generator = np.random.default_rng(0)

    def weights(name, *shape):
        return helper.make_tensor(
            name, TensorProto.FLOAT, shape, generator.normal(size=shape).ravel()
        )

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"], name="active"),
        helper.make_node("MaxPool", ["b"], ["c"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="class maps"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="mean"),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weights("w1", 5, 3, 2, 2), weights("w2", 4, 5, 1, 1)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_pooled_maps_and_class_maps_are_passed_over(tmp_path):
    onnx.save(node_of_pools(), tmp_path / "net.onnx")
    classifier = relook.load(str(tmp_path / "net.onnx"), **PLAIN)
    assert classifier.target_layer == "active"
    assert str(classifier.layout) == "5×8×8"
    assert classifier.returns == "probabilities"


def test_sides_that_the_graph_leaves_free(torn, tmp_path):
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    file = str(write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16), axes=axes))
    with pytest.raises(relook.ModelError, match=r"missing the input size \(--input-size"):
        relook.load(file, **PLAIN)
    classifier = relook.load(file, **PLAIN, input_size=(16, 32))
    assert classifier.layout.grid == (4, 8)
    pixels = torch.rand(1, 3, 16, 32)
    torch.testing.assert_close(classifier(pixels), torn(pixels).softmax(1), atol=1e-5, rtol=0)
    assert classifier.takes(24, 24)
    # What is written of the resize is for the size beside it.
    side = {"input_size": [16, 16], "resize": [20, 20]}
    (tmp_path / "net.json").write_text(json.dumps(side))
    assert relook.load(file, **PLAIN).geometry.resize == (20, 20)
    assert relook.load(file, **PLAIN, input_size=32).geometry.resize == (40, 40)
    fixed = relook.load(
        str(write(torn, tmp_path / "fixed.onnx", torch.rand(1, 3, 16, 16))), **PLAIN
    )
    assert not fixed.takes(24, 24)


def test_what_the_sidecar_says(torn, tmp_path):
    file = write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    (tmp_path / "names.txt").write_text("ant\nbee\nfly\ngnat\n")
    side = tmp_path / "net.json"
    side.write_text(
        json.dumps(
            {
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
                "crop_pct": 0.5,
                "labels": "names.txt",
                "target_layer": "/conv1/Conv",
            }
        )
    )
    classifier = relook.load(str(file))
    assert classifier.labels == ("ant", "bee", "fly", "gnat")
    assert classifier.geometry.resize == (32, 32)
    assert classifier.target_layer == "/conv1/Conv"
    pixels = torch.rand(2, 3, 16, 16)
    expected = torn((pixels - 0.5) / 0.25).softmax(1)
    torch.testing.assert_close(classifier(pixels), expected, atol=1e-5, rtol=0)
    # What is given beside it counts.
    given = relook.load(str(file), mean=(0, 0, 0), std=(1, 1, 1), labels=["a", "b", "c", "d"])
    torch.testing.assert_close(given(pixels), torn(pixels).softmax(1), atol=1e-5, rtol=0)
    assert given.labels == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"net\.json: cannot be read as JSON"),
        ("[1]", r"net\.json: must be a JSON object"),
        ('{"men": [0, 0, 0]}', r"net\.json: 'men' is unknown; closest: 'mean'"),
        ('{"fit": "stretch"}', r'fit must be "squash" or "shorter-side" or "cover", not \'stretch'),
        ('{"labels": 5}', "labels must be a list of names"),
        ('{"target_layer": 5}', "target_layer must be the name of a node, not 5"),
        ('{"crop_pct": 7}', r"net\.json: crop_pct must be a number in \(0, 1\], not 7"),
        ('{"token_grid": [0, 4]}', r"token_grid must be of numbers from 1 on, not \[0, 4\]"),
        ('{"mean": [0, 0]}', r"net\.json: mean must be a list of 3 numbers, not \[0, 0\]"),
        ('{"input_size": 16}', r"net\.json: input_size must be a list of 2 numbers, not 16"),
        ('{"layout": "HWC"}', r'layout must be "NCHW" or "NHWC", not \'HWC\''),
        ('{"labels": "no.txt"}', r"no\.txt: no such file of labels"),
        (
            '{"input_size": [32, 32], "mean": [0, 0, 0], "std": [1, 1, 1]}',
            "16×16 only, not of 32×32",
        ),
        ('{"mean": [0, 0, 0], "std": [1, 1, 1], "labels": ["a"]}', "4 classes, but 1 labels"),
        ("{}", r"missing mean \(--mean, mean=\), std .* write them into .*net\.json"),
    ],
)
def test_sidecars_that_are_of_no_use(torn, tmp_path, text, message):
    file = write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    (tmp_path / "net.json").write_text(text)
    with pytest.raises(relook.RelookError, match=message):
        relook.load(str(file))


def test_files_that_are_no_classifier(torn, tmp_path):
    def refused(match, file="net.onnx", **options):
        with pytest.raises(relook.ModelError, match=match):
            relook.load(str(tmp_path / file), **PLAIN, **options)

    refused(r"no\.onnx: no such file", "no.onnx")
    (tmp_path / "net.onnx").write_bytes(b"not a graph")
    refused(r"net\.onnx: cannot be read as ONNX")
    write(
        Wrapped(torn, after=lambda y: y.sigmoid()), tmp_path / "net.onnx", torch.rand(1, 3, 16, 16)
    )
    refused("ends in a sigmoid")
    for shares in (
        lambda y: torch.stack([y.sigmoid(), y.flip(1).sigmoid()]).mean(0),
        lambda y: torch.maximum(y.sigmoid(), y.flip(1).sigmoid()),
        lambda y: 1 - y.sigmoid(),
        lambda y: y.sigmoid().clamp(0.01, 0.99),
    ):
        write(Wrapped(torn, after=shares), tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
        refused("as sigmoids do")
    write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    refused(r"checkpoint", checkpoint="w.safetensors")
    refused(r"device 'tpu' cannot be used; ONNX Runtime has .*cpu", device="tpu")
    refused(r"input is \?×3×16×16, not NHWC with 3 colour channels", layout="NHWC")
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    write(grey, tmp_path / "net.onnx", torch.rand(1, 1, 16, 16))
    refused(r"input is \?×1×16×16, with one colour channel")


def test_only_onnx_files_take_what_others_say_themselves():
    with pytest.raises(
        relook.ModelError, match="resnet10t: brings its own mean, std; these arguments are for"
    ):
        relook.load("timm/resnet10t", pretrained=False, **PLAIN)


def test_a_free_batch_that_is_none(tmp_path):
    """A network that reshapes by the batch of its tracing: one image at a time."""

    class Baked(SmallCNN):
        def forward(self, x):
            return super().forward(x).view(1, 4)

    torch.manual_seed(0)
    network = Baked().eval()
    file = write(network, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    classifier = relook.load(str(file), **PLAIN)
    assert classifier.network.batch == 1
    pixels = torch.rand(3, 3, 16, 16)
    expected = torch.cat([network(p[None]) for p in pixels]).softmax(1)
    torch.testing.assert_close(classifier(pixels), expected, atol=1e-5, rtol=0)
    # Exported by relook it would be refused.
    own = relook.Classifier(network, **PLAIN, input_size=16)
    with pytest.raises(relook.ModelError, match="fails on three images at once"):
        relook.export(own, tmp_path / "own.onnx")


def test_a_network_that_decides_by_the_values_of_its_input_is_not_exported(tmp_path):
    class Signed(SmallCNN):
        def forward(self, x):
            y = super().forward(x)
            return y if x.min() < 0 else y.flip(1)

    own = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": 16}
    classifier = relook.Classifier(Signed(), **own)
    with pytest.raises(relook.ModelError, match="the exported network's outputs differ"):
        relook.export(classifier, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


class Several(nn.Module):
    def __init__(self, network, outputs):
        super().__init__()
        self.network = network
        self.outputs = outputs

    def forward(self, x):
        return self.outputs(self.network(x))


def test_several_outputs(torn, tmp_path):
    def exported(outputs, *names):
        network = Several(torn, outputs)
        return str(write(network, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16), names))

    pixels = torch.rand(2, 3, 16, 16)
    expected = torn(pixels).softmax(1)
    # The label, then the scores; features, then what is called logits.
    for file in (
        exported(lambda y: (y.argmax(1), y * 1), "label", "scores"),
        exported(lambda y: (y[:, :2] * 2, y * 1), "features", "logits"),
    ):
        classifier = relook.load(file, **PLAIN)
        torch.testing.assert_close(classifier(pixels), expected, atol=1e-5, rtol=0)
    with pytest.raises(relook.ModelError, match="its outputs are a, b, and it is not clear which"):
        relook.load(exported(lambda y: (y[:, :2] * 2, y * 1), "a", "b"), **PLAIN)
    with pytest.raises(relook.ModelError, match="returns only the best classes"):
        relook.load(exported(lambda y: y.topk(3), "best", "which"), **PLAIN)


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_a_vision_transformer_in_eight_bits(tmp_path, form):
    from timm.models import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5
    )
    source = write(network, tmp_path / "float.onnx", torch.rand(1, 3, 32, 32))
    expected = relook.load(str(source), **PLAIN)
    assert expected.target_layer == "/blocks/blocks.1/Add_1"
    file = quantised(source, form, 32)
    classifier = relook.load(str(file), **PLAIN)
    pixels = torch.rand(1, 3, 32, 32)
    [found], [wanted] = classifier.first_looks(pixels), expected.first_looks(pixels)
    # The same block's tokens, in the same places, as far as 8 bits go.
    both = torch.stack([found.activations.flatten(), wanted.activations.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95


def test_cam_of_graphs_in_half_precision_and_eight_bits(torn, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    half = write(copy.deepcopy(torn).half(), tmp_path / "h.onnx", torch.rand(1, 3, 16, 16).half())
    classifier = relook.load(str(half), **PLAIN)
    assert not classifier.is_exact
    own = relook.Classifier(torn, **PLAIN, input_size=16)
    pixels = torch.rand(1, 3, 16, 16)
    [mine], [theirs] = own.first_looks(pixels), classifier.first_looks(pixels)
    expected = relook.CAM()(Context(own, mine, torch.arange(4))).maps
    found = relook.CAM()(Context(classifier, theirs, torch.arange(4))).maps
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    source = write(torn, tmp_path / "f.onnx", torch.rand(1, 3, 16, 16))
    quantize_dynamic(source, tmp_path / "d.onnx", op_types_to_quantize=["Conv"])
    assert not relook.load(str(tmp_path / "d.onnx"), **PLAIN).is_exact


def test_a_failed_export_leaves_what_was_there(torn, tmp_path):
    good = relook.Classifier(torn, **PLAIN, input_size=16)
    relook.export(good, tmp_path / "net.onnx")
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    wrong = relook.Classifier(copy.deepcopy(torn).double(), **PLAIN, input_size=16)
    with pytest.raises(relook.ModelError, match=r"is in torch\.float64, .*--dtype float32"):
        relook.export(wrong, tmp_path / "net.onnx")
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_a_graph_of_two_branches(tmp_path):
    """What is read inside of an If leads to the answer too."""
    model = node_of_pools()
    nodes = list(model.graph.node)
    inner = []
    for name, scale in (("then", 1.0), ("else", 2.0)):
        constant = helper.make_node(
            "Constant",
            [],
            [f"{name}/s"],
            value=helper.make_tensor("", TensorProto.FLOAT, [], [scale]),
        )
        product = helper.make_node("Mul", ["g", f"{name}/s"], [f"{name}/y"])
        output = helper.make_tensor_value_info(f"{name}/y", TensorProto.FLOAT, None)
        inner.append(helper.make_graph([constant, product], name, [], [output]))
    flag = helper.make_node(
        "Constant", [], ["flag"], value=helper.make_tensor("", TensorProto.BOOL, [], [True])
    )
    branch = helper.make_node("If", ["flag"], ["z"], then_branch=inner[0], else_branch=inner[1])
    softmax = helper.make_node("Softmax", ["z"], ["y"], axis=1)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:-1], flag, branch, softmax])
    onnx.save(model, tmp_path / "net.onnx")
    assert relook.load(str(tmp_path / "net.onnx"), **PLAIN).target_layer == "active"


def test_a_network_that_ends_differently_when_exported_is_not_kept(tmp_path):
    class Drifts(SmallCNN):
        """Tracing keeps the answer's shift of the moment: the second run has another."""

        calls = 0

        def forward(self, x):
            Drifts.calls += 1
            return super().forward(x) + torch.tensor([0.0, 1, 2, 3]) * Drifts.calls

    classifier = relook.Classifier(Drifts(), **PLAIN, input_size=16)
    with pytest.raises(relook.ModelError, match="the exported network's outputs differ"):
        relook.export(classifier, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "message"), [("net.pt", "must end in .onnx"), ("no/net.onnx", "cannot be written")]
)
def test_where_an_export_cannot_go(torn, tmp_path, file, message):
    classifier = relook.Classifier(torn, **PLAIN, input_size=16)
    with pytest.raises(relook.ModelError, match=message):
        relook.export(classifier, tmp_path / file)


def test_a_loaded_file_can_be_copied_and_is_known_by_its_content(torn, tmp_path):
    file = write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    classifier = relook.load(str(file), **PLAIN)
    pixels = torch.rand(1, 3, 16, 16)
    before = classifier(pixels)
    torch.testing.assert_close(copy.deepcopy(classifier)(pixels), before)
    known = repr(classifier.network)
    with torch.no_grad():
        torn.fc.bias.add_(1)
    write(torn, file, torch.rand(1, 3, 16, 16))
    assert repr(relook.load(str(file), **PLAIN).network) != known


def test_a_graph_without_names_is_named_after_its_tensors(tmp_path):
    model = node_of_pools()
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "net.onnx")
    assert relook.load(str(tmp_path / "net.onnx"), **PLAIN).target_layer == "b"


def test_outputs_of_one_place(tmp_path):
    """(N, C, 1, 1), as graphs that were convolutions to the end have it."""
    model = node_of_pools()
    del model.graph.node[-2:]
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 4, 1, 1])
    )
    onnx.save(model, tmp_path / "net.onnx")
    classifier = relook.load(str(tmp_path / "net.onnx"), **PLAIN)
    assert len(classifier.labels) == 4
    assert classifier.returns == "logits"
    assert classifier.network(torch.rand(3, 3, 16, 16)).shape == (3, 4)
    assert math.isclose(float(classifier(torch.rand(1, 3, 16, 16)).sum()), 1, abs_tol=1e-6)


def test_the_graph_is_a_module_of_its_own(torn, tmp_path):
    """For a Classifier of one's own making."""
    file = write(torn, tmp_path / "net.onnx", torch.rand(1, 3, 16, 16))
    classifier = relook.Classifier(OnnxNetwork(file), **PLAIN, input_size=16)
    pixels = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(classifier(pixels), torn(pixels).softmax(1), atol=1e-5, rtol=0)
