"""The command line: parse, call, print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from relook import streams
from relook.errors import ModelError, RelookError
from relook.text import readable

if TYPE_CHECKING:
    from relook.classifier import Classifier
    from relook.correction import Corrector
    from relook.evaluation import Evaluation, Forecast, GateOfShare, LabelledImages, Row, Tuning
    from relook.gate import Gate
    from relook.looks import Preset
    from relook.multicam import Comparison, Trained

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
_ERRORS_SHOWN = 20
_LONG = 20.0
"""So many seconds of work are said before they begin."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Shared by every command that looks. The choices are spelt out here because asking relook.looks
# for them would import torch; a test keeps the two in step.
Model = Annotated[
    str,
    typer.Option(
        help="bundled/efficientnet_lite0, timm/NAME[.TAG], torchvision/NAME[.WEIGHTS], hf/FOLDER, "
        "net.onnx, module:function, or a folder of train-multicam."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Your weights: safetensors, or what torch.save wrote."),
]
Layer = Annotated[
    str | None, typer.Option(help="The target layer's name; found by itself otherwise.")
]
_OWN = "What a network may not say itself, or otherwise"
TokenGrid = Annotated[
    str | None,
    typer.Option(
        metavar="ROWSxCOLS", rich_help_panel=_OWN, help="Of a transformer's tokens, as in 14x14."
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_OWN,
        help="Names of the classes: one a line, or JSON (a list or a dict).",
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE|HxW",
        rich_help_panel=_OWN,
        help="Of the input, in place of the network's own, as in 224 or 224x320.",
    ),
]
Order = Annotated[
    str | None,
    typer.Option("--layout", metavar="NCHW|NHWC", rich_help_panel=_OWN, help="ONNX: of the input."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B", rich_help_panel=_OWN, help="ONNX: as in 0.5,0.5,0.5, of pixels in [0, 1]."
    ),
]
Std = Annotated[
    str | None, typer.Option(metavar="R,G,B", rich_help_panel=_OWN, help="ONNX: the same way.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; CUDA if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, float16 or bfloat16.")]
K = Annotated[
    int | None,
    typer.Option("-k", help="How many of the most probable classes; 5 by default, 2 for best."),
]
_BEST = (
    "There is --look best too, other views of the photo at a cost of at most 7: of 462 unsure "
    "answers on full-size photos it fixed 30 and broke 11 in our study; the default, the poster's "
    "look, 12 and 15 (with maps from CAM). Measure on your own images first: relook "
    "evaluate."
)
_LONGEST_STEM = 230
"""In bytes, of a picture's name: systems allow 255 with all endings."""
_FEW = 10
"""So few changed answers say little about which of many ways is better."""
_GATE_HELP = (
    "Look again only where gap(1,5) is below this (0 to 1), or, as gap2:0.6, where gap(1,2), the "
    "lead of the first class over the second, is below 0.6; none: always."
)
_OWN_GATE = "the look's own, or "
LookName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        show_default="poster",
        help="poster (mask images); quick or best (all of the photo and more, at a cost of at most "
        "4 and 7; best fixed 30 and broke 11 of 462 unsure answers on full-size photos: measure on "
        "yours); uncropped, whole, larger, ends, zoom, flip, rotations, symmetries, fivecrop, "
        "tencrop; network:MODEL, which asks a second network of the same classes; several joined "
        "by +; or a file that --tune saved.",
    ),
]
FillName = Annotated[
    str | None,
    typer.Option(help="What a hidden pixel becomes: black (default), mean or blur."),
]
AttributionName = Annotated[str | None, typer.Option(help="scorecam (default), cam or gradcam.")]
Variant = Annotated[
    str | None,
    typer.Option(help="Of Score-CAM: poster (default), paper, torchcam or gradcam."),
]
Budget = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="At most N masked forwards an image for its maps; all (exact) by default."
    ),
]
Fast = Annotated[bool, typer.Option("--fast", help="The same as --budget 64.")]
ClassOrder = Annotated[
    Literal["string", "natural"] | None,
    typer.Option(
        help="Of the classes, where the folders' names do not tell: string (0, 1, 10, 2; as "
        "torchvision's ImageFolder has it) or natural (0, 1, 2, 10).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]


def _version(wanted: bool) -> bool:
    if wanted:
        import relook

        typer.echo(f"relook {relook.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def relook_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """A second look for trained image classifiers, without retraining."""


@app.command(epilog="Example: relook predict photo.jpg --output pictures")
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for one picture an image: maps, and the views asked about."),
    ] = None,
    as_json: Json = False,
    model: Model = "bundled/efficientnet_lite0",
    checkpoint: Checkpoint = None,
    layer: Layer = None,
    device: Device = None,
    dtype: Dtype = None,
    k: K = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="GAP", help=_GATE_HELP, show_default=f"{_OWN_GATE}none"),
    ] = None,
    look: LookName = None,
    fill: FillName = None,
    attribution: AttributionName = None,
    variant: Variant = None,
    budget: Budget = None,
    fast: Fast = False,
    token_grid: TokenGrid = None,
    labels: Labels = None,
    input_size: InputSize = None,
    layout: Order = None,
    mean: Mean = None,
    std: Std = None,
) -> None:
    """Class probabilities of photos, before and after a second look."""
    if output is not None:
        _make_folder(output)
    with _usage_errors():
        preset = _preset(look, gate, k, fill, attribution, variant, budget, fast)
        preset.check()  # what cannot be is said before the network is loaded
        own = _own(token_grid, labels, input_size, layout, mean, std)
        _refuse_absent(images, as_json)
        classifier = _classifier(model, checkpoint, layer, device, dtype, own)
        corrector = _corrector(classifier, preset, "none")
    status = _predict(corrector, images, output, as_json)
    if look is None and not as_json:
        typer.echo(_BEST, err=True)
    raise typer.Exit(status)


def _predict(corrector: Corrector, images: list[str], output: Path | None, as_json: bool) -> int:
    from rich.console import Console

    from relook.report import save_picture
    from relook.report.story import tell
    from relook.report.terminal import print_story, progress_bars

    _say_model(corrector)
    _say_second_networks([corrector])
    console = Console()
    failed: list[str] = []
    written: set[str] = set()
    begun = 0
    try:
        with progress_bars(len(images)) as bars:
            for image in images:
                bars.begin(readable(Path(image).name))
                begun += 1
                try:
                    correction = corrector.correct(image, bars.forwards)
                except (RelookError, RuntimeError, MemoryError) as error:
                    # RuntimeError: what PyTorch raises, out of memory among it. The others go on.
                    name = readable(image)
                    failed.append(name)
                    message = str(error) if isinstance(error, RelookError) else f"{name}: {error}"
                    _complain(message)
                    if as_json:
                        typer.echo(json.dumps({"image": name, "error": message}))
                    continue
                finally:
                    bars.end()
                if as_json:
                    typer.echo(json.dumps(correction.to_json()))
                    if output is None:
                        continue
                story = tell(correction)
                if not as_json:
                    print_story(console, story)
                if output is not None:
                    try:
                        save_picture(story, output / _picture_name(image, written))
                    except OSError as error:  # the answer stands; the picture is what failed
                        failed.append(readable(image))
                        _complain(f"{readable(image)}: its picture cannot be written ({error})")
    except KeyboardInterrupt:  # wherever in an image it comes
        _complain(f"stopped after {max(0, begun - 1)} of {len(images)} images")
        return INTERRUPTED
    if output is not None and written:
        typer.echo(f"pictures: {output}", err=True)
    if len(failed) > 1 or (failed and len(images) > 1):
        _complain(f"{len(failed)} of {len(images)} images could not be used: {', '.join(failed)}")
    return FAILED if failed else DONE


def _refuse_absent(images: list[str], as_json: bool) -> None:
    """Now, and not after a network was loaded for images none of which is there."""
    from relook.errors import ImageError
    from relook.images import open_image

    if any(os.path.exists(image) and not os.path.isdir(image) for image in images):
        return  # what cannot be read among them is said in its turn
    for image in images:
        try:
            open_image(image)
        except ImageError as error:
            _complain(str(error))
            if as_json:
                typer.echo(json.dumps({"image": readable(image), "error": str(error)}))
    raise typer.Exit(FAILED)


def _make_folder(folder: Path) -> None:
    """Now, and not after minutes of work that would have nowhere to go."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _refuse(f"{folder}: cannot be made a folder ({error.strerror}); --output names a folder")


def _picture_name(image: str, written: set[str]) -> str:
    """Never the image's own name; images of the same name in other folders get a number."""
    stem = Path(image).stem
    while len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = stem[:-1]
    name, number = f"{stem}.relook.png", 1
    while name in written:
        number += 1
        name = f"{stem}-{number}.relook.png"
    written.add(name)
    return name


@app.command(
    epilog="Example: relook evaluate photos --output run --versus flip,tencrop  (photos: a folder "
    "with a folder of images for each class, or a table)"
)
def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder of class folders, or a CSV or Parquet table: image, label.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The run's folder; a run that is there goes on.")],
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only N of the images, at random.")
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            metavar="LOOK,LOOK", help="Rivals on the same images: flip, tencrop, network:MODEL ..."
        ),
    ] = None,
    class_order: ClassOrder = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Choose look, k, gate, fill, attribution and budget on half of the images (what "
            "you give stays), evaluate on the other half, and save the choice.",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="With --tune: try exact Score-CAM too, which may take hundreds of forward passes "
            "for an unsure image.",
        ),
    ] = False,
    as_json: Json = False,
    model: Model = "bundled/efficientnet_lite0",
    checkpoint: Checkpoint = None,
    layer: Layer = None,
    device: Device = None,
    dtype: Dtype = None,
    k: K = None,
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="GAP|SHARE%",
            help=f"{_GATE_HELP} Or, as 20%, at the least sure fifth of the images: which gap that "
            "is, is found first.",
            show_default=f"{_OWN_GATE}0.5",
        ),
    ] = None,
    look: LookName = None,
    fill: FillName = None,
    attribution: AttributionName = None,
    variant: Variant = None,
    budget: Budget = None,
    fast: Fast = False,
    token_grid: TokenGrid = None,
    labels: Labels = None,
    input_size: InputSize = None,
    layout: Order = None,
    mean: Mean = None,
    std: Std = None,
) -> None:
    """Does a second look help on labelled images, and what does it cost? Tables, and a report."""
    if exact and not tune:
        _refuse("--exact goes with --tune; without it Score-CAM is exact unless --fast is given")
    with _usage_errors():
        from relook.correction import AMBIGUOUS
        from relook.evaluation import read_data, rivals_of
        from relook.evaluation.matching import BY_ORDER
        from relook.evaluation.tuning import LOOKS
        from relook.looks import Preset

        share = _share(gate)
        stated = gate if share is None else None
        preset = _preset(look, stated, k, fill, attribution, variant, budget, fast)
        preset.check()
        own = _own(token_grid, labels, input_size, layout, mean, std)
        classifier = _classifier(model, checkpoint, layer, device, dtype, own)
        # What is to be chosen yet needs no target layer; flip stands in.
        chosen = Preset("flip", k=preset.k, gate=preset.gate) if tune and look is None else preset
        corrector = _corrector(classifier, chosen, AMBIGUOUS)
        labelled = read_data(data, classifier.labels, class_order)
        if limit is not None:
            labelled = labelled.sample(limit)
        rivals = [name.strip() for name in (versus or "").split(",") if name.strip()]
        # Kept until the end: a second network is not loaded again while it is.
        others = rivals_of(corrector, rivals)
    found = None
    if share is not None:
        with _going_on(output):
            found = _gate_of_share(classifier, labelled, output, share)
        preset = replace(preset, gate=found.setting)
        corrector = _corrector(classifier, replace(chosen, gate=found.setting), AMBIGUOUS)
    _say_model(corrector)
    _say_second_networks([corrector, *others.values()])
    _say_data(labelled, "image")
    if class_order and not labelled.matched.startswith(BY_ORDER):
        typer.echo("--class-order is not needed: the names tell the classes", err=True)
    _warn_of_training(model, labelled)
    name, tuning = look or preset.look, None
    with _going_on(output):
        if tune:
            tried = (preset.look,) if look else LOOKS
            tuning, corrector, labelled = _tune(
                classifier, labelled, output, preset, tried, exact, found
            )
            name = "tuned"
        evaluation = _evaluate(corrector, labelled, output, rivals, name, tuning, found)
    _print_evaluation(evaluation, corrector, name, as_json)
    typer.echo(f"report: {output / 'report.html'}", err=True)
    raise typer.Exit(_say_errors(evaluation.rows, output))


