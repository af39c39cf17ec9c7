"""A run: every row right, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import relook
from networks import NaNNet, counting_forwards, random_cnn, write_noise
from relook.cli.progress import evaluation_bar
from relook.errors import ModelError, RelookError
from relook.evaluation import (
    DataError,
    Evaluation,
    Run,
    RunError,
    evaluate,
    experiment,
    experiment_of,
    from_table,
    read_data,
    rivals_of,
    to_table,
    work,
)
from relook.evaluation.rows import schema_of
from relook.folder import folder_at
from relook.gate import EVERY_IMAGE
from relook.geometry import Geometry
from relook.looks import Flip, Mask
from relook.runs import reader
from relook.runs.reader import Reader
from relook.runs.spelling import KINDS, spelt

HERE = Path(__file__).parent


def rows_of(folder):
    """The rows that are in a run's folder, whole or not."""
    return list(Evaluation.read(folder).rows)


def same(rows, others):
    """Equal but for the seconds, and for rounding in the probabilities."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert (row.index, row.image, row.label, row.error) == (
            other.index, other.image, other.label, other.error
        )  # fmt: skip
        assert list(row.answers) == list(other.answers)
        for one, two in zip(row.answers.values(), other.answers.values(), strict=True):
            assert one.classes == two.classes
            assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)
            assert (one.forwards, one.cost) == (two.forwards, two.cost)


def test_rows_are_what_the_corrector_says_of_each_image(grey, data):
    corrector = relook.Corrector(grey, k=3, gate=0.09)
    images = read_data(data, grey.labels)
    evaluation = evaluate(corrector, images)
    assert [row.image for row in evaluation.rows] == [image.name for image in images.images]
    looked = 0
    for row, image in zip(evaluation.rows, images.images, strict=True):
        correction = corrector.correct(image.path)
        assert row.label == image.label
        assert row.before.probabilities == pytest.approx(
            correction.before.topk(4).values.tolist(), abs=1e-6
        )
        assert row.after.classes == tuple(correction.after.topk(4).indices.tolist())
        assert row.after.true == pytest.approx(float(correction.after[row.label]), abs=1e-6)
        assert row.corrected == correction.corrected == (row.before.gap(5) < 0.09)
        assert (row.after.forwards, row.after.cost) == (correction.forwards, correction.cost)
        assert row.before.forwards == 1
        looked += row.corrected
    assert looked == 20  # the gate does something here


def test_forwards_of_the_rows_are_those_of_the_network(grey, data):
    with counting_forwards(grey.network) as count:
        evaluation = evaluate(relook.Corrector(grey, k=2, gate=0.09), data)
    assert sum(row.after.forwards for row in evaluation.rows) == count[0]
    assert evaluation.summary()["forwards"] == count[0]


def enlarged(data):
    """The same images with more pixels than the network takes: a larger crop has something to show."""
    for file in data.rglob("*.png"):
        Image.open(file).resize((48, 48)).save(file)
    return data


def test_rivals_are_looks_like_any_other_and_share_the_first_look(grey, data):
    data = enlarged(data)
    grey = relook.Classifier(grey.network, mean=grey.mean, std=grey.std, input_size=32)
    with counting_forwards(grey.network) as count:
        both = evaluate(
            relook.Corrector(grey, k=2, gate=0.09), data, versus=["flip", "tencrop", "larger"]
        )
    looked = sum(row.corrected for row in both.rows)
    own = sum(row.after.forwards for row in both.rows)
    assert count[0] == own + looked * (1 + 9 + 1)
    for name in ("flip", "tencrop", "larger"):
        alone = evaluate(relook.Corrector(grey, gate=0.09, look=name), data)
        for row, other in zip(both.rows, alone.rows, strict=True):
            rival = row.answers[name]
            assert rival.probabilities == pytest.approx(other.after.probabilities, abs=1e-6)
            assert (rival.forwards, rival.cost) == (other.after.forwards, other.after.cost)
    named = evaluate(relook.Corrector(grey, gate=0.09), data, versus={"mirror": Flip()})
    assert [row.answers["mirror"].classes for row in named.rows] == [
        row.answers["flip"].classes for row in both.rows
    ]


def test_a_rival_from_a_file_keeps_its_own_k_and_gate(grey, data, tmp_path):
    file = tmp_path / "tuned.json"
    relook.looks.Preset.of("flip", gate=0.0).save(file)
    evaluation = evaluate(relook.Corrector(grey), data, versus=[str(file)])
    assert all(row.answers[str(file)].forwards == 1 for row in evaluation.rows)
    assert all(row.after.forwards > 1 for row in evaluation.rows)


def damage(data, names):
    for number, name in enumerate(names):
        file = data / name
        content = file.read_bytes()
        file.write_bytes((b"", b"no image", content[: len(content) // 2])[number % 3])


def test_bad_images_are_rows_with_their_error_and_the_others_are_as_without(grey, data, tmp_path):
    corrector = relook.Corrector(grey, k=2)
    whole = evaluate(corrector, data)
    bad = ["0/04.png", "2/10.png", "3/39.png"]
    damage(data, bad)
    evaluation = evaluate(corrector, data, tmp_path / "run")
    assert [row.image for row in evaluation.rows if row.error] == bad
    assert all("copy or export" in row.error or "not an image" in row.error
               for row in evaluation.rows if row.error)  # fmt: skip
    same([row for row in evaluation.rows if not row.error],
         [row for row in whole.rows if row.image not in bad])  # fmt: skip
    summary = evaluation.summary()
    assert (summary["images"], summary["errors"], summary["classes"]) == (37, 3, 4)


def test_a_network_that_answers_nan_for_one_image_loses_that_one(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (4, 4), colour).save(tmp_path / name / f"{number}.png")
    Image.new("RGB", (4, 4), (0, 0, 255)).save(tmp_path / "red" / "blue.png")
    classifier = relook.Classifier(
        NaNNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, labels=["red", "green"]
    )
    evaluation = evaluate(relook.Corrector(classifier), tmp_path)
    [bad] = [row for row in evaluation.rows if row.error]
    assert bad.image == "red/blue.png"
    assert "NaN" in bad.error
    assert "red/blue.png" in bad.error
    assert evaluation.statistics.before.images == 6


def test_what_no_network_of_this_kind_can_do_ends_the_run(grey, data):
    class FixedSize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = random_cnn(torch.float32, seed=7)

        def forward(self, x):
            assert x.shape[-1] == 32
            return self.inner(x)

    fixed = relook.Classifier(FixedSize(), mean=(0, 0, 0), std=(1, 1, 1), input_size=32)
    with pytest.raises(ModelError, match="takes no inputs of 40×40"):
        evaluate(relook.Corrector(fixed, look="larger"), enlarged(data))
    with pytest.raises(RelookError, match="look 'flop' is unknown"):
        evaluate(relook.Corrector(grey), data, versus=["flop"])


def test_a_second_call_asks_the_network_nothing(grey, data, tmp_path):
    corrector = relook.Corrector(grey, k=2)
    first = evaluate(corrector, data, tmp_path / "run")
    came = []
    with counting_forwards(grey.network) as count:
        second = evaluate(
            corrector, data, tmp_path / "run", on_rows=lambda rows: came.extend(from_table(rows))
        )
    assert count == [0]
    assert second.rows == first.rows
    assert len(came) == 40
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["images"] == 40


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import torch, relook
from networks import random_cnn
from relook.evaluation import evaluate, experiment
from relook.runs import local
experiment._SLOW = local.PART_SECONDS = 0.0  # a part for every row
network = random_cnn(torch.float32, seed=7)
classifier = relook.Classifier(network, mean=(.5, .5, .5), std=(.2, .2, .2), input_size=16)
done = 0
def stop(rows):
    global done
    done += len(rows)
    if done > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
corrector = relook.Corrector(classifier, k=2, gate=0.09)
evaluate(corrector, {data!r}, {run!r}, versus=["flip"], on_rows=stop)
"""


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_rows_without_doing_any_twice(grey, data, tmp_path):
    run = tmp_path / "run"
    for after in (7, 23):
        script = KILLED.format(here=str(HERE), after=after, data=str(data), run=str(run))
        killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    parts = list((run / "rows").glob("*.parquet"))
    kept = rows_of(run)
    assert len(parts) == len(kept) == 23
    (run / "rows" / "part-1.parquet.writing").write_bytes(b"half a part")
    corrector = relook.Corrector(grey, k=2, gate=0.09)
    with counting_forwards(grey.network) as count:
        resumed = evaluate(corrector, data, run, versus=["flip"])
    new = [row for row in resumed.rows if row.index not in {row.index for row in kept}]
    assert len(new) == 17
    assert count[0] == sum(row.after.forwards + row.corrected for row in new)
    same(resumed.rows, evaluate(corrector, data, versus=["flip"]).rows)
    seconds = sum(row.after.seconds for row in resumed.rows)
    assert resumed.summary()["seconds"] == pytest.approx(seconds)
    assert len(list((run / "rows").glob("*"))) == 1  # all in one


