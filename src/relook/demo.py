"""The demo: two kinds of second look at a few real photos, explained on one page."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import relook
from relook.correction import Corrector
from relook.errors import RelookError
from relook.models import DEFAULT_MODEL, load
from relook.report.page import render_page
from relook.report.story import tell

PHOTOS = ("chelsea.png", "rocket.jpg", "coffee.png", "motorcycle_left.png")


def photos() -> list[Path]:
    """Paths of the photos in scikit-image's package, which is not imported.

    Raises:
        RelookError: scikit-image is not installed, or lacks these photos.
    """
    spec = importlib.util.find_spec("skimage")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(folder) / "data" / name for folder in folders for name in PHOTOS]
    found = [file for file in files if file.exists()]
    if not found:
        raise RelookError(
            "the demo's photos come with scikit-image; run: pip install 'relook[demo]'"
        )
    return found


def write_demo(file: Path, progress: Callable[[str, int, int], None]) -> None:
    """Correct the photos with the look "best" and with the poster's method, and write the page.

    Args:
        file: the page to write, in an existing folder.
        progress: called with (photo, forward passes done, all forward passes).

    Raises:
        RelookError: the photos are not installed.
    """
    start = time.perf_counter()
    chosen = photos()
    best = Corrector(load(DEFAULT_MODEL), look="best")
    poster = Corrector(best.classifier, gate=best.gate)
    pairs = []
    for photo in chosen:
        progress(photo.name, 0, 1)
        looks = [best.correct(photo), poster.correct(photo, partial(progress, photo.name))]
        progress(photo.name, 1, 1)
        pairs.append([tell(correction) for correction in looks])
    render_page(
        "demo.html.j2",
        file,
        pairs=pairs,
        model=best.classifier.name,
        layer=best.classifier.target_layer,
        k=poster.k,
        gate=best.gate.below,
        seconds=time.perf_counter() - start,
        version=relook.__version__,
    )
