"""EfficientNet-Lite, the architecture of the bundled networks, equal to timm's.

It is written out here because timm imports torchvision and PyTorch's compiler, which takes longer
than everything else that `relook predict` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_EPSILON = 1e-3
"""Added to the variance in each BatchNorm, as TensorFlow does; the weights were trained with it."""


@dataclass(frozen=True)
class Architecture:
    """The size of an EfficientNet-Lite, and the part of an image that it sees.

    Attributes:
        width: factor of the numbers of channels.
        depth: factor of the numbers of blocks.
        input_size: height and width of the input.
        crop_pct: the crop's fraction of each side of the resized image.
    """

    width: float
    depth: float
    input_size: int
    crop_pct: float


LITE0 = Architecture(width=1.0, depth=1.0, input_size=224, crop_pct=0.875)
LITE1 = Architecture(width=1.0, depth=1.1, input_size=240, crop_pct=0.882)
LITE2 = Architecture(width=1.1, depth=1.2, input_size=260, crop_pct=0.890)


@dataclass(frozen=True)
class _Stage:
    """Blocks of one kind in a row; the stride is that of the first."""

    blocks: int
    kernel: int
    stride: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 16),
    _Stage(2, 3, 2, 24),
    _Stage(2, 5, 2, 40),
    _Stage(3, 3, 2, 80),
    _Stage(3, 5, 1, 112),
    _Stage(4, 5, 2, 192),
    _Stage(1, 3, 1, 320),
)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite with the names that layers and weights have in timm.

    Args:
        architecture: its size.
        classes: number of classes.

    >>> from relook.models.efficientnet_lite import LITE0, EfficientNetLite
    >>> EfficientNetLite(LITE0, classes=7).eval()(torch.rand(1, 3, 96, 96)).shape
    torch.Size([1, 7])
    """

    def __init__(self, architecture: Architecture, classes: int = 1000) -> None:
        super().__init__()
        channels = 32
        self.conv_stem = _convolution(3, channels, kernel=3, stride=2)
        self.bn1 = _BatchNorm(channels)
        stages: list[nn.Module] = []
        for stage in _STAGES:
            ends = stage in (_STAGES[0], _STAGES[-1])
            blocks = stage.blocks if ends else math.ceil(stage.blocks * architecture.depth)
            out = _rounded(stage.channels * architecture.width)
            made: list[nn.Module] = []
            for place in range(blocks):
                stride = 1 if place else stage.stride
                kind = _Inverted if stages else _Separable
                made.append(kind(channels, out, stage.kernel, stride))
                channels = out
            stages.append(nn.Sequential(*made))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = _convolution(channels, 1280)
        self.bn2 = _BatchNorm(1280)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(1280, classes)
        self._initialise()

    def _initialise(self) -> None:
        """Draw random weights from the same distributions as timm."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                limit = 1 / math.sqrt(module.out_features)
                nn.init.uniform_(module.weight, -limit, limit)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """The logits for normalised images."""
        features = self.blocks(self.bn1(self.conv_stem(inputs)))
        features = self.bn2(self.conv_head(features))
        logits: Tensor = self.classifier(self.global_pool(features))
        return logits


class _Separable(nn.Module):
    """Filter each channel, then mix the channels."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _convolution(channels, channels, kernel, stride, groups=channels)
        self.bn1 = _BatchNorm(channels)
        self.conv_pw = _convolution(channels, out)
        self.bn2 = _BatchNorm(out, active=False)

    def forward(self, maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n o u v"]:
        maps = self.bn1(self.conv_dw(maps))
        mixed: Tensor = self.bn2(self.conv_pw(maps))
        return mixed


class _Inverted(nn.Module):
    """Mix the channels to six times as many, filter each of them, and mix them to few again."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        many = _rounded(6 * channels)
        self._adds = stride == 1 and channels == out
        self.conv_pw = _convolution(channels, many)
        self.bn1 = _BatchNorm(many)
        self.conv_dw = _convolution(many, many, kernel, stride, groups=many)
        self.bn2 = _BatchNorm(many)
        self.conv_pwl = _convolution(many, out)
        self.bn3 = _BatchNorm(out, active=False)

    def forward(self, maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n o u v"]:
        wide = self.bn2(self.conv_dw(self.bn1(self.conv_pw(maps))))
        mixed: Tensor = self.bn3(self.conv_pwl(wide))
        return mixed + maps if self._adds else mixed


class _BatchNorm(nn.BatchNorm2d):
    """BatchNorm with the activation function that follows, if one does."""

    def __init__(self, channels: int, active: bool = True) -> None:
        super().__init__(channels, eps=_EPSILON)
        self.act = nn.ReLU6(inplace=True) if active else nn.Identity()

    def forward(self, input: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
        active: Tensor = self.act(super().forward(input))
        return active


class _Halving(nn.Conv2d):
    """A convolution of stride 2 whose output has half as many rows and columns, rounded up.

    As in TensorFlow, the padding begins with a row and a column less if their number is even.
    """

    def forward(self, input: Float[Tensor, "n k h w"]) -> Float[Tensor, "n o u v"]:
        height, width = input.shape[-2:]
        half = self.kernel_size[0] // 2
        padding = (half - 1 + width % 2, half, half - 1 + height % 2, half)
        return super().forward(functional.pad(input, padding))


def _convolution(
    channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    if stride == 2:
        return _Halving(channels, out, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, but not less than 90 % of the number."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
