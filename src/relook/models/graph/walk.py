"""Analysis of an ONNX graph: its nodes from the input to the answer, and what they compute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from relook.layers import Matrix
from relook.target import Call

# Operations whose output has the values of the input.
_PASSES_ON = ("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear")
# Operations that move pixels and keep their values, as when RGB becomes BGR.
_MOVES = ("Transpose", "Gather", "Slice", "ReverseSequence", "Concat", "Resize")

_SCALES_DOWN = 1 / 16
"""A graph with a smaller input factor is made for pixels up to 255: 1/255, 1/127.5, 1/58."""
_LARGEST_MEAN = 5
"""A larger value is never subtracted from pixels in [0, 1], normalised or not."""
_CUTS_OFF = (200, 256)
"""Range of upper bounds that are for pixels up to 255; activation functions clip at 6."""
_BOTH_SIDES = 0.4
"""Smallest distance of normalised black and white from 0, as for x − 0.5; learned means of values
that are already normalised are nearer to 0."""

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Transpose")
# Operations that keep values in their range, up to a scale and a shift.
_KEEPS = frozenset(
    (
        *(*_PASSES_ON, *_RESHAPES),
        *("Unsqueeze", "Expand", "Slice", "Gather", "Concat", "Mul", "Div", "Add", "Sub", "Neg"),
        *(
            "Mean",
            "Sum",
            "Max",
            "Min",
            "Clip",
            "Relu",
            "LeakyRelu",
            "ReduceMean",
            "ReduceSum",
            "Where",
        ),
        *("ReduceMax", "ReduceMin", "GlobalAveragePool", "AveragePool", "GlobalMaxPool", "MaxPool"),
    )
)


@dataclass(frozen=True)
class Opening:
    """Normalisation at the beginning of a graph, on average over the colour channels.

    Attributes:
        factor: factor that the input is multiplied by; 1 if none is found.
        centre: value of the input that becomes 0.
        most: value of the input above which it is clipped; infinity if it is not clipped.
    """

    factor: float
    centre: float
    most: float

    @property
    def takes_255(self) -> bool:
        """Whether the graph seems to be made for pixels up to 255."""
        cuts_off = _CUTS_OFF[0] <= self.most <= _CUTS_OFF[1]
        return self.factor < _SCALES_DOWN or self.centre > _LARGEST_MEAN or cuts_off

    @property
    def normalises(self) -> bool:
        """Whether pixels become values on both sides of 0."""
        white = 255 if self.takes_255 else 1
        low, high = -self.centre * self.factor, (white - self.centre) * self.factor
        return low <= -_BOTH_SIDES and high >= _BOTH_SIDES


class Graph:
    """The nodes of a graph that lead from its input to its answer.

    Attributes:
        model: the model as read from the file.
        input: name of the input.
        answer: name of the tensor with the class outputs.
        constants: names of the tensors that do not depend on the image.
        nodes: nodes that compute the answer, in order, by name, or by the name of its output if a
            node has no name.
        ends_in: operation that computes the answer, such as "Softmax" or "Gemm".
    """

    def __init__(self, model: onnx.ModelProto, source: str, answer: str) -> None:
        self.model = model
        self.input = source
        self.answer = answer
        self._producer = {out: node for node in model.graph.node for out in node.output if out}
        self.constants = self._always_the_same()
        self.nodes = self._before_answer()
        self.ends_in = self._last_operation()

    @cached_property
    def opening(self) -> Opening:
        """Normalisation of the input by the graph itself."""
        tensor, scale, shift, most = self.input, 1.0, 0.0, math.inf
        while (node := self._only_reader(tensor)) is not None:
            operation = node.op_type
            values = [self._values(name) for name in node.input if name and name != tensor]
            if operation in ("Mul", "Div", "Add", "Sub"):
                is_turned = operation in ("Div", "Sub") and node.input[0] != tensor
                if len(values) != 1 or values[0] is None or is_turned:
                    break
                by = float(values[0].mean())
                if operation in ("Add", "Sub"):
                    shift += by if operation == "Add" else -by
                else:
                    by = float(np.abs(values[0]).mean())
                    by = by if operation == "Mul" else 1 / max(by, 1e-12)
                    scale, shift = scale * by, shift * by
            elif operation == "BatchNormalization" and all(v is not None for v in values):
                mean, variance = (float(np.mean(v)) for v in values[2:4] if v is not None)
                by = 1 / max(variance, 1e-12) ** 0.5
                scale, shift = scale * by, (shift - mean) * by
                break  # its learned scale and shift do not normalise pixels
            elif operation == "Clip":
                bound = self._upper_bound(node)
                most = min(most, math.inf if bound is None else (bound - shift) / max(scale, 1e-12))
            elif operation not in (*_PASSES_ON, *_MOVES):
                break
            tensor = node.output[0]
        return Opening(scale, -shift / max(scale, 1e-12), most)

    def matrices(self) -> Iterator[Matrix]:
        """Weights and biases of fully connected layers and convolutions, from the last layer on."""
        for node in reversed(self.nodes.values()):
            weight = self._constant(node.input[1]) if len(node.input) > 1 else None
            if node.op_type not in ("Gemm", "MatMul", "Conv") or weight is None:
                continue
            bias = self._constant(node.input[2]) if len(node.input) > 2 else None
            if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _flag(node, "transB")):
                weight = weight.T
            if node.op_type == "MatMul":
                bias = self._bias_after(node)
            if weight.ndim in (2, 4):
                flat = torch.from_numpy(weight.reshape(len(weight), -1).astype(np.float32))
                yield flat, None if bias is None else torch.from_numpy(bias.astype(np.float32))

    def ends(self) -> frozenset[str]:
        """Last operations before the class outputs, see `relook.layers.Probe`."""
        left, found, seen = [self.answer], set(), set()
        while left:
            node = self._producer.get(left.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            operation = node.op_type.removeprefix("QLinear")
            if operation in _KEEPS:
                left += [tensor for tensor in _inputs(node) if tensor not in self.constants]
            else:
                found.add(operation)
        return frozenset(found)

    def call(
        self,
        name: str,
        node: onnx.NodeProto,
        shapes: dict[str, tuple[int, ...]],
        calls: dict[str, Call],
    ) -> Call:
        """Describe a node as the call of a layer.

        Args:
            name: name of the node.
            node: the node.
            shapes: shapes of the nodes' outputs for one image, by the nodes' names.
            calls: calls of earlier nodes, by name.
        """
        computed = [tensor for tensor in node.input if tensor not in self.constants]
        source = calls.get(self._names.get(computed[0], "")) if computed else None
        passes_on = node.op_type in _PASSES_ON and source is not None
        weighs = any(word in node.op_type for word in ("Conv", "Gemm", "MatMul"))
        return Call(
            name=name,
            shape=shapes[name],
            key=source.key if source and passes_on else node.output[0],
            pools="Pool" in node.op_type or bool(source and passes_on and source.pools),
            weighs=2
            if weighs and len(computed) == 1
            else int(node.op_type == "BatchNormalization"),
            # The sum of two branches ends a block.
            is_leaf=not (node.op_type == "Add" and len(computed) == 2),
        )

    @cached_property
    def _names(self) -> dict[str, str]:
        return {out: name for name, node in self.nodes.items() for out in node.output}

    def _always_the_same(self) -> frozenset[str]:
        """Names of the tensors that do not depend on the image."""
        same = {initializer.name for initializer in self.model.graph.initializer} | {""}
        for node in self.model.graph.node:
            if same.issuperset(node.input):
                same.update(node.output)
        return frozenset(same)

    def _before_answer(self) -> dict[str, onnx.NodeProto]:
        """Nodes that compute the answer, in order, by name."""
        needed, found = {self.answer}, []
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                needed.update(filter(None, _inputs(node)))
                found.append(node)
        nodes: dict[str, onnx.NodeProto] = {}
        for node in reversed(found):
            if not self.constants.issuperset(node.input):
                free = node.name and node.name not in nodes
                nodes[node.name if free else node.output[0]] = node
        return nodes

    def _constant(self, tensor: str) -> NDArray[Any] | None:
        """Value of a tensor that the file stores as a constant; None for any other tensor."""
        for initializer in self.model.graph.initializer:
            if initializer.name == tensor:
                return np.asarray(numpy_helper.to_array(initializer))
        node = self._producer.get(tensor)
        if node is not None and node.op_type in ("Constant", "Identity"):
            if node.op_type == "Identity":
                return self._constant(node.input[0])
            return np.asarray(numpy_helper.to_array(node.attribute[0].t))
        if node is not None and node.op_type == "DequantizeLinear":
            return self._dequantised(node)
        return None

    def _values(self, tensor: str) -> NDArray[Any] | None:
        """Value of a numeric constant, before it is reshaped; None for any other tensor."""
        node = self._producer.get(tensor)
        while node is not None and node.op_type in (*_RESHAPES, "Unsqueeze", "Expand", "Cast"):
            tensor = node.input[0]
            node = self._producer.get(tensor)
        found = self._constant(tensor)
        is_numbers = found is not None and found.dtype.kind in "fiu" and found.size
        return found.astype(np.float64) if found is not None and is_numbers else None

    def _dequantised(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """An 8-bit weight in floats: (x − zero point) · scale, per channel or per tensor."""
        parts = [self._constant(name) for name in node.input]
        if any(part is None for part in parts):
            return None
        codes, scale, *zero = [part.astype(np.float32) for part in parts if part is not None]
        if scale.ndim:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)]
            scale, zero = scale.reshape(shape), [z.reshape(shape) for z in zero]
        return np.asarray((codes - (zero[0] if zero else 0)) * scale)

    def _only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The only node that uses a tensor; for a Split, the Concat that joins its parts again."""
        readers = [n for n in self.nodes.values() if tensor in n.input and n.op_type != "Shape"]
        if len(readers) != 1:
            return None
        if readers[0].op_type != "Split":
            return readers[0]
        parts = set(readers[0].output)
        joining = [n for n in self.nodes.values() if parts.intersection(n.input)]
        is_all = len(joining) == 1 and parts == set(joining[0].input)
        return joining[0] if is_all and joining[0].op_type == "Concat" else None

    def _upper_bound(self, node: onnx.NodeProto) -> float | None:
        """Upper bound of a Clip: its third input, or an attribute before opset 11."""
        old = [attribute.f for attribute in node.attribute if attribute.name == "max"]
        if old:
            return float(old[0])
        found = self._values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return None if found is None else float(found.mean())

    def _bias_after(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        for other in self.nodes.values():
            if other.op_type == "Add" and node.output[0] in other.input:
                biases = [self._constant(name) for name in other.input if name != node.output[0]]
                if biases and biases[0] is not None and biases[0].ndim == 1:
                    return biases[0]
        return None

    def _last_operation(self) -> str:
        """Last operation before the answer that does more than copy or reshape."""
        tensor, operation = self.answer, ""
        while (node := self._producer.get(tensor)) is not None:
            operation = node.op_type
            if operation not in (*_PASSES_ON, *_RESHAPES):
                break
            tensor = node.input[0]
        return operation.removeprefix("QLinear")


def _inputs(node: onnx.NodeProto) -> list[str]:
    """Names of a node's inputs, including those of nodes inside its branches and loops."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            names += [name for inner in graph.node for name in _inputs(inner)]
    return names


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)
