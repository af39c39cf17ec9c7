"""The classifier: what it takes, what it gives, what it refuses."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relook
from networks import HalvesNet, SmallCNN, random_cnn
from relook.attribution import Context
from relook.checks import check_module
from relook.layers import layers_of
from relook.target import find_target

OWN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SIXTEEN = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": 16}


def test_pixels_in_probabilities_out(halves, halves_pixels):
    torch.testing.assert_close(halves(halves_pixels[None]), torch.tensor([[0.75, 0.25]]))


def test_it_normalises(noise):
    network = random_cnn()
    classifier = relook.Classifier(
        network, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), input_size=16
    )
    inputs = (noise - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).double()) / torch.tensor(
        [0.5, 0.6, 0.7]
    ).view(3, 1, 1).double()
    expected = network.eval()(inputs).softmax(1)
    torch.testing.assert_close(classifier(noise), expected, rtol=0, atol=1e-7)


def test_a_float64_network_gets_float64_inputs(noise):
    classifier = relook.Classifier(
        random_cnn(), mean=(0.1, 0.2, 0.3), std=(0.7, 0.7, 0.7), input_size=16
    )
    answers = classifier(noise.float())
    torch.testing.assert_close(answers, classifier(noise.float().double()), rtol=0, atol=1e-14)


def test_outputs_that_are_probabilities_get_no_softmax(halves_pixels):
    network = nn.Sequential(HalvesNet(), nn.Softmax(dim=1))
    classifier = relook.Classifier(network, **OWN, input_size=4, outputs="probabilities")
    torch.testing.assert_close(classifier(halves_pixels[None]), torch.tensor([[0.75, 0.25]]))


class Returns(nn.Module):
    """A network that returns what it is told."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x) if callable(self.value) else self.value


@pytest.mark.parametrize(
    ("value", "outputs", "message"),
    [
        (torch.tensor([[0.2, 0.8]]), "logits", 'pass outputs="probabilities"'),
        (torch.tensor([[0.2, 1.8]]), "probabilities", 'pass outputs="logits"'),
        (torch.tensor([[-0.5, 1.5]]), "probabilities", "not probabilities"),
        (torch.tensor([0.2, 1.8]), "logits", r"shape \(2,\), not \(1, classes\)"),
        (torch.zeros(1, 2, 3, 3), "logits", r"not \(1, classes\)"),
        (torch.tensor([[1, 2]]), "logits", "torch.int64"),
        (torch.tensor([[0.3]]), "logits", "one output; relook needs one per class"),
        ((), "logits", "returns a tuple, in which relook cannot identify the class outputs"),
        ({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}, "logits", "a dict with a, b, in which"),
    ],
)
def test_outputs_that_are_plainly_something_else(value, outputs, message):
    with pytest.raises(relook.ModelError, match=message):
        relook.Classifier(Returns(value), **OWN, input_size=4, outputs=outputs)


def ends_in(last, *, bias=0.0):
    """A network of four classes with this function at its end."""
    torch.manual_seed(1)

    class Ending(SmallCNN):
        def forward(self, x):
            return last(super().forward(x) + bias)

    return Ending()


