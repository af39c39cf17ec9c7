"""Measure what tuning gains, fitted on one half of the images and measured on the other.

    python benchmarks/trained.py DATA         # first: train four networks
    python benchmarks/tuning.py DATA [--only TEXT] [--splits N]

DATA is as in benchmarks/second_look.py, whose pairs of networks and images are used. Each view is
run once per image; the answers are kept in benchmarks/results/tuning, so that a stopped study goes
on with the same command. Prints Markdown:

- tuned against `best` with a calibrated temperature, at no more cost, both ways of the halves;
- calibration against the first look with its own temperature;
- `--risk`: the share of wrong answers among those given, over random splits into halves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relook.calibration import tempered
from relook.evaluation import Pairing, Run, tune
from relook.evaluation.learning import (
    Corrected,
    Kept,
    Lesson,
    Way,
    choose_confidence,
    find_threshold,
    fit_temperature,
    learn,
    log_losses,
)
from relook.evaluation.rows import schema_of
from relook.evaluation.selective import aurc, ece_equal_mass
from relook.evaluation.tuning import GATES
from relook.folder import folder_at, read_settings
from relook.gate import EVERY_IMAGE, Gate
from relook.looks.presets import SUMS
from relook.words import significance
from second_look import PAIRS, RESULTS, Pair, load

NONE = Way((), Gate(0.0))
RISK = 0.05


@dataclass(frozen=True)
class Study:
    """The kept answers of one pair, and the preset.

    Attributes:
        pair: the network and the images.
        kept: the answers to all views.
        half: whether an image is in the first half.
        preset: the look `best` with its own gate.
        gates: the gates to try.
    """

    pair: Pair
    kept: Kept
    half: Tensor
    preset: Way
    gates: list[Gate]


def ask(pair: Pair, data: Path) -> Study:
    """Run every view of every image once, or read the answers that are there."""
    folder = RESULTS / "tuning" / pair.name.replace(", ", "-").replace(" ", "-")
    (RESULTS / "second_look").mkdir(parents=True, exist_ok=True)
    classifier, images = load(pair, data, RESULTS / "second_look")
    if not (folder / "tuned.json").exists():
        tune(classifier, images, folder, gates=[*GATES, "none"])
    settings = read_settings(folder / "tuning", "tuning")
    names = list(settings["ways"])
    table = Run(folder_at(folder / "tuning"), settings, schema_of).table()
    first = {image.name for image in images.halves()[0].images}
    used = table.filter(table["error"].is_null())["image"].to_pylist()
    looks = [settings["ways"][name]["look"] for name in names]
    parts = tuple((looks.index(look), weight) for look, weight in SUMS["best"].items())
    return Study(
        pair,
        Kept.of(table, names),
        torch.tensor([name in first for name in used]),
        Way(parts, Gate(0.4, j=2)),
        list(GATES),
    )


def right(answers: Corrected, kept: Kept) -> Tensor:
    """Whether each answer is the label."""
    return answers.raw.argmax(dim=1) == kept.labels


def under(kept: Kept, way: Way) -> Corrected:
    """The answers of a way."""
    return kept.corrected(way.parts, way.in_turn).under(kept, way.gate)


def pairing(before: Tensor, after: Tensor) -> Pairing:
    """Count the answers that changed."""
    return Pairing.of(before.numpy(), after.numpy())


def of_preset(study: Study) -> str:
    """A row: tuned against the preset, and both calibrated against the first look."""
    tuned = preset = Pairing()
    told: list[str] = []
    sums: dict[str, list[float]] = {}
    for own in (study.half, ~study.half):
        fit, test = study.kept.some(own), study.kept.some(~own)
        lesson = learn(fit, [study.preset], study.gates)
        base, found, first = (under(test, way) for way in (study.preset, lesson.way, NONE))
        tuned += pairing(right(base, test), right(found, test))
        preset += pairing(right(first, test), right(base, test))
        told.append("preset" if lesson.way == study.preset else _short(lesson))
        of_first = lesson.first.temperature
        some = fit.some(fit.passes(study.preset.gate))
        t_base = fit_temperature(
            some.corrected(study.preset.parts, True).raw, some.labels, around=of_first
        )
        for name, answers, gate, temperature, measure in (
            ("first", first, EVERY_IMAGE, 1.0, None),
            ("first, calibrated", first, EVERY_IMAGE, of_first, lesson.first.confidence),
            ("best", base, EVERY_IMAGE, 1.0, None),
            ("best, calibrated", base, study.preset.gate, t_base, None),
            ("tuned", found, lesson.way.gate, lesson.after.temperature, lesson.after.confidence),
        ):
            passing = test.passes(gate).unsqueeze(1)
            p = torch.where(
                passing, tempered(answers.raw, temperature), tempered(answers.raw, of_first)
            )
            top, ok = p.amax(dim=1).double().numpy(), right(answers, test).numpy()
            sure = top if measure is None else measure.of(answers.raw, answers.agreed).numpy()
            each = [
                float(log_losses(p, test.labels).mean()),
                ece_equal_mass(top, ok) or 0.0,
                aurc(sure, ok) or 0.0,
                float(answers.cost.mean()),
            ]
            sums[name] = [a + b / 2 for a, b in zip(sums.get(name, [0.0] * 4), each, strict=True)]
    more = [sums[n] for n in ("first", "first, calibrated", "best", "best, calibrated", "tuned")]
    cells = [
        f"{preset.fixed} / {preset.broken}",
        f"{tuned.fixed} / {tuned.broken} ({significance(tuned.p_value)})",
        f"{sums['best'][3]:.2f} → {sums['tuned'][3]:.2f}",
        " · ".join(f"{each[0]:.3f}" for each in more),
        " · ".join(f"{each[1]:.3f}" for each in more),
        " · ".join(f"{each[2]:.4f}" for each in more),
        "; ".join(told),
    ]
    return f"| {study.pair.name} ({len(study.kept):,}) | " + " | ".join(cells) + " |"


def _short(lesson: Lesson) -> str:
    weights = " ".join(f"{part}:{weight:.2g}" for part, weight in lesson.way.parts)
    return f"{weights} at {lesson.way.gate.setting}"


def of_risk(study: Study, splits: int) -> str:
    """A row: coverage and wrong answers with a threshold, over random splits."""
    kept, random = study.kept, np.random.default_rng(1)
    found: dict[str, list[tuple[float, float]]] = {"first": [], "after": []}
    whole = {
        "first": under(kept, NONE),
        "after": under(kept, study.preset),
    }
    for _ in range(splits):
        order = torch.tensor(random.permutation(len(kept)))
        half = len(kept) // 2
        learning, fresh, test = order[: half // 3], order[half // 3 : half], order[half:]
        for name, answers in whole.items():
            some = [_some(answers, chosen) for chosen in (learning, fresh, test)]
            labels = [kept.labels[chosen] for chosen in (learning, fresh, test)]
            own = fit_temperature(some[0].raw, labels[0])
            measure = choose_confidence(some[0], labels[0], own)
            abstention = find_threshold(some[1], labels[1], measure, RISK)
            sure = measure.of(some[2].raw, some[2].agreed)
            given = sure >= (2.0 if abstention.threshold is None else abstention.threshold)
            wrong = (some[2].raw.argmax(dim=1) != labels[2])[given]
            share = float(wrong.double().mean()) if len(wrong) else float("nan")
            found[name].append((float(given.double().mean()), share))
    cells = []
    for name in ("first", "after"):
        coverage, wrong = np.array(found[name]).T
        reached = ~np.isnan(wrong)
        kept_share = float((wrong[reached] <= RISK).sum() + (~reached).sum()) / splits
        cells += [f"{reached.mean():.0%}", f"{coverage.mean():.2f}", f"{kept_share:.1%}"]
    return f"| {study.pair.name} ({len(kept):,}) | " + " | ".join(cells) + " |"


def of_ungated(study: Study) -> str:
    """A row: areas under the risk–coverage curve with and without the gate, on all images."""
    kept = study.kept
    every = replace(study.preset, gate=EVERY_IMAGE)
    cells = []
    first = _area(kept.first.amax(dim=1), right(under(kept, NONE), kept))
    cells.append(f"{first:.4f}")
    for way in (study.preset, every):
        area = 0.0
        for own in (study.half, ~study.half):
            fit, test = kept.some(own), kept.some(~own)
            answers = under(fit, way)
            measure = choose_confidence(
                answers, fit.labels, fit_temperature(answers.raw, fit.labels)
            )
            of_test = under(test, way)
            sure = measure.of(of_test.raw, of_test.agreed)
            area += _area(sure, right(of_test, test)) / 2
        cells.append(f"{area:.4f} ({area / first - 1:+.0%})")
    return f"| {study.pair.name} | " + " | ".join(cells) + " |"


def _area(confidence: Tensor, ok: Tensor) -> float:
    return aurc(confidence.double().numpy(), ok.numpy()) or 0.0


def _some(answers: Corrected, chosen: Tensor) -> Corrected:
    return Corrected(answers.raw[chosen], answers.cost[chosen], answers.agreed[chosen])


def table(studies: list[Study], heads: tuple[str, ...], row: Callable[[Study], str]) -> None:
    """Print a table with a row for each study."""
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for study in studies:
        print(row(study), flush=True)


def main() -> None:
    """Ask, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="only pairs whose name contains this")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--ask-only", action="store_true", help="keep the answers, print nothing")
    options = parser.parse_args()
    names = options.only.split("|")
    pairs = [pair for pair in PAIRS if any(name in pair.name for name in names)]
    studies = [ask(pair, options.data) for pair in pairs]
    if options.ask_only:
        return
    table(
        studies,
        (
            "images",
            "best: fixed / broken",
            "tuned against best: fixed / broken",
            "cost",
            "log loss: first · calibrated · best · calibrated · tuned",
            "ECE (equal mass), likewise",
            "area under the risk–coverage curve, likewise",
            "chosen on each half",
        ),
        of_preset,
    )
    table(
        studies,
        ("images", "first", "best, calibrated", "best on every image, calibrated"),
        of_ungated,
    )
    table(
        studies,
        (
            "images",
            "first: reached",
            "coverage",
            f"wrong ≤ {RISK:.0%}",
            "best: reached",
            "coverage",
            f"wrong ≤ {RISK:.0%}",
        ),
        lambda study: of_risk(study, options.splits),
    )


if __name__ == "__main__":
    main()
