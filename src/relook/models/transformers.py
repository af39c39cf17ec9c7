"""hf/<folder>: image classifiers of transformers, with their own image processor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import resolve_data_config
from torch import nn

from relook.classifier import Classifier
from relook.errors import ModelError, first_line
from relook.geometry import Fit, Geometry
from relook.models.checkpoint import fitting_state
from relook.models.request import Request
from relook.models.timm import geometry_of
from relook.preprocessing import Preprocessing
from relook.record import Record, classifier_of

_CONFIG = "config.json"
_PROCESSOR = "preprocessor_config.json"
_WEIGHTS = "model*.safetensors"

_TOLERANCE = 0.5 / 255
"""Largest mean difference of pixels. A processor that resizes with Pillow, as relook does, gives
the same pixels; one that resizes tensors differs by up to 0.2/255; a crop that is one pixel off
differs by 20/255."""


def load(name: str, request: Request) -> Classifier:
    """Load a classifier with its own weights, random ones, or those of a checkpoint.

    Code in the folder is never run, and pickled models are never opened.

    Args:
        name: path of a folder, or the name of a repository, without "hf/".
        request: the other arguments of `relook.load`.

    Raises:
        ModelError: transformers is not installed, the folder contains no image classifier, its
            image processor cannot be reproduced, or its weights cannot be loaded.
    """
    library = _library()
    folder = _folder(name)
    with _quiet(library):
        config = _config(library, folder)
        if config.problem_type == "multi_label_classification":
            raise ModelError(
                f"{folder}: a multi-label network, by its config.json, which scores each class "
                "independently; relook corrects networks whose class probabilities sum to 1"
            )
        processor = _processor(library, folder, config)
        prepared = _preprocessing(processor)
        _check(prepared, processor)
        if request.checkpoint is not None:
            network = _from_checkpoint(library, folder, config, request.checkpoint)
        elif request.pretrained:
            network = _from_folder(library, folder, config)
        else:
            network = _new(library, folder, config)
    names: dict[int, str] = network.config.id2label  # type: ignore[assignment, union-attr]
    if config.model_type == "timm_wrapper":
        tested = _test_geometry(config, request.said.input_size)
        prepared = replace(prepared, geometry=tested)
    known = Record.of(prepared, labels=tuple(names[index] for index in sorted(names)))
    return classifier_of(network, known, request.said, request.name)


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f'hf/<folder> needs transformers ({first_line(error)}); run: pip install "relook[hf]"'
        ) from error
    return transformers


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Silence progress bars and log messages; `_refuse_gaps` reports problems with the weights."""
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _folder(name: str) -> Path:
    """The folder with this path, or the local copy of the repository with this name."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    # Installed with transformers; slow to import.
    from huggingface_hub import snapshot_download

    patterns = [_CONFIG, _PROCESSOR, _WEIGHTS, "model.safetensors.index.json"]
    try:
        # A cached copy is used without looking for updates.
        cached = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if any(cached.glob(_WEIGHTS)):
            return cached
    except (OSError, ValueError):
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"model 'hf/{name}': there is no folder {folder}, and no repository of this name can "
            f"be loaded ({first_line(error)}); download the repository to a folder and pass the "
            "folder"
        ) from error


def _config(library: Any, folder: Path) -> Any:
    if not (folder / _CONFIG).is_file():
        raise ModelError(
            f"{folder}: holds no {_CONFIG}; pass a folder that model.save_pretrained(folder) wrote"
        )
    try:
        config = library.AutoConfig.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise ModelError(
            f"{folder / _CONFIG}: cannot be read as a model's configuration "
            f"({first_line(error)}); download it again, or save the model again"
        ) from error
    if type(config) not in library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"{folder / _CONFIG}: describes a {config.model_type!r} model, for which transformers "
            f"{library.__version__} has no image classifier; pass a folder with an image classifier"
        )
    return config


def _processor(library: Any, folder: Path, config: Any) -> Any:
    # timm's own repositories describe it in config.json.
    if not (folder / _PROCESSOR).is_file() and config.model_type != "timm_wrapper":
        raise ModelError(
            f"{folder}: holds no {_PROCESSOR}, which defines how images are resized and "
            "normalised; write it with processor.save_pretrained(folder)"
        )
    # Choose the implementation that resizes with Pillow, as relook does.
    backend = {"backend": "pil"} if hasattr(library, "PilBackend") else {"use_fast": False}
    try:
        return library.AutoImageProcessor.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, **backend
        )
    except Exception as error:
        raise ModelError(
            f"{folder / _PROCESSOR}: cannot be read as an image processor ({first_line(error)}); "
            "download it again, or write it with processor.save_pretrained(folder)"
        ) from error


def _new(library: Any, folder: Path, config: Any) -> nn.Module:
    try:
        network: nn.Module = library.AutoModelForImageClassification.from_config(
            config, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"{folder / _CONFIG}: no network can be created from it ({first_line(error)})"
        ) from error
    return network


def _from_folder(library: Any, folder: Path, config: Any) -> nn.Module:
    if not any(folder.glob(_WEIGHTS)):
        raise ModelError(
            f"{folder}: holds no safetensors weights, and relook does not open pickled models; "
            "save it again with model.save_pretrained(folder), or pass plain tensors "
            "(pytorch_model.bin) with checkpoint= or --checkpoint"
        )
    try:
        network, report = library.AutoModelForImageClassification.from_pretrained(
            str(folder),
            config=config,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:
        raise ModelError(
            f"{folder}: its weights cannot be read ({first_line(error)}); download it again"
        ) from error
    # The file may also contain parts that a classifier does not use, such as another head.
    _refuse_gaps({**report, "unexpected_keys": ()}, folder, type(network).__name__)
    return network  # type: ignore[no-any-return]


def _from_checkpoint(library: Any, folder: Path, config: Any, checkpoint: Path) -> nn.Module:
    """Create a network with the weights and the number of classes of `checkpoint`.

    transformers loads the weights, not `load_into`, since it saves them under other names than
    those of its modules.
    """
    network = _new(library, folder, config)
    state = fitting_state(network, checkpoint)
    kind: Any = type(network)

    def filled() -> tuple[nn.Module, dict[str, Any]]:
        found: tuple[nn.Module, dict[str, Any]] = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        return found

    network, report = filled()
    shapes = [(there, here) for _, there, here in report["mismatched_keys"] if there]
    counts = {there[0] for there, here in shapes if there[1:] == here[1:]}
    if len(counts) == 1:
        config.num_labels = counts.pop()
        network, report = filled()
    _refuse_gaps(report, checkpoint, kind.__name__)
    return network


def _refuse_gaps(report: Mapping[str, Any], source: Path, kind: str) -> None:
    """Raise ModelError for missing weights, which transformers would initialise at random."""
    problems = {
        "it lacks": sorted(report["missing_keys"]),
        "it has extra": sorted(report["unexpected_keys"]),
        "other shapes:": sorted(key for key, *_ in report["mismatched_keys"]),
    }
    found = [f"{what} {keys[0]} ({len(keys)} in all)" for what, keys in problems.items() if keys]
    if found:
        raise ModelError(
            f"{source}: not the weights of a {kind}: {'; '.join(found)}; pass those of a trained "
            "image classifier"
        )


def _preprocessing(processor: Any) -> Preprocessing:
    """Preprocessing according to the processor's settings."""
    if hasattr(processor, "data_config"):
        config = processor.data_config
        geometry = geometry_of(config, tuple(config["input_size"][1:]))
        return Preprocessing(geometry, tuple(config["mean"]), tuple(config["std"]))
    settings = processor.to_dict()
    try:
        geometry = _geometry(type(processor).__name__, settings)
        return Preprocessing(geometry, *_normalisation(settings))
    except (KeyError, TypeError, ValueError) as error:
        raise _not_reproduced(processor, _reason(error)) from error


