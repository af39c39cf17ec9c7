"""A network exported to ONNX Runtime, which is two to four times as fast on a CPU."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from relook.batching import exported_batch
from relook.engines.agreement import Normalise, as_trained, check_agreement
from relook.engines.pool import Pool
from relook.layers import layers_of
from relook.target import Target

# Largest error of the exported network, relative to the largest output and the largest value of
# its maps.
_TOLERANCE = 1e-4


class _WithMaps(nn.Module):
    """A network that returns its outputs and the target layer's maps."""

    def __init__(self, network: nn.Module, target: Target) -> None:
        super().__init__()
        self.network = network
        self._target = target
        # As the network inside: the exporter gives all modules the mode of the outermost one.
        self.training = network.training

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        with layers_of(self.network).recording(self._target) as maps:
            outputs = self.network(inputs)
        if not maps:
            raise RuntimeError(f"the layer {self._target.layer!r} returned no maps")
        return outputs, maps[0]


class OnnxRuntime:
    """A network exported to ONNX and run by ONNX Runtime: float32, CPU, one input size or any.

    As many threads as PyTorch has run a batch each. Compared to threads that share every operation
    of one batch, they do not wait for each other, above all where other threads read images.

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
        batch: int | None = None,
        normalise: Normalise = as_trained,
        target: Target | None = None,
        any_size: bool = False,
    ) -> None:
        """Export the network and check the exported one against it.

        Args:
            network: network in float32, on the CPU, in eval mode.
            example: input of the network's input size.
            batch: batch size of each thread; smaller batches are padded. None chooses it by the
                input size.
            normalise: function from pixels in [0, 1] to the network's inputs.
            target: layer whose maps are exported too.
            any_size: whether the exported network takes inputs of any size; `fits` tells which.

        Raises:
            ImportError: onnxruntime is not installed.
            RuntimeError: the network cannot be exported or run, or the exported network's answers
                or maps differ.
        """
        import onnxruntime

        self.target = target
        whole = network if target is None else _WithMaps(network, target)
        self._outputs = ("y",) if target is None else ("y", "maps")
        self._size = batch or exported_batch(example.shape[2], example.shape[3])
        self._any_size = any_size
        self._pool = Pool(torch.get_num_threads())
        options = session_options(threads=1)
        if not any_size:
            options.add_free_dimension_override_by_name("n", self._size)
        with tempfile.TemporaryDirectory(prefix="relook-") as folder:
            file = Path(folder) / "network.onnx"
            export(whole, example, file, self._outputs, any_size)
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        form = self if target is None else self.with_maps
        check_agreement(form, whole, example, _TOLERANCE, "exported", normalise)

    def __call__(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute raw outputs for normalised inputs of the exported input size."""
        [outputs] = self._run(inputs, self._outputs[:1])
        return outputs

    def with_maps(
        self, inputs: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n k u v"]]:
        """Compute raw outputs and the target layer's maps, in the same forward pass."""
        outputs, maps = self._run(inputs, self._outputs)
        return outputs, maps

    def of_pixels(
        self,
        pixels: Float[Tensor, "n 3 h w"],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        maps: bool = False,
    ) -> list[Tensor]:
        """Compute raw outputs for pixels in [0, 1], and the target layer's maps if wanted.

        Each thread normalises its own batch, (pixels − mean) / std, while it is in its cache.
        """
        pixels = pixels.cpu()  # of a network on another device, whose views these are
        colours = [np.array(values, np.float32).reshape(3, 1, 1) for values in (mean, std)]

        def normalised(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            shifted: NDArray[np.float32] = batch - colours[0]
            shifted /= colours[1]
            return shifted

        return self._run(pixels, self._outputs if maps else self._outputs[:1], normalised)

    def fits(
        self, network: nn.Module, example: Float[Tensor, "1 3 h w"], normalise: Normalise
    ) -> bool:
        """Whether the answers for inputs of this size are the network's, tried on one image."""
        try:
            check_agreement(self, network, example, _TOLERANCE, "exported", normalise, images=1)
        except Exception:  # noqa: BLE001  what the tracer took for constant may fail anywhere
            return False
        return True

    def _run(
        self,
        inputs: Tensor,
        names: tuple[str, ...],
        prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    ) -> list[Tensor]:
        count, size = len(inputs), self._size
        if self._any_size:
            size = exported_batch(inputs.shape[2], inputs.shape[3])
        else:
            padding = inputs.new_zeros(-count % size, *inputs.shape[1:])
            inputs = torch.cat([inputs, padding]) if len(padding) else inputs

        def run(batch: Tensor) -> Any:
            array = batch.numpy()
            return self._session.run(names, {"x": prepare(array) if prepare else array})

        parts = self._pool.map(run, inputs.float().contiguous().split(size))
        # Joined by NumPy: PyTorch would wake its own threads, whose spinning takes the cores.
        joined = (np.concatenate(output)[:count] for output in zip(*parts, strict=True))
        return [torch.from_numpy(output) for output in joined]


def session_options(severity: int = 3, threads: int | None = None) -> Any:
    """Session options of ONNX Runtime, with threads that wait without spinning.

    Args:
        severity: least severity of messages that are printed: 3 = errors, 4 = fatal only.
        threads: number of threads that share an operation; None for as many as PyTorch has.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = severity
    # Spinning threads would take the cores from PyTorch and from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def export(
    network: nn.Module,
    example: Tensor,
    file: Path,
    outputs: tuple[str, ...] = ("y",),
    any_size: bool = False,
) -> None:
    """Write the network as an ONNX file with a variable batch size n and an input named x.

    With `any_size`, the input's height and width are variable too.

    The exporter has global state, so the caller must hold the lock of `relook.layers.exclusive`.
    """
    with _quiet(network), torch.no_grad():
        # The tracing exporter takes a second instead of ten, and its graph is as fast once the
        # batch size is fixed.
        torch.onnx.export(
            network,
            (example,),
            file,
            input_names=["x"],
            output_names=list(outputs),
            dynamic_axes={
                "x": {0: "n", 2: "h", 3: "w"} if any_size else {0: "n"},
                **{name: {0: "n"} for name in outputs},
            },
            opset_version=17,
            dynamo=False,
        )


@contextlib.contextmanager
def _quiet(network: nn.Module) -> Iterator[None]:
    """Silence the exporter.

    It warns of its own deprecations, and of what a trace may miss, which `check_agreement` tests
    instead. If a network cannot be exported, it prints the whole graph.
    """

    def no_graph(_module: nn.Module, _inputs: Any) -> None:
        # The exporter switches this on right before it runs the network, and never off.
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
