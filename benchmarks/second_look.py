"""Study which second looks help, on which data and at what cost, to choose the presets.

    python benchmarks/trained.py DATA         # first: train four networks
    python benchmarks/second_look.py DATA [--output FOLDER] [--chart FILE] [--only TEXT]

DATA holds photos/, nips17/, val227/, trash/, rsscn7/, cifar10/ and weights/. For every image whose
gap(1,2) is below 0.5, each view is run once; the answer of any sum of views follows from these. The
answers of one network on one data set are kept in a file, so that a stopped study can be continued
with the same command. Prints Markdown.

A look is judged by its mean gain and by its worst kind of data. Each kind counts once, whatever
the number of its images or networks; full-size photos make up one half of the mean, all other kinds
the other. The images of every data set are split into two halves, class by class: looks are ranked
on the first, and the second shows what the ranking is worth.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from scipy.stats import binomtest
from torch import Tensor

import relook
from relook.attribution import CAM, Activity, Context
from relook.cascade import forward_cost
from relook.classifier import Classifier
from relook.correction import AMBIGUOUS, settled
from relook.evaluation import LabelledImages, Pairing, read_data
from relook.first_look import FirstLook
from relook.looks import (
    Crops,
    Ends,
    Flip,
    Larger,
    Look,
    Mask,
    Mirrored,
    Symmetries,
    Uncropped,
    Whole,
    Zoom,
)
from relook.words import points, significance

sys.path.insert(0, str(Path(__file__).parents[1]))  # for examples

RESULTS = Path(__file__).parent / "results"
ASKED_BELOW = 0.5
"""Upper limit of gap(1,2): no views are run on surer images."""
GATE = 0.4
"""Upper limit of gap(1,2) in the gate of the presets."""
BATCH = 24

PARTS = ("index", "added", "weight", "cost")
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Picked = Callable[["Study"], Flags]


@dataclass(frozen=True)
class Pair:
    """A network and images it was not trained on (except `photos`: see docs/second-look.md)."""

    name: str
    kind: str
    model: str
    images: str
    checkpoint: str | None = None
    limit: int | None = None
    full_size: bool = False


LITE = "bundled/efficientnet_lite"
PAIRS = (
    *(
        Pair(f"Lite{n}, photos", "photos", f"{LITE}{n}", "photos/labels.csv", full_size=True)
        for n in (0, 1, 2)
    ),
    Pair("Lite0 of one size, photos", "photos", "fixed", "photos/labels.csv", full_size=True),
    Pair("Lite0, trash", "trash", f"{LITE}0", "trash/test", "trained/trash", full_size=True),
    *(Pair(f"Lite{n}, nips17", "nips17", f"{LITE}{n}", "nips17/labels.csv") for n in (0, 1, 2)),
    *(Pair(f"Lite{n}, val227", "val227", f"{LITE}{n}", "val227/labels.csv") for n in (0, 1, 2)),
    *(
        Pair(
            f"ResNet-{depth}, cifar10",
            "cifar10",
            f"examples.cifar_resnet:resnet{depth}",
            "cifar10",
            f"weights/cifar10_resnet{depth}",
        )
        for depth in (20, 32, 56)
    ),
    Pair("Lite0, rsscn7", "rsscn7", f"{LITE}0", "rsscn7/test", "trained/rsscn7"),
    Pair("Lite0, elpv", "elpv", f"{LITE}0", "trained/elpv", "trained/elpv", limit=600),
    Pair(
        "ResNet-20, fashion", "fashion", "trained:fashion", "trained/fashion", "trained/fashion",
        limit=3000,
    ),
)  # fmt: skip


CLOSER = Zoom(CAM(Activity()), 0.3, magnification=1.25, joint=True, weights="doubt", required=False)
SINGLES: dict[str, tuple[int, Look]] = {
    "flip": (1, Flip()),
    "whole": (1, Whole()),
    "whole, mirrored": (1, Mirrored(Whole(), alone=True)),
    "larger": (1, Larger(required=False)),
    "larger, mirrored": (1, Mirrored(Larger(required=False), alone=True)),
    "uncropped": (1, Uncropped()),
    "uncropped, mirrored": (1, Mirrored(Uncropped(), alone=True)),
    "uncropped, smaller": (1, Uncropped(scale=0.875)),
    "uncropped, larger": (1, Uncropped(scale=1.125, most=3.0)),
    "ends": (1, Ends()),
    "ends, mirrored": (1, Mirrored(Ends(), alone=True)),
    "closer": (2, CLOSER),
    "closer, mirrored": (2, Mirrored(CLOSER, alone=True)),
    "closer, at 0.4": (2, replace(CLOSER, threshold=0.4)),
    "closer, without limit": (2, replace(CLOSER, magnification=math.inf)),
    "closer, at activity": (1, replace(CLOSER, attribution=Activity())),
    "fivecrop": (1, Crops()),
    "tencrop": (1, Crops(flip=True)),
    "rotations": (1, Symmetries()),
    "symmetries": (1, Symmetries(mirrored=True)),
    "poster, maps from CAM": (5, Mask(CAM(Activity()))),
}
"""Single looks run on each image, with their k: one view, or several that belong together."""

AROUND = "uncropped, mirrored|whole, mirrored|flip"
"""The first view of the presets. In these names, | separates alternatives, of which the first that
an image has is used. A weight follows a colon; with a * it multiplies the view's own weight."""
SUMS: dict[str, tuple[str, ...]] = {
    "quick": (AROUND, "whole:0.5"),
    "best": (f"{AROUND}:0.75", "closer:*0.75", "whole:0.375", "uncropped:0.75"),
    "quick before": ("whole|flip", "whole, mirrored"),
    "best before": ("whole|flip", "whole, mirrored", "larger", "larger, mirrored", "closer"),
    "quick, whole weighs 1": (AROUND, "whole"),
    "quick + closer": (AROUND, "whole:0.5", "closer"),
    "best, full weights": (AROUND, "closer", "whole:0.5", "uncropped"),
    "best, full weights, also of whole": (AROUND, "closer", "whole", "uncropped"),
    "best, half of the weights": (f"{AROUND}:0.5", "closer:*0.5", "whole:0.25", "uncropped:0.5"),
    "best without closer": (f"{AROUND}:0.75", "whole:0.375", "uncropped:0.75"),
    "best without whole": (f"{AROUND}:0.75", "closer:*0.75", "uncropped:0.75"),
    "best + ends": (f"{AROUND}:0.75", "closer:*0.75", "whole:0.375", "uncropped:0.75", "ends:0.75"),
    "best + flip": (f"{AROUND}:0.75", "closer:*0.75", "whole:0.375", "uncropped:0.75", "flip:0.75"),
    "uncropped, and mirrored": ("uncropped|whole", AROUND),
    "uncropped, mirrored, + closer": (AROUND, "closer"),
    "uncropped, mirrored, + flip": ("uncropped, mirrored|whole, mirrored", "flip"),
    "uncropped + closer": ("uncropped|whole|flip", "closer"),
    "ends, mirrored, + closer": (f"ends, mirrored|{AROUND}", "closer"),
    "flip + whole": ("flip", "whole"),
}
POOL = ("flip", "whole", "whole, mirrored", "larger", "larger, mirrored", "uncropped", AROUND,
        "ends", "ends, mirrored", "closer", "closer, mirrored")  # fmt: skip