def _test_geometry(config: Any, size: tuple[int, int] | None) -> Geometry:
    """Resize and crop with which timm tests a network; the image processor lacks them."""
    given = None if size is None else {"input_size": (3, *size)}
    tested = resolve_data_config(given, config.pretrained_cfg, use_test_size=True)
    return geometry_of(tested, tuple(tested["input_size"][1:]))


def _geometry(kind: str, settings: Mapping[str, Any]) -> Geometry:
    size = {key: value for key, value in settings["size"].items() if value}
    crop = settings["crop_size"] if settings.get("do_center_crop") else None
    if not settings.get("do_resize"):
        raise ValueError("it does not resize")
    fit: Fit = "squash"
    if size.keys() == {"height", "width"}:
        resize = (size["height"], size["width"])
    elif size.keys() == {"shortest_edge"}:
        side = size["shortest_edge"]
        if kind.startswith("ConvNext"):
            # ConvNeXt's own rule: it crops for small inputs and squashes for large ones.
            crop = crop or {"height": side, "width": side}
            if side < 384:
                fit, side = "shorter-side", int(side / settings["crop_pct"])
        elif crop is None:
            raise ValueError("the shape of its outputs depends on the shape of the image")
        else:
            fit = "shorter-side"
            if kind.startswith("Levit"):
                side = int((256 / 224) * side)
            elif kind.startswith("PoolFormer") and settings.get("crop_pct"):
                side = int(side / settings["crop_pct"])
        resize = (side, side)
    else:
        raise ValueError(f"its size is {size}")
    cropped = (crop["height"], crop["width"]) if crop else resize
    interpolation = Image.Resampling(settings["resample"]).name.lower()
    return Geometry(cropped, resize, fit, interpolation, "floored")


