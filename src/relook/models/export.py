"""`relook.export`: write a classifier as an ONNX file, with its preprocessing in a JSON file."""

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

# Largest error of the exported network, relative to the largest value.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}


class _WithMaps(nn.Module):
    """A network that returns its class outputs and the unchanged output of its target layer."""

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

    A .json file of the same name is written beside it, with preprocessing, labels and the name of
    the target layer's node. `relook.load(file)` reads both; other runtimes need only the ONNX file.
    The exported network is run and compared with the original before anything is written.

    Args:
        classifier: classifier with a PyTorch network; it is not changed.
        file: path ending in .onnx; an existing file is replaced.

    Returns:
        Path of the .json file.

    Raises:
        ModelError: the network cannot be exported, or the exported network's answers differ.

    >>> small = relook.load("timm/test_resnet", pretrained=False)
    >>> relook.export(small, "small.onnx").name
    'small.json'
    >>> relook.load("small.onnx").input_size == small.input_size
    True
    """
    path = Path(file).expanduser()
    if path.suffix.lower() != ".onnx":
        raise ModelError(f"{path}: must end in .onnx")
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
        except Exception as error:  # an exporter may raise anything
            raise ModelError(
                f"{classifier.name}: cannot be exported to ONNX ({first_line(error)})"
            ) from error
        for made in model.graph.node:  # name nodes by the network's own modules
            made.name = made.name.removeprefix("/network")
        node = None if layer is None else _drop_maps(model)
        try:
            onnx.save(model, written)
            node = _checked(written, classifier, example, node)
            # An existing file is replaced only after the check.
            shutil.copyfile(written, path)
            known = replace(Record.of_classifier(classifier), layout="NCHW", target_layer=node)
            return (known if node else replace(known, token_grid=None)).write(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be written ({first_line(error)})") from error


def _drop_maps(model: onnx.ModelProto) -> str | None:
    """Remove the output "maps" and return the name of the node that computes it."""
    [maps] = [output for output in model.graph.output if output.name == "maps"]
    model.graph.output.remove(maps)
    [node] = [node for node in model.graph.node if "maps" in node.output]
    if node.op_type == "Identity":  # added by the exporter to name the output
        source = node.input[0]
        model.graph.node.remove(node)
        found = [other for other in model.graph.node if source in other.output]
        return str(found[0].name) if found else None
    return str(node.name)


def _checked(
    written: Path, classifier: Classifier, example: Tensor, node: str | None
) -> str | None:
    """Compare the exported network with the original.

    Returns:
        `node` if its output is that of the target layer, else None.

    Raises:
        ModelError: the answers differ, or the exported network does not run.
    """
    tolerance = _TOLERANCE[classifier.dtype]
    # Other images than the traced one, whose values may have become constants: noise, black and
    # white blocks, nearly white noise; in a batch and one by one.
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
            f"{classifier.name}: the network or its export fails on three images at once "
            f"({first_line(error)}); nothing was written"
        ) from error
    difference = _error(found, expected)
    if difference > tolerance:
        raise ModelError(
            f"{classifier.name}: the exported network's outputs differ (by {difference:.1e} of "
            "the largest output); nothing was written"
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
    """Largest difference, relative to the largest expected value; infinite if shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    expected = expected.cpu().float()
    return float((found.float() - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
