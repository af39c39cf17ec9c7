"""Compare the speed of Score-CAM in relook, torch-cam and grad-cam, for five classes of a photo.

    python benchmarks/scorecam.py [--full] [--repeats N] [--only NAME ...] [--json FILE]

Everything runs in one process, one method after the other, on photos that come with scikit-image:
EfficientNet-Lite0 with its ImageNet weights, ResNet-50 and VGG16 with random ones. Random weights
do not change the speed of a forward pass, but they do change the number of live channels, which is
therefore printed. Each library uses the best of the batch sizes tried. The libraries run all
channels of one class at a time. Unless --full is given, one class is timed on an evenly spread
share of the channels and on half of that share; the line through both is extended to all channels,
and the result multiplied by five classes. Their peak memory is that of the share, which is less
than that of all channels if a library keeps all masked images.

Prints a Markdown table of medians for each network. The limit is the time of the forward passes
alone: their number × the time of one in the best batch of the fastest float32 engine tried. The
number of forward passes assumes five maps that are not flat. relook in bfloat16 is compared with
libraries in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import relook
from relook.attribution.protocol import activations_of
from relook.attribution.score_cam import live_channels
from relook.demo import photos
from relook.engines import Folded, OnnxRuntime
from relook.images import open_image

CLASSES = 5
BUDGETS: tuple[int | None, ...] = (None, 128, 64, 32, 16, 8)
BATCHES = (16, 64, 128, 256) if torch.cuda.is_available() else (8, 16, 32)


@dataclass(frozen=True)
class Row:
    """The cost of one method for five classes of one photo.

    Attributes:
        forwards: number of forward passes.
        seconds: median over the repeats, averaged over the photos.
        megabytes: peak memory of the process (or of the device) above that of the loaded network,
            in MiB; None where it was not measured.
        note: further remarks.
    """

    network: str
    method: str
    forwards: float
    seconds: float
    megabytes: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Network:
    """A network to measure, with the numbers of photos, repeats and channels that time allows."""

    name: str
    load: Callable[..., relook.Classifier]
    photos: int
    repeats: int
    share: int  # number of channels that the libraries are timed on


def _random(name: str, device: str | None, dtype: torch.dtype) -> relook.Classifier:
    torch.manual_seed(0)
    return relook.load(name, pretrained=False, device=device, dtype=dtype)


NETWORKS = (
    Network(
        "EfficientNet-Lite0",
        lambda device, dtype: relook.load(device=device, dtype=dtype),
        photos=3,
        repeats=3,
        share=320,
    ),
    Network("ResNet-50", partial(_random, "torchvision/resnet50"), 1, 1, 128),
    Network("VGG16", partial(_random, "torchvision/vgg16"), 1, 1, 64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="time the libraries on all channels")
    parser.add_argument(
        "--repeats", type=int, help="number of repeats (default: 3; 1 for large networks)"
    )
    parser.add_argument("--only", nargs="+", choices=[network.name for network in NETWORKS])
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(
        f"{where}, {platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} "
        f"cores, torch {torch.__version__}\n"
    )
    rows = []
    for network in NETWORKS:
        if arguments.only is None or network.name in arguments.only:
            measured = measure(network, device, arguments.repeats, arguments.full)
            rows += measured
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def measure(network: Network, device: str, repeats: int | None, full: bool) -> list[Row]:
    """Measure all methods on one network, and print its table."""
    repeats = repeats or network.repeats
    classifier = network.load(device, torch.float32)
    images = photos()[: network.photos]
    pixels = torch.stack([classifier.pixels(open_image(photo)) for photo in images])
    maps = [activations_of(first) for first in classifier.first_looks(pixels)]
    live = [int(live_channels(own).sum()) for own in maps]
    channels = len(maps[0])
    print(
        f"{network.name}, target layer {classifier.target_layer}: {channels} channels, "
        f"{', '.join(map(str, live))} of them live on {', '.join(p.stem for p in images)}\n"
    )

    # Measured before and after, because the speed of a machine drifts.
    speeds = forward_seconds(classifier, device)
    rows = [_relook(network.name, classifier, pixels, budget, repeats) for budget in BUDGETS]
    speeds = {
        engine: (seconds + speeds[engine]) / 2
        for engine, seconds in forward_seconds(classifier, device).items()
    }
    (engine, batch), one = min(speeds.items(), key=lambda item: item[1])
    rows += _libraries(network, classifier, pixels[:1], full)
    half = network.load(device, torch.bfloat16)
    rows.append(_relook(network.name, half, pixels[:1], None, 1))

    rivals = [row.seconds for row in rows if not row.method.startswith("relook")]
    print("| method | forwards | seconds | × fastest library | × limit | peak MiB | |")
    print("|---|--:|--:|--:|--:|--:|---|")
    for row in rows:
        ours = row.method.startswith("relook")
        same = ours and not row.method.endswith("bfloat16")
        over = f"{row.seconds / (row.forwards * one):.2f}" if same else ""
        times = f"{min(rivals) / row.seconds:.1f}" if ours and rivals else ""
        known = row.megabytes is not None and not math.isnan(row.megabytes)
        memory = f"{row.megabytes:.0f}" if known else ""
        print(
            f"| {row.method} | {row.forwards:.0f} | {row.seconds:.2f} | {times} | {over} | "
            f"{memory} | {row.note} |"
        )
    print(
        f"\nLimit: {1000 * one:.2f} ms per forward pass, {engine} in batches of {batch}. Images "
        f"per second in batches of {', '.join(map(str, BATCHES))}:",
    )
    for name in dict.fromkeys(engine for engine, _ in speeds):
        print(f"- {name}: " + ", ".join(f"{1 / speeds[name, size]:.1f}" for size in BATCHES))
    print(flush=True)
    return rows


def _relook(
    network: str,
    classifier: relook.Classifier,
    pixels: Tensor,
    budget: int | None,
    repeats: int,
) -> Row:
    """A whole correction of pixels: first look, maps, mask images and their answers."""
    corrector = relook.Corrector(classifier, k=CLASSES, budget=budget)
    method = "relook exact" if budget is None else f"relook, budget {budget}"
    if classifier.dtype != torch.float32:
        method += f", {str(classifier.dtype).removeprefix('torch.')}"
    with _peak(classifier) as peak:  # the first call exports the network: it is not timed
        corrector(pixels[:1])
    seconds = [_median(partial(corrector, pixels[i : i + 1]), repeats) for i in range(len(pixels))]
    forwards = []
    for i in range(len(pixels)):
        first = classifier.first_looks(pixels[i : i + 1])[0]
        own = int(live_channels(activations_of(first)).sum())
        forwards.append(1 + CLASSES + (own if budget is None else min(budget, own)))
    note = classifier.engine if budget is None else ""
    return Row(
        network,
        method,
        sum(forwards) / len(forwards),
        sum(seconds) / len(seconds),
        peak[0] if budget is None else None,
        note,
    )


def forward_seconds(classifier: relook.Classifier, device: str) -> dict[tuple[str, int], float]:
    """Seconds per forward pass for each (engine, batch size), medians of 3."""
    found = {}
    network = classifier.network.eval()
    example = classifier.normalised(torch.zeros(1, 3, *classifier.input_size))
    makers: dict[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
        "PyTorch": lambda _: classifier.run,
    }
    with contextlib.suppress(RuntimeError):
        folded = Folded(network, example)
        makers[folded.name] = lambda _: folded
    if device == "cpu":
        exported = OnnxRuntime(network, example)
        makers[OnnxRuntime.name] = lambda _: exported
    for name, make in makers.items():
        for batch in BATCHES:
            inputs = torch.rand(batch, *example.shape[1:], device=example.device)
            run = make(batch)
            run(inputs)
            found[name, batch] = _median(partial(run, inputs), 3) / batch
    return found


def _libraries(
    network: Network, classifier: relook.Classifier, pixels: Tensor, full: bool
) -> list[Row]:
    """Measure torch-cam and grad-cam, if installed, each with its best batch size."""
    inputs = classifier.normalised(pixels)
    layer = classifier.target_layer
    channels = len(activations_of(classifier.first_looks(pixels)[0]))
    share = channels if full else network.share
    rows = []
    for method, runner in (("torch-cam", _torch_cam), ("grad-cam", _grad_cam)):
        try:
            run = runner(classifier.network.eval(), layer)
        except ImportError:
            print(f"{method} is not installed", file=sys.stderr)
            continue
        few = min(share, 64)
        run(inputs, few, few)
        speeds = {batch: _time(partial(run, inputs, few, batch)) for batch in BATCHES}
        batch = min(speeds, key=lambda size: speeds[size])
        with _peak(classifier) as peak:
            run(inputs, share, batch)
        seconds = _median(partial(run, inputs, share, batch), 1 if full else 3)
        if not full:
            half = _median(partial(run, inputs, share // 2, batch), 3)
            seconds += (channels - share) * (seconds - half) / (share - share // 2)
        rows.append(
            Row(
                network.name,
                method,
                CLASSES * channels,
                CLASSES * seconds,
                peak[0],
                f"batch {batch}; one class on {share} of {channels} channels timed",
            )
        )
    return rows


def _torch_cam(network: nn.Module, layer: str) -> Callable[[Tensor, int, int], object]:
    from torchcam.methods import ScoreCAM

    def run(inputs: Tensor, channels: int, batch: int) -> object:
        with ScoreCAM(network, layer, batch_size=batch) as method, torch.inference_mode():
            best = int(network(inputs).argmax())
            maps = method.hook_a[0]
            method.hook_a[0] = maps[:, _spread(maps.shape[1], channels)]
            return method(best)

    return run


def _grad_cam(network: nn.Module, layer: str) -> Callable[[Tensor, int, int], object]:
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run(inputs: Tensor, channels: int, batch: int) -> object:
        module = network.get_submodule(layer)
        with ScoreCAM(network, [module]) as method, contextlib.redirect_stderr(io.StringIO()):
            method.batch_size = batch
            with torch.no_grad():
                best = int(method.activations_and_grads(inputs).argmax())
            maps = method.activations_and_grads.activations[0].numpy()
            maps = maps[:, _spread(maps.shape[1], channels).numpy()]
            return method.get_cam_weights(
                inputs, module, [ClassifierOutputTarget(best)], maps, None
            )

    return run


def _spread(channels: int, share: int) -> Tensor:
    return torch.linspace(0, channels - 1, share).round().long()


def _time(call: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def _median(call: Callable[[], object], repeats: int) -> float:
    return statistics.median(_time(call) for _ in range(repeats))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def _peak(classifier: relook.Classifier) -> Iterator[list[float]]:
    """Peak memory inside the block minus that before it, in MiB, of the device or the process."""
    result = [float("nan")]
    gc.collect()
    if classifier.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        yield result
        result[0] = torch.cuda.max_memory_allocated() / 2**20 - before
        return
    start = float("nan")
    with contextlib.suppress(OSError, AttributeError):  # only on Linux can the peak be reset
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        start = _status("VmRSS")
    yield result
    result[0] = _status("VmHWM") - start


def _status(field: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    main()
