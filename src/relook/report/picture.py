"""A correction as a PNG picture, as `relook predict --output` writes it."""

from __future__ import annotations

import math
import os
import textwrap
import warnings
from pathlib import Path
from typing import IO, TypeVar, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text
from numpy.typing import NDArray

from relook.attribution import Seen
from relook.errors import RelookError
from relook.images import WritableFile
from relook.report.story import NAMED, MaskStory, Story, ViewStory
from relook.report.tiles import crop_tile, map_tile
from relook.words import percent

_BEFORE, _AFTER = "#9aa5b1", "#d9480f"
_NOT_SURE = "#a86200"
_COLUMNS, _MOST_COLUMNS = 5, 7
_TITLE = 28
"""Number of characters that fit above a tile."""
_HEADLINE = 98
"""Number of characters that fit in a headline with nothing beside it."""
_SMALL_PRINT = 170
"""Number of characters that fit in the line below it."""
_LINE = 0.2
"""Height of a line of a title, in inches."""
Shown = TypeVar("Shown")


def save_picture(story: Story, file: str | os.PathLike[str] | WritableFile) -> None:
    """Write a picture with the photo, the classes before and after, the maps and the views.

    Args:
        story: the correction's story.
        file: a path that ends in .png, or a file that is open for writing bytes.

    Raises:
        RelookError: the file's name does not end in .png.
        OSError: the file cannot be written.

    >>> from pathlib import Path
    >>> from relook.report.picture import save_picture
    >>> from relook.report.story import tell
    >>> save_picture(tell(corrector.correct("photo.jpg")), "picture.png")
    >>> Path("picture.png").stat().st_size > 10_000
    True
    """
    file = _png(file)
    bars = max(2.9, 0.9 + 0.42 * len(story.classes)) + 0.3
    # If each class has a view, its map and view fill rows of their own.
    masks = _rows(story.masks, _COLUMNS) if story.view_name else []
    maps = () if story.view_name else story.masks
    shown: tuple[MaskStory | ViewStory, ...] = (*maps, *story.views)
    columns = _columns(len(shown))
    cells = _rows(shown, columns)
    more = _LINE if any(len(view.what) > _TITLE for view in story.views) else 0.0
    heights = [bars, *[5.2] * len(masks), *[_cell_height(columns) + more] * len(cells)]
    figure = Figure(figsize=(12.5, sum(heights) + 0.1), dpi=110, facecolor="white")
    top, *parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _top(top, story)
    for part, row in zip(parts, masks, strict=False):
        _masks(part, row, story.view_name)
    for part, seen in zip(parts[len(masks) :], cells, strict=True):
        _cells(part, seen, columns, more)
    _write(figure, file)


def save_maps(seen: Seen, file: str | os.PathLike[str] | WritableFile) -> None:
    """Write a picture with the photo and each class's map over it."""
    file = _png(file)
    columns = min(_columns(1 + len(seen.classes)), 1 + len(seen.classes))
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
    _write(figure, file)


def _png(file: str | os.PathLike[str] | WritableFile) -> Path | WritableFile:
    """Check that a path ends in .png; return an open file unchanged."""
    if not isinstance(file, str | os.PathLike):
        return file
    path = Path(file)
    if path.suffix.lower() != ".png":
        raise RelookError(f"{path}: a picture is a PNG file; name one that ends in .png")
    return path


def _write(figure: Figure, file: Path | WritableFile) -> None:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a $ in a name does not start a formula
        # Bytes of file names that are not valid text are shown as escapes.
        text.set_text(text.get_text().encode("utf-8", "backslashreplace").decode())
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(cast(IO[bytes], file), format="png")


def _columns(things: int) -> int:
    """Number of columns for rows of about equal length; at least five, to limit tile size."""
    rows = math.ceil(things / _MOST_COLUMNS)
    return max(_COLUMNS, math.ceil(things / max(1, rows)))


def _rows(things: tuple[Shown, ...], columns: int) -> list[tuple[Shown, ...]]:
    return [things[i : i + columns] for i in range(0, len(things), columns)]


def _top(part: SubFigure, story: Story) -> None:
    photo, chart = part.subplots(1, 2, width_ratios=[1, 1.35])
    part.subplots_adjust(left=0.02, right=0.97, top=0.84, bottom=0.11, wspace=0.42)
    colour = _NOT_SURE if story.not_sure else "black"
    part.text(0.02, 0.93, _headline(story), fontsize=13, weight="bold", color=colour, va="center")
    spent, room = f"{story.spent}   {story.seconds:.1f} s", _SMALL_PRINT
    line = 0.93
    if story.risk is not None:  # the headline says more, and takes the whole line
        line, room = 0.87, _SMALL_PRINT - len(spent) - 4
    part.text(0.97, line, spent, fontsize=9, color="#555", va="center", ha="right")
    if story.notes:
        said = textwrap.shorten("; ".join(story.notes), room)
        part.text(0.02, 0.87, said, fontsize=9, color="#555", va="center")
    _image(photo, story.photo)
    places = np.arange(len(story.classes), dtype=float)
    before = [100 * c.before for c in story.classes]
    after = [100 * c.after for c in story.classes]
    if story.two_answers:
        _bars(chart, places - 0.19, before, _BEFORE, "before")
        _bars(chart, places + 0.19, after, _AFTER, story.second)
        chart.legend(loc="lower right", frameon=False, fontsize=9)
    else:
        _bars(chart, places, before, _BEFORE, "")
    chart.set_yticks(places, [textwrap.shorten(c.label, 30) for c in story.classes])
    chart.invert_yaxis()
    chart.set_xlim(0, max(before + after) * 1.16)
    chart.xaxis.set_visible(False)
    chart.spines[["top", "right", "bottom"]].set_visible(False)
    if story.boxes:
        key = (
            "bright: what the network saw in the first look\n"
            "numbered: the parts that it was shown again\n"
            "scale: size of objects, relative to the first look"
        )
        photo.set_xlabel(key, fontsize=8, color="#555")


