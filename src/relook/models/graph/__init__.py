"""ONNX graphs: reading, analysing, modifying and running them."""

from relook.models.graph.network import OnnxNetwork
from relook.models.graph.read import Order

__all__ = ["OnnxNetwork", "Order"]
