"""The folder of a training: three stages, each kept when it is done; and the networks in it.

RUN holds `run.json` (settings, versions, what the data were), `images.csv` (every image and what it
was for), and for each of the stages `target`, `object` and `fusion` a folder with
`weights.safetensors` and, written last, `stage.json`: what came out, epoch by epoch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from relook.attribution.cam import class_weights
from relook.classifier import Classifier
from relook.errors import ModelError, RelookError, first_line
from relook.evaluation import DataError
from relook.folder import RunError, claimed, versions, write_atomically
from relook.multicam.data import (
    OnImages,
    TrainingData,
    TrainingImage,
    divide,
    read_images,
    write_images,
)
from relook.multicam.network import CamNet, MultiCAM, ObjectNet
from relook.multicam.training import BATCH, Epoch, OnProgress, Plan, Stage, fit, random_of

STAGES = ("target", "object", "fusion")
STAGE_NAMES = {"target": "TargetNet", "object": "ObjectNet", "fusion": "fusion"}
KIND = "multicam"

Backbone = Callable[[], Classifier]
"""Makes the backbone anew at each call, in the classes that its weights have."""


@dataclass(frozen=True)
class StageRecord:
    """What a stage came to.

    Attributes:
        epochs: the one before the training first.
        seconds: of training and validation, all sessions together.
        images: how many it was fitted to.
        validation: how many chose its epoch.
    """

    epochs: tuple[Epoch, ...]
    seconds: float
    images: int
    validation: int

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return min(self.epochs, key=lambda epoch: epoch.validation_loss)


@dataclass(frozen=True)
class Training:
    """A training that is done, or is done in part.

    Attributes:
        folder: where it is.
        settings: what run.json holds.
        labels: the classes.
        images: every image and what it was for; paths are relative to the data.
        stages: those that are done, in order.
    """

    folder: Path
    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    images: tuple[TrainingImage, ...]
    stages: Mapping[str, StageRecord]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Training:
        """What is in a folder.

        Raises:
            RunError: it is no folder of a training, or cannot be read.
        """
        place = Path(folder)
        file = place / "run.json"
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            if settings.get("kind") != KIND:
                raise RunError(
                    f"{place}: holds the rows of an evaluation and no network; name a folder of "
                    "relook train-multicam"
                )
            labels = tuple(settings["labels"])
            records = {name: _record(place / name) for name in STAGES if _is_done(place / name)}
        except FileNotFoundError:
            raise RunError(
                f"{place}: holds no run.json; name a folder of relook train-multicam"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{file}: cannot be read ({first_line(error)})") from error
        images = read_images(place / "images.csv", {}, labels)
        return cls(place, settings, labels, images, records)

    @property
    def split(self) -> bool:
        """Whether the test images were split off by relook."""
        return bool(self.settings["data"]["split"])


def train(
    data: TrainingData,
    output: str | os.PathLike[str],
    backbone: Backbone,
    plan: Plan,
    settings: Mapping[str, Any],
    on_images: OnImages | None = None,
    on_progress: OnProgress | None = None,
) -> Training:
    """Train TargetNet, then ObjectNet, then their fusion; go on where an earlier call was stopped.

    Args:
        data: what to train on.
        output: RUN.
        backbone: makes the network that both begin from; called under the seed.
        plan: epochs, learning rate and seed of every stage.
        settings: what else the result depends on: how the backbone is called.
        on_images: told how many images are read, before the training.
        on_progress: told of every step.

    Raises:
        ModelError: the backbone does not end GAP → one fully connected layer.
        DataError: the images cannot be used, see `divide`.
        RunError: `output` holds another training, or another process works in it.
        RelookError: the training failed, see `fit`; what is done is kept.
        OSError: the folder cannot be written; what is done is kept.
    """
    folder = Path(output)
    if data.test is None and folder.resolve().is_relative_to(data.root.resolve()):
        raise DataError(
            f"{folder}: lies among the class folders of {data.root}, and would be one; name an "
            "output elsewhere"
        )
    made = {"kind": KIND, **settings, **asdict(plan), "batch": BATCH, "labels": list(data.labels)}
    made["data"] = {
        "images": len(data.train) + (len(data.test) if data.test else 0),
        "split": data.test is None,
        "content": data.content,
        "left_out": data.left_out,
    }
    networks = Networks.make(backbone, data.labels, plan.seed)
    made["input_size"] = list(networks.base.input_size)
    made["device"] = networks.base.device.type
    made["versions"] = versions()
    listed = folder / "images.csv"
    with claimed(folder, json.loads(json.dumps(made)), listed.exists):
        if not listed.exists():
            divided = divide(data, plan.seed, on_images)
            write_atomically(listed, write_images(divided, data.labels))
        images = read_images(listed, data.named, data.labels)
        for name in STAGES:
            _run_stage(networks, name, images, plan, folder / name, on_progress)
    return Training.read(folder)


def _run_stage(
    networks: Networks,
    name: str,
    images: Sequence[TrainingImage],
    plan: Plan,
    folder: Path,
    on_progress: OnProgress | None,
) -> None:
    stage = networks.stage(name)
    kept = folder / "resume.pt"
    if _is_done(folder):
        restore(stage.network, folder)
        _forget(kept)
        return
    folder.mkdir(exist_ok=True)
    fitted, validation = ([i for i in images if i.part == p] for p in ("train", "validation"))
    epochs = fit(stage, networks.base, fitted, validation, plan, kept, on_progress)
    state = stage.network.state_dict()
    weights = save({key: value.cpu().contiguous().clone() for key, value in state.items()})
    write_atomically(folder / "weights.safetensors", weights)
    record = StageRecord(tuple(epochs), epochs[-1].seconds, len(fitted), len(validation))
    write_atomically(folder / "stage.json", json.dumps(asdict(record), indent=1))
    _forget(kept)


def _forget(kept: Path) -> None:
    for left in (kept, kept.with_name(kept.name + ".writing")):
        left.unlink(missing_ok=True)


class Networks:
    """TargetNet, ObjectNet and their fusion, made of one backbone.

    Attributes:
        base: a classifier of the backbone, for its device and preprocessing.
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
        """With the backbone's weights, and class layers of their own at random.

        Raises:
            ModelError: the backbone does not end GAP → one fully connected layer of logits.
        """
        with torch.random.fork_rng():
            torch.manual_seed(random_of(seed, "target").getrandbits(62))
            base, target = _cam_net(backbone, len(labels))
            torch.manual_seed(random_of(seed, "object").getrandbits(62))
            _, network = _cam_net(backbone, len(labels))
        if target.network is network.network:
            raise ModelError(
                f"{base.name}: gives the same network twice; MultiCAM trains two, so that the "
                "function has to make it anew at each call"
            )
        return cls(base, target, network)

    @property
    def fused(self) -> MultiCAM:
        """The fusion, which begins from what TargetNet and ObjectNet are when first asked for."""
        if self._fused is None:
            self._fused = MultiCAM(self.object)
        return self._fused

    def stage(self, name: str) -> Stage:
        """What the stage of that name trains, behind what stands still meanwhile."""
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
        # Near a good place already: AdamW's steps, as large as the rate, would leave it at once.
        return Stage(name, self.fused.fusion, self.fused.features, pace=0.1)

    def classifier(self, name: str, labels: Sequence[str]) -> Classifier:
        """A classifier of the network that the stage of that name made."""
        layer = self.base.target_layer
        network: nn.Module
        if name == "target":
            network = self.target.network
        elif name == "object":
            network, layer = self.object, f"network.network.{layer}"
        else:
            network, layer = self.fused, "joined"
        return Classifier(
            network,
            mean=self.base.mean,
            std=self.base.std,
            input_size=self.base.input_size,
            geometry=self.base.geometry,
            labels=labels,
            target_layer=layer,
        ).eval()


def restore(network: nn.Module, folder: Path) -> None:
    """Put a stage's weights into its network.

    Raises:
        RunError: they cannot be read, or are of another network.
    """
    file = folder / "weights.safetensors"
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise RunError(f"{file}: cannot be used ({first_line(error)})") from error


def _cam_net(backbone: Backbone, classes: int) -> tuple[Classifier, CamNet]:
    """The backbone with a class layer of so many classes."""
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
    """The name of the fully connected layer behind the pooled maps."""
    if base.returns != "logits":
        raise ModelError(f"{base.name}: MultiCAM trains a backbone of logits, not probabilities")
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
        f"{base.name}: MultiCAM needs a fully connected layer (nn.Linear) behind the pooling; "
        "this network has another kind there"
    )


def _is_done(folder: Path) -> bool:
    return (folder / "stage.json").exists()


def _record(folder: Path) -> StageRecord:
    found = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    epochs = tuple(Epoch(**epoch) for epoch in found.pop("epochs"))
    return StageRecord(epochs, **found)
