"""`relook.export`: a classifier as an ONNX file, with what the file does not say beside it."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from relook.answers import class_outputs
from relook.classifier import Classifier
from relook.engines.exported import export as write_onnx
from relook.errors import ModelError, first_line
from relook.layers import evaluating, layers_of
from relook.models.graph import OnnxNetwork
from relook.probing import probing_pixels
from relook.record import Record
from relook.target import Target

# How far the written network may be off, relative to the largest value.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}


class _WithMaps(nn.Module):
    """The network's answer and what its target layer puts out, in whatever order that has."""

    def __init__(self, network: nn.Module, layer: str | None) -> None:
        super().__init__()
        self.network = network
        self._layer = layer

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        if self._layer is None:
            return (class_outputs(self.network(inputs)),)
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[:] = [output if isinstance(output, Tensor) else output[0]]

        handle = self.network.get_submodule(self._layer).register_forward_hook(keep)
        try:
            return class_outputs(self.network(inputs)), *seen
        finally:
            handle.remove()


def export(classifier: Classifier, file: str | os.PathLike[str]) -> Path:
    """Write the network to an ONNX file, for any batch size and its own input size.

    Beside it comes a .json of the same name: preprocessing, labels, and the name of the node that
    is the target layer. `relook.load(file)` reads both; other runtimes need the first alone. What
    was written is run, and compared with the network, before this returns.

    Args:
        classifier: of a PyTorch network; it stays as it is.
        file: to write; one that is there is replaced.

    Returns:
        The path of the .json.

    Raises:
        ModelError: the network cannot be exported, or the file answers differently.

    >>> small = relook.load("timm/test_resnet", pretrained=False)
    >>> relook.export(small, "small.onnx").name
    'small.json'
    >>> relook.load("small.onnx").input_size == small.input_size
    True
    """
    path = Path(file).expanduser()
    if path.suffix.lower() != ".onnx":
        raise ModelError(f"{path}: name a file that ends in .onnx")
    if not classifier.in_pytorch:
        raise ModelError(f"{classifier.name}: is an ONNX file already")
    if classifier.dtype not in _TOLERANCE:
        raise ModelError(
            f"{classifier.name}: is in {classifier.dtype}, which ONNX Runtime does not run; "
            "load it as float32 (--dtype float32)"
        )
    network = classifier.network
    if classifier.device.type != "cpu":
        network = copy.deepcopy(network).cpu()
    example = classifier.normalised(classifier.noise()).cpu().to(classifier.dtype)
    layer = classifier.target_layer if classifier.has_target_layer else None
    names = ("y",) if layer is None else ("y", "maps")
    with tempfile.TemporaryDirectory(prefix="relook-") as folder:
        written = Path(folder) / "network.onnx"
        try:
            with evaluating(network):
                write_onnx(_WithMaps(network, layer), example, written, names)
            model = onnx.load(written)
        except Exception as error:  # what an exporter raises is not bounded
            raise ModelError(
                f"{classifier.name}: cannot be exported to ONNX ({first_line(error)})"
            ) from error
        for made in model.graph.node:  # the names that the modules have in the network itself
            made.name = made.name.removeprefix("/network")
        node = None if layer is None else _drop_maps(model)
        try:
            onnx.save(model, written)
            node = _checked(written, classifier, example, node)
            # Only what is right takes the place of what was there.
            shutil.copyfile(written, path)
            known = replace(Record.of_classifier(classifier), layout="NCHW", target_layer=node)
            return (known if node else replace(known, token_grid=None)).write(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be written ({first_line(error)})") from error


def _drop_maps(model: onnx.ModelProto) -> str | None:
    """Leave the answer as the only output; the name of the node that the maps came from."""
    [maps] = [output for output in model.graph.output if output.name == "maps"]
    model.graph.output.remove(maps)
    [node] = [node for node in model.graph.node if "maps" in node.output]
    if node.op_type == "Identity":  # the exporter's, only to give the output its name
        source = node.input[0]
        model.graph.node.remove(node)
        found = [other for other in model.graph.node if source in other.output]
        return str(found[0].name) if found else None
    return str(node.name)


def _checked(
    written: Path, classifier: Classifier, example: Tensor, node: str | None
) -> str | None:
    """The node, if it gives the target layer's maps; an error if the answers are others."""
    tolerance = _TOLERANCE[classifier.dtype]
    # Not of the one image that was traced, for which everything may have been a constant: noise,
    # black and white, nearly white; together, and each alone.
    pixels = probing_pixels(*classifier.input_size)[[0, 3, 5]]
    images = classifier.normalised(pixels).cpu().to(classifier.dtype)
    network, maps = classifier.network, []
    try:
        with torch.no_grad(), evaluating(network), contextlib.ExitStack() as stack:
            asked = [images.to(classifier.device), *images.to(classifier.device).split(1)]
            alone = [class_outputs(network(each)) for each in asked[1:]]
            if node is not None:
                maps = stack.enter_context(layers_of(network).recording(classifier.target))
            expected = torch.cat([class_outputs(network(asked[0])), *alone])
        graph = OnnxNetwork(written, "NCHW", "cpu")
        found = torch.cat([graph(each) for each in (images, *images.split(1))])
    except (ModelError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{classifier.name}: it or its export does not run for three images at once "
            f"({first_line(error)}); nothing is written"
        ) from error
    difference = _error(found, expected)
    if difference > tolerance:
        raise ModelError(
            f"{classifier.name}: its export answers differently (by {difference:.1e} of the "
            "largest output); nothing is written"
        )
    if node is None:
        return None
    try:
        with graph.recording(Target(node, classifier.layout)) as own:
            graph(images)
    except (KeyError, RuntimeError):
        return None
    same = own and own[0].shape == maps[0].shape and _error(own[0], maps[0]) < tolerance
    return node if same else None


def _error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest value."""
    if found.shape != expected.shape:
        return float("inf")
    expected = expected.cpu().float()
    return float((found.float() - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
