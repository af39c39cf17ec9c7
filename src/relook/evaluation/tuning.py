"""Choose a look, its options, k and gate on labelled images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import torch
from numpy.typing import NDArray

from relook.arguments import Number
from relook.attribution import CAM, FAST, Context
from relook.classifier import Classifier
from relook.correction import Corrector
from relook.errors import ModelError, RelookError
from relook.evaluation.data import LabelledImages
from relook.evaluation.experiment import Experiment, Labelled, shortened
from relook.evaluation.forecast import OnForecast, forecaster, photo
from relook.evaluation.rows import FIRST, Answer, Answers, Names
from relook.evaluation.run import Run
from relook.evaluation.share import GateOfShare
from relook.evaluation.spelling import describe, describe_data, second_networks
from relook.evaluation.statistics import Pairing
from relook.evaluation.work import Rows, work
from relook.fills import FILLS
from relook.first_look import FirstLook
from relook.folder import RunError, read_settings
from relook.gate import NO_IMAGE, Gate
from relook.looks import Flip, Look, Preset
from relook.looks.presets import Budget

LOOKS = (
    *("poster", "quick", "best", "zoom", "uncropped", "whole", "larger", "flip", "symmetries"),
    "tencrop",
)
"""Looks that are tried if none is given; those that the network does not support are left out."""

KIND = "tuning"

KS = (1, 2, 3, 5)

_FIXED_FILL = ("torchcam", "gradcam")
"""Variants of Score-CAM that require one particular fill."""

GATES = tuple(Gate(below, j=2) for below in (0.25, 0.5, 0.75, 0.9))
"""Gates that are tried. They use gap(1,2), which finds unsure images for any number of classes;
gap(1,5) finds hardly any if there are few classes. There are only four, because every further
candidate makes the result of the choice more optimistic. None lets surer images pass: their answers
seldom change, and they would cost as much as all others."""


@dataclass(frozen=True)
class Candidate:
    """One combination of look, options, k and gate, and its results on the images of the choice.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> tuning = relook.tune(classifier, data, looks=["flip", "larger"], gates=[0.5])
    >>> best = tuning.candidates[0]
    >>> best.preset.look, best.pairing.fixed, best.forwards
    ('larger', 1, 1.5)

    Attributes:
        preset: the combination; its gate is 0 for no second look at all.
        pairing: number of answers that it fixed and broke.
        forwards: mean number of forward passes per image.
        cost: mean cost per image in units of one forward pass at the network's own input size.
    """

    preset: Preset
    pairing: Pairing
    forwards: float
    cost: float


@dataclass(frozen=True)
class Tuning:
    """All combinations that were tried, best first.

    The best has the highest number of fixed minus broken answers; among equals, the lowest cost.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> tuning = relook.tune(classifier, data, "run", looks=["flip", "larger"], gates=[0.5])
    >>> len(tuning.candidates), tuning.images, tuning.chosen.look
    (3, 2, 'larger')
    >>> relook.evaluation.Tuning.read("run") == tuning
    True

    Attributes:
        candidates: the combinations, at least "no second look".
        images: number of images on which the choice was made.
        left_out: what was not tried and why, one sentence each.
    """

    candidates: tuple[Candidate, ...]
    images: int
    left_out: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Tuning:
        """Read the candidates from the folder of a run that used `tune` (RUN/tuning).

        Raises:
            RunError: the folder holds no tuning, has another format, or cannot be read.
        """
        place = Path(folder) / "tuning"
        settings = read_settings(place, KIND)
        return cls.of(settings, Run(place, settings).table())

    @classmethod
    def of(cls, settings: Mapping[str, Any], table: pyarrow.Table) -> Tuning:
        """Rank all combinations under all gates.

        Args:
            settings: settings of the tuning, as in run.json.
            table: rows of the tuning.
        """
        ways = {name: Preset.of_json(way) for name, way in settings["ways"].items()}
        keep = Preset.of_json(settings["keep"])
        table = table.filter(pyarrow.compute.is_null(table["error"])).combine_chunks()
        labels, first = table["label"].to_numpy(), Answers.of(table, FIRST)
        # "No second look" needs some look that the network supports, so that its file can be used.
        look = next(iter(ways.values()), keep).look
        none = replace(keep, look=look, gate=NO_IMAGE)
        tried = [Candidate(none, *_counted(first, None, labels, NO_IMAGE))]
        for name, preset in ways.items():
            second = Answers.of(table, name).found
            for gate in map(Gate.of, settings["gates"]):
                counted = _counted(first, second, labels, gate)
                tried.append(Candidate(replace(preset, gate=gate), *counted))
        best = sorted(tried, key=lambda c: (c.pairing.broken - c.pairing.fixed, c.cost))
        return cls(tuple(best), len(labels), tuple(settings["left_out"]))

    @property
    def chosen(self) -> Preset:
        """The best combination."""
        return self.candidates[0].preset


def tune(
    classifier: Classifier,
    data: LabelledImages,
    output: str | os.PathLike[str] | None = None,
    *,
    keep: Preset | None = None,
    looks: Sequence[str] | None = None,
    gates: Sequence[Number | str | Gate] = GATES,
    exact: bool = False,
    gate_found: GateOfShare | None = None,
    on_rows: Rows | None = None,
    on_forecast: OnForecast | None = None,
) -> Tuning:
    """Choose the best of several looks with their k, gate, fill, attribution and budget.

    The gain of the best candidate on these images is optimistic, because it was chosen on them:
    measure it on others (see `LabelledImages.halves`). One second look with the largest k also
    gives the answers for every smaller k and every gate. Each image therefore gets one second look
    for each fill, attribution and budget.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> tuning = relook.tune(classifier, data, looks=["flip", "larger"], gates=[0.5])
    >>> tuning.chosen.look, str(tuning.chosen.gate)
    ('larger', 'gap(1,5) below 0.5')

    Args:
        classifier: the classifier whose answers are corrected.
        data: labelled images to choose on.
        output: folder of the run: rows in `tuning/`, resumable as in `evaluate`, and the choice in
            `tuned.json`.
        keep: the look and options that are fixed; options that are None are tried. If several looks
            are tried, an option applies to the looks that have it, and a budget only to Score-CAM.
            If the poster's look is fixed, a budget also fixes Score-CAM as the attribution.
        looks: names of the looks to try; None: the look of `keep`, or all of `LOOKS` without
            `keep`. The poster's look is tried with all options, zoom with several k, and others
            only with several gates.
        gates: gates to try, as for `Corrector`, if `keep` has none.
        exact: whether to try exact Score-CAM and all fills even if Score-CAM needs more masked
            forward passes per image (maybe thousands) than the budget, or than 64 without one. If
            not, Score-CAM is tried with that budget and one fill.
        gate_found: the gate of `keep` as found by `gate_of_share`, to be recorded in run.json.
        on_rows: called with rows as they are computed; first with those already in `output`.
        on_forecast: called once, before the first image, with the expected time and forward passes.

    Raises:
        RunError: `output` holds another run.
        RelookError: the fixed options cannot be combined, or k is out of range.
    """
    if looks is None:
        looks = LOOKS if keep is None else (keep.look,)
    keep = keep or Preset()
    several = len(looks) > 1
    if not several:
        [look] = looks
        keep = replace(keep, look=look)
    tried = [Gate.of(gate) for gate in gates] if keep.gate is None else [keep.gate]
    # Raises if the fixed options cannot be combined; if several looks are tried, checks only k.
    # Kept in a variable until the end, so that a second network is loaded only once.
    settled = Flip() if several else keep.make(classifier)
    Corrector(classifier, k=keep.k, look=settled)
    folder = None if output is None else Path(output)
    if folder and (folder / "run.json").exists() and not (folder / "tuning").exists():
        raise RunError(f"{folder} holds a run without tuning; choose another folder")
    found: list[_Contender] = []
    left_out: list[str] = []
    for look in looks:
        try:
            of_look = _of_look(keep, look) if several else keep
            found += _contenders(classifier, of_look, tried, exact, with_cam=several)
        except RelookError as error:
            if not several:
                raise
            left_out.append(f"{look}: {error}")
    left_out += _left_out_of_posters(classifier, found, keep, exact)
    names = Names(FIRST, None, tuple(name for contender in found for name in contender.ways))
    settings = {
        "kind": KIND,
        "answers": names.to_json(),
        "gates": [gate.setting for gate in tried],
        "keep": keep.to_json(),
        "ways": {n: way.to_json() for contender in found for n, way in contender.ways.items()},
        "left_out": left_out,
        **({} if gate_found is None else {"gate_of_share": gate_found.to_json()}),
        **second_networks([contender.corrector.look for contender in found]),
        **describe(classifier),
    }
    experiment = Experiment(KIND, classifier, names, found, settings)
    settings = {**settings, **describe_data(data)}

    correctors = [contender.corrector for contender in found]
    tell = forecaster(correctors, data, [tried] * len(correctors), on_forecast)
    with Run.open(folder / "tuning", settings) if folder else nullcontext() as run:
        table = work(experiment, data, run, on_rows, tell)
    result = Tuning.of(settings, table)
    if folder:
        result.chosen.save(folder / "tuned.json")
    return result


@dataclass(frozen=True)
class _Contender:
    """One second look, and the candidates whose answers follow from it.

    Attributes:
        corrector: takes the second look with the largest k.
        ways: the candidates by name, without gates: the same look with each k.
        gates: images that pass none of these get no second look.
    """

    corrector: Corrector
    ways: Mapping[str, Preset]
    gates: Sequence[Gate]

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        preset: Preset,
        ks: Sequence[int | None],
        gates: Sequence[Gate],
    ) -> _Contender:
        """Build a contender from a preset and the k to try, largest last; None is its own k."""
        corrector = Corrector(classifier, k=ks[-1], look=preset.make(classifier))
        ways = [replace(preset, k=k) for k in ks]
        return cls(corrector, {_name(way): way for way in ways}, gates)

    @property
    def looks(self) -> Sequence[Look]:
        """The corrector's look."""
        return (self.corrector.look,)

    def answers(
        self, images: Sequence[Labelled], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Mapping[str, Answer]]:
        """Yield one answer per way for each image; none if it passes no gate."""
        for image, first in zip(images, firsts, strict=True):
            if not any(gate.passes(gate.gap(first.probabilities)) for gate in self.gates):
                yield {}
                continue
            [outcome] = self.corrector.look_again([first])
            abouts = {
                name: self.corrector.about(outcome, preset.k or len(outcome.classes))
                for name, preset in self.ways.items()
            }
            yield {name: shortened(about, image.label, seconds) for name, about in abouts.items()}