@pytest.mark.parametrize(
    ("last", "outputs", "message"),
    [
        (torch.sigmoid, "logits", "not logits: for 9 .* as sigmoids do, .* without its sigmoid"),
        (lambda y: y.sigmoid().clamp(0, 1), "logits", "as sigmoids do"),
        (lambda y: torch.cat([y.sigmoid(), y.sigmoid()], 1), "logits", "as sigmoids do"),
        (lambda y: y.sigmoid() * 0.9, "logits", "as sigmoids do"),
        (lambda y: y.softmax(1) * 0.9, "logits", "as sigmoids do"),
        (lambda y: y.sigmoid() * 100, "logits", "all are from 0 to .* as sigmoids do"),
        (lambda y: (y.sigmoid() + y.flip(1).sigmoid()) / 2, "logits", "as sigmoids do"),
        (lambda y: torch.stack([y.sigmoid(), y.sigmoid()]).mean(0), "logits", "as sigmoids do"),
        (lambda y: torch.maximum(y.sigmoid(), y.flip(1).sigmoid()), "logits", "as sigmoids do"),
        (lambda y: 1 - y.sigmoid(), "logits", "as sigmoids do"),
        (lambda y: y.sigmoid() ** 2, "logits", "as sigmoids do"),
        (lambda y: y.sigmoid() + 1e-7, "logits", "as sigmoids do"),
        (lambda y: y.tanh() * 0.5 + 0.5, "logits", "as sigmoids do"),
        (torch.sigmoid, "probabilities", "the outputs are not probabilities"),
        (lambda y: 100 * y.softmax(1), "logits", "they sum to 100 for every image"),
        (lambda y: torch.cat([y.softmax(1), y.softmax(1)], 1), "logits", "from 0 to 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sigmoids_and_other_shares_are_taken_for_neither(last, outputs, message):
    with pytest.raises(relook.ModelError, match=message):
        relook.Classifier(ends_in(last), **SIXTEEN, outputs=outputs)


def test_sigmoids_that_sum_to_1_for_one_image_alone():
    """The probing image looks like a distribution; the others tell."""

    class Lucky(nn.Module):
        def forward(self, x):
            level = (x - x.clamp(0.4, 0.6)).abs().mean(dim=(1, 2, 3))  # 0 for what is nearly grey
            return torch.stack([0.3 + 0 * level, 0.7 - level.clamp(0, 0.5)], 1)

    with pytest.raises(relook.ModelError, match=r"they sum to .* for another; as sigmoids do"):
        relook.Classifier(
            Lucky(), mean=(0,) * 3, std=(1,) * 3, input_size=16, outputs="probabilities"
        )


@pytest.mark.parametrize(
    "last",
    [
        lambda y: y,
        lambda y: y.relu(),
        lambda y: y * 0.01,
        lambda y: y.log_softmax(1),
        lambda y: y.sigmoid() - 0.5,
        lambda y: nn.functional.relu6(y),
        lambda y: (y * 0.01).clamp(min=0),
        lambda y: (y + y.flip(1)) * 0.01,
    ],
    ids=lambda value: "",
)
def test_logits_may_lie_between_0_and_1(last):
    """What a weight matrix gives is a logit, whatever its value."""
    assert len(relook.Classifier(ends_in(last, bias=0.3), **SIXTEEN).labels) == 4


def test_answers_that_depend_on_the_batch_are_asked_one_at_a_time(noise, caplog):
    network = random_cnn(torch.float32, batch_norm=True)
    network.norm = nn.BatchNorm2d(6, track_running_stats=False)
    classifier = relook.Classifier(network, **SIXTEEN)
    [remark] = classifier.remarks
    assert "BatchNorm2d 'norm' has no running statistics" in remark
    assert [record.message for record in caplog.records] == [f"relook: SmallCNN: {remark}"]
    pixels = noise.float()
    alone = torch.cat([classifier(image[None]) for image in pixels])
    torch.testing.assert_close(classifier(pixels), alone)
    torch.testing.assert_close(classifier.many(pixels.repeat(200, 1, 1, 1))[:3], alone)
    corrector = relook.Corrector(classifier, k=2, look="flip")
    together = corrector(pixels)
    torch.testing.assert_close(together, torch.cat([corrector(image[None]) for image in pixels]))
    torch.testing.assert_close(
        classifier.run(classifier.normalised(pixels)).softmax(1), alone
    )  # below all checks and chunks
    assert classifier.engine == "PyTorch"


class PerPixel(SmallCNN):
    def forward(self, x):
        y = self.act(self.conv2(self.conv1(x).relu())).permute(0, 2, 3, 1)
        return self.fc(y).sigmoid().mean(dim=(1, 2))


def test_sigmoids_of_places_that_are_averaged_are_no_logits():
    with pytest.raises(relook.ModelError, match="as sigmoids do"):
        relook.Classifier(PerPixel(), **SIXTEEN)


class OfTheMaximum(SmallCNN):
    """Divides by the largest activation of the batch."""

    def forward(self, x):
        y = self.act(self.conv2(self.conv1(x).relu()))
        return self.fc((y / y.max()).mean(dim=(2, 3)) * 9)


class OfTheRange(SmallCNN):
    def forward(self, x):
        return super().forward((x - x.min()) / (x.max() - x.min()))


class Picky(SmallCNN):
    def forward(self, x):
        return super().forward(x * {1: 1.0}[len(x)])


def test_a_layer_that_is_not_called_is_no_reason():
    network = SmallCNN()
    network.projector = nn.BatchNorm1d(4, track_running_stats=False)
    assert relook.Classifier(network, **SIXTEEN).remarks == ()


class OfTheBatch(SmallCNN):
    def forward(self, x):
        return super().forward(x - x.mean(dim=(0, 2, 3), keepdim=True))


class OneImage(SmallCNN):
    def forward(self, x):
        y = self.act(self.conv2(self.conv1(x).relu())).mean(dim=(2, 3))
        return self.fc(y.reshape(1, 6))


class ReadsValues(SmallCNN):
    def forward(self, x):
        y = super().forward(x)
        return y if x.min() < 0 else y.flip(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (OfTheBatch, "depends on the rest of the batch"),
        (OfTheMaximum, "depends on the rest of the batch"),
        (OfTheRange, "depends on the rest of the batch"),
        (Picky, "takes one image at a time"),
        (OneImage, "takes one image at a time"),
        (ReadsValues, "branches on values of its input"),
    ],
)
def test_other_networks_that_need_one_image_at_a_time(make, message, noise):
    classifier = relook.Classifier(make(), **SIXTEEN)
    assert message in classifier.remarks[0]
    pixels = torch.cat([noise.float(), 1 - 0.01 * noise.float()])
    alone = torch.cat([classifier(image[None]) for image in pixels])
    torch.testing.assert_close(classifier(pixels), alone)
    torch.testing.assert_close(classifier.many(pixels.repeat(100, 1, 1, 1))[:6], alone)


@pytest.mark.parametrize(("off", "remarks"), [(0.005, 0), (0.2, 1)])
def test_rounding_that_a_network_blows_up_is_no_reason(off, remarks):
    """It is another in batches of another size, whatever the other images are."""

    class OfTheSize(SmallCNN):
        def forward(self, x):
            return super().forward(x) * (1 + off * (len(x) - 1))

    assert len(relook.Classifier(OfTheSize(), **SIXTEEN).remarks) == remarks


def test_values_that_are_the_same_for_every_image_are_no_reason(cnn):
    class Fixed(SmallCNN):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x):
            assert not x.isnan().any()
            return super().forward(x) * self.scale.item()

    assert relook.Classifier(Fixed(), **SIXTEEN).remarks == ()
    assert cnn.remarks == ()


def test_dropout_that_is_always_on_is_said():
    class Dropping(SmallCNN):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5, training=True))

    classifier = relook.Classifier(Dropping(), **SIXTEEN)
    [remark] = classifier.remarks
    assert "the same image gets a different answer each time" in remark
    assert "dropout" in remark


