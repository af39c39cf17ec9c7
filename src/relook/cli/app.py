"""The `relook` command, to which the other files of this folder add their commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from relook import streams
from relook.cli.messages import FAILED, complain
from relook.errors import RelookError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        import relook

        typer.echo(f"relook {relook.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def relook_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """A second look for trained image classifiers, without retraining."""


def main() -> None:
    """Entry point of the `relook` command."""
    streams.prepare()
    try:
        app(prog_name="relook")
    except RelookError as error:
        complain(str(error))
        sys.exit(FAILED)
    except OSError:
        failure = streams.failure()
        if failure is None:
            raise  # another error, not one of standard output
        complain(f"the output cannot be written ({failure.strerror})")
        sys.exit(FAILED)
    finally:
        streams.failure()
