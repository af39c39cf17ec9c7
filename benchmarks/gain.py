"""Measure whether the poster's second look and its rivals help: the table of docs/evaluation.md.

    python benchmarks/gain.py DATA [--output FOLDER]

DATA holds `nips17/` (labels.csv: photos with ImageNet labels), `cifar10/` (class folders) and
`weights/` (cifar10_resnet20.safetensors and so on, for examples/cifar_resnet.py). Each network and
gate is one `relook.evaluate` in a folder of its own, so a stopped run can be continued with the
same command. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import relook
from relook.cli.progress import evaluation_bar
from relook.evaluation import Evaluation, Method, read_data
from relook.words import points, points_range, significance

sys.path.insert(0, str(Path(__file__).parents[1]))  # for examples

LITE0 = "bundled/efficientnet_lite0"
PHOTO_RIVALS = ("flip", "fivecrop", "tencrop", "larger")


@dataclass(frozen=True)
class Trial:
    """One evaluation: the network, the data, the gate and the rivals."""

    name: str
    model: str
    data: str
    checkpoint: str | None
    gate: float | str
    versus: tuple[str, ...]


TRIALS = (
    Trial("EfficientNet-Lite0, nips17", LITE0, "nips17/labels.csv", None, 0.5, PHOTO_RIVALS),
    *(
        Trial(
            f"ResNet-{depth}, cifar10",
            f"examples.cifar_resnet:resnet{depth}",
            "cifar10",
            f"weights/cifar10_resnet{depth}.safetensors",
            gate,
            ("flip",),
        )
        for depth in (20, 32, 56)
        for gate in (0.5, "none")
    ),
)


def run(trial: Trial, data: Path, output: Path) -> Evaluation:
    checkpoint = None if trial.checkpoint is None else data / trial.checkpoint
    classifier = relook.load(trial.model, checkpoint=checkpoint)
    images = read_data(data / trial.data, classifier.labels)
    folder = output / f"{trial.name} gate {trial.gate}".replace(", ", "-").replace(" ", "-")
    with evaluation_bar(trial.name, len(images)) as bar:
        corrector = relook.Corrector(classifier, gate=trial.gate)
        return relook.evaluate(corrector, images, folder, versus=trial.versus, on_rows=bar)


def lines(trial: Trial, evaluation: Evaluation) -> list[str]:
    statistics = evaluation.statistics
    methods = {"poster": statistics.after, **statistics.rivals}
    return [
        f"| {trial.name} | {trial.gate} | {line(name, method)} |"
        for name, method in methods.items()
    ]


def line(name: str, method: Method) -> str:
    every, unsure, tally = method.pairing, method.ambiguous, method.tally
    return " | ".join(
        [
            f"`{name}`",
            f"{100 * (every.before or 0):.2f} → {100 * (every.after or 0):.2f}",
            f"{every.fixed} / {every.broken}",
            f"{points(every.gain)} ({points_range(every.interval)})",
            significance(every.p_value),
            f"{unsure.images}: {100 * (unsure.before or 0):.1f} → {100 * (unsure.after or 0):.1f}",
            f"{tally.forwards / tally.images:,.2f}",
            f"{1000 * tally.seconds / tally.images:,.1f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gain")
    arguments = parser.parse_args()
    print(
        "| network, images | gate | look | top-1 | fixed / broken | gain (95 %) | p | "
        "ambiguous: top-1 | forwards | ms |"
    )
    print("|---|---|---|---|---|---|---|---|--:|--:|")
    for trial in TRIALS:
        for text in lines(trial, run(trial, arguments.data, arguments.output)):
            print(text, flush=True)


if __name__ == "__main__":
    main()
