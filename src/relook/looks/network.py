"""A second network as the second look: with a gate, a cascade of two networks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from relook.attribution import Context, Note
from relook.cascade import are_named, is_counted
from relook.classifier import Classifier
from relook.errors import ModelError, RelookError
from relook.looks.protocol import SecondLook, Views

_in_use: WeakValueDictionary[tuple[str, str, int], Classifier] = WeakValueDictionary()
_loaded_as: WeakKeyDictionary[Classifier, tuple[torch.device, torch.dtype]] = WeakKeyDictionary()


@dataclass(frozen=True, repr=False)
class Network:
    """The same image, classified by a second network. Its answer weighs as much as the first.

    The second network applies its own resize and crop to the original image; if only pixels are
    given, they are resized to its input size. It must have the classes of the first network, in any
    order (see `relook.cascade.class_order`).

    Attributes:
        classifier: the second network.

    >>> second = relook.Classifier(
    ...     torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 1000)),
    ...     mean=(0.5, 0.5, 0.5),
    ...     std=(0.5, 0.5, 0.5),
    ...     input_size=8,
    ...     labels=classifier.labels,
    ... )
    >>> corrector = relook.Corrector(classifier, look=relook.looks.Network(second))
    >>> corrector.correct("photo.jpg").forwards
    2
    """

    needs_activations: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    classifier: Classifier

    def __repr__(self) -> str:
        return f"Network({self.classifier.name!r})"

    def __call__(self, context: Context) -> SecondLook:
        """Return one view, for the second network."""
        first, second = context.first, self.classifier
        if first.original is not None:
            pixels = second.pixels(first.original).to(first.pixels)
            box = second.geometry.crop_box(*first.extent)
        else:
            box = first.shown
            pixels = first.cut(box, second.input_size)
        views = Views(
            pixels.unsqueeze(0),
            torch.ones_like(first.probabilities).unsqueeze(0),
            what=f"second network: {second.name}",
            boxes=(box,),
            by=second,
        )
        return SecondLook((views,), left_out=_notes(context.classifier, second))


def _notes(first: Classifier, second: Classifier) -> tuple[Note, ...]:
    notes = []
    if not are_named(first, second):
        notes.append(
            Note(
                f"matching classes by name, so the classes of {second.name} are assumed to be in "
                f"the order of those of {first.name}"
            )
        )
    if not is_counted(second, first):
        notes.append(
            Note(
                f"counting the multiply-adds of {second.name}, so the cost of its forward pass was "
                "measured by its time"
            )
        )
    return tuple(notes)


def networks(look: object) -> Iterator[Classifier]:
    """Iterate over the second networks of a look and of the looks that it combines.

    >>> look = relook.looks.Together((relook.looks.Flip(), relook.looks.Network(classifier)))
    >>> [network is classifier for network in relook.looks.networks(look)]
    [True]
    >>> list(relook.looks.networks(relook.looks.Flip()))
    []
    """
    if isinstance(look, Network):
        yield look.classifier
    elif isinstance(look, tuple):
        for part in look:
            yield from networks(part)
    elif is_dataclass(look):
        for field in fields(look):
            yield from networks(getattr(look, field.name))


def load_network(name: str, beside: Classifier | None = None) -> Network:
    """Load a model by name (see `relook.load`) as the second network of a look.

    A model that is still in use is shared between looks and not loaded again, unless its file has
    changed or the model was moved to another device or dtype.

    Args:
        name: name of the model.
        beside: the first network, whose device the second is moved to; None for the default device
            of `relook.load`.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from relook.models import load  # imports the model libraries only when a model is named

    try:
        written = os.stat(os.path.expanduser(name)).st_mtime_ns
    except (OSError, ValueError):  # not a file
        written = 0
    # An ONNX graph runs outside PyTorch and does not report its device.
    device = None
    if beside is not None and beside.in_pytorch:
        device = beside.device
    key = (name, str(device), written)
    classifier = _in_use.get(key)
    if classifier is None or _loaded_as[classifier] != (classifier.device, classifier.dtype):
        try:
            classifier = load(name, device=device)
        except RelookError as error:
            raise ModelError(f"look 'network:{name}': {error}") from error
        _in_use[key] = classifier
        _loaded_as[classifier] = classifier.device, classifier.dtype
    return Network(classifier)
