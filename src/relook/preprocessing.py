"""Preprocessing of an image for the network: resize, crop and normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.geometry import Geometry


@dataclass(frozen=True)
class Preprocessing:
    """Resize and crop to the network's input size, and normalise: (pixels − mean) / std.

    Attributes:
        geometry: resize and crop.
        mean: one value per colour channel, for pixels in [0, 1].
        std: one value per colour channel, for pixels in [0, 1].
    """

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scaled(self, input_size: tuple[int, int]) -> Preprocessing:
        """This preprocessing for another input size, (height, width)."""
        return replace(self, geometry=self.geometry.scaled(input_size))

    def inputs(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        """The normalised float32 input of the network for an RGB image."""
        pixels = self.geometry.pixels(image)
        mean, std = (pixels.new_tensor(value).reshape(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std
