"""STUB"""

# mypy: ignore-errors
from dataclasses import dataclass
from pathlib import Path

from relook.runs import Item


@dataclass(frozen=True)
class FoundImages:
    items: tuple
    left_out: str
    content: str


def find_images(inputs):
    files = []
    for p in map(Path, inputs):
        if p.is_dir():
            found = sorted(f for f in p.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
            files += [(str(f.relative_to(p)) if len(inputs) == 1 else str(f), f) for f in found]
        else:
            files.append((str(p), p))
    return FoundImages(tuple(Item(i, n, f) for i, (n, f) in enumerate(files)), "", str(len(files)))
