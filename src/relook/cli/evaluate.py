"""`relook evaluate`: accuracy and cost of a second look on labelled images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relook.cli.app import app
from relook.cli.messages import (
    complain,
    refuse,
    rows_kept,
    say_data,
    say_errors,
    say_forecast,
    say_model,
    say_second_networks,
    usage_errors,
)
from relook.cli.options import ClassOrder, Json, LookOptions, NetworkOptions, given_by

if TYPE_CHECKING:
    from relook.classifier import Classifier
    from relook.correction import Corrector
    from relook.evaluation import Evaluation, GateOfShare, LabelledImages
    from relook.looks import Preset

_LONG = 20.0
"""Seconds from which the expected duration of an evaluation is printed before it starts."""
_FEW = 10
"""With fewer changed answers, it is mostly chance which of many settings is best."""


@app.command(
    epilog="Example: relook evaluate photos --output run --versus flip,tencrop  (photos: a folder "
    "with a folder of images for each class, or a table)"
)
@given_by(network=NetworkOptions, looking=LookOptions)
def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: a folder with a folder of images for each class, or a CSV or "
            "Parquet table with the columns image and label.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(help="Folder to write the results to; an interrupted run in it is continued."),
    ],
    network: NetworkOptions,
    looking: LookOptions,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Evaluate on a random sample of N images."),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            metavar="LOOK,LOOK",
            help="Other looks to compare with on the same images, for example flip,tencrop.",
        ),
    ] = None,
    class_order: ClassOrder = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Choose the look, k, gate, fill, attribution and budget on half of the images "
            "(options that you give are kept), evaluate on the other half, and save the choice.",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="With --tune: also try exact Score-CAM, which may take hundreds of forward passes "
            "per unsure image.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure the accuracy and cost of a second look on labelled images, and write a report."""
    if exact and not tune:
        refuse("--exact goes with --tune; without it Score-CAM is exact unless --fast is given")
    with usage_errors():
        from relook.evaluation import read_data, rivals_of
        from relook.evaluation.matching import BY_ORDER
        from relook.evaluation.tuning import LOOKS
        from relook.looks import Preset

        share = looking.share
        preset = (looking if share is None else replace(looking, gate=None)).preset()
        classifier = network.load()
        # The look is chosen later; flip stands in for it, as it needs no target layer.
        open_look = tune and looking.look is None
        chosen = Preset("flip", k=preset.k, gate=preset.gate) if open_look else preset
        corrector = _corrector(classifier, chosen)
        labelled = read_data(data, classifier.labels, class_order)
        if limit is not None:
            labelled = labelled.sample(limit)
        rivals = [name.strip() for name in (versus or "").split(",") if name.strip()]
        # Kept until the end, so that second networks are not loaded twice.
        others = rivals_of(corrector, rivals)
    found = None
    if share is not None:
        with rows_kept(output):
            found = _gate_of_share(classifier, labelled, output, share)
        preset = replace(preset, gate=found)
        corrector = _corrector(classifier, replace(chosen, gate=found))
    say_model(corrector)
    say_second_networks([corrector, *others.values()])
    say_data(labelled, "image")
    if class_order and not labelled.matched.startswith(BY_ORDER):
        typer.echo("--class-order is not needed: the classes are known by their names", err=True)
    _warn_of_training(network.model, labelled)
    with rows_kept(output):
        if tune:
            tried = LOOKS if open_look else (preset.look,)
            corrector, labelled = _tune(classifier, labelled, output, preset, tried, exact, found)
        evaluation = _evaluate(corrector, labelled, output, rivals, found)
    _print(evaluation, corrector, as_json)
    typer.echo(f"report: {output / 'report.html'}", err=True)
    raise typer.Exit(say_errors(evaluation.table, output))


def _corrector(classifier: Classifier, preset: Preset) -> Corrector:
    """A corrector with the given gate, else the look's own, else the one for ambiguous images."""
    from relook.correction import Corrector
    from relook.gate import AMBIGUOUS, Gate

    return Corrector(classifier, gate=preset.gate_or(Gate(AMBIGUOUS)), look=preset)