def _say_data(data: LabelledImages, what: str) -> None:
    """How many images there are, which classes they were taken for, and what was left out."""
    from relook.words import count

    typer.echo(
        f"{count(len(data), what)}, labels matched {data.matched}: {data.examples}", err=True
    )
    if data.left_out:
        typer.echo(f"left out: {data.left_out}", err=True)


def _warn_of_training(model: str, data: LabelledImages) -> None:
    """A folder of train-multicam knows what its networks have seen."""
    from relook.models.load import run_of

    run = run_of(model)
    if run is None:
        return
    from relook.multicam import Training, seen_in_training

    seen = len(seen_in_training(Training.read(run[0]), data))
    if seen:
        _complain(
            f"{model} was trained on {seen:,} of these {len(data):,} images: the figures will "
            "flatter it"
        )


def _tune(
    classifier: Classifier,
    data: LabelledImages,
    output: Path,
    keep: Preset,
    looks: Sequence[str],
    exact: bool,
    found: GateOfShare | None,
) -> tuple[Tuning, Corrector, LabelledImages]:
    """The choice on one half of the data, a corrector of it, and the other half."""
    from relook.correction import Corrector
    from relook.evaluation import tune
    from relook.report.terminal import evaluation_bar
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
            on_forecast=partial(_say_forecast, "to choose", 0.0),
        )
    for reason in tuning.left_out:
        typer.echo(f"not tried: {reason}", err=True)
    file = output / "tuned.json"
    best = tuning.candidates[0].pairing
    typer.echo(
        f"chosen of {len(tuning.candidates):,} ways on {count(tuning.images, 'image')}: "
        f"{tuning.chosen.describe()} (fixed {best.fixed}, broke {best.broken})",
        err=True,
    )
    if not any(c.pairing.fixed or c.pairing.broken for c in tuning.candidates):
        typer.echo("none of them changed an answer: there was nothing to choose by", err=True)
    elif max(c.pairing.fixed + c.pairing.broken for c in tuning.candidates) < _FEW:
        typer.echo(
            f"no way changed {_FEW} answers: these are few images to choose by, and the best of "
            "many ways is then the best by luck",
            err=True,
        )
    typer.echo(f"saved for --look and Corrector(look=...): {file}", err=True)
    return tuning, Corrector(classifier, look=str(file)), other


