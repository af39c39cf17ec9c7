"""Networks in DataParallel and under torch.compile: watched inside, run as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relook
from networks import random_cnn
from relook.attribution import Context

OWN = {"mean": (0, 0, 0), "std": (1, 1, 1), "input_size": 16}


def compiled_in_place(network):
    network.compile(backend="eager")
    return network


def compiled_in_part(network):
    network.conv2 = torch.compile(network.conv2, backend="eager")
    return network


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": lambda network: torch.compile(network, backend="eager"),
    "both": lambda network: nn.DataParallel(torch.compile(network, backend="eager")),
    "in place": compiled_in_place,
    "in part": compiled_in_part,
}


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_the_same_answers_maps_and_layer(wrapper):
    pixels = torch.rand(2, 3, 16, 16)
    plain = relook.Classifier(random_cnn(torch.float32), **OWN)
    wrapped = relook.Classifier(wrapper(random_cnn(torch.float32)), **OWN)
    assert wrapped.target_layer == plain.target_layer == "act"
    expected, found = relook.Corrector(plain)(pixels), relook.Corrector(wrapped)(pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for mine, theirs in zip(wrapped.first_looks(pixels), plain.first_looks(pixels), strict=True):
        torch.testing.assert_close(mine.activations, theirs.activations, atol=1e-5, rtol=0)
        classes = torch.arange(4)
        torch.testing.assert_close(
            relook.GradCAM()(Context(wrapped, mine, classes)).maps,
            relook.GradCAM()(Context(plain, theirs, classes)).maps,
            atol=1e-4,
            rtol=0,
        )


class Counting(nn.DataParallel):
    """Counts the images that go through the wrapper."""

    def forward(self, x):
        self.count = getattr(self, "count", 0) + len(x)
        return super().forward(x)


def test_masked_images_go_through_the_wrapper():
    """Whoever spreads a network over several devices wants them used."""
    wrapper = Counting(random_cnn(torch.float32, channels=200))
    classifier = relook.Classifier(wrapper, **OWN)
    [first] = classifier.first_looks(torch.rand(1, 3, 16, 16))
    wrapper.count = 0
    seen = relook.ScoreCAM()(Context(classifier, first, torch.arange(2)))
    assert wrapper.count == seen.forwards > 128
    assert classifier.engine == "PyTorch"


def test_a_wrappers_mode_comes_back():
    wrapper = nn.DataParallel(random_cnn(torch.float32, batch_norm=True)).train()
    classifier = relook.Classifier(wrapper, **OWN)
    before = {k: v.clone() for k, v in wrapper.state_dict().items()}
    classifier(torch.rand(2, 3, 16, 16))
    assert wrapper.training
    assert wrapper.module.norm.training
    assert all(torch.equal(v, before[k]) for k, v in wrapper.state_dict().items())


def test_weights_belong_to_the_network_once():
    network = random_cnn(torch.float32)
    classifier = relook.Classifier(nn.DataParallel(network), **OWN)
    assert set(classifier.state_dict()) == {f"network.{key}" for key in network.state_dict()}
