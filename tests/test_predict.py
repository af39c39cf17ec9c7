"""Many images predicted into rows: as one by one, once each, whatever stops the run on the way."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import relook
from networks import counting_forwards, random_cnn, write_noise
from relook.cli.app import app
from relook.correction import SecondLooks
from relook.folder import RunError
from relook.images import open_image
from relook.looks import Flip, SecondLook, Together, Uncropped, Weighted, Whole, Zoom, detail
from relook.prediction import Predictions, find_images, job
from relook.prediction.job import Predicting
from relook.runs import reader
from relook.runs.reader import Reader

HERE = Path(__file__).parent


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def photos(root, count=30):
    """JPEG files of four shapes."""
    root.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        height, width = [(20, 30), (30, 20), (24, 24), (20, 60)][i % 4]
        small = generator.integers(0, 255, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(small).resize((width, height)).save(root / f"{i:02}.jpg", quality=95)
    return root


class FailsOnWhite(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if (x.flatten(1).amin(dim=1) > 0.9).any():
            raise RuntimeError("too white")
        return self.inner(x)


def fails_on_white():
    network = FailsOnWhite(random_cnn(torch.float32))
    return relook.Classifier(network, mean=(0,) * 3, std=(1,) * 3, input_size=16)


@pytest.mark.parametrize("gate", [0.09, "none", 0.0])
@pytest.mark.parametrize("look", ["flip", "poster", "quick", "best", "zoom+uncropped"])
def test_rows_are_what_the_corrector_says_of_each_image(grey, tmp_path, look, gate):
    folder = photos(tmp_path / "photos")
    corrector = relook.Corrector(grey, gate=gate, look=look)
    predictions = relook.predict(corrector, folder, tmp_path / "run", all_classes=True)
    rows = predictions.table().to_pylist()
    assert [row["image"] for row in rows] == [f"{i:02}.jpg" for i in range(30)]
    for row in rows:
        expected = corrector.correct(folder / row["image"])
        assert row["error"] is None
        assert row["corrected"] == expected.corrected
        assert row["probabilities"] == pytest.approx(expected.after.tolist(), abs=1e-5)
        assert row["class"] == expected.after.argmax()
        assert row["label"] == grey.labels[row["class"]]
        assert row["probability"] == pytest.approx(float(expected.after.max()), abs=1e-5)
        assert row["first_class"] == expected.before.argmax()
        assert row["first_probability"] == pytest.approx(float(expected.before.max()), abs=1e-5)
        assert (row["forwards"], row["cost"]) == (expected.forwards, expected.cost)
        assert row["notes"] == list(expected.notes)
    totals = predictions.totals
    assert totals.corrected == sum(row["corrected"] for row in rows)
    assert totals.changed == sum(row["class"] != row["first_class"] for row in rows)
    assert totals.forwards == sum(row["forwards"] for row in rows)
    assert Predictions.read(tmp_path / "run") == predictions


def test_forwards_of_the_rows_are_those_of_the_network(grey, tmp_path):
    folder = photos(tmp_path / "photos")
    corrector = relook.Corrector(grey, gate=0.09, look="tencrop")
    with counting_forwards(grey.network) as count:
        predictions = relook.predict(corrector, folder, tmp_path / "run")
    assert 0 < predictions.totals.corrected < 30
    assert count == [predictions.totals.forwards]
    with counting_forwards(grey.network) as count:
        assert relook.predict(corrector, folder, tmp_path / "run") == predictions
    assert count == [0]


def test_files_that_cannot_be_read_are_rows_with_their_error(grey, data, tmp_path):
    (data / "0" / "00.png").write_bytes(b"no image")
    corrector = relook.Corrector(grey, look="flip")
    predictions = relook.predict(corrector, [data, tmp_path / "nowhere.png"], tmp_path / "run")
    assert (predictions.totals.images, predictions.totals.errors) == (39, 2)
    errors = predictions.errors()
    assert any("00.png" in error and "not an image" in error for error in errors)
    assert any("nowhere.png: no such file" in error for error in errors)
    for row in predictions.table().to_pylist():
        assert (row["class"] is None) == (row["error"] is not None)


def test_an_image_on_which_the_network_fails_is_a_row(data, tmp_path):
    """The others of its batch are answered."""

    classifier = fails_on_white()
    Image.new("RGB", (20, 20), "white").save(data / "0" / "white.png")
    corrector = relook.Corrector(classifier, look="flip")
    rows = relook.predict(corrector, data, tmp_path / "run").table().to_pylist()
    assert len(rows) == 41
    assert [row["image"] for row in rows if row["error"]] == ["0/white.png"]
    assert "too white" in next(row["error"] for row in rows if row["error"])


def test_other_looks_other_images_and_other_columns_are_refused(grey, data, tmp_path):
    corrector = relook.Corrector(grey, look="flip")
    relook.predict(corrector, data, tmp_path / "run")
    with pytest.raises(RunError, match="look was"):
        relook.predict(relook.Corrector(grey, look="larger"), data, tmp_path / "run")
    with pytest.raises(RunError, match="all_classes was false and is true now"):
        relook.predict(corrector, data, tmp_path / "run", all_classes=True)
    write_noise(data / "0" / "more.png", 99)
    with pytest.raises(RunError, match=r"data\.images was 40 and is 41 now"):
        relook.predict(corrector, data, tmp_path / "run")


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import torch, relook
from networks import random_cnn
from relook.runs import local, reader
local.PART_SECONDS, reader._LARGEST = 0.0, 4
done = 0
def stop(rows):
    global done
    done += len(rows) if "image" in rows.column_names else 0
    if done >= 9:
        os.kill(os.getpid(), signal.SIGKILL)
network = random_cnn(torch.float32, seed=7)
classifier = relook.Classifier(network, mean=(.5, .5, .5), std=(.2, .2, .2), input_size=16)
corrector = relook.Corrector(classifier, gate=0.09, look="tencrop")
relook.predict(corrector, {data!r}, {run!r}, on_rows=stop)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_equals_an_undisturbed_one(grey, data, tmp_path):
    for index in range(40, 100):
        write_noise(data / str(index % 4) / f"{index}.png", index)
    killed = tmp_path / "killed"
    script = KILLED.format(here=str(HERE), data=str(data), run=str(killed))
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    kept = Predictions.read(killed).totals.images
    assert 5 <= kept < 100
    corrector = relook.Corrector(grey, gate=0.09, look="tencrop")
    found = relook.predict(corrector, data, killed)
    expected = relook.predict(corrector, data, tmp_path / "undisturbed")
    without = ["seconds", "notes"]
    rows, others = (p.table().drop_columns(without).to_pylist() for p in (found, expected))
    assert len(rows) == 100
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert len(list((killed / "rows").iterdir())) == 1


def test_the_work_can_be_pickled(grey, data):
    work = Predicting(relook.Corrector(grey, look="flip"), all_classes=True)
    copy = pickle.loads(pickle.dumps(work))  # noqa: S301
    with Reader(work, find_images([data]).items[:5]) as images:
        batch, _ = images.take()
    [rows], [others] = list(work.answers([batch])), list(copy.answers([batch]))
    for name in ("index", "class", "forwards"):
        assert rows.sort_by("index")[name].equals(others.sort_by("index")[name])
    both = [np.stack(each.sort_by("index")["probabilities"].to_numpy()) for each in (rows, others)]
    assert both[0] == pytest.approx(both[1], abs=1e-6)


@pytest.mark.parametrize("most", [0, 3, 1000])
@pytest.mark.parametrize("look", ["flip", "zoom+uncropped", "best"])
def test_second_looks_in_work_together_are_those_one_by_one(grey, tmp_path, look, most):
    folder = photos(tmp_path / "photos", 12)
    corrector = relook.Corrector(grey, look=look)
    photo = [open_image(folder / f"{i:02}.jpg") for i in range(12)]
    pixels = torch.stack([grey.pixels(each) for each in photo])
    firsts = grey.first_looks(pixels, True, photo)
    looks, found = SecondLooks(corrector), {}
    for number, first in enumerate(firsts):
        looks.add(number, corrector.views_of(first).without_pixels())
        found.update(looks.full(most))
        assert len(looks) <= most
    found.update(looks.rest())
    assert sorted(found) == list(range(12))
    for number, first in enumerate(firsts):
        [alone] = corrector.look_again([first])
        torch.testing.assert_close(found[number].after, alone.after, rtol=0, atol=1e-6)
        assert (found[number].forwards, found[number].cost) == (alone.forwards, alone.cost)


def test_a_large_jpeg_is_decoded_no_larger_than_the_network_needs(lite0):
    """A side of 3000 is resized to 256: an eighth would be less than twice that, a quarter is not.
    A look that cuts parts of a quarter of the crop sees four times the detail."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), "red").save(buffer, "JPEG")
    geometry = lite0.geometry

    def size(scale):
        needed = lambda w, h: geometry.needed(w, h, scale)  # noqa: E731
        return open_image(buffer.getvalue(), needed=needed).size

    assert geometry.needed(4000, 3000) == (683, 512)
    assert size(1.0) == (1000, 750)
    assert size(1.5) == (2000, 1500)
    assert size(4.0) == (4000, 3000)
    assert size(float("inf")) == (4000, 3000)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4000, 3000), "red").save(turned, "JPEG", exif=exif)
    assert open_image(turned.getvalue(), needed=geometry.needed).size == (750, 1000)


