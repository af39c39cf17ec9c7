"""CAM: literal weights, and networks that it is not for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relook
from networks import HalvesNet, SmallCNN, counting_forwards, random_cnn
from relook.attribution import Context


def test_literal_maps(halves, halves_pixels):
    [first] = halves.first_looks(halves_pixels[None])
    with counting_forwards(halves.network) as count:
        seen = relook.CAM()(Context(halves, first, torch.tensor([0, 1])))
    # Class "red" is joined to the red channel alone: its map is that channel, upsampled.
    falling = torch.tensor([1, 0.75, 0.25, 0]).expand(4, 4)
    torch.testing.assert_close(seen.maps, torch.stack([falling, falling.flip(1)]))
    assert (count, seen.forwards) == ([0], 0)


def test_a_negative_sum_is_cut_off(cnn, noise):
    with torch.no_grad():
        cnn.network.fc.weight[2] = -1.0
    [first] = cnn.first_looks(noise[:1])
    maps = relook.CAM()(Context(cnn, first, torch.tensor([0, 2]))).maps
    assert maps[0].any()
    assert not maps[1].any()  # no channel speaks for class 2: its map is flat


def test_a_convolution_as_last_layer_counts_as_fully_connected(noise):
    class ConvHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = random_cnn()
            self.head = nn.Conv2d(6, 4, 1).double()
            self.head.weight.data.abs_()

        def forward(self, x):
            x = self.body.act(self.body.conv2(self.body.conv1(x).relu()))
            return self.head(x.mean(dim=(2, 3), keepdim=True)).flatten(1)

    torch.manual_seed(0)
    classifier = relook.Classifier(ConvHead(), mean=(0, 0, 0), std=(1, 1, 1), input_size=16)
    [first] = classifier.first_looks(noise[:1])
    maps = relook.CAM()(Context(classifier, first, torch.tensor([1]))).maps
    weights = classifier.network.head.weight[1].detach().flatten()
    up = nn.functional.interpolate(first.activations[None], (16, 16), mode="bilinear")[0]
    expected = torch.einsum("k,khw->hw", weights, up).relu()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(maps[0], expected, rtol=0, atol=1e-12)


def test_two_layers_after_pooling_are_refused(noise):
    class TwoLayers(SmallCNN):
        def __init__(self):
            super().__init__(classes=6)
            self.last = nn.Linear(6, 6)

        def forward(self, x):
            return self.last(super().forward(x).relu())

    torch.manual_seed(0)
    classifier = relook.Classifier(
        TwoLayers().double(), mean=(0, 0, 0), std=(1, 1, 1), input_size=16
    )
    [first] = classifier.first_looks(noise[:1])
    with pytest.raises(
        relook.ModelError, match="CAM needs a network that ends with global average"
    ):
        relook.CAM()(Context(classifier, first, torch.tensor([0])))


def test_a_softmax_at_the_end_of_the_network_is_recognised(halves_pixels):
    network = nn.Sequential(HalvesNet(), nn.Softmax(dim=1))
    classifier = relook.Classifier(
        network, mean=(0, 0, 0), std=(1, 1, 1), input_size=4, outputs="probabilities"
    )
    [first] = classifier.first_looks(halves_pixels[None])
    maps = relook.CAM()(Context(classifier, first, torch.tensor([0]))).maps
    torch.testing.assert_close(maps[0], torch.tensor([1, 0.75, 0.25, 0]).expand(4, 4))


def test_half_precision_is_recognised(noise):
    classifier = relook.Classifier(
        random_cnn(torch.bfloat16), mean=(0, 0, 0), std=(1, 1, 1), input_size=16
    )
    [first] = classifier.first_looks(noise[:1].float())
    assert relook.CAM()(Context(classifier, first, torch.tensor([0]))).maps.isfinite().all()
