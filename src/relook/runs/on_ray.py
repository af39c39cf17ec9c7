"""A run on the machines of a Ray cluster: workers answer blocks of images and save their rows.

Ray Data hands the blocks to a pool of worker processes, each of which loads the networks once. The
rows that a run has are the only record of what is done: Ray Data's own checkpoints
(`ray.data.checkpoint.CheckpointConfig`) would be a second one, which can disagree, names done
blocks only when Ray itself writes the Parquet files, and promises nothing on images that kill a
worker. So Ray is told to retry nothing. What a lost worker leaves undone is found here, and done in
another round.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import logging
import os
import pickle
import socket
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow
import torch

from relook.cascade import forward_cost, keep_cost
from relook.classifier import Classifier
from relook.errors import ModelError, RelookError, first_line
from relook.folder import RunError, versions
from relook.images import quietly
from relook.runs.job import Item, Job
from relook.runs.local import PART_SECONDS, OnRows, answered
from relook.runs.run import Run
from relook.text import readable
from relook.words import count

Engine = Literal["local", "ray"]
"""Where the work is done: in this process, or by the workers of a Ray cluster."""

_MOST, _FEWEST = 256, 8
"""Bounds on the number of images in a block."""

_DEATHS = 3
"""An image that has lost its worker this many times, all but the first time as the only image in
it, is not tried again."""

_NODE_LOSSES = 10
"""Number of rounds in which nodes may be lost; such a round is no evidence against an image."""

_WORKER_MEMORY = 1_500_000_000
"""Bytes that a worker takes besides its networks: PyTorch, and the images that are read ahead."""

_RESULT = pyarrow.schema(
    [
        ("node", pyarrow.string()),
        ("part", pyarrow.string()),
        ("rows", pyarrow.binary()),
        ("error", pyarrow.binary()),
    ]
)
"""What a worker hands to the driver: rows that it has saved, or an exception that ends the run."""


@dataclass(frozen=True)
class OnRay:
    """Runs a job on a Ray cluster; see `connected`.

    Attributes:
        workers: number of worker processes.
        nodes: number of machines.
        cpus: number of CPUs, and so of threads, per worker; may be 0 with a GPU.
        gpus: number of GPUs per worker, 0 or 1.
        dashboard: address of Ray's dashboard; empty if there is none.
    """

    workers: int
    nodes: int
    cpus: int
    gpus: int
    dashboard: str = ""

    def __str__(self) -> str:
        """The cluster in words, for messages."""
        workers = count(self.workers, "worker")
        each = f"{workers} with a GPU each" if self.gpus else workers
        at = f", dashboard {self.dashboard}" if self.dashboard else ""
        return f"{each} on {count(self.nodes, 'node')}{at}"

    @property
    def device(self) -> str:
        """Type of the device that the workers compute on."""
        return "cuda" if self.gpus else "cpu"

    def __call__(
        self,
        job: Job,
        items: Sequence[Item],
        run: Run | None,
        on_rows: OnRows | None = None,
        images: int | None = None,
    ) -> list[pyarrow.Table]:
        """Compute the rows of images and save them as they come; as `run_locally` does.

        An image that kills its worker process is tried a few times, and then gets a row that says
        so.

        Args:
            job: the work.
            items: the images that are left to do.
            run: where workers save the rows; None: they are only returned.
            on_rows: called with rows as they are computed.
            images: number of images of the whole run, for which the workers prepare; by default,
                that of `items`.

        Returns:
            The rows, if they are not saved; otherwise an empty list.

        Raises:
            RelookError: the network failed on many consecutive images, a worker cannot do the work,
                or the cluster was lost.
            RunError: workers do not see the run's folder, or the images.
            OSError: a worker cannot write rows.
        """
        found: list[pyarrow.Table] = []
        if not items:
            return found

        def take(rows: pyarrow.Table) -> None:
            if run is None:
                found.append(rows)
            if on_rows:
                on_rows(rows)

        from ray.exceptions import ObjectLostError

        left = {item.index: item for item in items}
        deaths: Counter[int] = Counter()
        losses = 0
        work = _Work.of(job, run, len(items) if images is None else images, self)
        while left:
            before, node_lost = _nodes(), False
            try:
                for rows in self._round(work, left, deaths):
                    for index in rows["index"].to_pylist():
                        left.pop(index, None)
                    take(rows)
            except ObjectLostError:
                node_lost = True  # with results on it
            for rows in _unannounced(run, left) if run and left else ():
                for index in rows["index"].to_pylist():
                    left.pop(index, None)
                take(rows)
            if (node_lost or before - _nodes()) and losses < _NODE_LOSSES:
                losses += 1  # the workers died with their node, whatever the image
                continue
            deaths.update(left.keys())
            given_up = [item for index, item in left.items() if deaths[index] == _DEATHS]
            if given_up:
                rows = pyarrow.concat_tables([job.failed(i, _killed(i)) for i in given_up])
                if run:
                    run.write(rows, _part(rows))
                take(rows)
            for item in given_up:
                del left[item.index]
        return found

    def _round(
        self, work: _Work, left: Mapping[int, Item], deaths: Mapping[int, int]
    ) -> Iterator[pyarrow.Table]:
        """Yield the rows of images; some may be missing, where a worker died.

        Args:
            work: what the workers need.
            left: the images.
            deaths: for each image, how often a worker that had it died. An image that may be to
                blame for that has a worker to itself.
        """
        items = list(left.values())
        yield from self._answers(work, self._blocks([i for i in items if not deaths[i.index]]), 2)
        yield from self._answers(work, [[i] for i in items if deaths[i.index]], 1)

    def _answers(
        self, work: _Work, blocks: Sequence[Sequence[Item]], ahead: int
    ) -> Iterator[pyarrow.Table]:
        """Yield the rows of blocks of images.

        Args:
            work: what the workers need.
            blocks: the blocks.
            ahead: number of blocks that a worker is given at a time, all of which are lost with it.
        """
        if not blocks:
            return
        import ray
        from ray.data import ActorPoolStrategy

        seen_by: set[str] = set()
        with _quiet_ray_data(), warnings.catch_warnings():
            # From Ray 2.64 on, these two can only be as they are by default: without limit.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            data = ray.data.from_arrow([_packed(block) for block in blocks]).map_batches(
                _Worker,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_args=(work,),
                compute=ActorPoolStrategy(
                    size=min(self.workers, len(blocks)),
                    max_tasks_in_flight_per_actor=ahead,
                ),
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                memory=work.memory,
                max_restarts=-1,
                max_task_retries=0,
            )
            try:
                for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for result in batch.to_pylist():
                        yield from _checked(result, work.run, seen_by)
            except ray.exceptions.ObjectLostError:
                raise  # for `__call__`, which goes on
            except (ray.exceptions.RayError, ConnectionError) as error:
                raise _of_ray(error) from error

    def _blocks(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Divide images into blocks, which become smaller so that all workers end together."""
        blocks: list[Sequence[Item]] = []
        done = 0
        while done < len(items):
            fair = (len(items) - done) // (4 * self.workers)
            size = max(_FEWEST, min(_MOST, fair))
            blocks.append(items[done : done + size])
            done += size
        return blocks


