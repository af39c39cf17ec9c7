"""`relook export`: a network as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relook.cli.app import app
from relook.cli.messages import FAILED, complain, refuse, usage_errors
from relook.cli.options import Checkpoint, Dtype, Labels, Layer, NetworkOptions, TokenGrid
from relook.errors import RelookError


@app.command(epilog="Example: relook export timm/resnet18 resnet18.onnx")
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The classifier, named as for --model of relook predict."
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="ONNX file to write.")],
    checkpoint: Checkpoint = None,
    layer: Layer = None,
    dtype: Dtype = None,
    token_grid: TokenGrid = None,
    labels: Labels = None,
) -> None:
    """Write a network to an ONNX file, with its preprocessing and labels in a .json file."""
    if file.suffix.lower() != ".onnx":
        refuse(f"{file}: name a file that ends in .onnx")
    network = NetworkOptions(
        model=model,
        checkpoint=checkpoint,
        layer=layer,
        device="cpu",
        dtype=dtype,
        token_grid=token_grid,
        labels=labels,
    )
    with usage_errors():
        classifier = network.load()
    from relook.models.export import export as write

    try:
        beside = write(classifier, file)
    except RelookError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    height, width = classifier.input_size
    target = f", target layer {classifier.target_layer}" if classifier.has_target_layer else ""
    typer.echo(f"{classifier.name}: input {height}×{width}{target}", err=True)
    typer.echo(f"written: {file} and {beside}", err=True)
