"""Time the networks that the poster names, with random weights, at their own input sizes.

    python benchmarks/poster_networks.py [--only vgg16]

Prints a Markdown table: one correction with 8 masked forward passes, and the time of exact maps,
extrapolated from one masked forward pass on the engine that runs many of them. Assem-ResNet152
exists for TensorFlow only; a ResNet152 stands in, as an ONNX file with the colour channels last,
the layout that TensorFlow's exporters write.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import relook
from relook.attribution.score_cam import live_channels
from relook.demo import photos
from relook.engines.exported import export
from relook.images import open_image
from relook.looks import Mask

BUDGET = 8
NETWORKS = {
    "VGG16": "torchvision/vgg16.IMAGENET1K_V1",
    "ResNet152": "torchvision/resnet152.IMAGENET1K_V1",
    "EfficientNet-B8": "timm/tf_efficientnet_b8",
    "ResNeSt-269": "timm/resnest269e",
    "Assem-ResNet152 (stand-in)": "resnet152-nhwc.onnx",
}


class ChannelsLast(nn.Module):
    """A network with the colour channels of its input last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Class outputs of images (N, H, W, 3)."""
        answers: Tensor = self.network(images.permute(0, 3, 1, 2))
        return answers


def stand_in(folder: Path, name: str) -> relook.Classifier:
    own = relook.load("torchvision/resnet152.IMAGENET1K_V1", pretrained=False)
    example = own.normalised(own.noise()).permute(0, 2, 3, 1)
    export(ChannelsLast(own.network).eval(), example, folder / name)
    return relook.load(str(folder / name), mean=own.mean, std=own.std)


def line(label: str, classifier: relook.Classifier, name: str) -> str:
    image = open_image(photos()[0])
    corrector = relook.Corrector(classifier, look=Mask(relook.ScoreCAM(budget=BUDGET)))
    start = time.perf_counter()
    correction = corrector.correct(image)
    seconds = time.perf_counter() - start
    [first] = classifier.first_looks(classifier.pixels(image).unsqueeze(0))
    assert first.activations is not None
    channels = int(live_channels(first.activations).sum())
    batch = first.pixels.expand(BUDGET, -1, -1, -1).contiguous()
    run = classifier.runner(channels, classifier.input_size)
    inputs = classifier.normalised(batch)
    run(inputs)
    start = time.perf_counter()
    run(inputs)
    each = (time.perf_counter() - start) / BUDGET
    engine = "ONNX Runtime" if name.endswith(".onnx") else classifier.engine
    size = "×".join(map(str, classifier.input_size))
    return (
        f"| {label} | `{name}` | {size} | `{classifier.target_layer}` | {classifier.layout} | "
        f"{channels:,} | {correction.forwards} | {seconds:.1f} | {each:.2f} ({engine}) | "
        f"{channels * each / 60:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="", help="run only networks whose name contains this text"
    )
    only = parser.parse_args().only
    print(
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}\n"
    )
    print(
        "| network | name | input | target layer | maps | not constant | forwards | seconds | "
        "seconds a masked forward | exact maps, minutes |"
    )
    print("|---|---|--:|---|---|--:|--:|--:|---|--:|")
    for label, name in NETWORKS.items():
        if only not in name:
            continue
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory(prefix="relook-") as folder:
            if name.endswith(".onnx"):
                classifier = stand_in(Path(folder), name)
            else:
                classifier = relook.load(name, pretrained=False)
            print(line(label, classifier, name), flush=True)


if __name__ == "__main__":
    main()
