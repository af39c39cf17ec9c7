"""Every Python block of the README runs as written, in order, beside a photo.jpg."""

from __future__ import annotations

import re
from pathlib import Path

from relook.images import open_image

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks(tmp_path, monkeypatch, chelsea, capsys):
    monkeypatch.chdir(tmp_path)
    open_image(chelsea).save("photo.jpg", quality=95)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Egyptian cat 0.4")
    assert printed[1] == "torch.Size([5, 224, 224]) torch.Size([5, 3, 224, 224])"
    assert printed[2].startswith("1 torch.Size([3, 64, 64]) ")
    assert names["probabilities"].shape == (8, 4)