def _bars(
    chart: Axes, places: NDArray[np.float64], values: list[float], colour: str, label: str
) -> None:
    chart.barh(places, values, 0.36, color=colour, label=label)
    for place, value in zip(places, values, strict=True):
        chart.text(value + 0.8, place, percent(value / 100), va="center", fontsize=8)


def _headline(story: Story) -> str:
    name = textwrap.shorten(story.title, 40)
    if story.not_sure:
        said = [f"{name} · {story.doubt(most)}" for most in range(NAMED, 0, -1)]
        fits = (one for one in said if len(one) <= _HEADLINE)
        return next(fits, textwrap.shorten(said[-1], _HEADLINE))
    surety = f" · {story.surety}" if story.surety else ""
    if not story.corrected:
        # What a gate of 0 leaves as it is need not be sure.
        gated = story.gate.below > 0 and not surety
        kept = "sure enough to be left as it is" if gated else "left as it is"
        return f"{name}: {story.top_before}, {kept}{surety}"
    if story.changed:
        return f"{name}: {story.top_before} → {story.top_after}{surety}"
    return f"{name}: {story.top_after}, as before{surety}"


def _masks(part: SubFigure, masks: tuple[MaskStory, ...], view_name: str) -> None:
    axes = part.subplots(2, _COLUMNS, squeeze=False)
    part.subplots_adjust(left=0.02, right=0.98, top=0.9, bottom=0.09, wspace=0.06, hspace=0.04)
    for column in range(_COLUMNS):
        if column >= len(masks):
            for row in axes:
                row[column].axis("off")
            continue
        mask = masks[column]
        _image(axes[0, column], mask.map_tile)
        axes[0, column].set_title(_of_class(mask), fontsize=10)
        _image(axes[1, column], mask.mask_tile)
        said = (
            "not seen anywhere"
            if mask.answer is None
            else f"alone: {textwrap.shorten(mask.answer, 20)} {percent(mask.answer_probability)}"
        )
        if (
            mask.answer is not None and view_name == "mask image"
        ):  # only mask images have this weight
            said += f"\n(weight {percent(mask.before)})"
        elif mask.part:
            said += f"\n{mask.part}"
        axes[1, column].set_xlabel(said, fontsize=9, color="#444")
    part.text(0.008, 0.3, view_name, rotation=90, fontsize=10, color="#444", va="center")
    part.text(0.008, 0.72, "seen here", rotation=90, fontsize=10, color="#444", va="center")


def _cell_height(columns: int) -> float:
    """Height of a row of tiles with two lines of title, in inches."""
    return 12.2 / columns + 0.75


def _cells(
    part: SubFigure, shown: tuple[MaskStory | ViewStory, ...], columns: int, more: float
) -> None:
    """Draw maps without a view, and views without a class.

    `more` is the height above the tiles beyond two lines of title, in inches.
    """
    axes = part.subplots(1, columns)
    share = _cell_height(columns) / (_cell_height(columns) + more)
    part.subplots_adjust(left=0.02, right=0.98, top=0.83 * share, bottom=0.1 * share, wspace=0.06)
    for column in range(columns):
        if column >= len(shown):
            axes[column].axis("off")
            continue
        one = shown[column]
        if isinstance(one, MaskStory):
            _image(axes[column], one.map_tile)
            axes[column].set_title(_of_class(one), fontsize=10)
            said = "seen here"
        else:
            _image(axes[column], one.tile)
            what = textwrap.fill(one.what, _TITLE, max_lines=2, placeholder="…")
            axes[column].set_title(
                f"{what}\n{one.part}", fontsize=9 if columns == _COLUMNS else 7.5
            )
            said = f"{textwrap.shorten(one.answer, 24)} {percent(one.probability)}"
        axes[column].set_xlabel(said, fontsize=9, color="#444")


def _of_class(mask: MaskStory) -> str:
    label = textwrap.shorten(mask.label, 26)
    return f"{label}\n{percent(mask.before)} → {percent(mask.after)}"


def _image(axes: Axes, image: object) -> None:
    axes.imshow(np.asarray(image))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