def test_reduced_photos_get_nearly_the_same_pixels(lite0, chelsea):
    """Chelsea at eight times her size, decoded whole and at a quarter."""
    photo = Image.open(chelsea).convert("RGB")
    large = photo.resize((photo.width * 8, photo.height * 8), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=95)
    whole = open_image(buffer.getvalue())
    reduced = open_image(buffer.getvalue(), needed=lite0.geometry.needed)
    assert whole.width == 4 * reduced.width
    both = torch.stack([lite0.pixels(whole), lite0.pixels(reduced)])
    assert (both[0] - both[1]).abs().mean() < 1 / 255
    probabilities = lite0(both)
    assert (probabilities[0] - probabilities[1]).abs().max() < 0.01


def test_how_closely_looks_see_the_original():
    assert detail(Uncropped()) == 1
    assert detail(Together((Whole(), Weighted(Zoom(smallest=0.5), 2.0, 2)))) == 2

    class Unknown:
        needs_activations, needs_original = False, True

        def __call__(self, context):
            return SecondLook()

    assert detail(Unknown()) == float("inf")
    Unknown.needs_original = False
    assert detail(Unknown()) == 1


def test_reading_waits_while_large_photos_are_in_memory(grey, tmp_path, monkeypatch):
    """However slow the consumer; it goes on as the consumer takes photos, in their order."""
    monkeypatch.setattr(reader, "_PIXELS", 2 * 100 * 100)
    (tmp_path / "large").mkdir()
    for i in range(40):
        Image.new("RGB", (100, 100), (i, i, i)).save(tmp_path / "large" / f"{i:02}.png")
    work = Predicting(relook.Corrector(grey, look="whole"))
    assert work.needs_original
    names = []
    with Reader(work, find_images([tmp_path / "large"]).items) as images:
        while True:
            batch, errors = images.take()
            assert not errors
            if batch is None:
                break
            names += [item.name for item in batch.items]
            assert len(batch) <= 2
            time.sleep(0.01)
            # Three batches, and one image in each thread that had begun.
            assert images._room._held <= (3 * 2 + reader.THREADS + 1) * 100 * 100
    assert names == [f"{i:02}.png" for i in range(40)]


