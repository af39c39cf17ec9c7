"""A folder of `relook train-multicam`: MultiCAM, or with /target or /object one of its networks."""

from __future__ import annotations

from relook.classifier import Classifier
from relook.errors import ModelError
from relook.folder import run_of
from relook.models.request import Request
from relook.multicam import load_run


def load(name: str, request: Request) -> Classifier:
    """The classifier that a training made.

    Args:
        name: the folder, or a stage's folder in it.
        request: the model that is wanted.

    Raises:
        ModelError: the training is not done, or a checkpoint is given.
        RunError: the folder holds no training, or cannot be read.
    """
    if request.checkpoint is not None:
        raise ModelError(f"{name}: a trained folder has its own weights; drop checkpoint")
    found = run_of(name)
    assert found is not None  # else it would be another source's
    folder, stage = found
    return load_run(
        folder,
        stage or "fusion",
        load=request.load,
        said=request.said,
        name=request.name,
        device=request.device,
    )
