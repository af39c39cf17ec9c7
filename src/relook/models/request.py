"""The arguments that `relook.load` hands to a source of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relook.classifier import Classifier
from relook.record import Record


@dataclass(frozen=True)
class Request:
    """A request to load one model.

    Attributes:
        name: full name of the model, for the classifier and for messages.
        pretrained: True for the source's own weights, False for random ones.
        checkpoint: file with weights to use instead.
        device: device to run the network on; the best one available if None.
        said: properties that the caller gave; they override those that the source knows.
        load: `relook.load`, for models that are made from another one.
    """

    name: str
    pretrained: bool
    checkpoint: Path | None
    device: str | None
    said: Record
    load: Callable[..., Classifier]
