"""An ONNX graph as a network: run by ONNX Runtime, its nodes shown as layers."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from relook.engines.exported import session_options
from relook.errors import ModelError, first_line
from relook.layers import Matrix, Probe, exclusive
from relook.target import Call, Target

Order = Literal["NCHW", "NHWC"]
"""Where the colour channels of the graph's input are."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

# How much of the largest output rounding may change where weights or maps have 8 bits.
_ROUNDED = 1e-2

_INPUT_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}

# The output holds what the input holds.
_PASSES_ON = ("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear")
# Pixels change their places and keep their values, as where RGB becomes BGR.
_MOVES = ("Transpose", "Gather", "Slice", "ReverseSequence", "Concat", "Resize")

_SCALES_DOWN = 1 / 16
"""A graph that multiplies its input by less is made for pixels up to 255: 1/255, 1/127.5, 1/58."""
_LARGEST_MEAN = 5
"""So much is subtracted from no pixel in [0, 1], however it was normalised before."""
_CUTS_OFF = (200, 256)
"""Where values are cut off that are pixels up to 255; activations are at 6."""
_BOTH_SIDES = 0.4
"""How far pixels in [0, 1] lie on both sides of 0 at least once they are normalised, x − 0.5;
learned means of values that are normalised already are nearer to 0."""

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Transpose")
# And what keeps values within what they were, up to a scale and a shift.
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

# Where the scale of an output in 8 bits stands among the inputs; its zero point comes next.
_SCALE = {
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QLinearWhere": 7,
    "QLinearConcat": 0,
}
_SCALE_ELSEWHERE = 3


@dataclass(frozen=True)
class Opening:
    """What a graph does first with the values of its input, on average over the colours.

    Attributes:
        factor: what they are multiplied by; 1 where that is not to be seen.
        centre: which of them becomes 0: what is subtracted, in units of the input.
        most: above it they are cut off; infinity where they are not.
    """

    factor: float
    centre: float
    most: float

    @property
    def takes_255(self) -> bool:
        """Whether it is made for pixels up to 255, by what is to be seen of it."""
        cuts_off = _CUTS_OFF[0] <= self.most <= _CUTS_OFF[1]
        return self.factor < _SCALES_DOWN or self.centre > _LARGEST_MEAN or cuts_off

    @property
    def normalises(self) -> bool:
        """Whether it brings pixels to values on both sides of 0."""
        white = 255 if self.takes_255 else 1
        low, high = -self.centre * self.factor, (white - self.centre) * self.factor
        return low <= -_BOTH_SIDES and high >= _BOTH_SIDES


