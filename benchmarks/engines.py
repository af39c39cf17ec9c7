"""Compare the speed of engines for float32 forward passes on a CPU.

    python benchmarks/engines.py [--only NAME ...] [--seconds N]

Measures images per second at 224×224 for EfficientNet-Lite0 with its ImageNet weights, and for
ResNet-50 and VGG16 with random ones, which do not change the speed. All engines of a network are
made first and then take turns in the same process, so that a change in the machine's speed meets
all of them; one that has used its share of the time takes no more. Each turn computes the same
images, in batches of 8, or of 4 where there is one caller per core. Everything is float32 and uses
all cores.

Prints a Markdown table for each network: the speed in the fastest and in the median turn; × is how
many times as fast as ONNX Runtime as relook uses it, the median over the turns of both; CPU is the
processor time of an image as a multiple of ONNX Runtime's, which other processes disturb less (but
threads of PyTorch that wait for each other count too); the seconds it took to make the engine,
first call included; and the largest difference of its outputs from PyTorch's, relative to the
largest output. Engines that are not installed or that fail are listed below the table, with the
reason.

OpenVINO is optional. Inductor needs a C++ compiler; its caches are off, so that the seconds are
those of a first use.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import relook
from relook.engines import OnnxRuntime
from relook.engines.exported import export

Run = Callable[[Tensor], Tensor]

BATCH = 8
BATCH_PER_CALLER = 4
CORES = torch.get_num_threads()
IMAGES = BATCH * max(2, CORES)
LEAST_TURNS = 3

_FROZEN: dict[str, Any] = {"freezing": True}
_TUNED: dict[str, Any] = {"freezing": True, "max_autotune": True, "coordinate_descent_tuning": True}


@dataclass
class Engine:
    """An engine, how it was made, and what its turns took.

    Attributes:
        made: seconds it took to make it.
        difference: largest difference of its outputs, relative to the largest output.
        seconds: of each turn.
        processor: seconds of all threads in each turn.
    """

    name: str
    run: Run
    made: float
    difference: float
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def turn(self, inputs: Tensor) -> None:
        """Compute all images once."""
        processor, start = time.process_time(), time.perf_counter()
        self.run(inputs)
        self.seconds.append(time.perf_counter() - start)
        self.processor.append(time.process_time() - processor)


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Median of the ratios, turn by turn; the longer list is cut."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=False))


def _random(name: str) -> relook.Classifier:
    torch.manual_seed(0)
    return relook.load(name, pretrained=False, device="cpu")


NETWORKS: dict[str, Callable[[], relook.Classifier]] = {
    "EfficientNet-Lite0": lambda: relook.load("bundled/efficientnet_lite0", device="cpu"),
    "ResNet-50": partial(_random, "timm/resnet50"),
    "VGG16": partial(_random, "torchvision/vgg16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS))
    parser.add_argument(
        "--seconds", type=float, default=60, help="time for the turns of each network"
    )
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    # Read before Inductor is used for the first time.
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    print(
        f"{platform.machine()}, {CORES} threads of {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}; "
        + ", ".join(map(_version, ("torch", "onnxruntime", "openvino")))
        + "\n"
    )
    with tempfile.TemporaryDirectory(prefix="relook-engines-") as folder, torch.no_grad():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for name, load in NETWORKS.items():
            if arguments.only is None or name in arguments.only:
                measure(name, load().network.eval(), Path(folder), arguments.seconds)


def measure(name: str, network: nn.Module, folder: Path, seconds: float) -> None:
    """Make the engines of a network, let them take turns, and print the table."""
    torch.manual_seed(0)
    inputs = torch.rand(IMAGES, 3, 224, 224) * 4 - 2
    expected = torch.cat([network(batch) for batch in inputs.split(BATCH)])
    engines, failures = [], []
    for engine, make in MAKERS.items():
        start = time.perf_counter()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                run = make(network, folder)
                found = run(inputs)
        except Exception as error:  # noqa: BLE001  why it fails is part of the result
            failures.append(f"{engine}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        made = time.perf_counter() - start
        difference = float((found - expected).abs().max() / expected.abs().max())
        engines.append(Engine(engine, run, made, difference))

    today, *others = engines
    share = seconds / len(engines)
    while active := [
        one for one in others if len(one.seconds) < LEAST_TURNS or sum(one.seconds) < share
    ]:
        for one in (today, *active):
            one.turn(inputs)

    print(f"{name}, turns of {IMAGES} images\n")
    print("| engine | turns | best images/s | median | × | CPU | made in s | difference |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for one in engines:
        print(
            f"| {one.name} | {len(one.seconds)} | {IMAGES / min(one.seconds):.1f} | "
            f"{IMAGES / statistics.median(one.seconds):.1f} | "
            f"{median_ratio(today.seconds, one.seconds):.2f} | "
            f"{median_ratio(one.processor, today.processor):.2f} | "
            f"{one.made:.0f} | {one.difference:.0e} |"
        )
    print("".join(f"\n- {failure}" for failure in failures), flush=True)


def _onnx_runtime(network: nn.Module, folder: Path) -> Run:
    return OnnxRuntime(network, torch.zeros(1, 3, 224, 224), BATCH)


def _onnx_runtime_callers(network: nn.Module, folder: Path) -> Run:
    with _one_thread():
        run = OnnxRuntime(network, torch.zeros(1, 3, 224, 224), BATCH_PER_CALLER)
    return _callers(run)


def _eager(network: nn.Module, folder: Path) -> Run:
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    return _batches(lambda batch: network(batch.contiguous(memory_format=torch.channels_last)))


def _compiled(options: dict[str, Any], network: nn.Module, folder: Path) -> Run:
    torch._dynamo.reset()
    run = torch.compile(network, fullgraph=True, dynamic=False)
    # Not as options of torch.compile: whether to freeze is read before those are known.
    with torch._inductor.config.patch(options):
        run(torch.zeros(BATCH, 3, 224, 224))
    return _batches(run)


def _ahead(network: nn.Module, folder: Path, batch: int = BATCH, callers: int = 1) -> Run:
    program = torch.export.export(network, (torch.zeros(batch, 3, 224, 224),))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=f"{place}/network.pt2", inductor_configs=dict(_FROZEN)
        )
        loaded: Run = torch._inductor.aoti_load_package(package, num_runners=callers)
    return loaded


def _ahead_batches(network: nn.Module, folder: Path) -> Run:
    return _batches(_ahead(network, folder))


def _ahead_callers(network: nn.Module, folder: Path) -> Run:
    with _one_thread():  # the number of threads is part of the code that Inductor writes
        run = _ahead(network, folder, BATCH_PER_CALLER, CORES)
    return _callers(run)


def _openvino(options: dict[str, Any], network: nn.Module, folder: Path, batch: int = BATCH) -> Run:
    import openvino

    file = folder / "openvino.onnx"
    export(network, torch.zeros(1, 3, 224, 224), file)
    model = openvino.convert_model(file)
    model.reshape([batch, 3, 224, 224])
    # It would compute in bfloat16 on a CPU that can.
    options = {"INFERENCE_PRECISION_HINT": "f32", **options}
    queue = openvino.AsyncInferQueue(openvino.compile_model(model, "CPU", options))

    def run(inputs: Tensor) -> Tensor:
        outputs: dict[int, Tensor] = {}

        def keep(request: Any, index: int) -> None:
            outputs[index] = torch.from_numpy(request.get_output_tensor().data.copy())

        queue.set_callback(keep)
        for index, part in enumerate(inputs.split(batch)):
            queue.start_async({0: part.numpy()}, index)
        queue.wait_all()
        return torch.cat([outputs[index] for index in sorted(outputs)])

    return run


MAKERS: dict[str, Callable[[nn.Module, Path], Run]] = {
    # The first is what the others are compared with.
    "ONNX Runtime": _onnx_runtime,
    "ONNX Runtime, one caller per core": _onnx_runtime_callers,
    "PyTorch, channels last": _eager,
    "torch.compile, frozen, max-autotune, C++ wrapper": partial(
        _compiled, _TUNED | {"cpp_wrapper": True}
    ),
    "AOTInductor, frozen": _ahead_batches,
    "AOTInductor, frozen, one caller per core": _ahead_callers,
    "OpenVINO": partial(_openvino, {}),
    "OpenVINO, one stream": partial(_openvino, {"NUM_STREAMS": "1"}),
    "OpenVINO, throughput": partial(
        _openvino, {"PERFORMANCE_HINT": "THROUGHPUT"}, batch=BATCH_PER_CALLER
    ),
}


def _batches(run: Run) -> Run:
    return lambda inputs: torch.cat([run(batch) for batch in inputs.split(BATCH)])


def _callers(run: Run) -> Run:
    """Run batches in one thread per core, each of which computes alone."""
    pool = ThreadPoolExecutor(CORES)

    def call(batch: Tensor) -> Tensor:
        torch.set_num_threads(1)  # of this thread
        with torch.no_grad():
            return run(batch)

    def all_batches(inputs: Tensor) -> Tensor:
        outputs = torch.cat(list(pool.map(call, inputs.split(BATCH_PER_CALLER))))
        torch.set_num_threads(CORES)
        return outputs

    return all_batches


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(CORES)


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


if __name__ == "__main__":
    main()