"""All sums of up to four of these views are ranked too."""
SHOWN = (
    *("poster, maps from CAM", "flip", "tencrop", "quick before", "best before", "quick", "best"),
)
AGAINST = (("best", "flip"), ("best", "tencrop"), ("quick", "flip"), ("quick", "tencrop"),
           ("best", "quick"), ("best", "best before"))  # fmt: skip


def fixed(folder: Path) -> Path:
    """EfficientNet-Lite0 as an ONNX graph that accepts only 224×224."""
    file = folder / "lite0.onnx"
    if not file.exists():
        relook.export(relook.load(f"{LITE}0"), file)
    return file


def load(pair: Pair, data: Path, folder: Path) -> tuple[Classifier, LabelledImages]:
    checkpoint = None
    if pair.checkpoint is not None:
        checkpoint = _place(pair.checkpoint, data).with_suffix(".safetensors")
    model = str(fixed(folder)) if pair.model == "fixed" else pair.model
    classifier = relook.load(model, checkpoint=checkpoint)
    images = read_data(_place(pair.images, data), classifier.labels)
    return classifier, images if pair.limit is None else images.sample(pair.limit)


def _place(path: str, data: Path) -> Path:
    return (RESULTS if path.startswith("trained/") else data) / path


@dataclass(frozen=True)
class Asked:
    """The answers of one single look, for the images that it has views of.

    Attributes:
        index: indices of these images among all images.
        added: sum of w ⊙ f(view) over its views, divided by the weight.
        weight: total weight of its views.
        cost: cost of its views, in forward passes at the network's own input size.
    """

    index: npt.NDArray[np.int64]
    added: Floats
    weight: Floats
    cost: Floats

    def where(self, chosen: Flags) -> Asked:
        """The answers for some of the images."""
        return Asked(self.index[chosen], self.added[chosen], self.weight[chosen], self.cost[chosen])

    @classmethod
    def together(cls, some: Sequence[Asked]) -> Asked:
        """Join answers for different images."""
        return cls(*(np.concatenate([getattr(a, part) for a in some]) for part in PARTS))