def test_reading_ends_with_its_consumer(grey, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_PIXELS", 1)
    (tmp_path / "large").mkdir()
    for i in range(20):
        write_noise(tmp_path / "large" / f"{i:02}.png", i)
    work = Predicting(relook.Corrector(grey, look="whole"))
    before = threading.active_count()
    with Reader(work, find_images([tmp_path / "large"]).items) as images:
        images.take()
    assert threading.active_count() == before


def test_the_command_saves_rows_and_prints_their_totals(data, tmp_path):
    model = ("--model", "networks:make_torn")
    output = tmp_path / "answers"
    (data / "0" / "00.png").write_bytes(b"")
    done = run("predict", data, "--rows", output, *model, "--look", "flip", "--json")
    assert done.exit_code == 1
    totals = json.loads(done.stdout.splitlines()[-1])
    assert (totals["images"], totals["errors"], totals["corrected"]) == (39, 1, 39)
    assert set(totals) == {"images", "errors", "corrected", "forwards", "cost", "seconds"}
    assert "00.png: the file is empty" in done.stderr
    rows = pyarrow.parquet.read_table(output / "rows").to_pylist()
    assert len(rows) == 40
    again = run("predict", data, "--rows", output, *model, "--look", "flip")
    assert "39 images answered: 39 second looks" in again.stdout
    other = run("predict", data, "--rows", output, *model, "--look", "larger")
    assert other.exit_code == 2
    assert "holds another run" in other.stderr


def test_a_folder_is_printed_image_by_image(data, tmp_path):
    done = run("predict", data / "1", "--model", "networks:make_torn", "--look", "flip", "--json")
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == [f"{i:02}.png" for i in range(1, 40, 4)]


def test_options_that_go_with_rows(photo, tmp_path):
    assert "--all-classes goes with --rows" in run("predict", photo, "--all-classes").stderr
    both = run("predict", photo, "--rows", tmp_path / "a", "--output", tmp_path / "b")
    assert both.exit_code == 2
    assert "cannot be combined with --rows" in both.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_a_row_with_its_error(grey, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    predictions = relook.predict(relook.Corrector(grey), [tmp_path / "pipe.png"], tmp_path / "run")
    assert "is a pipe or a device" in predictions.errors()[0]


@pytest.mark.parametrize("library", ["duckdb", "pandas", "polars"])
def test_the_documented_lines_read_the_rows(grey, data, tmp_path, library, monkeypatch):
    module = pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    relook.predict(relook.Corrector(grey, look="flip"), data, "answers")
    page = (HERE.parent / "docs" / "many-images.md").read_text(encoding="utf-8")
    if library == "duckdb":
        [line] = [line for line in page.splitlines() if line.startswith("SELECT")]
        counted = module.sql(line.partition(" -- ")[0]).fetchall()
        assert sum(count for _, count in counted) == 40
    else:
        [line] = [line for line in page.splitlines() if line.startswith(f"{library}.")]
        assert len(eval(line, {library: module})) == 40


def test_weights_that_change_between_two_runs_are_noticed(data, tmp_path):
    """Also by a run that is too short to look for a faster form of the network by itself."""
    classifier = relook.Classifier(
        random_cnn(torch.float32), mean=(0,) * 3, std=(1,) * 3, input_size=16
    )
    classifier.warm_up(1000)
    corrector = relook.Corrector(classifier, look="flip")
    relook.predict(corrector, data, tmp_path / "before")
    with torch.no_grad():
        for weights in classifier.network.parameters():
            weights.copy_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(5)))
    rows = relook.predict(corrector, data, tmp_path / "after").table().to_pylist()
    for row in rows[:8]:
        expected = corrector.correct(data / row["image"]).after
        assert row["probability"] == pytest.approx(float(expected.max()), abs=1e-4)


