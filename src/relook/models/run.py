"""Folders of `relook train-multicam`: MultiCAM, or one of its networks (/target or /object)."""

from __future__ import annotations

from relook.classifier import Classifier
from relook.errors import ModelError
from relook.folder import run_of
from relook.models.request import Request
from relook.multicam import load_run


def load(name: str, request: Request) -> Classifier:
    """Load a classifier from the folder of a training run.

    Args:
        name: the run's folder, or the folder of one stage in it.
        request: the other arguments of `relook.load`.

    Raises:
        ModelError: the training is not finished, or a checkpoint is given.
        RunError: the folder contains no training run, or cannot be read.
    """
    if request.checkpoint is not None:
        raise ModelError(f"{name}: a trained folder has its own weights; drop checkpoint")
    found = run_of(name)
    assert found is not None  # `relook.load` checked it to choose this source
    folder, stage = found
    return load_run(
        folder,
        stage or "fusion",
        load=request.load,
        said=request.said,
        name=request.name,
        device=request.device,
    )
