"""Learn from labelled images: which views to ask, their weights, the gate, and a temperature."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from relook.arguments import Number, real_number
from relook.attribution import CAM, FAST, Context
from relook.calibration import Abstention, Confidence
from relook.cascade import forward_cost
from relook.classifier import Classifier
from relook.correction import AMBIGUOUS, Corrector, Outcome
from relook.digest import labels_digest
from relook.errors import ModelError, RelookError
from relook.evaluation.data import LabelledImages
from relook.evaluation.experiment import Experiment
from relook.evaluation.learning import Kept, Lesson, Way, learn
from relook.evaluation.rows import FIRST, Answer, Asked, Names, schema_of
from relook.evaluation.share import GateOfShare
from relook.evaluation.statistics import Pairing
from relook.evaluation.work import work
from relook.fills import FILLS
from relook.first_look import FirstLook
from relook.folder import RunError, read_settings, write_atomically
from relook.gate import EVERY_IMAGE, Gate
from relook.looks import Learnt, Look, Part, Preset
from relook.looks.presets import SUMS, Budget
from relook.runs import Item, OnRows, Run
from relook.runs.forecast import OnForecast, forecaster, photo
from relook.runs.on_ray import Engine, OnRay, cluster_of
from relook.runs.spelling import describe, on_device, second_networks

PRESET = "best"
"""The look that others have to beat, unless one is given."""

LOOKS = ("around", "closer", "whole", "uncropped", "flip", "larger")
"""Looks whose views are asked if none is given; those that the network does not support are left
out."""

KIND = "tuning"

KS = (1, 2, 3, 5)

_FIXED_FILL = ("torchcam", "gradcam")
"""Variants of Score-CAM that require one particular fill."""

GATES = tuple(Gate(below, j=2) for below in (0.25, 0.4, 0.5, 0.75, 0.9))
"""Gates that are tried, and every image if a cost is given that allows it. They use gap(1,2), which
finds unsure images for any number of classes; gap(1,5) finds hardly any if there are few."""

_CHOICE = "choice.json"


@dataclass(frozen=True)
class Candidate:
    """One weighted sum of looks under a gate, and its cross-validated results.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> tuning = relook.tune(classifier, data, looks=["flip", "larger"], gates=[0.5])
    >>> best = tuning.candidates[0]
    >>> best.preset.describe(), best.pairing.fixed, best.cost
    ('tuned: flip 1, gate 0.5', 0, 1.5)

    Attributes:
        preset: the sum; its gate is 0 for no second look at all.
        pairing: number of answers that it fixed and broke, against the first look.
        cost: mean cost per image in units of one forward pass at the network's own input size.
        log_loss: mean log loss after one temperature. Weights and temperature are learnt without
            the image that they are applied to.
        sure: gain in log loss over the preset, in standard errors of that gain.
        learnt: whether the weights were learnt; False for those of a preset or of a single look.
    """

    preset: Preset
    pairing: Pairing
    cost: float
    log_loss: float
    sure: float
    learnt: bool


@dataclass(frozen=True)
class Tuning:
    """What was learnt, and all that was tried.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> tuning = relook.tune(classifier, data, "run", looks=["flip", "larger"], gates=[0.5])
    >>> tuning.images, tuning.chosen.look, tuning.chosen.learnt.parts[0].weight
    (2, 'flip', 1.0)
    >>> relook.evaluation.Tuning.read("run") == tuning
    True

    Attributes:
        chosen: the look with all that was learnt; `relook.Corrector` takes it, and the file that
            it is saved to.
        candidates: what was tried, the chosen one first, the others by log loss.
        images: number of images that were learnt from.
        left_out: what was not tried and why, one sentence each.
        fell_back: whether the preset costs too much, so that a cheaper form of it took its place.
    """

    chosen: Preset
    candidates: tuple[Candidate, ...]
    images: int
    left_out: tuple[str, ...] = ()
    fell_back: bool = False

    @property
    def why(self) -> str:
        """Why this was chosen, in words."""
        sure = self.candidates[0].sure
        than = "the cheaper form of the preset" if self.fell_back else "the preset"
        if sure:
            return f"better than {than} by {sure:.1f} standard errors of the log loss"
        if self.fell_back:
            return "the preset costs more than may be spent, and this is a cheaper form of it"
        return "the preset, since nothing else was better beyond chance"

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Tuning:
        """Read the choice from the folder of a run that used `tune` (RUN/tuning).

        Raises:
            RunError: the folder holds no finished tuning, has another format, or cannot be read.
        """
        place = Path(folder) / "tuning"
        read_settings(place, KIND)
        try:
            found = json.loads((place / _CHOICE).read_text(encoding="utf-8"))
            return cls(
                Preset.of_json(found["chosen"]),
                tuple(
                    Candidate(
                        **{
                            **each,
                            "preset": Preset.of_json(each["preset"]),
                            "pairing": Pairing(**each["pairing"]),
                        }
                    )
                    for each in found["candidates"]
                ),
                found["images"],
                tuple(found["left_out"]),
                found["fell_back"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{place / _CHOICE}: cannot be read ({error}); finish the tuning with the same "
                "command"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON values."""
        candidates = [{**asdict(each), "preset": each.preset.to_json()} for each in self.candidates]
        return {
            "chosen": self.chosen.to_json(),
            "candidates": candidates,
            "images": self.images,
            "left_out": list(self.left_out),
            "fell_back": self.fell_back,
        }


