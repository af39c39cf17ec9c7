"""net.json beside net.onnx: what an ONNX file does not say of itself."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from relook.errors import ModelError, RelookError, first_line
from relook.geometry import Geometry
from relook.labels import class_labels
from relook.text import decode

_CHOICES = {
    "fit": ("squash", "shorter-side", "cover"),
    "corner": ("rounded", "floored"),
    "interpolation": ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"),
    "layout": ("NCHW", "NHWC"),
    "outputs": ("logits", "probabilities"),
}


@dataclass(frozen=True)
class Sidecar:
    """All of it may be left out but mean and std, which arguments may give as well.

    Attributes:
        input_size: [height, width]; where the graph does not fix it.
        resize: [height, width] that the image is brought to before the centre crop.
        fit: how: "squash", "shorter-side" or "cover", as in `relook.geometry.Geometry`.
        crop_pct: in place of `resize` and `fit`: the crop's share of the resized image; without
            any of them the whole image is resized to the input size.
        interpolation: "bilinear", "bicubic", "lanczos", "nearest", "box" or "hamming".
        corner: "rounded" or "floored": of the crop, where half a pixel is left.
        mean, std: three values each, for pixels in [0, 1].
        layout: "NCHW" or "NHWC"; where the input's shape does not tell.
        outputs: "logits" or "probabilities"; found by itself otherwise.
        labels: a list with one name a class, a dict of class indices and names, or the name of a
            file beside (see `read_labels`).
        target_layer: a node's name; found by itself otherwise.
        token_grid: [rows, columns] of a transformer's tokens, where the graph does not tell.
    """

    input_size: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    fit: Literal["squash", "shorter-side", "cover"] | None = None
    crop_pct: float | None = None
    interpolation: str = "bilinear"
    corner: Literal["rounded", "floored"] = "rounded"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    outputs: Literal["logits", "probabilities"] | None = None
    labels: tuple[str, ...] | None = None
    target_layer: str | None = None
    token_grid: tuple[int, int] | None = None

    @classmethod
    def read(cls, file: Path) -> Sidecar:
        """Of the ONNX file of the same name; an empty one where there is none.

        Raises:
            ModelError: it is no JSON object, or has a key or value that is not known.
        """
        path = file.with_suffix(".json")
        if not path.exists():
            return cls()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
        if not isinstance(found, dict):
            raise ModelError(f"{path}: must be a JSON object, as relook export writes it")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in found:
            if key not in known:
                [close] = difflib.get_close_matches(key, known, n=1, cutoff=0) or [""]
                raise ModelError(f"{path}: {key!r} is unknown; closest: {close!r}")
        labels = found.get("labels")
        if isinstance(labels, str):
            found["labels"] = read_labels(path.parent / labels)
        values = {key: _checked(path, key, value) for key, value in found.items()}
        return cls(**values)

    def write(self, file: Path) -> Path:
        """Beside the ONNX file; what is not known is left out."""
        path = file.with_suffix(".json")
        known = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        lines = [f' "{key}": {json.dumps(v, ensure_ascii=False)}' for key, v in known.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return path

    def given(self, **arguments: Any) -> Sidecar:
        """The same, with what arguments say in its place."""
        said = {key: value for key, value in arguments.items() if value is not None}
        return dataclasses.replace(self, **said)

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """Resize and crop for a network of this input size.

        Raises:
            RelookError: they do not fit together.
        """
        if self.resize is not None:
            fit = self.fit or "shorter-side"
            return Geometry(size, self.resize, fit, self.interpolation, self.corner)
        if self.crop_pct is not None:
            return Geometry.centre(size, self.crop_pct, self.interpolation)
        return Geometry.whole(size, self.interpolation)


def read_labels(file: Path) -> tuple[str, ...]:
    """The names in a text file, one a line in the order of the classes, or in a JSON file.

    JSON is a list of names, or a dict of class indices and names, as `class_labels` takes it.

    Raises:
        RelookError: the file cannot be read.
    """
    try:
        text = decode(file.read_bytes(), str(file))
        if file.suffix.lower() != ".json":
            return _lines(text)
        found = json.loads(text)
    except FileNotFoundError:
        raise RelookError(f"{file}: no such file of labels; check the path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, RelookError):
            raise
        raise RelookError(f"{file}: cannot be read as labels ({first_line(error)})") from error
    if not isinstance(found, list | dict):
        raise RelookError(
            f'{file}: must be a JSON list of names, or a dict: {{"0": "cat"}} or {{"cat": 0}}'
        )
    try:
        return tuple(name.strip() for name in class_labels(found))
    except ModelError as error:
        raise RelookError(f"{file}: {error}") from error


def _lines(text: str) -> tuple[str, ...]:
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def _checked(path: Path, key: str, value: Any) -> Any:
    """Lists as tuples, and of the right length."""
    pairs = ("input_size", "resize", "token_grid")
    if key in (*pairs, "mean", "std"):
        count, kind = (2, int) if key in pairs else (3, (int, float))
        fits = isinstance(value, list) and len(value) == count
        if not fits or not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
            raise ModelError(f"{path}: {key} must be a list of {count} numbers, not {value!r}")
        if kind is int and min(value) < 1:
            raise ModelError(f"{path}: {key} must be of numbers from 1 on, not {value!r}")
    choices = _CHOICES.get(key)
    if choices and value not in choices:
        said = " or ".join(f'"{choice}"' for choice in choices)
        raise ModelError(f"{path}: {key} must be {said}, not {value!r}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "crop_pct" and not (is_number and 0 < value <= 1):
        raise ModelError(f"{path}: crop_pct must be a number in (0, 1], not {value!r}")
    if key == "target_layer" and not isinstance(value, str):
        raise ModelError(f"{path}: target_layer must be the name of a node, not {value!r}")
    if key == "labels":
        if not isinstance(value, list | tuple | dict):
            raise ModelError(f"{path}: labels must be a list of names, or the name of a file")
        try:
            return class_labels(value)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    return tuple(value) if isinstance(value, list) else value
