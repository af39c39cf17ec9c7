"""Bring your own network: a ResNet for CIFAR-10, written out and wrapped for relook.

    relook predict cat.png --model examples.cifar_resnet:resnet20 --checkpoint w.safetensors

The architecture is that of He et al. 2016, "Deep Residual Learning for Image Recognition",
section 4.2: three stages of 16, 32 and 64 channels, shortcuts without parameters (option A).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

import relook

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


class Block(nn.Module):
    """Two convolutions and a shortcut, which drops every second pixel and adds empty channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        half = self.new_channels // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        summed: Tensor = out + shortcut
        return summed.relu()


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers for 32×32 images."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(n, 16, 16, 1)
        self.layer2 = self._stage(n, 16, 32, 2)
        self.layer3 = self._stage(n, 32, 64, 2)
        self.linear = nn.Linear(64, len(CLASSES))

    def _stage(self, n: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        rest = (Block(outputs, outputs, 1) for _ in range(n - 1))
        return nn.Sequential(Block(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def resnet20() -> relook.Classifier:
    """ResNet-20; its weights come with --checkpoint."""
    return _classifier(3)


def resnet32() -> relook.Classifier:
    """ResNet-32."""
    return _classifier(5)


def resnet56() -> relook.Classifier:
    """ResNet-56."""
    return _classifier(9)


def _classifier(n: int) -> relook.Classifier:
    return relook.Classifier(
        CifarResNet(n),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        input_size=32,
        labels=CLASSES,
    )