def tune(
    classifier: Classifier,
    data: LabelledImages,
    output: str | os.PathLike[str] | None = None,
    *,
    keep: Preset | None = None,
    looks: Sequence[str] | None = None,
    gates: Sequence[Number | str | Gate] | None = None,
    exact: bool = False,
    max_cost: Number | None = None,
    risk: Number | None = None,
    gate_found: GateOfShare | None = None,
    engine: Engine | OnRay = "local",
    ray_address: str | None = None,
    on_rows: OnRows | None = None,
    on_forecast: OnForecast | None = None,
) -> Tuning:
    """Learn the weights of views, a gate, a temperature and, for a risk, when not to answer.

    Each view is asked once per image, whatever the number of ways that are tried: the answers of
    every weighted sum follow from those. A way other than the preset is taken only if
    cross-validation shows that it is better (see `relook.evaluation.learning.learn`); with few
    images the answer is the preset, calibrated.

    Measure what was learnt on other images (see `LabelledImages.halves`).

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> tuning = relook.tune(classifier, data, looks=["flip", "larger"], gates=[0.5])
    >>> tuning.chosen.look, str(tuning.chosen.gate)
    ('flip', 'gap(1,5) below 0.5')

    Args:
        classifier: the classifier whose answers are corrected.
        data: labelled images to learn from.
        output: folder of the run: rows in `tuning/`, resumable as in `evaluate`, and what was
            learnt in `tuned.json`.
        keep: the preset that others have to beat, with options that are fixed; options that are
            None are tried for the poster's look and zoom. None: "best".
        looks: names of the looks whose views are asked, the first of which is the preset if there
            is no `keep`; None: those of `keep`, or all of `LOOKS` without `keep`.
        gates: gates to try, as for `Corrector`, if `keep` has none; None: `GATES`.
        exact: whether to try exact Score-CAM and all fills even if Score-CAM needs more masked
            forward passes per image (maybe thousands) than the budget, or than 64 without one. If
            not, Score-CAM is tried with that budget and one fill.
        max_cost: maximum of the mean cost per image, in forward passes at the network's own input
            size; None: the preset's.
        risk: share of wrong answers allowed among those that are given, above 0 and below 1; None:
            all are given. Two thirds of the images are then kept for the threshold.
        gate_found: the gate of `keep` as found by `gate_of_share`, to be recorded in run.json.
        engine: where the images are classified, as for `evaluate`.
        ray_address: address of the cluster, as for `evaluate`.
        on_rows: called with rows as they are computed; first with those already in `output`.
        on_forecast: called once, before the first image, with the expected time and forward passes.

    Raises:
        RunError: `output` holds another run.
        RelookError: the fixed options cannot be combined, or a number is out of range.
    """
    most = None if max_cost is None else real_number(max_cost, "max_cost")
    if most is not None and not most >= 1:
        raise RelookError(
            f"max_cost must be at least 1, the cost of the first look alone, not {most}"
        )
    if risk is not None:
        risk = Abstention(real_number(risk, "risk"), Confidence(), None, 0.0).risk
    if keep is None:
        keep = Preset(PRESET if looks is None else looks[0])
        looks = LOOKS if looks is None else looks
    if keep.learnt is not None:
        raise RelookError("a tuned look cannot be tuned again; give the name of a look")
    base = _parts_of(keep.look)
    pool = tuple(
        dict.fromkeys([*base, *(part for look in looks or () for part in _parts_of(look))])
    )
    tried = _gates(keep, gates, most)
    # Raises if the fixed options cannot be combined. Kept in a variable until the end, so that a
    # second network is loaded only once.
    settled = keep.make(classifier)
    most_classes = keep.k_or(min(5, len(classifier.labels)))
    preset = Corrector(classifier, k=most_classes, look=settled)
    folder = None if output is None else Path(output)
    if folder and (folder / "run.json").exists() and not (folder / "tuning").exists():
        raise RunError(f"{folder} holds a run without tuning; choose another folder")
    found: list[_Contender] = []
    left_out: list[str] = []
    for look in pool:
        try:
            found += _contenders(classifier, _of_look(keep, look), tried, exact, len(pool) > 1)
        except RelookError as error:
            if len(pool) == 1:
                raise
            left_out.append(f"{look}: {error}")
    if not found:
        raise RelookError(f"the network supports none of the looks: {'; '.join(left_out)}")
    left_out += _left_out_of_posters(classifier, found, keep, exact)
    ways = {name: way for contender in found for name, way in contender.ways.items()}
    names = Names(FIRST, None, tuple(ways))
    settings = {
        "kind": KIND,
        "answers": names.to_json(),
        "gates": [gate.setting for gate in tried],
        "keep": keep.to_json(),
        "ways": {name: way.to_json() for name, way in ways.items()},
        "left_out": left_out,
        "max_cost": most,
        "risk": risk,
        **({} if gate_found is None else {"gate_of_share": gate_found.to_json()}),
        **second_networks([contender.corrector.look for contender in found]),
        **describe(classifier),
    }
    experiment = Experiment(KIND, classifier, names, found, settings, keeps_views=True)
    settings = {**settings, **data.described()}

    correctors = [contender.corrector for contender in found]
    tell = forecaster(correctors, [tried] * len(correctors), on_forecast)
    with ExitStack() as stack:
        cluster = stack.enter_context(cluster_of(engine, ray_address, classifier))
        if cluster:
            settings = on_device(settings, cluster.device)
        run = None
        if folder:
            run = stack.enter_context(Run.open(folder / "tuning", settings, schema_of))
        table = work(experiment, data, run, on_rows, tell, cluster)
        errors = table.filter(table["error"].is_valid())["error"].to_pylist()
        if len(errors) == len(table):
            raise RelookError(
                f"none of the {len(table):,} images to learn from could be used; the first: "
                f"{errors[0] if errors else 'there is none'}"
            )
        kept = Kept.of(table, list(ways))
        in_turn = keep.look in SUMS
        presets = list(_presets(base, ways, tried, keep, preset.k, in_turn))
        lesson = learn(kept, presets, tried, most, risk)
        made_on = {
            "model": classifier.name,
            "weights": settings["model"]["weights"],
            "labels": labels_digest(classifier),
            "data": settings["data"],
            "images": len(kept),
            "versions": settings["versions"],
        }
        result = _result(lesson, list(ways.values()), preset.k, made_on, len(kept), left_out)
        if folder:
            choice = json.dumps(result.to_json(), indent=2, ensure_ascii=False)
            write_atomically(folder / "tuning" / _CHOICE, choice)
            result.chosen.save(folder / "tuned.json")
    return result


