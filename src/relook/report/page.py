"""Self-contained HTML pages in one file, with light and dark colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from relook.report.tiles import data_uri
from relook.words import percent, sentence


def render_page(template: str, file: Path, **context: Any) -> None:
    """Render a template of relook/report/templates into `file`."""
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
    # Bytes of file names that are not valid text are shown as escapes.
    file.write_text(page, encoding="utf-8", errors="backslashreplace")
