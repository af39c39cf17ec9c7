"""The page "bring your own" is run as written: files, Python and commands, in order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from networks import write_noise
from relook.cli import app
from relook.images import open_image
from relook.looks import make_look
from relook.multicam import door
from relook.multicam.training import Plan

DOCS = Path(__file__).parents[1] / "docs"
PAGE, MULTICAM = DOCS / "bring-your-own.md", DOCS / "multicam.md"


@pytest.mark.slow
def test_bring_your_own(tmp_path, monkeypatch, chelsea, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    open_image(chelsea).resize((225, 150)).save("photo.jpg", quality=95)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    answers = []
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+) ?(\S*)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 13
    for language, file, text in blocks:
        if file:
            Path(file).write_text(text)
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
        else:
            commands = text.replace("relook ", f"{sys.executable} -m relook ")
            done = subprocess.run(
                ["bash", "-e", "-c", commands], capture_output=True, text=True, cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr
            answers.append(done.stdout)
    assert capsys.readouterr().out.startswith("features 64×15×15")
    assert Path("pictures/photo.relook.png").exists()
    for answer in answers:
        if answer.strip():
            assert {"finch", "robin", "wren"} <= set(answer.split()), answer
    # The same weights as a module, an exported file, and a file with what was said of it.
    own, exported, said, sidecar = (answers[i] for i in (0, 2, 3, 4))
    assert rows(exported) == rows(own)
    assert rows(said) == rows(own)
    assert rows(sidecar) == rows(own)


@pytest.mark.slow
def test_multicam(tmp_path, monkeypatch, capsys):
    """The commands and the Python of the page, on images of two classes."""
    monkeypatch.chdir(tmp_path)
    # One epoch in place of eight, for time.
    monkeypatch.setattr(door, "_FINE_TUNED", Plan(epochs=1, rate=5e-4, seed=0))
    for part, count in (("train", 4), ("test", 1)):
        for label in ("a", "b"):
            for index in range(count):
                file = tmp_path / "scenes" / part / label / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_noise(file, seed=len(part) * 100 + index + 50 * (label == "b"))
    Path("scenes/test/a/0.png").rename("scenes/test/a/photo.jpg")
    blocks = re.findall(r"```(\w+)\n(.*?)```", MULTICAM.read_text(encoding="utf-8"), re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "python"]
    for line in blocks[0][1].splitlines():
        result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert result.exit_code == 0, (line, result.output)
    assert Path("compared/report.html").exists()
    assert Path("multicam.onnx").exists()
    exec(compile(blocks[1][1], str(MULTICAM), "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "joined bn2"
    assert [line.split(" 0.")[0].split(" 1.")[0] for line in printed[1:]] == [
        "TargetNet", "TargetNet + poster", "TargetNet + flip", "TargetNet + quick",
        "TargetNet + best", "ObjectNet", "MultiCAM",
    ]  # fmt: skip


def rows(answer):
    """What was said of each class."""
    found = re.findall(r"(finch|robin|wren)\s+│\s+([\d.]+)\s%\s+│\s+([\d.]+)\s%", answer)
    assert len(found) == 3, answer
    return found


@pytest.mark.parametrize(
    "name", ["method.md", "evaluation.md", "networks.md", "bring-your-own.md", "multicam.md"]
)
def test_links_within_the_docs_lead_somewhere(name):
    page = PAGE.with_name(name)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_claim_of_best_and_quick_says_that_it_is_not_certain():
    """The figures are those of the study, and where there was no gain stands beside them."""
    root = DOCS.parent
    study = (DOCS / "second-look.md").read_text(encoding="utf-8")
    [pooled] = [row for row in study.splitlines() if row.startswith("| full-size photos, three")][
        :1
    ]
    assert (
        "| 30 / 9 (+4.5, 0.001); by image 0.007 | 30 / 11 (+4.1, 0.004); by image 0.024 |" in pooled
    )
    [lite2] = [row for row in study.splitlines() if row.startswith("| Lite2, photos | 156 |")][:1]
    assert "| 10 / 5 (+3.2, 0.30) | 6 / 7 (" in lite2
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    for said in ("30 / 11 (+4.1, 0.024)", "30 / 9 (+4.5, 0.007)", "no evidence of a gain (10 / 5"):
        assert said in readme
    docstring = " ".join(str(make_look.__doc__).split())
    said = (
        'of 462 unsure answers of three networks, "quick" fixed 30 and broke 9, and "best" fixed 30'
    )
    assert f"{said} and broke 11; for one of the networks there was no evidence" in docstring
    help_text = CliRunner().invoke(app, ["predict", "--help"], env={"COLUMNS": "500"}).output
    said = "best fixed 30 and broke 11 of 462 unsure answers on full-size photos: measure on yours"
    assert said in " ".join(help_text.split())
