"""Digests by which networks and lists of labels are recognised."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from relook.classifier import Classifier


def weights_digest(classifier: Classifier) -> str:
    """Return a digest of a network's layers and weights, which differs between networks."""
    digest = hashlib.sha256()
    for name, module in classifier.network.named_modules():
        digest.update(f"{name} {_module(module)}".encode())
    for name, tensor in classifier.network.state_dict().items():
        if isinstance(tensor, Tensor):
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(content.numpy().tobytes())
    return digest.hexdigest()[:16]


def labels_digest(classifier: Classifier) -> str:
    """Return a digest of the names of a classifier's classes, in their order."""
    return text_digest("\0".join(classifier.labels))


def text_digest(text: str) -> str:
    """Return a digest of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _module(module: nn.Module) -> str:
    """Describe a layer by class and options; without the class if it is one of relook's own."""
    own = type(module).__module__.partition(".")[0] == "relook"
    return f"{'' if own else type(module).__name__}({module.extra_repr()})"
