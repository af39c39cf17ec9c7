"""`relook evaluate`: accuracy and cost of a second look on labelled images."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relook.cli.app import app
from relook.cli.messages import (
    LONG,
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
from relook.cli.options import (
    ClassOrder,
    EngineOptions,
    Json,
    LookOptions,
    NetworkOptions,
    given_by,
)
from relook.folder import refuse_address

if TYPE_CHECKING:
    from relook.classifier import Classifier
    from relook.correction import Corrector
    from relook.evaluation import Evaluation, GateOfShare, LabelledImages
    from relook.looks import Preset
    from relook.runs.on_ray import OnRay


@app.command(
    epilog="Example: relook evaluate photos --output run --versus flip,tencrop  (photos: a folder "
    "with a folder of images for each class, or a table)"
)
@given_by(network=NetworkOptions, looking=LookOptions, where=EngineOptions)
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
    where: EngineOptions,
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
            help="Learn the views, their weights, the gate and a temperature on half of the images "
            "(options that you give are kept), evaluate on the other half, and save what was "
            "learnt.",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="With --tune --look poster: also try exact Score-CAM, which may take hundreds of "
            "forward passes per unsure image.",
        ),
    ] = False,
    max_cost: Annotated[
        float | None,
        typer.Option(
            metavar="C",
            min=1.0,
            show_default="that of the preset",
            help="With --tune: the mean cost of an image that may be spent, in forward passes at "
            "the network's own input size.",
        ),
    ] = None,
    risk: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            help="With --tune: find the confidence below which an answer is not to be relied on, "
            "so that at most this share of the others is wrong; for example 0.05.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the accuracy and cost of a second look on labelled images, and write a report."""
    with usage_errors():
        for path in (data, output):
            refuse_address(path)
    if exact and not tune:
        refuse("--exact goes with --tune; without it Score-CAM is exact unless --fast is given")
    if max_cost is not None and not tune:
        refuse("--max-cost goes with --tune; without it, --gate decides what is spent")
    if risk is not None and not tune:
        refuse("--risk goes with --tune, which finds the threshold for it")
    if risk is not None and not 0 < risk < 1:
        refuse(f"--risk is a share of wrong answers above 0 and below 1, such as 0.05, not {risk}")
    with usage_errors():
        from relook.evaluation import read_data, rivals_of
        from relook.evaluation.matching import BY_ORDER
        from relook.evaluation.tuning import LOOKS, PRESET
        from relook.looks import Preset

        share = looking.share
        preset = (looking if share is None else replace(looking, gate=None)).preset()
        classifier = network.load()
        open_look = tune and looking.look is None
        if open_look:
            given = ["fast" if preset.budget == "fast" else "budget"] if preset.budget else []
            given += [option for option in preset.options if option != "budget"]
            given += ["exact"] if exact else []
            if given:
                refuse(
                    f"--{' and --'.join(given)} with --tune needs the look that it "
                    "belongs to, such as --look poster or --look best+poster"
                )
            preset = Preset(PRESET, k=preset.k, gate=preset.gate)
        if tune and preset.learnt is not None:
            refuse("a tuned look cannot be tuned again; give --tune the name of a look, or none")
        corrector = _corrector(classifier, preset)
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
        corrector = _corrector(classifier, preset)
    say_model(corrector)
    say_second_networks([corrector, *others.values()])
    say_data(labelled, "image")
    if class_order and not labelled.matched.startswith(BY_ORDER):
        typer.echo("--class-order is not needed: the classes are known by their names", err=True)
    _warn_of_training(network.model, labelled)
    with rows_kept(output), where.connected(classifier) as cluster:
        if tune:
            corrector, labelled = _tune(
                classifier,
                labelled,
                output,
                cluster,
                keep=preset,
                looks=LOOKS if open_look else None,
                exact=exact,
                max_cost=max_cost,
                risk=risk,
                gate_found=found,
            )
        evaluation = _evaluate(corrector, labelled, output, rivals, found, cluster)
    _print(evaluation, corrector, as_json)
    typer.echo(f"report: {output / 'report.html'}", err=True)
    raise typer.Exit(
        say_errors(evaluation.table["error"].drop_null().to_pylist(), len(evaluation.table), output)
    )


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
    cluster: OnRay | None,
    **wanted: Any,
) -> tuple[Corrector, LabelledImages]:
    """Learn from one half of the data; return the corrector and the other half."""
    from relook.cli.progress import evaluation_bar
    from relook.correction import Corrector
    from relook.evaluation import Run, tune
    from relook.report.findings import judged
    from relook.words import count

    half, other = data.halves()
    dashboard = cluster.dashboard if cluster else ""
    with evaluation_bar("tuning", len(half), dashboard, Run.count(output / "tuning")) as bar:
        tuning = tune(
            classifier,
            half,
            output,
            engine=cluster or "local",
            on_rows=bar,
            on_forecast=partial(say_forecast, "to tune", 0.0),
            **wanted,
        )
    for reason in tuning.left_out:
        typer.echo(f"not tried: {reason}", err=True)
    file = output / "tuned.json"
    best = tuning.candidates[0]
    typer.echo(
        f"chosen from {len(tuning.candidates):,} ways on {count(tuning.images, 'image')}: "
        f"{tuning.chosen.describe()} ({tuning.why}; fixed {best.pairing.fixed}, broke "
        f"{best.pairing.broken})",
        err=True,
    )
    learnt = tuning.chosen.learnt
    if learnt is not None:
        for sentence in judged(learnt.after):
            typer.echo(sentence, err=True)
    typer.echo(f"saved: {file}, for --look and Corrector(look=...)", err=True)
    return Corrector(classifier, look=str(file)), other


def _evaluate(
    corrector: Corrector,
    data: LabelledImages,
    output: Path,
    rivals: list[str],
    found: GateOfShare | None,
    cluster: OnRay | None,
) -> Evaluation:
    """The run and its report; nothing is printed before both are written."""
    from relook.cli.progress import evaluation_bar, progress_bars
    from relook.evaluation import Run, evaluate
    from relook.report.gallery import keep_gallery
    from relook.report.run import write_report

    dashboard = cluster.dashboard if cluster else ""
    with evaluation_bar("images", len(data), dashboard, Run.count(output)) as bar:
        evaluation = evaluate(
            corrector,
            data,
            output,
            versus=rivals,
            gate_found=found,
            engine=cluster or "local",
            on_rows=bar,
            on_forecast=partial(say_forecast, "to evaluate", LONG),
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
    print_statistics(
        Console(),
        evaluation.statistics,
        found,
        evaluation.name,
        evaluation.qualities,
        evaluation.risk,
    )