def _evaluate(
    corrector: Corrector,
    data: LabelledImages,
    output: Path,
    rivals: list[str],
    name: str,
    tuning: Tuning | None,
    found: GateOfShare | None,
) -> Evaluation:
    """The run and its report; nothing is printed before both are written."""
    from relook.evaluation import evaluate
    from relook.report import write_report
    from relook.report.terminal import evaluation_bar, progress_bars

    with evaluation_bar("images", len(data)) as bar:
        evaluation = evaluate(
            corrector,
            data,
            output,
            versus=rivals,
            gate_found=found,
            on_rows=bar,
            on_forecast=partial(_say_forecast, "to evaluate", _LONG),
        )
    with progress_bars(1) as bars:
        write_report(evaluation, corrector, data, output / "report.html", name, tuning, bars.show)
    return evaluation


def _gate_of_share(
    classifier: Classifier, data: LabelledImages, output: Path, share: float
) -> GateOfShare:
    """The gap that the least sure share of the data lies below, and a line that says so."""
    from relook.evaluation import GateOfShare, gate_of_share
    from relook.evaluation.share import SAMPLE
    from relook.report.terminal import evaluation_bar
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


def _print_evaluation(
    evaluation: Evaluation, corrector: Corrector, name: str, as_json: bool
) -> None:
    from rich.console import Console

    from relook.report.findings import find
    from relook.report.terminal import print_statistics

    if as_json:
        typer.echo(json.dumps(evaluation.summary()))
    else:
        found = find(evaluation.statistics, corrector.gate)
        print_statistics(Console(), evaluation.statistics, found, name)