@dataclass(frozen=True)
class Study:
    """All answers of one pair of network and images.

    Attributes:
        pair: the network and the images.
        names, labels: names and labels of the images.
        half: whether an image is in the half that looks are ranked on.
        first: Y of every image.
        asked: the answers of each single look.
    """

    pair: Pair
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    half: Flags
    first: Floats
    asked: dict[str, Asked]

    @cached_property
    def gaps(self) -> tuple[Floats, Floats]:
        """gap(1,2) and gap(1,5) of every image."""
        top = -np.sort(-self.first, axis=1)
        return top[:, 0] - top[:, 1], top[:, 0] - top[:, min(5, top.shape[1]) - 1]

    def unsure(self) -> Flags:
        """Whether the presets take a second look at an image."""
        unsure: Flags = self.gaps[0] < GATE
        return unsure

    def ambiguous(self) -> Flags:
        """Whether an image is ambiguous: gap(1,5) < 0.5."""
        ambiguous: Flags = self.gaps[1] < AMBIGUOUS
        return ambiguous

    def right(self, answers: Floats) -> Flags:
        """Whether each answer is the label."""
        right: Flags = answers.argmax(axis=1) == self.labels
        return right

    def views(self, look: str) -> list[Asked]:
        """The parts of a look, in order."""
        parts = []
        for part in SUMS.get(look, tuple(look.split(" & "))):
            names, _, weight = part.partition(":")
            found = self._first_of(tuple(names.split("|")))
            if weight.startswith("*"):
                found = replace(found, weight=found.weight * np.float32(weight[1:]))
            elif weight:
                found = replace(found, weight=np.full_like(found.weight, float(weight)))
            parts.append(found)
        return parts

    def _first_of(self, names: Sequence[str]) -> Asked:
        """For each image, the first of several single looks that has views of it."""
        taken = np.zeros(len(self.labels), bool)
        chosen = []
        for name in names:
            asked = self.asked[name]
            new = ~taken[asked.index]
            taken[asked.index] = True
            chosen.append(asked.where(new))
        return chosen[0] if len(chosen) == 1 else Asked.together(chosen)

    def answers(self, look: str, merge: str = "mean") -> tuple[Floats, Floats]:
        """Y + R of every image, and its cost if it gets the second look."""
        total, cost = _merged(self.first, merge), np.ones(len(self.labels), np.float32)
        for part in self.views(look):
            total[part.index] += part.weight[:, None] * _merged(part.added, merge)
            cost[part.index] += part.cost
        return total, cost

    def pairing(
        self, look: str, chosen: Flags | None = None, merge: str = "mean", than: str = ""
    ) -> Pairing:
        """Right before and after, on the chosen images (by default those in the presets' gate)."""
        chosen = self.unsure() if chosen is None else chosen
        before = self.right(self.answers(than)[0] if than else self.first)[chosen]
        after = self.right(self.answers(look, merge)[0])[chosen]
        return _pairing(before, after)

    def cost(self, look: str, chosen: Flags | None = None) -> float:
        """Mean cost of the chosen images (by default those in the presets' gate)."""
        chosen = self.unsure() if chosen is None else chosen
        return float(self.answers(look)[1][chosen].mean()) if chosen.any() else 1.0


