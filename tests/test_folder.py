"""A run's folder belongs to one process at a time, however that process ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from relook.folder import RunError, claimed, read_settings

HOLDS = """
import sys, time
from pathlib import Path
from relook.folder import claimed
with claimed(Path(sys.argv[1]), {"k": 1}, lambda: True):
    print("claimed", flush=True)
    time.sleep(600)
"""


def claim(folder):
    with claimed(folder, {"k": 1}, lambda: True):
        return (folder / "run.json").exists()


def test_another_process_is_refused_until_the_first_one_dies(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 2, "k": 1}')
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "claimed\n"
            with pytest.raises(RunError, match="another process is using it; wait for it, or stop"):
                claim(tmp_path)
        finally:
            os.kill(other.pid, signal.SIGKILL)
    assert (tmp_path / ".lock").exists()  # nobody could tidy up
    assert claim(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_used_and_that_is_said(tmp_path, monkeypatch, caplog, number):
    fcntl = pytest.importorskip("fcntl")

    def refuse(_file, _operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, logger="relook"), claimed(tmp_path, {}, lambda: False):
        assert (tmp_path / "run.json").exists()
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"relook: {tmp_path}: its disk has no file locks")
    assert os.strerror(number) in message
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_a_folder_that_cannot_be_written_is_no_matter_of_locks(tmp_path, caplog):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunError, match=r"cannot be used .*choose another folder"):
        claim(tmp_path)
    assert not caplog.records


def test_a_run_of_another_format_or_kind_is_told_in_words(tmp_path):
    file = tmp_path / "run.json"
    file.write_text('{"kind": "evaluation", "versions": {"relook": "0.0.9"}}')
    said = r"was written by another version of relook \(0\.0\.9\), in format 0; relook .* reads format 2"
    with pytest.raises(RunError, match=said):
        claim(tmp_path)
    with pytest.raises(RunError, match=said):
        read_settings(tmp_path, "evaluation")
    known = {"kind": "evaluation", "format": 2, "answers": {"first": "x"}, "model": {"a": 1}}
    file.write_text(json.dumps(known))
    with pytest.raises(RunError, match=r"cannot be read \(data missing\)"):
        read_settings(tmp_path, "evaluation")
    known["data"] = {"images": 1}
    file.write_text(json.dumps(known))
    assert read_settings(tmp_path, "evaluation") == known
    with pytest.raises(RunError, match=r"holds an evaluation .*; pass the folder of a comparison"):
        read_settings(tmp_path, "comparison")
    with pytest.raises(RunError, match=r"holds an evaluation .*, written by another command"):
        claim(tmp_path)
    file.write_text("[]")
    with pytest.raises(RunError, match="it contains no settings"):
        read_settings(tmp_path, "evaluation")
    file.unlink()
    with pytest.raises(RunError, match=r"contains no run\.json; pass the folder of a run"):
        read_settings(tmp_path, "evaluation")
