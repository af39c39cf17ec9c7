"""timm/<name>[.<tag>]: any classifier of timm, with timm's own data config."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import nn

from relook.classifier import Classifier
from relook.errors import ModelError, RelookError
from relook.geometry import Geometry
from relook.imagenet import imagenet_labels
from relook.models.checkpoint import load_into, weights_missing


def load(name: str, pretrained: bool, checkpoint: Path | None) -> Classifier:
    """The classifier with timm's weights, random ones, or those of `checkpoint`."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(
            name.partition(".")[0], timm.list_models(), n=3, cutoff=0.6
        )
        hint = f"; closest: {', '.join(f'timm/{c}' for c in close)}" if close else ""
        raise ModelError(f"model 'timm/{name}' is not one of timm {timm.__version__}{hint}")
    base, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise ModelError(
            f"model 'timm/{base}' has no weights {tag!r}; it has: {', '.join(tags) or 'none'}"
        )
    if checkpoint is not None:
        return classifier_of(load_into(lambda classes: create(name, classes), checkpoint))
    try:
        return classifier_of(create(name, pretrained=pretrained))
    except (OSError, RuntimeError, ValueError) as error:
        # What huggingface_hub, requests and timm raise without weights or without a network.
        if not pretrained or isinstance(error, RelookError):
            raise
        raise weights_missing(f"timm/{name}", error) from error


def create(name: str, classes: int | None = None, pretrained: bool = False) -> nn.Module:
    """Timm's network, with another number of classes where one is given."""
    options = {} if classes is None else {"num_classes": classes}
    network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return network


def classifier_of(network: nn.Module) -> Classifier:
    """The classifier around a timm network."""
    config = resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3:
        raise ModelError(
            f"the network takes {channels} input channels; relook corrects classifiers of RGB"
        )
    geometry = geometry_of(config, (height, width))
    count = int(network.num_classes)  # type: ignore[arg-type]
    if count == 0:
        raise ModelError(
            "the network answers features, it has no class layer; choose a member of its family "
            "that has one, or wrap it in relook.Classifier together with a class layer"
        )
    return Classifier(
        network,
        mean=config["mean"],
        std=config["std"],
        input_size=geometry.crop,
        geometry=geometry,
        labels=imagenet_labels() if count == 1000 else None,
    )


def geometry_of(config: dict[str, Any], size: tuple[int, int]) -> Geometry:
    """Timm's evaluation transform, in its own whole-pixel arithmetic."""
    mode = config["crop_mode"] or "center"
    if mode == "center":
        return Geometry.centre(size, config["crop_pct"], config["interpolation"])
    if mode == "squash":
        height, width = (math.floor(side / config["crop_pct"]) for side in size)
        return Geometry(size, (height, width), "squash", config["interpolation"])
    raise ModelError(
        f"timm's crop mode {mode!r} pads the image, which relook does not do; wrap the network "
        "in relook.Classifier with a crop of your own"
    )