def test_nan_outputs():
    with pytest.raises(relook.NotFiniteError, match="NaN or infinity for 1 of 1 inputs; check"):
        relook.Classifier(Returns(torch.tensor([[float("nan"), 1.0]])), **OWN, input_size=4)


def test_half_precision_nan_says_what_to_do():
    network = HalvesNet().half()
    with torch.no_grad():
        network.fc.bias[0] = float("inf")
    with pytest.raises(
        relook.NotFiniteError, match=r"range of float16 may be too small: try float32"
    ):
        relook.Classifier(network, **OWN, input_size=4)


def test_an_input_size_that_the_network_fails_on():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(
        relook.ModelError, match=r"fails on an input of 1×3×9×9 .* check input_size"
    ):
        relook.Classifier(network, **OWN, input_size=9)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(relook.ModelError, match="classifiers of RGB images"):
        relook.Classifier(HalvesNet(), mean=(0,), std=(1,), input_size=4)
    with pytest.raises(relook.ModelError, match="must be above 0"):
        relook.Classifier(HalvesNet(), mean=(0, 0, 0), std=(1, 0, 1), input_size=4)


def test_labels():
    with pytest.raises(relook.ModelError, match="has 2 classes, but 3 labels were given"):
        relook.Classifier(HalvesNet(), **OWN, input_size=4, labels=["a", "b", "c"])
    assert relook.Classifier(HalvesNet(), **OWN, input_size=4).labels == ("0", "1")