def _parts_of(look: str) -> dict[str, float]:
    """The looks whose views a look sums, with their weights."""
    found: dict[str, float] = {}
    for part in look.split("+"):
        for name, weight in SUMS.get(part, {part: 1.0}).items():
            found[name] = found.get(name, 0.0) + weight
    return found


def _gates(
    keep: Preset, gates: Sequence[Number | str | Gate] | None, max_cost: float | None
) -> list[Gate]:
    """The gates to try: the preset's own first."""
    if keep.gate is not None:
        return [keep.gate]
    if gates is not None:
        return [Gate.of(gate) for gate in gates]
    every = () if max_cost is None else (EVERY_IMAGE,)
    return list(dict.fromkeys((keep.gate_or(Gate(AMBIGUOUS)), *GATES, *every)))


def _presets(
    base: Mapping[str, float],
    ways: Mapping[str, Preset],
    gates: Sequence[Gate],
    keep: Preset,
    k: int,
    in_turn: bool,
) -> Iterator[Way]:
    """The preset, and cheaper forms of it: smaller gates, then only its first look."""
    places = list(ways.values())
    parts = []
    for look, weight in base.items():
        own = [place for place, way in enumerate(places) if way.look == look]
        # Of several k, the largest that is not above the preset's.
        fitting = [place for place in own if (places[place].k or k) <= k] or own
        # Of several methods for the maps, the default one.
        if keep.attribution is None:
            default = [p for p in fitting if places[p].attribution in (None, "scorecam")]
            fitting = default or fitting
        if fitting:
            most = max(places[place].k or 0 for place in fitting)
            parts.append((next(p for p in fitting if (places[p].k or 0) == most), weight))
    first, *others = gates
    smaller = sorted(others, key=lambda gate: -gate.below)
    smaller = [gate for gate in smaller if gate.j == first.j and gate.below < first.below]
    for some in (tuple(parts), tuple(parts[:1])):
        for gate in (first, *smaller):
            yield Way(some, gate, in_turn)


