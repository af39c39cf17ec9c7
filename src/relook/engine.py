"""A faster way to run the very same network over very many images on a CPU."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relook.errors import first_line
from relook.layers import evaluating

# How many images go through the exported network at once. The graph is specialised for this
# number, so that every shape in it is a constant; fewer images are padded.
BATCH = 8

# How far the exported network may be off, relative to the largest output.
_TOLERANCE = 1e-4


# From how many forwards on the export (a second to ten) is worth it.
_PAYS_FROM = 128

_log = logging.getLogger("relook")


Run = Callable[[Tensor], Tensor]
"""Normalised inputs (n, 3, h, w) to raw outputs (n, C)."""


class Engines:
    """The exported forms of one network, one for each input size that is used a lot."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], OnnxRuntime | None] = {}
        self._expected: dict[tuple[int, int], int] = {}
        self._weights: object = None

    @property
    def name(self) -> str:
        """Of what many forwards run on."""
        return OnnxRuntime.name if any(self._made.values()) else "PyTorch"

    def get(self, network: nn.Module, forwards: int, size: tuple[int, int]) -> Run | None:
        """An exported network for so many forwards at this size, if there is one or it pays.

        A network is exported only if all of it is float32 on the CPU. One with hooks is left to
        PyTorch, which calls them. Weights that have changed since are exported again.
        """
        if not _can_be_exported(network):
            return None
        weights = _fingerprint(network)
        if weights != self._weights:
            self._weights = weights
            self._made.clear()
        self._expected[size] = self._expected.get(size, 0) + forwards
        if size not in self._made and self._expected[size] >= _PAYS_FROM:
            self._made[size] = _make(network, size)
        return self._made.get(size)

    def __getstate__(self) -> dict[str, object]:
        """A session can be neither copied nor pickled; a copy makes its own."""
        return {"_made": {}, "_expected": {}, "_weights": None}


def _make(network: nn.Module, size: tuple[int, int]) -> OnnxRuntime | None:
    try:
        with evaluating(network):
            return OnnxRuntime(network, torch.zeros(1, 3, *size))
    except ImportError:
        _log.info("relook: onnxruntime is not installed, so PyTorch runs the network")
    except Exception as error:  # noqa: BLE001  what an exporter raises is not bounded
        _log.warning(
            "relook: PyTorch runs the network, the export to ONNX failed (%s)", first_line(error)
        )
    return None


def _can_be_exported(network: nn.Module) -> bool:
    tensors = (*network.parameters(), *network.buffers())
    return all(
        tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.int64)
        for tensor in tensors
    ) and not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def _fingerprint(network: nn.Module) -> tuple[float, ...]:
    """Changes with the weights, however they were changed; milliseconds, against the seconds
    that an image's masked forwards take.
    """
    with torch.no_grad():
        tensors = (*network.parameters(), *network.buffers())
        return tuple(torch.stack([t.double().sum() for t in tensors]).tolist()) if tensors else ()


class OnnxRuntime:
    """The network exported to ONNX and run by ONNX Runtime: float32, CPU, one input size."""

    name = "ONNX Runtime"

    def __init__(self, network: nn.Module, example: Float[Tensor, "1 3 h w"]) -> None:
        """Export the network, which must be in eval mode, and check it against itself.

        Raises:
            ImportError: onnxruntime is not installed.
            RuntimeError: the exporter or the runtime cannot do this network, or the exported
                one answers differently.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Waiting threads that spin take the cores from PyTorch, and from everyone else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("n", BATCH)
        with tempfile.TemporaryDirectory(prefix="relook-") as folder:
            file = Path(folder) / "network.onnx"
            _export(network, example, file)
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        inputs = torch.rand(2, 3, *example.shape[-2:], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = network(inputs)
        error = (self(inputs) - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
        if not float(error) < _TOLERANCE:
            raise RuntimeError(f"the exported network is off by {float(error):.1e}")

    def __call__(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Outputs for normalised float32 inputs of the size that was exported."""
        return torch.cat([self._batch(batch) for batch in inputs.split(BATCH)])

    def _batch(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        if count < BATCH:
            inputs = torch.cat([inputs, inputs.new_zeros(BATCH - count, *inputs.shape[1:])])
        [outputs] = self._session.run(None, {"x": inputs.contiguous().numpy()})
        return torch.from_numpy(outputs[:count])


def _export(network: nn.Module, example: Tensor, file: Path) -> None:
    """Write the network as an ONNX file with a free batch size called n."""
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    with _quiet(), torch.no_grad():
        # The tracing exporter: a second instead of ten, and the same speed once the batch size
        # is fixed.
        torch.onnx.export(
            network,
            (example,),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of things that concern its own future, on three channels."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