def _normalisation(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels in [0, 1], from (scale · pixels − offset − mean) / std."""
    rescales = settings.get("do_rescale")
    scale = 255 * settings["rescale_factor"] if rescales else 255
    offset = 1 if rescales and settings.get("rescale_offset") else 0
    mean, std = np.zeros(3), np.ones(3)
    if settings.get("do_normalize"):
        mean, std = mean + settings["image_mean"], std * settings["image_std"]
    # The processor of EfficientNet divides by std twice.
    again = settings["image_std"] if settings.get("include_top") else 1
    mean, std = (mean + offset) / scale, std * again / scale
    return tuple(mean.tolist()), tuple(std.tolist())


def _check(prepared: Preprocessing, processor: Any) -> None:
    """Compare with the processor itself on images, since its code may do more than its settings
    show.

    Raises:
        ModelError: the processor's results differ.
    """
    std = torch.tensor(prepared.std).reshape(3, 1, 1)
    for image in _images():
        try:
            wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
        except Exception as error:
            raise _not_reproduced(processor, _reason(error)) from error
        got = prepared.inputs(image)
        if wanted.shape != got.shape:
            shapes = ["×".join(map(str, tensor.shape)) for tensor in (wanted, got)]
            raise _not_reproduced(processor, f"it returns {shapes[0]}, relook {shapes[1]}")
        difference = float(((wanted - got) * std).abs().mean())
        if not difference <= _TOLERANCE:
            raise _not_reproduced(
                processor, f"its pixels differ by {255 * difference:.2g}/255 on average"
            )


def _images() -> Iterator[Image.Image]:
    """Two images of smooth noise, whose sides leave odd margins beside a crop."""
    noise = np.random.default_rng(0).integers(0, 256, (75, 75, 3), np.uint8)
    for size in ((451, 300), (300, 453)):
        yield Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else first_line(error)


def _not_reproduced(processor: Any, reason: str) -> ModelError:
    return ModelError(
        f"the image processor {type(processor).__name__} is not one that relook can reproduce "
        f"({reason}); wrap the network in relook.Classifier(module, mean=..., std=..., "
        "input_size=...) yourself"
    )
