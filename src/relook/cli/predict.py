"""`relook predict`: class probabilities of photos before and after a second look."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relook.cli.app import app
from relook.cli.messages import (
    DONE,
    FAILED,
    INTERRUPTED,
    LONG,
    complain,
    make_folder,
    refuse,
    rows_kept,
    say_errors,
    say_forecast,
    say_model,
    say_second_networks,
    usage_errors,
)
from relook.cli.options import EngineOptions, Json, LookOptions, NetworkOptions, given_by
from relook.errors import RelookError
from relook.storage import is_address, is_table
from relook.text import readable

if TYPE_CHECKING:
    from relook.correction import Correction, Corrector
    from relook.images import ImageSource
    from relook.prediction.images import FoundImages
    from relook.prediction.predict import Totals
    from relook.runs import Item

_BEST = (
    "There is --look best too, which classifies other views of the photo at a cost of at most 7 "
    "forward passes. In our study, of 462 unsure answers on full-size photos, it fixed 30 and "
    "broke 11; the default, the poster's look, fixed 12 and broke 15 (with maps from CAM). Measure "
    "on your own images first: relook evaluate."
)
_LONGEST_STEM = 230
"""Maximum length in bytes of a picture's name; file systems allow 255 with all suffixes."""


@app.command(
    epilog="Example: relook predict photo.jpg --output pictures; or, for many: relook predict "
    "folder --rows answers --look best"
)
@given_by(network=NetworkOptions, looking=LookOptions, where=EngineOptions)
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="What to classify: image files, folders (all images below them), and CSV or "
            "Parquet tables with a column image.",
        ),
    ],
    network: NetworkOptions,
    looking: LookOptions,
    where: EngineOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write a picture for each image to, with its attribution maps and the "
            "views that were classified."
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Write the answers to this folder instead of printing them: a Parquet table "
            "RUN/rows/*.parquet with one row per image. An interrupted run in it is continued.",
        ),
    ] = None,
    all_classes: Annotated[
        bool,
        typer.Option(
            "--all-classes", help="With --rows: add the probabilities of all classes to each row."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Classify photos with a second look at the unsure ones: print the answers, or save them."""
    if all_classes and rows is None:
        refuse("--all-classes goes with --rows")
    if where != EngineOptions() and rows is None:
        refuse("--engine and --ray-address go with --rows")
    if rows is not None and output is not None:
        refuse("--output writes pictures of printed answers; it cannot be combined with --rows")
    if output is not None:
        make_folder(output)
    with usage_errors():
        _refuse_absent(images, as_json and rows is None)  # before torch is imported
        if rows is not None:
            # Before torch is imported. Else its threads spin for a while after each operation, in
            # place of those that read the next images.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        preset = looking.preset()
        from relook.correction import Corrector

        corrector = Corrector(network.load(), look=preset)
    if rows is not None:
        raise typer.Exit(_save_rows(corrector, images, rows, all_classes, where, as_json))
    with usage_errors():
        photos = _opened(images)
    status = _predict(corrector, photos, output, as_json)
    if looking.look is None and not as_json:
        typer.echo(_BEST, err=True)
    raise typer.Exit(status)


def _opened(images: list[str]) -> list[tuple[str, Callable[[], ImageSource]]]:
    """The name of each image, and a function that returns what to classify.

    Raises:
        DataError: a folder or a table has no images.
    """
    if not any(os.path.isdir(image) or is_address(image) or is_table(image) for image in images):
        return [(readable(image), partial(str, image)) for image in images]
    return [
        (item.name, item.open if isinstance(item.source, bytes) else partial(_source, item))
        for item in _find(images).items
    ]


def _source(item: Item) -> ImageSource:
    """The path of an image, which `Corrector.correct` reads itself; an address is read here."""
    return item.open() if is_address(item.source) else item.source


def _find(images: list[str]) -> FoundImages:
    """The images of files, folders and tables; what is left out of the folders is printed.

    Raises:
        DataError: there are none.
    """
    from relook.prediction.images import find_images

    found = find_images(images)
    if found.left_out:
        typer.echo(f"left out: {found.left_out}", err=True)
    return found


def _save_rows(
    corrector: Corrector,
    images: list[str],
    output: str,
    all_classes: bool,
    where: EngineOptions,
    as_json: bool,
) -> int:
    """Answer all images and save the rows; return the exit status."""
    from relook.cli.progress import prediction_bar
    from relook.folder import folder_at
    from relook.prediction import predict
    from relook.runs import Run
    from relook.words import count

    with usage_errors():
        found = _find(images)
    say_model(corrector)
    say_second_networks([corrector])
    typer.echo(
        f"{count(len(found.items), 'image')}, rows: {folder_at(output).named('rows')}", err=True
    )
    with rows_kept(output), where.connected(corrector.classifier) as cluster:
        dashboard = cluster.dashboard if cluster else ""
        with prediction_bar(len(found.items), dashboard, Run.count(output)) as bar:
            predictions = predict(
                corrector,
                found,
                output,
                all_classes=all_classes,
                engine=cluster or "local",
                on_rows=bar,
                on_forecast=partial(say_forecast, "to do", LONG),
            )
    totals = predictions.totals
    if as_json:
        typer.echo(json.dumps(totals.to_json()))
    else:
        typer.echo(_told(totals))
    place = str(folder_at(output))
    return say_errors(predictions.errors(), totals.images + totals.errors, place)


def _told(totals: Totals) -> str:
    """The outcome of a run in words."""
    from relook.words import count

    looked = count(totals.corrected, "second look")
    told = f"{count(totals.images, 'image')} answered: {looked}, {totals.changed:,} of which "
    told += f"changed the answer; {totals.forwards:,} forward passes"
    if totals.abstained:
        told += f"; {totals.abstained:,} answers not to be relied on"
    return told


def _predict(
    corrector: Corrector,
    images: Sequence[tuple[str, Callable[[], ImageSource]]],
    output: Path | None,
    as_json: bool,
) -> int:
    from relook.cli.progress import progress_bars

    say_model(corrector)
    say_second_networks([corrector])
    failed: list[str] = []
    written: set[str] = set()
    begun = answered = not_sure = 0
    try:
        with progress_bars(len(images)) as bars:
            for name, source in images:
                bars.begin(Path(name).name)
                begun += 1
                try:
                    correction = corrector.correct(source(), bars.forwards)
                    correction = replace(correction, image=name)
                except (RelookError, RuntimeError, MemoryError) as error:
                    # PyTorch raises RuntimeError, also when out of memory. Go on to the next image.
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
                        correction.save_picture(output / _picture_name(name, written))
                    except OSError as error:  # only the picture failed; the answer was printed
                        failed.append(name)
                        complain(f"{name}: its picture cannot be written ({error})")
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

    from relook.cli.story import print_story
    from relook.report.story import tell

    print_story(Console(), tell(correction, pictures=False))


def _refuse_absent(images: list[str], as_json: bool) -> None:
    """Stop before a network is loaded if none of the images exists."""
    from relook.errors import ImageError
    from relook.images import open_image

    if any(os.path.exists(image) or "://" in image for image in images):
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
