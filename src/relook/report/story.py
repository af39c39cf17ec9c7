"""The text and numbers of one correction, for pictures and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from relook.correction import Correction, SeenView
from relook.gate import Gate
from relook.geometry import Box
from relook.report.tiles import crop_tile, map_tile, photo_tile
from relook.words import count, some

LARGEST = 10
"""Most classes that are shown, whatever k is."""
NAMED = 5
"""Most classes in question that are named in a sentence."""


@dataclass(frozen=True)
class ClassStory:
    """One class before and after the second look.

    Attributes:
        label: the class's name.
        before, after: its probability, 0 to 1.
    """

    label: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """Change of the probability in percentage points."""
        return 100 * (self.after - self.before)


@dataclass(frozen=True)
class MaskStory:
    """One class's attribution map and view, and the network's answer to the view.

    Attributes:
        label: the class that the view was made for.
        before: first probability of that class, the weight of the answer.
        after: its probability after the second look.
        map_tile: the map over the photo.
        mask_tile: the mask image or crop; None if the look makes no view per class.
        answer: the most probable class of the view; None if no view was classified.
        answer_probability: probability of that class, 0 to 1.
        part: part of the photo that the view shows and its size, in words.
    """

    label: str
    before: float
    after: float
    map_tile: Image.Image
    mask_tile: Image.Image | None
    answer: str | None
    answer_probability: float
    part: str = ""


@dataclass(frozen=True)
class ViewStory:
    """A view that does not belong to one class, and the network's answer to it.

    Attributes:
        what: what the view shows, in a few words.
        part: part of the photo that it shows and its size, in words.
        tile: the view as an image.
        answer: its most probable class.
        probability: probability of that class, 0 to 1.
    """

    what: str
    part: str
    tile: Image.Image
    answer: str
    probability: float


@dataclass(frozen=True)
class Story:
    """The correction of one image as plain data, which can be saved in a run's folder.

    Attributes:
        title: the image's name without its folders.
        top_before, top_after: the most probable class before and after the second look.
        changed: whether these are different classes; different classes may share a name.
        corrected: whether the image got a second look; the gate may prevent it.
        gate: which images get a second look.
        gap: the gap of the first answer that is compared with the gate.
        photo: the whole image, with the part that the network does not see darkened and a numbered
            box around each part that was classified again.
        boxes: number of these boxes.
        classes: the top-k classes, the top five, and classes that are among the most probable
            after the second look; at most ten.
        masks: one entry per class; empty if the look makes no maps.
        view_name: what the second row of pictures shows; empty if there is no such row.
        views: the other views that were classified.
        unshown: number of top-k classes that are not shown.
        forwards: number of forward passes: 1 + `map_forwards` + views.
        map_forwards: forward passes for the attribution maps.
        cost: cost of all forward passes, in units of one at the network's own input size.
        seconds: wall-clock time.
        left_out: notes on views that were left out because this network cannot classify them.
        no_view: notes on views that were left out because they would show nothing new.
        calibrated: whether there was no second look, and the second probabilities of the classes
            differ from the first only by the temperature that tuning chose.
        risk: share of wrong answers allowed among those given; None if tuning was not asked for
            one.
        confidence: how far the answer can be relied on.
        possible: the classes in question, most probable first; empty if the answer is given.
    """

    title: str
    top_before: str
    top_after: str
    changed: bool
    corrected: bool
    gate: Gate
    gap: float
    photo: Image.Image
    boxes: int
    classes: tuple[ClassStory, ...]
    masks: tuple[MaskStory, ...]
    view_name: str
    views: tuple[ViewStory, ...]
    unshown: int
    forwards: int
    map_forwards: int
    cost: float
    seconds: float
    left_out: tuple[str, ...]
    no_view: tuple[str, ...]
    # With defaults, so that galleries that were saved without these can be read.
    calibrated: bool = False
    risk: float | None = None
    confidence: float = math.nan
    possible: tuple[str, ...] = ()

    @property
    def not_sure(self) -> bool:
        """Whether the answer is not to be relied on, so that the image is left to a person."""
        return bool(self.possible)

    def doubt(self, most: int = NAMED) -> str:
        """Name the classes in question: "not sure: tiger cat, Egyptian cat or tabby".

        Args:
            most: number of classes to name; of the others, only their number is given.

        Returns:
            The words; empty if the answer is given.
        """
        if not self.possible:
            return ""
        *others, last = self.possible
        if not others:
            said = f"{last} is the only class in question, at a confidence of {self.confidence:.2f}"
        elif len(self.possible) > most:
            said = some(self.possible, most)
        else:
            said = f"{', '.join(others)} or {last}"
        return f"not sure: {said}"

    @property
    def surety(self) -> str:
        """For an answer given under a risk: "sure enough for a risk of 5 %"; otherwise empty."""
        if self.risk is None or self.not_sure:
            return ""
        return f"sure enough for a risk of {100 * self.risk:g}\u00a0%"

    @property
    def two_answers(self) -> bool:
        """Whether there are second probabilities to show beside the first."""
        return self.corrected or self.calibrated

    @property
    def second(self) -> str:
        """What the second probabilities are: "after" the second look, or "calibrated"."""
        return "calibrated" if self.calibrated else "after"

    @property
    def asked(self) -> int:
        """Number of views that the network classified."""
        return self.forwards - 1 - self.map_forwards

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes on views that were left out, those that concern the network first."""
        return self.left_out + self.no_view

    @property
    def spent(self) -> str:
        """The forward passes in words: "459 forwards = 1 + 453 for the maps + 5 views"."""
        if self.forwards == 1:
            return "1 forward, no view" if self.corrected else "1 forward"
        maps = f"{self.map_forwards:,} for the maps" if self.map_forwards else ""
        parts = ["1", maps, count(self.asked, "view")]
        return f"{self.forwards:,} forwards = " + " + ".join(part for part in parts if part)


