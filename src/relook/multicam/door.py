"""The door of this room: a MultiCAM is trained, and what was trained is loaded.

Backbones are models like others, and `relook.load` lies a floor above: it is handed in.
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
"""`relook.load`."""

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
    """The classifier that a stage of a training made.

    Args:
        folder: of the training.
        stage: "target", "object", or "fusion" for MultiCAM as a whole.
        load: `relook.load`.
        said: what counts instead of what was trained, such as another input size.
        name: what results call it; TargetNet, ObjectNet or MultiCAM by default.
        device: as for `relook.load`.

    Raises:
        ModelError: the stage is unknown or not done, or the backbone cannot be made again.
        RunError: the folder holds no training, or cannot be read.

    >>> from pathlib import Path
    >>> from relook.multicam import load_run
    >>> load_run(Path("trained"), "target", load=relook.load).name
    'TargetNet'
    """
    training = Training.read(folder)
    if stage not in STAGES:
        raise ModelError(f"{folder / stage}: is no stage of a training; name {folder} itself")
    networks = _networks(training, [stage], load, device)
    return networks.classifier(stage, training.labels, said, name)


def load_stages(
    training: Training,
    stages: Sequence[str],
    *,
    load: Load,
    device: str | torch.device | None = None,
) -> list[Classifier]:
    """The classifiers that stages of a training made: TargetNet alone, ObjectNet alone, both fused.

    Args:
        training: read from its folder.
        stages: any of "target", "object" and "fusion".
        load: `relook.load`.
        device: as for `relook.load`.

    Raises:
        ModelError: a stage is not done, or the backbone cannot be made again.
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
    """The networks of a training, with the weights of these stages and of those before them."""
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
    """All three networks of a training, for `relook.multicam.compare`.

    Args:
        folder: of the training.
        load: `relook.load`.
        device: as for `relook.load`.

    Raises:
        ModelError: the training is not done.
        RunError: the folder holds no training, or cannot be read.

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

    Each stage is kept when it is done, and a stage that is not done is kept after every epoch and
    every minute: the same call continues where another was stopped or killed, with the same
    weights in the end (on a CPU with the same number of threads). `relook.load(output)` is then
    the fused network, and `relook.load(f"{output}/target")` TargetNet.

    Args:
        data: a folder with train/ and test/, each with a folder of images for each class; or class
            folders, or a table, of which 30 % of each class are split off as test images. Of the
            training images 10 % of each class choose the epoch to keep.
        output: the folder of the training.
        load: `relook.load`, which makes the backbone.
        backbone: a network that ends global average pooling → one fully connected layer:
            "bundled/efficientnet_lite0", "timm/<name>", "torchvision/<name>", "module:function".
        weights: what both networks begin from: "bundled" (those that come installed), "none"
            (random ones; of "module:function" every layer is reset), or a checkpoint of the
            backbone (which images that was trained on, you have to know). By default bundled ones
            for bundled backbones, and otherwise what `relook.load` takes.
        epochs: the most for each stage; 8 by default, 40 from random weights.
        seed: of the split, of random weights, of the order and the augmentation.
        device: as for `relook.load`.
        on_images: called with how many images have been read, before the training.
        on_progress: called at every step.

    Raises:
        DataError: the data cannot be trained on: an image that cannot be read, a class that is
            empty, classes that differ, a test image among the training images.
        ModelError: the backbone ends otherwise, or its weights cannot be loaded.
        RunError: `output` holds something else, or another process works in it.

    The folder "trained" holds what this call wrote; the same call finds it done:

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


def _load(load: Load, backbone: str, **options: Any) -> Classifier:
    """The backbone as MultiCAM trains it: in float32, without auxiliary classifiers."""
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
    """Remove the auxiliary classifiers of GoogLeNet and Inception; whether they are there depends
    on where the weights came from.
    """
    if getattr(network, "aux_logits", None) is not None:
        network.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, name):
                setattr(network, name, None)


def _check_backbone(backbone: str) -> None:
    """Raise ModelError for models that cannot be trained."""
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
    """Raise ModelError for a backbone whose code lies in the training's folder: a folder that
    somebody else made may bring numbers, and no code.
    """
    module = backbone.partition(":")[0]
    if ":" in backbone and Path(*module.split(".")).resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{folder}: its backbone {backbone!r} is code in that folder itself, which relook does "
            "not run; move the module out of it"
        )