def _say_forecast(what: str, least: float, expected: Forecast) -> None:
    """What a run will take, before it begins, if that is so many seconds."""
    from relook.words import count, duration

    if expected.seconds < least:
        return

    typer.echo(
        f"{what}: {count(expected.images, 'image')}, of which about {expected.unsure:,} will get a "
        f"second look: about {expected.forwards:,} forward passes, {duration(expected.seconds)} "
        f"at the measured {expected.rate:,.0f} a second",
        err=True,
    )


def _say_errors(rows: Sequence[Row], output: Path) -> int:
    """What became of images that could not be used, as an exit status."""
    errors = [row for row in rows if row.error]
    for row in errors[:_ERRORS_SHOWN]:
        _complain(str(row.error))
    if errors:
        _complain(f"{len(errors)} of {len(rows)} images could not be used; see {output}")
    return FAILED if errors else DONE


@contextmanager
def _going_on(output: Path) -> Iterator[None]:
    """Whatever stops a run, its rows are kept, and what is to be done is said."""
    try:
        yield
    except RelookError as error:
        _refuse_run(error)
    except OSError as error:
        _complain(f"{output}: cannot be written ({error}); the rows so far are kept")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        _complain(f"stopped, with {_kept(output)}; the same command goes on from there ({output})")
        raise typer.Exit(INTERRUPTED) from None