def _merged(answers: Floats, merge: str) -> Floats:
    """What is added up: probabilities, their logarithms, or probabilities × confidence."""
    if merge == "mean":
        return answers.copy()
    if merge == "geometric":
        logarithms: Floats = np.log(answers + 1e-6)
        return logarithms
    entropy = -(answers * np.log(answers + 1e-9)).sum(axis=1) / np.log(answers.shape[1])
    weighted: Floats = answers * (1 - entropy)[:, None]
    return weighted


def _pairing(before: Flags, after: Flags) -> Pairing:
    return Pairing(
        int((before & after).sum()),
        int((~before & after).sum()),
        int((before & ~after).sum()),
        int((~before & ~after).sum()),
    )


def ask(pair: Pair, data: Path, folder: Path) -> Study:
    """Run every view of every unsure image once, or read the answers from the pair's file."""
    file = folder / f"{pair.name.replace(', ', '-').replace(' ', '-')}.npz"
    if not file.exists():
        arrays = _ask(pair, data, folder)
        part = file.with_suffix(".part.npz")
        np.savez(part, allow_pickle=False, **arrays)
        os.replace(part, file)
    with np.load(file) as kept:
        found = {name: kept[name] for name in kept.files}
    asked = {name: Asked(*(found[f"{name}/{part}"] for part in PARTS)) for name in SINGLES}
    return Study(
        pair, tuple(found["names"]), found["labels"], found["half"],
        found["first"].astype(np.float32),
        {n: replace(a, added=a.added.astype(np.float32)) for n, a in asked.items()},
    )  # fmt: skip


@torch.no_grad()
def _ask(pair: Pair, data: Path, folder: Path) -> dict[str, npt.NDArray[Any]]:
    classifier, images = load(pair, data, folder)
    half = {image.name for image in images.halves()[0].images}
    firsts: list[Floats] = []
    kept: dict[str, list[tuple[int, Floats, float, float]]] = {name: [] for name in SINGLES}
    numbered = list(enumerate(images.images))
    starts = range(0, len(numbered), BATCH)
    for start in track(starts, pair.name, transient=True):
        batch = numbered[start : start + BATCH]
        originals = [image.open() for _, image in batch]
        pixels = torch.stack([classifier.pixels(original) for original in originals])
        looks = classifier.first_looks(pixels, classifier.has_target_layer, originals)
        firsts += [look.probabilities.numpy() for look in looks]
        for name, index, added, weight, cost in _answers(classifier, batch, looks):
            kept[name].append((index, added, weight, cost))
    classes = len(classifier.labels)
    found: dict[str, npt.NDArray[Any]] = {
        "names": np.array([image.name for image in images.images]),
        "labels": np.array([image.label for image in images.images]),
        "half": np.array([image.name in half for image in images.images]),
        "first": np.stack(firsts).astype(np.float16 if classes > 100 else np.float32),
    }
    for name, rows in kept.items():
        found[f"{name}/index"] = np.array([row[0] for row in rows], np.int64)
        added = np.array([row[1] for row in rows], np.float32).reshape(-1, classes)
        found[f"{name}/added"] = added.astype(np.float16 if classes > 100 else np.float32)
        found[f"{name}/weight"] = np.array([row[2] for row in rows], np.float32)
        found[f"{name}/cost"] = np.array([row[3] for row in rows], np.float32)
    return found


def _answers(
    classifier: Classifier, batch: Iterable[tuple[int, Any]], looks: Sequence[FirstLook]
) -> Iterable[tuple[str, int, Floats, float, float]]:
    """For each look at each unsure image: its name, the image, its answer, weight and cost."""
    wanted: list[tuple[str, int, Tensor, Tensor]] = []
    for (index, _), first in zip(batch, looks, strict=True):
        top = first.probabilities.topk(2).values
        if top[0] - top[1] >= ASKED_BELOW:
            continue
        for name, (k, look) in SINGLES.items():
            k = min(k, len(first.probabilities))
            second = look(Context(classifier, first, first.probabilities.topk(k).indices))
            for views in second.asked:
                for view, weights in zip(views.pixels, views.weights, strict=True):
                    wanted.append((name, index, view, weights))
    answers = _ask_once(classifier, [view for _, _, view, _ in wanted])
    sums: dict[tuple[str, int], list[Any]] = {}
    for (name, index, view, weights), answer in zip(wanted, answers, strict=True):
        found = sums.setdefault((name, index), [torch.zeros_like(answer), 0.0, 0.0])
        found[0] = found[0] + weights * answer
        found[1] += float(weights.mean())
        found[2] += classifier.cost(view.shape[1], view.shape[2])
    for (name, index), (added, weight, cost) in sums.items():
        yield name, index, (added / weight).numpy(), weight, cost