@contextmanager
def connected(address: str | None, classifier: Classifier) -> Iterator[OnRay]:
    """Connect to a Ray cluster, or start one on this machine; until this ends, it can be used.

    A cluster that was started here ends here; another is left as it is, and so is a connection that
    the process has already.

    >>> with connected(None, classifier) as engine:
    ...     engine.device, engine.nodes
    ('cpu', 1)

    Args:
        address: address of the cluster, such as "head-node:6379" or "auto"; None starts one.
        classifier: a cluster that is started here gets this machine's GPUs if the classifier is on
            one.

    Raises:
        RelookError: Ray is not installed, or no cluster answers at the address.
    """
    # Nothing is told to others, unless the user wants it: Ray would report its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would print to stdout that a worker died; relook says it in the rows.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RelookError(
            f"--engine ray needs Ray ({first_line(error)}); run: pip install 'relook[ray]'"
        ) from error
    own, dashboard = not ray.is_initialized(), ""
    if own:
        with _quiet_ray():
            dashboard = _connect(address, classifier)
    try:
        yield _engine(dashboard)
    finally:
        if own:
            ray.shutdown()


@contextmanager
def cluster_of(
    engine: Engine | OnRay, address: str | None, classifier: Classifier
) -> Iterator[OnRay | None]:
    """Yield the cluster that is meant by arguments of `relook.evaluate`; None for this process.

    Args:
        engine: "local", "ray", or a cluster that the caller is connected to.
        address: as for `connected`.
        classifier: as for `connected`.

    Raises:
        RelookError: there is no such engine, an address is given for another engine than Ray, Ray
            is not installed, or no cluster answers at the address.
    """
    if address is not None and engine != "ray":
        raise RelookError("ray_address (--ray-address) goes with the engine ray (--engine ray)")
    if engine == "ray":
        with connected(address, classifier) as cluster:
            yield cluster
    elif engine == "local" or isinstance(engine, OnRay):
        yield None if isinstance(engine, str) else engine
    else:
        raise RelookError(f'engine must be "local" or "ray", not {engine!r}')


