"""`relook.load`: the one way from a model's name to a Classifier."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from relook.arguments import Number, Numbers, height_and_width, rows_and_columns, three_numbers
from relook.classifier import Classifier
from relook.errors import ModelError, first_line
from relook.labels import Labels, class_labels
from relook.models import bundled, function, timm, torchvision, transformers
from relook.text import readable

DEFAULT_MODEL = "bundled/efficientnet_lite0"

_Size = tuple[int, int] | None

_SOURCES: dict[str, Callable[[str, bool, Path | None, _Size], Classifier]] = {
    "bundled": bundled.load,
    "timm": timm.load,
    "torchvision": torchvision.load,
    "hf": transformers.load,
}

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}


@torch.inference_mode(False)
def load(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    pretrained: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    target_layer: str | None = None,
    token_grid: Numbers | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    labels: Labels | None = None,
    input_size: Number | Numbers | None = None,
    layout: Literal["NCHW", "NHWC"] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> Classifier:
    """The classifier of that name, with its own preprocessing and labels.

    Args:
        name: "bundled/efficientnet_lite0" (weights come installed, no network access; _lite1 and
            _lite2 once their packages are installed),
            "timm/<name>[.<tag>]", "torchvision/<name>[.<weights>]", "hf/<folder>" for a model of
            transformers, "net.onnx" for an ONNX file, "module:function" for a function of
            yours that returns a `relook.Classifier`, or a folder of `relook train-multicam` (its
            fused network; with /target or /object behind it, one of the two).
        pretrained: whether timm's and torchvision's own weights are used; False: random ones.
        checkpoint: your weights instead: a safetensors file, or what `torch.save` wrote, of a
            state dict or of a dict that holds one, as training scripts and Lightning save it.
            Prefixes of its names, such as "module.", are stripped where the rest fits; plain
            weights come before averaged ones. Objects beside the weights are never unpickled.
            The number of classes is taken from it.
        target_layer: a module's name; found by itself by default.
        token_grid: (rows, columns) of a transformer's tokens, where the network does not tell.
        device: "cpu", "cuda", "cuda:1", "mps"; by default CUDA where there is one. Of an ONNX file:
            one of ONNX Runtime's execution providers; by default the best it has here.
        dtype: "float32", "float64", "float16" or "bfloat16"; by default what the weights are in.
        labels: one name a class, in place of the model's own, or a dict (see
            `relook.labels.class_labels`).
        input_size: side, or (height, width), in place of the model's own; what is cropped away
            stays the same share. An ONNX file that does not fix its size needs one.
        layout: of an ONNX file whose input does not tell: where the colours are.
        mean: of an ONNX file without a .json beside it: three values, for pixels in [0, 1].
        std: the same way. The other models say these three themselves.

    Raises:
        ModelError: unknown name, weights that cannot be had or do not fit, unknown layer, device
            or dtype.
    """
    name = os.path.expanduser(os.fspath(name))
    file = None if checkpoint is None else Path(checkpoint).expanduser()
    size = None if input_size is None else height_and_width(input_size, "input_size")
    grid = None if token_grid is None else rows_and_columns(token_grid, "token_grid")
    colours = [
        None if values is None else three_numbers(values, what)
        for values, what in ((mean, "mean"), (std, "std"))
    ]
    options = {"layout": layout, "mean": mean, "std": std}
    said = [key for key, value in options.items() if value is not None]
    if name.lower().endswith(".onnx"):
        for option, value in (("checkpoint", checkpoint), ("dtype", dtype)):
            if value is not None:
                raise ModelError(f"{name}: an ONNX file has its own weights; drop {option}")
        from relook.models import onnx

        classifier = onnx.load(
            Path(name),
            input_size=size,
            layout=layout,
            mean=colours[0],
            std=colours[1],
            target_layer=target_layer,
            token_grid=grid,
            device=None if device is None else str(device),
        )
    elif said:
        raise ModelError(
            f"{name}: says {', '.join(said)} itself; these are for ONNX files (wrap a network of "
            "yours in relook.Classifier to say them)"
        )
    else:
        classifier = _named(name, pretrained, file, size)
        if target_layer is not None or grid is not None:
            classifier.aim(target_layer, grid)
        _move(classifier, device, dtype)
    classifier.name = readable(name)
    if labels is not None:
        named = class_labels(labels)
        if len(named) != len(classifier.labels):
            raise ModelError(
                f"{name} has {len(classifier.labels)} classes, but {len(named)} labels were given"
            )
        classifier.labels = named
    return classifier.eval()


def _named(name: str, pretrained: bool, checkpoint: Path | None, size: _Size) -> Classifier:
    run = run_of(name)
    if run is not None:
        if checkpoint is not None:
            raise ModelError(f"{name}: a trained folder has its own weights; drop checkpoint")
        from relook.models import multicam

        return multicam.load_run(*run, size)
    source, slash, rest = name.partition("/")
    if slash and source in _SOURCES:
        return _SOURCES[source](rest, pretrained, checkpoint, size)
    if ":" in name:
        return function.load(name, checkpoint, size)
    known = ", ".join(f"{source}/<name>" for source in _SOURCES)
    if os.path.isfile(name):
        raise ModelError(
            f"{name}: a file, but of the files only ONNX ones are models; name the architecture, "
            "as in timm/resnet18, and pass weights with checkpoint= or --checkpoint (a program of "
            "TorchScript or torch.export: write the nn.Module that it was made of as ONNX)"
        )
    if os.path.isdir(name):
        raise ModelError(
            f"{name}: a folder without run.json; name one of relook train-multicam, or hf/{name} "
            "where transformers wrote it"
        )
    meant = f"; is timm/{name} meant?" if timm.knows(name) else ""
    raise ModelError(
        f"model {name!r} is unknown; pass {known}, net.onnx, module:function or the folder of "
        f"relook train-multicam{meant}"
    )


def run_of(name: str) -> tuple[Path, str] | None:
    """The folder of a run and the stage in it that are meant; None for other names."""
    place = Path(name)
    try:
        if (place / "run.json").is_file():
            return place, "fusion"
        if place.is_dir() and (place.parent / "run.json").is_file():
            return place.parent, place.name
    except OSError:  # too long for a file's name, among others
        pass
    return None


def _move(
    classifier: Classifier, device: str | torch.device | None, dtype: str | torch.dtype | None
) -> None:
    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    wanted: torch.dtype | None = _DTYPES[dtype] if isinstance(dtype, str) else dtype
    if wanted is not None and not wanted.is_floating_point:
        raise ModelError(f"dtype {wanted} is no floating-point type; choose float32 or bfloat16")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        network = classifier.network.to(device, wanted)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {str(device)!r} cannot be used here ({first_line(error)})"
        ) from error
    # Not through Module.to, which would have weights of five dimensions in it too, and fail.
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=classifier.memory_format)