def test_rows_survive_an_exception_on_the_way(grey, data, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "_SLOW", 0.0)  # each row on its own

    def stop(rows):
        if 20 in rows["index"].to_pylist():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(relook.Corrector(grey, k=1), data, tmp_path / "run", on_rows=stop)
    kept = rows_of(tmp_path / "run")
    assert 20 in [row.index for row in kept]
    assert len(kept) == 1 + work.shuffled(40).index(20)


def test_other_settings_other_data_and_other_weights_are_refused(grey, data, tmp_path):
    run = tmp_path / "run"
    evaluate(relook.Corrector(grey, k=2), data, run)
    with pytest.raises(RunError, match="k was 2 and is 3 now"):
        evaluate(relook.Corrector(grey, k=3), data, run)
    with pytest.raises(RunError, match=r'look\.fill was null and is "mean" now'):
        evaluate(relook.Corrector(grey, k=2, look=Mask(relook.ScoreCAM(), "mean")), data, run)
    with pytest.raises(RunError) as refused:
        evaluate(relook.Corrector(grey, k=2, gate="none", look="quick"), data, run)
    assert str(refused.value).endswith('Different: look was "poster" and is "quick" now')
    with pytest.raises(RunError, match=r"versus\.flip was null"):
        evaluate(relook.Corrector(grey, k=2), data, run, versus=["flip"])
    with pytest.raises(RunError, match=r"data\.images was 40 and is 10 now"):
        evaluate(relook.Corrector(grey, k=2), read_data(data, grey.labels).sample(10), run)
    write_noise(data / "0" / "00.png", seed=99, size=30)
    with pytest.raises(RunError, match=r"data\.content was"):
        evaluate(relook.Corrector(grey, k=2), data, run)
    write_noise(data / "0" / "00.png", seed=0)
    with torch.no_grad():
        grey.network.fc.bias.add_(1)
    with pytest.raises(RunError, match=r"model\.weights was"):
        evaluate(relook.Corrector(grey, k=2), data, run)


