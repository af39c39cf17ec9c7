"""Choosing k, gate, fill, attribution and budget on labelled images, to be measured on others."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from relook.attribution import CAM, FAST
from relook.classifier import Classifier, FirstLook
from relook.correction import Corrector
from relook.errors import ModelError
from relook.evaluation.data import LabelledImages
from relook.evaluation.evaluation import after, before, describe
from relook.evaluation.rows import Answer, Row
from relook.evaluation.run import Run, RunError
from relook.evaluation.statistics import Pairing
from relook.evaluation.work import Labelled, Rows, work
from relook.fills import FILLS
from relook.looks import Preset

KS = (1, 2, 3, 5)
Gate = float | Literal["none"]

GATES: tuple[Gate, ...] = (0.1, 0.25, 0.5, 0.75)
"""No second look at surer images: they are seldom moved and would cost as much as all others."""


@dataclass(frozen=True)
class Candidate:
    """One way to look again, on the images of the choice.

    Attributes:
        preset: the way; its gate is 0 for no second look at all.
        pairing: what it fixed and broke.
        forwards: an image, on average.
    """

    preset: Preset
    pairing: Pairing
    forwards: float


@dataclass(frozen=True)
class Tuning:
    """What was tried, best first: most fixed less broken, of equals the cheapest.

    Attributes:
        candidates: all of them; "no second look" is one.
        images: how many the choice was made on.
    """

    candidates: tuple[Candidate, ...]
    images: int

    @property
    def chosen(self) -> Preset:
        """The best."""
        return self.candidates[0].preset


def tune(
    classifier: Classifier,
    data: LabelledImages,
    output: str | os.PathLike[str] | None = None,
    *,
    keep: Preset | None = None,
    gates: Sequence[Gate] = GATES,
    on_rows: Rows | None = None,
) -> Tuning:
    """Try k, gate, fill, attribution and budget, and choose.

    The gain of the choice on these images is flattered by the choice: measure it on others (see
    `LabelledImages.halves`). One second look about the most classes tells of fewer ones too, and
    of every gate, so that each image is looked at once for each fill, attribution and budget.

    Args:
        classifier: whose answers are to be corrected.
        data: labelled images to choose on.
        output: the run's folder: rows in `tuning/`, resumable as in `evaluate`, the choice in
            `tuned.json`.
        keep: what is settled: the look, and each of its options that is not None. Of looks other
            than the poster's only the gate is chosen.
        gates: those to try, where `keep` has none; "none" among them is every image.
        on_rows: told of the rows as they come.

    Raises:
        RunError: `output` holds another run.
        RelookError: the options that are settled do not go together, or k is out of range.
    """
    keep = keep or Preset()
    if keep.gate is not None:
        gates = (keep.gate,)
    Corrector(classifier, k=keep.k, look=keep.make())  # raises if that cannot be
    tried = KS if keep.k is None and keep.look == "poster" else (keep.k or 5,)
    ks = sorted({min(k, len(classifier.labels)) for k in tried})
    looks = {_name(preset): preset for preset in _contenders(classifier, keep)}
    correctors = {
        name: Corrector(classifier, k=ks[-1], look=preset.make()) for name, preset in looks.items()
    }
    widest = max(math.inf if gate == "none" else gate for gate in gates)

    def judge(
        images: Sequence[Labelled], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Row]:
        for image, first in zip(images, firsts, strict=True):
            first_answer = before(first, image.label, classifier, seconds)
            answers: list[tuple[str, Answer]] = []
            if first_answer.gap(5) < widest:
                for name, corrector in correctors.items():
                    [outcome] = corrector.look_again([first])
                    answers += [
                        (f"k={k} {name}", after(corrector.about(outcome, k), image.label, seconds))
                        for k in ks
                    ]
            yield image.row(first_answer, rivals=tuple(answers))

    used = [corrector.look for corrector in correctors.values()]
    asked = {"ks": ks, "gates": list(gates), "looks": list(looks)}
    settings = {"tuning": asked, **describe(classifier, data)}
    folder = None if output is None else Path(output)
    if folder and (folder / "run.json").exists() and not (folder / "tuning").exists():
        raise RunError(f"{folder} holds a run without tuning; choose another folder")
    with Run.open(folder / "tuning", settings) if folder else nullcontext() as run:
        rows = work(classifier, data, used, judge, run, on_rows)
    ways = {f"k={k} {name}": replace(looks[name], k=k) for name in looks for k in ks}
    result = _rank(rows, ways, gates, keep)
    if folder:
        result.chosen.save(folder / "tuned.json")
    return result


def _contenders(classifier: Classifier, keep: Preset) -> Iterator[Preset]:
    """Every look to try, its k and gate aside."""
    keep = replace(keep, k=None, gate=None)
    if keep.look != "poster":
        yield keep
        return
    fixed_fill = keep.variant in ("torchcam", "gradcam")
    fills = [keep.fill or "mean"] if fixed_fill else [keep.fill] if keep.fill else FILLS
    [first] = classifier.first_looks(classifier.noise())
    for fill in fills:
        if keep.attribution != "scorecam" and keep.variant is None and keep.budget is None:
            cam = replace(keep, fill=fill, attribution="cam")
            if keep.attribution == "cam" or _has_cam(classifier, first):
                yield cam
        if keep.attribution != "cam":
            scorecam = replace(keep, fill=fill, attribution="scorecam")
            yield scorecam
            channels = 0 if first.activations is None else len(first.activations)
            if keep.budget is None and channels > FAST:
                yield replace(scorecam, budget=FAST)


def _has_cam(classifier: Classifier, first: FirstLook) -> bool:
    try:
        CAM()(classifier, first, torch.tensor([0], device=first.probabilities.device))
    except ModelError:
        return False
    return True


def _name(preset: Preset) -> str:
    options = {"fill": preset.fill, "attribution": preset.attribution, "budget": preset.budget}
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    return " ".join([preset.look, *given])


def _rank(
    rows: Sequence[Row], ways: dict[str, Preset], gates: Sequence[Gate], keep: Preset
) -> Tuning:
    seen = [(row.before, row.label, dict(row.rivals)) for row in rows if row.before]
    none = Candidate(replace(keep, gate=0.0), *_count(seen, "", 0.0))
    tried = [
        Candidate(replace(preset, gate=gate), *_count(seen, name, gate))
        for name, preset in ways.items()
        for gate in gates
    ]
    best = sorted([none, *tried], key=lambda c: (c.pairing.broken - c.pairing.fixed, c.forwards))
    return Tuning(tuple(best), len(seen))


def _count(
    seen: Sequence[tuple[Answer, int, dict[str, Answer]]], name: str, gate: Gate
) -> tuple[Pairing, float]:
    """What one way fixed and broke under a gate, and its forwards an image."""
    pairing, forwards = Pairing(), 0
    for first, label, answers in seen:
        looked = gate == "none" or first.gap(5) < gate
        answer = answers[name] if looked else first
        pairing += Pairing.of(first.best == label, answer.best == label)
        forwards += answer.forwards
    return pairing, forwards / max(1, len(seen))
