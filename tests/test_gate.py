"""Gates: which gap each goes by, where it comes from, and the one that a share of images passes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import relook
from networks import counting_forwards, make_colours
from relook.cli import app
from relook.cli.story import print_story
from relook.correction import AMBIGUOUS, gap
from relook.evaluation import (
    DataError,
    GateOfShare,
    Pairing,
    RunError,
    evaluate,
    gate_of_share,
    read_data,
    tune,
)
from relook.gate import EVERY_IMAGE, NO_IMAGE, Gate
from relook.looks import Preset, presets
from relook.report.findings import find
from relook.report.story import tell
from relook.runs.forecast import forecast
from test_findings import statistics

COLOURS = ["--model", "networks:make_colours", "--look", "flip"]


def plain(*colour):
    return np.full((4, 4, 3), colour, np.uint8)


@pytest.fixture
def colours():
    return make_colours()


@pytest.fixture
def torn():
    """Y = (0.5, 0.3, 0.2): gap(1,5) is 0.3, that to the last of three classes; gap(1,2) is 0.2."""
    return plain(100, 60, 40)


@pytest.fixture
def folder(tmp_path):
    """Ten images with gap(1,2) of 0.055, 0.105, ... 0.505 and gap(1,3) of 0.37, 0.395, ... 0.595."""
    root = tmp_path / "data"
    for i in range(1, 11):
        file = root / ("red", "green", "blue")[i % 3] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plain(90 + 5 * i, 89 - 5 * i, 21)).save(file)
    return root


@pytest.fixture
def flip_has_a_gate(monkeypatch):
    """The look flip brings a gate: what a look's own gate does must not hang on today's values."""
    monkeypatch.setitem(presets._GATES, "flip", Gate(0.25, 2))


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("gate", "forwards"),
    [
        (0.25, 1),
        (0.35, 2),
        ("gap2:0.15", 1),
        ("gap2:0.25", 2),
        (Gate(0.25, 2), 2),
        ("gap2:0", 1),
        ("gap2:1", 2),
        ("none", 2),
    ],
)
def test_a_gate_goes_by_the_gap_that_it_names(colours, torn, gate, forwards):
    corrector = relook.Corrector(colours, gate=gate, look="flip")
    with counting_forwards(colours.network) as count:
        correction = corrector.correct(torn)
    assert correction.forwards == forwards
    assert correction.corrected == (forwards == 2)
    assert count == [forwards]


def test_the_lead_over_the_second_class_is_the_same_for_any_number_of_classes():
    few = torch.tensor([0.5, 0.3, 0.2])
    many = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.02])
    lead = Gate.of("gap2:0.25")
    assert [lead.gap(p) for p in (few, many)] == pytest.approx([0.2, 0.2])
    assert [Gate.of(0.25).gap(p) for p in (few, many)] == pytest.approx([0.3, 0.47])
    assert float(gap(many)) == pytest.approx(0.47)
    assert AMBIGUOUS == 0.5


@pytest.mark.parametrize(
    ("value", "setting", "words"),
    [
        (0.5, 0.5, "gap(1,5) below 0.5"),
        (np.float32(0.25), 0.25, "gap(1,5) below 0.25"),
        (1, 1.0, "gap(1,5) below 1.0"),
        ("gap2:0.6", "gap2:0.6", "gap(1,2) below 0.6"),
        ("gap2:1", "gap2:1.0", "gap(1,2) below 1.0"),
        ("gap2:0", 0.0, "gap(1,2) below 0.0"),
        ("none", "none", "any gap"),
        (EVERY_IMAGE, "none", "any gap"),
        (Gate(0.6, 2), "gap2:0.6", "gap(1,2) below 0.6"),
    ],
)
def test_a_gate_s_setting_makes_the_same_gate(colours, value, setting, words):
    gate = Gate.of(value)
    assert str(gate) == words
    assert gate.setting == setting
    assert type(gate.setting) is type(setting)
    assert Gate.of(gate.setting).setting == setting
    assert relook.Corrector(colours, gate=value, look="flip").gate == gate


@pytest.mark.parametrize(
    "value",
    [
        *("gap2:1.5", "gap2:-0.1", "gap2:", "gap2:nan", "gap2:inf", "gap3:0.5", "0.5", "low"),
        *(True, 1.5, float("inf"), float("nan")),
    ],
)
def test_what_is_no_gate_is_said(colours, value):
    with pytest.raises(
        relook.RelookError, match=r"gate must be a gap from 0 to 1, or none; not .*gap2:0\.6 is"
    ):
        Gate.of(value)
    with pytest.raises(relook.RelookError, match="gate must be a gap from 0 to 1, or none; not"):
        relook.Corrector(colours, gate=value)


def test_a_gate_is_by_the_second_or_the_fifth_class():
    with pytest.raises(relook.RelookError, match=r"not gap\(1,3\)"):
        Gate(0.5, 3)
    with pytest.raises(relook.RelookError, match=r"not 'gap2:1.5'"):
        Gate(1.5, 2)


def test_one_image_has_no_rank(colours):
    for make in (lambda: relook.Corrector(colours, gate="20%"), lambda: Gate.of("20%")):
        with pytest.raises(relook.RelookError, match="relook evaluate DATA --gate 20%"):
            make()


def test_what_is_given_goes_before_a_file_before_the_look_s_own(
    colours, torn, tmp_path, flip_has_a_gate
):
    Preset("flip", gate=Gate(0.125, 2)).save(tmp_path / "saved.json")
    Preset("flip").save(tmp_path / "open.json")

    def of(look, gate=None):
        return relook.Corrector(colours, gate=gate, look=look).gate.setting

    assert of("flip") == "gap2:0.25"
    assert of("whole+flip") == "gap2:0.25"
    assert of("whole") == "none"
    assert of(tmp_path / "open.json") == "gap2:0.25"
    assert of(tmp_path / "saved.json") == "gap2:0.125"
    assert of("flip", 0.5) == of(tmp_path / "saved.json", 0.5) == 0.5
    assert of("flip", "none") == of(tmp_path / "saved.json", "none") == "none"
    assert of(Preset("flip")) == "gap2:0.25"
    assert of(relook.looks.Flip()) == "none"  # an object has no name to go by
    assert relook.Corrector(colours, look="flip").correct(torn).forwards == 2


def test_of_joined_looks_the_first_that_has_a_gate_gives_it(monkeypatch, flip_has_a_gate):
    monkeypatch.setitem(presets._GATES, "whole", Gate(0.75))
    assert Preset("larger+whole+flip").gate_or() == Gate(0.75)
    assert Preset("larger+flip+whole").gate_or() == Gate(0.25, 2)
    assert Preset("larger").gate_or(Gate(0.5)) == Gate(0.5)
    assert Preset("larger").gate_or() == EVERY_IMAGE
    assert Preset("flip", gate=EVERY_IMAGE).gate_or(Gate(0.5)) == EVERY_IMAGE


def test_quick_and_best_have_a_gate_by_the_lead_of_the_first_class(cnn):
    assert relook.Corrector(cnn, look="quick").gate.j == 2
    assert relook.Corrector(cnn, look="best").gate.j == 2
    assert relook.Corrector(cnn).gate == EVERY_IMAGE


def test_a_file_keeps_a_gate_of_either_kind(tmp_path):
    for setting in (0.25, "gap2:0.25", "none", None):
        preset = Preset.of("flip", gate=setting)
        preset.save(tmp_path / "look.json")
        assert json.loads((tmp_path / "look.json").read_text())["gate"] == setting
        assert Preset.read(tmp_path / "look.json") == preset
    assert Preset.of("flip", gate="gap2:0.25") == Preset("flip", gate=Gate(0.25, 2))
    assert Preset.of("flip", gate="none") == Preset("flip", gate=EVERY_IMAGE)
    for gate, said in (
        ("gap7:0.5", "look.json: gate must be a gap from 0 to 1"),
        (1.5, "look.json: gate must be a gap from 0 to 1"),
        ("20%", "look.json: gate 20% is a share"),
        ([0.5], "look.json: k, gate and budget must be numbers"),
        (True, "look.json: k, gate and budget must be numbers"),
    ):
        (tmp_path / "look.json").write_text(json.dumps({"look": "flip", "gate": gate}))
        with pytest.raises(relook.RelookError, match=said):
            Preset.read(tmp_path / "look.json")


def test_the_commands_take_the_look_s_own_gate(folder, tmp_path, flip_has_a_gate):
    image = next(folder.rglob("10.png"))  # with the largest gap
    own = run("predict", image, *COLOURS)
    assert "gate gap2:0.25 (a second look where gap(1,2) is below it)" in own.stderr
    assert "left as it is: gap(1,2) is 0.51, not below the gate of 0.25" in own.stdout
    always = run("predict", image, *COLOURS, "--gate", "NONE", "--json")
    assert json.loads(always.stdout)["corrected"] is True
    given = run("predict", image, *COLOURS, "--gate", "gap2:0.6", "--json")
    assert json.loads(given.stdout)["corrected"] is True
    for more, gate in (([], "gap2:0.25"), (["--gate", "0.4"], 0.4), (["--look", "whole"], 0.5)):
        output = tmp_path / f"run {gate}"
        assert run("evaluate", folder, "--output", output, *COLOURS, *more).exit_code == 0
        assert json.loads((output / "run.json").read_text())["gate"] == gate


def test_rivals_look_at_the_images_of_the_look_they_are_compared_with(
    colours, folder, tmp_path, flip_has_a_gate
):
    Preset.of("flip", gate="none").save(tmp_path / "always.json")
    Preset("flip").save(tmp_path / "open.json")
    names = ["flip", str(tmp_path / "open.json"), str(tmp_path / "always.json")]
    evaluation = evaluate(
        relook.Corrector(colours, gate="gap2:0.18", look="fivecrop"), folder, versus=names
    )
    assert [row.corrected for row in sorted(evaluation.rows, key=lambda row: row.image[-6:])] == (
        [True] * 3 + [False] * 7
    )
    rivals = evaluation.statistics.rivals
    assert [rivals[name].tally.forwards for name in names] == [13, 13, 20]
    every = evaluate(relook.Corrector(colours, gate="none", look="flip"), folder, versus=["flip"])
    assert every.statistics.rivals["flip"].tally.forwards == 20


def test_tuning_asks_about_every_image_that_one_of_the_gates_lets_pass(colours, folder):
    """gap(1,3) is below 0.4 for two images; gap(1,2) is below 0.28 for five."""
    told = []
    tuning = tune(
        colours,
        read_data(folder, colours.labels),
        keep=Preset("flip"),
        gates=[0.4, "gap2:0.28"],
        max_cost=2,
        on_forecast=told.append,
    )
    costs = {c.preset.gate: round(c.cost, 6) for c in tuning.candidates}
    assert costs == {NO_IMAGE: 1.0, Gate(0.4): 1.2, Gate(0.28, 2): 1.5}
    assert told[0].unsure == 5


def test_a_forecast_goes_by_the_gate_s_own_gap(colours, folder):
    data = read_data(folder, colours.labels)
    corrector = relook.Corrector(colours, look="flip", gate="none")
    for gate, unsure in ((0.4, 2), ("gap2:0.28", 5), ("none", 10)):
        expected = forecast([corrector], data.items(range(10)), [[Gate.of(gate)]])
        assert (expected.unsure, expected.forwards) == (unsure, 10 + unsure)


@pytest.mark.parametrize(
    ("share", "setting", "unsure"),
    [(0.2, "gap2:0.11", 2), (0.5, "gap2:0.26", 5), (0.01, "gap2:0.06", 1), (0.99, "gap2:0.51", 10)],
)
def test_the_gate_of_a_share(colours, folder, share, setting, unsure):
    data = read_data(folder, colours.labels)
    with counting_forwards(colours.network) as count:
        gate = gate_of_share(colours, data, share)
    assert count == [10]
    assert (gate.setting, gate.share, gate.images, gate.unsure) == (setting, share, 10, unsure)
    evaluation = evaluate(relook.Corrector(colours, gate=gate, look="flip"), data)
    assert evaluation.settings["gate"] == setting
    assert evaluation.statistics.corrected == unsure


def test_a_share_needs_no_labels_and_no_image_in_particular(colours, folder):
    data = read_data(folder, colours.labels)
    expected = gate_of_share(colours, data, 0.2)
    others = replace(data, images=tuple(replace(i, label=0) for i in reversed(data.images)))
    assert gate_of_share(colours, others, 0.2) == expected


def test_images_that_cannot_be_read_have_no_part_in_a_share(colours, folder):
    files = sorted(folder.rglob("*.png"), key=lambda file: file.name)
    for file in files[5:]:
        file.write_bytes(file.read_bytes()[:45])
    gate = gate_of_share(colours, read_data(folder, colours.labels), 0.2)
    assert (gate.setting, gate.images, gate.unsure) == ("gap2:0.06", 5, 1)
    for file in files[:5]:
        file.write_bytes(file.read_bytes()[:45])
    with pytest.raises(DataError, match="no image could be classified to find the gate"):
        gate_of_share(colours, read_data(folder, colours.labels), 0.2)


def test_a_large_data_set_is_known_by_a_sample(colours, folder, monkeypatch):
    monkeypatch.setattr("relook.evaluation.share.SAMPLE", 4)
    data = read_data(folder, colours.labels)
    gate = gate_of_share(colours, data, 0.5)
    assert (gate.images, gate.unsure) == (4, 2)
    assert gate_of_share(colours, data, 0.5) == gate


def test_where_gaps_are_equal_the_share_is_not_quite_met(colours, folder):
    """Of ten images five have the gap 0.055."""
    files = sorted(folder.rglob("*.png"), key=lambda file: file.name)
    for file in files[:5]:
        file.write_bytes(files[0].read_bytes())
    gate = gate_of_share(colours, read_data(folder, colours.labels), 0.2)
    assert gate.unsure == 5
    assert gate.below == pytest.approx(0.055, abs=1e-4)


def test_close_gaps_are_told_apart(colours, folder):
    """Of an image of 4×4 one green pixel more or less: gaps that differ by a sixteenth of 0.005."""
    files = sorted(folder.rglob("*.png"), key=lambda file: file.name)
    for places, file in enumerate(files):
        pixels = plain(100, 78, 22)
        pixels.reshape(-1, 3)[:places] = (100, 77, 23)
        Image.fromarray(pixels).save(file)
    gate = gate_of_share(colours, read_data(folder, colours.labels), 0.3)
    assert gate.unsure == 3
    assert 0.11 + 2 / 3200 < gate.below <= 0.11 + 3 / 3200


@pytest.mark.parametrize("share", [0, 1, -0.2, 20, True])
def test_a_share_lies_between_none_and_all(colours, folder, share):
    with pytest.raises(relook.RelookError, match="share"):
        gate_of_share(colours, read_data(folder, colours.labels), share)


def test_evaluate_finds_the_gate_of_a_share_and_keeps_it(folder, tmp_path, colours):
    output = tmp_path / "run"
    arguments = ["evaluate", folder, "--output", output, *COLOURS, "--versus", "fivecrop"]
    result = run(*arguments, "--gate", "20%")
    assert result.exit_code == 0, result.stderr
    line = "gate 20%: of 10 images the 2 least sure have gap(1,2) below 0.11"
    assert line in result.stderr.splitlines()
    assert "gate gap2:0.11 (a second look where gap(1,2) is below it)" in result.stderr
    settings = json.loads((output / "run.json").read_text())
    assert settings["gate"] == settings["versus"]["fivecrop"]["gate"] == "gap2:0.11"
    found = {"below": 0.11, "j": 2, "share": 0.2, "images": 10, "unsure": 2}
    assert settings["gate_of_share"] == found
    assert GateOfShare.of_run(output, 0.2) == GateOfShare(**found)
    assert GateOfShare.of_run(output, 0.3) is None
    assert GateOfShare.of_run(tmp_path / "absent", 0.2) is None
    page = (output / "report.html").read_text()
    assert "gate gap2:0.11: only images with gap(1,2) below 0.11 were looked at again" in page
    assert "the least sure 20.0\u00a0%: of 10 images 2 have gap(1,2) below 0.11" in page
    again = run(*arguments, "--gate", "20%")
    assert (again.exit_code, again.stdout) == (0, result.stdout)
    assert line in again.stderr
    other = run(*arguments, "--gate", "30%")
    assert other.exit_code == 2
    assert 'gate was "gap2:0.11" and is "gap2:0.16" now' in other.stderr


def test_a_stopped_run_goes_on_with_the_gate_that_it_found(folder, tmp_path, colours):
    """Also where the same share would be another gap now; what is different, the run says."""
    output, data = tmp_path / "run", read_data(folder, colours.labels)
    found = GateOfShare(0.1234, 2, 0.2, 10, 2)  # of another machine, say
    corrector = relook.Corrector(colours, k=3, gate=found, look="flip")

    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(corrector, data, output, gate_found=found, on_rows=stop)
    result = run("evaluate", folder, "--output", output, *COLOURS, "--gate", "20%")
    assert "have gap(1,2) below 0.1234" in result.stderr
    with pytest.raises(RunError, match=r"gate_of_share was .* and is null now"):
        evaluate(corrector, data, output)


def test_tune_keeps_the_gate_of_a_share(folder, tmp_path):
    for index, file in enumerate(folder.rglob("*.png")):  # each class in both halves
        file.rename(folder / ("red", "green")[index % 2] / file.name)
    output = tmp_path / "run"
    arguments = ["evaluate", folder, "--output", output, *COLOURS, "--tune", "--gate", "20%"]
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    tuning = json.loads((output / "tuning" / "run.json").read_text())
    assert tuning["gates"] == ["gap2:0.11"]
    assert tuning["gate_of_share"]["images"] == 10
    assert json.loads((output / "tuned.json").read_text())["gate"] in (0.0, "gap2:0.11")
    assert run(*arguments).stdout == result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "{folder}", "--gate", "120%"], "a share of the images between 0% and 100%"),
        (["evaluate", "{folder}", "--gate", "0%"], "a share of the images between 0% and 100%"),
        (["evaluate", "{folder}", "--gate", "few%"], "as in 20%; not 'few%'"),
        (
            ["evaluate", "{folder}", "--gate", "gap2:2"],
            "--gate takes a number from 0 to 1, or none",
        ),
        (["evaluate", "{folder}", "--gate", "gap3:0.5"], "gap2:0.6 is gap(1,2) below 0.6"),
        (["predict", "{folder}/red/03.png", "--gate", "20%"], "a single image needs a gap instead"),
    ],
)
def test_gates_of_no_use_are_status_2(folder, tmp_path, arguments, said):
    arguments = [argument.format(folder=folder) for argument in arguments]
    result = run(*arguments, "--output", tmp_path / "run", *COLOURS)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_few_classes_are_not_said_to_leave_nothing_to_correct():
    everything, none = Pairing(900, 30, 5, 65), Pairing()
    counted = statistics(everything)
    counted = replace(counted, after=replace(counted.after, ambiguous=none))
    assert "there is hardly anything to correct" in " ".join(find(counted, Gate(0.5)).remarks)
    told = " ".join(find(counted, Gate(0.7, 2)).remarks)
    assert "No image is ambiguous (gap(1,5) < 0.5); the gate goes by gap(1,2)." in told
    assert "hardly anything" not in told
    some = " ".join(find(statistics(everything), Gate(0.5, 2)).remarks)
    assert "on those alone: helps" in some
    assert "The others kept their first answer" not in some


def test_an_image_that_is_left_is_told_the_gap_that_counts(colours, torn):
    from rich.console import Console

    for gate, said in ((0.25, "gap(1,5) is 0.30"), ("gap2:0.125", "gap(1,2) is 0.20")):
        story = tell(relook.Corrector(colours, gate=gate, look="flip").correct(torn))
        console = Console(record=True, width=200)
        print_story(console, story)
        assert f"left as it is: {said}, not below the gate of {Gate.of(gate).below}" in (
            console.export_text()
        )
