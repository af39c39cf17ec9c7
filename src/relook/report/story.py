"""One correction in the words and figures that pictures and pages show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from relook.correction import Correction, SeenView
from relook.gate import Gate
from relook.geometry import Box
from relook.report.tiles import crop_tile, map_tile, photo_tile
from relook.words import count

LARGEST = 10
"""How many classes are shown at most, whatever k is."""


@dataclass(frozen=True)
class ClassStory:
    """One class before and after.

    Attributes:
        label: its name.
        before, after: its probability.
    """

    label: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """In percentage points."""
        return 100 * (self.after - self.before)


@dataclass(frozen=True)
class MaskStory:
    """One class's attribution map and mask image, and what the network said of the latter.

    Attributes:
        label: the class the mask image was made for.
        before: Y of that class, which the answer is weighted by.
        after: its probability after the second look.
        map_tile: the map over the photo.
        mask_tile: the mask image, or what was cut out; None where the look makes no view for a
            class in particular.
        answer: the most probable class of that view; None where the network was not asked about
            one.
        answer_probability: its probability.
        part: of the photo and at what size the view shows, in words.
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
    """A view that was made for no class in particular, and what the network said of it.

    Attributes:
        what: in a few words, what it shows.
        part: of the photo and at what size, in words.
        tile: the view.
        answer: its most probable class.
        probability: of that class.
    """

    what: str
    part: str
    tile: Image.Image
    answer: str
    probability: float


@dataclass(frozen=True)
class Story:
    """What happened to one image: plain data, which a run's folder can keep.

    Attributes:
        title: the image's name without its folders.
        top_before, top_after: the most probable class before and after the second look.
        changed: whether these are two classes; their names may be the same.
        corrected: whether a second look was taken; the gate may have held it back.
        gate: which images get a second look.
        gap: of the first answer, the one that the gate goes by.
        photo: the whole image, what the network does not see darkened, with a numbered box around
            each part that was asked about again.
        boxes: how many of those there are.
        classes: the top-k classes, the first five, and any other that is most probable now; at
            most ten.
        masks: one a class; empty where the look makes no maps.
        view_name: what the second row of pictures shows; empty where there is none.
        views: what else the network was asked about.
        unshown: how many of the top-k classes are not shown.
        forwards: images that went through the network: 1 + `map_forwards` + views.
        map_forwards: those spent on the attribution maps.
        cost: the same in units of one forward pass at the network's own input size.
        seconds: wall-clock time.
        left_out: what the look did without because this network cannot be asked about it.
        no_view: what it did without because there is no more to see in this image.
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

    @property
    def asked(self) -> int:
        """About how many views the network was asked."""
        return self.forwards - 1 - self.map_forwards

    @property
    def notes(self) -> tuple[str, ...]:
        """All that the look did without: what is left out on this network first."""
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


def tell(correction: Correction) -> Story:
    """The story of one correction."""
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
    for i, c in enumerate(shown[: len(correction.maps)]):
        view = correction.view_of(i)
        answer = None if view is None else view.probabilities
        black = torch.zeros_like(correction.pixels)  # nothing was cut out
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
        photo=crop_tile(correction.original, correction.box, boxes=boxes),
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
            if view.of is None and view.probabilities is not None
        ),
        unshown=max(0, correction.k - LARGEST),
        forwards=correction.forwards,
        map_forwards=correction.attribution_forwards,
        cost=correction.cost,
        seconds=correction.seconds,
        left_out=correction.left_out,
        no_view=correction.no_view,
    )


def _boxes(correction: Correction) -> list[Box]:
    """The different parts of the photo that views were cut from, beside what the network saw."""
    boxes: list[Box] = []
    for view in correction.views:
        known = (correction.box, *boxes)
        if view.box is not None and not any(_alike(view.box, box) for box in known):
            boxes.append(view.box)
    return boxes


def _alike(box: Box, other: Box) -> bool:
    return max(abs(a - b) for a, b in zip(box, other, strict=True)) < 1


def _part(view: SeenView, correction: Correction, boxes: Sequence[Box]) -> str:
    """For instance "part 1, 288×288 pixels" or, of another scale, "part 2, 224×224, scale 0.88"."""
    size = f"{view.pixels.shape[1]}×{view.pixels.shape[2]}"
    scale = view.frame.scale if view.frame else 1
    size += f", scale {scale:g}" if scale != 1 else " pixels"
    if view.box is None:
        return size
    number = next((n for n, box in enumerate(boxes, 1) if _alike(view.box, box)), None)
    return f"the same part, {size}" if number is None else f"part {number}, {size}"
