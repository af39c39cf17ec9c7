"""One correction as one picture: what `relook predict --output` writes."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text

from relook.report.story import MaskStory, Story, percent

_BEFORE, _AFTER = "#9aa5b1", "#d9480f"
_COLUMNS = 5


def save_picture(story: Story, file: Path) -> None:
    """Write the photo, the classes before and after, and each class's map and mask image."""
    rows = -(-len(story.masks) // _COLUMNS)
    bars = max(2.9, 0.9 + 0.42 * len(story.classes))
    figure = Figure(figsize=(12.5, bars + 5.2 * rows + 0.1), dpi=110, facecolor="white")
    parts = figure.subfigures(1 + rows, 1, height_ratios=[bars, *[5.2] * rows], squeeze=False)
    _top(parts[0, 0], story)
    for row in range(rows):
        _masks(
            parts[1 + row, 0],
            story.masks[row * _COLUMNS : (row + 1) * _COLUMNS],
            story.view_name,
        )
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a $ in a name is a dollar
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="png")


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
    axes = part.subplots(2, _COLUMNS, squeeze=False)
    part.subplots_adjust(left=0.02, right=0.98, top=0.9, bottom=0.09, wspace=0.06, hspace=0.04)
    for column in range(_COLUMNS):
        if column >= len(masks):
            axes[0, column].axis("off")
            axes[1, column].axis("off")
            continue
        mask = masks[column]
        _image(axes[0, column], mask.map_tile)
        _image(axes[1, column], mask.mask_tile)
        axes[0, column].set_title(
            f"{textwrap.shorten(mask.label, 26)}\n{percent(mask.before)} → {percent(mask.after)}",
            fontsize=10,
        )
        said = (
            "seen nowhere, not asked"
            if mask.answer is None
            else f"alone: {textwrap.shorten(mask.answer, 20)} {percent(mask.answer_probability)}"
        )
        if mask.answer is not None and view_name == "mask image":  # other looks weigh otherwise
            said += f"\n(weight {percent(mask.before)})"
        axes[1, column].set_xlabel(said, fontsize=9, color="#444")
    part.text(0.008, 0.72, "seen here", rotation=90, fontsize=10, color="#444", va="center")
    part.text(0.008, 0.3, view_name, rotation=90, fontsize=10, color="#444", va="center")


def _image(axes: Axes, image: object) -> None:
    axes.imshow(np.asarray(image))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
