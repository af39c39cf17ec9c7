"""Output to consoles, pipes and disks that cannot accept it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from networks import write_noise
from relook import streams

HERE = Path(__file__).parent
TORN = ["--model", "networks:make_torn"]


def start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment):
    """Start a process in the folder of the tests; its output is read as bytes."""
    return subprocess.Popen(
        [sys.executable, "-m", "relook", *map(os.fspath, arguments)],
        stdout=stdout, stderr=stderr, cwd=HERE, env={**os.environ, **environment},
        # Background jobs of a shell ignore the signal, and so would their child processes.
        preexec_fn=None if os.name == "nt" else partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def odd(tmp_path):
    """Images with names in other scripts, and one whose name is not valid UTF-8."""
    names = ["猫🐱.png".encode(), "é→ü.png".encode(), b"caf\xe9\xff.png"]
    files = [os.path.join(os.fsencode(tmp_path), name) for name in names]
    for seed, file in enumerate(files):
        write_noise(os.fsdecode(file), seed)
    (tmp_path / "labels.txt").write_text("猫\n狗\n[b]鳥[/b]\nПривет\n", encoding="utf-8")
    return [Path(os.fsdecode(file)) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
def test_no_character_of_a_table_is_worth_a_crash(tmp_path, odd, encoding):
    made = [*TORN, "--look", "flip", "--output", tmp_path / "pictures"]
    status, out, err = finish(start("predict", *odd, *made, PYTHONIOENCODING=encoding))
    assert (status, b"Traceback" in err) == (0, False), err
    text = out.decode(encoding)  # nothing but characters of the encoding
    assert ("猫" in text, "\\u732b" in text) == (encoding == "cp932", encoding != "cp932")
    assert "caf\\xe9\\xff.png" in text
    err.decode(encoding)
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_json_is_ascii_and_names_files_readably(odd):
    status, out, _ = finish(start("predict", *odd, *TORN, "--json", PYTHONIOENCODING="cp1252"))
    assert status == 0
    rows = [json.loads(line) for line in out.decode("ascii").splitlines()]
    *given, last = odd
    expected = [*map(str, given), f"{last.parent}/caf\\xe9\\xff.png"]  # in UTF-8 for any reader
    assert [row["image"] for row in rows] == expected


@pytest.mark.slow
def test_an_evaluation_writes_its_report_whatever_the_console(tmp_path):
    """With output in ASCII, and to a full disk, the report is still written."""
    for index in range(8):
        folder = tmp_path / "data" / str(index % 4)
        folder.mkdir(parents=True, exist_ok=True)
        write_noise(folder / f"猫{index}.png", index)
    command = ["evaluate", tmp_path / "data", *TORN, "--look", "flip", "--output"]
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with full.open("wb") as disk:
        status, _, err = finish(start(*command, tmp_path / "run", stdout=disk))
    assert status == 1
    assert err.decode().endswith("relook: the output cannot be written (No space left on device)\n")
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "8 labelled images" in report
    with full.open("wb") as log:  # a full disk for the log does not stop the run
        made = [*command, tmp_path / "other"]
        status, out, _ = finish(start(*made, stderr=log, PYTHONIOENCODING="ascii"))
    assert status == 0
    assert "->" in out.decode("ascii")


def test_a_reader_that_has_enough_gets_no_traceback(odd):
    """As in `relook predict ... | head -1`."""
    process = start("predict", *odd * 4, *TORN, "--look", "flip")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(timeout=120) == 1
    assert err.splitlines()[0].startswith("networks:make_torn: ")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_a_sentence():
    with open("/dev/full", "wb") as full:
        status, _, err = finish(start("--help", stdout=full))
    assert (status, err.decode()) == (
        1, "relook: the output cannot be written (No space left on device)\n"
    )  # fmt: skip


def test_closed_streams_stay_closed(tmp_path):
    """No file is opened in the place of a closed stream, and written to by mistake."""
    command = f'"{sys.executable}" -m relook export networks:make_halves "{tmp_path}/net.onnx"'
    done = subprocess.run(["sh", "-c", f"{command} >&- 2>&-"], cwd=HERE, check=False)
    assert done.returncode == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.json", "net.onnx"]


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_predict_can_be_interrupted(chelsea):
    process = start("predict", *[chelsea] * 50, "--json")
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert json.loads(first)["forwards"] == 459
    assert status == 130
    assert b"Traceback" not in err
    [line] = [line for line in err.decode().splitlines() if "stopped" in line]
    assert line.startswith("relook: stopped after ")
    assert line.endswith(" of 50 images")


def test_what_stands_for_a_character(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
    streams.prepare()
    print("1 → 2 × 3 − 4 · 5\u00a0% … 猫 🐱 \udce9", flush=True)
    assert written.getvalue() == rb"1 -> 2 x 3 - 4 - 5 % ... \u732b \U0001f431 \udce9" + b"\n"
    assert streams.failure() is None
