"""Train the networks for the study of second looks, on four real data sets.

    python benchmarks/trained.py DATA [--seed N]

Fine-tunes EfficientNet-Lite0 from its ImageNet weights on `DATA/rsscn7` (satellite scenes, 7
classes), on `DATA/trash` (full-size photos of waste, 6 classes) and on the solar cells of the
package `elpv-dataset` (functional or defective; half of them are test images, split by the seed).
Trains a ResNet-20 from scratch on Fashion-MNIST (Debian's `dataset-fashion-mnist`). Weights that
exist already are kept. Writes the weights, and the test images as class folders, to
benchmarks/results/trained:

    cd benchmarks/results/trained
    relook evaluate elpv --checkpoint elpv.safetensors --output RUN
"""

from __future__ import annotations

import argparse
import gzip
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

import relook
from relook.evaluation import read_data

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from cifar_resnet import CifarResNet

RESULTS = Path(__file__).parent / "results" / "trained"
FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

Images = tuple[Tensor, Tensor]
"""Images as (N, 3, H, W) in uint8, and their labels (N,)."""


def fashion() -> relook.Classifier:
    """ResNet-20 for 28×28 images; load its weights from a checkpoint."""
    return relook.Classifier(
        CifarResNet(3),
        mean=(0.286, 0.286, 0.286),
        std=(0.353, 0.353, 0.353),
        input_size=28,
        labels=FASHION_CLASSES,
    )


def fit(
    classifier: relook.Classifier,
    images: Images,
    augment: v2.Transform,
    epochs: int,
    rate: float,
    batch: int,
) -> nn.Module:
    """Train with cross entropy, AdamW and one cycle of the learning rate."""
    pixels, labels = images
    network = classifier.network.train()
    steps = len(pixels) // batch
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(pixels))[: steps * batch].split(batch)
        right = 0
        for chosen in track(order, f"epoch {epoch + 1} of {epochs}", transient=True):
            seen = torch.stack([augment(pixels[i]) for i in chosen]).float() / 255
            logits = network(classifier.normalised(seen))
            loss = cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right += int((logits.argmax(dim=1) == labels[chosen]).sum())
        print(f"epoch {epoch + 1}: {100 * right / (steps * batch):.1f} % of the training images")
    return network.eval()


def fine_tuned(images: Images, classes: int, epochs: int) -> nn.Module:
    """Fine-tune EfficientNet-Lite0 with a new classification layer."""
    classifier = relook.load("bundled/efficientnet_lite0")
    network = classifier.network
    network.reset_classifier(classes)  # type: ignore[operator]
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(classifier.input_size, scale=(0.4, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2),
        ]
    )
    return fit(classifier, images, augment, epochs, rate=1e-3, batch=32)


def stacked(found: list[tuple[Image.Image, int]]) -> Images:
    arrays = [np.array(image.convert("RGB")) for image, _ in found]
    pixels = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    return torch.stack(pixels), torch.tensor([label for _, label in found])


def write(folder: Path, images: Iterator[tuple[Image.Image, str]]) -> None:
    if folder.exists():  # left by a stopped run, perhaps with another split
        shutil.rmtree(folder)
    for number, (image, label) in enumerate(images):
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / label / f"{number:05}.png")


def from_folders(data: Path, epochs: int) -> nn.Module:
    labels = sorted(folder.name for folder in (data / "train").iterdir() if folder.is_dir())
    train = read_data(data / "train", labels).images
    return fine_tuned(stacked([(i.open(), i.label) for i in train]), len(labels), epochs)


def elpv(folder: Path, seed: int) -> nn.Module:
    from elpv_dataset.utils import load_dataset

    cells, probabilities, _ = load_dataset()
    labels = [int(p >= 0.5) for p in probabilities]
    order = list(range(len(cells)))
    random.Random(seed).shuffle(order)
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    names = ("functional", "defective")
    write(folder, ((Image.fromarray(cells[i]), f"{labels[i]}-{names[labels[i]]}") for i in test))
    return fine_tuned(stacked([(Image.fromarray(cells[i]), labels[i]) for i in train]), 2, 4)


def fashion_mnist(folder: Path) -> nn.Module:
    test, test_labels = _idx("t10k")
    write(
        folder,
        (
            (Image.fromarray(image), FASHION_CLASSES[label])
            for image, label in zip(test, test_labels, strict=True)
        ),
    )
    train, labels = _idx("train")
    pixels = torch.from_numpy(train.copy()).unsqueeze(1).expand(-1, 3, -1, -1)
    augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(28, padding=2)])
    images = pixels, torch.from_numpy(labels.astype(np.int64))
    return fit(fashion(), images, augment, 4, rate=5e-3, batch=128)


def _idx(part: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = (
        np.frombuffer(gzip.decompress((FASHION / f"{part}-{what}-ubyte.gz").read_bytes()), np.uint8)
        for what in ("images-idx3", "labels-idx1")
    )
    return pixels[16:].reshape(-1, 28, 28), labels[8:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], nn.Module]] = {
        "rsscn7": lambda: from_folders(arguments.data / "rsscn7", 4),
        "trash": lambda: from_folders(arguments.data / "trash", 8),
        "elpv": lambda: elpv(RESULTS / "elpv", arguments.seed),
        "fashion": lambda: fashion_mnist(RESULTS / "fashion"),
    }
    for part, make in makers.items():
        file = RESULTS / f"{part}.safetensors"
        if not file.exists():
            print(f"training on {part}")
            torch.manual_seed(arguments.seed)
            weights = make().state_dict()
            save_file({name: value.contiguous() for name, value in weights.items()}, file)
        print(file)


if __name__ == "__main__":
    main()