def _of_look(keep: Preset, look: str) -> Preset:
    """Return the fixed options of one of several looks; a budget does not fix the attribution."""
    keep = keep.of_look(look)
    if look == "zoom" and keep.attribution is None and keep.variant is None:
        return replace(keep, budget=None)  # without an attribution, zoom uses CAM
    return keep


def _left_out_of_posters(
    classifier: Classifier, found: Sequence[_Contender], keep: Preset, exact: bool
) -> Iterator[str]:
    """Yield a sentence for each option of the poster's look that is left out to save time."""
    tried = [
        preset
        for contender in found
        for preset in contender.ways.values()
        if preset.look == "poster"
    ]
    if not tried:
        return
    budgets = {preset.budget for preset in tried if preset.attribution == "scorecam"} - {None}
    all_fills = keep.fill or keep.variant in _FIXED_FILL
    if not exact and any(_saves(classifier, budget) for budget in budgets):
        exactly = (
            f"exact Score-CAM (up to {classifier.layout.channels:,} masked forward passes for an "
            "unsure image)"
        )
        if keep.budget is None:
            others = "" if all_fills else ", nor with the fills mean and blur"
            yield f"poster with {exactly}{others}; try them with --exact (exact=True)"
        elif not all_fills:
            yield (
                "poster with Score-CAM and the fills mean and blur; try them with --exact "
                "(exact=True)"
            )
    scorecam_alone = all(preset.attribution == "scorecam" for preset in tried)
    by_budget = keep.attribution is None and keep.variant is None and keep.budget is not None
    if by_budget and scorecam_alone and _has_cam(classifier):
        yield "poster with CAM, which has no budget; to try it, do not give a budget"