def test_it_runs_in_eval_mode_and_gives_the_mode_back(noise):
    network = random_cnn(batch_norm=True).train()
    classifier = relook.Classifier(network, **OWN, input_size=16)
    answers = classifier(noise)
    assert network.training
    assert network.norm.training
    torch.testing.assert_close(answers, network.eval()(noise).softmax(1))


def test_first_looks_keep_the_maps_of_the_same_forward(cnn, noise):
    looks = cnn.first_looks(noise)
    assert len(looks) == 3
    for look, pixels in zip(looks, noise, strict=True):
        assert torch.equal(look.pixels, pixels)
        torch.testing.assert_close(look.probabilities, look.outputs.softmax(0))
        pooled = look.activations.mean(dim=(1, 2))
        torch.testing.assert_close(cnn.network.fc(pooled).detach(), look.outputs)


def test_the_dtype_is_the_networks(noise):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        classifier = relook.Classifier(random_cnn(dtype), **OWN, input_size=16)
        answers = classifier(noise.float())
        assert (classifier.dtype, answers.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(answers.sum(1), torch.ones(3))


def test_a_network_without_parameters_is_a_float32_one():
    network = Returns(lambda x: x.mean(dim=(2, 3)) - 0.5)
    classifier = relook.Classifier(network, **OWN, input_size=4)
    assert (classifier.dtype, classifier.device.type) == (torch.float32, "cpu")


def test_more_images_than_a_chunk(cnn, noise, monkeypatch):
    whole = cnn(noise)
    monkeypatch.setattr(cnn, "chunk_size", lambda height, width: 2)
    torch.testing.assert_close(cnn(noise), whole)


def test_chunks_hold_as_many_pixels_whatever_the_size(cnn):
    assert cnn.chunk_size(224, 224) == 16
    assert cnn.chunk_size(260, 260) == 8  # whole batches of the exported network, not 11
    assert cnn.chunk_size(448, 448) == 4
    assert cnn.chunk_size(5000, 5000) == torch.get_num_threads()


def layer_of(network, size, classes=1000):
    torch.manual_seed(0)
    layers = layers_of(network)
    seen = layers.probe(torch.rand(1, 3, size, size))

    def counts(target):
        return layers.matters(target, torch.rand(1, 3, size, size))

    target = find_target(seen.calls, classes, counts=counts)
    return target and target.layer


@pytest.mark.parametrize(
    ("library", "name", "layer"),
    [
        ("torchvision", "vgg11_bn", "features.27"),  # the ReLU, before the max pooling
        ("torchvision", "alexnet", "features.11"),
        ("torchvision", "squeezenet1_1", "features"),  # not the class maps of classifier.1
        ("torchvision", "densenet121", "features"),
        ("torchvision", "resnet18", "layer4"),
        ("torchvision", "mobilenet_v2", "features"),
        ("torchvision", "mobilenet_v3_small", "features"),
        ("torchvision", "googlenet", "inception5b"),
        ("torchvision", "shufflenet_v2_x0_5", "conv5"),
        ("torchvision", "mnasnet0_5", "layers"),
        ("timm", "tf_efficientnet_lite0", "bn2"),
        ("timm", "densenet121", "features"),
        ("timm", "mobilenetv3_small_050", "blocks"),
        ("timm", "resnet10t", "layer4"),
        ("timm", "vit_tiny_patch16_224", "blocks.10"),  # after the last only the class token counts
        ("timm", "swin_tiny_patch4_window7_224", "norm"),  # channels last
    ],
)
def test_target_layers(library, name, layer):
    if library == "timm":
        import timm

        network = timm.create_model(name)
    else:
        from torchvision.models import get_model

        options = {"init_weights": False} if name == "googlenet" else {}
        network = get_model(name, weights=None, **options)
    assert layer_of(network, 224 if name[:3] in ("vit", "vgg", "swi") else 128) == layer


def test_vgg16_gives_its_last_activation_not_its_pooling():
    from torchvision.models.vgg import cfgs, make_layers

    class VGG16(nn.Module):  # without the 120 million weights of the classifier
        def __init__(self):
            super().__init__()
            self.features = make_layers(cfgs["D"])
            self.avgpool = nn.AdaptiveAvgPool2d(7)
            self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512 * 49, 10))

        def forward(self, x):
            return self.classifier(self.avgpool(self.features(x)))

    assert layer_of(VGG16(), 64, classes=10) == "features.29"


