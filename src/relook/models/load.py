"""`relook.load`: the one way from a model's name to a Classifier."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from relook.classifier import Classifier
from relook.errors import ModelError, first_line
from relook.models import bundled, function, timm, torchvision

DEFAULT_MODEL = "bundled/efficientnet_lite0"

_SOURCES: dict[str, Callable[[str, bool, Path | None], Classifier]] = {
    "bundled": bundled.load,
    "timm": timm.load,
    "torchvision": torchvision.load,
}

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}


@torch.inference_mode(False)
def load(
    name: str = DEFAULT_MODEL,
    *,
    pretrained: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    target_layer: str | None = None,
    token_grid: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Classifier:
    """The classifier of that name, with its own preprocessing and labels.

    Args:
        name: "bundled/efficientnet_lite0" (weights come installed, no network access; _lite1 and
            _lite2 once their packages are installed),
            "timm/<name>[.<tag>]", "torchvision/<name>[.<weights>]", or "module:function" for a
            function of yours that returns a `relook.Classifier`.
        pretrained: whether timm's and torchvision's own weights are used; False: random ones.
        checkpoint: your weights instead: a safetensors file, or a `.pth` that
            `torch.load(weights_only=True)` can read; a state dict, or one under "state_dict" or
            "model", with or without a "module." prefix. The number of classes is taken from it.
        target_layer: a module's name; found by itself by default.
        token_grid: (rows, columns) of a transformer's tokens, where the network does not tell.
        device: "cpu", "cuda", "cuda:1", "mps"; by default CUDA where there is one.
        dtype: "float32", "float64", "float16" or "bfloat16"; by default what the weights are in.

    Raises:
        ModelError: unknown name, weights that cannot be had or do not fit, unknown layer, device
            or dtype.
    """
    file = None if checkpoint is None else Path(checkpoint)
    source, slash, rest = name.partition("/")
    if slash and source in _SOURCES:
        classifier = _SOURCES[source](rest, pretrained, file)
    elif ":" in name:
        classifier = function.load(name, file)
    else:
        known = ", ".join(f"{source}/<name>" for source in _SOURCES)
        raise ModelError(f"model {name!r} is unknown; pass {known} or module:function")
    classifier.name = name
    if target_layer is not None or token_grid is not None:
        classifier.aim(target_layer, token_grid)
    _move(classifier, device, dtype)
    return classifier.eval()


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
        classifier.network.to(device, wanted).to(memory_format=torch.channels_last)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {str(device)!r} cannot be used here ({first_line(error)})"
        ) from error
