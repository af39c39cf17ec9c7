"""ONNX graphs: `read` and `walk` one, `build` others from it, and run them as a `network`."""

from relook.models.graph.network import OnnxNetwork
from relook.models.graph.read import Order

__all__ = ["OnnxNetwork", "Order"]
