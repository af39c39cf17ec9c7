"""`relook report`: the page of a run, made again from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relook.cli.app import app
from relook.cli.messages import FAILED, complain, usage_errors


@app.command(epilog="Example: relook report run  (run: the --output of relook evaluate)")
def report(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of relook evaluate or relook compare."),
    ],
) -> None:
    """Make the page of a run again, from its folder alone: without the data and the model."""
    with usage_errors():
        from relook.report import write_report

        try:
            page = write_report(run)
        except OSError as error:
            complain(f"{run / 'report.html'}: cannot be written ({error.strerror})")
            raise typer.Exit(FAILED) from None
    typer.echo(f"report: {page}", err=True)
