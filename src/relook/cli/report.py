"""`relook report`: the report of a run, written again from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relook.cli.app import app
from relook.cli.messages import FAILED, complain, usage_errors


@app.command(epilog="Example: relook report run  (run: the output folder of relook evaluate)")
def report(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Output folder of relook evaluate or relook compare."),
    ],
) -> None:
    """Write the report of a run again, from its folder alone: without its images and its model."""
    with usage_errors():
        from relook.report.run import write_report

        try:
            page = write_report(run)
        except OSError as error:
            complain(f"{run / 'report.html'}: cannot be written ({error.strerror})")
            raise typer.Exit(FAILED) from None
    typer.echo(f"report: {page}", err=True)
