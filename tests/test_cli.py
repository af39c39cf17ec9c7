"""The command line as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from networks import write_noise
from relook.attribution import VARIANTS
from relook.cli import app
from relook.fills import FILLS
from relook.looks import LOOKS

HALVES = ["--model", "networks:make_halves"]
HERE = Path(__file__).parent


def relook(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def relook_process(*arguments, **environment):
    """Run the installed command in a process of its own, in the folder of the tests."""
    command = [str(Path(sys.executable).with_name("relook")), *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, **environment},
        check=False,
    )


def test_predict_prints_a_table(photo):
    result = relook("predict", photo, *HALVES)
    assert result.exit_code == 0
    for text in ("photo.png", "class", "before", "after", "red", "green", "forward"):
        assert text in result.stdout
    assert "target layer act" in result.stderr  # the choice is shown
    assert result.stderr.count("There is --look best too") == 1
    for chosen in (["--look", "poster"], ["--look", "quick"], ["--json"]):
        assert "--look best" not in relook("predict", photo, *HALVES, *chosen).stderr


@pytest.mark.parametrize("name", LOOKS)
def test_every_look_answers_for_a_photo(photo, name):
    result = relook("predict", photo, "--model", "networks:make_grey", "--look", name, "--json")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)
    assert sum(entry["probability"] for entry in row["after"]) == pytest.approx(1, abs=1e-5)
    assert row["corrected"] is True
    # The network sees the whole image, so there are no other views.
    sees_all = name in ("whole", "larger", "uncropped", "ends", "closer")
    assert row["cost"] >= row["forwards"] >= 1 + (not sees_all)


def test_predict_on_chelsea_counts_its_forwards(chelsea):
    result = relook("predict", chelsea, "--json")
    assert result.exit_code == 0
    row = json.loads(result.stdout)
    assert row["forwards"] == 1 + 453 + 5
    assert row["cost"] == 459.0
    assert row["k"] == 5
    assert row["corrected"] is True
    assert [entry["label"] for entry in row["before"]][:2] == ["tiger cat", "Egyptian cat"]
    assert row["after"][0]["label"] == "Egyptian cat"
    assert row["after"][0]["class"] == 285
    assert row["image"] == str(chelsea)
    assert row["model"] == "bundled/efficientnet_lite0"
    assert len(row["before"]) == len(row["after"]) == 5


@pytest.mark.slow
def test_vgg16_with_weights_of_ones_own(tmp_path, photo):
    """Loads, finds its last activation, runs. All but four filters of its last convolution are
    silenced, so that Score-CAM has four live channels to try and not 512."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    network = vgg16(weights=None)
    with torch.no_grad():
        network.features[28].weight[4:] = 0
        network.features[28].bias[4:] = -1
    torch.save(network.state_dict(), tmp_path / "vgg16.pth")
    del network
    result = relook(
        "predict", photo, "--model", "torchvision/vgg16", "--checkpoint", tmp_path / "vgg16.pth",
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "target layer features.29" in result.stderr
    assert json.loads(result.stdout)["forwards"] <= 1 + 4 + 5


def test_json_is_one_object_a_line_in_the_order_given(tmp_path, photo):
    (tmp_path / "broken.jpg").write_text("no image")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    files = [photo, tmp_path / "broken.jpg", tmp_path / "red.png", tmp_path / "absent.png"]
    result = relook("predict", *files, *HALVES, "--json")
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(file) for file in files]
    assert [("error" in row) for row in rows] == [False, True, False, True]
    assert set(rows[1]) == {"image", "error"}
    assert set(rows[0]) == {
        "image", "model", "k", "corrected", "before", "after", "forwards", "cost", "seconds"
    }  # fmt: skip
    assert len(rows[0]["before"]) == 2  # min(5, classes)
    assert "broken.jpg: not an image" in result.stderr
    assert "absent.png: no such file" in result.stderr
    assert "2 of 4 images could not be used" in result.stderr


