"""Access to the network inside DataParallel and torch.compile, whose layers can be hooked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel or torch.compile's wrapper."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(original := getattr(module, "_orig_mod", None), nn.Module):
            module = original
        else:
            return module


@contextlib.contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Run compiled parts of a network without compilation, so that hooks are called."""
    compiled = any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None)
        for module in network.modules()
    )
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):  # process-wide; needs the lock of `exclusive`
        yield
