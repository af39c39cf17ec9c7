"""Every image of a labelled data set before and after a second look, and under its rivals."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from relook.classifier import Classifier, FirstLook
from relook.correction import AMBIGUOUS, Corrector, Outcome
from relook.errors import ModelError
from relook.evaluation.data import LabelledImages, read_data
from relook.evaluation.forecast import OnForecast, forecast
from relook.evaluation.rows import Answer, Row
from relook.evaluation.run import Run
from relook.evaluation.share import GateOfShare
from relook.evaluation.statistics import Method, Pairing, Statistics
from relook.evaluation.work import Labelled, Rows, work
from relook.folder import versions, write_atomically
from relook.gate import Gate
from relook.looks import Look, Preset, networks


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        settings: all that the rows depend on, as in run.json.
        labels: the classes' names.
        rows: one an image, in the order of the data.
    """

    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    rows: tuple[Row, ...]

    @cached_property
    def statistics(self) -> Statistics:
        """What the rows say."""
        return Statistics.of(self.rows)

    def summary(self) -> dict[str, Any]:
        """The object of `relook evaluate --json`."""
        counted = self.statistics
        after, ambiguous = counted.after.tally, counted.after.ambiguous
        return {
            "images": counted.before.images,
            "errors": counted.errors,
            "classes": len({row.label for row in self.rows}),
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
            "forwards": after.forwards,
            "cost": after.cost,
            "seconds": after.seconds,
        }

    def details(self) -> dict[str, Any]:
        """The summary and what it leaves out: what summary.json holds."""
        counted = self.statistics
        methods = {"second look": counted.after, **counted.rivals}
        return {
            **self.summary(),
            "corrected": counted.corrected,
            "calibration": {"ece": counted.before.ece, "brier": counted.before.mean_brier},
            "methods": {name: _details(method) for name, method in methods.items()},
        }


def evaluate(
    corrector: Corrector,
    data: LabelledImages | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    versus: Sequence[str | os.PathLike[str]] | Mapping[str, Look | Corrector] = (),
    gate_found: GateOfShare | None = None,
    on_rows: Rows | None = None,
    on_forecast: OnForecast | None = None,
) -> Evaluation:
    """Classify labelled images before and after the second look.

    An image that cannot be read or classified is a row with its error; the others are done. With
    `output` the rows are on disk within 15 seconds or an image's time, whichever is longer; the
    same call goes on where another, killed or not, left off.

    Args:
        corrector: the classifier with its second look.
        data: labelled images, or what `read_data` takes.
        output: the run's folder: run.json, rows/*.parquet and, when all is done, summary.json.
        versus: rivals, which look again at the same images (see `rivals_of`): names of looks or
            files, or, by the names they shall have, looks or correctors of the same classifier.
        gate_found: how the corrector's gate was found (`gate_of_share`), for run.json to tell.
        on_rows: told of the rows as they come.
        on_forecast: told once, before the first image, what this will take.

    Raises:
        DataError: the data cannot be used.
        RunError: `output` holds another run.
        RelookError: there is no such rival.
        ModelError: the network cannot do what a look asks of it.
    """
    classifier = corrector.classifier
    if not isinstance(data, LabelledImages):
        data = read_data(data, classifier.labels)
    rivals = rivals_of(corrector, versus)
    settings = {
        "k": corrector.k,
        "gate": corrector.gate.setting,
        **named(corrector),
        "versus": {
            name: {"k": rival.k, "gate": rival.gate.setting, **named(rival)}
            for name, rival in rivals.items()
        },
        **({} if gate_found is None else {"gate_of_share": gate_found.to_json()}),
        **describe(classifier, data),
    }

    def judge(
        images: Sequence[Labelled], firsts: Sequence[FirstLook], seconds: float
    ) -> Iterator[Row]:
        own = corrector.look_again(firsts)
        others = [rival.look_again(firsts) for rival in rivals.values()]
        for image, outcome, *rest in zip(images, own, *others, strict=True):
            named = zip(rivals, rest, strict=True)
            yield image.row(
                before(outcome.first, image.label, classifier, seconds),
                corrected=outcome.second is not None,
                after=after(outcome, image.label, seconds),
                rivals=tuple((name, after(o, image.label, seconds)) for name, o in named),
            )

    correctors = [corrector, *rivals.values()]

    def tell(left: Sequence[int]) -> None:
        expected = forecast(correctors, data, left, [[each.gate] for each in correctors])
        if expected and on_forecast:
            on_forecast(expected)

    looks = [each.look for each in correctors]
    with nullcontext() if output is None else Run.open(output, settings) as run:
        rows = work(classifier, data, looks, judge, run, on_rows, tell if on_forecast else None)
        evaluation = Evaluation(run.settings if run else settings, classifier.labels, rows)
        if run:
            summary = json.dumps(evaluation.details(), indent=2)
            write_atomically(run.folder / "summary.json", summary)
    return evaluation


