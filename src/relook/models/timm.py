"""timm/<name>[.<tag>]: classifiers of timm, with timm's own data config."""

from __future__ import annotations

import difflib
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import nn

from relook.classifier import Classifier
from relook.errors import ModelError, RelookError
from relook.geometry import Geometry
from relook.imagenet import imagenet_labels
from relook.models.checkpoint import load_into, weights_missing
from relook.models.download import from_hub
from relook.models.request import Request
from relook.preprocessing import Preprocessing
from relook.record import Record, classifier_of, refusal

Size = tuple[int, int]
"""(height, width)."""


def load(name: str, request: Request) -> Classifier:
    """Load a classifier with timm's weights, random ones, or those of a checkpoint.

    Args:
        name: NAME or NAME.TAG, without "timm/".
        request: the other arguments of `relook.load`; the default input size is the one that timm
            tests the model at.

    Raises:
        ModelError: the name is unknown, the weights cannot be loaded or do not fit, or the network
            is not a classifier of RGB images.
    """
    network = _network(name, request)
    known = known_of(network, request.said.input_size)
    return classifier_of(network, known, request.said, request.name)


def _network(name: str, request: Request) -> nn.Module:
    if not knows(name):
        close = difflib.get_close_matches(
            name.partition(".")[0], timm.list_models(), n=3, cutoff=0.6
        )
        hint = f"; closest: {', '.join(f'timm/{c}' for c in close)}" if close else ""
        raise ModelError(f"model 'timm/{name}' is not in timm {timm.__version__}{hint}")
    base, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise ModelError(
            f"model 'timm/{base}' has no weights {tag!r}; it has: {', '.join(tags) or 'none'}"
        )
    size, pretrained = request.said.input_size, request.pretrained
    if request.checkpoint is not None:
        return with_checkpoint(name, request.checkpoint, size)
    try:
        with from_hub() if pretrained else nullcontext():
            return create(name, pretrained=pretrained, size=size)
    except (OSError, RuntimeError, ValueError) as error:
        # Raised by huggingface_hub, requests and timm if weights or the internet are missing.
        if not pretrained or isinstance(error, RelookError):
            raise
        raise weights_missing(f"timm/{name}", error) from error


def knows(name: str) -> bool:
    """Whether timm has a network of this name."""
    return bool(timm.is_model(name))


def create(
    name: str,
    classes: int | None = None,
    pretrained: bool = False,
    size: Size | None = None,
) -> nn.Module:
    """Create a network of timm.

    Args:
        name: NAME or NAME.TAG.
        classes: number of classes, if not the network's own.
        pretrained: whether to load timm's weights.
        size: (height, width) of the input, if not the network's own; only used for networks that
            have a fixed input size.

    Raises:
        ModelError: the network or its weights do not support this size.
    """
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if size is None or not _is_made_for_a_size(name):
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        return network
    try:
        # First without weights, to tell an unsupported size from a failed download.
        network = timm.create_model(name, img_size=size, **options)
    except Exception as error:
        raise refusal(f"timm/{name}", size, _own_size(name), error) from error
    if pretrained:
        try:
            network = timm.create_model(name, pretrained=True, img_size=size, **options)
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            raise refusal(f"timm/{name}", size, _own_size(name), error) from error
    return network


def with_checkpoint(name: str, checkpoint: Path, size: Size | None) -> nn.Module:
    """Create a network of timm with the weights of a file, for inputs of this size."""
    try:
        return load_into(lambda classes: create(name, classes, size=size), checkpoint)
    except ModelError:
        if size is None or not _is_made_for_a_size(name):
            raise
    # The weights may be for the network's own input size.
    network = load_into(lambda classes: create(name, classes), checkpoint)
    try:
        network.set_input_size(img_size=size)  # type: ignore[operator]
    except Exception as error:
        raise refusal(f"timm/{name}", size, _own_size(name), error) from error
    return network


def _is_made_for_a_size(name: str) -> bool:
    config = get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config and config.fixed_input_size)


def _own_size(name: str) -> Size | None:
    config = get_pretrained_cfg(name, allow_unregistered=True)
    return (config.input_size[1], config.input_size[2]) if config else None


def known_of(network: nn.Module, size: Size | None = None) -> Record:
    """Read a network's preprocessing and labels from timm's config.

    As in timm's validate.py, test size and test crop are used if the network has them.

    Args:
        network: network of timm.
        size: (height, width) of the input, if not the network's own; the crop stays the same
            fraction of the image.

    Raises:
        ModelError: the network does not take RGB images, or has no class layer.
    """
    given = None if size is None else {"input_size": (3, *size)}
    config = resolve_model_data_config(network, given, use_test_size=True)
    _, height, width = config["input_size"]
    channels = network.pretrained_cfg["input_size"][0]  # type: ignore[index]
    if channels != 3:
        raise ModelError(
            f"the network takes {channels} input channels; relook corrects classifiers of RGB "
            "images"
        )
    geometry = geometry_of(config, (height, width))
    count = int(network.num_classes)  # type: ignore[arg-type]
    if count == 0:
        raise ModelError(
            "the network returns features, it has no class layer; choose a related model that has "
            "one, or wrap the network together with a class layer in relook.Classifier"
        )
    return Record.of(
        Preprocessing(geometry, tuple(config["mean"]), tuple(config["std"])),
        labels=imagenet_labels() if count == 1000 else None,
    )


def geometry_of(config: dict[str, Any], size: tuple[int, int]) -> Geometry:
    """Resize and crop of timm's evaluation transform, rounded to whole pixels as timm does."""
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