def _kept(output: Path) -> str:
    """How many rows a run's folder holds, in words."""
    from relook.evaluation import Run
    from relook.words import count

    chosen_on, images = (len(Run(folder, {}).rows()) for folder in (output / "tuning", output))
    choosing = f" and {chosen_on:,} of the choice" if chosen_on else ""
    return f"{count(images, 'image')} done{choosing}"


def _refuse_run(error: RelookError) -> NoReturn:
    """Data or a folder of no use are the arguments' fault; a network that fails is not."""
    from relook.evaluation import DataError, RunError

    _complain(str(error))
    raise typer.Exit(BAD_USAGE if isinstance(error, DataError | RunError) else FAILED)


def _say_model(corrector: Corrector) -> None:
    from relook.gate import Gate

    classifier = corrector.classifier
    used = ""
    if corrector.needs_activations:
        used = f"target layer {classifier.target_layer} ({classifier.layout}), "
    gate = "no gate" if corrector.gate is None else f"gate {corrector.gate}"
    if corrector.gate == 0:
        gate += " (no second look)"
    elif corrector.gate is not None:
        gate += f" (a second look where {Gate.of(corrector.gate).name} is below it)"
    height, width = classifier.input_size
    low, high = classifier.input_range
    typer.echo(
        f"{classifier.name}: {used}k = {corrector.k}, {gate}, input {height}×{width} with values "
        f"from {low:.3g} to {high:.3g}, on {classifier.device}",
        err=True,
    )


def _say_second_networks(correctors: Sequence[Corrector]) -> None:
    """Each of those that looks ask, what it takes and what it costs."""
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


@app.command(epilog="Example: relook export timm/resnet18 resnet18.onnx")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for --model elsewhere.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="To write.")],
    checkpoint: Checkpoint = None,
    layer: Layer = None,
    dtype: Dtype = None,
    token_grid: TokenGrid = None,
    labels: Labels = None,
) -> None:
    """Write a network as ONNX, with its preprocessing and labels in a .json beside it."""
    if file.suffix.lower() != ".onnx":
        _refuse(f"{file}: name a file that ends in .onnx")
    with _usage_errors():
        own = _own(token_grid, labels, None, None, None, None)
        classifier = _classifier(model, checkpoint, layer, "cpu", dtype, own)
    from relook.models.export import export as write

    try:
        beside = write(classifier, file)
    except RelookError as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None
    height, width = classifier.input_size
    layer = f", target layer {classifier.target_layer}" if classifier.has_target_layer else ""
    typer.echo(f"{classifier.name}: input {height}×{width}{layer}", err=True)
    typer.echo(f"written: {file} and {beside}", err=True)


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
            help="A folder with train/ and test/ class folders; or class folders or a table, of "
            "which 30 % are split off as test images.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="The run's folder; a training that is there goes on.")
    ],
    backbone: Annotated[
        str,
        typer.Option(
            metavar="M",
            help="Of both networks: bundled/, timm/ or torchvision/NAME, or module:function. It "
            "must end in global average pooling and one fully connected layer.",
        ),
    ] = "bundled/efficientnet_lite0",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="bundled|none|FILE",
            help="What both begin from: those that come installed, random ones, or a checkpoint "
            "(without its class layer); by default the first, or those of the backbone's library.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="At most, for each of the three stages; by default 8, or 40 from random weights.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the split and the training.")] = 0,
    device: Device = None,
) -> None:
    """Train MultiCAM: a second network on what the first one looked at, and their fusion."""
    from rich.console import Console

    from relook.evaluation import DataError
    from relook.folder import RunError
    from relook.models.multicam import train_multicam as train
    from relook.report.terminal import print_training, training_bar

    try:
        with training_bar() as bar:
            training = train(
                data,
                output,
                backbone=backbone,
                weights=weights,
                epochs=epochs,
                seed=seed,
                device=device,
                on_images=bar.images,
                on_progress=bar,
            )
    except (DataError, RunError, ModelError) as error:
        _refuse(str(error))
    except RelookError as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None
    except OSError as error:
        _complain(f"{output}: cannot be written ({error}); what is done is kept")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        _complain(f"stopped; the same command goes on from there ({output})")
        raise typer.Exit(INTERRUPTED) from None
    print_training(Console(), training)
    if left_out := training.settings["data"].get("left_out"):
        typer.echo(f"left out: {left_out}", err=True)
    typer.echo(f"trained: {output}; a model name, for --model and relook.load", err=True)
    typer.echo(
        f"Does it pay? relook compare {data} --model {output} --output {output}-compared", err=True
    )


