"""Weights of the user's own: read without running anything that the file brings along."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from relook.errors import ModelError, first_line

State = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model")


def read_state(checkpoint: Path) -> State:
    """The state dict in a safetensors file, or in a `.pth` of plain tensors.

    Raises:
        ModelError: the file is missing, damaged, or holds anything but tensors.
    """
    if not checkpoint.is_file():
        raise ModelError(f"{checkpoint}: no such checkpoint; check the path")
    try:
        if checkpoint.suffix == ".safetensors":
            loaded: object = load_file(checkpoint)
        else:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch reports plain damage so too; its own text says which, over several lines.
        raise ModelError(
            f"{checkpoint}: not a file of plain tensors, or damaged; relook does not unpickle "
            "objects, so save model.state_dict(), best as safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise ModelError(
            f"{checkpoint}: cannot be read as a checkpoint ({first_line(error)}); save "
            "model.state_dict() again, best as safetensors"
        ) from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(f"{checkpoint}: holds no state dict; save model.state_dict()")
    state = {str(key): value for key, value in loaded.items()}
    odd = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError(
            f"{checkpoint}: {odd[0]!r} is no tensor; save the state dict alone, or under "
            f"{' or '.join(map(repr, _WRAPPERS))}"
        )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def load_into(create: Callable[[int | None], nn.Module], checkpoint: Path) -> nn.Module:
    """A network with the weights of `checkpoint`.

    Args:
        create: makes the network, with as many classes as it is told (None: its default).
        checkpoint: fine-tuned weights may have another number of classes; where the class layer
            alone differs, the network is made anew with that number.
    """
    state = read_state(checkpoint)
    network = create(None)
    classes = _other_classes(network, state)
    if classes is not None:
        network = create(classes)
    _fill(network, state, checkpoint)
    return network


class WeightsMissingError(ModelError):
    """A library's own weights cannot be had."""


def weights_missing(name: str, error: Exception) -> WeightsMissingError:
    """What to say then."""
    return WeightsMissingError(
        f"the weights of {name!r} cannot be had ({first_line(error)}); pass your own with "
        "checkpoint= or --checkpoint (in Python, pretrained=False gives random ones)"
    )


def load_state(network: nn.Module, checkpoint: Path) -> None:
    """Put the weights of `checkpoint` into a network that is there already."""
    _fill(network, read_state(checkpoint), checkpoint)


def _other_classes(network: nn.Module, state: State) -> int | None:
    """How many classes the state has, if that alone tells it from the network's own."""
    own = network.state_dict()
    differ = {k for k in own.keys() & state.keys() if own[k].shape != state[k].shape}
    counts = {state[key].shape[0] for key in differ if state[key].ndim}
    rows_only = all(own[key].shape[1:] == state[key].shape[1:] for key in differ)
    return counts.pop() if rows_only and len(counts) == 1 else None


def _fill(network: nn.Module, state: State, checkpoint: Path) -> None:
    own = network.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    shapes = [
        f"{key} is {_shape(state[key])} there, {_shape(own[key])} here"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    problems = [
        _some("it lacks", missing),
        _some("it has extra", unknown),
        _some("other shapes:", shapes),
    ]
    if any(problems):
        raise ModelError(
            f"{checkpoint}: of another architecture than {type(network).__name__}: "
            + "; ".join(filter(None, problems))
            + "; name the architecture that it was trained with"
        )
    network.load_state_dict(state, strict=False)


def _some(what: str, things: list[str]) -> str:
    """The first two things, and how many more there are; nothing for none."""
    more = f" and {len(things) - 2} more" if len(things) > 2 else ""
    return f"{what} {', '.join(things[:2])}{more}" if things else ""


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
