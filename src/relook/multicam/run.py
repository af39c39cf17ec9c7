"""The folder of a training run, with three stages that are saved as soon as they are finished.

It contains `run.json` (settings, versions and a description of the data), `images.csv` (every image
and the part it belongs to), and for each of the stages `target`, `object` and `fusion` a folder
with `weights.safetensors` and, written last, `stage.json` (the results of every epoch).
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
        epochs: results of every epoch, the first being the state before the training.
        seconds: time of training and validation, without interruptions.
        images: number of training images.
        validation: number of validation images, which chose the epoch to keep.

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
        """Create a record from the content of stage.json."""
        epochs = tuple(Epoch(**epoch) for epoch in found["epochs"])
        return cls(**{**found, "epochs": epochs})

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss, whose weights were kept."""
        return min(self.epochs, key=lambda epoch: epoch.validation_loss)


@dataclass(frozen=True)
class Training:
    """A training run, finished or not.

    Attributes:
        folder: folder of the training run.
        settings: content of run.json.
        labels: one label per class.
        images: all images with the part they belong to; paths are relative to the data.
        stages: records of the finished stages by name, in order.

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
        """Read the folder of a training run.

        Raises:
            RunError: the folder contains no training run, or cannot be read.
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
        data: labelled images.
        output: folder of the training run.
        backbone: creates the initial network of both networks; called with a fixed seed.
        plan: epochs, learning rate and seed of every stage.
        settings: other properties that the result depends on: name and weights of the backbone.
        on_images: called with the number of images read and of all images, before the training.
        on_progress: called after every step.

    Raises:
        ModelError: the backbone does not end with global average pooling and one fully connected
            layer.
        DataError: the images cannot be used, see `divide`.
        RunError: `output` contains another training run, or another process is using it.
        RelookError: the training failed, see `fit`; saved progress is kept.
        OSError: the folder cannot be written; saved progress is kept.
    """
    folder = Path(output)
    if data.test is None and folder.resolve().is_relative_to(data.root.resolve()):
        raise DataError(
            f"{folder}: is inside {data.root} and would become a class folder; choose an output "
            "folder elsewhere"
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
    for left in (kept, *kept.parent.glob(f"*{kept.name}*.writing")):  # see write_atomically
        left.unlink(missing_ok=True)


def _is_done(folder: Path) -> bool:
    return (folder / "stage.json").exists()


def _record(folder: Path) -> StageRecord:
    return StageRecord.of_json(json.loads((folder / "stage.json").read_text(encoding="utf-8")))
