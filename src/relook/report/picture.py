"""One correction as one picture: what `relook predict --output` writes."""

from __future__ import annotations

import math
import textwrap
import warnings
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text

from relook.attribution import Seen
from relook.errors import RelookError
from relook.report.story import MaskStory, Story, ViewStory, percent
from relook.report.tiles import crop_tile, map_tile

_BEFORE, _AFTER = "#9aa5b1", "#d9480f"
_COLUMNS = 5
Shown = TypeVar("Shown", MaskStory, ViewStory)


def save_picture(story: Story, file: Path) -> None:
    """Write the photo, the classes before and after, each class's map and the views asked about."""
    bars = max(2.9, 0.9 + 0.42 * len(story.classes))
    tall = 5.2 if story.view_name else 3.0
    masks, views = _rows(story.masks), _rows(story.views)
    heights = [bars, *[tall] * len(masks), *[2.9] * len(views)]
    figure = Figure(figsize=(12.5, sum(heights) + 0.1), dpi=110, facecolor="white")
    top, *parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _top(top, story)
    for part, row in zip(parts, masks, strict=False):
        _masks(part, row, story.view_name)
    for part, seen in zip(parts[len(masks) :], views, strict=True):
        _views(part, seen)
    _write(figure, file)


def save_maps(seen: Seen, file: Path) -> None:
    """Write the photo and each class's map over it."""
    shown = png(file)
    columns = min(_COLUMNS, 1 + len(seen.classes))
    rows = math.ceil((1 + len(seen.classes)) / columns)
    figure = Figure(figsize=(2.5 * columns, 3.0 * rows), dpi=110, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - 0.5 / (3.0 * rows), bottom=0.02, wspace=0.06
    )
    _image(axes[0], crop_tile(seen.original, seen.box))
    axes[0].set_title(textwrap.shorten(Path(seen.image).name, 26), fontsize=10)
    for place, (label, probability) in enumerate(
        zip(seen.labels, seen.probabilities.tolist(), strict=True)
    ):
        found = bool(seen.maps[place].any())
        _image(axes[1 + place], map_tile(seen.pixels, seen.maps[place]))
        said = percent(probability) + ("" if found else ", seen nowhere")
        axes[1 + place].set_title(f"{textwrap.shorten(label, 26)}\n{said}", fontsize=10)
    for empty in axes[1 + len(seen.classes) :]:
        empty.axis("off")
    _write(figure, shown)


def png(file: Path) -> Path:
    """The file, if its name is that of a PNG file."""
    if file.suffix.lower() != ".png":
        raise RelookError(f"{file}: a picture is a PNG file; name one that ends in .png")
    return file


def _write(figure: Figure, file: Path) -> None:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a $ in a name is a dollar
        # What is no text in the name of a file is shown as a code.
        text.set_text(text.get_text().encode("utf-8", "backslashreplace").decode())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="png")


def _rows(things: tuple[Shown, ...]) -> list[tuple[Shown, ...]]:
    return [things[i : i + _COLUMNS] for i in range(0, len(things), _COLUMNS)]


def _top(part: SubFigure, story: Story) -> None:
    photo, chart = part.subplots(1, 2, width_ratios=[1, 1.35])
    part.subplots_adjust(left=0.02, right=0.97, top=0.84, bottom=0.06, wspace=0.42)
    part.text(0.02, 0.93, _headline(story), fontsize=13, weight="bold", va="center")
    part.text(
        0.97,
        0.93,
        f"{story.forwards}   {story.correction.seconds:.1f} s",
        fontsize=9,
        color="#555",
        va="center",
        ha="right",
    )
    if story.correction.notes:
        said = textwrap.shorten("; ".join(story.correction.notes), 170)
        part.text(0.02, 0.87, said, fontsize=9, color="#555", va="center")
    _image(photo, story.photo)
    places = np.arange(len(story.classes))
    before = [100 * c.before for c in story.classes]
    after = [100 * c.after for c in story.classes]
    chart.barh(places - 0.19, before, 0.36, color=_BEFORE, label="before")
    chart.barh(places + 0.19, after, 0.36, color=_AFTER, label="after")
    for place, low, high in zip(places, before, after, strict=True):
        chart.text(
            low + 0.8, place - 0.19, percent(low / 100), va="center", fontsize=8, color="#555"
        )
        chart.text(high + 0.8, place + 0.19, percent(high / 100), va="center", fontsize=8)
    chart.set_yticks(places, [textwrap.shorten(c.label, 30) for c in story.classes])
    chart.invert_yaxis()
    chart.set_xlim(0, max(before + after) * 1.16)
    chart.xaxis.set_visible(False)
    chart.spines[["top", "right", "bottom"]].set_visible(False)
    chart.legend(loc="lower right", frameon=False, fontsize=9)


def _headline(story: Story) -> str:
    name = textwrap.shorten(story.title, 40)
    if not story.correction.corrected:
        return f"{name}: {story.top_before}, sure enough to be left as it is"
    if story.correction.changed:
        return f"{name}: {story.top_before} → {story.top_after}"
    return f"{name}: {story.top_after}, as before"


def _masks(part: SubFigure, masks: tuple[MaskStory, ...], view_name: str) -> None:
    axes = part.subplots(2 if view_name else 1, _COLUMNS, squeeze=False)
    top, bottom = (0.9, 0.09) if view_name else (0.82, 0.02)
    part.subplots_adjust(left=0.02, right=0.98, top=top, bottom=bottom, wspace=0.06, hspace=0.04)
    for column in range(_COLUMNS):
        if column >= len(masks):
            for row in axes:
                row[column].axis("off")
            continue
        mask = masks[column]
        _image(axes[0, column], mask.map_tile)
        axes[0, column].set_title(
            f"{textwrap.shorten(mask.label, 26)}\n{percent(mask.before)} → {percent(mask.after)}",
            fontsize=10,
        )
        if mask.mask_tile is None:
            continue
        _image(axes[1, column], mask.mask_tile)
        said = (
            "seen nowhere, not asked"
            if mask.answer is None
            else f"alone: {textwrap.shorten(mask.answer, 20)} {percent(mask.answer_probability)}"
        )
        if mask.answer is not None and view_name == "mask image":  # other looks weigh otherwise
            said += f"\n(weight {percent(mask.before)})"
        axes[1, column].set_xlabel(said, fontsize=9, color="#444")
    if view_name:
        part.text(0.008, 0.3, view_name, rotation=90, fontsize=10, color="#444", va="center")
    seen = 0.72 if view_name else 0.42
    part.text(0.008, seen, "seen here", rotation=90, fontsize=10, color="#444", va="center")


def _views(part: SubFigure, views: tuple[ViewStory, ...]) -> None:
    axes = part.subplots(1, _COLUMNS)
    part.subplots_adjust(left=0.02, right=0.98, top=0.9, bottom=0.1, wspace=0.06)
    for column in range(_COLUMNS):
        if column >= len(views):
            axes[column].axis("off")
            continue
        view = views[column]
        _image(axes[column], view.tile)
        axes[column].set_title(view.what, fontsize=10)
        axes[column].set_xlabel(
            f"{textwrap.shorten(view.answer, 24)} {percent(view.probability)}",
            fontsize=9,
            color="#444",
        )
    part.text(0.008, 0.5, "asked again", rotation=90, fontsize=10, color="#444", va="center")


def _image(axes: Axes, image: object) -> None:
    axes.imshow(np.asarray(image))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
