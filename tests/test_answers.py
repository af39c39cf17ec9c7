"""Networks whose forward returns more than the class outputs."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import relook
from networks import random_cnn
from relook.answers import class_outputs
from relook.attribution import Context

OWN = {"mean": (0, 0, 0), "std": (1, 1, 1), "input_size": 16}
LOGITS, FEATURES = torch.tensor([[1.0, 2, 3]]), torch.zeros(1, 8)

Output = namedtuple("Output", "aux_logits logits")


@dataclass
class Data:
    features: Tensor
    logits: Tensor


@dataclass
class Other:
    scores: Tensor
    maps: Tensor


@pytest.mark.parametrize(
    "returned",
    [
        LOGITS,
        (LOGITS, FEATURES[:, :3]),
        [LOGITS],
        {"out": LOGITS, "aux": FEATURES[:, :3]},
        {"features": FEATURES, "logits": LOGITS},
        {"scores": LOGITS, "maps": torch.zeros(1, 8, 4, 4)},
        Output(FEATURES, LOGITS),  # by its name, though it is not the first
        Data(FEATURES, LOGITS),
        Other(LOGITS, torch.zeros(1, 8, 4, 4)),
    ],
    ids=lambda returned: type(returned).__name__,
)
def test_the_class_outputs_are_found(returned):
    assert class_outputs(returned) is LOGITS


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"a": LOGITS, "b": FEATURES}, "a dict with a, b, in which relook cannot identify"),
        ((), "returns a tuple, in which"),
        (None, "returns a NoneType, in which"),
        ({"logits": None}, "a dict with logits"),
        ((None, LOGITS), "name them logits, or wrap the network"),
        (
            (FEATURES, LOGITS),
            r"a tuple with \(N, 8\) and \(N, 3\), in which relook cannot identify",
        ),
    ],
)
def test_what_could_be_anything_is_an_error(returned, message):
    with pytest.raises(relook.ModelError, match=message):
        class_outputs(returned)


class Returns(nn.Module):
    def __init__(self, network, around):
        super().__init__()
        self.network = network
        self.around = around

    def forward(self, x):
        return self.around(self.network(x))


@pytest.mark.parametrize(
    "around", [lambda y: (y, y * 2), lambda y: {"logits": y}, lambda y: Data(y[:, :1], y)]
)
def test_everything_works_as_with_a_plain_network(around):
    torch.manual_seed(0)
    network = random_cnn(torch.float32, channels=200, batch_norm=True)
    plain = relook.Classifier(network, **OWN)
    classifier = relook.Classifier(Returns(network, around), **OWN)
    assert classifier.target_layer == f"network.{plain.target_layer}"
    pixels = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(classifier(pixels), plain(pixels))
    [mine], [theirs] = classifier.first_looks(pixels), plain.first_looks(pixels)
    for attribution in (relook.ScoreCAM(), relook.GradCAM(), relook.CAM()):
        found = attribution(Context(classifier, mine, torch.arange(2))).maps
        expected = attribution(Context(plain, theirs, torch.arange(2))).maps
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # 200 masked forwards are enough for an engine, which takes the answer out as well.
    assert classifier.engine == plain.engine != "PyTorch"
