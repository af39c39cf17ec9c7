"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from relook.errors import RelookError

if TYPE_CHECKING:
    from relook.correction import Corrector

DONE, FAILED, BAD_USAGE = 0, 1, 2

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
        help="bundled/efficientnet_lite0, timm/NAME[.TAG], torchvision/NAME[.WEIGHTS] or "
        "module:function."
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Your weights: safetensors, or a .pth of plain tensors.")
]
Layer = Annotated[
    str | None, typer.Option(help="The target layer's name; found by itself otherwise.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; CUDA if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, float16 or bfloat16.")]
K = Annotated[
    int | None, typer.Option("-k", help="How many of the most probable classes; 5 by default.")
]
Gate = Annotated[
    str, typer.Option(help="Look again only where gap(1,5) is below this (0 to 1); none: always.")
]
LookName = Annotated[str, typer.Option(help="poster (mask images) or flip.")]
FillName = Annotated[
    str | None,
    typer.Option(help="What a hidden pixel becomes: black (default), mean or blur."),
]
AttributionName = Annotated[str | None, typer.Option(help="scorecam (default) or cam.")]
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
        Path | None, typer.Option(help="Folder for one picture an image: maps and mask images.")
    ] = None,
    as_json: Json = False,
    model: Model = "bundled/efficientnet_lite0",
    checkpoint: Checkpoint = None,
    layer: Layer = None,
    device: Device = None,
    dtype: Dtype = None,
    k: K = None,
    gate: Gate = "none",
    look: LookName = "poster",
    fill: FillName = None,
    attribution: AttributionName = None,
    variant: Variant = None,
    budget: Budget = None,
    fast: Fast = False,
) -> None:
    """Class probabilities of photos, before and after a second look."""
    threshold = _gate(gate)
    if fast and budget is not None:
        _refuse(f"--fast is a budget of its own; drop it or --budget {budget}")
    if output is not None:
        _make_folder(output)
    with _usage_errors():
        from relook.looks import make_look

        chosen = make_look(
            look,
            fill=fill,
            attribution=attribution,
            variant=variant,
            budget="fast" if fast else budget,
        )
        from relook.correction import Corrector
        from relook.models import load

        classifier = load(
            model, checkpoint=checkpoint, target_layer=layer, device=device, dtype=dtype
        )
        corrector = Corrector(classifier, k=k, gate=threshold, look=chosen)
    raise typer.Exit(_predict(corrector, images, output, as_json))


def _predict(corrector: Corrector, images: list[str], output: Path | None, as_json: bool) -> int:
    from rich.console import Console

    from relook.report import save_picture
    from relook.report.story import tell
    from relook.report.terminal import print_story, progress_bars

    classifier = corrector.classifier
    used = f"target layer {classifier.target_layer}, " if corrector.look.needs_activations else ""
    typer.echo(f"{classifier.name}: {used}k = {corrector.k}, on {classifier.device}", err=True)
    console = Console()
    failed: list[str] = []
    written: set[str] = set()
    with progress_bars(len(images)) as bars:
        for image in images:
            bars.begin(Path(image).name)
            try:
                correction = corrector.correct(image, bars.forwards)
            except (RelookError, RuntimeError, MemoryError) as error:
                # RuntimeError: what PyTorch raises, out of memory among it. The others go on.
                failed.append(image)
                message = str(error) if isinstance(error, RelookError) else f"{image}: {error}"
                _complain(message)
                if as_json:
                    typer.echo(json.dumps({"image": image, "error": message}))
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
                    failed.append(image)
                    _complain(f"{image}: its picture cannot be written ({error})")
    if output is not None and written:
        typer.echo(f"pictures: {output}", err=True)
    if len(failed) > 1 or (failed and len(images) > 1):
        _complain(f"{len(failed)} of {len(images)} images could not be used: {', '.join(failed)}")
    return FAILED if failed else DONE


def _make_folder(folder: Path) -> None:
    """Now, and not after minutes of work that would have nowhere to go."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _refuse(f"{folder}: cannot be made a folder ({error.strerror}); --output names a folder")


def _picture_name(image: str, written: set[str]) -> str:
    """Never the image's own name; images of the same name in other folders get a number."""
    stem = Path(image).stem
    name, number = f"{stem}.relook.png", 1
    while name in written:
        number += 1
        name = f"{stem}-{number}.relook.png"
    written.add(name)
    return name


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
        name = ""

        def progress(photo: str, done: int, total: int) -> None:
            nonlocal name
            if photo != name:
                if name:
                    bars.end()
                name = photo
                bars.begin(photo)
            bars.forwards(done, total)

        write_demo(page, progress)
    typer.echo(f"The demo is at {page.resolve()}")
    typer.echo("Now a photo of yours: relook predict photo.jpg --output pictures", err=True)


def _gate(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        gate = float(text)
    except ValueError:
        gate = -1.0
    if not 0 <= gate <= 1:
        _refuse(f"--gate takes a number from 0 to 1, or none; not {text!r}")
    return gate


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
    try:
        app(prog_name="relook")
    except RelookError as error:
        _complain(str(error))
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
