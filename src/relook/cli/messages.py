"""What the commands say on stderr, and the exit status that goes with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from relook.errors import RelookError

if TYPE_CHECKING:
    import pyarrow

    from relook.correction import Corrector
    from relook.evaluation import Forecast, LabelledImages

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
_ERRORS_SHOWN = 20


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"relook: {' '.join(message.split())}", err=True)


def refuse(message: str) -> NoReturn:
    """The same, and the end: the command cannot be done as it was given."""
    complain(message)
    raise typer.Exit(BAD_USAGE)


@contextmanager
def usage_errors() -> Iterator[None]:
    """What goes wrong before any image is touched is the arguments' fault."""
    try:
        yield
    except RelookError as error:
        refuse(str(error))


@contextmanager
def rows_kept(output: Path) -> Iterator[None]:
    """Whatever stops a run, its rows are kept; this says so, and how to go on."""
    try:
        yield
    except RelookError as error:
        _refuse_run(error)
    except OSError as error:
        complain(f"{output}: cannot be written ({error}); the rows so far are kept")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        complain(f"stopped, with {_kept(output)}; the same command goes on from there ({output})")
        raise typer.Exit(INTERRUPTED) from None


def _kept(output: Path) -> str:
    """How many rows a run's folder holds, in words."""
    from relook.evaluation import Run
    from relook.words import count

    chosen_on, images = map(Run.done, (output / "tuning", output))
    choosing = f" and {chosen_on:,} of the choice" if chosen_on else ""
    return f"{count(images, 'image')} done{choosing}"


def _refuse_run(error: RelookError) -> NoReturn:
    """Data or a folder of no use are the arguments' fault; a network that fails is not."""
    from relook.evaluation import DataError, RunError

    complain(str(error))
    raise typer.Exit(BAD_USAGE if isinstance(error, DataError | RunError) else FAILED)


def make_folder(folder: Path) -> None:
    """Make the output folder now, and not after minutes of work that would have nowhere to go."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"{folder}: cannot be made a folder ({error.strerror}); --output names a folder")


def say_model(corrector: Corrector) -> None:
    """The network, the target layer, k, the gate and the input, and each second network."""
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
    """Each second network that the looks ask, its input and its cost."""
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
    """How many images there are, which classes they were taken for, and what was left out."""
    from relook.words import count

    typer.echo(
        f"{count(len(data), what)}, labels matched {data.matched}: {data.examples}", err=True
    )
    if data.left_out:
        typer.echo(f"left out: {data.left_out}", err=True)


def say_forecast(what: str, least: float, expected: Forecast) -> None:
    """What a run will take, before it begins, if that is at least so many seconds."""
    from relook.words import count, duration

    if expected.seconds < least:
        return
    typer.echo(
        f"{what}: {count(expected.images, 'image')}, of which about {expected.unsure:,} will get a "
        f"second look: about {expected.forwards:,} forward passes, {duration(expected.seconds)} "
        f"at the measured {expected.rate:,.0f} a second",
        err=True,
    )


def say_errors(rows: pyarrow.Table, output: Path) -> int:
    """The images that could not be used; returns the exit status."""
    errors = rows["error"].drop_null().to_pylist()
    for error in errors[:_ERRORS_SHOWN]:
        complain(error)
    if errors:
        complain(f"{len(errors)} of {len(rows)} images could not be used; see {output}")
    return FAILED if errors else DONE