def _result(
    lesson: Lesson,
    ways: Sequence[Preset],
    k: int,
    made_on: Mapping[str, Any],
    images: int,
    left_out: Sequence[str],
) -> Tuning:
    """Spell out what was learnt."""

    def preset(way: Way) -> Preset:
        parts = tuple(
            Part(
                look=ways[place].look,
                weight=weight,
                k=ways[place].k_or(k),
                **ways[place].options,
            )
            for place, weight in way.parts
        )
        look = "+".join(dict.fromkeys(part.look for part in parts)) or ways[0].look
        return Preset(look, gate=way.gate, learnt=Learnt(parts, way.in_turn, way.gate))

    chosen = preset(lesson.way)
    assert chosen.learnt is not None
    learnt = replace(chosen.learnt, after=lesson.after, first=lesson.first, made_on=made_on)
    candidates = tuple(
        Candidate(
            preset(one.way),
            one.pairing,
            one.cost,
            one.log_loss,
            one.sure,
            one.learnt is not None,
        )
        for one in lesson.tried
    )
    return Tuning(
        replace(chosen, learnt=learnt), candidates, images, tuple(left_out), lesson.fell_back
    )


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
        self, images: Sequence[Item], firsts: Sequence[FirstLook], seconds: float
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
            yield {name: self._kept(about, image.label, seconds) for name, about in abouts.items()}

    def _kept(self, outcome: Outcome, label: int, seconds: float) -> Answer:
        """Keep the answers to the views; forwards and cost are those of the second look alone."""
        classifier = self.corrector.classifier
        first = outcome.first
        second = outcome.second
        assert second is not None, "the contender has no gate"
        weights: list[float] = []
        costs: list[float] = []
        for views in second.asked:
            if not len(views.weights):
                continue
            if not (views.weights == views.weights[:, :1]).all():
                raise RelookError(
                    "a look whose weights differ between classes cannot be part of a learnt sum"
                )
            weights += views.weights[:, 0].tolist()
            network = views.by or classifier
            each = network.cost(*views.pixels.shape[-2:]) * forward_cost(network, classifier)
            costs += [each] * len(views.pixels)
        answers = [first.probabilities[:0].reshape(0, len(first.probabilities))]
        return Answer.of(
            outcome.raw,
            label,
            outcome.forwards - 1,
            outcome.cost - classifier.cost(*first.size),
            seconds + outcome.seconds,
            True,
            second.notes,
            asked=Asked.of(
                torch.cat([*answers, *outcome.view_answers]),
                weights,
                costs,
                [len(views.pixels) for views in second.asked if len(views.pixels)],
            ),
        )


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
    own = keep.k_or(min(5, len(classifier.labels))) if settled is None else settled
    for k in ks if keep.look == "zoom" else [own]:
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