def test_one_bad_file_among_many_loses_nothing(tmp_path, photo):
    (tmp_path / "empty.jpg").touch()
    result = relook(
        "predict", photo, tmp_path / "empty.jpg", photo, *HALVES, "--output", tmp_path / "out"
    )
    assert result.exit_code == 1
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "photo-2.relook.png",
        "photo.relook.png",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "no such file"),
        (lambda f: f.touch(), "is empty"),
        (lambda f: f.write_text("text"), "not an image"),
        (lambda f: Image.new("RGB", (1, 1)).save(f, "png"), "1×1"),
    ],
)
def test_bad_images_get_one_line(tmp_path, make, message):
    file = tmp_path / "bad.jpg"
    make(file)
    result = relook("predict", file, *HALVES)
    assert result.exit_code == 1
    [line] = [line for line in result.stderr.splitlines() if message in line]
    assert str(file) in line
    assert "Traceback" not in result.output


def test_a_folder_without_images_is_an_error_of_usage(tmp_path):
    result = relook("predict", tmp_path, *HALVES)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.output


def test_images_none_of_which_is_there_load_no_network(tmp_path, photo):
    """The network is not loaded; it is as soon as one of the images exists."""
    absent = [tmp_path / "no.png", tmp_path / ("long" * 100)]
    result = relook("predict", *absent, "--model", "networks:no_such_network", "--json")
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(file) for file in absent]
    assert "no.png: no such file" in rows[0]["error"]
    assert "no_such_network" not in result.stderr
    some = relook("predict", *absent, photo, "--model", "networks:no_such_network")
    assert some.exit_code == 2
    assert "no_such_network" in some.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet"], "model 'resnet' is unknown"),
        (["--model", "networks:make_module"], "must return relook.Classifier"),
        ([*HALVES, "--checkpoint", "nowhere.pth"], "nowhere.pth: no such checkpoint"),
        ([*HALVES, "--layer", "actt"], "layer 'actt' is not in the network; closest: 'act'"),
        ([*HALVES, "--layer", "pool"], "'pool' returns 3×1×1"),
        ([*HALVES, "-k", "0"], "k must be 1 to 2"),
        ([*HALVES, "-k", "3"], "k must be 1 to 2"),
        ([*HALVES, "--gate", "2"], "--gate takes a number from 0 to 1, or none; not '2'"),
        ([*HALVES, "--gate", "low"], "--gate takes a number from 0 to 1, or none"),
        ([*HALVES, "--look", "blink"], "look 'blink' is unknown"),
        ([*HALVES, "--look", "flip", "--fill", "mean"], "the look 'flip' has no fill"),
        ([*HALVES, "--fill", "white"], "fill 'white' is unknown"),
        ([*HALVES, "--attribution", "lime"], "attribution 'lime' is unknown"),
        ([*HALVES, "--variant", "fast"], "variant 'fast' is unknown"),
        ([*HALVES, "--variant", "torchcam", "--fill", "black"], "drop fill 'black'"),
        ([*HALVES, "--attribution", "cam", "--variant", "paper"], "CAM has no variants"),
        ([*HALVES, "--budget", "0"], "budget must be at least 1 forward pass"),
        ([*HALVES, "--budget", "few"], "Invalid value for '--budget'"),
        ([*HALVES, "--fast", "--budget", "8"], "give either --fast or --budget 8"),
        ([*HALVES, "--look", "flip", "--fast"], "the look 'flip' has no budget"),
        ([*HALVES, "--attribution", "cam", "--budget", "8"], "CAM needs no forward"),
        ([*HALVES, "--device", "gpu"], "device 'gpu' cannot be used here"),
        ([*HALVES, "--dtype", "int8"], "dtype 'int8' is unknown"),
        ([*HALVES, "--output", __file__], "pass a folder as --output"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_usage_is_status_2_and_one_line(photo, arguments, message):
    result = relook("predict", photo, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not result.stdout


def test_nan_is_that_images_error_alone(tmp_path, photo):
    Image.new("RGB", (4, 4), (0, 0, 255)).save(tmp_path / "blue.png")
    result = relook(
        "predict", tmp_path / "blue.png", photo, "--model", "networks:make_nan", "--json"
    )
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert "NaN" in rows[0]["error"]
    assert "before" in rows[1]


def test_gate_none_is_the_default_and_a_gate_holds_back(chelsea):
    args = ["predict", chelsea, "--json", "--attribution", "cam"]
    rows = [json.loads(relook(*args, *more).stdout) for more in ([], ["--gate", "0.2"])]
    assert [row["forwards"] for row in rows] == [6, 1]
    assert [row["corrected"] for row in rows] == [True, False]
    assert rows[1]["before"] == rows[1]["after"]


def test_options_reach_the_look(photo):
    args = ["predict", photo, *HALVES, "--json"]
    assert json.loads(relook(*args, "--look", "flip").stdout)["forwards"] == 2
    assert json.loads(relook(*args, "-k", "1").stdout)["k"] == 1
    before = json.loads(relook(*args).stdout)
    other = json.loads(relook(*args, "--layer", "conv", "--dtype", "float64").stdout)
    assert other["before"][0]["probability"] == pytest.approx(
        before["before"][0]["probability"], abs=1e-6
    )


@pytest.mark.parametrize("attribution", ["scorecam", "cam"])
def test_fill_reaches_the_mask_images(photo, attribution):
    args = ["predict", photo, "--model", "networks:make_grey", "--json"]
    args += ["--attribution", attribution]
    afters = [
        json.loads(relook(*args, "--fill", fill).stdout)["after"][0]["probability"]
        for fill in ("black", "mean", "blur")
    ]
    assert len({round(after, 5) for after in afters}) == 3


def test_the_budget_is_kept(chelsea):
    """453 channels are live on chelsea; five mask images follow."""
    for option, masked in (["--budget", "20"], 20), (["--fast"], 64):
        row = json.loads(relook("predict", chelsea, "--json", *option).stdout)
        assert row["forwards"] == 1 + masked + 5
        assert row["after"][0]["label"] == "Egyptian cat"


def test_variant_reaches_score_cam(photo):
    args = ["predict", photo, "--model", "networks:make_grey", "--json", "--variant"]
    afters = [json.loads(relook(*args, v).stdout)["after"][0]["probability"] for v in VARIANTS]
    assert len({round(after, 6) for after in afters}) > 2


def test_pictures(tmp_path, chelsea):
    result = relook(
        "predict", chelsea, "--attribution", "cam", "--output", tmp_path / "deep" / "out"
    )
    assert result.exit_code == 0
    with Image.open(tmp_path / "deep" / "out" / "chelsea.relook.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").resize((60, 40)).getcolors(2400)) > 200


def test_output_beside_the_images_leaves_them_alone(photo):
    before = photo.read_bytes()
    assert relook("predict", photo, *HALVES, "--output", photo.parent).exit_code == 0
    assert photo.read_bytes() == before
    assert photo.with_name("photo.relook.png").exists()


@pytest.mark.parametrize("size", [(3000, 1), (2, 5000), (20_000, 20)])
def test_very_wide_and_very_tall_images(tmp_path, size):
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "strip.png")
    result = relook("predict", tmp_path / "strip.png", *HALVES, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr


def test_help_names_every_choice():
    text = " ".join(relook_process("predict", "--help", COLUMNS="200").stdout.split())
    for choice in (*LOOKS, *FILLS, *VARIANTS, "scorecam", "cam", "Example:"):
        assert choice in text


def test_the_installed_command(photo):
    result = relook_process("predict", photo, *HALVES, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["before"][0]["label"] in ("red", "green")
    assert result.stderr == (
        "networks:make_halves: target layer act (3×2×2), k = 2, no gate, input 4×4 with values "
        "from 0 to 1, on cpu\n"
    )


def test_a_pipe_gets_no_progress_bar_and_no_colour(photo):
    result = relook_process("predict", photo, *HALVES)
    assert "\x1b" not in result.stdout + result.stderr


def test_version_and_no_arguments():
    assert relook_process("--version").stdout.startswith("relook 0.")
    nothing = relook_process()
    assert nothing.returncode == 2
    assert "Usage" in nothing.stdout + nothing.stderr


TORN = ["--model", "networks:make_torn"]


def test_evaluate_prints_the_tables_and_writes_the_run(data, tmp_path):
    run = tmp_path / "run"
    result = relook("evaluate", data, "--output", run, *TORN, "--versus", "flip, tencrop")
    assert result.exit_code == 0, result.stderr
    for text in ("40 images", "before", "after: poster", "flip", "tencrop", "ambiguous", "fixed",
                 "broken", "McNemar", "Too few images to tell"):  # fmt: skip
        assert text in result.stdout
    assert "labels matched in sorted order: 0 → class 0, 1 → class 1, 2 → class 2" in result.stderr
    assert "target layer" in result.stderr
    assert sorted(file.name for file in run.glob("[!.]*")) == [
        "gallery", "report.html", "rows", "run.json", "summary.json"
    ]  # fmt: skip


def test_what_the_names_were_taken_for_is_said_everywhere(tmp_path):
    """And --class-order decides where the order of the names is not clear."""
    for number, name in enumerate(("a2", "a10", "b", "c")):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_noise(tmp_path / "data" / name / "x.png", number)
    (tmp_path / "data" / "b" / "notes.txt").touch()
    refused = relook("evaluate", tmp_path / "data", "--output", tmp_path / "run", *TORN)
    assert refused.exit_code == 2
    assert "As strings they are a10, a2, b, c; by the numbers in them a2, a10" in refused.stderr
    arguments = ("--output", tmp_path / "run", *TORN, "--class-order", "natural")
    result = relook("evaluate", tmp_path / "data", *arguments)
    assert result.exit_code == 0, result.stderr
    pairs = "a2 → class 0, a10 → class 1, b → class 2, c → class 3"
    assert f"4 images, labels matched in sorted order (natural): {pairs}" in result.stderr
    left = "1 file that Pillow does not open as an image (.txt 1)"
    assert f"left out: {left}" in result.stderr
    found = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["data"]
    assert (found["pairs"], found["left_out"]) == (pairs, left)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"matched to the model's classes in sorted order (natural): {pairs}." in page
    assert f"Left out: {left}." in page


def test_names_that_are_no_utf8_reach_rows_json_and_pictures(data, tmp_path):
    odd = data / "0" / os.fsdecode(b"caf\xe9.png")
    (data / "0" / "00.png").rename(odd)
    run = tmp_path / "run"
    result = relook("evaluate", data, "--output", run, *TORN, "--look", "flip")
    assert result.exit_code == 0, result.stderr
    names = pyarrow.parquet.read_table(run / "rows")["image"].to_pylist()
    assert "0/caf\\xe9.png" in names
    assert len(names) == 40
    assert (run / "report.html").exists()
    (data / "1" / os.fsdecode(b"\xff.png")).touch()
    files = (odd, data / "1" / os.fsdecode(b"\xff.png"), data / "1" / "01.png")
    result = relook("predict", *files, *TORN, "--json", "--output", tmp_path / "pictures")
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["caf\\xe9.png", "\\xff.png", "01.png"]
    assert rows[1]["error"].endswith("\\xff.png: the file is empty; copy or export it again")
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_the_last_line_of_evaluate_json(data, tmp_path):
    arguments = ["evaluate", data, "--output", tmp_path / "run", *TORN, "--gate", "none", "--json"]
    result = relook(*arguments)
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert list(summary) == [
        "images", "errors", "classes", "before", "after", "ambiguous", "calibration", "selective",
        "forwards", "cost", "seconds"
    ]  # fmt: skip
    assert (summary["images"], summary["errors"], summary["classes"]) == (40, 0, 4)
    assert set(summary["before"]) == set(summary["after"]) == {"top1", "top5"}
    ambiguous = summary["ambiguous"]
    assert list(ambiguous) == [
        "images", "before", "after", "both_right", "fixed", "broken", "both_wrong", "p_value"
    ]  # fmt: skip
    # Whatever the gate, ambiguous means gap(1,5) < 0.5; this network is never surer.
    assert ambiguous["images"] == 40
    assert ambiguous["before"] == (ambiguous["both_right"] + ambiguous["broken"]) / 40
    assert ambiguous["after"] == (ambiguous["both_right"] + ambiguous["fixed"]) / 40
    assert summary["before"]["top1"] == ambiguous["before"]
    assert summary["before"]["top5"] == 1
    for when in ("before", "after"):
        assert list(summary["calibration"][when]) == ["ece", "ece_equal_mass", "nll", "brier"]
        assert 0 < summary["selective"][when]["aurc"] < 1
    again = relook(*arguments)
    assert (
        json.loads(again.stdout.splitlines()[-1]) == summary
    )  # also the seconds, which are summed over the rows


def test_evaluate_with_damaged_images_is_status_1_and_loses_nothing(data, tmp_path):
    for index in (3, 8, 21):
        (data / str(index % 4) / f"{index:02}.png").write_bytes(b"no image")
    result = relook("evaluate", data, "--output", tmp_path / "run", *TORN, "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert (summary["images"], summary["errors"]) == (37, 3)
    assert "3 of 40 images could not be used" in result.stderr
    assert "08.png: not an image" in result.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "3 images could not be used" in page
    assert "21.png" in page


def test_evaluate_where_no_image_can_be_used(tmp_path):
    for name in "0123":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").touch()
    result = relook("evaluate", tmp_path / "data", "--output", tmp_path / "run", *TORN, "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert summary["before"] == {"top1": None, "top5": None}
    assert summary["ambiguous"]["p_value"] is None
    result = relook("evaluate", tmp_path / "data", "--output", tmp_path / "run", *TORN)
    assert "Nothing to judge: no image could be classified" in result.stdout


def test_evaluate_refuses_another_run_with_the_difference(data, tmp_path):
    run = tmp_path / "run"
    assert relook("evaluate", data, "--output", run, *TORN).exit_code == 0
    result = relook("evaluate", data, "--output", run, *TORN, "-k", 2, "--limit", 7)
    assert result.exit_code == 2
    assert "k was 4 and is 2 now" in result.stderr
    assert "data.images was 40 and is 7 now" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "no such folder or table"),
        (["{data}", "--gate", "2"], "--gate takes a number"),
        (["{data}", "--versus", "flip,flop"], "look 'flop' is unknown"),
        (["{data}", "--look", "absent.json"], "look 'absent.json' is unknown"),
        (["{data}", "--limit", "0"], "greater than or equal to 1"),
        (["{data}", "-k", "9"], "k must be 1 to 4"),
        (["{data}", "--look", "flip", "--fill", "mean"], "no fill"),
        (["{data}", "--exact"], "--exact goes with --tune"),
        (["{data}/0"], "no folders"),
    ],
)
def test_bad_usage_of_evaluate_is_status_2(data, tmp_path, arguments, message):
    arguments = [argument.format(data=data) for argument in arguments]
    result = relook("evaluate", *arguments, "--output", tmp_path / "run", *TORN)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_the_default_gate_of_evaluate_is_one_half(data, tmp_path):
    relook("evaluate", data, "--output", tmp_path / "run", *TORN)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["gate"] == 0.5


def test_tune_learns_saves_and_measures_on_the_other_half(data, tmp_path, photo, caplog):
    run = tmp_path / "run"
    arguments = ["evaluate", data, "--output", run, *TORN, "--tune", "--risk", "0.9", "--json"]
    result = relook(*arguments)
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["images"] == 20
    assert summary["abstain"]["risk"] == 0.9
    assert set(summary["calibration"]["after"]) == {"ece", "ece_equal_mass", "nll", "brier"}
    assert "ways on 20 images: " in result.stderr
    assert "to tune: 20 images, of which about " in result.stderr
    ways = json.loads((run / "tuning" / "run.json").read_text())["ways"]
    assert {way.partition(" ")[0] for way in ways} == {
        *("around", "closer", "whole", "uncropped", "flip", "larger")
    }
    tuned = json.loads((run / "tuned.json").read_text())
    settings = json.loads((run / "run.json").read_text())
    assert settings["gate"] == tuned["gate"] == tuned["learnt"]["gate"]
    assert tuned["learnt"]["made_on"]["images"] == 20
    assert settings["answers"]["others"][0] == "first look, calibrated"
    assert "How it was chosen" in (run / "report.html").read_text()
    assert relook(*arguments).stdout == result.stdout
    # predict and evaluate accept the file, with its k and gate; another gate overrides it.
    took = relook("predict", photo, *TORN, "--look", run / "tuned.json", "--json")
    found = json.loads(took.stdout)
    assert found["k"] == max(part["k"] for part in tuned["learnt"]["parts"])
    assert found["abstained"] in (True, False)
    took = relook("predict", photo, *TORN, "--look", run / "tuned.json", "--gate", "none", "--json")
    assert json.loads(took.stdout)["corrected"] is True
    assert "abstained" not in json.loads(took.stdout)
    assert "the promise on wrong answers does not hold" in caplog.text
    other = tmp_path / "other"
    relook("evaluate", data, "--output", other, *TORN, "--look", run / "tuned.json")
    settings = json.loads((other / "run.json").read_text())
    assert settings["gate"] == tuned["gate"]
    assert settings["learnt"] == tuned["learnt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--risk", "0.05"], "--risk goes with --tune"),
        (["--max-cost", "2"], "--max-cost goes with --tune"),
        (["--tune", "--risk", "5"], "--risk is a share of wrong answers above 0 and below 1"),
        (["--tune", "--exact"], "--exact with --tune needs the look"),
        (["--tune", "--fast"], "--fast with --tune needs the look"),
        (["--tune", "--fill", "mean"], "--fill with --tune needs the look that it belongs to"),
    ],
)
def test_options_of_tuning_that_do_not_fit_are_refused(data, tmp_path, options, said):
    result = relook("evaluate", data, "--output", tmp_path / "run", *TORN, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_tuned_look_is_for_its_network(data, tmp_path, photo, caplog):
    run = tmp_path / "run"
    relook("evaluate", data, "--output", run, *TORN, "--tune")
    file = run / "tuned.json"
    other = relook("predict", photo, "--model", "networks:make_grey", "--look", file)
    assert other.exit_code == 0
    assert "was tuned for another network (networks:make_torn)" in caplog.text
    refused = relook("predict", photo, "--model", "networks:make_halves", "--look", file)
    assert refused.exit_code == 2
    assert "whose classes are not those of networks:make_halves" in refused.stderr
    fixed = relook("predict", photo, *TORN, "--look", file, "-k", "2")
    assert fixed.exit_code == 2
    assert "what was learnt holds for its own k" in fixed.stderr
    damaged = json.loads(file.read_text())
    del damaged["learnt"]["parts"][0]["weight"]
    file.write_text(json.dumps(damaged))
    refused = relook("predict", photo, *TORN, "--look", file)
    assert refused.exit_code == 2
    assert "what was learnt is incomplete or damaged" in refused.stderr


def test_evaluate_in_a_pipe_is_quiet(data, tmp_path):
    result = relook_process("evaluate", data, "--output", tmp_path / "run", *TORN, "--json")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert len(result.stderr.splitlines()) == 3  # the model, the data, the report


@pytest.fixture
def graph(tmp_path):
    """HalvesNet as an ONNX file, with nothing beside it."""
    import relook
    from networks import HalvesNet

    classifier = relook.Classifier(HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4)
    relook.export(classifier, tmp_path / "net.onnx").unlink()
    return tmp_path / "net.onnx"


SAID = ["--mean", "0,0,0", "--std", "1,1,1"]


def test_what_an_onnx_file_does_not_say_is_said_by_arguments(graph, photo, tmp_path):
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    labels = ["--labels", tmp_path / "names.txt"]
    result = relook("predict", photo, "--model", graph, *SAID, *labels, "--json")
    assert result.exit_code == 0, result.stderr
    [line] = [json.loads(line) for line in result.stdout.splitlines()]
    own = relook("predict", photo, *HALVES, "--json")
    [expected] = [json.loads(line) for line in own.stdout.splitlines()]
    assert [entry["label"] for entry in line["after"]] == ["red", "green"]
    for found, wanted in zip(line["after"], expected["after"], strict=True):
        assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-5)
    assert f"{graph}: target layer /act/Relu (3×2×2), k = 2" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing mean (--mean, mean=), std (--std, std=)"),
        (
            ["--mean", "0,0", "--std", "1,1,1"],
            "--mean takes numbers as in 0.5,0.5,0.5; not '0,0'",
        ),
        (
            [*SAID, "--input-size", "big"],
            "--input-size takes numbers as in 224; not 'bigxbig'",
        ),
        ([*SAID, "--input-size", "8"], "takes inputs of 4×4 only, not of 8×8"),
        ([*SAID, "--layout", "HWC"], "'HWC' is not one of"),
        ([*SAID, "--token-grid", "0x4"], "--token-grid takes numbers as in 14x14; not '0x4'"),
        ([*SAID, "--labels", "no.txt"], "no.txt: no such file of labels"),
        ([*SAID, "--labels", __file__], "has 2 classes, but"),
        ([*SAID, "--layer", "/act/Rel"], "by default relook uses '/act/Relu'"),
        ([*SAID, "--dtype", "float16"], "an ONNX file has its own weights; drop dtype"),
    ],
)
def test_what_is_said_wrongly_of_an_onnx_file(graph, photo, arguments, message):
    result = relook("predict", photo, "--model", graph, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_export_says_what_it_wrote_and_what_it_found(tmp_path, photo):
    result = relook("export", "networks:make_halves", tmp_path / "net.onnx")
    assert result.exit_code == 0, result.stderr
    assert "networks:make_halves: input 4×4, target layer act" in result.stderr
    assert f"written: {tmp_path / 'net.onnx'} and {tmp_path / 'net.json'}" in result.stderr
    answer = relook("predict", photo, "--model", tmp_path / "net.onnx", "--json")
    assert '"label": "red"' in answer.stdout


@pytest.mark.parametrize(
    ("model", "file", "status", "message"),
    [
        ("nothing", "net.onnx", 2, "model 'nothing' is unknown"),
        ("networks:make_halves", "net.pt", 2, "name a file that ends in .onnx"),
        ("networks:make_halves", "no/net.onnx", 1, "cannot be written"),
    ],
)
def test_exports_that_cannot_be(tmp_path, model, file, status, message):
    result = relook("export", model, tmp_path / file)
    assert result.exit_code == status
    assert message in result.stderr


def test_a_second_network_is_loaded_once_and_said(data, tmp_path, photo):
    import networks

    networks.made.clear()
    look = "network:networks:make_turned"
    result = relook("predict", photo, *HALVES, "--look", look, "--json", "--gate", "none")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["cost"] == pytest.approx(1 + 582 / 150)
    assert (
        "second network networks:make_turned: input 8×8, on cpu; a forward pass costs 3.88 of "
        "networks:make_halves's, by their multiply-adds" in result.stderr
    )
    assert networks.made == ["turned"]


def write_red_and_green(data):
    for index in range(12):
        folder = data / ("red", "green")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_noise(folder / f"{index}.png", index)


def test_a_second_network_is_loaded_once_for_all_rivals(tmp_path):
    import networks

    write_red_and_green(tmp_path / "data")
    networks.made.clear()
    look = "network:networks:make_turned"
    result = relook(
        "evaluate", tmp_path / "data", "--output", tmp_path / "run", *HALVES, "--look", "flip",
        "--versus", f"{look},{look}+flip",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert networks.made == ["turned"]
    assert result.stderr.count("second network networks:make_turned") == 1
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["versus"][look]["networks"]["2"]["input_size"] == [8, 8]


def test_gates_of_a_second_network_are_tuned_and_it_is_loaded_once(tmp_path):
    import networks

    write_red_and_green(tmp_path / "data")
    networks.made.clear()
    look = "network:networks:make_turned"
    run = tmp_path / "run"
    result = relook(
        "evaluate", tmp_path / "data", "--output", run, *HALVES, "--tune", "--look", look
    )
    assert result.exit_code == 0, result.stderr
    assert networks.made == ["turned"]
    assert json.loads((run / "tuned.json").read_text())["look"] == look
    for settings in (run / "tuning" / "run.json", run / "run.json"):
        [second] = json.loads(settings.read_text())["networks"].values()
        assert second["name"] == "networks:make_turned"


@pytest.mark.parametrize(
    ("look", "message"),
    [
        ("network:nothing", "look 'network:nothing': model 'nothing' is unknown"),
        ("network:networks:make_grey", "does not have the classes of networks:make_halves"),
    ],
)
def test_second_networks_that_cannot_be_asked(photo, look, message):
    result = relook("predict", photo, *HALVES, "--look", look)
    assert result.exit_code == 2
    assert message in result.stderr