@app.command(
    epilog="Example: relook compare scenes --model run --output compared  (run: of relook "
    "train-multicam)"
)
def compare(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images that the networks were not trained on: a folder with test/, "
            "class folders or a table; or what the training split.",
        ),
    ],
    model: Annotated[
        Path, typer.Option(metavar="RUN", help="The folder of relook train-multicam.")
    ],
    output: Annotated[
        Path, typer.Option(help="The comparison's folder; one that is there goes on.")
    ],
    as_json: Json = False,
    device: Device = None,
    gate: Annotated[
        str | None, typer.Option(metavar="GAP", help=_GATE_HELP, show_default="0.5")
    ] = None,
    budget: Budget = None,
    fast: Fast = False,
) -> None:
    """Retrain with MultiCAM, or just correct? All methods on the same images. Table and report."""
    with _usage_errors():
        from relook.correction import AMBIGUOUS
        from relook.models.multicam import load_trained
        from relook.multicam import unseen_images

        preset = _preset("poster", gate, None, None, None, None, budget, fast)
        preset.check()
        trained = load_trained(model, device)
        labelled = unseen_images(trained.training, data)
    _say_data(labelled, "test image")
    if preset.budget is None:
        channels = trained.target.layout.channels
        typer.echo(
            f"the poster's maps take up to {channels:,} forwards for an unsure image; --fast: 64",
            err=True,
        )
    with _going_on(output):
        comparison = _compare(trained, labelled, output, preset, preset.gate_or(AMBIGUOUS))
    _print_comparison(comparison, as_json)
    typer.echo(f"report: {output / 'report.html'}", err=True)
    raise typer.Exit(_say_errors(comparison.rows, output))


def _compare(
    trained: Trained,
    data: LabelledImages,
    output: Path,
    preset: Preset,
    gate: float | str,
) -> Comparison:
    """The run and its report; nothing is printed before both are written."""
    from relook.multicam import compare as run
    from relook.report.comparison import write_comparison
    from relook.report.terminal import evaluation_bar

    with evaluation_bar("images", len(data)) as bar:
        comparison = run(trained, data, output, gate=gate, budget=preset.budget, on_rows=bar)
    write_comparison(comparison, trained, data, output / "report.html")
    return comparison


def _print_comparison(comparison: Comparison, as_json: bool) -> None:
    from rich.console import Console

    from relook.report.findings import find_comparison
    from relook.report.terminal import print_comparison

    if as_json:
        typer.echo(json.dumps(comparison.summary()))
    else:
        print_comparison(Console(), comparison, find_comparison(comparison))


@app.command(epilog="Example: relook demo --output demo")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("relook-demo"),
) -> None:
    """See the method at work on a few real photos: writes one page, needs no network access."""
    _make_folder(output)
    with _usage_errors():
        from relook.demo import photos, write_demo
        from relook.report.terminal import progress_bars

        page = output / "index.html"
        count = len(photos())
    with progress_bars(count) as bars:
        write_demo(page, bars.show)
    typer.echo(f"The demo is at {page.resolve()}")
    typer.echo("Now a photo of yours: relook predict photo.jpg --output pictures", err=True)


