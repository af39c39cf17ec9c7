"""What is known about a model besides its network; each model source fills it in."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from relook.classifier import Classifier
from relook.errors import ModelError, first_line
from relook.geometry import Geometry
from relook.labels import class_labels, read_labels
from relook.preprocessing import Preprocessing

_CHOICES = {
    "fit": ("squash", "shorter-side", "cover"),
    "corner": ("rounded", "floored"),
    "interpolation": ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"),
    "layout": ("NCHW", "NHWC"),
    "outputs": ("logits", "probabilities"),
}


@dataclass(frozen=True)
class Record:
    """The known properties of a model, or those that a caller sets.

    net.json, the file beside net.onnx, has the same fields. All fields are optional except
    mean and std, which may also come from the arguments of `relook.load`.

    Attributes:
        input_size: (height, width) of the network's input.
        resize: (height, width) that the image is resized to before the centre crop.
        fit: how the image is resized to `resize`: "squash", "shorter-side" (the default) or
            "cover", as in `relook.geometry.Geometry`.
        crop_pct: instead of `resize` and `fit`: the crop's fraction of each side of the resized
            image, in (0, 1]. Without any of the three the whole image is resized to the input
            size.
        interpolation: "bilinear" (the default), "bicubic", "lanczos", "nearest", "box" or
            "hamming".
        corner: "rounded" (the default) or "floored": how the crop's corner is made whole, as in
            `relook.geometry.Geometry`.
        mean, std: three values each, for pixels in [0, 1].
        layout: "NCHW" or "NHWC", for an ONNX file whose input shape does not determine it.
        outputs: "logits" or "probabilities"; detected for ONNX files, else "logits" by default.
        labels: one name per class. In net.json a list, a dict of class indices and names, or the
            name of a file beside it (see `relook.labels.read_labels`).
        target_layer: the name of a module, or of a node of an ONNX file; detected by default.
        token_grid: (rows, columns) of a transformer's tokens, if the network does not determine it.
    """

    input_size: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    fit: Literal["squash", "shorter-side", "cover"] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    corner: Literal["rounded", "floored"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    outputs: Literal["logits", "probabilities"] | None = None
    labels: tuple[str, ...] | None = None
    target_layer: str | None = None
    token_grid: tuple[int, int] | None = None

    @classmethod
    def of(cls, preprocessing: Preprocessing, **known: Any) -> Record:
        """A record of a preprocessing, with other fields as keyword arguments."""
        geometry = dataclasses.asdict(preprocessing.geometry)
        size = geometry.pop("crop")
        mean, std = preprocessing.mean, preprocessing.std
        return cls(input_size=size, mean=mean, std=std, **geometry, **known)

    @classmethod
    def of_classifier(cls, classifier: Classifier) -> Record:
        """A record of all settings of a classifier."""
        has_layer = classifier.has_target_layer
        tokens = has_layer and classifier.layout.kind == "tokens"
        return cls.of(
            Preprocessing(classifier.geometry, classifier.mean, classifier.std),
            outputs=classifier.returns,
            labels=classifier.labels if classifier.labels_given else None,
            target_layer=classifier.target_layer if has_layer else None,
            token_grid=classifier.layout.grid if tokens else None,
        )

    @classmethod
    def read(cls, file: Path) -> Record:
        """Read the .json file beside an ONNX file; without such a file, an empty record.

        Raises:
            ModelError: the file is not a JSON object, or has an unknown key or value.
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
        """Write the .json file beside an ONNX file, without unknown fields; return its path."""
        path = file.with_suffix(".json")
        known = {key: value for key, value in vars(self).items() if value is not None}
        lines = [f' "{key}": {json.dumps(v, ensure_ascii=False)}' for key, v in known.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return path

    def given(self, other: Record) -> Record:
        """This record, with the fields that another record sets replaced.

        For another input size the resize is scaled in proportion, so that the network sees the
        same part of an image.
        """
        said = {key: value for key, value in vars(other).items() if value is not None}
        if self.input_size and other.input_size not in (None, self.input_size):
            geometry = self.geometry.scaled(other.input_size)
            said = {"resize": geometry.resize, "fit": geometry.fit} | said
        return dataclasses.replace(self, **said)

    @property
    def geometry(self) -> Geometry:
        """Resize and crop; the input size must be known.

        Raises:
            RelookError: the fields contradict each other.
        """
        size, interpolation = self.input_size, self.interpolation or "bilinear"
        assert size is not None
        if self.resize is not None:
            corner = self.corner or "rounded"
            return Geometry(size, self.resize, self.fit or "shorter-side", interpolation, corner)
        if self.crop_pct is not None:
            return Geometry.centre(size, self.crop_pct, interpolation)
        return Geometry.whole(size, interpolation)

    @property
    def preprocessing(self) -> Preprocessing:
        """Resize, crop and normalisation; input size, mean and std must be known.

        Raises:
            RelookError: the fields contradict each other.
        """
        assert self.mean is not None
        assert self.std is not None
        return Preprocessing(self.geometry, self.mean, self.std)


def classifier_of(
    network: nn.Module, known: Record, said: Record | None = None, name: str | None = None
) -> Classifier:
    """Build the classifier of a network.

    Args:
        network: the network to wrap.
        known: the model's own properties.
        said: properties that the caller sets; they replace the model's own.
        name: the model's name in messages.

    Raises:
        ModelError: the network does not fit these properties; see `relook.Classifier`.
    """
    record = known.given(said) if said else known
    prepared = record.preprocessing
    size = prepared.geometry.crop
    try:
        return Classifier(
            network,
            mean=prepared.mean,
            std=prepared.std,
            input_size=size,
            geometry=prepared.geometry,
            labels=record.labels,
            outputs=record.outputs or "logits",
            target_layer=record.target_layer,
            token_grid=record.token_grid,
            name=name,
        )
    except ModelError as error:
        # Only errors of the network itself, at an input size that is not its own.
        if error.__cause__ is None or size == known.input_size:
            raise
        raise refusal(name or "the network", size, known.input_size, error.__cause__) from error


def refusal(
    name: str, size: tuple[int, int], own: tuple[int, int] | None, error: BaseException
) -> ModelError:
    """The error of a network that cannot take inputs of a size.

    Args:
        name: the model's name.
        size: the requested input size, (height, width).
        own: the network's own input size.
        error: the exception that the network raised.
    """
    back = f" for its own {own[0]}×{own[1]}" if own else ""
    return ModelError(
        f"{name}: does not take inputs of {size[0]}×{size[1]} ({first_line(error)}); leave the "
        f"input size out{back}"
    )


def _checked(path: Path, key: str, value: Any) -> Any:
    """Check a value of the .json file, and turn lists into tuples.

    Raises:
        ModelError: the key does not accept this value.
    """
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