def test_other_versions_are_refused(grey, data, tmp_path):
    run = tmp_path / "run"
    evaluate(relook.Corrector(grey, k=1), data, run)
    settings = json.loads((run / "run.json").read_text())
    settings["versions"]["torch"] = "1.0"
    (run / "run.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match=r'versions\.torch was "1\.0" and is'):
        evaluate(relook.Corrector(grey, k=1), data, run)


def test_a_run_that_cannot_be_read_is_named(grey, data, tmp_path):
    run = tmp_path / "run"
    evaluate(relook.Corrector(grey, k=1), data, run)
    (run / "rows" / "part-0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RunError, match=r"part-0\.parquet: cannot be read .* delete it"):
        evaluate(relook.Corrector(grey, k=1), data, run)
    (run / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json: cannot be used"):
        evaluate(relook.Corrector(grey, k=1), data, run)
    (run / "run.json").unlink()
    with pytest.raises(RunError, match=r"holds parts of a run but no run\.json"):
        evaluate(relook.Corrector(grey, k=1), data, run)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be used"):
        evaluate(relook.Corrector(grey, k=1), data, tmp_path / "file")


def test_rows_that_are_there_twice_count_once(grey, data, tmp_path):
    """As after a kill between writing all rows into one part and removing the others."""
    evaluation = evaluate(relook.Corrector(grey, k=1), data, tmp_path / "run")
    Run(folder_at(tmp_path / "run"), evaluation.settings, schema_of).write(evaluation.table[:5])
    assert rows_of(tmp_path / "run") == list(evaluation.rows)


def test_every_row_goes_through_arrow_unchanged(grey, data):
    rows = list(evaluate(relook.Corrector(grey, k=2, gate=0.09), data, versus=["flip"]).rows)
    assert from_table(to_table(rows, rows[0].names)) == rows


def test_a_pickled_experiment_answers_the_same(grey, data):
    corrector = relook.Corrector(grey, k=2, gate=0.09)
    rivals = rivals_of(corrector, ["flip"])
    asked = experiment_of(corrector, rivals)
    images = read_data(data, grey.labels)
    with Reader(asked, images.items([3, 17, 30])) as ahead:
        batch, _ = ahead.take()
    copy = pickle.loads(pickle.dumps(asked))  # noqa: S301
    assert copy.settings == asked.settings
    same(list(copy.rows(batch)), list(asked.rows(batch)))
    whole = evaluate(corrector, images, versus=["flip"]).rows
    same(list(asked.rows(batch)), [whole[i] for i in (3, 17, 30)])


def test_a_run_is_read_from_its_folder_alone(grey, data, tmp_path):
    made = evaluate(relook.Corrector(grey, k=2), data, tmp_path / "run", versus=["flip"])
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(data)
    found = Evaluation.read(tmp_path / "elsewhere")
    assert (found.rows, found.labels, found.name) == (made.rows, grey.labels, "poster")
    assert found.details() == made.details()
    assert list(found.rows[0].answers) == ["first look", "poster", "flip"]
    with pytest.raises(RunError, match=r"contains no run\.json"):
        Evaluation.read(tmp_path)


def test_a_class_under_another_name_goes_on_with_its_run(grey, data, tmp_path):
    """What a run depends on is spelt out: no name of a class of relook is in it."""
    corrector = relook.Corrector(grey, k=2, look=Mask(relook.ScoreCAM(fill="mean")))
    evaluate(corrector, data, tmp_path / "run", versus={"mirror": Flip()})
    names = {kind: kind.__name__ for kind in (Mask, Flip, relook.ScoreCAM, Geometry)}
    try:
        for kind in names:
            kind.__name__ = kind.__qualname__ = "Renamed"
        assert repr(corrector.look).startswith("Renamed")
        with counting_forwards(grey.network) as count:
            again = evaluate(corrector, data, tmp_path / "run", versus={"mirror": Flip()})
    finally:
        for kind, name in names.items():
            kind.__name__ = kind.__qualname__ = name
    assert (count, again.name) == ([0], "mask")


def test_a_run_keeps_its_names_and_their_order(grey, data, tmp_path):
    corrector = relook.Corrector(grey, k=2, look=Flip())
    first = evaluate(corrector, data, tmp_path / "run", versus=["tencrop", "larger"])
    again = evaluate(corrector, data, tmp_path / "run", versus=["larger", "tencrop"])
    assert again.rows == first.rows
    assert list(again.rows[0].answers) == ["first look", "flip", "tencrop", "larger"]
    by_name = relook.Corrector(grey, k=2, look="flip")
    assert (
        evaluate(by_name, data, tmp_path / "run", versus=["tencrop", "larger"]).rows == first.rows
    )
    posters = tmp_path / "poster"
    evaluate(relook.Corrector(grey, k=2), data, posters)
    with pytest.raises(RunError, match=r"the answers were called \['first look', 'poster'\] and"):
        evaluate(relook.Corrector(grey, k=2, look=Mask(relook.ScoreCAM())), data, posters)
    assert Evaluation.read(posters).name == "poster"


def test_names_of_rivals_are_told_apart(grey, data):
    corrector = relook.Corrector(grey, k=1, look="flip")
    rivals = {"flip": Flip(), "flip (this run)": Flip()}
    found = evaluate(corrector, read_data(data, grey.labels).sample(4), versus=rivals)
    assert found.name == "flip (this run) (this run)"
    with pytest.raises(RelookError, match="two answers are called 'first look'"):
        evaluate(corrector, data, versus={"first look": Flip()})


def test_every_look_and_attribution_has_a_kind(grey):
    made = [getattr(module, name) for module in (relook.looks, relook.attribution)
            for name in module.__all__]  # fmt: skip
    called = [
        thing for thing in made if dataclasses.is_dataclass(thing) and "__call__" in vars(thing)
    ]
    assert len(called) >= 16
    assert set(called) <= set(KINDS)
    assert len(set(KINDS.values())) == len(KINDS)


def test_a_look_is_spelt_out_as_strict_json():
    spelling = spelt(relook.looks.Zoom(margin=0.5))
    assert json.loads(json.dumps(spelling, allow_nan=False)) == spelling
    assert (spelling["kind"], spelling["margin"]) == ("zoom", 0.5)
    assert (spelling["magnification"], spelling["attribution"]["kind"]) == ("inf", "cam")


def test_a_sample_is_the_same_every_time_and_of_all_classes(grey, data):
    images = read_data(data, grey.labels)
    sample = images.sample(12)
    assert sample == images.sample(12)
    assert len(sample) == 12
    assert len({image.label for image in sample.images}) == 4
    assert list(sample.images) == [image for image in images.images if image in sample.images]
    assert images.sample(1000) == images


def test_halves_share_no_image_and_every_class(grey, data):
    images = read_data(data, grey.labels)
    one, two = images.halves()
    assert set(one.images) | set(two.images) == set(images.images)
    assert not set(one.images) & set(two.images)
    for half in (one, two):
        counts = [sum(image.label == c for image in half.images) for c in range(4)]
        assert counts == [5, 5, 5, 5]
    assert images.halves() == (one, two)


def test_nothing_is_left_behind_in_the_network(grey, data):
    grey.network.train()
    evaluate(relook.Corrector(grey, k=2), data)
    assert grey.network.training
    assert not any(m._forward_hooks for m in grey.network.modules())
    assert all(p.grad is None for p in grey.network.parameters())
    assert sorted(os.listdir(data)) == list("0123")


def test_a_network_that_fails_on_all_images_ends_the_run(grey, data, tmp_path, monkeypatch):
    """What is no image's fault makes no rows; healed, the same call goes on."""

    class Failing(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.fails = inner, False

        def forward(self, x):
            if self.fails:
                raise RuntimeError("device-side assert triggered")
            return self.inner(x)

    monkeypatch.setattr(reader, "_LARGEST", 32)
    network = Failing(grey.network)
    classifier = relook.Classifier(network, mean=(0,) * 3, std=(1,) * 3, input_size=16)
    corrector = relook.Corrector(classifier, k=1, gate=0.0, look="flip")
    came = []

    def fail_after_the_first_batch(rows):
        came.extend(from_table(rows))
        network.fails = len(came) >= 32

    grow(data)
    with pytest.raises(RelookError, match=r"failed on 20 images in a row.*device-side assert"):
        evaluate(corrector, data, tmp_path / "run", on_rows=fail_after_the_first_batch)
    kept = rows_of(tmp_path / "run")
    assert len(kept) == 32
    assert not any(row.error for row in kept)
    network.fails = False
    assert evaluate(corrector, data, tmp_path / "run").summary()["errors"] == 0


def grow(data):
    """60 images more."""
    for index in range(40, 100):
        write_noise(data / str(index % 4) / f"{index}.png", index)
    return data


def test_rivals_of_no_second_look_have_the_gate_one_half(grey, data):
    evaluation = evaluate(relook.Corrector(grey, gate=0.0), data, versus=["flip"])
    assert evaluation.summary()["forwards"] == 40
    assert evaluation.statistics.rivals["flip"].tally.forwards == 80


def test_a_file_without_a_gate_and_one_with_none(grey, data, tmp_path):
    """null: not given, so that the run's own holds; "none": every image."""
    for name, gate in (("open", None), ("always", "none")):
        relook.looks.Preset.of("flip", gate=gate).save(tmp_path / f"{name}.json")
    names = [str(tmp_path / f"{name}.json") for name in ("open", "always")]
    rivals = evaluate(relook.Corrector(grey, gate=0.09), data, versus=names).statistics.rivals
    assert [rivals[name].tally.forwards for name in names] == [60, 80]
    assert relook.Corrector(grey, look=names[1]).gate == EVERY_IMAGE


def test_a_folder_is_one_process_s_at_a_time(grey, data, tmp_path):
    with (
        Run.open(tmp_path / "run", {"k": 1}, lambda _: pyarrow.schema([])),
        pytest.raises(RunError, match="another process is using it"),
    ):
        evaluate(relook.Corrector(grey, k=1), data, tmp_path / "run")
    evaluate(relook.Corrector(grey, k=1), data, tmp_path / "run")


def test_a_run_without_rows_binds_its_folder_to_nothing(grey, data, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RunError), Run.open(run, {"k": 1}, lambda _: pyarrow.schema([])):
        raise RunError("before the first row")
    assert not (run / "run.json").exists()
    evaluate(relook.Corrector(grey, k=2), data, run)


def test_warnings_of_others_are_as_before(grey, data):
    """Pillow's are silenced while images are read, by threads; nobody else's, and not for good."""
    filters = list(warnings.filters)

    def warn(_rows):
        warnings.warn("mine", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="mine"):
        evaluate(relook.Corrector(grey, k=1, gate=0.0), data, on_rows=warn)
    assert warnings.filters == filters


def test_the_callers_gradients_are_on_while_rows_come(grey, data):
    enabled = []
    evaluate(
        relook.Corrector(grey, k=1), data, on_rows=lambda _: enabled.append(torch.is_grad_enabled())
    )
    assert set(enabled) == {True}


def test_one_image_has_no_halves(grey, data):
    with pytest.raises(DataError, match="cannot be split into two halves"):
        read_data(data, grey.labels).sample(1).halves()


def test_the_bar_tells_rate_and_running_accuracy(grey, data):
    evaluation = evaluate(relook.Corrector(grey, k=2), data)
    rows, table = evaluation.rows, evaluation.table
    with evaluation_bar("images", 40, resumed=10) as bar:
        bar(table[:10])
        task = bar._progress.tasks[0]
        assert (task.completed, task.total) == (10, 40)
        right = sum(row.before.best == row.label for row in rows[:10])
        assert task.fields["told"].startswith(f" · top-1 {10 * right:.1f}")  # no rate of old rows
        bar(table[10:11])
        assert task.completed == 11
        assert "images/s" in task.fields["told"]


def odd_folder(root):
    """40 images in four class folders, and beside them one file of each odd kind.

    Returns the names of those that are images: of those that can be read, and of all others.
    """
    for index in range(40):
        file = root / str(index % 4) / f"{index:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_noise(file, index)
    place = root / "0"
    content = (place / "00.png").read_bytes()
    image = Image.open(place / "04.png")
    good = ["new\nline.png", f"{'x' * 250}.png", "🦊.png", "nothing", "wrong.jpg", "a b #%.PNG"]
    for name in good:
        (place / name).write_bytes(content)
    (place / os.fsdecode(b"caf\xe9.png")).write_bytes(content)
    good.append("caf\\xe9.png")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff"
    saved = {
        "a.jfif": {"format": "JPEG"},
        "a.jp2": {},
        "broken-exif.jpg": {"exif": exif},
        "broken-exif.png": {"exif": exif},
        "broken-exif.webp": {"exif": exif},
        "moving.gif": {"save_all": True, "append_images": [image.rotate(90)]},
        "moving.webp": {"save_all": True, "append_images": [image.rotate(90)]},
        "moving.apng": {"format": "PNG", "save_all": True, "append_images": [image.rotate(90)]},
    }
    for name, options in saved.items():
        image.save(place / name, **options)
    image.convert("CMYK").save(place / "print.jpg")
    image.convert("I;16").save(place / "deep.tif")
    (place / "dark.pgm").write_bytes(b"P5\n16 16\n65535\n" + b"\0\xc8" * 256)
    elsewhere = root.with_name("elsewhere")
    elsewhere.mkdir()
    write_noise(elsewhere / "linked.png", 5)
    (place / "link").symlink_to(elsewhere)
    (place / "0.png").mkdir()
    write_noise(place / "0.png" / "inside.png", 6)
    good += [*saved, "print.jpg", "deep.tif", "dark.pgm", "link/linked.png", "0.png/inside.png"]

    bad = ["empty.png", "cut.png", "text.png", "dot.png", "bomb.png", "dangling.png", "self.png"]
    (place / "empty.png").touch()
    (place / "cut.png").write_bytes(content[: len(content) // 2])
    (place / "text.png").write_text("no image")
    Image.new("RGB", (1, 1)).save(place / "dot.png")
    Image.new("1", (300, 300)).save(place / "bomb.png")
    (place / "dangling.png").symlink_to("nowhere.png")
    (place / "self.png").symlink_to("self.png")
    if os.geteuid():  # root may read all
        (place / "locked.png").write_bytes(content)
        (place / "locked.png").chmod(0)
        bad.append("locked.png")

    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (place / folder).mkdir()
        (place / folder / "x.png").write_bytes(content)
    (place / "._00.png").touch()
    (place / "Thumbs.db").touch()
    (place / "loop").symlink_to(place)
    os.mkfifo(place / "pipe.png")
    (root / "loose.png").write_bytes(content)
    return [f"0/{name}" for name in good], [f"0/{name}" for name in bad]


def test_one_file_of_each_odd_kind_costs_no_row(grey, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    root = tmp_path / "data"
    good, bad = odd_folder(root)
    data = read_data(root, grey.labels)
    assert data.left_out == (
        "1 file that Pillow does not open as an image (.db 1), 1 image outside the class folders, "
        "3 images in hidden or system folders (.ipynb_checkpoints, @eaDir, __MACOSX), 1 hidden "
        "file, 1 special file (a pipe or a device), 1 link to a folder that contains it"
    )
    corrector = relook.Corrector(grey, look="flip")
    evaluation = evaluate(corrector, root, tmp_path / "run")
    rows = {row.image: row for row in evaluation.rows}
    regular = [f"{index % 4}/{index:02}.png" for index in range(40)]
    assert sorted(rows) == sorted([*regular, *good, *bad])
    assert sorted(name for name, row in rows.items() if row.error) == sorted(bad)
    [first] = {rows["0/00.png"].before.probabilities}
    for copy in ("0/caf\\xe9.png", "0/new\nline.png", "0/🦊.png", "0/nothing", "0/wrong.jpg"):
        assert rows[copy].before.probabilities == pytest.approx(first, abs=1e-5)
    lossless = rows["0/04.png"].before.probabilities
    for copy in ("0/broken-exif.png", "0/moving.apng"):
        assert rows[copy].before.probabilities == pytest.approx(lossless, abs=1e-5)
    dark = corrector.correct(Image.new("RGB", (16, 16), (1, 1, 1))).before.topk(4).values.tolist()
    assert rows["0/dark.pgm"].before.probabilities == pytest.approx(dark, abs=1e-5)

    found = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["data"]
    assert found["left_out"] == data.left_out
    assert found["matched"] == "in sorted order"
    assert found["pairs"] == "0 → class 0, 1 → class 1, 2 → class 2, 3 → class 3"
    with counting_forwards(grey.network) as count:
        again = evaluate(corrector, root, tmp_path / "run")
    assert count == [0]
    assert again.rows == evaluation.rows


def test_what_lies_beside_the_images_makes_no_other_run_of_it(grey, data, tmp_path):
    corrector = relook.Corrector(grey, look="flip")
    evaluate(corrector, data, tmp_path / "run")
    (data / "0" / "Thumbs.db").touch()
    assert len(evaluate(corrector, data, tmp_path / "run").rows) == 40


def test_the_same_classes_found_in_another_way_make_no_other_run(grey, data, tmp_path):
    corrector = relook.Corrector(grey, look="flip")
    found = read_data(data, grey.labels)
    evaluate(corrector, found, tmp_path / "run")
    said = dataclasses.replace(found, matched="in sorted order (string)")
    with counting_forwards(grey.network) as count:
        assert len(evaluate(corrector, said, tmp_path / "run").rows) == 40
    assert count == [0]
    other = dataclasses.replace(
        found, images=tuple(dataclasses.replace(i, label=1 - i.label) for i in found.images)
    )
    with pytest.raises(RunError, match=r"data\.content was"):
        evaluate(corrector, other, tmp_path / "run")


def test_a_folder_whose_name_is_no_utf8_holds_a_run(grey, data, tmp_path):
    root = data.rename(tmp_path / os.fsdecode(b"d\xe9ta"))
    run = tmp_path / os.fsdecode(b"r\xfcn")
    corrector = relook.Corrector(grey, look="flip")
    first = evaluate(corrector, root, run)
    assert len(first.rows) == 40
    assert evaluate(corrector, root, run).rows == first.rows


def test_images_in_a_table_are_answered_as_those_in_files(grey, data, tmp_path):
    files = sorted(data.rglob("*.png"))
    labels = [int(file.parent.name) for file in files]
    table = pyarrow.table({"image": [file.read_bytes() for file in files], "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    corrector = relook.Corrector(grey, k=2)
    inside = evaluate(corrector, tmp_path / "t.parquet", tmp_path / "run")
    assert inside.rows[0].image == "row 1"
    outside = {row.image: row for row in evaluate(corrector, data).rows}
    for file, row in zip(files, inside.rows, strict=True):
        other = outside[file.relative_to(data).as_posix()]
        assert row.label == other.label
        assert row.after.probabilities == pytest.approx(other.after.probabilities, abs=1e-5)


def test_what_a_look_does_without_is_in_the_rows_and_survives_a_resume(data, tmp_path, grey):
    """A network that sees the whole of small images has nothing more to be shown."""
    corrector = relook.Corrector(grey, look="whole")
    for _ in range(2):
        found = relook.evaluate(corrector, data, tmp_path / "run", versus=["flip", "larger"])
        counted = found.statistics
        seen = "without a larger part, since the first look showed all that fits the input's shape"
        assert counted.after.notes == {seen: 40}
        assert counted.rivals["flip"].notes == {}
        few = "without the larger input, since the image has too few pixels"
        assert counted.rivals["larger"].notes == {few: 40}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["methods"]["larger"]["notes"] == {few: 40}
