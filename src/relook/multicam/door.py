"""Training a MultiCAM and loading trained networks.

Each function takes `relook.load` as an argument to load the backbone, since `relook.models`
imports this package.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relook.classifier import Classifier
from relook.errors import ModelError, WeightsMissingError, first_line
from relook.folder import run_of
from relook.multicam.comparison import Trained
from relook.multicam.data import OnImages, read_training_data
from relook.multicam.run import Training, train
from relook.multicam.stages import STAGES, Networks, restore
from relook.multicam.training import OnProgress, Plan
from relook.record import Record

Load = Callable[..., Classifier]
"""The function `relook.load`."""

_FINE_TUNED = Plan(epochs=8, rate=5e-4, seed=0)
_FROM_SCRATCH = Plan(epochs=40, rate=3e-3, seed=0)


def load_run(
    folder: Path,
    stage: str,
    *,
    load: Load,
    said: Record | None = None,
    name: str = "",
    device: str | torch.device | None = None,
) -> Classifier:
    """Load the classifier that one stage of a training run produced.

    Args:
        folder: folder of the training run.
        stage: "target", "object", or "fusion" for the whole MultiCAM.
        load: the function `relook.load`.
        said: properties that override those of the training, such as another input size.
        name: name of the classifier; TargetNet, ObjectNet or MultiCAM by default.
        device: see `relook.load`.

    Raises:
        ModelError: the stage is unknown or not finished, or the backbone cannot be created.
        RunError: the folder contains no training run, or cannot be read.

    >>> from pathlib import Path
    >>> from relook.multicam import load_run
    >>> load_run(Path("trained"), "target", load=relook.load).name
    'TargetNet'
    """
    training = Training.read(folder)
    if stage not in STAGES:
        raise ModelError(f"{folder / stage}: is not a stage of a training run; pass {folder}")
    networks = _networks(training, [stage], load, device)
    return networks.classifier(stage, training.labels, said, name)


def load_stages(
    training: Training,
    stages: Sequence[str],
    *,
    load: Load,
    device: str | torch.device | None = None,
) -> list[Classifier]:
    """Load the classifiers that several stages of a training run produced.

    Args:
        training: training run, read from its folder.
        stages: names of stages: "target" for TargetNet, "object" for ObjectNet, "fusion" for
            MultiCAM.
        load: the function `relook.load`.
        device: see `relook.load`.

    Returns:
        One classifier per name, in the order of `stages`.

    Raises:
        ModelError: a stage is not finished, or the backbone cannot be created.
        RunError: the weights cannot be read.

    >>> from relook.multicam import Training, load_stages
    >>> training = Training.read("trained")
    >>> [network.name for network in load_stages(training, ["target", "fusion"], load=relook.load)]
    ['TargetNet', 'MultiCAM']
    """
    networks = _networks(training, stages, load, device)
    return [networks.classifier(stage, training.labels) for stage in stages]


def _networks(
    training: Training, stages: Sequence[str], load: Load, device: str | torch.device | None
) -> Networks:
    """The networks of a training run, with the weights of these stages and all earlier ones."""
    needed = STAGES[: 1 + max(map(STAGES.index, stages))]
    for stage in needed:
        if stage not in training.stages:
            raise ModelError(
                f"{training.folder}: the training is not finished, {stage} is missing; run the "
                "same relook train-multicam command again to continue"
            )
    backbone = str(training.settings["backbone"])
    _check_backbone(backbone)
    _check_origin(backbone, training.folder)
    size = training.settings.get("input_size")
    networks = Networks.make(
        lambda: _load(load, backbone, device=device, pretrained=False, input_size=size),
        training.labels,
        seed=0,
    )
    for stage in needed:
        restore(networks.stage(stage).network, training.folder / stage)
    return networks


def load_trained(
    folder: str | os.PathLike[str], *, load: Load, device: str | torch.device | None = None
) -> Trained:
    """Load all three networks of a training run, for `relook.multicam.compare`.

    Args:
        folder: folder of the training run.
        load: the function `relook.load`.
        device: see `relook.load`.

    Raises:
        ModelError: the training is not finished.
        RunError: the folder contains no training run, or cannot be read.

    >>> from relook.multicam import load_trained
    >>> load_trained("trained", load=relook.load).fused.name
    'MultiCAM'
    """
    training = Training.read(folder)
    return Trained(training, *load_stages(training, STAGES, load=load, device=device))


def train_multicam(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    load: Load,
    backbone: str = "bundled/efficientnet_lite0",
    weights: str | os.PathLike[str] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    on_images: OnImages | None = None,
    on_progress: OnProgress | None = None,
) -> Training:
    """Train a MultiCAM (see `relook.multicam.network`): TargetNet, ObjectNet and their fusion.

    Progress is saved after every stage, after every epoch and every minute. Calling the function
    again with the same arguments continues an interrupted training, and ends with the same weights
    as without the interruption (on a CPU, with the same number of threads). Afterwards
    `relook.load(output)` loads the fused network and `relook.load(f"{output}/target")` TargetNet.

    Args:
        data: folder with train/ and test/, each with one folder of images per class; or class
            folders or a table, of which 30 % of each class become test images. 10 % of each
            class's training images are for validation: they choose the epoch to keep.
        output: folder of the training run.
        load: the function `relook.load`, which loads the backbone.
        backbone: network that ends with global average pooling and one fully connected layer:
            "bundled/efficientnet_lite0", "timm/<name>", "torchvision/<name>", "module:function".
        weights: initial weights of both networks: "bundled" (the installed ones), "none" (random
            ones; every layer of "module:function" is reset), or a checkpoint of the backbone,
            which must not have been trained on the test images. The model's own weights by
            default.
        epochs: largest number of epochs per stage; 8 by default, 40 from random weights.
        seed: seed of the split, the random weights, the order of images and the augmentation.
        device: see `relook.load`.
        on_images: called with the number of images read and of all images, before the training.
        on_progress: called after every step.

    Raises:
        DataError: the data are not suitable: an unreadable image, an empty class, different
            classes in train/ and test/, or a test image among the training images.
        ModelError: the backbone does not end as required, or its weights cannot be loaded.
        RunError: `output` contains something else, or another process is using it.

    The folder "trained" was written by this call, which finds the training finished:

    >>> from relook.multicam import train_multicam
    >>> training = train_multicam(
    ...     "scenes", "trained", load=relook.load, backbone="networks:make_grey", epochs=2
    ... )
    >>> training.stages["target"].best.epoch in (0, 1, 2)
    True
    """
    if epochs is not None and epochs < 1:
        raise ModelError(f"epochs must be 1 or more, not {epochs}")
    _check_backbone(backbone)
    options, described = _start(backbone, weights)
    usual = _FROM_SCRATCH if described == "none" else _FINE_TUNED
    return train(
        read_training_data(data),
        output,
        lambda: _load(load, backbone, device=device, **options),
        Plan(epochs or usual.epochs, usual.rate, seed),
        {"backbone": backbone, "weights": described},
        on_images,
        on_progress,
    )


def _start(backbone: str, weights: str | os.PathLike[str] | None) -> tuple[dict[str, Any], str]:
    """Arguments of `load` for the initial weights, and a description of these weights."""
    bundled = backbone.startswith("bundled/")
    if weights is None:
        return {}, "bundled" if bundled else "own"
    if weights == "bundled":
        if not bundled:
            raise ModelError(
                f"{backbone} has no bundled weights; pass a file of its weights, none for random "
                "ones, or omit --weights for those of its library"
            )
        return {}, "bundled"
    if weights == "none":
        return {"pretrained": False}, "none"
    file = Path(weights)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; pass a file of weights, bundled, or none")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    return {"checkpoint": file}, f"file {digest}"


def _load(load: Load, backbone: str, **options: Any) -> Classifier:
    """Load the backbone in float32, without auxiliary classifiers."""
    try:
        classifier = load(backbone, dtype="float32", **options)
    except WeightsMissingError as error:
        reason = first_line(error.__cause__ or error)
        raise ModelError(
            f"the weights of {backbone!r} cannot be loaded ({reason}); "
            "pass a file of them with --weights, or none for random ones"
        ) from error
    if ":" in backbone and options.get("pretrained") is False:
        for module in classifier.network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    _drop_auxiliary(classifier.network)
    return classifier


def _drop_auxiliary(network: nn.Module) -> None:
    """Remove the auxiliary classifiers of GoogLeNet and Inception, which only some weights have."""
    if getattr(network, "aux_logits", None) is not None:
        network.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, name):
                setattr(network, name, None)


def _check_backbone(backbone: str) -> None:
    """Raise ModelError for models that cannot be a backbone."""
    source = backbone.partition("/")[0]
    if run_of(backbone) is not None:
        raise ModelError(
            f"{backbone}: is itself a training run; pass its backbone, with --weights "
            f"{backbone}/target/weights.safetensors"
        )
    if source not in ("bundled", "timm", "torchvision") and ":" not in backbone:
        raise ModelError(
            f"{backbone}: cannot be a backbone; pass bundled/<name>, timm/<name>, "
            "torchvision/<name> or module:function"
        )


def _check_origin(backbone: str, folder: Path) -> None:
    """Raise ModelError if the backbone's code is in the training's folder.

    Loading a folder from somebody else must never run code in it.
    """
    module = backbone.partition(":")[0]
    if ":" in backbone and Path(*module.split(".")).resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{folder}: its backbone {backbone!r} is code inside this folder, which relook does "
            "not run; move the module out of it"
        )
