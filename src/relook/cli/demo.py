"""`relook demo`: a page that shows the method on a few real photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relook.cli.app import app
from relook.cli.messages import make_folder, usage_errors


@app.command(epilog="Example: relook demo --output demo")
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write the page to.")] = Path(
        "relook-demo"
    ),
) -> None:
    """Write a page that shows the method on a few real photos. Needs no network access."""
    make_folder(output)
    with usage_errors():
        from relook.cli.progress import progress_bars
        from relook.demo import photos, write_demo

        page = output / "index.html"
        count = len(photos())
    with progress_bars(count) as bars:
        write_demo(page, bars.show)
    typer.echo(f"The demo is at {page.resolve()}")
    typer.echo("Next, try a photo of yours: relook predict photo.jpg --output pictures", err=True)
