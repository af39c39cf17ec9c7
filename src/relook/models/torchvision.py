"""torchvision/<name>[.<weights>]: any classifier of torchvision, with its weights' transforms."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torchvision.models
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from relook.classifier import Classifier
from relook.errors import ModelError
from relook.geometry import Geometry
from relook.imagenet import imagenet_labels
from relook.models.checkpoint import load_into, weights_missing


def load(name: str, pretrained: bool, checkpoint: Path | None) -> Classifier:
    """The classifier with torchvision's weights, random ones, or those of `checkpoint`.

    The weights named, torchvision's default ones where none are, settle the preprocessing in
    all three cases.
    """
    base, _, suffix = name.partition(".")
    weights = _weights(base, suffix)
    if checkpoint is not None:
        network = load_into(lambda classes: _create(base, weights, classes), checkpoint)
    elif pretrained:
        try:
            network = get_model(base, weights=weights)
        except (OSError, RuntimeError) as error:
            raise weights_missing(f"torchvision/{name}", error) from error
    else:
        network = _create(base, weights)
    return _classifier_of(network, weights)


def _create(base: str, weights: WeightsEnum, classes: int | None = None) -> nn.Module:
    """The network as torchvision builds it for these weights, but with random ones."""
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if base in ("googlenet", "inception_v3"):
        # Its weights expect this; without weights torchvision leaves it out.
        options["transform_input"] = True
        options["init_weights"] = False
    if base.startswith("vit_"):
        options["image_size"] = weights.transforms().crop_size[0]
    network: nn.Module = get_model(base, weights=None, **options)
    return network


def drop_auxiliary(network: nn.Module) -> None:
    """Leave out the classifiers on the way to the last, of GoogLeNet and Inception; whether they
    are there depends on where the weights came from.
    """
    if getattr(network, "aux_logits", None) is not None:
        network.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, name):
                setattr(network, name, None)


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
    """Resize and crop of torchvision's classification transforms, in its whole pixels."""
    crop = (transforms.crop_size[0], transforms.crop_size[-1])
    resize = (transforms.resize_size[0], transforms.resize_size[-1])
    return Geometry(crop, resize, "shorter-side", transforms.interpolation.value)


def _classifier_of(network: nn.Module, weights: WeightsEnum) -> Classifier:
    transforms = weights.transforms()
    geometry = geometry_of(transforms)
    classifier = Classifier(
        network,
        mean=transforms.mean,
        std=transforms.std,
        input_size=geometry.crop,
        geometry=geometry,
    )
    if len(classifier.labels) == 1000:
        classifier.labels = imagenet_labels()
    return classifier
