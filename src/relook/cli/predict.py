"""`relook predict`: class probabilities of photos before and after a second look."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relook.cli.app import app
from relook.cli.messages import (
    DONE,
    FAILED,
    INTERRUPTED,
    complain,
    make_folder,
    say_model,
    say_second_networks,
    usage_errors,
)
from relook.cli.options import Json, LookOptions, NetworkOptions, given_by
from relook.errors import RelookError
from relook.text import readable

if TYPE_CHECKING:
    from relook.correction import Correction, Corrector

_BEST = (
    "There is --look best too, which classifies other views of the photo at a cost of at most 7 "
    "forward passes. In our study, of 462 unsure answers on full-size photos, it fixed 30 and "
    "broke 11; the default, the poster's look, fixed 12 and broke 15 (with maps from CAM). Measure "
    "on your own images first: relook evaluate."
)
_LONGEST_STEM = 230
"""Maximum length in bytes of a picture's name; file systems allow 255 with all suffixes."""


@app.command(epilog="Example: relook predict photo.jpg --output pictures")
@given_by(network=NetworkOptions, looking=LookOptions)
def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files to classify.")
    ],
    network: NetworkOptions,
    looking: LookOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write a picture for each image to, with its attribution maps and the "
            "views that were classified."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the class probabilities of photos before and after a second look."""
    if output is not None:
        make_folder(output)
    with usage_errors():
        preset = looking.preset()
        _refuse_absent(images, as_json)
        from relook.correction import Corrector

        corrector = Corrector(network.load(), look=preset)
    status = _predict(corrector, images, output, as_json)
    if looking.look is None and not as_json:
        typer.echo(_BEST, err=True)
    raise typer.Exit(status)


def _predict(corrector: Corrector, images: list[str], output: Path | None, as_json: bool) -> int:
    from relook.cli.progress import progress_bars

    say_model(corrector)
    say_second_networks([corrector])
    failed: list[str] = []
    written: set[str] = set()
    begun = answered = not_sure = 0
    try:
        with progress_bars(len(images)) as bars:
            for image in images:
                bars.begin(readable(Path(image).name))
                begun += 1
                try:
                    correction = corrector.correct(image, bars.forwards)
                except (RelookError, RuntimeError, MemoryError) as error:
                    # PyTorch raises RuntimeError, also when out of memory. Go on to the next image.
                    name = readable(image)
                    failed.append(name)
                    message = str(error) if isinstance(error, RelookError) else f"{name}: {error}"
                    complain(message)
                    if as_json:
                        typer.echo(json.dumps({"image": name, "error": message}))
                    continue
                finally:
                    bars.end()
                answered += 1
                not_sure += correction.abstained
                _show(correction, as_json)
                if output is not None:
                    try:
                        correction.save_picture(output / _picture_name(image, written))
                    except OSError as error:  # only the picture failed; the answer was printed
                        failed.append(readable(image))
                        complain(f"{readable(image)}: its picture cannot be written ({error})")
    except KeyboardInterrupt:  # at any point of an image
        complain(f"stopped after {max(0, begun - 1)} of {len(images)} images")
        return INTERRUPTED
    if corrector.risk is not None and answered > 1 and not as_json:
        are = "is" if not_sure == 1 else "are"
        typer.echo(f"{not_sure:,} of {answered:,} images {are} left to a person", err=True)
    if output is not None and written:
        typer.echo(f"pictures: {output}", err=True)
    if len(failed) > 1 or (failed and len(images) > 1):
        complain(f"{len(failed)} of {len(images)} images could not be used: {', '.join(failed)}")
    return FAILED if failed else DONE


def _show(correction: Correction, as_json: bool) -> None:
    """Print an answer to stdout."""
    if as_json:
        typer.echo(json.dumps(correction.to_json()))
        return
    from rich.console import Console

    from relook.cli.tables import print_story
    from relook.report.story import tell

    print_story(Console(), tell(correction))


def _refuse_absent(images: list[str], as_json: bool) -> None:
    """Stop before a network is loaded if none of the images exists."""
    from relook.errors import ImageError
    from relook.images import open_image

    if any(os.path.exists(image) and not os.path.isdir(image) for image in images):
        return  # unreadable images are reported in their turn
    for image in images:
        try:
            open_image(image)
        except ImageError as error:
            complain(str(error))
            if as_json:
                typer.echo(json.dumps({"image": readable(image), "error": str(error)}))
    raise typer.Exit(FAILED)


def _picture_name(image: str, written: set[str]) -> str:
    """The file name of an image's picture; images of one name in several folders are numbered."""
    stem = Path(image).stem
    while len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = stem[:-1]
    name, number = f"{stem}.relook.png", 1
    while name in written:
        number += 1
        name = f"{stem}-{number}.relook.png"
    written.add(name)
    return name
