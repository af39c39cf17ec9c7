"""torchvision/<name>[.<weights>]: classifiers of torchvision, with the weights' transforms."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torchvision.models
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from relook.classifier import Classifier
from relook.errors import ModelError
from relook.geometry import Geometry
from relook.imagenet import imagenet_labels
from relook.models.checkpoint import load_into, weights_missing
from relook.models.download import patience
from relook.models.request import Request
from relook.preprocessing import Preprocessing
from relook.record import Record, classifier_of, refusal

Size = tuple[int, int]
"""(height, width)."""

# Networks with a fixed input size.
_VITS = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
_MAXVITS = ("maxvit_t",)


def load(name: str, request: Request) -> Classifier:
    """Load a classifier with torchvision's weights, random ones, or those of a checkpoint.

    In each case the weights in the name, or else torchvision's default weights, determine the
    preprocessing.

    Args:
        name: NAME or NAME.WEIGHTS, without "torchvision/".
        request: the other arguments of `relook.load`; the default input size is that of the
            weights.

    Raises:
        ModelError: the name is unknown, or the weights cannot be loaded or do not fit.
    """
    base, _, suffix = name.partition(".")
    weights = _weights(base, suffix)
    size = request.said.input_size
    if request.checkpoint is not None:
        network = _with_checkpoint(base, weights, request.checkpoint, size)
    elif request.pretrained:
        try:
            network = _pretrained(base, weights, size)
        except (OSError, RuntimeError) as error:
            raise weights_missing(f"torchvision/{name}", error) from error
    else:
        network = _create(base, weights, size=size)
    transforms = weights.transforms()
    prepared = Preprocessing(geometry_of(transforms), tuple(transforms.mean), tuple(transforms.std))
    known = Record.of(prepared if size is None else prepared.scaled(size))
    classifier = classifier_of(network, known, request.said, request.name)
    if len(classifier.labels) == 1000 and not classifier.labels_given:
        classifier.labels = imagenet_labels()
    return classifier


def _pretrained(base: str, weights: WeightsEnum, size: Size | None) -> nn.Module:
    """Create a network with torchvision's weights."""
    # torchvision prints download messages to stdout, which is for results.
    with contextlib.redirect_stdout(sys.stderr), patience():
        network: nn.Module = get_model(base, weights=weights)
    if size is None or base not in (*_VITS, *_MAXVITS):
        return network
    other = _create(base, weights, size=size)
    _fill_resized(other, network.state_dict(), size)
    return other


def _with_checkpoint(
    base: str, weights: WeightsEnum, checkpoint: Path, size: Size | None
) -> nn.Module:
    try:
        return load_into(lambda classes: _create(base, weights, classes, size), checkpoint)
    except ModelError:
        if size is None or base not in _VITS:
            raise
    # The weights may be for the network's own input size.
    network = load_into(lambda classes: _create(base, weights, classes), checkpoint)
    state = network.state_dict()
    other = _create(base, weights, len(state["heads.head.bias"]), size)
    _fill_resized(other, state, size)
    return other


def _fill_resized(network: nn.Module, state: dict[str, Tensor], size: Size) -> None:
    """Load weights into a network for inputs of `size`, which differs from that of the weights."""
    if isinstance(network, VisionTransformer):
        resized = interpolate_embeddings(size[0], network.patch_size, OrderedDict(state))
        state = dict(resized)
    network.load_state_dict(state)


def _create(
    base: str, weights: WeightsEnum, classes: int | None = None, size: Size | None = None
) -> nn.Module:
    """Create a network as torchvision does for these weights, but with random ones.

    Raises:
        ModelError: the network does not support inputs of this size.
    """
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if base in ("googlenet", "inception_v3"):
        # The weights need this; without weights torchvision omits it.
        options["transform_input"] = True
        options["init_weights"] = False
    own = geometry_of(weights.transforms()).crop
    if base in _VITS:
        options["image_size"] = (size or own)[0]
    if base in _MAXVITS:
        options["input_size"] = size or own
    try:
        if base in _VITS and size is not None and size[0] != size[1]:
            raise ValueError("it takes square inputs only")
        network: nn.Module = get_model(base, weights=None, **options)
    except (ValueError, AssertionError, RuntimeError) as error:
        if size is None:
            raise
        raise refusal(f"torchvision/{base}", size, own, error) from error
    return network


def _weights(base: str, suffix: str) -> WeightsEnum:
    classifiers = list_models(module=torchvision.models)
    if base not in classifiers:
        close = difflib.get_close_matches(base, classifiers, n=3, cutoff=0.6)
        hint = f"; closest: {', '.join(f'torchvision/{c}' for c in close)}" if close else ""
        raise ModelError(f"model 'torchvision/{base}' is not a classifier of torchvision{hint}")
    known = get_model_weights(base)
    try:
        weights: WeightsEnum = known[suffix or "DEFAULT"]
    except KeyError:
        raise ModelError(
            f"torchvision/{base} has no weights {suffix!r}; it has: " + ", ".join(known.__members__)
        ) from None
    return weights


def geometry_of(transforms: Any) -> Geometry:
    """Resize and crop of torchvision's transforms, rounded to whole pixels as torchvision does."""
    crop = (transforms.crop_size[0], transforms.crop_size[-1])
    resize = (transforms.resize_size[0], transforms.resize_size[-1])
    return Geometry(crop, resize, "shorter-side", transforms.interpolation.value)
