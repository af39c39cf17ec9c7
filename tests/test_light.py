"""`import relook` and `relook --help` do not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PIL import Image

import relook

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "numpy", "PIL", "rich.progress", "jinja2")


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(eval(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import relook; relook.__version__; dir(relook)",
        "from relook.cli import app\n"
        "from typer.testing import CliRunner\n"
        "assert 'predict' in CliRunner().invoke(app, ['--help']).output\n"
        "assert '--look' in CliRunner().invoke(app, ['predict', '--help']).output",
    ],
)
def test_light(code):
    assert loaded_by(code) <= {"rich.progress"}


def test_this_test_can_fail():
    assert "torch" in loaded_by("import relook; relook.Classifier")


def test_public_names():
    for name in relook.__all__:
        assert getattr(relook, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = relook.nonsense


def rooms_loaded_by_predict(tmp_path, *more):
    """What `relook predict` of one image imports of the rooms that it has no use for."""
    Image.new("RGB", (8, 8), (200, 60, 90)).save(tmp_path / "photo.png")
    arguments = ["predict", str(tmp_path / "photo.png"), "--model", "networks:make_halves", *more]
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from relook.cli import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "import sys; print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('relook.')"
        "} & {'evaluation', 'multicam', 'report'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return result.stdout.splitlines()[-1]


def test_predict_as_json_loads_neither_evaluation_nor_multicam_nor_report(tmp_path):
    assert rooms_loaded_by_predict(tmp_path, "--json") == "[]"
    assert "report" in rooms_loaded_by_predict(tmp_path)  # the table is of a report's words
