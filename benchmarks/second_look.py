"""Which second look helps, on what, at what cost? A study of many looks on the data at hand.

    python benchmarks/second_look.py DATA [--output FOLDER]

DATA is as for benchmarks/gain.py. All looks are taken at the ambiguous images, with maps from CAM,
which cost no forward; the poster's look is there too, with exact Score-CAM it is in
benchmarks/gain.py. Every network on every data set is one `relook.evaluate` in a folder of its own:
stopped, the same command goes on. Prints Markdown tables, best first: the best of so many is the
best by luck too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import relook
from relook.evaluation import Row, Statistics, read_data
from relook.looks import Crops, Flip, Larger, Look, Mask, Together, Whole, Zoom
from relook.report.findings import gain, significance
from relook.report.terminal import evaluation_bar

sys.path.insert(0, str(Path(__file__).parents[1]))  # for examples

PAIRS = (
    ("EfficientNet-Lite0", "bundled/efficientnet_lite0", "nips17/labels.csv", None),
    *(
        (
            f"ResNet-{depth}",
            f"examples.cifar_resnet:resnet{depth}",
            "cifar10",
            f"weights/cifar10_resnet{depth}.safetensors",
        )
        for depth in (20, 32, 56)
    ),
)


def looks() -> dict[str, tuple[int, Look]]:
    """Every look of the study by name, with its k."""
    cam = relook.CAM()
    found: dict[str, tuple[int, Look]] = {
        "poster": (5, Mask(cam)),
        "poster, mean": (5, Mask(cam, "mean")),
        "poster, blur": (5, Mask(cam, "blur")),
        "flip": (1, Flip()),
        "whole": (1, Whole()),
        "larger": (1, Larger()),
        "fivecrop": (1, Crops()),
        "tencrop": (1, Crops(flip=True)),
        "flip+larger": (1, Together((Flip(), Larger()))),
        "flip+whole": (1, Together((Flip(), Whole()))),
        "flip+whole+larger": (1, Together((Flip(), Whole(), Larger()))),
    }
    for threshold in (0.2, 0.3, 0.4, 0.5):
        for k in (1, 2, 3, 5):
            for weights in ("share", "own", "poster", "mean"):
                if k == 1 and weights == "mean":
                    continue  # the same as share
                zoom = Zoom(cam, threshold, weights=weights)
                found[f"zoom {threshold} {weights} k={k}"] = k, zoom
    for margin in (0.1, 0.2):
        for k in (1, 2):
            found[f"zoom 0.4 share margin {margin} k={k}"] = k, Zoom(cam, 0.4, margin)
    for threshold in (0.2, 0.4):
        for k in (1, 2):
            for weights in ("share", "mean"):
                zoom = Zoom(cam, threshold, weights=weights)
                own = f"zoom {threshold} {weights} k={k}"
                found[f"flip + {own}"] = k, Together((Flip(), zoom))
                found[f"larger + {own}"] = k, Together((Larger(), zoom))
                found[f"flip + larger + {own}"] = k, Together((Flip(), Larger(), zoom))
                found[f"flip + whole + {own}"] = k, Together((Flip(), Whole(), zoom))
    return found


def run(model: str, checkpoint: Path | None, table: Path, folder: Path) -> tuple[Row, ...]:
    classifier = relook.load(model, checkpoint=checkpoint)
    data = read_data(table, classifier.labels)
    versus = {
        name: relook.Corrector(classifier, k=k, gate=0.5, look=look)
        for name, (k, look) in looks().items()
    }
    main = relook.Corrector(classifier, gate=0.5, look="flip")
    with evaluation_bar(folder.name, len(data)) as bar:
        return relook.evaluate(main, data, folder, versus=versus, on_rows=bar).rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "looks")
    arguments = parser.parse_args()
    for name, model, table, checkpoint in PAIRS:
        weights = None if checkpoint is None else arguments.data / checkpoint
        folder = arguments.output / f"{name} {Path(table).parts[0]}".replace(" ", "-")
        rows = run(model, weights, arguments.data / table, folder)
        statistics = Statistics.of(rows)
        print(f"\n## {name}, {table}: {statistics.before.images} images\n")
        print("| look | ambiguous: fixed / broken | gain | p | forwards on an ambiguous image |")
        print("|---|---|--:|--:|--:|")
        ranked = sorted(statistics.rivals.items(), key=lambda item: -(item[1].ambiguous.gain or 0))
        for look, method in ranked:
            pair = method.ambiguous
            cost = (method.tally.cost - statistics.before.images) / max(1, pair.images) + 1
            print(
                f"| {look} | {pair.fixed} / {pair.broken} | {gain(pair)} | "
                f"{significance(pair.p_value)} | {cost:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
