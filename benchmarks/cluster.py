"""Measure what a Ray cluster promises: rows that survive deaths, and work that is shared.

    python benchmarks/cluster.py survive [--data FOLDER] [--images 2000]
    python benchmarks/cluster.py s3 [--data FOLDER] [--images 2000]
    python benchmarks/cluster.py throughput --data FOLDER [--images 1500]

All run the bundled network. `survive` starts two raylets on this machine and predicts three times:
in this process; on the cluster, with one node killed when a third of the rows is there; on the
cluster, with the driver killed when a third is there, and the same command once more. It prints the
number of rows and the largest difference of a probability from those of this process. `s3` reads
the images from a local S3 server (package moto) and writes the rows to it.

`throughput` compares one worker of one thread with two, on Ray and as processes that know nothing
of each other: the latter is what the machine allows. One worker, with all that belongs to it, has
one core, and two have two.
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
from statistics import median
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image

import relook
from relook.prediction import FoundImages, Predictions, find_images

LOOK = "flip"


def write_images(folder: Path, images: int) -> None:
    """Write small images of a few colours."""
    for index in range(images):
        generator = np.random.default_rng(index)
        few = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
        few.resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{index:05}.png")


def difference(one: Predictions, other: Predictions) -> float:
    """The largest difference between probabilities of two runs over the same images."""
    tables = [each.table() for each in (one, other)]
    for column in ("index", "image", "error"):
        assert tables[0][column] == tables[1][column], column
    both = [np.stack(table["probabilities"].to_numpy()) for table in tables]
    return float(np.abs(both[0] - both[1]).max())


def tell(what: str, folder: str, local: Predictions, seconds: float) -> None:
    found = Predictions.read(folder)
    images = set(found.table()["index"].to_pylist())
    totals = found.totals
    print(
        f"{what}: {totals.images + totals.errors:,} rows of {len(images):,} images, "
        f"{totals.errors:,} errors, largest difference {difference(found, local):.1e}, "
        f"{seconds:.0f} s",
        flush=True,
    )


def answer(images: FoundImages, output: str, **options: Any) -> Predictions:
    """Predict with the bundled network."""
    corrector = relook.Corrector(relook.load(), look=LOOK, gate=0.5)
    return relook.predict(corrector, images, output, all_classes=True, **options)


def survive(folder: str, images: FoundImages) -> None:
    from ray.cluster_utils import Cluster

    third = len(images.items) // 3
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        local = answer(images, f"{place}/local")
        tell("in this process", f"{place}/local", local, time.perf_counter() - start)

        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        second = cluster.add_node(num_cpus=1)
        done = 0

        def kill_a_node(rows: pyarrow.Table) -> None:
            nonlocal done, second
            before, done = done, done + len(rows)
            if before < third <= done:
                print(f"killing a node at {done:,} rows", flush=True)
                cluster.remove_node(second, allow_graceful=False)

        start, on_ray = time.perf_counter(), {"engine": "ray", "ray_address": cluster.address}
        answer(images, f"{place}/node", on_rows=kill_a_node, **on_ray)
        tell("one of two nodes killed", f"{place}/node", local, time.perf_counter() - start)

        cluster.add_node(num_cpus=1)
        start = time.perf_counter()
        again = [sys.executable, __file__, "drive", "--output", f"{place}/driver"]
        again += ["--address", cluster.address, "--data", folder]
        again += ["--images", str(len(images.items))]
        killed = subprocess.run([*again, "--die-at", str(third)], check=False)
        print(f"driver: exit status {killed.returncode}, {-signal.SIGKILL} is SIGKILL", flush=True)
        kept = Predictions.read(f"{place}/driver").totals
        print(f"rows that are kept: {kept.images:,}", flush=True)
        subprocess.run(again, check=True)
        seconds = time.perf_counter() - start
        tell("driver killed and started again", f"{place}/driver", local, seconds)
        cluster.shutdown()


def drive(images: FoundImages, output: str, address: str, die_at: int | None) -> None:
    done = 0

    def die(rows: pyarrow.Table) -> None:
        nonlocal done
        done += len(rows)
        if die_at and done >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    answer(images, output, engine="ray", ray_address=address, on_rows=die)


def on_s3(images: FoundImages) -> None:
    """Copy the images to a local S3 server, and answer them from there, to there."""
    import pyarrow.fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    files, _ = pyarrow.fs.FileSystem.from_uri("s3://bucket/photos?allow_bucket_creation=true")
    files.create_dir("bucket")
    for number, item in enumerate(images.items):
        with files.open_output_stream(f"bucket/photos/{number:05}{Path(item.name).suffix}") as out:
            out.write(Path(str(item.source)).read_bytes())
    found = find_images(["s3://bucket/photos"])
    with tempfile.TemporaryDirectory() as place:
        local = answer(found, f"{place}/local")
        start = time.perf_counter()
        answer(found, "s3://bucket/answers", engine="ray")
        tell("from S3 to S3 on Ray", "s3://bucket/answers", local, time.perf_counter() - start)
    server.stop()


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


def one_process(images: FoundImages) -> None:
    """Print the rate of the local engine, after waiting for a line on stdin to start together."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        print("ready", flush=True)
        sys.stdin.readline()
        rate = rate_of(lambda note: answer(images, place, on_rows=note), len(images.items))
    print(rate, flush=True)


