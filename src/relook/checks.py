"""Checks of a classifier's inputs and of its network's outputs."""

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
        # autograd's names
        *("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Addmv", "Linear", "Convolution", "Addbmm"),
        *("MkldnnConvolution", "CudnnConvolution", "Gelu", "Silu", "Softplus", "Elu", "LogSoftmax"),
        *("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "Cdist", "EuclideanDist"),
        *("Log", "Prelu"),
        # ONNX's names
        *("Gemm", "MatMul", "Conv", "FusedGemm", "FusedMatMul", "FusedConv", "QGemm"),
        *("BatchNormalization", "LayerNormalization", "LogSoftmax", "PRelu", "Gelu"),
    )
)
"""Operations with unbounded outputs, which therefore produce logits."""
_BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Hardsigmoid", "Softmax"})
"""Operations with outputs in [0, 1]."""
_SIGMOIDS = (
    "as sigmoids do, which score each class independently. relook corrects class "
    "probabilities that sum to 1: if the classes exclude each other, pass the network without its "
    'sigmoid (logits), or divide its outputs by their sum and pass outputs="probabilities"'
)


def check_module(module: object) -> None:
    """Raise ModelError unless `module` is a network whose layers can be watched.

    The message says what to pass instead.
    """
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{name} is TorchScript, which does not expose its layers' maps; pass the nn.Module "
            "that it was made from"
        )
    # `ExportedProgram.module()` returns an nn.Module that cannot be switched to eval mode.
    stateful = any(kind.__module__ == "torch.export._unlift" for kind in type(module).__mro__)
    if stateful or isinstance(module, torch.export.ExportedProgram):
        raise ModelError(
            f"{name} is a program of torch.export, which does not expose its layers' maps; pass "
            "the nn.Module that it was made from, or write it as ONNX (torch.onnx.export) and pass "
            "that file to relook.load"
        )
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"a Classifier needs an nn.Module, not a {name}; files and names of models are for "
            "relook.load"
        )
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        raise ModelError(
            f"{name} is at least partly on the meta device, where tensors have shapes but no "
            "values; call module.to_empty(device='cpu') and load its weights"
        )


def check_normalisation(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    """Raise ModelError unless mean and std are finite and suit pixels in [0, 1]."""
    if not all(value > 0 for value in std):
        raise ModelError(f"std {std} must be above 0 for each colour channel")
    if not all(map(math.isfinite, (*mean, *std))):
        raise ModelError(f"mean {mean} and std {std} must be finite")
    if max(map(abs, mean)) > 1 or max(std) > _LARGEST_STD:
        raise ModelError(
            f"mean {mean} and std {std} are not for pixels in [0, 1]; divide both by 255"
        )


def check_pixels(pixels: object) -> None:
    """Raise RelookError unless `pixels` is a batch (N, 3, H, W) of RGB pixels in [0, 1]."""
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
        values: values (N, ...) computed for N inputs.
        dtype: the network's dtype; decides on the remedy in the message.
    """
    finite = values.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        remedy = (
            "check the weights"
            if dtype in (torch.float32, torch.float64)
            else f"the range of {str(dtype).removeprefix('torch.')} may be too small: try float32"
        )
        bad = int((~finite).sum())
        raise NotFiniteError(
            f"the network returned NaN or infinity for {bad} of {len(finite)} inputs; {remedy}"
        )


def checked_answer(name: str, returned: Any, dtype: torch.dtype) -> Float[Tensor, "1 c"]:
    """Extract and check the class outputs for one image.

    Args:
        name: name of the network, for messages.
        returned: return value of the network.
        dtype: the network's dtype.

    Returns:
        The class outputs, at least float32.

    Raises:
        ModelError: the outputs are not one floating-point value per class, for two or more classes.
        NotFiniteError: an output is NaN or infinite.
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
            f"{name}: the network has one output; relook needs one per class (for a "
            "two-class network with output z before its sigmoid: logits (0, z))"
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
    """Raise ModelError if a network's outputs contradict the declared kind.

    Args:
        name: name of the network, for messages.
        outputs: kind of outputs that the user declared.
        answer: outputs for one image.
        ends_in: operations that compute the outputs, see `relook.layers.Probe`.
        others: outputs for other images, None where the network fails. Consumed only if `answer`
            does not settle the question.
    """
    total, lowest = float(answer.sum()), float(answer.min())
    distribution = lowest >= 0 and abs(total - 1) < _PROBABILITY_TOLERANCE
    if outputs == "probabilities" and not distribution:
        raise ModelError(
            f"{name}: the outputs are not probabilities (lowest {lowest:.3g}, sum "
            f'{total:.3g}); if they are logits, pass outputs="logits"'
        )
    if outputs == "logits" and distribution:
        raise ModelError(
            f"{name}: the outputs are not logits but probabilities "
            '(none below 0, sum 1); pass outputs="probabilities"'
        )
    # One image settles it if the outputs come from a layer with weights, or from a softmax alone.
    # Otherwise other images are needed.
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
            f"{name}: the outputs are not probabilities, some are below 0; if they are "
            'logits, pass outputs="logits"'
        )


def _check_shares(
    name: str, outputs: Outputs, answers: Float[Tensor, "n c"], bounded: bool
) -> None:
    """Raise ModelError if non-negative outputs look like scores in [0, 1] that do not sum to 1.

    Args:
        name: name of the network.
        outputs: kind of outputs that the user declared.
        answers: outputs, all at least 0, for images that have little in common.
        bounded: whether the outputs come from bounded operations such as sigmoids, up to a scale.
    """
    sums = answers.sum(dim=1)
    low, high = float(sums.min()), float(sums.max())
    if outputs == "probabilities":
        if max(abs(low - 1), abs(high - 1)) >= _PROBABILITY_TOLERANCE:
            raise ModelError(
                f"{name}: the outputs are not probabilities, they sum to {low:.3g} for one "
                f"image and to {high:.3g} for another; {_SIGMOIDS}"
            )
        return
    highest = float(answers.max())
    if highest > 1 and high - low < _PROBABILITY_TOLERANCE * high:
        raise ModelError(
            f"{name}: the outputs are not logits: none is below 0 and they sum to "
            f"{high:.4g} for every image, as scaled probabilities do; divide them by {high:.4g} "
            'in a module of your own and pass outputs="probabilities"'
        )
    if highest > float(answers.min()) and (bounded or highest <= 1):
        raise ModelError(
            f"{name}: the outputs are not logits: for {len(answers)} different images all "
            f"are from 0 to {max(1.0, highest):.4g}, and they sum to {low:.3g} to {high:.3g}, "
            f"{_SIGMOIDS}"
        )