def test_functional_pooling_at_the_end_of_a_block_is_passed_over():
    class Block(SmallCNN):
        def __init__(self):
            super().__init__()
            self.block = Shrinks(self.conv2)

        def forward(self, x):
            return self.fc(self.block(self.conv1(x)).mean(dim=(2, 3)))

    class Shrinks(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return nn.functional.max_pool2d(self.conv(x).relu(), 2)

    network = Block()
    assert layer_of(network, 16, classes=4) == "conv2"  # which is block.conv too


def test_a_shared_activation_is_recorded_at_its_last_call_with_maps(noise):
    class Shared(SmallCNN):
        def forward(self, x):
            x = self.act(self.conv2(self.act(self.conv1(x))))
            return self.act(self.fc(x.mean(dim=(2, 3))))

    torch.manual_seed(0)
    classifier = relook.Classifier(Shared().double(), **OWN, input_size=16)
    assert classifier.target_layer == "act"
    [first] = classifier.first_looks(noise[:1])
    assert first.activations.shape == (6, 4, 4)


def test_a_shared_activation_that_is_called_on_class_maps_later_is_not_the_layer():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.act = nn.ReLU()
            self.last = nn.Conv2d(6, 4, 1)

        def forward(self, x):
            return self.act(self.last(self.act(self.conv(x)))).mean(dim=(2, 3))

    assert layer_of(Shared(), 16, classes=4) == "conv"


def test_class_maps_are_recognised_by_their_layer_not_by_their_number(noise):
    """Six classes and six channels: the convolution that makes class maps is still told apart."""

    class ClassMaps(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
            self.classifier = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

        def forward(self, x):
            return self.classifier(self.features(x)).flatten(1)

    assert layer_of(ClassMaps(), 16, classes=6) == "features"


def test_a_layer_can_be_named(cnn, noise):
    cnn.target_layer = "conv1"
    assert cnn.target_layer == "conv1"
    assert cnn.first_looks(noise[:1])[0].activations.shape == (8, 16, 16)


def test_the_target_layer_is_searched_for_only_when_none_is_named():
    forwards = []
    network = random_cnn().float()
    network.register_forward_hook(lambda *_: forwards.append(1))
    classifier = relook.Classifier(network, **SIXTEEN)
    # The search runs the network twice: as it is, and without what the layer holds.
    searched = len(forwards)
    forwards.clear()
    relook.Classifier(network, **SIXTEEN, target_layer="conv1")
    assert (searched, len(forwards)) == (4, 2)
    forwards.clear()
    classifier.aim("conv1")
    assert len(forwards) == 2
    forwards.clear()
    with pytest.raises(relook.RelookError, match="pass another, for instance 'act'"):
        classifier.aim("fc")
    assert len(forwards) == 4  # to suggest a layer in the message


def test_a_wrong_layer_gets_the_closest_names(cnn):
    with pytest.raises(
        relook.ModelError, match=r"layer 'conv3' is not in the network; closest: 'conv"
    ):
        cnn.target_layer = "conv3"
    assert cnn.target_layer == "act"  # as before


def test_a_layer_without_maps_is_refused(halves):
    with pytest.raises(relook.ModelError, match=r"'pool' returns 3×1×1, .* for instance 'act'"):
        halves.target_layer = "pool"
    with pytest.raises(relook.ModelError, match=r"'fc' returns 2, .* for instance 'act'"):
        halves.target_layer = "fc"


def test_a_layer_that_is_never_called_is_refused():
    network = HalvesNet()
    network.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(relook.ModelError, match="'spare' is never called"):
        relook.Classifier(network, **OWN, input_size=4, target_layer="spare")


def test_class_maps_with_normalisation_or_a_temperature_after_them():
    class ClassMaps(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
            self.head = nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
            self.temperature = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.head(self.features(x)).mean(dim=(2, 3)) / self.temperature

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = ClassMaps()

        def forward(self, x):
            return self.inner(x)

    assert layer_of(Wrapped(), 16, classes=4) == "inner.features"


def test_a_block_is_not_a_pooling_for_its_name():
    class PoolFormerBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 1)

        def forward(self, x):
            return x + self.conv(x)

    class Blocks(SmallCNN):
        def __init__(self):
            super().__init__()
            self.block = PoolFormerBlock()

        def forward(self, x):
            return self.fc(self.block(self.conv2(self.conv1(x))).mean(dim=(2, 3)))

    assert layer_of(Blocks(), 16, classes=4) == "block"


def test_means_of_pixels_up_to_255_are_refused():
    with pytest.raises(relook.ModelError, match="divide both by 255"):
        relook.Classifier(HalvesNet(), mean=(0, 0, 0), std=(58, 57, 57), input_size=4)
    with pytest.raises(relook.ModelError, match="mean must be a number, not nan"):
        relook.Classifier(HalvesNet(), mean=(float("nan"),) * 3, std=(1, 1, 1), input_size=4)
    with pytest.raises(relook.ModelError, match="must be finite"):
        relook.Classifier(HalvesNet(), mean=(0, 0, 0), std=(1, 1, float("inf")), input_size=4)
    with pytest.raises(relook.ModelError, match="divide both by 255"):
        relook.Classifier(HalvesNet(), mean=(123, 116, 103), std=(58, 57, 57), input_size=4)


def test_a_network_that_views_maps_as_rows(noise):
    """`view` fails on maps with the channels last in memory: it gets none."""

    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 5)
            self.norm = nn.BatchNorm2d(6)
            self.fc = nn.Linear(6 * 6 * 6, 4)

        def forward(self, x):
            x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
            return self.fc(x.view(-1, 6 * 6 * 6))

    torch.manual_seed(0)
    network = LeNet().eval()
    classifier = relook.Classifier(network, **OWN, input_size=16)
    pixels = noise.float()
    torch.testing.assert_close(classifier(pixels), network(pixels).softmax(1))
    assert relook.Corrector(classifier)(pixels).isfinite().all()
    half = relook.Classifier(copy.deepcopy(network).bfloat16(), **OWN, input_size=16)
    folded = half.runner(256, (16, 16))
    assert half.engine == "PyTorch (BatchNorm folded)"
    assert folded(pixels).isfinite().all()


class Auxiliary(SmallCNN):
    """Answers from its last maps, and from those before them, in this order."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU())
        self.aux_fc = nn.Linear(5, 4)

    def forward(self, x):
        early = self.conv1(x).relu()
        answer = self.fc(self.act(self.conv2(early)).mean(dim=(2, 3)))
        return answer, self.aux_fc(self.aux(early).mean(dim=(2, 3)))


def test_an_auxiliary_answer_that_comes_last_is_not_looked_at():
    assert relook.Classifier(Auxiliary(), **OWN, input_size=16).target_layer == "act"


class Pair(NamedTuple):
    features: torch.Tensor
    weights: torch.Tensor


class TwoThings(SmallCNN):
    """Its block gives a named tuple, or a list."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.block = self.Block(self.conv2, kind)

    class Block(nn.Module):
        def __init__(self, conv, kind):
            super().__init__()
            self.conv = conv
            self.kind = kind

        def forward(self, x):
            x = self.conv(x).relu()
            return self.kind([x, x[:, :1]]) if self.kind is list else self.kind(x, x[:, :1])

    def forward(self, x):
        features = (
            (self.block(self.conv1(x)) + [x])[0]  # noqa: RUF005
            if self.kind is list
            else self.block(self.conv1(x)).features
        )
        return self.fc(features.mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", [Pair, list])
def test_blocks_that_return_several_things(kind, noise):
    classifier = relook.Classifier(TwoThings(kind), **OWN, input_size=16)
    assert classifier.target_layer == "block"
    [first] = classifier.first_looks(noise[:1].float())
    assert relook.GradCAM()(Context(classifier, first, torch.arange(4))).maps.amax() == 1


def test_a_network_that_refuses_empty_maps():
    class Refuses(SmallCNN):
        def forward(self, x):
            maps = self.act(self.conv2(self.conv1(x).relu()))
            if not maps.any():
                raise ValueError("empty maps")
            return self.fc(maps.mean(dim=(2, 3)))

    assert relook.Classifier(Refuses(), **OWN, input_size=16).target_layer == "act"


def test_class_maps_of_a_parametrised_layer_are_passed_over():
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    assert relook.Classifier(network, **OWN, input_size=16).target_layer == "1"


def test_a_layer_that_is_refused_changes_nothing():
    classifier = relook.Classifier(SmallCNN(), **OWN, input_size=16)
    with pytest.raises(relook.ModelError, match="not in the network"):
        classifier.aim("nosuch", (3, 3))
    assert classifier._token_grid is None
    assert classifier.target_layer == "act"


def test_torchscript_is_refused():
    scripted = torch.jit.trace(HalvesNet().eval(), torch.rand(1, 3, 4, 4))
    with pytest.raises(relook.ModelError, match="TorchScript, which does not expose"):
        relook.Classifier(scripted, **OWN, input_size=4)


def test_inference_mode(noise):
    with torch.inference_mode():
        made_inside = HalvesNet()
    with pytest.raises(relook.ModelError, match="create it outside"):
        relook.Classifier(made_inside, **OWN, input_size=4)
    network = random_cnn()
    with torch.inference_mode():
        classifier = relook.Classifier(network, **OWN, input_size=16)
        answers = relook.Corrector(classifier)(noise)
    assert classifier.target_layer == "act"
    torch.testing.assert_close(answers.sum(1), torch.ones(3, dtype=torch.float64))


def test_probing_keeps_no_activations():
    """Two gigabytes pass through this network; at no time are more than a few maps alive."""
    alive: set[int] = set()
    most = [0]

    class Watched(nn.Module):
        def forward(self, x):
            y = x * 1.0
            alive.add(id(y))
            weakref.finalize(y, alive.discard, id(y))
            most[0] = max(most[0], len(alive))
            return y

    network = nn.Sequential(*[Watched() for _ in range(20)], HalvesNet())
    relook.Classifier(network, **OWN, input_size=4)
    assert most[0] <= 3


def test_without_a_layer_looks_that_need_none_still_work():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    classifier = relook.Classifier(network, **OWN, input_size=4)
    with pytest.raises(relook.ModelError, match="found no layer with maps larger than 1×1"):
        relook.Corrector(classifier)
    assert relook.Corrector(classifier, look="flip")(torch.rand(2, 3, 4, 4)).shape == (2, 3)


def test_probing_leaves_no_trace():
    network = random_cnn(batch_norm=True).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    relook.Classifier(network, **OWN, input_size=16)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert all(not m._forward_hooks for m in network.modules())


def test_a_densenets_in_place_relu_does_not_corrupt_the_maps():
    """Its last ReLU is a function that overwrites the target layer's output."""
    from torchvision.models import DenseNet

    torch.manual_seed(0)
    network = DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5)
    with torch.no_grad():
        network.features.norm5.bias.fill_(-0.5)
    classifier = relook.Classifier(network, **OWN, input_size=64)
    assert classifier.target_layer == "features"
    [first] = classifier.first_looks(torch.rand(1, 3, 64, 64))
    assert float(first.activations.min()) < 0


def test_programs_of_torch_export_are_refused_with_the_remedy(tmp_path):
    program = torch.export.export(HalvesNet().eval(), (torch.rand(1, 3, 4, 4),))
    for given in (program, program.module()):
        with pytest.raises(relook.ModelError, match=r"a program of torch\.export, .*as ONNX"):
            check_module(given)
    with pytest.raises(relook.ModelError, match=r"needs an nn\.Module, not a str; .*relook\.load"):
        check_module("net.pt2")
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(relook.ModelError, match=r"net\.pt2: a file, but .* ONNX .*torch\.export"):
        relook.load(tmp_path / "net.pt2")
    # What torch.fx traced is a module like others.
    with pytest.raises(
        relook.ModelError, match=r"HalvesNet is at least partly on the meta device, .*to_empty"
    ):
        check_module(HalvesNet().to("meta"))
    check_module(torch.fx.symbolic_trace(HalvesNet()))


def test_mean_std_and_sizes_of_other_libraries():
    said = {"mean": np.array([0.5, 0.25, 0.125]), "std": torch.tensor([0.5, 0.25, 0.125])}
    classifier = relook.Classifier(HalvesNet(), **said, input_size=np.array([4, 6]))
    assert classifier.mean == classifier.std == (0.5, 0.25, 0.125)
    assert classifier.input_size == (4, 6)
    assert classifier.input_range == (-1, 7)
    pickle.dumps(classifier.geometry)
    assert all(type(side) is int for side in classifier.input_size)
    with pytest.raises(relook.ModelError, match=r"mean must be three numbers, .*not \[0, 0\]"):
        relook.Classifier(HalvesNet(), mean=[0, 0], std=[1, 1], input_size=4)
    with pytest.raises(relook.ModelError, match="std must be a number, not nan"):
        relook.Classifier(HalvesNet(), mean=[0] * 3, std=[1, 1, float("nan")], input_size=4)
    with pytest.raises(relook.ModelError, match=r"input_size must be a side or .*, not True"):
        relook.Classifier(HalvesNet(), mean=[0] * 3, std=[1] * 3, input_size=True)


def test_maps_in_eight_bits_are_read_as_numbers(noise):
    class Quantise(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor(x, 0.05, 0, torch.quint8)

    class Quantised(SmallCNN):
        def __init__(self):
            super().__init__()
            self.quantise = Quantise()

        def forward(self, x):
            maps = self.quantise(self.act(self.conv2(self.conv1(x).relu())))
            return self.fc(maps.dequantize().mean(dim=(2, 3)))

    classifier = relook.Classifier(Quantised(), **SIXTEEN, target_layer="quantise")
    [first] = classifier.first_looks(noise[:1].float())
    steps = first.activations / 0.05
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert relook.ScoreCAM()(Context(classifier, first, torch.tensor([0, 1]))).maps.isfinite().all()


def test_first_looks_in_columns_are_those_in_a_list(cnn, noise):
    originals = [Image.new("RGB", (20, 30)), None, Image.new("RGB", (40, 50))]
    looks = cnn.first_look_batch(noise, originals=originals)
    firsts = cnn.first_looks(noise, originals=originals)
    assert len(looks) == len(firsts) == 3
    for index, (one, first) in enumerate(zip(looks, firsts, strict=True)):
        assert one.original is first.original is originals[index]
        for name in ("pixels", "probabilities", "outputs", "activations"):
            assert torch.equal(getattr(one, name), getattr(first, name))
            # A view, not a copy.
            own = getattr(looks, name)
            assert getattr(one, name).data_ptr() == own[index].data_ptr()
    assert looks[-1].original is originals[2]
    torch.testing.assert_close(looks.probabilities, cnn(noise), rtol=0, atol=1e-12)


def test_first_looks_in_several_chunks_are_those_in_one(cnn, noise, monkeypatch):
    whole = cnn.first_look_batch(noise)
    monkeypatch.setattr(cnn, "chunk_size", lambda height, width: 2)
    parts = cnn.first_look_batch(noise)
    torch.testing.assert_close(parts.activations, whole.activations, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.outputs, whole.outputs, rtol=0, atol=1e-12)


def test_first_looks_without_maps_originals_or_images(cnn, noise):
    looks = cnn.first_look_batch(noise, activations=False)
    assert looks.activations is None
    assert looks[0].activations is None
    assert looks[0].original is None
    none = cnn.first_look_batch(noise[:0])
    assert (len(none), list(none), none.probabilities.shape) == (0, [], (0, 4))
    assert cnn.first_looks(noise[:0]) == []
    with pytest.raises(ValueError, match="2 originals were given for 3 images"):
        cnn.first_look_batch(noise, originals=[None, None])