def _warn_of_training(model: str, data: LabelledImages) -> None:
    """Warn if a network of train-multicam was trained on some of the images."""
    from relook.folder import run_of

    run = run_of(model)
    if run is None:
        return
    from relook.multicam import Training, seen_in_training

    seen = len(seen_in_training(Training.read(run[0]), data))
    if seen:
        complain(
            f"{model} was trained on {seen:,} of these {len(data):,} images: its accuracy will be "
            "overestimated"
        )


def _tune(
    classifier: Classifier,
    data: LabelledImages,
    output: Path,
    keep: Preset,
    looks: Sequence[str],
    exact: bool,
    found: GateOfShare | None,
) -> tuple[Corrector, LabelledImages]:
    """Choose settings on one half of the data; return their corrector and the other half."""
    from relook.cli.progress import evaluation_bar
    from relook.correction import Corrector
    from relook.evaluation import tune
    from relook.words import count

    half, other = data.halves()
    with evaluation_bar("choosing", len(half)) as bar:
        tuning = tune(
            classifier,
            half,
            output,
            keep=keep,
            looks=looks,
            exact=exact,
            gate_found=found,
            on_rows=bar,
            on_forecast=partial(say_forecast, "to choose", 0.0),
        )
    for reason in tuning.left_out:
        typer.echo(f"not tried: {reason}", err=True)
    file = output / "tuned.json"
    best = tuning.candidates[0].pairing
    typer.echo(
        f"chosen from {len(tuning.candidates):,} settings on {count(tuning.images, 'image')}: "
        f"{tuning.chosen.describe()} (fixed {best.fixed}, broke {best.broken})",
        err=True,
    )
    if not any(c.pairing.fixed or c.pairing.broken for c in tuning.candidates):
        typer.echo(
            "none of the settings changed an answer: there was nothing to choose by", err=True
        )
    elif max(c.pairing.fixed + c.pairing.broken for c in tuning.candidates) < _FEW:
        typer.echo(
            f"no setting changed {_FEW} answers: with so few images, the best of many settings is "
            "best by chance",
            err=True,
        )
    typer.echo(f"saved: {file}, for --look and Corrector(look=...)", err=True)
    return Corrector(classifier, look=str(file)), other


def _evaluate(
    corrector: Corrector,
    data: LabelledImages,
    output: Path,
    rivals: list[str],
    found: GateOfShare | None,
) -> Evaluation:
    """The run and its report; nothing is printed before both are written."""
    from relook.cli.progress import evaluation_bar, progress_bars
    from relook.evaluation import evaluate
    from relook.report import keep_gallery, write_report

    with evaluation_bar("images", len(data)) as bar:
        evaluation = evaluate(
            corrector,
            data,
            output,
            versus=rivals,
            gate_found=found,
            on_rows=bar,
            on_forecast=partial(say_forecast, "to evaluate", _LONG),
        )
    with progress_bars(1) as bars:
        keep_gallery(evaluation, corrector, data, output, bars.show)
    write_report(output)
    return evaluation


def _gate_of_share(
    classifier: Classifier, data: LabelledImages, output: Path, share: float
) -> GateOfShare:
    """Find and print the gap that the least sure share of the data lies below."""
    from relook.cli.progress import evaluation_bar
    from relook.evaluation import GateOfShare, gate_of_share
    from relook.evaluation.share import SAMPLE
    from relook.words import count

    found = GateOfShare.of_run(output, share)
    if found is None:
        with evaluation_bar("finding the gate", min(SAMPLE, len(data))) as bar:
            found = gate_of_share(classifier, data, share, on_rows=bar)
    typer.echo(
        f"gate {100 * share:g}%: of {count(found.images, 'image')} the {found.unsure:,} least sure "
        f"have {found}",
        err=True,
    )
    return found


def _print(evaluation: Evaluation, corrector: Corrector, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(evaluation.summary()))
        return
    from rich.console import Console

    from relook.cli.tables import print_statistics
    from relook.report.findings import find

    found = find(evaluation.statistics, corrector.gate)
    print_statistics(Console(), evaluation.statistics, found, evaluation.name)