class OnnxNetwork(nn.Module):
    """Takes (N, 3, H, W) and gives (N, classes), whatever order and type the graph has.

    Nodes are its layers, under their own names; where a node has none, under its output's.
    A graph of a fixed batch size gets whole batches, padded with zeros. Everything is computed
    by ONNX Runtime; what goes in and comes out is on the CPU.

    Attributes:
        order: of the graph's input.
        input_size: (height, width), where the graph fixes it.
        batch: how many images go through at once, where the graph fixes it.
        is_exact: whether it computes in float32 or better, and not in 16 or 8 bits.
        ends_in: the operation that the answer comes from, as "Softmax" or "Gemm".
        provider: the execution provider of ONNX Runtime that is used first.
    """

    in_pytorch = False

    def __init__(self, file: Path, order: Order | None = None, device: str | None = None) -> None:
        """Read the graph; nothing is run yet.

        Args:
            file: of ONNX, with its external data beside it where it has any.
            order: of the input; read from the place of the 3 in its shape by default.
            device: "cpu", "cuda", "cuda:1", or one of ONNX Runtime's providers; the best there
                is by default.

        Raises:
            ModelError: the file cannot be read, or is no classifier of RGB images; there is no
                such device.
        """
        super().__init__()
        if order not in (None, "NCHW", "NHWC"):
            raise ModelError(f'{file}: layout must be "NCHW" or "NHWC", not {order!r}')
        self._model = _read(file)
        self.name = str(file)
        graph = self._model.graph
        constants = {initializer.name for initializer in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs)
            raise ModelError(f"{file}: takes {len(inputs)} inputs ({names}), not one image")
        self._input = inputs[0].name
        kind = inputs[0].type.tensor_type.elem_type
        if kind not in _INPUT_TYPES:
            name = TensorProto.DataType.Name(kind).lower()
            raise ModelError(
                f"{file}: its input is {name}; relook gives it floats, or bytes from 0 to 255 "
                "(uint8): export it with such an input"
            )
        self._input_type: Any = _INPUT_TYPES[kind]
        dims = [d.dim_value or None for d in inputs[0].type.tensor_type.shape.dim]
        self.order = order or _order(file, dims)
        rows = dims[2:] if self.order == "NCHW" else dims[1:3]
        if (
            len(dims) != 4
            or len(rows) != 2
            or dims[1 if self.order == "NCHW" else 3] not in (3, None)
        ):
            raise ModelError(
                f"{file}: its input is {_shape(dims)}, not {self.order} with 3 colours"
            )
        self.batch = dims[0]
        self.input_size = (rows[0], rows[1]) if rows[0] and rows[1] else None
        self._providers = _providers(file, device)
        self.provider = _name_of(self._providers[0]).removesuffix("ExecutionProvider")
        self._producer = {out: node for node in graph.node for out in node.output if out}
        self._same = self._always_the_same()
        self._answer = _answer(file, graph)
        self._nodes = self._before_answer()
        self.ends_in = self._last_operation()
        operations = {node.op_type for node in graph.node}
        self._has_8_bits = any("Quantize" in op or "QLinear" in op for op in operations)
        halves = any(i.data_type == TensorProto.FLOAT16 for i in graph.initializer)
        self.is_exact = not self._has_8_bits and not halves
        self._session: tuple[str | None, onnxruntime.InferenceSession] | None = None
        self._recorded: tuple[Target, list[Tensor]] | None = None

    def extra_repr(self) -> str:
        """The file, and its content, by which an evaluation knows its network again."""
        content = self._model.SerializeToString(deterministic=True)
        return f"{self.name}, sha256 {hashlib.sha256(content).hexdigest()}"

    def __getstate__(self) -> dict[str, Any]:
        """A session can be neither copied nor pickled; a copy makes its own."""
        return self.__dict__ | {"_session": None}

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Class outputs, of the graph's own kind, for normalised inputs.

        Raises:
            ValueError: the graph is not for inputs of this size.
            RuntimeError: ONNX Runtime cannot run it.
        """
        size = (inputs.shape[2], inputs.shape[3])
        if self.input_size not in (None, size):
            raise ValueError(f"the graph takes inputs of {_shape(self.input_size)} only")
        layer = self._recorded[0].layer if self._recorded else None
        session = self._session_with(layer)
        wanted = [self._answer] + ([self._tensor(layer)] if layer else [])
        parts = [self._run(session, wanted, batch) for batch in self._batches(inputs)]
        found = [torch.cat(part)[: len(inputs)] for part in zip(*parts, strict=True)]
        if len(found[0]) != len(inputs):
            raise ValueError(f"the graph gives {len(found[0])} answers for {len(inputs)} images")
        if self._recorded:
            target, maps = self._recorded
            read = target.layout.maps(found[1].float())
            maps[:] = [] if read is None else [read.contiguous()]
        answers = _rows(found[0].float())
        # In 8 bits, or in half precision, the shares do not quite add up.
        return answers / answers.sum(1, keepdim=True) if self.ends_in == "Softmax" else answers

    @property
    def takes_bytes(self) -> bool:
        """Whether pixels go in as whole numbers from 0 to 255."""
        return bool(self._input_type == np.uint8)

    @property
    def input_factor(self) -> float:
        """What the graph multiplies its input by before anything else is done with it; 1 where
        that is not to be seen.
        """
        return self.opening.factor

    @cached_property
    def opening(self) -> Opening:
        """What the graph does to the values of its input before it looks for anything in them."""
        tensor, scale, shift, most = self._input, 1.0, 0.0, math.inf
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
                break  # what it learned besides is no normalisation of pixels
            elif operation == "Clip":
                bound = self._upper_bound(node)
                most = min(most, math.inf if bound is None else (bound - shift) / max(scale, 1e-12))
            elif operation not in (*_PASSES_ON, *_MOVES):
                break
            tensor = node.output[0]
        return Opening(scale, -shift / max(scale, 1e-12), most)

    @contextmanager
    def recording(self, target: Target) -> Iterator[list[Tensor]]:
        """Record the maps (N, K, h, w) of the target layer in the forward passes that follow."""
        maps: list[Tensor] = []
        with exclusive():
            before, self._recorded = self._recorded, (target, maps)
            try:
                yield maps
            finally:
                self._recorded = before

    def differentiating(self, target: Target) -> AbstractContextManager[list[Tensor]]:
        """Raise ModelError: ONNX Runtime computes no gradients."""
        raise ModelError("an ONNX graph has no gradients; use Score-CAM (--attribution scorecam)")

    def probe(self, inputs: Float[Tensor, "1 3 h w"]) -> Probe:
        """Run the graph once and note what every node that leads to the answer returned."""
        tensors = [self._tensor(name) for name in self._nodes]
        session = self._open(self._with_outputs([self._answer, *tensors]), optimise=False)
        self._settle_batch(session, inputs)
        [batch] = self._batches(inputs)
        answer, *outputs = self._run(session, [self._answer, *tensors], batch)
        shapes = dict(zip(self._nodes, (self._shape_of(o) for o in outputs), strict=True))
        calls: dict[str, Call] = {}
        for (name, node), output in zip(self._nodes.items(), outputs, strict=True):
            if output.is_floating_point():
                calls[name] = self._call(name, node, shapes, calls)
        return Probe(_rows(answer[:1].float()), tuple(calls.values()), self._ends())

    def matters(self, target: Target, inputs: Float[Tensor, "1 3 h w"]) -> bool:
        """Whether the answer depends on what the layer holds at the places of the image.

        Only tokens can be read by nobody on a graph's way to its answer.
        """
        if target.layout.kind != "tokens":
            return True
        node = self._nodes[target.layer]
        tensor, raw = self._tensor(target.layer), node.output[0]
        model = self._with_outputs([self._answer, tensor])
        [batch] = self._batches(inputs)
        before = self._run(self._open(model, optimise=False), [self._answer, tensor], batch)
        mask = target.layout.without_places(torch.ones_like(before[1][:1])).numpy()
        hidden, hide = f"{raw}/without places", f"{raw}/mask"
        model.graph.initializer.append(numpy_helper.from_array(mask, hide))
        if tensor == raw:
            added = [helper.make_node("Mul", [raw, hide], [hidden])]
        else:  # in 8 bits: as floats, and back
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
        after = self._run(self._open(model, optimise=False), [self._answer], batch)
        difference = float((before[0].float() - after[0].float()).abs().max())
        # The scale of maps in 8 bits may depend on tokens that nobody reads.
        rounding = _ROUNDED * float(before[0].float().abs().max()) if self._has_8_bits else 0
        return difference > rounding

    def _settle_batch(self, session: onnxruntime.InferenceSession, inputs: Tensor) -> None:
        """A graph may leave the batch free and be made for one image all the same."""
        if self.batch is not None:
            return
        try:
            [batch] = self._batches(inputs.expand(2, -1, -1, -1))
            [answer] = self._run(session, [self._answer], batch)
            fits = len(answer) == 2
        except RuntimeError:
            fits = False
        self.batch = None if fits else 1

    def matrices(self) -> Iterator[Matrix]:
        """Weights and biases of its fully connected layers and 1×1 convolutions, the last first."""
        for node in reversed(self._nodes.values()):
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

    def _call(
        self,
        name: str,
        node: onnx.NodeProto,
        shapes: dict[str, tuple[int, ...]],
        calls: dict[str, Call],
    ) -> Call:
        computed = [tensor for tensor in node.input if tensor not in self._same]
        source = calls.get(self._name_of(computed[0])) if computed else None
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
            # The sum of two branches is the end of a block.
            is_leaf=not (node.op_type == "Add" and len(computed) == 2),
        )

    def _shape_of(self, output: Tensor) -> tuple[int, ...]:
        """For one image."""
        shape = tuple(output.shape)
        return (1, *shape[1:]) if self.batch and shape[:1] == (self.batch,) else shape

    def _batches(self, inputs: Tensor) -> list[NDArray[Any]]:
        """The inputs as the graph takes them."""
        x = inputs.detach().cpu().float()
        x = x if self.order == "NCHW" else x.permute(0, 2, 3, 1)
        size = self.batch or len(x)
        x = torch.cat([x, x.new_zeros(-len(x) % size, *x.shape[1:])])
        kind = self._input_type
        if kind == np.uint8:
            x = x.round().clamp(0, 255)
        return [batch.contiguous().numpy().astype(kind) for batch in x.split(size)]

    def _run(
        self, session: onnxruntime.InferenceSession, outputs: list[str], batch: NDArray[Any]
    ) -> list[Tensor]:
        try:
            found = session.run(outputs, {self._input: batch})
        except Exception as error:  # ONNX Runtime's own have no class of their own in common
            raise RuntimeError(f"ONNX Runtime: {first_line(error)}") from error
        return [torch.from_numpy(np.asarray(array)) for array in found]

    def _session_with(self, layer: str | None) -> onnxruntime.InferenceSession:
        """A session that gives the answer, and the maps of a layer where one is named."""
        if self._session is None or layer not in (None, self._session[0]):
            tensors = [self._answer] + ([self._tensor(layer)] if layer else [])
            self._session = (layer, self._open(self._with_outputs(tensors)))
        return self._session[1]

    def _open(self, model: onnx.ModelProto, optimise: bool = True) -> onnxruntime.InferenceSession:
        options = session_options(severity=4)  # what it refuses is said by relook
        if not optimise:
            # Nodes are then what the file says.
            off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = off
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=self._providers
            )
        except Exception as error:
            raise ModelError(
                f"{self.name}: ONNX Runtime refuses it ({first_line(error)})"
            ) from error

    def _with_outputs(self, tensors: list[str]) -> onnx.ModelProto:
        """The model with these outputs; weights in 8 bits get a node that makes them floats."""
        model = copy.deepcopy(self._model)
        answer = [value for value in model.graph.output if value.name == self._answer]
        del model.graph.output[:]
        model.graph.output.extend(answer)
        named = {self._answer}
        for name in self._nodes:
            tensor, node = self._tensor(name), self._nodes[name]
            if tensor not in tensors or tensor in named:
                continue
            if tensor != node.output[0]:
                inputs = [node.output[0], *_scale_of(node)]
                model.graph.node.append(helper.make_node("DequantizeLinear", inputs, [tensor]))
            named.add(tensor)
            model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        return model

    def _tensor(self, layer: str) -> str:
        """What a layer puts out, as floats."""
        node = self._nodes[layer]
        name: str = node.output[0]
        return f"{name}/dequantized" if node.op_type.startswith("QLinear") else name

    def _before_answer(self) -> dict[str, onnx.NodeProto]:
        """The nodes that the answer is computed by, in their order, by name."""
        needed, found = {self._answer}, []
        for node in reversed(self._model.graph.node):
            if needed.intersection(node.output):
                needed.update(filter(None, _inputs(node)))
                found.append(node)
        nodes: dict[str, onnx.NodeProto] = {}
        for node in reversed(found):
            if not self._same.issuperset(node.input):
                free = node.name and node.name not in nodes
                nodes[node.name if free else node.output[0]] = node
        return nodes

    def _name_of(self, tensor: str) -> str:
        """Of the layer that puts out this tensor."""
        return self._names.get(tensor, "")

    @cached_property
    def _names(self) -> dict[str, str]:
        return {out: name for name, node in self._nodes.items() for out in node.output}

    def _always_the_same(self) -> frozenset[str]:
        """The tensors that no image changes."""
        same = {initializer.name for initializer in self._model.graph.initializer} | {""}
        for node in self._model.graph.node:
            if same.issuperset(node.input):
                same.update(node.output)
        return frozenset(same)

    def _constant(self, tensor: str) -> NDArray[Any] | None:
        """A weight, where it stands in the file as such."""
        for initializer in self._model.graph.initializer:
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

    def _only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The one node that computes with a tensor; of a channel each, what joins them again."""
        readers = [n for n in self._nodes.values() if tensor in n.input and n.op_type != "Shape"]
        if len(readers) != 1:
            return None
        if readers[0].op_type != "Split":
            return readers[0]
        parts = set(readers[0].output)
        joining = [n for n in self._nodes.values() if parts.intersection(n.input)]
        is_all = len(joining) == 1 and parts == set(joining[0].input)
        return joining[0] if is_all and joining[0].op_type == "Concat" else None

    def _values(self, tensor: str) -> NDArray[Any] | None:
        """The numbers of a constant, in whatever shape it is brought."""
        node = self._producer.get(tensor)
        while node is not None and node.op_type in (*_RESHAPES, "Unsqueeze", "Expand", "Cast"):
            tensor = node.input[0]
            node = self._producer.get(tensor)
        found = self._constant(tensor)
        is_numbers = found is not None and found.dtype.kind in "fiu" and found.size
        return found.astype(np.float64) if found is not None and is_numbers else None

    def _upper_bound(self, node: onnx.NodeProto) -> float | None:
        """Of a Clip: its third input, or an attribute before opset 11."""
        old = [attribute.f for attribute in node.attribute if attribute.name == "max"]
        if old:
            return float(old[0])
        found = self._values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return None if found is None else float(found.mean())

    def _dequantised(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """A weight in 8 bits, as floats: (x − zero point) · scale, along an axis or as a whole."""
        parts = [self._constant(name) for name in node.input]
        if any(part is None for part in parts):
            return None
        codes, scale, *zero = [part.astype(np.float32) for part in parts if part is not None]
        if scale.ndim:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)]
            scale, zero = scale.reshape(shape), [z.reshape(shape) for z in zero]
        return np.asarray((codes - (zero[0] if zero else 0)) * scale)

    def _bias_after(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        for other in self._nodes.values():
            if other.op_type == "Add" and node.output[0] in other.input:
                biases = [self._constant(name) for name in other.input if name != node.output[0]]
                if biases and biases[0] is not None and biases[0].ndim == 1:
                    return biases[0]
        return None

    def _ends(self) -> frozenset[str]:
        """The operations that the answer comes from, see `Probe`."""
        left, found, seen = [self._answer], set(), set()
        while left:
            node = self._producer.get(left.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            operation = node.op_type.removeprefix("QLinear")
            if operation in _KEEPS:
                left += [tensor for tensor in _inputs(node) if tensor not in self._same]
            else:
                found.add(operation)
        return frozenset(found)

    def _last_operation(self) -> str:
        """What the answer comes from, before it was only passed on or brought into shape."""
        tensor, operation = self._answer, ""
        while (node := self._producer.get(tensor)) is not None:
            operation = node.op_type
            if operation not in (*_PASSES_ON, *_RESHAPES):
                break
            tensor = node.input[0]
        return operation.removeprefix("QLinear")


def _answer(file: Path, graph: onnx.GraphProto) -> str:
    """The output with one value a class: the only one of floats, or the one that is called so."""
    makers = {out: node for node in graph.node for out in node.output}
    found: dict[str, str] = {}
    for output in graph.output:
        maker = makers.get(output.name)
        kind = output.type.tensor_type
        sides = [d.dim_value or None for d in kind.shape.dim]
        if maker is not None and maker.op_type == "ZipMap":  # a list of dicts, made of a tensor
            found[output.name] = maker.input[0]
        elif kind.elem_type in _FLOATS and (not sides or _is_row(sides)):
            if maker is not None and maker.op_type == "TopK":
                raise ModelError(f"{file}: answers the best classes only ({output.name})")
            found[output.name] = output.name
    if len(found) > 1:
        called = {n: t for n, t in found.items() if "logit" in n.lower() or "prob" in n.lower()}
        found = called or found
    if len(found) != 1:
        names = ", ".join(output.name for output in graph.output)
        raise ModelError(
            f"{file}: its outputs are {names}, and not one of them alone could be (N, classes); "
            "leave the class outputs as the only ones, or call them logits"
        )
    return next(iter(found.values()))


def _is_row(sides: list[int | None]) -> bool:
    """Whether this is (N, classes), or that with sides of 1."""
    return len(sides) > 1 and sum(side != 1 for side in sides[1:]) == 1


def _rows(answer: Tensor) -> Tensor:
    """(N, classes), of what may be (N, classes, 1, 1)."""
    return answer.flatten(1) if _is_row(list(answer.shape)) else answer


def _scale_of(node: onnx.NodeProto) -> list[str]:
    """Scale and zero point of what a node puts out in 8 bits."""
    at = _SCALE.get(node.op_type, _SCALE_ELSEWHERE)
    return list(node.input[at : at + 2])


def _inputs(node: onnx.NodeProto) -> list[str]:
    """What a node reads, from inside its branches and loops too."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            names += [name for inner in graph.node for name in _inputs(inner)]
    return names


def _read(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise ModelError(f"{file}: no such file; check the path")
    try:
        model = onnx.load(file)
        if not model.graph.node or not model.graph.output:
            raise ValueError("it holds no graph")
    except Exception as error:  # damage shows in many ways, some of them protobuf's own
        raise ModelError(f"{file}: cannot be read as ONNX ({first_line(error)})") from error
    return model


def _order(file: Path, dims: list[int | None]) -> Order:
    if len(dims) == 4 and (dims[1] == 3) != (dims[3] == 3):
        return "NCHW" if dims[1] == 3 else "NHWC"
    if len(dims) == 4 and 1 in (dims[1], dims[3]):
        raise ModelError(
            f"{file}: its input is {_shape(dims)}, of one colour channel; relook corrects "
            "classifiers of RGB images"
        )
    raise ModelError(
        f"{file}: its input is {_shape(dims)}, which does not tell where the 3 colours are; pass "
        'layout="NCHW" or "NHWC" (--layout)'
    )


def _shape(dims: Any) -> str:
    return "×".join(str(d) if d else "?" for d in dims) or "a number"


def _providers(file: Path, device: str | None) -> list[Any]:
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


def _name_of(provider: Any) -> str:
    return str(provider if isinstance(provider, str) else provider[0])


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)
