"""Measure the cost of second looks with the bundled network, on photos from scikit-image.

    python benchmarks/one_photo.py [--repeats 3]

Prints a Markdown table of medians over the repeats: forward passes, seconds, and seconds in units
of one forward pass of one image, measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

import relook
from relook.demo import photos
from relook.images import open_image
from relook.looks import Look, Mask

LOOKS: dict[str, str | Look] = {
    "`flip`": "flip",
    "`quick`": "quick",
    "`best`": "best",
    "`poster`, maps from CAM": Mask(relook.CAM()),
    "`poster`, `--fast`": Mask(relook.ScoreCAM(budget="fast")),
    "`poster` (exact Score-CAM)": "poster",
}


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    classifier = relook.load()
    device = "CPU" if classifier.device.type == "cpu" else torch.cuda.get_device_name()
    print(
        f"{classifier.name} on {device}, {torch.get_num_threads()} threads of "
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}\n"
    )
    print("| photo | second look | before | after | forwards | seconds | × one forward |")
    print("|---|---|---|---|--:|--:|--:|")
    for photo in photos()[:2]:
        image = open_image(photo)
        pixels = classifier.pixels(image).unsqueeze(0)
        classifier(pixels)
        one = median_seconds(partial(classifier, pixels), 10 * repeats)
        for name, look in LOOKS.items():
            corrector = relook.Corrector(classifier, look=look)
            correction = corrector.correct(image)
            seconds = median_seconds(partial(corrector.correct, image), repeats)
            print(
                f"| {photo.stem} | {name} | {_answer(correction, correction.before)} | "
                f"{_answer(correction, correction.after)} | {correction.forwards} | "
                f"{seconds:.2f} | {seconds / one:.0f} |"
            )


def _answer(correction: relook.Correction, probabilities: torch.Tensor) -> str:
    top = int(probabilities.argmax())
    return f"{correction.labels[top]} {100 * float(probabilities[top]):.1f} %"


if __name__ == "__main__":
    main()
