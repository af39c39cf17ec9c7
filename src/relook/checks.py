"""Checks of what goes into a classifier and of what its network returns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relook.answers import at_least_float32, class_outputs
from relook.errors import ModelError, NotFiniteError, RelookError

Outputs = Literal["logits", "probabilities"]

_PROBABILITY_TOLERANCE = 1e-3
_LARGEST_STD = 10
"""The standard deviation of pixels in [0, 1] is about 0.25."""
_UNBOUNDED = frozenset(
    (
        # Names that autograd gives,
        *("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Addmv", "Linear", "Convolution", "Addbmm"),
        *("MkldnnConvolution", "CudnnConvolution", "Gelu", "Silu", "Softplus", "Elu", "LogSoftmax"),
        *("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "Cdist", "EuclideanDist"),
        *("Log", "Prelu"),
        # and those of ONNX.
        *("Gemm", "MatMul", "Conv", "FusedGemm", "FusedMatMul", "FusedConv", "QGemm"),
        *("BatchNormalization", "LayerNormalization", "LogSoftmax", "PRelu", "Gelu"),
    )
)
"""Operations whose outputs have no bounds: logits come from them."""
_BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Hardsigmoid", "Softmax"})
"""Operations whose outputs are shares, from 0 to 1."""
_SIGMOIDS = (
    "as sigmoids do, which say of each class alone whether it is there. relook corrects class "
    "probabilities that sum to 1: if the classes exclude each other, pass the network without its "
    'sigmoid (logits), or divide its outputs by their sum and pass outputs="probabilities"'
)


def check_module(module: object) -> None:
    """Raise ModelError unless this is a network whose layers can be watched, with the remedy."""
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{name} is TorchScript, which does not show its layers' maps; pass the nn.Module that "
            "it was made of"
        )
    # `ExportedProgram.module()` returns an nn.Module that cannot be switched to eval mode.
    stateful = any(kind.__module__ == "torch.export._unlift" for kind in type(module).__mro__)
    if stateful or isinstance(module, torch.export.ExportedProgram):
        raise ModelError(
            f"{name} is a program of torch.export, which does not show its layers' maps; pass the "
            "nn.Module that it was made of, or write it as ONNX (torch.onnx.export) and pass that "
            "file to relook.load"
        )
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"a Classifier needs an nn.Module, not a {name}; files and names of models are for "
            "relook.load"
        )
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        raise ModelError(
            f"{name} is on the meta device (or a part of it), where tensors have shapes and no "
            "values; make room for them with module.to_empty(device='cpu'), and load its weights"
        )


def check_normalisation(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    """Raise ModelError unless mean and std are finite and made for pixels in [0, 1]."""
    if not all(value > 0 for value in std):
        raise ModelError(f"std {std} must be above 0 for each colour channel")
    if not all(map(math.isfinite, (*mean, *std))):
        raise ModelError(f"mean {mean} and std {std} must be finite")
    if max(map(abs, mean)) > 1 or max(std) > _LARGEST_STD:
        raise ModelError(
            f"mean {mean} and std {std} are not for pixels in [0, 1]; divide both by 255"
        )


def check_pixels(pixels: object) -> None:
    """Raise RelookError unless this is a batch of RGB pixels in [0, 1]."""
    if not isinstance(pixels, Tensor):
        raise RelookError(
            f"pixels must be a tensor (N, 3, H, W), not a {type(pixels).__name__}; for a "
            "file, PIL image or array use Corrector.correct"
        )
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise RelookError(
            f"pixels must be floats of shape (N, 3, H, W), not {pixels.dtype} of shape "
            f"{tuple(pixels.shape)}"
        )
    if pixels.numel() == 0:
        return
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise RelookError(
            f"pixels must be in [0, 1], not {low:.3g} to {high:.3g}: pass them before mean/std "
            "normalisation, which the classifier does itself"
        )


def check_finite(values: Tensor, dtype: torch.dtype) -> None:
    """Raise NotFiniteError if any value is NaN or infinite.

    Args:
        values: (N, ...), of N inputs.
        dtype: of the network, for the remedy in the message.
    """
    finite = values.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        remedy = (
            "check the weights"
            if dtype in (torch.float32, torch.float64)
            else f"{str(dtype).removeprefix('torch.')} may be too narrow for it: try float32"
        )
        bad = int((~finite).sum())
        raise NotFiniteError(
            f"the network answered NaN or infinity for {bad} of {len(finite)} inputs; {remedy}"
        )


def checked_answer(name: str, returned: Any, dtype: torch.dtype) -> Float[Tensor, "1 c"]:
    """The class outputs in what a network returned for one image, at least float32.

    Args:
        name: of the network, for messages.
        returned: what the network returned.
        dtype: of the network.

    Raises:
        ModelError: they are not one floating-point value per class, for two classes or more.
        NotFiniteError: one of them is NaN or infinite.
    """
    try:
        outputs = class_outputs(returned).detach()
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    if outputs.ndim != 2 or len(outputs) != 1 or not outputs.is_floating_point():
        raise ModelError(
            f"{name}: for one image the network returns {outputs.dtype} of shape "
            f"{tuple(outputs.shape)}, not (1, classes) floats; wrap it so that it does"
        )
    if outputs.shape[1] < 2:
        raise ModelError(
            f"{name}: the network has one output; relook needs one a class (for a "
            "two-class network z with a sigmoid: logits (0, z))"
        )
    outputs = at_least_float32(outputs)
    check_finite(outputs, dtype)
    return outputs


def check_kind(
    name: str,
    outputs: Outputs,
    answer: Float[Tensor, "1 c"],
    ends_in: frozenset[str],
    others: Iterable[Float[Tensor, "1 c"] | None],
) -> None:
    """Raise ModelError if a network's outputs cannot be what the user declares them to be.

    Args:
        name: of the network, for messages.
        outputs: the kind that the user declares.
        answer: the outputs for one image.
        ends_in: the operations that they come from, see `relook.layers.Probe`.
        others: the outputs for other images, None where the network fails. They are computed only
            if `answer` leaves the question open.
    """
    total, lowest = float(answer.sum()), float(answer.min())
    distribution = lowest >= 0 and abs(total - 1) < _PROBABILITY_TOLERANCE
    if outputs == "probabilities" and not distribution:
        raise ModelError(
            f"{name}: the outputs are no probabilities (lowest {lowest:.3g}, sum "
            f'{total:.3g}); if they are logits, pass outputs="logits"'
        )
    if outputs == "logits" and distribution:
        raise ModelError(
            f"{name}: the outputs are no logits, they are probabilities already "
            '(none below 0, sum 1); pass outputs="probabilities"'
        )
    # Other images can settle what one leaves open; after a layer of weights, or a softmax alone,
    # nothing is open.
    logits = outputs == "logits" and (lowest < 0 or not ends_in or bool(ends_in & _UNBOUNDED))
    if logits or (distribution and ends_in == {"Softmax"}):
        return
    answers = [answer]
    for found in others:
        if found is None or float(found.min()) < 0:
            break
        answers.append(found)
    else:
        _check_shares(name, outputs, torch.cat(answers), ends_in <= _BOUNDED)
        return
    if outputs == "probabilities":
        raise ModelError(
            f"{name}: the outputs are no probabilities, some are below 0; if they are "
            'logits, pass outputs="logits"'
        )


def _check_shares(
    name: str, outputs: Outputs, answers: Float[Tensor, "n c"], bounded: bool
) -> None:
    """Raise ModelError for outputs, all at least 0, that look like shares of each class but do not
    sum to 1, or that are declared to sum to 1 and do not.

    Args:
        name: of the network.
        outputs: the kind that the user declares.
        answers: the outputs for images that have little in common.
        bounded: whether they come from sigmoids and the like, whatever their scale.
    """
    sums = answers.sum(dim=1)
    low, high = float(sums.min()), float(sums.max())
    if outputs == "probabilities":
        if max(abs(low - 1), abs(high - 1)) >= _PROBABILITY_TOLERANCE:
            raise ModelError(
                f"{name}: the outputs are no probabilities, they sum to {low:.3g} for one "
                f"image and to {high:.3g} for another; {_SIGMOIDS}"
            )
        return
    highest = float(answers.max())
    if highest > 1 and high - low < _PROBABILITY_TOLERANCE * high:
        raise ModelError(
            f"{name}: the outputs are no logits: none is below 0 and they sum to "
            f"{high:.4g} for every image, as shares do; divide them by {high:.4g} in a module "
            'of your own and pass outputs="probabilities"'
        )
    if highest > float(answers.min()) and (bounded or highest <= 1):
        raise ModelError(
            f"{name}: the outputs are no logits: for {len(answers)} different images all "
            f"are from 0 to {max(1.0, highest):.4g}, and they sum to {low:.3g} to {high:.3g}; "
            f"{_SIGMOIDS}"
        )
