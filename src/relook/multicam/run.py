"""The folder of a training: three stages, each kept when it is done.

RUN holds `run.json` (settings, versions, what the data were), `images.csv` (every image and what it
was for), and for each of the stages `target`, `object` and `fusion` a folder with
`weights.safetensors` and, written last, `stage.json`: what came out, epoch by epoch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from relook.errors import DataError, first_line
from relook.folder import RunError, claimed, read_settings, versions, write_atomically
from relook.multicam.data import (
    OnImages,
    TrainingData,
    TrainingImage,
    divide,
    read_images,
    write_images,
)
from relook.multicam.stages import STAGES, Backbone, Networks, restore
from relook.multicam.training import BATCH, Epoch, OnProgress, Plan, fit

KIND = "multicam"


@dataclass(frozen=True)
class StageRecord:
    """The outcome of a stage.

    Attributes:
        epochs: figures of every epoch, first of the one before the training.
        seconds: of training and validation, summed over interruptions.
        images: the number of training images.
        validation: the number of validation images, which chose the epoch to keep.

    >>> from relook.multicam import Training
    >>> target = Training.read("trained").stages["target"]
    >>> target.images + target.validation
    72
    """

    epochs: tuple[Epoch, ...]
    seconds: float
    images: int
    validation: int

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> StageRecord:
        """The record that stage.json holds."""
        epochs = tuple(Epoch(**epoch) for epoch in found["epochs"])
        return cls(**{**found, "epochs": epochs})

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return min(self.epochs, key=lambda epoch: epoch.validation_loss)


@dataclass(frozen=True)
class Training:
    """A training that is done, or done in part.

    Attributes:
        folder: of the training.
        settings: what run.json holds.
        labels: the classes.
        images: every image and the part it belongs to; paths are relative to the data.
        stages: the stages that are done, in order.

    >>> from relook.multicam import Training
    >>> training = Training.read("trained")
    >>> list(training.stages), training.labels
    (['target', 'object', 'fusion'], ('blue', 'green', 'red'))
    """

    folder: Path
    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    images: tuple[TrainingImage, ...]
    stages: Mapping[str, StageRecord]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Training:
        """Read the folder of a training.

        Raises:
            RunError: it is no folder of a training, or cannot be read.
        """
        place = Path(folder)
        settings = read_settings(place, KIND)
        try:
            labels = tuple(settings["labels"])
            records = {name: _record(place / name) for name in STAGES if _is_done(place / name)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{place}: cannot be read ({first_line(error)})") from error
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
    """Train TargetNet, then ObjectNet, then their fusion; continue where an earlier call stopped.

    Args:
        data: what to train on.
        output: RUN.
        backbone: makes the network that both begin from; called under the seed.
        plan: epochs, learning rate and seed of every stage.
        settings: what else the result depends on: the backbone's name and its weights.
        on_images: called with how many images have been read, before the training.
        on_progress: called at every step.

    Raises:
        ModelError: the backbone does not end in global average pooling and one fully connected
            layer.
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


def _is_done(folder: Path) -> bool:
    return (folder / "stage.json").exists()


def _record(folder: Path) -> StageRecord:
    return StageRecord.of_json(json.loads((folder / "stage.json").read_text(encoding="utf-8")))