def _connect(address: str | None, classifier: Classifier) -> str:
    """Connect to a cluster; return the address of its dashboard, empty if there is none."""
    import ray

    given: dict[str, Any] = {
        "address": address or "local",
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if address is None:
        if classifier.device.type != "cuda":
            given["num_gpus"] = 0
        # The dashboard needs more packages: pip install 'ray[default]'.
        given["include_dashboard"] = importlib.util.find_spec("aiohttp_cors") is not None
    try:
        if address is not None:
            _check(address)
        url = ray.init(**given).dashboard_url
        return f"http://{url}" if url else ""
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RelookError(
            f"no connection to the Ray cluster {address or 'of this machine'} "
            f"({first_line(error)}); start one with ray start --head, set RAY_AUTH_MODE=token if "
            "it asks for tokens (ray start says so), or leave out --ray-address to run on this "
            "machine"
        ) from error


def _check(address: str) -> None:
    """Raise an OSError at once if nobody listens at the address: Ray would try without end."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host.rpartition("/")[2], int(port)), timeout=20):
            pass


def _engine(dashboard: str) -> OnRay:
    """Divide the cluster that this process is connected to into workers."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in nodes if node.get("GPU")]
    if with_gpus:
        cpus = min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpus)
        return OnRay(sum(int(node["GPU"]) for node in with_gpus), len(nodes), cpus, 1, dashboard)
    # Workers of one thread are the fastest: no image waits for another.
    return OnRay(
        max(1, sum(int(node.get("CPU", 0)) for node in nodes)), len(nodes), 1, 0, dashboard
    )


def _nodes() -> set[str]:
    """Ids of the nodes that are alive."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Have Ray's native library print nothing, now and while the process is connected."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Let workers die without a word of Ray Data, and no progress bars beside relook's own."""
    from ray.data import DataContext

    context = DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "max_errored_blocks": -1,  # no limit
        "target_max_block_size": 1,  # byte: results are handed on as they come
    }
    before = {name: getattr(context, name) for name in wanted}
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        log.setLevel(level)


