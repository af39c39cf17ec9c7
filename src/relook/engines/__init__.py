"""Faster forms of a network, for many forward passes."""

from relook.engines.choice import Engines, Run
from relook.engines.exported import OnnxRuntime
from relook.engines.folded import Folded

__all__ = ["Engines", "Folded", "OnnxRuntime", "Run"]
