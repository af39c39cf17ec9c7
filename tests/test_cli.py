"""The command line as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from relook.attribution import VARIANTS
from relook.cli import app
from relook.fills import FILLS
from relook.looks import LOOKS

HALVES = ["--model", "networks:make_halves"]
HERE = Path(__file__).parent


def relook(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def relook_process(*arguments, **environment):
    """The installed command in a process of its own, from the folder of the tests."""
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
        (lambda f: f.mkdir(), "is a folder"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet"], "model 'resnet' is unknown"),
        (["--model", "networks:make_module"], "must return relook.Classifier"),
        ([*HALVES, "--checkpoint", "nowhere.pth"], "nowhere.pth: no such checkpoint"),
        ([*HALVES, "--layer", "actt"], "layer 'actt' is not in the network; closest: 'act'"),
        ([*HALVES, "--layer", "pool"], "'pool' gives 3×1×1"),
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
        ([*HALVES, "--attribution", "cam", "--variant", "paper"], "CAM has none"),
        ([*HALVES, "--budget", "0"], "budget must be a number of forwards from 1 on"),
        ([*HALVES, "--budget", "few"], "Invalid value for '--budget'"),
        ([*HALVES, "--fast", "--budget", "8"], "drop it or --budget 8"),
        ([*HALVES, "--look", "flip", "--fast"], "the look 'flip' has no budget"),
        ([*HALVES, "--attribution", "cam", "--budget", "8"], "CAM needs no forward"),
        ([*HALVES, "--device", "gpu"], "device 'gpu' cannot be used here"),
        ([*HALVES, "--dtype", "int8"], "dtype 'int8' is unknown"),
        ([*HALVES, "--output", __file__], "--output names a folder"),
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
    assert result.stderr == "networks:make_halves: target layer act, k = 2, on cpu\n"


def test_a_pipe_gets_no_progress_bar_and_no_colour(photo):
    result = relook_process("predict", photo, *HALVES)
    assert "\x1b" not in result.stdout + result.stderr


def test_version_and_no_arguments():
    assert relook_process("--version").stdout.startswith("relook 0.")
    nothing = relook_process()
    assert nothing.returncode == 2
    assert "Usage" in nothing.stdout + nothing.stderr