@dataclass(frozen=True)
class _Work:
    """What a worker needs to start.

    Attributes:
        job: reference to the pickled job in Ray's object store.
        run: where rows are saved.
        images: number of images of the whole run.
        cpus: number of threads.
        cuda: whether the networks are to be moved to a GPU.
        memory: bytes to reserve.
        costs: for each network of the job, the cost of a forward pass (see `forward_cost`).
        versions: versions of the packages that the run was started with.
        folder: the driver's working directory, to which paths are relative.
        path: where the driver finds modules, such as the user's own that make the network.
    """

    job: Any
    run: Run | None
    images: int
    cpus: int
    cuda: bool
    memory: int
    costs: Sequence[float]
    versions: Mapping[str, str] = field(default_factory=versions)
    folder: str = field(default_factory=os.getcwd)
    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))

    @classmethod
    def of(cls, job: Job, run: Run | None, images: int, engine: OnRay) -> _Work:
        import ray
        from ray import cloudpickle

        costs = [forward_cost(network, job.classifier) for network in job.networks]
        if any(network.device.type != "cpu" for network in job.networks):
            job = copy.deepcopy(job)  # from a GPU, it could not be unpickled without one
            for network in job.networks:
                network.to("cpu")
        pickled = cloudpickle.dumps(job)
        most = max((node["Resources"].get("memory", 0) for node in ray.nodes()), default=0)
        needed = _WORKER_MEMORY + 2 * len(pickled)
        memory = int(min(needed, most / 2))  # so that there is a node that can hold a worker
        cuda = engine.gpus > 0
        return cls(ray.put(pickled), run, images, engine.cpus, cuda, memory, costs)


class _Worker:
    """Answers blocks of images in a process of its own."""

    def __init__(self, work: _Work) -> None:
        import ray

        self._run = work.run
        self._threads = 2 * max(1, work.cpus)
        self._node = ray.util.get_node_ip_address()
        self._refusal: Exception | None = None
        # Ray would only say that the worker died.
        try:
            self._job = self._load(work)
        except Exception as error:  # noqa: BLE001
            self._refusal = error

    def _load(self, work: _Work) -> Job:
        import ray

        if os.path.isdir(work.folder):
            os.chdir(work.folder)
        sys.path.extend(place for place in work.path if place not in sys.path)
        own = versions()
        if other := {p: v for p, v in own.items() if v != work.versions[p]}:
            [package, version] = next(iter(other.items()))
            raise RelookError(
                f"the node {self._node} has {package} {version}, and the run was started with "
                f"{work.versions[package]}: install the same versions on all nodes"
            )
        torch.set_num_threads(max(1, work.cpus))
        try:
            job: Job = pickle.loads(ray.get(work.job))  # noqa: S301
        except (ImportError, AttributeError) as error:
            raise ModelError(
                f"the node {self._node} cannot load the network ({first_line(error)}): install the "
                "modules that it is made of on all nodes"
            ) from error
        if work.cuda:
            if not torch.cuda.is_available():
                raise RelookError(
                    f"the node {self._node} has a GPU that its PyTorch cannot use: install PyTorch "
                    "with CUDA there, or start the node with ray start --num-gpus 0"
                )
            for network in job.networks:
                network.to("cuda")
        for network, cost in zip(job.networks, work.costs, strict=True):
            keep_cost(network, job.classifier, cost)
        job.warm_up(work.images)
        return job

    def __call__(self, block: pyarrow.Table) -> Iterator[pyarrow.Table]:
        """Yield results as rows are saved."""
        try:
            if self._refusal:
                raise self._refusal
            for content in block["items"].to_pylist():
                for rows in self._rows(pickle.loads(content)):  # noqa: S301
                    yield self._result(part=self._save(rows), rows=_to_bytes(rows))
        except Exception as error:  # noqa: BLE001
            yield self._result(error=_pickled(error))

    def _rows(self, block: _Block) -> Iterator[pyarrow.Table]:
        """Yield the rows of a block, a few at a time if they are slow."""
        for place in block.folders:
            if not os.path.isdir(place):
                raise RunError(
                    f"the node {self._node} has no folder {readable(place)}: move the images to a "
                    "folder that all nodes share, or to a store such as s3://"
                )
        waiting: list[pyarrow.Table] = []
        begun = time.monotonic()
        try:
            for table in quietly(answered(self._job, block.items, self._threads)):
                waiting.append(table)
                if time.monotonic() - begun >= PART_SECONDS:
                    rows, waiting = pyarrow.concat_tables(waiting), []
                    yield rows
                    begun = time.monotonic()
        except Exception:
            if waiting:
                yield pyarrow.concat_tables(waiting)
            raise
        if waiting:
            yield pyarrow.concat_tables(waiting)

    def _save(self, rows: pyarrow.Table) -> str:
        """Save rows; return the name of the file."""
        part = _part(rows)
        if self._run:
            try:
                self._run.write(rows, part)
            except OSError as error:
                raise RunError(
                    f"the node {self._node} cannot write to {self._run.folder} ({error}); pass a "
                    "folder that all nodes share, or a store such as s3://"
                ) from error
        return part

    def _result(
        self, part: str | None = None, rows: bytes | None = None, error: bytes | None = None
    ) -> pyarrow.Table:
        result = {"node": self._node, "part": part, "rows": rows, "error": error}
        return pyarrow.Table.from_pylist([result], schema=_RESULT)


