"""The three stages of MultiCAM's training: their networks and the resulting classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from relook.attribution.cam import class_weights
from relook.classifier import Classifier
from relook.errors import ModelError, RelookError, first_line
from relook.folder import RunError
from relook.multicam.network import CamNet, MultiCAM, ObjectNet
from relook.multicam.training import Stage, random_of
from relook.record import Record, classifier_of

STAGES = ("target", "object", "fusion")
STAGE_NAMES = {"target": "TargetNet", "object": "ObjectNet", "fusion": "fusion"}

TARGET, OBJECT, FUSED = "TargetNet", "ObjectNet", "MultiCAM"
_NAMES = {"target": TARGET, "object": OBJECT, "fusion": FUSED}

Backbone = Callable[[], Classifier]
"""Function that creates a new backbone at each call, with the classes of its weights."""


class Networks:
    """TargetNet, ObjectNet and their fusion, built from one backbone.

    Attributes:
        base: classifier with the backbone, for its device and preprocessing.
        target: TargetNet.
        object: ObjectNet.
    """

    def __init__(self, base: Classifier, target: CamNet, network: CamNet) -> None:
        self.base = base
        self.target = target
        self.object = ObjectNet(target, network)
        self._fused: MultiCAM | None = None

    @classmethod
    def make(cls, backbone: Backbone, labels: Sequence[str], seed: int) -> Networks:
        """Create the networks with the backbone's weights and random class layers.

        Args:
            backbone: creates the backbone.
            labels: one label per class.
            seed: seed of the random weights.

        Raises:
            ModelError: the backbone does not end with global average pooling and one fully
                connected layer of logits.
        """
        with torch.random.fork_rng():
            torch.manual_seed(random_of(seed, "target").getrandbits(62))
            base, target = _cam_net(backbone, len(labels))
            torch.manual_seed(random_of(seed, "object").getrandbits(62))
            _, network = _cam_net(backbone, len(labels))
        if target.network is network.network:
            raise ModelError(
                f"{base.name}: returns the same network twice; MultiCAM trains two networks, so "
                "the function must create a new one at each call"
            )
        return cls(base, target, network)

    @property
    def fused(self) -> MultiCAM:
        """MultiCAM; created on first use from TargetNet and ObjectNet as they are then."""
        if self._fused is None:
            self._fused = MultiCAM(self.object)
        return self._fused

    def stage(self, name: str) -> Stage:
        """The stage with this name: "target", "object" or "fusion"."""
        if name == "target":
            return Stage(name, self.target.network, lambda inputs: inputs)
        self.target.eval()
        if name == "object":
            return Stage(
                name,
                self.object.network.network,
                lambda inputs: self.object.masked(inputs, self.target.maps(inputs)),
            )
        self.fused.eval()
        # It starts near an optimum, which AdamW's steps, as large as the rate, would leave at once.
        return Stage(name, self.fused.fusion, self.fused.features, pace=0.1)

    def classifier(
        self, name: str, labels: Sequence[str], said: Record | None = None, called: str = ""
    ) -> Classifier:
        """Create a classifier with the network that a stage trained.

        Args:
            name: name of the stage.
            labels: one label per class.
            said: properties that override those of the backbone: see `relook.record.Record`.
            called: name of the classifier; TargetNet, ObjectNet or MultiCAM by default.

        Raises:
            ModelError: a property in `said` does not fit the network.
        """
        layer = self.base.target_layer
        network: nn.Module
        if name == "target":
            network = self.target.network
        elif name == "object":
            network, layer = self.object, f"network.network.{layer}"
        else:
            network, layer = self.fused, "joined"
        known = replace(Record.of_classifier(self.base), labels=tuple(labels), target_layer=layer)
        return classifier_of(network, known, said, called or _NAMES[name]).eval()


def restore(network: nn.Module, folder: Path) -> None:
    """Load a stage's weights into its network.

    Raises:
        RunError: the weights cannot be read, or belong to another network.
    """
    file = folder / "weights.safetensors"
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise RunError(f"{file}: cannot be used ({first_line(error)})") from error


def _cam_net(backbone: Backbone, classes: int) -> tuple[Classifier, CamNet]:
    """Create the backbone with a new class layer for this number of classes."""
    base = backbone()
    network = base.network
    head = _head_of(base)
    parent, _, own = head.rpartition(".")
    old = network.get_submodule(head)
    new = nn.Linear(int(old.in_features), classes).to(next(network.parameters()))  # type: ignore[arg-type]
    setattr(network.get_submodule(parent), own, new)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return base, CamNet(network, base.target, head)


def _head_of(base: Classifier) -> str:
    """Name of the fully connected layer after the pooling."""
    if base.returns != "logits":
        raise ModelError(
            f"{base.name}: MultiCAM needs a backbone that returns logits, not probabilities"
        )
    try:
        [first] = base.first_looks(base.noise())
        weights = class_weights(base, first)
    except RelookError as error:
        raise ModelError(
            f"{base.name}: MultiCAM needs a network that ends with global average pooling and one "
            "fully connected layer, such as a ResNet, GoogLeNet or EfficientNet; this one does not"
        ) from error
    for name, module in base.network.named_modules():
        if isinstance(module, nn.Linear) and module.weight.data_ptr() == weights.data_ptr():
            return str(name)
    raise ModelError(
        f"{base.name}: MultiCAM needs a fully connected layer (nn.Linear) after the pooling; "
        "this network has another kind of layer there"
    )
