"""A folder of `relook train-multicam`: its networks as classifiers, and the training itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from relook.classifier import Classifier
from relook.errors import ModelError, first_line
from relook.models.checkpoint import WeightsMissingError
from relook.models.load import DEFAULT_MODEL, load, run_of
from relook.models.size import resize
from relook.models.torchvision import drop_auxiliary
from relook.multicam import (
    FUSED,
    OBJECT,
    STAGES,
    TARGET,
    Networks,
    OnImages,
    OnProgress,
    Plan,
    Trained,
    Training,
    read_training_data,
    restore,
    train,
)

_NAMES = {"target": TARGET, "object": OBJECT, "fusion": FUSED}
_FINE_TUNED = Plan(epochs=8, rate=5e-4, seed=0)
_FROM_SCRATCH = Plan(epochs=40, rate=3e-3, seed=0)


def load_run(folder: Path, stage: str, size: tuple[int, int] | None = None) -> Classifier:
    """The network that a stage of RUN made; that of "fusion" is MultiCAM. Its inputs are of the
    size that it was trained at, or of `size`.

    Raises:
        ModelError: the training is not so far.
        RunError: the folder holds no training, or cannot be read.
    """
    training = Training.read(folder)
    if stage not in STAGES:
        raise ModelError(f"{folder / stage}: is no stage of a training; name {folder} itself")
    [classifier] = load_stages(training, [stage])
    return classifier if size in (None, classifier.input_size) else resize(classifier, size)


def load_stages(
    training: Training, stages: Sequence[str], device: str | torch.device | None = None
) -> list[Classifier]:
    """Classifiers of what the stages made: TargetNet alone, ObjectNet alone, both fused.

    Raises:
        ModelError: a stage is not done, or the backbone cannot be made again.
        RunError: its weights cannot be read.
    """
    needed = STAGES[: 1 + max(map(STAGES.index, stages))]
    for stage in needed:
        if stage not in training.stages:
            raise ModelError(
                f"{training.folder}: the training is not done, {stage} is missing; the same relook "
                "train-multicam goes on"
            )
    backbone = str(training.settings["backbone"])
    _check_backbone(backbone)
    _check_origin(backbone, training.folder)
    size = training.settings.get("input_size")
    networks = Networks.make(
        lambda: _load(backbone, device=device, pretrained=False, input_size=size),
        training.labels,
        seed=0,
    )
    for stage in needed:
        restore(networks.stage(stage).network, training.folder / stage)
    made = [networks.classifier(stage, training.labels) for stage in stages]
    for stage, classifier in zip(stages, made, strict=True):
        classifier.name = _NAMES[stage]
    return made


def load_trained(
    folder: str | os.PathLike[str], device: str | torch.device | None = None
) -> Trained:
    """All three networks of RUN, for `relook.multicam.compare`.

    Raises:
        ModelError: the training is not done.
        RunError: the folder holds no training, or cannot be read.
    """
    training = Training.read(folder)
    return Trained(training, *load_stages(training, STAGES, device))


def train_multicam(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    backbone: str = DEFAULT_MODEL,
    weights: str | os.PathLike[str] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    on_images: OnImages | None = None,
    on_progress: OnProgress | None = None,
) -> Training:
    """Train a MultiCAM (see `relook.multicam.network`): TargetNet, ObjectNet and their fusion.

    Each stage is kept when it is done, and what is done of one after every epoch and every minute:
    the same call goes on where another was stopped or killed, to the same weights (on a CPU with
    the same number of threads). `relook.load(output)` is then the fused network, and
    `relook.load(f"{output}/target")` TargetNet.

    Args:
        data: a folder with train/ and test/, each with a folder of images for each class; or class
            folders, or a table, of which 30 % of each class are split off as test images. Of the
            training images 10 % of each class choose the epoch to keep.
        output: the folder of the run, RUN.
        backbone: a network that ends global average pooling → one fully connected layer:
            "bundled/efficientnet_lite0", "timm/<name>", "torchvision/<name>", "module:function".
        weights: what both networks begin from: "bundled" (those that come installed), "none"
            (random ones; of "module:function" every layer is reset), or a checkpoint of the
            backbone (what that has seen is yours to know). None is bundled for bundled backbones,
            else what `relook.load` takes.
        epochs: at most so many for each stage; 8 by default, 40 from random weights.
        seed: of the split, of random weights, of the order and the augmentation.
        device: as for `relook.load`.
        on_images: told how many images are read, before the training.
        on_progress: told of every step.

    Raises:
        DataError: the data cannot be trained on: an image that cannot be read, a class that is
            empty, classes that differ, a test image among the training images.
        ModelError: the backbone does not end so, or its weights cannot be had.
        RunError: `output` holds something else, or another process works in it.
    """
    if epochs is not None and epochs < 1:
        raise ModelError(f"epochs must be 1 or more, not {epochs}")
    _check_backbone(backbone)
    options, described = _start(backbone, weights)
    usual = _FROM_SCRATCH if described == "none" else _FINE_TUNED
    return train(
        read_training_data(data),
        output,
        lambda: _load(backbone, device=device, **options),
        Plan(epochs or usual.epochs, usual.rate, seed),
        {"backbone": backbone, "weights": described},
        on_images,
        on_progress,
    )


def _start(backbone: str, weights: str | os.PathLike[str] | None) -> tuple[dict[str, Any], str]:
    """Options of `load` for the starting weights, and what to call those."""
    bundled = backbone.startswith("bundled/")
    if weights is None:
        return {}, "bundled" if bundled else "own"
    if weights == "bundled":
        if not bundled:
            raise ModelError(
                f"{backbone} has no bundled weights; pass a file of its weights, none for random "
                "ones, or leave --weights out for those of its library"
            )
        return {}, "bundled"
    if weights == "none":
        return {"pretrained": False}, "none"
    file = Path(weights)
    if not file.is_file():
        raise ModelError(f"{file}: no such file of weights; pass one, or bundled, or none")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    return {"checkpoint": file}, f"file {digest}"


def _load(backbone: str, **options: Any) -> Classifier:
    """The backbone as MultiCAM trains it: in float32, without classifiers on the way."""
    try:
        classifier = load(backbone, dtype="float32", **options)
    except WeightsMissingError as error:
        raise ModelError(
            f"the weights of {backbone!r} cannot be had ({first_line(error.__cause__ or error)}); "
            "pass a file of them with --weights, or none for random ones"
        ) from error
    if ":" in backbone and options.get("pretrained") is False:
        for module in classifier.network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    drop_auxiliary(classifier.network)
    return classifier


def _check_backbone(backbone: str) -> None:
    """Raise ModelError for what is a model, but none that can be trained."""
    source = backbone.partition("/")[0]
    if run_of(backbone) is not None:
        raise ModelError(
            f"{backbone}: is a training itself; name its backbone, and with --weights its "
            "target/weights.safetensors"
        )
    if source not in ("bundled", "timm", "torchvision") and ":" not in backbone:
        raise ModelError(
            f"{backbone}: cannot be a backbone; pass bundled/<name>, timm/<name>, "
            "torchvision/<name> or module:function"
        )


def _check_origin(backbone: str, folder: Path) -> None:
    """A folder that somebody else made brings numbers, and no code: raise ModelError."""
    module = backbone.partition(":")[0]
    if ":" in backbone and Path(*module.split(".")).resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{folder}: its backbone {backbone!r} is code in that folder itself, which relook does "
            "not run; move the module out of it"
        )