def _ask_once(classifier: Classifier, views: Sequence[Tensor]) -> list[Tensor]:
    """Answers in order; a view that several looks share is run once."""
    keys = [hash(view.numpy().tobytes()) for view in views]
    new = dict(zip(keys, views, strict=True))
    by_size: dict[torch.Size, list[int]] = {}
    for key, view in new.items():
        by_size.setdefault(view.shape, []).append(key)
    answers: dict[int, Tensor] = {}
    for members in by_size.values():
        found = classifier.many(torch.stack([new[key] for key in members]))
        answers |= dict(zip(members, found, strict=True))
    return [answers[key] for key in keys]


def pooled(
    studies: Sequence[Study], look: str, picked: Picked = Study.unsure, **options: Any
) -> Pairing:
    """The pairing of several studies together."""
    found = Pairing()
    for study in studies:
        found += study.pairing(look, picked(study), **options)
    return found


def of_half(which: int, picked: Picked = Study.unsure) -> Picked:
    """Pick the images of the half that looks are ranked on (0), or of the other half (1)."""
    return lambda study: picked(study) & (study.half == (which == 0))


def kinds(studies: Sequence[Study]) -> dict[str, list[Study]]:
    """The studies, grouped by kind of data."""
    found: dict[str, list[Study]] = {}
    for study in studies:
        found.setdefault(study.pair.kind, []).append(study)
    return found


def judged(
    studies: Sequence[Study], look: str, picked: Picked = Study.unsure
) -> tuple[float, float]:
    """Gain in points: the mean (full-size and other kinds half each), and the worst kind's."""
    gains: dict[bool, list[float]] = {}
    for some in kinds(studies).values():
        found = 100 * (pooled(some, look, picked).gain or 0.0)
        gains.setdefault(some[0].pair.full_size, []).append(found)
    mean = float(np.mean([np.mean(some) for some in gains.values()]))
    return mean, min(value for some in gains.values() for value in some)


def most(studies: Sequence[Study], look: str) -> float:
    """Largest cost of an image."""
    return max(float(study.answers(look)[1][study.unsure()].max(initial=1)) for study in studies)


def by_image(
    studies: Sequence[Study], look: str, than: str = "", picked: Picked = Study.unsure
) -> float:
    """P-value of pooled pairs; each image counts once, whatever the number of its networks."""
    changes: Counter[tuple[str, str]] = Counter()
    for study in studies:
        before = study.right(study.answers(than)[0] if than else study.first).astype(int)
        gained = study.right(study.answers(look)[0]).astype(int) - before
        for index in np.flatnonzero(picked(study) & (gained != 0)):
            changes[study.pair.images, study.names[index]] += int(gained[index])
    better = sum(change > 0 for change in changes.values())
    worse = sum(change < 0 for change in changes.values())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def counts(pairing: Pairing) -> str:
    return f"{pairing.fixed} / {pairing.broken}"


def told(pairing: Pairing) -> str:
    return f"{counts(pairing)} ({points(pairing.gain)}, {significance(pairing.p_value)})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n| {' | '.join(heads)} |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print(f"| {' | '.join(row)} |")


def single_looks(studies: Sequence[Study]) -> None:
    by_kind = kinds(studies)
    print(f"\n## Each view alone, added to the first answer: fixed / broken, gap(1,2) < {GATE}")
    heads = ("view", "cost", *by_kind, "mean gain", "worst kind")
    unsure = [str(sum(int(s.unsure().sum()) for s in some)) for some in by_kind.values()]
    rows: list[list[str]] = [["unsure images", "1", *unsure, "", ""]]
    ranked = sorted((*SINGLES, *SUMS), key=lambda name: -judged(studies, name)[0])
    for name in ranked:
        mean, worst = judged(studies, name)
        cells = [counts(pooled(some, name)) for some in by_kind.values()]
        cost = max(study.cost(name) for study in studies)
        rows.append([name, f"{cost:.2f}", *cells, f"{mean:+.1f}", f"{worst:+.1f}"])
    table(heads, rows)


