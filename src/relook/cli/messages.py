"""Messages of the commands on stderr, and the exit statuses that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from relook.errors import RelookError
from relook.storage import is_address

if TYPE_CHECKING:
    from relook.correction import Corrector
    from relook.evaluation import Forecast, LabelledImages

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
LONG = 20.0
"""Seconds from which the expected duration of a run is printed before it starts."""
_ERRORS_SHOWN = 20


def complain(message: str) -> None:
    """Print a message to stderr, as one line."""
    typer.echo(f"relook: {' '.join(message.split())}", err=True)


def refuse(message: str) -> NoReturn:
    """Print a message to stderr and exit: the command cannot be run with these arguments."""
    complain(message)
    raise typer.Exit(BAD_USAGE)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Exit with status 2 on errors inside: before the first image, they are errors of usage."""
    try:
        yield
    except RelookError as error:
        refuse(str(error))


@contextmanager
def rows_kept(output: str | Path) -> Iterator[None]:
    """When a run fails or is interrupted, print that its rows are kept and how to continue."""
    try:
        yield
    except RelookError as error:
        _refuse_run(error)
    except OSError as error:
        complain(f"{_shown(output)}: cannot be written ({error}); the rows so far are kept")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        again = "run the same command again to continue"
        complain(f"stopped with {_kept(output)}; {again} ({_shown(output)})")
        raise typer.Exit(INTERRUPTED) from None


def _shown(output: str | Path) -> str:
    """A run's folder without passwords."""
    from relook.folder import folder_at

    return str(folder_at(output))


def _kept(output: str | Path) -> str:
    """The number of rows in a run's folder, in words."""
    from relook.evaluation import Run
    from relook.words import count

    chosen_on = Run.count(Path(output) / "tuning") if not is_address(output) else 0
    images = Run.count(output)
    choosing = f" and {chosen_on:,} to choose on" if chosen_on else ""
    return f"{count(images, 'image')} done{choosing}"


def _refuse_run(error: RelookError) -> NoReturn:
    """Exit with status 2 if the data or the run's folder cannot be used, 1 if the network fails."""
    from relook.evaluation import DataError, RunError

    complain(str(error))
    raise typer.Exit(BAD_USAGE if isinstance(error, DataError | RunError) else FAILED)


def make_folder(folder: Path) -> None:
    """Make the output folder first, so that no work is lost if this fails."""
    from relook.folder import refuse_address

    with usage_errors():
        refuse_address(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"{folder}: the folder cannot be made ({error.strerror}); pass a folder as --output")


def say_model(corrector: Corrector) -> None:
    """Print the network, its target layer, k, the gate, and the size and range of its input."""
    classifier, gate = corrector.classifier, corrector.gate
    layer = ""
    if corrector.needs_activations:
        layer = f"target layer {classifier.target_layer} ({classifier.layout}), "
    words = f"gate {gate.setting}"
    if not gate.below:
        words += " (no second look)"
    elif gate.setting == "none":
        words = "no gate"
    else:
        words += f" (a second look where {gate.name} is below it)"
    height, width = classifier.input_size
    low, high = classifier.input_range
    typer.echo(
        f"{classifier.name}: {layer}k = {corrector.k}, {words}, input {height}×{width} with values "
        f"from {low:.3g} to {high:.3g}, on {classifier.device}",
        err=True,
    )


def say_second_networks(correctors: Sequence[Corrector]) -> None:
    """Print each second network of the looks, with its input size and cost."""
    from relook.cascade import forward_cost, is_counted
    from relook.looks import networks

    first = correctors[0].classifier
    looks = [corrector.look for corrector in correctors]
    for network in dict.fromkeys(network for look in looks for network in networks(look)):
        height, width = network.input_size
        by = "by their multiply-adds" if is_counted(network, first) else "by the clock"
        typer.echo(
            f"second network {network.name}: input {height}×{width}, on {network.device}; a "
            f"forward pass costs {forward_cost(network, first):.2f} of {first.name}'s, {by}",
            err=True,
        )


def say_data(data: LabelledImages, what: str) -> None:
    """Print the number of images, how their labels were matched, and which files are not used."""
    from relook.words import count

    typer.echo(
        f"{count(len(data), what)}, labels matched {data.matched}: {data.examples}", err=True
    )
    if data.left_out:
        typer.echo(f"left out: {data.left_out}", err=True)


def say_forecast(what: str, least: float, expected: Forecast) -> None:
    """Print the expected work of a run, if it takes at least `least` seconds."""
    from relook.words import count, duration

    if expected.seconds < least:
        return
    typer.echo(
        f"{what}: {count(expected.images, 'image')}, of which about {expected.unsure:,} will get a "
        f"second look: about {expected.forwards:,} forward passes, {duration(expected.seconds)} "
        f"at the measured {expected.rate:,.0f} a second",
        err=True,
    )


def say_errors(errors: Sequence[str], images: int, output: str | Path) -> int:
    """Print why images could not be used, of this many in all; return the exit status."""
    for error in errors[:_ERRORS_SHOWN]:
        complain(error)
    if errors:
        complain(f"{len(errors):,} of {images:,} images could not be used; see {output}")
    return FAILED if errors else DONE
