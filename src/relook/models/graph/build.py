"""Modified copies of an ONNX graph: with other outputs, or with a layer masked."""

from __future__ import annotations

import copy

import onnx
from jaxtyping import Float
from onnx import helper, numpy_helper
from torch import Tensor

from relook.models.graph.walk import Graph

# Index of the scale of an 8-bit output among the inputs; its zero point comes next.
_SCALE = {
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QLinearWhere": 7,
    "QLinearConcat": 0,
}
_SCALE_ELSEWHERE = 3


def tensor_of(graph: Graph, layer: str) -> str:
    """Name of a layer's output in floats; `with_outputs` adds it if the output is 8-bit."""
    node = graph.nodes[layer]
    name: str = node.output[0]
    return f"{name}/dequantized" if node.op_type.startswith("QLinear") else name


def with_outputs(graph: Graph, tensors: list[str]) -> onnx.ModelProto:
    """Copy of the model with additional outputs; 8-bit ones are converted to floats."""
    model = copy.deepcopy(graph.model)
    answer = [value for value in model.graph.output if value.name == graph.answer]
    del model.graph.output[:]
    model.graph.output.extend(answer)
    named = {graph.answer}
    for name in graph.nodes:
        tensor, node = tensor_of(graph, name), graph.nodes[name]
        if tensor not in tensors or tensor in named:
            continue
        if tensor != node.output[0]:
            inputs = [node.output[0], *_scale_of(node)]
            model.graph.node.append(helper.make_node("DequantizeLinear", inputs, [tensor]))
        named.add(tensor)
        model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return model


def masked(graph: Graph, layer: str, mask: Float[Tensor, "1 t d"]) -> onnx.ModelProto:
    """Copy of the model with a layer's output multiplied by a mask."""
    node = graph.nodes[layer]
    tensor, raw = tensor_of(graph, layer), node.output[0]
    model = with_outputs(graph, [tensor])
    hidden, hide = f"{raw}/without places", f"{raw}/mask"
    model.graph.initializer.append(numpy_helper.from_array(mask.numpy(), hide))
    if tensor == raw:
        added = [helper.make_node("Mul", [raw, hide], [hidden])]
    else:  # 8-bit: converted to floats and back
        scale = _scale_of(node)
        added = [
            helper.make_node("DequantizeLinear", [raw, *scale], [f"{hidden}/float"]),
            helper.make_node("Mul", [f"{hidden}/float", hide], [f"{hidden}/masked"]),
            helper.make_node("QuantizeLinear", [f"{hidden}/masked", *scale], [hidden]),
        ]
    nodes = []
    for other in model.graph.node:
        other = copy.deepcopy(other)
        other.input[:] = [hidden if name == raw else name for name in other.input]
        nodes += [other, *added] if raw in other.output else [other]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _scale_of(node: onnx.NodeProto) -> list[str]:
    """Names of the scale and the zero point of a node's 8-bit output."""
    at = _SCALE.get(node.op_type, _SCALE_ELSEWHERE)
    return list(node.input[at : at + 2])