def ranking(studies: Sequence[Study]) -> None:
    """Rank the looks on one half, and show their gain on the other."""
    sums = [" & ".join(some) for n in (1, 2, 3, 4) for some in combinations(POOL, n)]
    sums = [name for name in sums if name not in SINGLES] + [*SINGLES, *SUMS]
    for limit in (4.0, 8.0):
        affordable = [name for name in sums if most(studies, name) <= limit + 0.01]
        ranked = sorted(affordable, key=lambda name: -judged(studies, name, of_half(0))[0])
        print(f"\n## At a cost of at most {limit:.0f}: {len(affordable)} looks ranked on one half")
        rows = []
        for place, name in enumerate(ranked, 1):
            if place > 10 and name not in SHOWN:
                continue
            first, other = (judged(studies, name, of_half(half)) for half in (0, 1))
            rows.append(
                [str(place), name, f"{max(s.cost(name) for s in studies):.2f}"]
                + [f"{mean:+.1f} ({worst:+.1f})" for mean, worst in (first, other)]
            )
        table(("place", "look", "cost", "mean gain (worst kind), first half", "other half"), rows)


def chosen(studies: Sequence[Study], picked: Picked, images: str) -> None:
    """Compare the presets and their rivals, pair by pair."""
    print(f"\n## {images}: fixed / broken (gain in points, p)")
    parts = {study.pair.name: [study] for study in studies}
    parts["full-size photos, three Lites"] = [
        s for s in studies if s.pair.kind == "photos" and s.pair.model != "fixed"
    ]
    for kind, some in kinds(studies).items():
        if len(some) > 1 and kind != "photos":
            parts[f"{kind}, pooled"] = some
    rows = []
    for name, some in parts.items():
        number = pooled(some, "flip", picked).images
        cells = [told(pooled(some, look, picked)) for look in SHOWN]
        if len(some) > 1:
            values = (significance(by_image(some, look, picked=picked)) for look in SHOWN)
            cells = [f"{c}; by image {v}" for c, v in zip(cells, values, strict=True)]
        cost = np.mean([study.cost("best", picked(study)) for study in some])
        rows.append([name, str(number), *cells, f"{cost:.1f}"])
    table(("network, images", "images", *SHOWN, "cost of best"), rows)
    print("\nOnly the first of two looks is right / only the second (p by image):\n")
    for look, rival in AGAINST:
        cells = []
        for kind, some in kinds(studies).items():
            pairing = pooled(some, look, picked, than=rival)
            cells.append(
                f"{kind} {counts(pairing)} ({significance(by_image(some, look, rival, picked))})"
            )
        print(f"- {look} against {rival}: {', '.join(cells)}")


def merging(studies: Sequence[Study]) -> None:
    print("\n## How answers are merged: fixed / broken")
    rows = []
    for look in ("quick", "best", "tencrop"):
        for merge in ("mean", "geometric", "confidence"):
            cells = [counts(pooled(some, look, merge=merge)) for some in kinds(studies).values()]
            rows.append([look, merge, *cells])
    table(("look", "merged by", *kinds(studies)), rows)


