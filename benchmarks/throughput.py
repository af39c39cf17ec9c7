"""Measure how many images a second `relook predict FOLDER --rows RUN` answers.

    python benchmarks/throughput.py DATA [--photos N] [--only TEXT] [--json FILE]

DATA holds photos/, cifar10/ and weights/. The photos are answered several times over, under other
names, so that a run is long enough to measure. For EfficientNet-Lite0 on photos and ResNet-20 on
CIFAR-10, each with no second look and with `flip`, `quick` and `best` at gate 0.5, one run in a new
process after another, it prints Markdown:

- images a second of `predict`, from its call to its return, without loading the network and making
  the first form of it in ONNX Runtime, which take seconds whatever the number of images;
- the limit: the reciprocal of the time that decoding and cropping an image takes with all cores,
  plus the time of its forward passes with all cores on ONNX Runtime, times their mean cost; reading
  files, cutting views, gates, sums and rows are not in it;
- a loop over a DataLoader with as many worker processes as cores, the network in PyTorch: without a
  second look, and with ttach's horizontal flip on all images.

Machines are noisy: all parts are measured in turn, in rounds, and medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import relook
from relook.prediction import find_images

sys.path.insert(0, str(Path(__file__).parents[1]))  # for examples

CORES = len(os.sched_getaffinity(0))
GATE = 0.5
BATCH = 64


@dataclass(frozen=True)
class Setting:
    """A network and its images."""

    name: str
    model: str
    checkpoint: str | None
    images: str
    copies: int

    def load(self, data: Path) -> relook.Classifier:
        """The classifier."""
        checkpoint = None if self.checkpoint is None else data / self.checkpoint
        return relook.load(self.model, checkpoint=checkpoint)


SETTINGS = [
    Setting("EfficientNet-Lite0, photos", "bundled/efficientnet_lite0", None, "photos", 10),
    Setting(
        "ResNet-20, CIFAR-10",
        "examples.cifar_resnet:resnet20",
        "weights/cifar10_resnet20.safetensors",
        "cifar10",
        4,
    ),
]
LOOKS = ("none", "flip", "quick", "best", "flip, all")


@dataclass(frozen=True)
class Measured:
    """One run of `predict`."""

    images: int
    corrected: int
    cost: float
    seconds: float


def predicted(setting: Setting, data: Path, folder: Path, look: str) -> Measured:
    """Answer all images of a folder in this process."""
    classifier = setting.load(data)
    gates: dict[str, float | str] = {"none": 0.0, "flip, all": "none"}
    gate = gates.get(look, GATE)
    name = "flip" if look in ("none", "flip, all") else look
    corrector = relook.Corrector(classifier, gate=gate, look=name)
    found = find_images([folder])
    classifier.warm_up(len(found.items))
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        totals = relook.predict(corrector, found, Path(output) / "run").totals
        seconds = time.perf_counter() - start
    return Measured(totals.images, totals.corrected, totals.cost, seconds)


def decoding(classifier: relook.Classifier, files: Sequence[Path]) -> float:
    """Images a second of decoding and cropping alone, in one thread per core."""

    def crop(file: Path) -> Tensor:
        with Image.open(file) as image:
            return classifier.pixels(image.convert("RGB"))

    with ThreadPoolExecutor(CORES) as pool:
        start = time.perf_counter()
        for _ in pool.map(crop, files):
            pass
        return len(files) / (time.perf_counter() - start)


def forwards(classifier: relook.Classifier, seconds: float) -> float:
    """Forward passes a second on the best engine, with all cores."""
    height, width = classifier.input_size
    pixels = torch.rand(classifier.chunk_size(height, width), 3, height, width)
    run = classifier.runner(1000, (height, width))
    inputs = classifier.normalised(pixels)
    run(inputs)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run(inputs)
        done += len(inputs)
    return done / (time.perf_counter() - start)


class Files(Dataset[Tensor]):
    """The network's inputs of image files, for a DataLoader."""

    def __init__(self, classifier: relook.Classifier, files: Sequence[Path]) -> None:
        self.geometry, self.files = classifier.geometry, files
        self.mean = torch.tensor(classifier.mean).reshape(3, 1, 1)
        self.std = torch.tensor(classifier.std).reshape(3, 1, 1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Tensor:
        with Image.open(self.files[place]) as image:
            pixels = self.geometry.pixels(image.convert("RGB"))
        return (pixels - self.mean) / self.std


def looped(classifier: relook.Classifier, files: Sequence[Path], flipped: bool) -> float:
    """Images a second of a loop over a DataLoader, with ttach's flip or none."""
    network: nn.Module = classifier.network.eval().to(memory_format=torch.channels_last)
    if flipped:
        import ttach

        network = ttach.ClassificationTTAWrapper(
            network, ttach.aliases.hflip_transform(), merge_mode="mean"
        )
    batch = 256 if max(classifier.input_size) <= 64 else BATCH
    start = time.perf_counter()
    with torch.inference_mode():
        for inputs in DataLoader(Files(classifier, files), batch, num_workers=CORES):
            network(inputs.to(memory_format=torch.channels_last)).softmax(1).argmax(1)
    return len(files) / (time.perf_counter() - start)


def copied(data: Path, images: str, copies: int, folder: Path) -> Path:
    """A folder with every image under several names."""
    suffixes = {".jpg", ".jpeg", ".png"}
    files = sorted(f for f in (data / images).rglob("*") if f.suffix.lower() in suffixes)
    for copy in range(copies):
        (folder / str(copy)).mkdir(parents=True)
        for number, file in enumerate(files):
            (folder / str(copy) / f"{number:05}{file.suffix}").symlink_to(file.resolve())
    return folder


def in_process(call: str, *arguments: object) -> dict[str, float]:
    """What a function of this file measures in a process of its own."""
    command = [sys.executable, __file__, "--call", call, *map(str, arguments)]
    # As `relook predict --rows` sets it: PyTorch's threads do not spin.
    env = {**os.environ, **({"OMP_WAIT_POLICY": "PASSIVE"} if call == "predict" else {})}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def call(name: str, data: Path, setting: Setting, folder: Path, look: str) -> dict[str, float]:
    """One measurement, in this process."""
    torch.set_num_threads(CORES)
    if name == "predict":
        return asdict(predicted(setting, data, folder, look))
    classifier = setting.load(data)
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    if name == "limit":
        sample = files[: len(files) // setting.copies]
        decoding(classifier, sample[:50])
        rounds = [(decoding(classifier, sample), forwards(classifier, 3.0)) for _ in range(3)]
        return {
            "decoding": median(decoded for decoded, _ in rounds),
            "forwards": median(run for _, run in rounds),
        }
    few = files[: max(1000, len(files) // 5)]
    return {"rate": looped(classifier, few, name == "ttach")}


def measure(data: Path, setting: Setting, rounds: int) -> dict[str, Any]:
    """All measurements of one setting, in rounds."""
    rates: dict[str, list[float]] = {}
    costs: dict[str, float] = {}
    shares: dict[str, float] = {}
    limits: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = copied(data, setting.images, setting.copies, Path(place) / "images")
        index = SETTINGS.index(setting)
        for _ in range(rounds):
            for look in LOOKS:
                limits.append(in_process("limit", data, index, folder, look))
                found = in_process("predict", data, index, folder, look)
                rates.setdefault(look, []).append(found["images"] / found["seconds"])
                costs[look] = found["cost"] / found["images"]
                shares[look] = found["corrected"] / found["images"]
            for rival in ("loop", "ttach"):
                found = in_process(rival, data, index, folder, "none")
                rates.setdefault(rival, []).append(found["rate"])
    return {
        "rates": {name: median(values) for name, values in rates.items()},
        "costs": costs,
        "shares": shares,
        "decoding": median(limit["decoding"] for limit in limits),
        "forwards": median(limit["forwards"] for limit in limits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--call", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.call:
        name, data, index, folder, look = given.call
        print(json.dumps(call(name, Path(data), SETTINGS[int(index)], Path(folder), look)))
        return
    found = {s.name: measure(given.data, s, given.rounds) for s in SETTINGS if given.only in s.name}
    for name, values in found.items():
        rates = values["rates"]
        print(f"\n{name}: decoding {values['decoding']:,.0f}, forward passes ", end="")
        print(f"{values['forwards']:,.0f} a second, {CORES} cores\n")
        print("| second look | images/s | cost | looked at again | limit | of the limit |")
        print("|---|---:|---:|---:|---:|---:|")
        for look in LOOKS:
            cost = values["costs"][look]
            limit = 1 / (1 / values["decoding"] + cost / values["forwards"])
            print(
                f"| {look} | {rates[look]:,.1f} | {cost:.2f} | {values['shares'][look]:.1%} | "
                f"{limit:,.1f} | {rates[look] / limit:.2f} |"
            )
        print(f"| none, DataLoader loop in PyTorch | {rates['loop']:,.1f} | 1.00 | | | |")
        print(f"| flip, all: ttach in the same loop | {rates['ttach']:,.1f} | 2.00 | | | |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
