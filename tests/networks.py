"""Networks to test with, images to show them, and ways to watch them."""

from __future__ import annotations

import math
import os
import signal
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import nn


class HalvesNet(nn.Module):
    """Two channels, red and green, averaged over 2×2 patches; a third that is always 0.

    Of a 4×4 image with red left and green right (each full), by hand: Y = (3/4, 1/4), and what is
    left of it under a map that falls from 1 to 0 over the columns has the answer (9/10, 1/10),
    under one that rises (1/2, 1/2).
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 2, stride=2, bias=False)
        self.act = nn.ReLU(inplace=inplace)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0] = self.conv.weight[1, 1] = 0.25
            self.fc.weight.zero_()
            self.fc.weight[0, 0] = self.fc.weight[1, 1] = 8 / 3 * math.log(3)
            self.fc.bias.copy_(torch.tensor([math.log(3), 0.0]))

    def forward(self, x):
        return self.fc(self.pool(self.act(self.conv(x))).flatten(1))


class SmallCNN(nn.Module):
    """conv, activation, pooling, fully connected: with switches for what can go wrong."""

    def __init__(self, channels=6, classes=4, activation=None, batch_norm=False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, channels, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.act = activation or nn.ReLU()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.act(self.norm(self.conv2(self.conv1(x).relu())))
        return self.fc(x.mean(dim=(2, 3)))


def random_cnn(dtype=torch.float64, seed=0, **options) -> SmallCNN:
    torch.manual_seed(seed)
    network = SmallCNN(**options).to(dtype)
    with torch.no_grad():
        network.fc.weight.mul_(8)  # answers that differ clearly
    return network


@contextmanager
def counting_forwards(network: nn.Module):
    """How many images really go through the network: a list with one number."""
    count = [0]

    def add(_module, inputs):
        count[0] += len(inputs[0])

    handle = network.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()


def make_halves():
    """For `module:function`: a Classifier."""
    import relook

    return relook.Classifier(
        HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, labels=["red", "green"]
    )


def make_module():
    """For `module:function`: not a Classifier."""
    return HalvesNet()


def make_grey():
    """For `module:function`: a random network whose dataset mean is a grey."""
    import relook

    return relook.Classifier(
        random_cnn(torch.float32), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), input_size=16
    )


class Colours(nn.Module):
    """Three classes, red, green and blue: as probable as the image has of them."""

    def forward(self, x):
        return x.mean(dim=(2, 3)).clamp(min=1e-6).log()


def make_colours():
    """For `module:function`: of a plain image of 100, 60, 40 the answer is 0.5, 0.3, 0.2."""
    import relook

    return relook.Classifier(
        Colours(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, labels=["red", "green", "blue"]
    )


def make_torn():
    """For `module:function`: as the fixture `grey`, torn between four classes."""
    import relook

    return relook.Classifier(
        random_cnn(torch.float32, seed=7), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), input_size=16
    )


class NaNNet(HalvesNet):
    """NaN for any image with a bright blue pixel."""

    def forward(self, x):
        blue = (x[:, 2] > 0.999).flatten(1).any(dim=1)
        return super().forward(x).masked_fill(blue.unsqueeze(1), float("nan"))


def make_nan():
    """For `module:function`: NaN for blue images."""
    import relook

    return relook.Classifier(NaNNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4)


def write_noise(file, seed, size=20):
    generator = np.random.default_rng(seed)
    # Noise of few pixels, scaled up: images that a network of random weights tells apart.
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
    small.resize((size, size), Image.Resampling.BICUBIC).save(file)


made: list[str] = []
"""Names of the classifiers that `make_turned` made."""


def make_turned():
    """For `module:function`: as `make_halves` with twice the input's sides, and the names of its two
    classes the other way round.
    """
    import relook

    made.append("turned")
    return relook.Classifier(
        HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=8, labels=["green", "red"]
    )


COLOURS = ("blue", "green", "red")


def paint(file, colour, seed):
    """Dark noise with a brighter square of the colour somewhere: learnt in seconds."""
    chance = np.random.default_rng([colour, seed])
    pixels = chance.integers(0, 120, (20, 20, 3), np.uint8)
    y, x = chance.integers(0, 10, 2)
    pixels[y : y + 10, x : x + 10, colour] += 130
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_scenes(root, train=24, test=10):
    for place, name in enumerate(COLOURS):
        for index in range(train):
            paint(root / "train" / name / f"{index:02}.png", 2 - place, index)
        for index in range(test):
            paint(root / "test" / name / f"{index:02}.png", 2 - place, 1000 + index)
    return root


class Deadly(nn.Module):
    """As `make_torn`'s network, but a wholly blue image kills the process.

    Args:
        once: a file that the first death leaves; while it is there, no image kills.
    """

    def __init__(self, once=None) -> None:
        super().__init__()
        self.inner = random_cnn(torch.float32, seed=7)
        self.once = once

    def forward(self, x):
        blue = (x[:, 2] > x[:, 0] + 4.5).flatten(1).all(dim=1).any()
        if blue and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(x)