def _saves(classifier: Classifier, budget: Budget | None) -> bool:
    """Whether a budget allows fewer masked forward passes than exact Score-CAM needs."""
    size = FAST if budget is None or budget == "fast" else budget
    return classifier.layout.channels > size


def _contenders(
    classifier: Classifier, keep: Preset, gates: Sequence[Gate], exact: bool, with_cam: bool
) -> Iterator[_Contender]:
    """Yield the contenders for the look of `keep`.

    `with_cam`: the poster's look is also tried with CAM if there is a budget.
    """
    settled = keep.k
    keep = replace(keep, k=None, gate=None)
    tried = KS if settled is None else (settled,)
    ks = sorted({min(k, len(classifier.labels)) for k in tried})
    if keep.look == "poster":
        for preset in _posters(classifier, keep, exact, with_cam):
            yield _Contender.of(classifier, preset, ks, gates)
        return
    # The weight of a zoom's view depends on the other views, so each k needs its own second look.
    for k in ks if keep.look == "zoom" else [settled]:
        contender = _Contender.of(classifier, keep, [k], gates)
        contender.corrector.correct(photo(classifier))  # raises if unsupported
        yield contender


def _posters(classifier: Classifier, keep: Preset, exact: bool, with_cam: bool) -> Iterator[Preset]:
    """Yield every combination of options of the poster's look, without k and gate."""
    fixed_fill = keep.variant in _FIXED_FILL
    fills = [keep.fill or "mean"] if fixed_fill else [keep.fill] if keep.fill else FILLS
    of_scorecam = keep.variant is not None or (keep.budget is not None and not with_cam)
    attributions = [keep.attribution] if keep.attribution else ["scorecam"]
    if keep.attribution is None and not of_scorecam and _has_cam(classifier):
        attributions = ["cam", "scorecam"]
    for fill in fills:
        for attribution in attributions:
            preset = replace(keep, fill=fill, attribution=attribution)
            if attribution == "cam" and keep.attribution is None:
                yield replace(preset, budget=None)
            elif attribution != "scorecam" or not _saves(classifier, keep.budget):
                yield preset
            else:
                if exact or fill == fills[0]:
                    yield replace(preset, budget=keep.budget or FAST)
                if exact and keep.budget is None:
                    yield preset


