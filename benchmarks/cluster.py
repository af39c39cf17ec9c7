"""Measure what a Ray cluster promises: rows that survive deaths, and work that is shared.

    python benchmarks/cluster.py survive [--data FOLDER] [--images 2000]
    python benchmarks/cluster.py throughput --data FOLDER_OR_TABLE [--images 1500]

Both run the bundled network. `survive` starts two raylets on this machine and evaluates three
times: in this process; on the cluster, with one node killed when a third of the rows is there; on
the cluster, with the driver killed when a third is there, and the same command once more. It prints
the number of rows and their largest difference from those of this process.

`throughput` compares one worker of one thread with two, on Ray and as processes that know nothing
of each other: the latter is what the machine allows.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image

import relook
from relook.evaluation import Evaluation, LabelledImages, evaluate, read_data

LOOK = "flip"


def write_images(root: Path, labels: tuple[str, ...], images: int) -> None:
    """Write small noise images into folders of a few classes."""
    for index in range(images):
        folder = root / labels[281 + index % 4]
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(index)
        few = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
        few.resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{index:05}.png")


def difference(one: Evaluation, other: Evaluation) -> float:
    """The largest difference between probabilities of two evaluations of the same images."""
    most = 0.0
    for row, same in zip(one.rows, other.rows, strict=True):
        assert (row.index, row.image, row.error) == (same.index, same.image, same.error)
        for name, answer in row.answers.items():
            beside = same.answers[name]
            found = np.array([*answer.probabilities, answer.true, answer.confidence])
            wanted = np.array([*beside.probabilities, beside.true, beside.confidence])
            most = max(most, float(np.abs(found - wanted).max()))
    return most


def tell(what: str, folder: Path, local: Evaluation, seconds: float) -> None:
    found = Evaluation.read(folder)
    files = list((folder / "rows").glob("*.parquet"))
    rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    images = {row.index for row in found.rows}
    print(
        f"{what}: {rows:,} rows in {len(files)} file(s) of {len(images):,} images, "
        f"{found.table['error'].null_count:,} without error, largest difference "
        f"{difference(found, local):.1e}, {seconds:.0f} s",
        flush=True,
    )


def survive(data: LabelledImages) -> None:
    from ray.cluster_utils import Cluster

    classifier = relook.load()
    corrector = relook.Corrector(classifier, look=LOOK, gate=0.5)
    third = len(data) // 3
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        local = evaluate(corrector, data, Path(place) / "local")
        tell("in this process", Path(place) / "local", local, time.perf_counter() - start)

        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        second = cluster.add_node(num_cpus=1)
        done = 0

        def kill_a_node(rows: pyarrow.Table) -> None:
            nonlocal done, second
            before, done = done, done + len(rows)
            if before < third <= done:
                print(f"killing a node at {done:,} rows", flush=True)
                cluster.remove_node(second, allow_graceful=False)

        run = Path(place) / "node"
        start = time.perf_counter()
        evaluate(
            corrector, data, run, engine="ray", ray_address=cluster.address, on_rows=kill_a_node
        )
        tell("one of two nodes killed", run, local, time.perf_counter() - start)

        cluster.add_node(num_cpus=1)
        run = Path(place) / "driver"
        start = time.perf_counter()
        again = [sys.executable, __file__, "drive", "--output", str(run)]
        again += ["--address", cluster.address, "--data", str(root_of(data))]
        again += ["--images", str(len(data))]
        killed = subprocess.run([*again, "--die-at", str(third)], check=False)
        print(f"driver: exit status {killed.returncode}, {-signal.SIGKILL} is SIGKILL", flush=True)
        kept = Evaluation.read(run).table
        print(f"rows that are kept: {len(kept):,}", flush=True)
        subprocess.run(again, check=True)
        tell("driver killed and started again", run, local, time.perf_counter() - start)
        cluster.shutdown()


def root_of(data: LabelledImages) -> Path:
    path = data.images[0].path
    assert path is not None
    return path.parent.parent


def drive(data: LabelledImages, output: Path, address: str, die_at: int | None) -> None:
    done = 0

    def die(rows: pyarrow.Table) -> None:
        nonlocal done
        done += len(rows)
        if die_at and done >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    corrector = relook.Corrector(relook.load(), look=LOOK, gate=0.5)
    evaluate(corrector, data, output, engine="ray", ray_address=address, on_rows=die)


def rate_of(run: Callable[[Callable[[pyarrow.Table], None]], object], images: int) -> float:
    """Images per second of a run, without its first quarter: the networks are loaded by then."""
    times: list[tuple[float, int]] = []
    done = 0

    def note(rows: pyarrow.Table) -> None:
        nonlocal done
        done += len(rows)
        times.append((time.perf_counter(), done))

    run(note)
    begun, before = next(each for each in times if each[1] >= images / 4)
    return (images - before) / (times[-1][0] - begun)


def one_process(data: LabelledImages) -> None:
    """Print the rate of the local engine, after waiting for a line on stdin to start together."""
    corrector = relook.Corrector(relook.load(), look=LOOK, gate=0.5)
    print("ready", flush=True)
    sys.stdin.readline()
    print(rate_of(lambda note: evaluate(corrector, data, on_rows=note), len(data)), flush=True)


def processes(count: int, data: str, images: int) -> float:
    """The sum of the rates of processes that know nothing of each other."""
    command = [sys.executable, __file__, "process", "--data", data, "--images", str(images)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    pipes = [(each.stdin, each.stdout) for each in started]
    for _, output in pipes:
        assert output
        assert output.readline() == "ready\n"
    for given, _ in pipes:
        assert given
        given.write("\n")
        given.flush()
    return sum(float(output.readline()) for _, output in pipes if output)


def on_ray(workers: int, data: LabelledImages) -> float:
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": workers})
    corrector = relook.Corrector(relook.load(), look=LOOK, gate=0.5)
    with tempfile.TemporaryDirectory() as place:
        rate = rate_of(
            lambda note: evaluate(
                corrector, data, place, engine="ray", ray_address=cluster.address, on_rows=note
            ),
            len(data),
        )
    cluster.shutdown()
    return rate


def throughput(data: str, images: int, repeats: int) -> None:
    labelled = repeated(read_data(data, relook.load().labels), images)
    rates: dict[str, list[float]] = {}
    measures: dict[str, Callable[[], float]] = {
        "one process": lambda: processes(1, data, images),
        "two processes": lambda: processes(2, data, images),
        "Ray, one worker": lambda: on_ray(1, labelled),
        "Ray, two workers": lambda: on_ray(2, labelled),
    }
    for _ in range(repeats):  # in turn, since the machine may have other work
        for name, measure in measures.items():
            rates.setdefault(name, []).append(measure())
            load = os.getloadavg()[0]
            print(f"{name}: {rates[name][-1]:.1f} images/s (load {load:.1f})", flush=True)
    best = {name: max(found) for name, found in rates.items()}
    print(json.dumps(best))
    print(f"two processes: {best['two processes'] / (2 * best['one process']):.2f} of twice one")
    print(
        f"two workers: {best['Ray, two workers'] / (2 * best['Ray, one worker']):.2f} of twice one"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("survive", "throughput", "drive", "process"))
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--die-at", type=int)
    given = parser.parse_args()
    labels = relook.load().labels
    with tempfile.TemporaryDirectory() as place:
        if given.data is None:
            write_images(Path(place), labels, given.images)
        data = str(given.data or place)
        if given.what == "throughput":
            throughput(data, given.images, given.repeats)
            return
        labelled = read_data(data, labels).sample(given.images)
        if given.what == "survive":
            survive(labelled)
        elif given.what == "process":
            one_process(repeated(read_data(data, labels), given.images))
        else:
            drive(labelled, given.output, given.address, given.die_at)


def repeated(data: LabelledImages, count: int) -> LabelledImages:
    """This number of images, the same ones again and again."""
    images = [data.images[index % len(data)] for index in range(count)]
    return replace(data, images=tuple(images))


if __name__ == "__main__":
    main()