def _view_name(correction: Correction) -> str:
    own = [view.what for view in correction.views if view.of is not None]
    return next(iter(own), "mask image" if len(correction.mask_images) else "")


def tell(correction: Correction, pictures: bool = True) -> Story:
    """Make the story of a correction.

    Args:
        correction: what to tell of.
        pictures: whether to draw them; without them the story has no masks and no views, and its
            photo is the image itself.
    """
    before, after = correction.before, correction.after
    shown = correction.classes[:LARGEST].tolist()
    five = min(5, len(after))
    listed = list(dict.fromkeys([*shown, *before.topk(five).indices.tolist()]))
    for new in after.topk(five).indices.tolist():
        if new not in listed and float(after[new]) > float(after[listed].min()):
            listed.append(new)
    listed = sorted(listed, key=lambda c: -float(after[c]))[:LARGEST]
    boxes = _boxes(correction)
    masks = []
    view_name = _view_name(correction)
    for i, c in enumerate(shown[: len(correction.maps)] if pictures else []):
        view = correction.view_of(i)
        answer = None if view is None else view.probabilities
        black = torch.zeros_like(correction.pixels)  # no view: nothing was cut out
        masks.append(
            MaskStory(
                label=correction.labels[c],
                before=float(before[c]),
                after=float(after[c]),
                map_tile=map_tile(correction.pixels, correction.maps[i]),
                mask_tile=photo_tile(view.pixels if view else black) if view_name else None,
                answer=None if answer is None else correction.labels[int(answer.argmax())],
                answer_probability=0.0 if answer is None else float(answer.max()),
                part=_part(view, correction, boxes) if view and answer is not None else "",
            )
        )
    return Story(
        title=Path(correction.image).name,
        top_before=correction.labels[int(before.argmax())],
        top_after=correction.labels[int(after.argmax())],
        changed=correction.changed,
        corrected=correction.corrected,
        gate=correction.gate,
        gap=correction.gate.gap(before),
        photo=(
            crop_tile(correction.original, correction.box, boxes=boxes)
            if pictures
            else correction.original
        ),
        boxes=len(boxes),
        classes=tuple(
            ClassStory(correction.labels[c], float(before[c]), float(after[c])) for c in listed
        ),
        masks=tuple(masks),
        view_name=view_name,
        views=tuple(
            ViewStory(
                view.what,
                _part(view, correction, boxes),
                photo_tile(view.pixels),
                correction.labels[int(view.probabilities.argmax())],
                float(view.probabilities.max()),
            )
            for view in correction.views
            if pictures and view.of is None and view.probabilities is not None
        ),
        unshown=max(0, correction.k - LARGEST),
        forwards=correction.forwards,
        map_forwards=correction.attribution_forwards,
        cost=correction.cost,
        seconds=correction.seconds,
        left_out=correction.left_out,
        no_view=correction.no_view,
        calibrated=not correction.corrected and not torch.equal(before, after),
        risk=correction.risk,
        confidence=correction.confidence,
        possible=tuple(correction.labels[c] for c in correction.possible),
    )


def _boxes(correction: Correction) -> list[Box]:
    """The different parts of the photo that views show, other than that of the first look."""
    boxes: list[Box] = []
    for view in correction.views:
        known = (correction.box, *boxes)
        if view.box is not None and not any(_alike(view.box, box) for box in known):
            boxes.append(view.box)
    return boxes


def _alike(box: Box, other: Box) -> bool:
    return max(abs(a - b) for a, b in zip(box, other, strict=True)) < 1


def _part(view: SeenView, correction: Correction, boxes: Sequence[Box]) -> str:
    """For example "part 1, 288×288 pixels" or, at another scale, "part 2, 224×224, scale 0.88"."""
    size = f"{view.pixels.shape[1]}×{view.pixels.shape[2]}"
    scale = view.frame.scale if view.frame else 1
    size += f", scale {scale:g}" if scale != 1 else " pixels"
    if view.box is None:
        return size
    number = next((n for n, box in enumerate(boxes, 1) if _alike(view.box, box)), None)
    return f"the same part, {size}" if number is None else f"part {number}, {size}"
