"""The network exported to ONNX Runtime, which is two to four times as fast on a CPU."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relook.batching import BATCH
from relook.engines.agreement import Normalise, as_trained, check_agreement

# How far the exported network may be off, relative to the largest output.
_TOLERANCE = 1e-4


class OnnxRuntime:
    """The network exported to ONNX and run by ONNX Runtime: float32, CPU, one input size.

    >>> from relook.engines import OnnxRuntime
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()).eval()
    >>> inputs = torch.rand(1, 3, 8, 8)
    >>> torch.allclose(OnnxRuntime(network, inputs)(inputs), network(inputs), atol=1e-4)
    True
    """

    name = "ONNX Runtime"

    def __init__(
        self,
        network: nn.Module,
        example: Float[Tensor, "1 3 h w"],
        batch: int = BATCH,
        normalise: Normalise = as_trained,
    ) -> None:
        """Export the network, which must be in eval mode, and check it against itself.

        Args:
            network: float32, on the CPU.
            example: of the size of its inputs.
            batch: how many images go through it at once.
            normalise: what makes its inputs of pixels in [0, 1].

        Raises:
            ImportError: onnxruntime is not installed.
            RuntimeError: the exporter or the runtime cannot do this network, or the exported
                one answers differently.
        """
        import onnxruntime

        self._size = batch
        options = session_options()
        options.add_free_dimension_override_by_name("n", batch)
        with tempfile.TemporaryDirectory(prefix="relook-") as folder:
            file = Path(folder) / "network.onnx"
            export(network, example, file)
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        check_agreement(self, network, example, _TOLERANCE, "exported", normalise)

    def __call__(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Outputs for normalised inputs of the size that was exported."""
        return torch.cat([self._batch(batch) for batch in inputs.float().split(self._size)])

    def _batch(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        if count < self._size:
            inputs = torch.cat([inputs, inputs.new_zeros(self._size - count, *inputs.shape[1:])])
        [outputs] = self._session.run(None, {"x": inputs.contiguous().numpy()})
        return torch.from_numpy(outputs[:count])


def session_options(severity: int = 3) -> Any:
    """How ONNX Runtime shares the machine with PyTorch.

    Args:
        severity: of the messages that it prints: 3 = errors, 4 = fatal only.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = severity
    # Waiting threads that spin take the cores from PyTorch, and from everyone else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def export(
    network: nn.Module, example: Tensor, file: Path, outputs: tuple[str, ...] = ("y",)
) -> None:
    """Write the network as an ONNX file with a free batch size called n; its input is called x.

    The exporter keeps its state in the process: one thread at a time (see
    `relook.layers.exclusive`).
    """
    with _quiet(network), torch.no_grad():
        # The tracing exporter: a second instead of ten, and the same speed once the batch size
        # is fixed.
        torch.onnx.export(
            network,
            (example,),
            file,
            input_names=["x"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in ("x", *outputs)},
            opset_version=17,
            dynamo=False,
        )


@contextlib.contextmanager
def _quiet(network: nn.Module) -> Iterator[None]:
    """The exporter warns of things that concern its own future, and of what a trace may miss, which
    is tried instead (see `check_agreement`); of a network that it cannot export it prints the
    whole graph.
    """

    def no_graph(_module: nn.Module, _inputs: Any) -> None:
        # The exporter switches this on right before it runs the network, and leaves it on.
        torch._C._jit_set_onnx_log_enabled(False)

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    handle = network.register_forward_pre_hook(no_graph)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        handle.remove()
        logger.setLevel(level)
