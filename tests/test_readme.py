"""Every Python block of the README runs as written, in order, beside a photo.jpg and a folder photos."""

from __future__ import annotations

import re
from pathlib import Path

from relook.images import open_image

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks(tmp_path, monkeypatch, chelsea, capsys):
    monkeypatch.chdir(tmp_path)
    open_image(chelsea).save("photo.jpg", quality=95)
    Path("photos/Egyptian cat").mkdir(parents=True)
    open_image(chelsea).save("photos/Egyptian cat/chelsea.png")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Egyptian cat 0.3")
    assert printed[0].split()[3] == "4"  # forwards
    assert printed[1] == "['uncropped, mirrored', 'largest part', 'uncropped']"
    many = "<Correction photo.jpg: tiger cat → Egyptian cat, 4 forwards>"
    assert printed[2:4] == [many] * 2
    assert printed[4].startswith("torch.Size([5, 224, 224]) torch.Size([5, 3, 224, 224]) 4")
    # One photo proves nothing; its mirror image is a tiger cat.
    assert printed[5] == "no evidence 0.0"
    assert printed[6].startswith(
        "('tabby', 'tiger cat', 'Egyptian cat') torch.Size([3, 224, 224]) 4"
    )
    for picture in ("maps.png", "tabby.png"):
        assert open_image(picture).width >= 224
    assert names["probabilities"].shape == (8, 4)