def gates(studies: Sequence[Study]) -> None:
    """Show which images each gate passes, and the result over all images."""

    def entropy(study: Study) -> Floats:
        y = study.first
        found: Floats = -(y * np.log(y + 1e-9)).sum(axis=1)
        return found

    def rank(share: float) -> Picked:
        return lambda study: study.gaps[0] <= np.quantile(study.gaps[0], share)

    def below(gate: float) -> Picked:
        return lambda study: study.gaps[0] < gate

    tried: dict[str, Picked] = {
        "gap(1,5) < 0.5": Study.ambiguous,
        **{f"gap(1,2) < {g}": below(g) for g in (0.2, 0.3, 0.4, 0.5)},
        "entropy > 1": lambda study: entropy(study) > 1,
        **{f"the least sure {share:.0%}": rank(share) for share in (0.1, 0.2, 0.3)},
    }
    print("\n## Gates, with all views of best")
    print(
        "\nImages below the gate / wrong ones among them; fixed / broken; mean cost of all images."
    )
    print(f"Views were not run on images with gap(1,2) ≥ {ASKED_BELOW}, whatever the gate.")

    def asked(gate: Picked) -> Picked:
        return lambda study: gate(study) & (study.gaps[0] < ASKED_BELOW)

    rows = []
    for name, gate in tried.items():
        cells = []
        for some in kinds(studies).values():
            picked = asked(gate)
            passed = sum(int(gate(s).sum()) for s in some)
            wrong = sum(int((gate(s) & ~s.right(s.first)).sum()) for s in some)
            cost = np.mean([np.where(picked(s), s.answers("best")[1], 1).mean() for s in some])
            cells.append(f"{passed} / {wrong}, {counts(pooled(some, 'best', picked))}, {cost:.2f}")
        rows.append([name, *cells])
    everything = [
        f"{sum(len(s.labels) for s in some)} / {sum(int((~s.right(s.first)).sum()) for s in some)}"
        for some in kinds(studies).values()
    ]
    table(("gate", *kinds(studies)), [["all images", *everything], *rows])


def in_turn(studies: Sequence[Study]) -> None:
    """Show the cost saved by running views in turn, and how often the answer stays the same."""
    print("\n## Views run in turn: same answer as from all views, cost saved, fixed / broken")
    rows = []
    for study in studies:
        cells = [study.pair.name, str(int(study.unsure().sum()))]
        for look in ("quick", "best"):
            for rule in (_exactly, settled):
                same, saved, pairing = _turns(study, look, rule)
                cells.append(f"{100 * same:.1f} %, {100 * saved:.0f} %, {counts(pairing)}")
        rows.append(cells)
    heads = (f"{look}, {rule}" for look in ("quick", "best") for rule in ("exact", "settled"))
    table(("network, images", "unsure", *heads), rows)


def _exactly(answers: Tensor, weights: Tensor, left: Tensor) -> bool:
    total = (weights * answers).sum(dim=0)
    safe = total.max() - total > left
    safe[total.argmax()] = True
    return bool(safe.all())


def _turns(
    study: Study, look: str, rule: Callable[[Tensor, Tensor, Tensor], bool | Tensor]
) -> tuple[float, float, Pairing]:
    views = study.views(look)
    places = [dict(zip(part.index.tolist(), range(len(part.index)), strict=True)) for part in views]
    same, cost, full, pairing = 0, 0.0, 0.0, Pairing()
    images = np.flatnonzero(study.unsure()).tolist()
    for image in images:
        own = [
            (part, place[image])
            for part, place in zip(views, places, strict=True)
            if image in place
        ]
        answers = torch.from_numpy(np.stack([study.first[image], *(p.added[i] for p, i in own)]))
        weights = torch.tensor([1.0, *(float(p.weight[i]) for p, i in own)])
        weights = weights[:, None].expand_as(answers)
        costs = [1.0, *(float(p.cost[i]) for p, i in own)]
        asked = min(2, len(answers))
        while asked < len(answers):
            if rule(answers[:asked], weights[:asked], weights[asked:].sum(dim=0)):
                break
            asked += 1
        total = (weights * answers).cumsum(dim=0)
        best = int(total[asked - 1].argmax())
        same += best == int(total[-1].argmax())
        cost, full = cost + sum(costs[:asked]), full + sum(costs)
        label = study.labels[image]
        right, now = np.array([study.first[image].argmax() == label]), np.array([best == label])
        pairing += Pairing.of(right, now)
    return same / max(1, len(images)), 1 - cost / max(1.0, full), pairing


