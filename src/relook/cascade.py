"""Two networks for the same images: how their classes correspond, and what each costs."""

from __future__ import annotations

import statistics
import time
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from relook.classifier import Classifier
from relook.errors import ModelError
from relook.labels import by_label
from relook.layers import REFUSALS, evaluating, exclusive
from relook.words import some

_ROUNDS = 7
"""Number of forward passes of each network that are timed, in turns."""
_SHOWN = 3

_counted: WeakKeyDictionary[Classifier, tuple[tuple[int, int], int]] = WeakKeyDictionary()
_timed: WeakKeyDictionary[Classifier, WeakKeyDictionary[Classifier, float]] = WeakKeyDictionary()


def class_order(first: Classifier, second: Classifier) -> tuple[int, ...]:
    """The index of each class of the first network among the classes of the second.

    Classes are matched by name, or by index if one of the networks has no class names.

    Raises:
        ModelError: the networks have different classes.
    """
    own, other = first.labels, second.labels
    if len(own) != len(other):
        raise _other_classes(first, second, f"it has {len(other):,}, not {len(own):,}")
    if own == other or not are_named(first, second):
        return tuple(range(len(own)))
    found = _by_name(own, other)
    if len(found) < len(own):
        strange = [repr(name) for name in own if name not in found]
        raise _other_classes(first, second, f"it has no class that matches {some(strange, _SHOWN)}")
    return tuple(found[name] for name in own)


def are_named(first: Classifier, second: Classifier) -> bool:
    """Whether both networks have class names to match by."""
    return first.labels_given and second.labels_given


@lru_cache(maxsize=8)
def _by_name(own: tuple[str, ...], other: tuple[str, ...]) -> dict[str, int]:
    return by_label(own, other)


def _other_classes(first: Classifier, second: Classifier, why: str) -> ModelError:
    return ModelError(
        f"{second.name} does not have the classes of {first.name} ({why}), so that its answer "
        "cannot be added; choose a network with the same classes. If they are the same under other "
        "names, name them alike: relook.looks.Network(relook.load(..., labels=[...])) takes a name "
        "for each of its classes, in its own order"
    )


def forward_cost(second: Classifier, first: Classifier) -> float:
    """The cost of a forward pass of the second network, in forward passes of the first.

    It is the ratio of their multiply-adds, each at the network's own input size, or of their
    measured times if multiply-adds cannot be counted.
    """
    if second is first:
        return 1.0
    with exclusive():
        if is_counted(second, first):
            return multiply_adds(second) / multiply_adds(first)
        beside = _timed.setdefault(second, WeakKeyDictionary())
        if first not in beside:
            beside[first] = _time(second, first)
        return beside[first]


def keep_cost(second: Classifier, first: Classifier, cost: float) -> None:
    """Have `forward_cost` return what another process measured, so that their rows agree."""
    with exclusive():
        _timed.setdefault(second, WeakKeyDictionary())[first] = cost


def is_counted(second: Classifier, first: Classifier) -> bool:
    """Whether the multiply-adds of both networks can be counted."""
    return bool(multiply_adds(second) and multiply_adds(first))


def multiply_adds(classifier: Classifier) -> int:
    """Multiply-adds of a forward pass at the network's own input size.

    They are those of convolutions and matrix products; 0 if they cannot be counted, as in an ONNX
    graph.
    """
    if not classifier.in_pytorch:
        return 0
    size = classifier.input_size
    with exclusive():
        if _counted.get(classifier, (None, 0))[0] != size:
            _counted[classifier] = size, _count(classifier)
        return _counted[classifier][1]


def _count(classifier: Classifier) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    network = classifier.network
    inputs = classifier.normalised(classifier.noise()).to(classifier.dtype)
    # PyTorch does not count the operations inside fused attention.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            evaluating(network),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            network(inputs)
    except REFUSALS:  # operations that cannot be counted
        return 0
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()) // 2


def _time(second: Classifier, first: Classifier) -> float:
    """The median over several rounds of the ratio of the networks' times for a forward pass."""
    inputs = {network: network.normalised(network.noise()) for network in (first, second)}

    def seconds(network: Classifier) -> float:
        start = time.perf_counter()
        network.run(inputs[network]).sum().item()  # .item() waits for the accelerator
        return time.perf_counter() - start

    for network in inputs:
        seconds(network)  # warm-up
    return statistics.median(seconds(second) / seconds(first) for _ in range(_ROUNDS))
