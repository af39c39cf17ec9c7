"""Write the page of a run from its folder alone, without the data and the network."""

from __future__ import annotations

import os
from pathlib import Path

from relook.folder import read_settings
from relook.report.comparison import comparison_page
from relook.report.evaluation import evaluation_page

_PAGES = {"evaluation": evaluation_page, "comparison": comparison_page}


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write report.html in the folder of an evaluation or a comparison, from its files.

    The page shows the images that `keep_gallery` or `keep_cases` saved, if any.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder holds no such run, one of another format, or cannot be read.
        OSError: the page cannot be written.

    >>> from relook.report.run import write_report
    >>> evaluation = relook.evaluate(corrector, "photos", "run")
    >>> write_report("run").name
    'report.html'
    """
    place = Path(folder)
    _PAGES[read_settings(place, *_PAGES)["kind"]](place)
    return place / "report.html"
