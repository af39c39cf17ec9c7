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
        files += (
            sorted(f for f in p.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
            if p.is_dir()
            else [p]
        )
    return FoundImages(tuple(Item(i, str(f), f) for i, f in enumerate(files)), "", str(len(files)))
