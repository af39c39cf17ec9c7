"""`relook.load`: make a Classifier from a model's name."""

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
"""Module whose `load(name, request)` makes the classifiers of each source. It is imported when
needed, since most of these modules import a large library."""

_PREFIXES = ("bundled", "timm", "torchvision", "hf")
"""Sources that are named before a slash, at the start of a model's name."""

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
    """Load a classifier by name, with the model's own preprocessing and labels.

    `layout`, `mean` and `std` are for ONNX files only; other models bring theirs.

    Args:
        name: one of

            - "bundled/efficientnet_lite0", whose weights are installed with relook (_lite1 and
              _lite2 need their own packages);
            - "timm/<name>[.<tag>]" or "torchvision/<name>[.<weights>]";
            - "hf/<folder>" for a model of transformers;
            - "net.onnx" for an ONNX file;
            - "module:function" for your own function that returns a `relook.Classifier`;
            - a folder of `relook train-multicam`, for its fused network, or one with /target or
              /object at the end, for one of the two networks.
        pretrained: True for the model's own weights, False for random ones.
        checkpoint: file with weights to use instead: safetensors, or a state dict (or a dict that
            contains one) written by `torch.save`, as training scripts and Lightning do. Prefixes
            of names, such as "module.", are stripped if the rest fits; plain weights are preferred
            to averaged ones. Other objects in the file are never unpickled. The checkpoint
            determines the number of classes.
        target_layer: name of a module; searched for by default.
        token_grid: (rows, columns) of a transformer's tokens, if relook cannot infer them.
        device: "cpu", "cuda", "cuda:1" or "mps"; by default CUDA if available. For an ONNX file,
            an execution provider of ONNX Runtime; by default the best one available.
        dtype: "float32", "float64", "float16" or "bfloat16"; the dtype of the weights by default.
        labels: one label per class, in place of the model's own, or a dict (see
            `relook.labels.class_labels`).
        input_size: side of the input, or (height, width), in pixels, in place of the model's own;
            the crop stays the same fraction of the image. Required for an ONNX file without a
            fixed size.
        layout: "NCHW" or "NHWC", for an ONNX file whose input shape is ambiguous.
        mean: three values for pixels in [0, 1], for an ONNX file without a .json beside it.
        std: three values for pixels in [0, 1], for an ONNX file without a .json beside it.

    Raises:
        ModelError: the name, layer, device or dtype is unknown; the weights cannot be loaded or do
            not fit; an argument is not valid for this kind of model.

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
            f"{name}: brings its own {given}; these arguments are for ONNX files (to set them, "
            "wrap the network in relook.Classifier)"
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
    """The source of a model, and the model's name within that source.

    Raises:
        ModelError: the name belongs to no source.
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
            f"{name}: a file, but the only files that are models are ONNX files; name the "
            "architecture, as in timm/resnet18, and pass weights with checkpoint= or --checkpoint "
            "(for TorchScript or torch.export: export the original nn.Module to ONNX)"
        )
    if os.path.isdir(name):
        raise ModelError(
            f"{name}: a folder without run.json; name a folder of relook train-multicam, or "
            f"hf/{name} if transformers wrote it"
        )
    known = ", ".join(f"{prefix}/<name>" for prefix in _PREFIXES)
    meant = f"; did you mean timm/{name}?" if import_module(_SOURCES["timm"]).knows(name) else ""
    raise ModelError(
        f"model {name!r} is unknown; pass {known}, net.onnx, module:function or a folder of "
        f"relook train-multicam{meant}"
    )


def _move(
    classifier: Classifier, device: str | torch.device | None, dtype: str | torch.dtype | None
) -> None:
    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    wanted: torch.dtype | None = _DTYPES[dtype] if isinstance(dtype, str) else dtype
    if wanted is not None and not wanted.is_floating_point:
        raise ModelError(f"dtype {wanted} is not a floating-point type; choose float32 or bfloat16")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        network = classifier.network.to(device, wanted)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {str(device)!r} cannot be used here ({first_line(error)})"
        ) from error
    # Module.to would convert weights of five dimensions too, and fail.
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=classifier.memory_format)