def _gate(text: str | None) -> Gate | None:
    from relook.gate import EXAMPLES, Gate

    if text is None:
        return None
    if text.endswith("%"):
        return Gate.of(text)  # raises, and says where a share can be given
    gate: float | str
    try:
        gate = float(text)
    except ValueError:
        gate = text.lower()
    try:
        return Gate.of(gate)
    except RelookError:
        _refuse(f"--gate takes a number from 0 to 1, or none; not {text!r} ({EXAMPLES})")


def _share(gate: str | None) -> float | None:
    """The share that a gate such as 20% is for; None for other gates."""
    if gate is None or not gate.endswith("%"):
        return None
    try:
        percent = float(gate.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent < 100:
        _refuse(
            f"--gate takes a share of the images between 0% and 100%, as in 20%; not {gate!r} "
            "(none is every image, 0 is no image)"
        )
    return percent / 100


def _budget(budget: int | None, fast: bool) -> int | Literal["fast"] | None:
    if fast and budget is not None:
        _refuse(f"--fast is a budget of its own; drop it or --budget {budget}")
    return "fast" if fast else budget


def _preset(
    look: str | None,
    gate: str | None,
    k: int | None,
    fill: str | None,
    attribution: str | None,
    variant: str | None,
    budget: int | None,
    fast: bool,
) -> Preset:
    """The look's name or file, with what was given beside it."""
    from relook.looks import Preset

    return Preset.of(
        look or Preset().look,
        gate=_gate(gate),
        k=k,
        fill=fill,
        attribution=attribution,
        variant=variant,
        budget=_budget(budget, fast),
    )


def _corrector(classifier: Classifier, preset: Preset, gate: float | str) -> Corrector:
    """With the preset's gate or its look's own, or the command's where there is none."""
    from relook.correction import Corrector

    return Corrector(classifier, k=preset.k, gate=preset.gate_or(gate), look=preset)


def _classifier(
    model: str,
    checkpoint: Path | None,
    layer: str | None,
    device: str | None,
    dtype: str | None,
    own: dict[str, Any],
) -> Classifier:
    from relook.models import load

    return load(model, checkpoint=checkpoint, target_layer=layer, device=device, dtype=dtype, **own)


def _own(
    token_grid: str | None,
    labels: Path | None,
    input_size: str | None,
    layout: str | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """What was said of the network, for `relook.load`."""
    if layout not in (None, "NCHW", "NHWC"):
        _refuse(f"--layout takes NCHW or NHWC, not {layout!r}")
    sides = None
    if input_size is not None:
        text = input_size.lower()
        sides = _numbers("--input-size", text if "x" in text else f"{text}x{text}", "x", "224")
    own: dict[str, Any] = {
        "token_grid": _numbers("--token-grid", token_grid, "x", "14x14"),
        "input_size": sides,
        "layout": layout,
        "mean": _numbers("--mean", mean, ",", "0.5,0.5,0.5"),
        "std": _numbers("--std", std, ",", "0.5,0.5,0.5"),
    }
    if labels is not None:
        from relook.models.sidecar import read_labels

        own["labels"] = read_labels(labels)
    return own


def _numbers(option: str, text: str | None, between: str, example: str) -> tuple[float, ...] | None:
    """Two whole numbers from 1 on with an x between them, or three numbers with commas."""
    if text is None:
        return None
    kind, count = (int, 2) if between == "x" else (float, 3)
    try:
        numbers = tuple(kind(part) for part in text.split(between))
    except ValueError:
        numbers = ()
    if len(numbers) != count or (kind is int and min(numbers) < 1):
        _refuse(f"{option} takes numbers as in {example}; not {text!r}")
    return numbers


@contextmanager
def _usage_errors() -> Iterator[None]:
    """What goes wrong before any image is touched is the arguments' fault."""
    try:
        yield
    except RelookError as error:
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    _complain(message)
    raise typer.Exit(BAD_USAGE)


def _complain(message: str) -> None:
    typer.echo(f"relook: {' '.join(message.split())}", err=True)


def main() -> None:
    """Entry point of the `relook` command."""
    streams.prepare()
    try:
        app(prog_name="relook")
    except RelookError as error:
        _complain(str(error))
        sys.exit(FAILED)
    except OSError:
        failure = streams.failure()
        if failure is None:
            raise  # it was something else than the output
        _complain(f"the output cannot be written ({failure.strerror})")
        sys.exit(FAILED)
    finally:
        streams.failure()


if __name__ == "__main__":
    main()
