"""What `relook.load` asks of a source of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relook.classifier import Classifier
from relook.record import Record


@dataclass(frozen=True)
class Request:
    """One model that is wanted.

    Attributes:
        name: all of the model's name, for the classifier and for messages.
        pretrained: whether the source's own weights are wanted; False: random ones.
        checkpoint: a file of weights to use instead.
        device: where the network shall run; None: where it runs best.
        said: what the caller says of the model, which counts more than what the source knows.
        load: `relook.load`, for a model that is made of another one.
    """

    name: str
    pretrained: bool
    checkpoint: Path | None
    device: str | None
    said: Record
    load: Callable[..., Classifier]