def _details(method: Method) -> dict[str, Any]:
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
        "calibration": {"ece": tally.ece, "brier": tally.mean_brier},
        "forwards": tally.forwards,
        "cost": tally.cost,
        "seconds": tally.seconds,
        "notes": dict(method.notes),
    }


def _tested(pairing: Pairing) -> dict[str, Any]:
    return asdict(pairing) | {"p_value": pairing.p_value, "mid_p": pairing.mid_p}


def before(first: FirstLook, label: int, classifier: Classifier, seconds: float) -> Answer:
    """The first look's answer, in short."""
    cost = classifier.cost(*first.size)
    return Answer.of(first.probabilities, label, forwards=1, cost=cost, seconds=seconds)


def after(outcome: Outcome, label: int, seconds: float) -> Answer:
    """The corrected answer, in short; `seconds` are those of the first look."""
    return Answer.of(
        outcome.after,
        label,
        outcome.forwards,
        outcome.cost,
        seconds + outcome.seconds,
        outcome.second.notes if outcome.second else (),
    )


def describe(classifier: Classifier, data: LabelledImages) -> dict[str, Any]:
    """The network, the data and the versions as settings: what changes them changes this."""
    try:
        layer = classifier.target_layer
    except ModelError:
        layer = None
    return {
        "model": {
            **_network(classifier),
            "layer": layer,
            "labels": list(classifier.labels),
            "remarks": list(classifier.remarks),
        },
        "data": {
            "images": len(data),
            "classes": len({image.label for image in data.images}),
            "matched": data.matched,
            "pairs": data.examples,
            "left_out": data.left_out,
            "content": data.content,
        },
        "versions": versions(),
    }


def _network(classifier: Classifier) -> dict[str, Any]:
    return {
        "name": classifier.name,
        "weights": weights_digest(classifier),
        "input_size": list(classifier.input_size),
        "geometry": repr(classifier.geometry),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        "dtype": str(classifier.dtype).removeprefix("torch."),
        "device": classifier.device.type,
    }


def second_networks(looks: Iterable[Look]) -> dict[str, Any]:
    """The second networks that looks ask, as settings; of their labels a hash. Nothing where there
    are none.
    """
    found = dict.fromkeys(network for look in looks for network in networks(look))
    told = {
        str(number): {**_network(network), "labels": _digest("\0".join(network.labels))}
        for number, network in enumerate(found, 2)
    }
    return {"networks": told} if told else {}


def rivals_of(
    corrector: Corrector, versus: Sequence[str | os.PathLike[str]] | Mapping[str, Look | Corrector]
) -> dict[str, Corrector]:
    """Rivals of a corrector, with its k where they bring none of their own, and with its gate.

    They look again at the same images: a gate that a look such as "best" has of its own does not
    count here, only one that a saved file holds or that a `Corrector` has. Beside a corrector whose
    gate is 0, which looks at nothing again, they have the gate 0.5.

    Raises:
        RelookError: there is no such look, or its k is out of range.
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
        rivals[str(name)] = Corrector(corrector.classifier, k, preset.gate or gate, preset)
    return rivals


def named(corrector: Corrector) -> dict[str, Any]:
    """What a corrector's look is called, all of its options, and the second networks it asks."""
    look = corrector.look
    return {"called": corrector.called, "look": spelt(look), **second_networks([look])}


def spelt(look: Look) -> str:
    """All of a look's options; an object without a spelling of its own is named by its class."""
    return re.sub(r" object at 0x[0-9a-f]+", "", repr(look))


def weights_digest(classifier: Classifier) -> str:
    """Of the network and its weights: another for another network."""
    digest = hashlib.sha256(repr(classifier.network).encode())
    for name, tensor in classifier.network.state_dict().items():
        if isinstance(tensor, Tensor):
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(content.numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