def test_one_image_on_which_the_network_fails_does_not_end_the_forecast(data, tmp_path):
    """The forecast tries the first images; the run goes on without one."""
    classifier = fails_on_white()
    Image.new("RGB", (20, 20), "white").save(data / "0" / "00.png")
    told = []
    predictions = relook.predict(
        relook.Corrector(classifier, look="flip"), data, tmp_path / "run", on_forecast=told.append
    )
    assert (predictions.totals.images, predictions.totals.errors, told) == (39, 1, [])


def test_rows_that_are_there_twice_count_once(grey, data, tmp_path):
    """As after a kill between merging the parts and removing them."""
    predictions = relook.predict(relook.Corrector(grey, look="flip"), data, tmp_path / "run")
    rows = tmp_path / "run" / "rows"
    [part] = rows.iterdir()
    pyarrow.parquet.write_table(
        pyarrow.parquet.read_table(part).slice(5, 10), rows / "part-1.parquet"
    )
    assert Predictions.read(tmp_path / "run").totals.images == 40
    came = []
    again = relook.predict(
        relook.Corrector(grey, look="flip"), data, tmp_path / "run", on_rows=came.append
    )
    assert (again.totals.images, again.totals.forwards) == (40, predictions.totals.forwards)
    assert sum(len(table["image"]) for table in came) == 40
    assert len(list(rows.iterdir())) == 1


def test_files_that_cannot_be_read_do_not_wait_for_those_that_can(grey, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_LARGEST", 4)
    (tmp_path / "files").mkdir()
    for i in range(12):
        (tmp_path / "files" / f"{i:02}.png").write_bytes(b"no image")
    sizes = []
    relook.predict(
        relook.Corrector(grey, look="flip"),
        tmp_path / "files",
        tmp_path / "run",
        on_rows=lambda rows: sizes.append(threading.active_count()),
    )
    assert len(sizes) == 12
    assert Predictions.read(tmp_path / "run").totals.errors == 12


def test_slow_views_do_not_hold_up_the_rows_of_their_batch(grey, data, tmp_path, monkeypatch):
    """Rows come as soon as the views of an image are there; stopped, the rest is not awaited."""
    monkeypatch.setattr(job, "_SLOW", 0.0)

    class Slow:
        needs_activations = needs_original = False
        calls = 0

        def __call__(self, context):
            Slow.calls += 1
            time.sleep(0.05)
            return Flip()(context)

    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relook.predict(relook.Corrector(grey, look=Slow()), data, tmp_path / "run", on_rows=stop)
    assert Slow.calls < 20
    assert 1 <= Predictions.read(tmp_path / "run").totals.images < 20
