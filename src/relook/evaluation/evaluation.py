"""Evaluate a second look, and rival looks, on every image of a labelled data set."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow

from relook.correction import Corrector
from relook.evaluation.data import LabelledImages, read_data
from relook.evaluation.experiment import Corrected, Experiment
from relook.evaluation.rows import (
    CALIBRATED,
    FIRST,
    Names,
    Row,
    from_table,
    not_calibrated,
    schema_of,
)
from relook.evaluation.selective import Quality, qualities
from relook.evaluation.share import GateOfShare
from relook.evaluation.statistics import Method, Pairing, Statistics, Tally
from relook.evaluation.work import work
from relook.folder import folder_at, read_settings
from relook.gate import AMBIGUOUS, Gate
from relook.looks import Look, Preset
from relook.runs import OnRows, Run
from relook.runs.forecast import OnForecast, forecaster
from relook.runs.on_ray import Engine, OnRay, cluster_of
from relook.runs.spelling import describe, named, on_device
from relook.text import readable

KIND = "evaluation"


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    >>> evaluation = relook.evaluate(corrector, "photos", output="run")
    >>> evaluation.summary()["before"]
    {'top1': 0.5, 'top5': 1.0}
    >>> len(relook.Evaluation.read("run").rows)
    2

    Attributes:
        settings: everything that the rows depend on, as in run.json.
        labels: names of the classes.
        table: one row per image, in the order of the data (see `relook.evaluation.rows.schema`).
    """

    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    table: pyarrow.Table

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Evaluation:
        """Read an evaluation from its folder; an unfinished one has only the rows so far.

        Raises:
            RunError: the folder holds no evaluation, has another format, or cannot be read.
        """
        settings = read_settings(folder, KIND)
        labels = tuple(settings["model"]["labels"])
        return cls(settings, labels, Run(folder_at(folder), settings, schema_of).table())

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows as objects, one per image."""
        return tuple(from_table(self.table))

    @cached_property
    def statistics(self) -> Statistics:
        """The statistics of the rows."""
        return Statistics.of(self.table)

    @cached_property
    def qualities(self) -> dict[str, Quality]:
        """How far the probabilities of all answers can be trusted, by name."""
        return qualities(self.table)

    @property
    def risk(self) -> float | None:
        """Share of wrong answers that was asked for, between 0 and 1; None if none was."""
        found = self.settings.get("risk")
        return None if found is None else float(found)

    @property
    def name(self) -> str:
        """Name of the answers that are evaluated."""
        return str(self.settings["answers"]["main"])

    def summary(self) -> dict[str, Any]:
        """Return the results that `relook evaluate --json` prints.

        Accuracies are fractions of 1, or None without images; `forwards`, `cost` and `seconds`
        are sums over the rows. For `calibration` and `selective` see `Quality`; nll is the log
        loss. If a risk was asked for, `abstain` holds it with the share of images that were
        answered and the share of these that are wrong (None if none was answered).
        """
        counted = self.statistics
        after, ambiguous = counted.after.tally, counted.after.ambiguous
        both = {"before": self.qualities[FIRST], "after": self.qualities[self.name]}
        return {
            "images": counted.before.images,
            "errors": counted.errors,
            "classes": len(self.table["label"].unique()),
            "before": {"top1": counted.before.top1, "top5": counted.before.top5},
            "after": {"top1": after.top1, "top5": after.top5},
            "ambiguous": {
                "images": ambiguous.images,
                "before": ambiguous.before,
                "after": ambiguous.after,
                "both_right": ambiguous.both_right,
                "fixed": ambiguous.fixed,
                "broken": ambiguous.broken,
                "both_wrong": ambiguous.both_wrong,
                "p_value": ambiguous.p_value,
            },
            "calibration": {when: _calibration(quality) for when, quality in both.items()},
            "selective": {when: {"aurc": quality.aurc} for when, quality in both.items()},
            **({} if self.risk is None else {"abstain": {"risk": self.risk, **_abstained(after)}}),
            "forwards": after.forwards,
            "cost": after.cost,
            "seconds": after.seconds,
        }

    def details(self) -> dict[str, Any]:
        """Return the content of summary.json: the summary and more about each look."""
        counted = self.statistics
        methods = {self.name: counted.after, **counted.rivals}
        return {
            **self.summary(),
            "corrected": counted.corrected,
            "methods": {
                name: _details(method, self.qualities[name])
                | ({} if self.risk is None else {"abstain": _abstained(method.tally)})
                for name, method in methods.items()
            },
        }


def evaluate(
    corrector: Corrector,
    data: LabelledImages | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    versus: Sequence[str | os.PathLike[str]] | Mapping[str, Look | Corrector] = (),
    gate_found: GateOfShare | None = None,
    engine: Engine | OnRay = "local",
    ray_address: str | None = None,
    on_rows: OnRows | None = None,
    on_forecast: OnForecast | None = None,
) -> Evaluation:
    """Classify labelled images before and after the second look.

    An image that cannot be read or classified gets a row with its error, and the evaluation goes
    on. With `output`, rows are on disk within 15 seconds or the time of one image, whichever is
    longer, and a repeated call continues where an interrupted one stopped.

    >>> corrector = relook.Corrector(classifier, look="larger", gate=0.5)
    >>> evaluation = relook.evaluate(corrector, "photos", versus=["flip"])
    >>> evaluation.statistics.before.top1, evaluation.statistics.after.tally.top1
    (0.5, 1.0)
    >>> evaluation.statistics.rivals["flip"].tally.top1
    0.5

    Args:
        corrector: the classifier with its second look.
        data: labelled images, or a path for `read_data`.
        output: folder of the run: run.json, rows/*.parquet and, at the end, summary.json.
        versus: rivals, which take a second look at the same images (see `rivals_of`): names or
            files of looks, or a mapping from names to looks or to correctors of the same
            classifier.
        gate_found: the gate as found by `gate_of_share`, to be recorded in run.json.
        engine: "local": this process classifies the images; "ray": the workers of a Ray cluster do
            (see `relook.runs.on_ray`), with the same rows. The cluster itself, if the caller is
            connected to it, can be given instead.
        ray_address: address of the cluster, such as "head-node:6379"; None starts one on this
            machine, which ends with the evaluation.
        on_rows: called with tables of rows as they are computed; first with those that `output`
            already holds.
        on_forecast: called once, before the first image, with the expected time and forward passes;
            not for the engine ray.

    Raises:
        DataError: the data cannot be used.
        RunError: `output` holds another run.
        RelookError: a rival is unknown, or the cluster cannot be used.
        ModelError: the network lacks something that a look needs, such as a target layer.
    """
    if not isinstance(data, LabelledImages):
        data = read_data(data, corrector.classifier.labels)
    rivals = rivals_of(corrector, versus)
    experiment = experiment_of(corrector, rivals, gate_found)
    settings = {**experiment.settings, **data.described()}

    correctors = [corrector, *rivals.values()]
    tell = forecaster(correctors, [[each.gate] for each in correctors], on_forecast)
    with ExitStack() as stack:
        cluster = stack.enter_context(cluster_of(engine, ray_address, corrector.classifier))
        if cluster:
            settings = on_device(settings, cluster.device)
        run = None
        if output is not None:
            run = stack.enter_context(Run.open(output, settings, schema_of))
        table = work(experiment, data, run, on_rows, tell, cluster)
        found = run.settings if run else settings
        evaluation = Evaluation(found, corrector.classifier.labels, table)
        if run:
            run.folder.write("summary.json", json.dumps(evaluation.details(), indent=2))
    return evaluation


def experiment_of(
    corrector: Corrector,
    rivals: Mapping[str, Corrector],
    gate_found: GateOfShare | None = None,
) -> Experiment:
    """Return the experiment of an evaluation, which runs a corrector and its rivals.

    >>> rivals = relook.evaluation.rivals_of(corrector, ["larger"])
    >>> experiment = relook.evaluation.experiment_of(corrector, rivals)
    >>> list(experiment.names)
    ['first look', 'flip', 'larger']

    Args:
        corrector: the corrector to evaluate.
        rivals: correctors to compare it with, by name (see `rivals_of`).
        gate_found: the gate as found by `gate_of_share`, to be recorded in run.json.
    """
    settings = named(corrector)
    name = str(corrector.called or settings["look"]["kind"])
    while name in rivals or name == FIRST:
        name += " (this run)"
    learnt = corrector.learnt
    derived = () if learnt is None else (CALIBRATED, not_calibrated(name))
    names = Names(FIRST, name, (*rivals, *derived))
    return Experiment(
        KIND,
        corrector.classifier,
        names,
        [
            Corrected(name, corrector, tells_apart=True),
            *(Corrected(rival, each) for rival, each in rivals.items()),
        ],
        {
            "kind": KIND,
            "answers": names.to_json(),
            **settings,
            **({} if corrector.risk is None else {"risk": corrector.risk}),
            "versus": {rival: named(each) for rival, each in rivals.items()},
            **({} if gate_found is None else {"gate_of_share": gate_found.to_json()}),
            **describe(corrector.classifier),
        },
    )


def _details(method: Method, quality: Quality) -> dict[str, Any]:
    tally, pairing = method.tally, method.pairing
    return {
        "top1": tally.top1,
        "top5": tally.top5,
        "gain": pairing.gain,
        "interval": pairing.interval,
        "verdict": pairing.verdict,
        "all": _tested(pairing) | {"images_needed": pairing.images_needed},
        "ambiguous": _tested(method.ambiguous),
        "against_second_look": _tested(method.against),
        "calibration": _calibration(quality),
        "selective": {"aurc": quality.aurc},
        "forwards": tally.forwards,
        "cost": tally.cost,
        "seconds": tally.seconds,
        "notes": dict(method.notes),
    }


def _calibration(quality: Quality) -> dict[str, float | None]:
    return {
        "ece": quality.ece,
        "ece_equal_mass": quality.ece_equal_mass,
        "nll": quality.log_loss,
        "brier": quality.brier,
    }


def _abstained(tally: Tally) -> dict[str, float | None]:
    return {"coverage": tally.coverage, "wrong": tally.risk}


def _tested(pairing: Pairing) -> dict[str, Any]:
    return asdict(pairing) | {"p_value": pairing.p_value, "mid_p": pairing.mid_p}


def rivals_of(
    corrector: Corrector, versus: Sequence[str | os.PathLike[str]] | Mapping[str, Look | Corrector]
) -> dict[str, Corrector]:
    """Return correctors for rival looks, by name.

    A rival has its look's own k, or else the corrector's. Its gate is the corrector's, so that all
    take a second look at the same images; only a gate in a saved file or of a `Corrector` is kept,
    not the default gate of a look such as "best". If the corrector's gate is 0, so that no image
    gets a second look, the rivals' gate is 0.5.

    >>> rivals = relook.evaluation.rivals_of(corrector, ["larger", "tencrop"])
    >>> list(rivals), rivals["larger"].k == corrector.k
    (['larger', 'tencrop'], True)

    Raises:
        RelookError: a look is unknown, or its k is out of range.
        ModelError: a look needs a target layer and the classifier has none.
    """
    gate = corrector.gate if corrector.gate.below else Gate(AMBIGUOUS)
    if isinstance(versus, Mapping):
        return {
            name: rival
            if isinstance(rival, Corrector)
            else Corrector(corrector.classifier, corrector.k, gate, rival)
            for name, rival in versus.items()
        }
    rivals = {}
    for name in [versus] if isinstance(versus, str | os.PathLike) else versus:
        preset = Preset.of(name)
        k = preset.k_or(corrector.k)
        rivals[readable(name)] = Corrector(corrector.classifier, k, preset.gate or gate, preset)
    return rivals
