"""`relook train-multicam` and `relook compare`: train MultiCAM, and compare it with relook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from relook.cli.app import app
from relook.cli.messages import (
    FAILED,
    INTERRUPTED,
    complain,
    refuse,
    rows_kept,
    say_data,
    say_errors,
    usage_errors,
)
from relook.cli.options import Budget, Device, Fast, GateGiven, Json, budget_of, gate_of
from relook.errors import ModelError, RelookError

if TYPE_CHECKING:
    from relook.evaluation import LabelledImages
    from relook.gate import Gate
    from relook.multicam import Comparison, Trained


@app.command(
    "train-multicam",
    epilog="Example: relook train-multicam scenes --output run  (scenes: train/ and test/, each "
    "with a folder of images for each class)",
)
def train_multicam(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: a folder with train/ and test/, each with a folder of images "
            "for each class; or class folders or a table, of which 30 % are set aside as test "
            "images.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder to write the run to; an interrupted training in it is continued."
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(
            metavar="M",
            help="Architecture of both networks: bundled/NAME, timm/NAME, torchvision/NAME or "
            "module:function. It must end in global average pooling and one fully connected layer.",
        ),
    ] = "bundled/efficientnet_lite0",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="bundled|none|FILE",
            help="Initial weights of both networks: the installed ones (bundled), random ones "
            "(none), or those of a checkpoint, except its class layer. By default bundled, or for "
            "other backbones the weights of their library.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Maximum number of epochs for each of the three stages; by default 8, or 40 from "
            "random weights.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="S", help="Random seed of the split and the training.")
    ] = 0,
    device: Device = None,
) -> None:
    """Train MultiCAM: a second network on the regions where the first one saw the classes."""
    from rich.console import Console

    from relook.cli.progress import training_bar
    from relook.cli.tables import print_training
    from relook.evaluation import DataError
    from relook.folder import RunError
    from relook.models import load
    from relook.multicam import train_multicam as train

    try:
        with training_bar() as bar:
            training = train(
                data,
                output,
                load=load,
                backbone=backbone,
                weights=weights,
                epochs=epochs,
                seed=seed,
                device=device,
                on_images=bar.images,
                on_progress=bar,
            )
    except (DataError, RunError, ModelError) as error:
        refuse(str(error))
    except RelookError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except OSError as error:
        complain(f"{output}: cannot be written ({error}); the training so far is kept")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        complain(f"stopped; run the same command again to continue ({output})")
        raise typer.Exit(INTERRUPTED) from None
    print_training(Console(), training)
    if left_out := training.settings["data"].get("left_out"):
        typer.echo(f"left out: {left_out}", err=True)
    typer.echo(
        f"trained: {output}; use this folder as a model name, for --model and relook.load", err=True
    )
    typer.echo(
        f"Does it help? relook compare {data} --model {output} --output {output}-compared", err=True
    )


@app.command(
    epilog="Example: relook compare scenes --model run --output compared  (run: the output folder "
    "of relook train-multicam)"
)
def compare(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images that the networks were not trained on: a folder with test/, "
            "class folders or a table; or the data of the training, whose test images are used.",
        ),
    ],
    model: Annotated[
        Path, typer.Option(metavar="RUN", help="Output folder of relook train-multicam.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder to write the results to; an interrupted comparison in it is continued."
        ),
    ],
    as_json: Json = False,
    device: Device = None,
    gate: GateGiven = None,
    budget: Budget = None,
    fast: Fast = False,
) -> None:
    """Compare retraining with MultiCAM to correction without training, and write a report."""
    with usage_errors():
        from relook.gate import AMBIGUOUS, Gate
        from relook.models import load
        from relook.multicam import load_trained, unseen_images

        within = budget_of(budget, fast)
        below = gate_of(gate) or Gate(AMBIGUOUS)
        trained = load_trained(model, load=load, device=device)
        labelled = unseen_images(trained.training, data)
    say_data(labelled, "test image")
    if within is None:
        channels = trained.target.layout.channels
        typer.echo(
            f"the poster's maps take up to {channels:,} forward passes per unsure image, or 64 "
            "with --fast",
            err=True,
        )
    with rows_kept(output):
        comparison = _compare(trained, labelled, output, below, within)
    _print_comparison(comparison, as_json)
    typer.echo(f"report: {output / 'report.html'}", err=True)
    raise typer.Exit(
        say_errors(comparison.table["error"].drop_null().to_pylist(), len(comparison.table), output)
    )


def _compare(
    trained: Trained,
    data: LabelledImages,
    output: Path,
    gate: Gate,
    budget: int | Literal["fast"] | None,
) -> Comparison:
    """The run and its report; nothing is printed before both are written."""
    from relook.cli.progress import evaluation_bar
    from relook.evaluation import Run
    from relook.multicam import compare as run
    from relook.report.comparison import keep_cases
    from relook.report.run import write_report

    with evaluation_bar("images", len(data), resumed=Run.count(output)) as bar:
        comparison = run(trained, data, output, gate=gate, budget=budget, on_rows=bar)
    keep_cases(comparison, trained, data, output)
    write_report(output)
    return comparison


def _print_comparison(comparison: Comparison, as_json: bool) -> None:
    from rich.console import Console

    from relook.cli.tables import print_comparison
    from relook.report.findings import find_comparison

    if as_json:
        typer.echo(json.dumps(comparison.summary()))
    else:
        print_comparison(Console(), comparison, find_comparison(comparison))
