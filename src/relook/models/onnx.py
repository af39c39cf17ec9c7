"""net.onnx: classifiers in ONNX files, without a PyTorch model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from relook.checks import Outputs
from relook.classifier import Classifier
from relook.errors import ModelError
from relook.models.graph import OnnxNetwork
from relook.models.request import Request
from relook.record import Record, classifier_of

_TOLERANCE = 1e-2
_LEAST_OF_A_BYTE = 64
"""Smallest distance between black and white in the input of a graph that takes bytes."""
_LEAST_OF_255 = 16
"""Inputs whose absolute values all stay below this are not pixels up to 255."""
_SLACK = 0.3
"""How far beyond [0, 1] pixels that were not normalised may lie, relative to white."""

_log = logging.getLogger("relook")


def load(name: str, request: Request) -> Classifier:
    """Load the classifier in an ONNX file.

    Properties that the graph does not define come from the caller's arguments, or else from the
    .json file beside it.

    Args:
        name: path of the file.
        request: the other arguments of `relook.load`.

    Raises:
        ModelError: the file is not an image classifier, or a required property is missing.
    """
    file = Path(name)
    known = Record.read(file).given(request.said)
    network = OnnxNetwork(file, known.layout, request.device)
    if network.takes_bytes:  # and normalises them itself
        known = replace(known, mean=known.mean or (0.0,) * 3, std=known.std or (1 / 255,) * 3)
    size = network.input_size or known.input_size
    lacking = {
        "the input size (--input-size, input_size=)": size,
        "mean (--mean, mean=)": known.mean,
        "std (--std, std=)": known.std,
    }
    missing = [what for what, value in lacking.items() if value is None]
    if size is None or known.mean is None or known.std is None:
        raise ModelError(
            f"{file}: missing {', '.join(missing)}; pass the values that it was trained with, for "
            f"pixels in [0, 1], or write them into {file.with_suffix('.json')}"
        )
    _check_range(network, known.mean, known.std)
    if known.input_size not in (None, size):
        raise ModelError(
            f"{file}: takes inputs of {size[0]}×{size[1]} only, not of "
            f"{known.input_size[0]}×{known.input_size[1]}"
        )
    outputs = known.outputs or _outputs(network, size)
    return classifier_of(network, replace(known, input_size=size, outputs=outputs), None, str(file))


def _check_range(network: OnnxNetwork, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ModelError if bytes would lose the image; warn if pixels are normalised twice."""
    ends = [(pixel - m) / s for m, s in zip(mean, std, strict=True) for pixel in (0, 1) if s]
    low, high = min(ends), max(ends)
    if network.takes_bytes and (low < -1 or high > 256 or high - low < _LEAST_OF_A_BYTE):
        raise ModelError(
            f"{network.name}: takes bytes from 0 to 255, but with mean {tuple(mean)} and std "
            f"{tuple(std)} it would get values from {low:.3g} to {high:.3g}; omit mean and std, "
            "since such graphs normalise by themselves (the defaults are then 0 and 1/255)"
        )
    opening = network.opening
    white = 255 if opening.takes_255 else 1
    is_shifted = low < -_SLACK * white or high > (1 + _SLACK) * white
    if opening.takes_255 and max(abs(low), abs(high)) < _LEAST_OF_255:
        takes = "pixels up to 255"
    elif opening.normalises and is_shifted:
        takes = "pixels up to 255 as they are" if white == 255 else "pixels in [0, 1] as they are"
    else:
        return
    steps = []
    if opening.normalises:
        steps.append(f"subtracts {opening.centre:.3g} from its input itself")
    if not opening.normalises and opening.factor == 1:
        steps.append(f"cuts its input off at {opening.most:.3g}")
    if opening.factor != 1:
        steps.append(f"multiplies {'it' if steps else 'its input'} by {opening.factor:.3g}")
    one = "0.00392157" if white == 255 else "1"
    _log.warning(
        "relook: %s: %s, and so takes %s, but with this mean and std it gets values from %.3g to "
        "%.3g; with mean 0,0,0 and std %s,%s,%s%s it does all of the normalisation",
        network.name,
        " and ".join(steps),
        takes,
        low,
        high,
        *(one,) * 3,
        " (1/255)" if white == 255 else "",
    )


def _outputs(network: OnnxNetwork, size: tuple[int, int]) -> Outputs:
    """Kind of the graph's outputs, by its last operation and by its outputs for zeros."""
    if network.ends_in == "Softmax":
        return "probabilities"
    if network.ends_in == "Sigmoid":
        raise ModelError(
            f"{network.name}: ends in a sigmoid, which scores each class independently; relook "
            "corrects networks whose class probabilities sum to 1"
        )
    try:
        answer = network(torch.zeros(1, 3, *size))
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"{network.name}: fails on an input of 1×3×{size[0]}×{size[1]} ({error})"
        ) from error
    adds_up = abs(float(answer.sum()) - 1) < _TOLERANCE
    return "probabilities" if adds_up and float(answer.min()) >= 0 else "logits"
