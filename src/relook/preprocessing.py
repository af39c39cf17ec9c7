"""What happens to an image before the network gets it: resize, crop and normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.geometry import Geometry


@dataclass(frozen=True)
class Preprocessing:
    """Resize and crop to the network's input size, then (pixels − mean) / std.

    Attributes:
        geometry: resize and crop.
        mean: one value per colour channel, subtracted from pixels in [0, 1].
        std: one value per colour channel, which divides them.
    """

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scaled(self, input_size: tuple[int, int]) -> Preprocessing:
        """The same for another (height, width) of the network's input."""
        return replace(self, geometry=self.geometry.scaled(input_size))

    def inputs(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        """The network's input for an RGB image, in float32."""
        pixels = self.geometry.pixels(image)
        mean, std = (pixels.new_tensor(value).reshape(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std
