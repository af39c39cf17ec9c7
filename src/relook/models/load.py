"""`relook.load`: the one way from a model's name to a Classifier."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch

from relook.arguments import Number, Numbers, height_and_width, rows_and_columns, three_numbers
from relook.classifier import Classifier
from relook.errors import ModelError, first_line
from relook.folder import run_of
from relook.labels import Labels, class_labels
from relook.models.request import Request
from relook.record import Record
from relook.text import readable

DEFAULT_MODEL = "bundled/efficientnet_lite0"

_SOURCES = {
    "bundled": "relook.models.bundled",
    "timm": "relook.models.timm",
    "torchvision": "relook.models.torchvision",
    "hf": "relook.models.transformers",
    "onnx": "relook.models.onnx",
    "run": "relook.models.run",
    "function": "relook.models.function",
}
"""The module whose `load(name, request)` makes the classifiers of a source; it is imported when a
model of that source is named, since each brings a large library along."""

_PREFIXES = ("bundled", "timm", "torchvision", "hf")
"""Sources that a model's name begins with, before a slash."""

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
    """The classifier that a name stands for, with its own preprocessing and labels.

    Args:
        name: "bundled/efficientnet_lite0" (weights come installed, no network access; _lite1 and
            _lite2 once their packages are installed),
            "timm/<name>[.<tag>]", "torchvision/<name>[.<weights>]", "hf/<folder>" for a model of
            transformers, "net.onnx" for an ONNX file, "module:function" for a function of
            yours that returns a `relook.Classifier`, or a folder of `relook train-multicam` (its
            fused network; with /target or /object behind it, one of the two).
        pretrained: whether the model's own weights are used; False: random ones.
        checkpoint: your weights instead: a safetensors file, or what `torch.save` wrote, of a
            state dict or of a dict that holds one, as training scripts and Lightning save it.
            Prefixes of its names, such as "module.", are stripped where the rest fits; plain
            weights come before averaged ones. Objects beside the weights are never unpickled.
            The number of classes is taken from it.
        target_layer: a module's name; found by itself by default.
        token_grid: (rows, columns) of a transformer's tokens, where the network leaves it open.
        device: "cpu", "cuda", "cuda:1", "mps"; by default CUDA where there is one. Of an ONNX file:
            one of ONNX Runtime's execution providers; by default the best it has here.
        dtype: "float32", "float64", "float16" or "bfloat16"; by default what the weights are in.
        labels: one name per class, in place of the model's own, or a dict (see
            `relook.labels.class_labels`).
        input_size: side, or (height, width), in place of the model's own; what is cropped away
            stays the same share. An ONNX file that does not fix its size needs one.
        layout: "NCHW" or "NHWC", of an ONNX file whose input's shape leaves it open. The other
            models know this and the next two themselves.
        mean: three values, for pixels in [0, 1], of an ONNX file without a .json beside it.
        std: the same.

    Raises:
        ModelError: the name, layer, device or dtype is unknown; the weights cannot be loaded or do
            not fit; an argument is not one for this kind of model.

    >>> classifier = relook.load("bundled/efficientnet_lite0")
    >>> len(classifier.labels), classifier.input_size, classifier.target_layer
    (1000, (224, 224), 'bn2')
    """
    name = os.path.expanduser(os.fspath(name))
    said = Record(
        input_size=None if input_size is None else height_and_width(input_size, "input_size"),
        mean=None if mean is None else three_numbers(mean, "mean"),
        std=None if std is None else three_numbers(std, "std"),
        layout=layout,
        labels=None if labels is None else class_labels(labels),
        target_layer=target_layer,
        token_grid=None if token_grid is None else rows_and_columns(token_grid, "token_grid"),
    )
    source, rest = _source_of(name)
    if source == "onnx":
        unfit: dict[str, object] = {"checkpoint": checkpoint, "dtype": dtype}
    else:
        unfit = {"layout": layout, "mean": mean, "std": std}
    given = ", ".join(option for option, value in unfit.items() if value is not None)
    if given and source == "onnx":
        raise ModelError(f"{name}: an ONNX file has its own weights; drop {given}")
    if given:
        raise ModelError(
            f"{name}: says {given} itself; these are for ONNX files (wrap a network of yours in "
            "relook.Classifier to say them)"
        )
    request = Request(
        readable(name),
        pretrained,
        None if checkpoint is None else Path(checkpoint).expanduser(),
        None if device is None else str(device),
        said,
        load,
    )
    classifier: Classifier = import_module(_SOURCES[source]).load(rest, request)
    if source != "onnx":
        _move(classifier, device, dtype)
    classifier.name = request.name
    return classifier.eval()


def _source_of(name: str) -> tuple[str, str]:
    """The source of a model, and the name that the source knows it by.

    Raises:
        ModelError: there is none.
    """
    if name.lower().endswith(".onnx"):
        return "onnx", name
    if run_of(name) is not None:
        return "run", name
    prefix, slash, rest = name.partition("/")
    if slash and prefix in _PREFIXES:
        return prefix, rest
    if ":" in name:
        return "function", name
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
    known = ", ".join(f"{prefix}/<name>" for prefix in _PREFIXES)
    meant = f"; is timm/{name} meant?" if import_module(_SOURCES["timm"]).knows(name) else ""
    raise ModelError(
        f"model {name!r} is unknown; pass {known}, net.onnx, module:function or the folder of "
        f"relook train-multicam{meant}"
    )


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