@dataclass(frozen=True)
class _Block:
    """Images that go to a worker together.

    Attributes:
        items: the images.
        folders: the folders that they are in, as far as the driver sees them.
    """

    items: Sequence[Item]
    folders: Sequence[str]


def _packed(items: Sequence[Item]) -> pyarrow.Table:
    """A block as a table of one row, for Ray Data."""
    places = dict.fromkeys(
        os.path.dirname(item.source) or "."
        for item in items
        if isinstance(item.source, str | Path) and "://" not in str(item.source)
    )
    block = _Block(list(items), [place for place in places if os.path.isdir(place)])
    return pyarrow.table({"items": [pickle.dumps(block)]})


def _checked(
    result: Mapping[str, Any], run: Run | None, seen_by: set[str]
) -> Iterator[pyarrow.Table]:
    """Yield the rows in a worker's result, or raise its exception.

    Args:
        result: see `_RESULT`.
        run: where the rows should be.
        seen_by: the nodes whose files are known to arrive there.
    """
    if result["error"] is not None:
        raise pickle.loads(result["error"])  # noqa: S301
    node = result["node"]
    if run and node not in seen_by:
        if not run.has(result["part"]):
            raise RunError(
                f"{run.folder}: rows that the node {node} wrote do not arrive; pass a folder that "
                "all nodes share, or a store such as s3://"
            )
        seen_by.add(node)
    with pyarrow.ipc.open_stream(result["rows"]) as stream:
        yield stream.read_all()


def _to_bytes(rows: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


def _part(rows: pyarrow.Table) -> str:
    """Name of the file of rows: the same images, written again, replace the file."""
    indices = ",".join(map(str, sorted(rows["index"].to_pylist())))
    return f"part-{hashlib.sha256(indices.encode()).hexdigest()[:24]}.parquet"


def _pickled(error: Exception) -> bytes:
    """An exception as bytes; what cannot be pickled becomes its text."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)  # noqa: S301
        return content
    except Exception:  # noqa: BLE001
        return pickle.dumps(RelookError(f"{type(error).__name__}: {error}"))


def _unannounced(run: Run, left: Mapping[int, Item]) -> Iterator[pyarrow.Table]:
    """Yield the rows of these images that workers saved before they died, file by file.

    A row that two files hold is yielded once if the caller takes its image from `left` meanwhile.
    """
    for table in run.tables():
        own = [index in left for index in table["index"].to_pylist()]
        if any(own):
            yield table.filter(pyarrow.array(own, pyarrow.bool_()))


def _killed(item: Item) -> str:
    return (
        f"{item.name}: the worker process died {_DEATHS} times while it classified this image, the "
        f"last {_DEATHS - 1} times with no other; open the file in an image program and save it "
        "anew, or leave it out"
    )


def _of_ray(error: Exception) -> RelookError:
    """What Ray says that went wrong, as one line."""
    text = str(error)
    if "No module named 'relook'" in text:
        return RelookError("Ray's workers cannot import relook: install it on all nodes")
    return RelookError(
        f"Ray failed ({' '.join(text.split())[:300]}); run the same command again to continue"
    )
