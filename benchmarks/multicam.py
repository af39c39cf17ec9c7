"""Compare MultiCAM with corrections that need no training, on satellite scenes and small photos.

    python benchmarks/multicam.py DATA [--seed N]

Runs `relook train-multicam` and `relook compare`, with all their defaults, for EfficientNet-Lite0
from its ImageNet weights on `DATA/rsscn7` (train/ and test/), and for a ResNet-20 from scratch on
`DATA/cifar10` (split by the seed). A control shows whether a gain is due to the masks or would
come from any second network: a second TargetNet is trained with the next seed, and its answers
are added to those of the first. Results that exist already are reused. Writes to
benchmarks/results/multicam and prints the tables of docs/multicam.md; about 45 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

import torch

from relook.cli.progress import evaluation_bar, training_bar
from relook.correction import AMBIGUOUS, Corrector
from relook.evaluation import LabelledImages, Pairing, evaluate
from relook.models import load
from relook.multicam import (
    Comparison,
    Progress,
    Trained,
    Training,
    compare,
    load_stages,
    load_trained,
    masked,
    train_multicam,
    unseen_images,
)
from relook.report.comparison import keep_cases
from relook.report.findings import find_comparison
from relook.report.run import write_report
from relook.words import duration, percent_range, points, significance

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "multicam"
CASES = {
    "rsscn7": ("bundled/efficientnet_lite0", None),
    "cifar10": ("examples.cifar_resnet:resnet20", "none"),
}


class EnoughError(Exception):
    """Raised to stop the training after its first stage."""


def second_target(data: Path, run: Path, backbone: str, weights: str | None, seed: int) -> Training:
    """Train only TargetNet, with this seed."""
    if (run / "target" / "stage.json").exists():
        return Training.read(run)
    with training_bar() as bar:

        def watch(progress: Progress) -> None:
            if progress.stage != "target":
                raise EnoughError
            bar(progress)

        with contextlib.suppress(EnoughError):
            train_multicam(
                data,
                run,
                load=load,
                backbone=backbone,
                weights=weights,
                seed=seed,
                on_progress=watch,
            )
    return Training.read(run)


def two_targets(
    trained: Trained, other: Training, images: LabelledImages
) -> tuple[Pairing, Pairing]:
    """Two pairings: TargetNet against two TargetNets, and MultiCAM against two TargetNets."""
    [second] = load_stages(other, ["target"], load=load)
    total, against = Pairing(), Pairing()
    for start in range(0, len(images), 32):
        some = images.images[start : start + 32]
        pixels = torch.stack([second.pixels(image.open()) for image in some])
        one, two = trained.target(pixels), second(pixels)
        answers = (one, one + two, trained.fused(pixels))
        best = [answer.argmax(dim=1).tolist() for answer in answers]
        for image, before, after, fused in zip(some, *best, strict=True):
            right = after == image.label
            total += Pairing.of(before == image.label, right)
            against += Pairing.of(fused == image.label, right)
    return total, against


def divide(training: Training, data: Path, folder: Path) -> None:
    """Write the split as train/ and test/ folders of symbolic links."""
    for image in training.images:
        part = "test" if image.part == "test" else "train"
        link = folder / part / image.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(data / image.name)


def print_table(comparison: Comparison, control: Pairing) -> None:
    print("| | top-1 | 95 % | fixed / broken | gain | p | forwards | training |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for method in comparison.methods:
        tally, pairing = method.tally, method.pairing
        told = (
            f"{pairing.fixed} / {pairing.broken} | {points(pairing.gain)} | "
            f"{significance(pairing.p_value)}"
            if pairing
            else "| |"
        )
        print(
            f"| {method.method} | {100 * (tally.top1 or 0):.1f} % | "
            f"{percent_range(tally.interval)} | {told} | "
            f"{tally.forwards / tally.images:.2f} | {duration(method.seconds)} |"
        )
    print(
        f"| two TargetNets, added | {100 * (control.after or 0):.1f} % | | {control.fixed} / "
        f"{control.broken} | {points(control.gain)} | {significance(control.p_value)} | 2.00 | |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=CASES)
    arguments = parser.parse_args()
    data, seed = arguments.data.resolve(), arguments.seed
    os.chdir(ROOT)  # where examples.cifar_resnet is found
    for name, (backbone, weights) in CASES.items():
        if arguments.only not in (None, name):
            continue
        run = RESULTS / name / f"run-{seed}"
        out = RESULTS / name / f"compared-{seed}"
        with training_bar() as bar:
            train_multicam(
                data / name,
                run,
                load=load,
                backbone=backbone,
                weights=weights,
                seed=seed,
                on_images=bar.images,
                on_progress=bar,
            )
        trained = load_trained(run, load=load)
        images = unseen_images(trained.training, data / name)
        with evaluation_bar(name, len(images)) as rows:
            comparison = compare(trained, images, out, on_rows=rows)
        keep_cases(comparison, trained, images, out)
        write_report(out)
        divided = data / name
        if trained.training.split:  # another seed would split them otherwise
            divided = RESULTS / name / f"divided-{seed}"
            divide(trained.training, data / name, divided)
        run = RESULTS / name / f"target-{seed + 1}"
        other = second_target(divided, run, backbone, weights, seed + 1)
        control, against = two_targets(trained, other, images)
        print(f"\n{name}: {len(images):,} test images, {torch.get_num_threads()} threads")
        for stage, record in trained.training.stages.items():
            print(
                f"  {stage}: {record.epochs[-1].epoch} epochs, {record.best.epoch} kept, "
                f"{100 * record.best.validation_accuracy:.1f} % of {record.validation} validation "
                f"images, {duration(record.seconds)}"
            )
        seen = (trained.fused.pixels(image.open()) for image in images.images)
        shares = [masked(trained.fused, pixels).hidden for pixels in seen]
        print(f"  hidden from ObjectNet: {100 * sum(shares) / len(shares):.0f} % of a test image")
        print_table(comparison, control)
        [second] = load_stages(other, ["target"], load=load)
        corrector = Corrector(second, gate=AMBIGUOUS, look="best")
        looks = evaluate(corrector, images, versus=["flip", "quick"]).statistics
        for look, method in {"best": looks.after, **looks.rivals}.items():
            pairing = method.pairing
            print(
                f"on the second TargetNet ({100 * (pairing.before or 0):.1f} %) {look}: "
                f"{pairing.fixed} / {pairing.broken}, {points(pairing.gain)}, "
                f"p {significance(pairing.p_value)}"
            )
        print(
            f"two TargetNets against MultiCAM: {against.fixed} more right, {against.broken} fewer, "
            f"p {significance(against.p_value)}"
        )
        found = find_comparison(comparison)
        print("\n".join([found.sentence, *found.remarks]))


if __name__ == "__main__":
    main()
