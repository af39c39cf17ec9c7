"""Evaluation on a Ray cluster: the rows of this process, whatever dies there."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import relook
from networks import Deadly, random_cnn
from relook.cli import app
from relook.errors import ModelError, RelookError
from relook.evaluation import RunError, evaluate
from relook.runs import Item, on_ray
from relook.runs.on_ray import connected
from relook.runs.run import Run
from test_evaluation import damage, enlarged, rows_of, same

HERE = Path(__file__).parent

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: relook[ray]"
)
pytestmark = [pytest.mark.slow, needs_ray]


@pytest.fixture(scope="module")
def cluster():
    """A cluster on this machine."""
    network = random_cnn(torch.float32)
    own = relook.Classifier(network, mean=(0,) * 3, std=(1,) * 3, input_size=16)
    with connected(None, own) as found:
        yield found


def deadly(**options):
    """The classifier of the fixture `grey`, which blue images kill."""
    return relook.Classifier(
        Deadly(**options), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16
    )  # fmt: skip


def paint_blue(data, name):
    Image.new("RGB", (20, 20), (0, 0, 255)).save(data / name)


def test_rows_are_those_of_this_process(grey, data, tmp_path, cluster):
    corrector = relook.Corrector(grey, k=2, gate=0.09)
    here = evaluate(corrector, data, versus=["flip"])
    came = []
    there = evaluate(
        corrector, data, tmp_path / "run", versus=["flip"], engine=cluster, on_rows=came.append
    )
    same(there.rows, here.rows)
    assert sorted(i for rows in came for i in rows["index"].to_pylist()) == list(range(40))
    assert len(list((tmp_path / "run" / "rows").glob("*"))) == 1
    same(evaluate(corrector, data, versus=["flip"], engine=cluster).rows, here.rows)  # no folder


def test_bad_images_are_rows_with_the_same_errors(grey, data, tmp_path, cluster, monkeypatch):
    damage(data, ["0/04.png", "2/10.png", "3/39.png"])
    monkeypatch.chdir(tmp_path)  # paths in messages are as the user gave them
    corrector = relook.Corrector(grey, k=2)
    there = evaluate(corrector, "data", "run", engine=cluster)
    same(there.rows, evaluate(corrector, "data").rows)
    assert there.summary()["errors"] == 3


def test_an_image_that_kills_its_worker_is_a_row(data, grey, tmp_path, cluster):
    blue = ["0/08.png", "1/21.png"]
    whole = evaluate(relook.Corrector(grey, look="flip"), data)
    for name in blue:
        paint_blue(data, name)
    corrector = relook.Corrector(deadly(), look="flip")
    found = evaluate(corrector, data, tmp_path / "run", engine=cluster)
    errors = {row.image: row.error for row in found.rows if row.error}
    assert list(errors) == blue
    assert all(
        error.startswith(f"{name}: the worker process died 3 times")
        for name, error in errors.items()
    )
    same([row for row in found.rows if not row.error],
         [row for row in whole.rows if row.image not in blue])  # fmt: skip
    again = evaluate(corrector, data, tmp_path / "run", engine=cluster)  # nothing is left to do
    assert again.rows == found.rows


@pytest.mark.parametrize("folder", ["run", None])
def test_the_death_of_a_worker_costs_no_row(data, grey, tmp_path, cluster, folder):
    paint_blue(data, "2/30.png")
    corrector = relook.Corrector(deadly(once=tmp_path / "died"), look="flip")
    output = folder and tmp_path / folder
    came = []
    found = evaluate(corrector, data, output, engine=cluster, on_rows=came.append)
    assert (tmp_path / "died").exists()
    same(found.rows, evaluate(relook.Corrector(grey, look="flip"), data).rows)
    assert sorted(i for rows in came for i in rows["index"].to_pylist()) == list(range(40))


def test_rows_of_dead_workers_are_read_file_by_file(tmp_path):
    schema = pyarrow.schema([("index", pyarrow.int64())])
    with Run.open(tmp_path, {}, lambda _: schema) as run:
        for number, indices in enumerate([[0, 1], [2, 3], [3, 4]]):
            rows = pyarrow.table({"index": indices}, schema)
            run.write(rows, f"part-{number}.parquet")
        left, found = {i: Item(i, str(i), b"") for i in (1, 3, 4, 5)}, []
        for rows in on_ray._unannounced(run, left):
            found.append(rows["index"].to_pylist())
            for index in found[-1]:
                del left[index]
    assert (found, list(left)) == ([[1], [3], [4]], [5])


def test_a_run_goes_on_on_another_engine(grey, data, tmp_path, cluster):
    corrector = relook.Corrector(grey, look="flip")

    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(corrector, data, tmp_path / "run", engine=cluster, on_rows=stop)
    kept = rows_of(tmp_path / "run")
    assert 0 < len(kept) <= 40
    found = evaluate(corrector, data, tmp_path / "run")
    same(found.rows, evaluate(corrector, data).rows)
    assert [row for row in found.rows if row.index in {k.index for k in kept}] == kept
    with pytest.raises(RunError, match="holds another run"):
        evaluate(relook.Corrector(grey, look="tencrop"), data, tmp_path / "run", engine=cluster)


def test_what_ends_a_run_here_ends_it_there(data, tmp_path, cluster):
    class FixedSize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = random_cnn(torch.float32, seed=7)

        def forward(self, x):
            if x.shape[-1] != 32:
                raise RuntimeError("32 and nothing else")
            return self.inner(x)

    fixed = relook.Classifier(FixedSize(), mean=(0,) * 3, std=(1,) * 3, input_size=32)
    with pytest.raises(ModelError, match="takes no inputs of 40×40"):
        evaluate(relook.Corrector(fixed, look="larger"), enlarged(data), engine=cluster)


def test_a_network_that_workers_cannot_import_is_named(data, tmp_path, cluster, monkeypatch):
    file = tmp_path / "gone_by_then.py"
    file.write_text("from networks import SmallCNN\nclass Mine(SmallCNN): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("gone_by_then").Mine()
    own = relook.Classifier(mine, mean=(0,) * 3, std=(1,) * 3, input_size=16)
    file.unlink()
    with pytest.raises(ModelError, match=r"cannot load the network.*gone_by_then.*on all nodes"):
        evaluate(relook.Corrector(own, look="flip"), data, engine=cluster)


def test_no_cluster_at_the_address(data):
    """A process of its own, since this one has a connection already."""
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import relook, networks\n"
        f"relook.evaluate(relook.Corrector(networks.make_torn()), {str(data)!r}, engine='ray',"
        " ray_address='127.0.0.1:1')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "no connection to the Ray cluster 127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr


def test_an_address_without_the_engine_is_refused(grey, data, tmp_path):
    with pytest.raises(RelookError, match="goes with the engine ray"):
        evaluate(relook.Corrector(grey), data, ray_address="head:6379")
    arguments = ["--model", "networks:make_torn", "--ray-address", "head:6379"]
    found = CliRunner().invoke(
        app, ["evaluate", str(data), "--output", str(tmp_path / "run"), *arguments]
    )
    assert (found.exit_code, (tmp_path / "run").exists()) == (2, False)


def test_the_command_says_where_it_runs(data, tmp_path, cluster):
    arguments = ["--model", "networks:make_torn", "--look", "flip", "--engine", "ray", "--json"]
    found = CliRunner().invoke(
        app, ["evaluate", str(data), "--output", str(tmp_path / "run"), *arguments]
    )
    assert found.exit_code == 0, found.output
    assert "on Ray: " in found.stderr
    assert '"images": 40' in found.stdout.splitlines()[-1]
