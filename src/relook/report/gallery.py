"""The gallery of images on a page, saved in the run's folder so that they are corrected only once.

RUN/gallery holds `gallery.json`, with the text about each image, and the pictures as PNG files. The
folder appears only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow
from numpy.typing import NDArray
from PIL import Image

from relook.correction import Corrector
from relook.errors import RelookError, first_line
from relook.evaluation import Evaluation, LabelledImages, Row, RunError, from_table
from relook.folder import write_atomically
from relook.gate import Gate
from relook.report.story import ClassStory, MaskStory, Story, ViewStory, tell

GALLERY = 6
"""Most fixed, and most broken, images that are shown."""

OnGallery = Callable[[str, int, int], None]
"""Called with (image, forward passes done, all forward passes)."""

Picture = Callable[[str], Image.Image]
"""Loads the picture of this name from a gallery's folder."""

Kept = TypeVar("Kept")

_FOLDER = "gallery"


@dataclass(frozen=True)
class Shown:
    """One image of a gallery.

    Attributes:
        story: its correction.
        label: its true class.
    """

    story: Story
    label: str


def keep_gallery(
    evaluation: Evaluation,
    corrector: Corrector,
    data: LabelledImages,
    folder: str | os.PathLike[str],
    progress: OnGallery | None = None,
) -> None:
    """Save a gallery of fixed and broken images for the run's page, with their maps and views.

    At most `GALLERY` images of each kind, evenly spread over the data, are corrected once more.
    An existing gallery of the same results is kept.

    Args:
        evaluation: the result of the evaluation.
        corrector: the corrector that was evaluated.
        data: the data of the evaluation.
        folder: the folder of the run.
        progress: called with (image, forward passes done, all forward passes).

    Raises:
        OSError: the folder cannot be written.

    >>> from relook.evaluation import read_data
    >>> from relook.report.gallery import keep_gallery
    >>> from relook.report.run import write_report
    >>> data = read_data("photos", classifier.labels)
    >>> evaluation = relook.evaluate(corrector, data, "run")
    >>> keep_gallery(evaluation, corrector, data, "run")
    >>> write_report("run").name
    'report.html'
    """

    def ask(row: Row) -> Shown:
        told = partial(progress, f"gallery: {Path(row.image).name}") if progress else None
        correction = corrector.correct(data.images[row.index].open(), told)
        if row.after:  # show the time that the run measured
            correction = replace(correction, image=row.image, seconds=row.after.seconds)
        return Shown(tell(correction), evaluation.labels[row.label])

    keep(folder, chosen(evaluation), ask, _shown)


def read_gallery(
    evaluation: Evaluation, folder: str | os.PathLike[str]
) -> dict[str, list[Shown]] | None:
    """Read the gallery that `keep_gallery` saved, "fixed" and "broken"; None if there is none.

    Raises:
        RunError: the gallery is damaged.
    """
    return read(folder, chosen(evaluation), _shown)


def chosen(evaluation: Evaluation) -> dict[str, list[Row]]:
    """The rows of the images to show."""
    table = evaluation.table
    return {kind: spread(table, table[kind].to_numpy(), GALLERY) for kind in ("fixed", "broken")}


def spread(table: pyarrow.Table, wanted: NDArray[np.bool_], count: int) -> list[Row]:
    """At most `count` of the wanted rows of a table, evenly spread over the data."""
    (places,) = wanted.nonzero()
    count = min(count, len(places))
    some = [int(places[place * len(places) // count]) for place in range(count)]
    return from_table(table.take(pyarrow.array(some, pyarrow.int64())))


def keep(
    folder: str | os.PathLike[str],
    rows: Mapping[str, Sequence[Row]],
    ask: Callable[[Row], Kept],
    known: Callable[[dict[str, Any], Picture], Kept],
) -> None:
    """Save a gallery of these rows, unless the folder already holds it.

    Args:
        folder: the folder of the run.
        rows: the rows of each kind.
        ask: makes the gallery entry of a row, a dataclass of plain values and pictures. A row
            for which it raises is left out of the gallery.
        known: rebuilds an entry from its JSON.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        if not any(rows.values()) or read(folder, rows, known) is not None:
            return
    except RunError:
        pass  # damaged: save it again
    place = Path(folder) / _FOLDER
    beside = place.with_name(f"{_FOLDER}.writing")
    for left in (beside, place):
        shutil.rmtree(left, ignore_errors=True)
    beside.mkdir()
    shown: dict[str, list[Kept]] = {kind: [] for kind in rows}
    for kind, of_kind in rows.items():
        for row in of_kind:
            try:
                shown[kind].append(ask(row))
            except (RelookError, RuntimeError, MemoryError):
                continue  # worked in the run, for example before memory ran out
    names = iter(range(1, 10_000))

    def plain(value: Any) -> Any:
        if isinstance(value, Image.Image):
            name = f"{next(names):03}.png"
            value.save(beside / name)
            return name
        if isinstance(value, Gate):
            return value.setting
        return {field.name: getattr(value, field.name) for field in fields(value)}

    content = {"rows": _digest(rows), "shown": shown}
    text = json.dumps(content, default=plain, indent=1, ensure_ascii=False)
    write_atomically(beside / "gallery.json", text)
    beside.rename(place)


def read(
    folder: str | os.PathLike[str],
    rows: Mapping[str, Sequence[Row]],
    known: Callable[[dict[str, Any], Picture], Kept],
) -> dict[str, list[Kept]] | None:
    """Read the gallery that `keep` saved; None if there is none, or one of other rows.

    Raises:
        RunError: the gallery is damaged.
    """
    place = Path(folder) / _FOLDER
    file = place / "gallery.json"

    def picture(name: str) -> Image.Image:
        with Image.open(place / Path(name).name) as image:
            return image.convert("RGB")

    if not any(rows.values()):
        return {kind: [] for kind in rows}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["rows"] != _digest(rows):
            return None
        return {kind: [known(one, picture) for one in found["shown"][kind]] for kind in rows}
    except FileNotFoundError as error:
        if not place.exists():
            return None
        raise _damaged(place, error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(place, error) from error


def _damaged(place: Path, error: Exception) -> RunError:
    return RunError(
        f"{place}: cannot be read ({first_line(error)}); delete this folder and repeat the command "
        "of the run"
    )


def _digest(rows: Mapping[str, Sequence[Row]]) -> str:
    """A digest of the rows and their answers, to recognise the gallery of another run."""
    said = {
        kind: [
            [row.index, row.image, row.label, *(a.probabilities for a in row.answers.values())]
            for row in of_kind
        ]
        for kind, of_kind in rows.items()
    }
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _shown(found: dict[str, Any], picture: Picture) -> Shown:
    return Shown(_story(found["story"], picture), found["label"])


def _story(found: dict[str, Any], picture: Picture) -> Story:
    def mask(found: dict[str, Any]) -> MaskStory:
        tile = found["mask_tile"] and picture(found["mask_tile"])
        return MaskStory(**{**found, "map_tile": picture(found["map_tile"]), "mask_tile": tile})

    parts = {
        "gate": Gate.of(found["gate"]),
        "photo": picture(found["photo"]),
        "classes": tuple(ClassStory(**one) for one in found["classes"]),
        "masks": tuple(map(mask, found["masks"])),
        "views": tuple(ViewStory(**{**v, "tile": picture(v["tile"])}) for v in found["views"]),
        "left_out": tuple(found["left_out"]),
        "no_view": tuple(found["no_view"]),
        "possible": tuple(found.get("possible", ())),
    }
    return Story(**{**found, **parts})