def processes(count: int, data: str, images: int) -> float:
    """The sum of the rates of processes that know nothing of each other, on a core each."""
    command = [sys.executable, __file__, "process", "--data", data, "--images", str(images)]
    started = [
        subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for core in range(count)
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


def on_ray(workers: int, images: FoundImages) -> float:
    """The rate of a cluster with this number of workers, and as many cores for all it runs."""
    from ray.cluster_utils import Cluster

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(range(workers)))
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": workers})
    with tempfile.TemporaryDirectory() as place:
        options = {"engine": "ray", "ray_address": cluster.address}
        rate = rate_of(
            lambda note: answer(images, place, on_rows=note, **options), len(images.items)
        )
    cluster.shutdown()
    os.sched_setaffinity(0, before)
    return rate


def throughput(data: str, images: FoundImages, repeats: int) -> None:
    rates: dict[str, list[float]] = {}
    count = len(images.items)
    measures: dict[str, Callable[[], float]] = {
        "one process": lambda: processes(1, data, count),
        "two processes": lambda: processes(2, data, count),
        "Ray, one worker": lambda: on_ray(1, images),
        "Ray, two workers": lambda: on_ray(2, images),
    }
    for _ in range(repeats):  # in turn, since the machine may have other work
        for name, measure in measures.items():
            rates.setdefault(name, []).append(measure())
            load = os.getloadavg()[0]
            print(f"{name}: {rates[name][-1]:.1f} images/s (load {load:.1f})", flush=True)
    middle = {name: median(found) for name, found in rates.items()}
    print(json.dumps(middle))
    for one, two in (("one process", "two processes"), ("Ray, one worker", "Ray, two workers")):
        print(f"{two}: {middle[two] / (2 * middle[one]):.2f} of twice {one}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("survive", "s3", "throughput", "drive", "process"))
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output")
    parser.add_argument("--address")
    parser.add_argument("--die-at", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if given.data is None:
            write_images(Path(place), given.images)
        data = str(given.data or place)
        images = repeated(find_images([data]), given.images)
        if given.what == "throughput":
            throughput(data, images, given.repeats)
        elif given.what == "s3":
            on_s3(images)
        elif given.what == "survive":
            survive(data, images)
        elif given.what == "process":
            one_process(images)
        else:
            drive(images, given.output, given.address, given.die_at)


def repeated(images: FoundImages, count: int) -> FoundImages:
    """This number of images, the same ones again and again."""
    items = [replace(images.items[i % len(images.items)], index=i) for i in range(count)]
    return replace(images, items=tuple(items))


if __name__ == "__main__":
    main()
