"""Commands do not wait for libraries that they have no use for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

import relook

HEAVY = {"torch", "torchvision", "timm", "matplotlib", "numpy", "PIL", "jinja2"}
SLOW = HEAVY - {"torch", "numpy", "PIL"} | {
    *("torch._dynamo", "torch._inductor", "sympy", "triton"),
    *("transformers", "huggingface_hub", "onnx", "onnxruntime", "scipy", "pyarrow"),
}
"""What takes a tenth of a second to more than a second to import, beside torch itself."""


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded once the code has run, in a new process."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def loaded_by_command(*arguments: str) -> set[str]:
    return loaded_by(
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from relook.cli import app\n"
        f"app({arguments!r}, standalone_mode=False)"
    )


def rooms(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("relook.")}


@pytest.fixture
def photo(tmp_path):
    noise = torch.rand(240, 320, 3, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.mul(255).byte().numpy()).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


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
    assert loaded_by(code) & HEAVY == set()


def test_public_names():
    for name in relook.__all__:
        assert getattr(relook, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = relook.nonsense


def test_predict_as_json_loads_neither_evaluation_nor_multicam_nor_report(photo):
    own = ("predict", photo, "--model", "networks:make_halves")
    others = {"evaluation", "multicam", "report"}
    assert rooms(loaded_by_command(*own, "--json")) & others == set()
    assert rooms(loaded_by_command(*own)) & others == {"report"}  # the table is of its words


@pytest.mark.parametrize("gate", ["gap2:0", "none"])
def test_predict_with_the_bundled_network_loads_nothing_slow_but_torch(photo, gate):
    loaded = loaded_by_command("predict", photo, "--look", "best", "--gate", gate)
    assert "torch" in loaded
    assert loaded & SLOW == set()


def test_predict_of_a_missing_file_does_not_wait_for_torch(tmp_path):
    loaded = loaded_by_command("predict", str(tmp_path / "absent.jpg"), "--look", "best")
    assert loaded & {"torch", *SLOW} == set()


def test_these_tests_can_fail():
    loaded = loaded_by("import relook; relook.load('timm/resnet10t', pretrained=False)")
    assert loaded >= {"torch", "torchvision", "timm", "torch._dynamo", "sympy"}
