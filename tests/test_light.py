"""`import relook` and `relook --help` do not wait for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
