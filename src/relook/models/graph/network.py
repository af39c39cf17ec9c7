"""An ONNX graph as a network, run by ONNX Runtime, with its nodes as layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from relook.engines.exported import session_options
from relook.errors import ModelError, first_line
from relook.layers import Matrix, Probe, exclusive
from relook.models.graph.build import masked, tensor_of, with_outputs
from relook.models.graph.read import (
    INPUT_TYPES,
    Order,
    answer_of,
    is_row,
    name_of,
    order_of,
    providers_of,
    read,
    shape_of,
)
from relook.models.graph.walk import Graph, Opening
from relook.target import Call, Target

# Largest change by rounding in 8-bit graphs, relative to the largest output.
_ROUNDED = 1e-2


class OnnxNetwork(nn.Module):
    """A module from (N, 3, H, W) to (N, classes), whatever the graph's own input order and type.

    The layers are the graph's nodes, with the node's name or else the name of its output. For a
    fixed batch size, inputs are padded with zeros. ONNX Runtime computes everything; inputs and
    outputs are on the CPU.

    Attributes:
        order: order of the dimensions of the graph's input.
        input_size: (height, width) of the input; None if variable.
        batch: batch size; None if variable.
        is_exact: whether the graph computes in float32 or better, not in 16 or 8 bits.
        ends_in: operation that computes the answer, such as "Softmax" or "Gemm".
        provider: first execution provider of ONNX Runtime.
    """

    in_pytorch = False

    def __init__(self, file: Path, order: Order | None = None, device: str | None = None) -> None:
        """Read the graph without running it.

        Args:
            file: path of the ONNX file, with its external data, if any, beside it.
            order: order of the dimensions of the input; by default found from the position of the
                3 in its shape.
            device: "cpu", "cuda", "cuda:1", or an execution provider of ONNX Runtime; the best
                one available by default.

        Raises:
            ModelError: the file cannot be read, or is not a classifier of RGB images; the device
                is not available.
        """
        super().__init__()
        if order not in (None, "NCHW", "NHWC"):
            raise ModelError(f'{file}: layout must be "NCHW" or "NHWC", not {order!r}')
        self._model = read(file)
        self.name = str(file)
        graph = self._model.graph
        constants = {initializer.name for initializer in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs)
            raise ModelError(f"{file}: takes {len(inputs)} inputs ({names}), not one image")
        self._input = inputs[0].name
        kind = inputs[0].type.tensor_type.elem_type
        if kind not in INPUT_TYPES:
            name = TensorProto.DataType.Name(kind).lower()
            raise ModelError(
                f"{file}: its input is {name}; relook supports floats, or bytes from 0 to 255 "
                "(uint8): export it with such an input"
            )
        self._input_type: Any = INPUT_TYPES[kind]
        dims = [d.dim_value or None for d in inputs[0].type.tensor_type.shape.dim]
        self.order = order or order_of(file, dims)
        rows = dims[2:] if self.order == "NCHW" else dims[1:3]
        if (
            len(dims) != 4
            or len(rows) != 2
            or dims[1 if self.order == "NCHW" else 3] not in (3, None)
        ):
            raise ModelError(
                f"{file}: its input is {shape_of(dims)}, not {self.order} with 3 colour channels"
            )
        self.batch = dims[0]
        self.input_size = (rows[0], rows[1]) if rows[0] and rows[1] else None
        self._providers = providers_of(file, device)
        self.provider = name_of(self._providers[0]).removesuffix("ExecutionProvider")
        self._answer = answer_of(file, graph)
        self._graph = Graph(self._model, self._input, self._answer)
        self.ends_in = self._graph.ends_in
        operations = {node.op_type for node in graph.node}
        self._has_8_bits = any("Quantize" in op or "QLinear" in op for op in operations)
        halves = any(i.data_type == TensorProto.FLOAT16 for i in graph.initializer)
        self.is_exact = not self._has_8_bits and not halves
        self._session: tuple[str | None, onnxruntime.InferenceSession] | None = None
        self._recorded: tuple[Target, list[Tensor]] | None = None

    def extra_repr(self) -> str:
        """File name and hash, by which an evaluation recognises its network."""
        content = self._model.SerializeToString(deterministic=True)
        return f"{self.name}, sha256 {hashlib.sha256(content).hexdigest()}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the session, which cannot be copied or pickled; a copy makes its own."""
        return self.__dict__ | {"_session": None}

    def forward(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute the graph's class outputs for normalised inputs.

        Raises:
            ValueError: the graph does not take inputs of this size.
            RuntimeError: ONNX Runtime cannot run the graph.
        """
        size = (inputs.shape[2], inputs.shape[3])
        if self.input_size not in (None, size):
            raise ValueError(f"the graph takes inputs of {shape_of(self.input_size)} only")
        layer = self._recorded[0].layer if self._recorded else None
        session = self._session_with(layer)
        wanted = [self._answer] + ([self._tensor(layer)] if layer else [])
        parts = [self._run(session, wanted, batch) for batch in self._batches(inputs)]
        found = [torch.cat(part)[: len(inputs)] for part in zip(*parts, strict=True)]
        if len(found[0]) != len(inputs):
            raise ValueError(f"the graph returns {len(found[0])} rows for {len(inputs)} images")
        if self._recorded:
            target, maps = self._recorded
            read = target.layout.maps(found[1].float())
            maps[:] = [] if read is None else [read.contiguous()]
        answers = _rows(found[0].float())
        # In 8 bits or half precision, the probabilities do not sum exactly to 1.
        return answers / answers.sum(1, keepdim=True) if self.ends_in == "Softmax" else answers

    @property
    def takes_bytes(self) -> bool:
        """Whether the input is in whole numbers from 0 to 255."""
        return bool(self._input_type == np.uint8)

    @property
    def input_factor(self) -> float:
        """Factor that the graph multiplies its input by; 1 if none is found."""
        return self.opening.factor

    @property
    def opening(self) -> Opening:
        """Normalisation of the input by the graph itself."""
        return self._graph.opening

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
        """Run the graph once and record the output of every node that leads to the answer."""
        with exclusive():
            tensors = [self._tensor(name) for name in self._graph.nodes]
            session = self._open(with_outputs(self._graph, tensors), optimise=False)
            self._settle_batch(session, inputs)
            [batch] = self._batches(inputs)
            answer, *outputs = self._run(session, [self._answer, *tensors], batch)
        shapes = dict(zip(self._graph.nodes, (self._shape_of(o) for o in outputs), strict=True))
        calls: dict[str, Call] = {}
        for (name, node), output in zip(self._graph.nodes.items(), outputs, strict=True):
            if output.is_floating_point():
                calls[name] = self._graph.call(name, node, shapes, calls)
        return Probe(_rows(answer[:1].float()), tuple(calls.values()), self._graph.ends())

    def matters(self, target: Target, inputs: Float[Tensor, "1 3 h w"]) -> bool:
        """Whether the answer depends on the layer's maps.

        Among the nodes that lead to the answer, only tokens may be unused.
        """
        if target.layout.kind != "tokens":
            return True
        tensor = self._tensor(target.layer)
        [batch] = self._batches(inputs)
        with exclusive():
            session = self._open(with_outputs(self._graph, [tensor]), optimise=False)
            before = self._run(session, [self._answer, tensor], batch)
            mask = target.layout.without_places(torch.ones_like(before[1][:1]))
            session = self._open(masked(self._graph, target.layer, mask), optimise=False)
            after = self._run(session, [self._answer], batch)
        difference = float((before[0].float() - after[0].float()).abs().max())
        # The scale of 8-bit maps may depend on unused tokens.
        rounding = _ROUNDED * float(before[0].float().abs().max()) if self._has_8_bits else 0
        return difference > rounding

    def matrices(self) -> Iterator[Matrix]:
        """Weights and biases of fully connected layers and convolutions, from the last layer on."""
        return self._graph.matrices()

    def _settle_batch(self, session: onnxruntime.InferenceSession, inputs: Tensor) -> None:
        """Find out whether a graph with a variable batch size takes more than one image."""
        if self.batch is not None:
            return
        try:
            [batch] = self._batches(inputs.expand(2, -1, -1, -1))
            [answer] = self._run(session, [self._answer], batch)
            fits = len(answer) == 2
        except RuntimeError:
            fits = False
        self.batch = None if fits else 1

    def _tensor(self, layer: str) -> str:
        return tensor_of(self._graph, layer)

    def _session_with(self, layer: str | None) -> onnxruntime.InferenceSession:
        """A session that returns the answer, and the output of a layer if one is named."""
        if self._session is None or layer not in (None, self._session[0]):
            tensors = [self._tensor(layer)] if layer else []
            self._session = (layer, self._open(with_outputs(self._graph, tensors)))
        return self._session[1]

    def _open(self, model: onnx.ModelProto, optimise: bool = True) -> onnxruntime.InferenceSession:
        options = session_options(severity=4)  # relook reports its errors
        if not optimise:
            # Optimisation would merge nodes.
            off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = off
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=self._providers
            )
        except Exception as error:
            raise ModelError(
                f"{self.name}: ONNX Runtime cannot load it ({first_line(error)})"
            ) from error

    def _run(
        self, session: onnxruntime.InferenceSession, outputs: list[str], batch: NDArray[Any]
    ) -> list[Tensor]:
        try:
            found = session.run(outputs, {self._input: batch})
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise RuntimeError(f"ONNX Runtime: {first_line(error)}") from error
        return [torch.from_numpy(np.asarray(array)) for array in found]

    def _batches(self, inputs: Tensor) -> list[NDArray[Any]]:
        """Convert inputs to the graph's order, type and batch size."""
        x = inputs.detach().cpu().float()
        x = x if self.order == "NCHW" else x.permute(0, 2, 3, 1)
        size = self.batch or len(x)
        x = torch.cat([x, x.new_zeros(-len(x) % size, *x.shape[1:])])
        kind = self._input_type
        if kind == np.uint8:
            x = x.round().clamp(0, 255)
        return [batch.contiguous().numpy().astype(kind) for batch in x.split(size)]

    def _shape_of(self, output: Tensor) -> tuple[int, ...]:
        """Shape of an output for one image."""
        shape = tuple(output.shape)
        return (1, *shape[1:]) if self.batch and shape[:1] == (self.batch,) else shape


def _rows(answer: Tensor) -> Tensor:
    """Remove dimensions of size 1, as in (N, classes, 1, 1)."""
    return answer.flatten(1) if is_row(list(answer.shape)) else answer