def _has_cam(classifier: Classifier) -> bool:
    [first] = classifier.first_looks(classifier.noise())
    try:
        CAM()(Context(classifier, first, torch.tensor([0])))
    except ModelError:
        return False
    return True


def _name(preset: Preset) -> str:
    options = {
        "k": preset.k,
        "fill": preset.fill,
        "attribution": preset.attribution,
        "budget": preset.budget,
    }
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    return " ".join([preset.look, *given])


def _counted(
    first: Answers,
    second: pyarrow.StructArray | None,
    labels: NDArray[Any],
    gate: Gate,
) -> tuple[Pairing, float, float]:
    """Count the answers that a way fixed and broke under a gate.

    Args:
        first: the first answers, n of them.
        second: the way's answers, null for images without a second look. None: no image has one.
        labels: the true classes, (n,).
        gate: images that do not pass it keep their first answer.

    Returns:
        The counts, and the mean forward passes and mean cost per image.
    """
    passing = first.gap(gate.j) < gate.below
    right = first.best == labels
    now, forwards, cost = right.copy(), first.column("forwards"), first.column("cost")
    if second is not None:
        own = Answers(second.filter(pyarrow.array(passing)))
        now[passing] = own.best == labels[passing]
        forwards = np.append(forwards[~passing], own.column("forwards"))
        cost = np.append(cost[~passing], own.column("cost"))
    images = max(1, len(labels))
    return Pairing.of(right, now), float(forwards.sum()) / images, float(cost.sum()) / images