def second_networks(studies: Sequence[Study]) -> None:
    """Compare running a larger sibling on the unsure images of Lite0 with the presets."""
    print("\n## A larger sibling run on the unsure images of Lite0")
    print("\nFixed / broken, mean cost of all images.")
    rows = []
    lites = [relook.load(f"{LITE}{n}") for n in (0, 1, 2)]
    named = {study.pair.name: study for study in studies}
    for kind in ("photos", "nips17", "val227"):
        first = named[f"Lite0, {kind}"]
        unsure = first.unsure()
        cells = [kind, str(int(unsure.sum()))]
        for look in ("quick", "best"):
            cost = np.where(unsure, first.answers(look)[1], 1).mean()
            cells.append(f"{counts(first.pairing(look))}, {cost:.2f}")
        for number in (1, 2):
            other = named[f"Lite{number}, {kind}"].first
            cost = 1 + unsure.mean() * forward_cost(lites[number], lites[0])
            pairing = _pairing(
                first.right(first.first)[unsure], first.right(first.first + other)[unsure]
            )
            cells.append(f"{counts(pairing)}, {cost:.2f}")
        with_best = first.answers("best")[0] + named[f"Lite2, {kind}"].first
        cost = np.where(unsure, first.answers("best")[1], 1).mean()
        cost += unsure.mean() * forward_cost(lites[2], lites[0])
        pairing = _pairing(first.right(first.first)[unsure], first.right(with_best)[unsure])
        cells.append(f"{counts(pairing)}, {cost:.2f}")
        rows.append(cells)
    table(("images", "unsure", "quick", "best", "Lite1", "Lite2", "Lite2 and best"), rows)


def all_images(studies: Sequence[Study]) -> None:
    """Show the gain over all images, sure ones included."""
    print("\n## Over all images, with the presets' gate, views in turn: gain in points, mean cost")
    rows = []
    for study in studies:
        cells = [study.pair.name, f"{100 * study.right(study.first).mean():.1f} %"]
        for look in ("quick", "best"):
            _, saved, pairing = _turns(study, look, settled)
            unsure, number = study.unsure(), len(study.labels)
            spent = study.answers(look)[1][unsure].sum() * (1 - saved) + (~unsure).sum()
            gained = 100 * (pairing.fixed - pairing.broken) / number
            cells.append(f"{gained:+.1f} ({counts(pairing)}), {spent / number:.2f}")
        rows.append(cells)
    table(("network, images", "right at first", "quick", "best"), rows)


def chart(studies: Sequence[Study], file: Path) -> None:
    """Plot gain against cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=110, layout="constrained")
    parts = {
        "full-size photos": [s for s in studies if s.pair.full_size],
        "other kinds of data": [s for s in studies if not s.pair.full_size],
    }
    names = [name for name in (*SINGLES, *SUMS) if max(s.cost(name) for s in studies) < 12]
    for axes, (title, part) in zip(figure.subplots(1, 2), parts.items(), strict=True):
        points = {}
        for name in names:
            gained = [100 * (pooled(some, name).gain or 0) for some in kinds(part).values()]
            points[name] = max(s.cost(name) for s in part), float(np.mean(gained))
        axes.scatter(*zip(*points.values(), strict=True), s=14, color="#9aa5b1")
        for name in SHOWN:
            x, y = points[name]
            axes.scatter(
                [x], [y], s=36, color="#d9480f" if name in ("quick", "best") else "#1c2733"
            )
            axes.annotate(name, (x, y), xytext=(6, -3), textcoords="offset points", fontsize=9)
        axes.set_title(f"{title}: {sum(int(s.unsure().sum()) for s in part):,} unsure", fontsize=10)
        axes.set_xlim(0.8, 12)
        axes.set_xlabel("cost of an unsure image, in forward passes")
        axes.set_ylabel("gain in top-1, points: mean of the kinds of data")
        axes.axhline(0, color="#555", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS / "second_look")
    parser.add_argument("--chart", type=Path, help="PNG file to plot gain against cost in")
    parser.add_argument(
        "--only", default="", help="run only pairs whose name contains this text; print no tables"
    )
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    pairs = [pair for pair in PAIRS if arguments.only in pair.name]
    if not pairs:
        parser.error(
            f"no pair's name contains {arguments.only!r}: {', '.join(p.name for p in PAIRS)}"
        )
    studies = [ask(pair, arguments.data, arguments.output) for pair in pairs]
    if arguments.only:
        return
    single_looks(studies)
    ranking(studies)
    chosen(studies, Study.unsure, f"All images with gap(1,2) < {GATE}")
    chosen(studies, of_half(1), "The same, the half that looks were not ranked on")
    chosen(studies, Study.ambiguous, "Ambiguous images, gap(1,5) < 0.5")
    all_images(studies)
    merging(studies)
    gates(studies)
    in_turn(studies)
    second_networks(studies)
    if arguments.chart:
        chart(studies, arguments.chart)


if __name__ == "__main__":
    main()
