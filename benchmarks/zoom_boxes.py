"""Which box around a map? Of the network's shape or tight, one a class or one a region of its map.

    python benchmarks/zoom_boxes.py DATA

A side study to benchmarks/second_look.py on the ambiguous photos of `DATA/nips17` with the bundled
network and maps from CAM: what the package's `Zoom` does, and what it does not. A tight box is
brought to the network's shape with its aspect lost; regions are the connected parts of a map, the
three largest of each class, which share the weight of their class. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import label
from torch import Tensor

import relook
from relook.attribution import Progress
from relook.classifier import Classifier, FirstLook
from relook.correction import AMBIGUOUS
from relook.evaluation import read_data
from relook.geometry import Box
from relook.looks import Look, SecondLook, Together, Views, Zoom, make_look
from relook.looks.zoom import fitted, region
from relook.report.findings import gain, significance

MOST = 3


@dataclass(frozen=True)
class Boxes:
    """As `Zoom`, with tight boxes or with one for each region."""

    threshold: float
    tight: bool = False
    regions: bool = False

    @property
    def needs_activations(self) -> bool:
        """For the maps."""
        return True

    @property
    def needs_original(self) -> bool:
        """For the detail."""
        return True

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Int[Tensor, " k"],
        progress: Progress | None = None,
    ) -> SecondLook:
        """A view a box."""
        seen = relook.CAM()(classifier, first, classes)
        shown = classifier.shown(first)
        share = first.probabilities[classes] / first.probabilities[classes].sum()
        pixels, weights = [], []
        for own, weight in zip(seen.maps, share, strict=True):
            parts = [region(part, self.threshold) for part in self._parts(own)]
            for part in parts:
                box = (
                    _cut(part, shown) if self.tight else fitted(part, shown, first.extent, 0, 0.25)
                )
                pixels.append(classifier.cut(first, box, classifier.input_size))
                weights.append((weight / len(parts)).expand(len(first.probabilities)))
        none = SecondLook.without_maps(first.pixels)
        if not pixels:
            return none
        return SecondLook.without_maps(
            first.pixels, Views(torch.stack(pixels), torch.stack(weights))
        )

    def _parts(self, own: Float[Tensor, "h w"]) -> Iterator[Float[Tensor, "h w"]]:
        if not own.any():
            return
        if not self.regions:
            yield own
            return
        numbered, count = label((own >= self.threshold * own.max()).numpy())
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        for number in np.argsort(-sizes)[:MOST] + 1:
            yield torch.from_numpy((numbered == number).astype(np.float32))


def _cut(part: Box, shown: Box) -> Box:
    wide, high = shown[2] - shown[0], shown[3] - shown[1]
    return (
        shown[0] + wide * part[0],
        shown[1] + high * part[1],
        shown[0] + wide * part[2],
        shown[1] + high * part[3],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    classifier = relook.load()
    images = read_data(parser.parse_args().data / "nips17" / "labels.csv", classifier.labels)
    looks: dict[str, Look] = {}
    for threshold in (0.3, 0.4, 0.5):
        looks[f"zoom {threshold}"] = Zoom(threshold=threshold)
        looks[f"zoom {threshold}, tight"] = Boxes(threshold, tight=True)
        looks[f"zoom {threshold}, a box a region"] = Boxes(threshold, regions=True)
    quick = make_look("quick")
    looks |= {f"quick + {name}": Together((quick, look)) for name, look in looks.items()}
    versus = {
        name: relook.Corrector(classifier, 2, AMBIGUOUS, look) for name, look in looks.items()
    }
    main_look = relook.Corrector(classifier, gate=AMBIGUOUS, look="quick")
    counted = relook.evaluate(main_look, images, versus=versus).statistics
    print("| look, k = 2 | fixed / broken | gain on ambiguous images | p | cost of one |")
    print("|---|---|--:|--:|--:|")
    for name, method in counted.rivals.items():
        pair = method.ambiguous
        cost = (method.tally.cost - counted.before.images) / pair.images + 1
        print(
            f"| {name} | {pair.fixed} / {pair.broken} | {gain(pair)} | "
            f"{significance(pair.p_value)} | {cost:.2f} |"
        )


if __name__ == "__main__":
    main()
