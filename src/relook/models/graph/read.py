"""Reading an ONNX file: its input, its class outputs, and the devices that can run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from relook.errors import ModelError, first_line

Order = Literal["NCHW", "NHWC"]
"""Order of the dimensions of a graph's input: channels first or last."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

INPUT_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}


def read(file: Path) -> onnx.ModelProto:
    """Read the model in an ONNX file.

    Raises:
        ModelError: the file is missing, or cannot be read as ONNX.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file; check the path")
    try:
        model = onnx.load(file)
        if not model.graph.node or not model.graph.output:
            raise ValueError("it holds no graph")
    except Exception as error:  # damaged files raise many kinds of errors, some from protobuf
        raise ModelError(f"{file}: cannot be read as ONNX ({first_line(error)})") from error
    return model


def order_of(file: Path, dims: list[int | None]) -> Order:
    """Order of an input with these dimensions, in which None stands for a variable size.

    Raises:
        ModelError: the order is ambiguous, or the input is not RGB.
    """
    if len(dims) == 4 and (dims[1] == 3) != (dims[3] == 3):
        return "NCHW" if dims[1] == 3 else "NHWC"
    if len(dims) == 4 and 1 in (dims[1], dims[3]):
        raise ModelError(
            f"{file}: its input is {shape_of(dims)}, with one colour channel; relook corrects "
            "classifiers of RGB images"
        )
    raise ModelError(
        f"{file}: its input is {shape_of(dims)}, in which the dimension of the 3 colour channels "
        'is ambiguous; pass layout="NCHW" or "NHWC" (--layout)'
    )


def answer_of(file: Path, graph: onnx.GraphProto) -> str:
    """Name of the class outputs: the only possible output, or the one named logits or prob…"""
    makers = {out: node for node in graph.node for out in node.output}
    found: dict[str, str] = {}
    for output in graph.output:
        maker = makers.get(output.name)
        kind = output.type.tensor_type
        sides = [d.dim_value or None for d in kind.shape.dim]
        if maker is not None and maker.op_type == "ZipMap":  # turns a tensor into dicts
            found[output.name] = maker.input[0]
        elif kind.elem_type in _FLOATS and (not sides or is_row(sides)):
            if maker is not None and maker.op_type == "TopK":
                raise ModelError(f"{file}: returns only the best classes ({output.name})")
            found[output.name] = output.name
    if len(found) > 1:
        called = {n: t for n, t in found.items() if "logit" in n.lower() or "prob" in n.lower()}
        found = called or found
    if len(found) != 1:
        names = ", ".join(output.name for output in graph.output)
        raise ModelError(
            f"{file}: its outputs are {names}, and it is not clear which one is (N, classes); "
            "export only the class outputs, or name them logits"
        )
    return next(iter(found.values()))


def is_row(sides: list[int | None]) -> bool:
    """Whether this is the shape (N, classes), possibly with dimensions of size 1."""
    return len(sides) > 1 and sum(side != 1 for side in sides[1:]) == 1


def providers_of(file: Path, device: str | None) -> list[Any]:
    """Execution providers of ONNX Runtime for a device, in the form that its sessions take.

    Raises:
        ModelError: the device is not available.
    """
    # One that sends images to a server is in every build.
    there = [p for p in onnxruntime.get_available_providers() if not p.startswith("Azure")]
    if device is None:
        return there
    kind, _, number = device.partition(":")
    for provider in there:
        if provider.removesuffix("ExecutionProvider").lower() == kind.lower():
            chosen = (provider, {"device_id": number}) if number else provider
            return [chosen, *(["CPUExecutionProvider"] if kind != "cpu" else [])]
    names = ", ".join(p.removesuffix("ExecutionProvider").lower() for p in there)
    raise ModelError(
        f"{file}: device {device!r} cannot be used; ONNX Runtime has {names} here (onnxruntime-gpu "
        "in place of onnxruntime adds CUDA)"
    )


def name_of(provider: Any) -> str:
    """Name of an execution provider, given with or without options."""
    return str(provider if isinstance(provider, str) else provider[0])


def shape_of(dims: Any) -> str:
    """Dimensions as text, such as "?×3×224×224"."""
    return "×".join(str(d) if d else "?" for d in dims) or "a number"
