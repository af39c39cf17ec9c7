"""Compare Score-CAM on a budget of masked forward passes with exact Score-CAM, on ambiguous photos.

    python benchmarks/budget.py PHOTOS [--model M] [--checkpoint F] [--limit N] [--json FILE]

PHOTOS is a folder of images of any kind, searched recursively; labels are not needed. Every
ambiguous photo (gap(1,5) < 0.5) is corrected with the exact maps and then with every budget.
Prints a Markdown table: the similarity of the maps (mean cosine), the number of photos with the
same corrected answer (with the 95 % interval of Clopper and Pearson), and the time taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from scipy.stats import binomtest
from torch.nn.functional import cosine_similarity

import relook
from relook.correction import AMBIGUOUS, gap
from relook.images import image_suffixes, open_image

BUDGETS = (8, 16, 32, 64, 128)


def study(classifier: relook.Classifier, photos: list[Path]) -> list[dict[str, Any]]:
    """One row per photo: the exact correction, and how that of each budget compares with it."""
    exact = relook.Corrector(classifier)
    by_budget = {n: relook.Corrector(classifier, budget=n) for n in BUDGETS}
    exact.correct(photos[0])  # exports the network
    rows = []
    for photo in track(photos, "correcting", disable=not sys.stderr.isatty()):
        wanted = exact.correct(photo)
        first, second = wanted.after.topk(2).values.tolist()
        row: dict[str, Any] = {
            "photo": photo.name,
            "lead": first - second,
            "forwards": wanted.forwards,
            "seconds": wanted.seconds,
        }
        for budget, corrector in by_budget.items():
            got = corrector.correct(photo)
            alike = cosine_similarity(got.maps.flatten(1), wanted.maps.flatten(1), dim=1)
            alike[(got.maps == wanted.maps).flatten(1).all(dim=1)] = 1  # both flat, among others
            row[str(budget)] = {
                "cosine": float(alike.mean()),
                "same": bool(got.after.argmax() == wanted.after.argmax()),
                "forwards": got.forwards,
                "seconds": got.seconds,
            }
        rows.append(row)
    return rows


def ambiguous(classifier: relook.Classifier, folder: Path) -> list[Path]:
    """The photos that the classifier is unsure about."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in image_suffixes())
    unsure = []
    for photo in track(photos, "looking", disable=not sys.stderr.isatty()):
        pixels = classifier.pixels(open_image(photo)).unsqueeze(0)
        if bool(gap(classifier(pixels))[0] < AMBIGUOUS):
            unsure.append(photo)
    return unsure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="bundled/efficientnet_lite0")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--limit", type=int, help="largest number of ambiguous photos to use")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    classifier = relook.load(arguments.model, checkpoint=arguments.checkpoint)
    photos = ambiguous(classifier, arguments.photos)[: arguments.limit]
    if not photos:
        sys.exit(f"{arguments.photos}: no photo that {classifier.name} is unsure about")
    rows = study(classifier, photos)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    report(classifier, rows)


def report(classifier: relook.Classifier, rows: list[dict[str, Any]]) -> None:
    """Print the table and, for each budget, the photos with a different answer."""
    count = len(rows)
    exact = sum(row["seconds"] for row in rows)
    print(
        f"{classifier.name} on {classifier.device}, {classifier.engine}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; {count} ambiguous photos\n"
    )
    print("| budget | maps: cosine | same answer | 95 % interval | forwards | seconds | × faster |")
    print("|--:|--:|--:|---|--:|--:|--:|")
    for budget in map(str, BUDGETS):
        same = sum(row[budget]["same"] for row in rows)
        interval = binomtest(same, count).proportion_ci()
        seconds = sum(row[budget]["seconds"] for row in rows)
        cosine = sum(row[budget]["cosine"] for row in rows) / count
        forwards = sum(row[budget]["forwards"] for row in rows) / count
        print(
            f"| {budget} | {cosine:.4f} | {same} of {count} = {100 * same / count:.1f} % | "
            f"{100 * interval.low:.1f} to {100 * interval.high:.1f} % | {forwards:.0f} | "
            f"{seconds / count:.2f} | {exact / seconds:.1f} |"
        )
    forwards = sum(row["forwards"] for row in rows) / count
    print(f"| exact | 1 | | | {forwards:.0f} | {exact / count:.2f} | 1 |\n")
    print("Photos with a different answer, and the lead of the exact answer over its second:")
    for budget in map(str, BUDGETS):
        others = [row for row in rows if not row[budget]["same"]]
        leads = ", ".join(f"{row['photo']} {100 * row['lead']:.2f} %" for row in others)
        print(f"- {budget}: {leads or 'none'}")


if __name__ == "__main__":
    main()
