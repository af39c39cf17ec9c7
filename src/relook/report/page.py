"""Self-contained HTML pages: one file, nothing fetched, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from relook.report.tiles import data_uri
from relook.words import percent, sentence


def render_page(template: str, file: Path, **context: Any) -> None:
    """Write `file` from a template of relook/report/templates."""
    environment = Environment(
        loader=PackageLoader("relook.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["uri"] = data_uri
    environment.filters["percent"] = percent
    environment.filters["sentence"] = sentence
    page = environment.get_template(template).render(**context)
    # What is no text in the name of a file is shown as a code.
    file.write_text(page, encoding="utf-8", errors="backslashreplace")
