"""The first look at an image: what the network saw and answered, and how to see other parts."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.geometry import Box, Geometry, cut_pixels


@dataclass(frozen=True)
class FirstLook:
    """The network's answer for one image, with the target layer's maps from the same pass.

    Attributes:
        geometry: the classifier's resize and crop, which brought the original to these pixels.
        pixels: (3, H, W) in [0, 1].
        probabilities: (C,), class probabilities Y = f(X).
        outputs: (C,), the network's raw outputs.
        activations: (K, h, w), the target layer's maps A_k; None if they were not recorded.
        original: the whole image that the pixels were cut from; None where only pixels are known.
    """

    geometry: Geometry
    pixels: Float[Tensor, "3 h w"]
    probabilities: Float[Tensor, " c"]
    outputs: Float[Tensor, " c"]
    activations: Float[Tensor, "k u v"] | None
    original: Image.Image | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def extent(self) -> tuple[int, int]:
        """(width, height) of what there is to cut views from: the original, else the pixels."""
        if self.original is not None:
            return self.original.width, self.original.height
        return self.pixels.shape[2], self.pixels.shape[1]

    @property
    def shown(self) -> Box:
        """The part of the image, `extent` large, that the pixels show."""
        if self.original is None:
            width, height = self.extent
            return (0.0, 0.0, float(width), float(height))
        return self.geometry.crop_box(*self.extent)

    def cut(self, box: Box, size: tuple[int, int] | None = None) -> Float[Tensor, "3 h w"]:
        """Pixels in [0, 1] of any box of the image, on the device of the first look.

        They are cut from the original, where the fine detail is; where only pixels are known,
        from those, and the box is widened to whole ones.

        Args:
            box: in pixels of `extent`; parts outside are cut off.
            size: (height, width) to bring the box to; that of the first look by default.

        Raises:
            RelookError: the box has no area inside the image.
        """
        size = size or self.size
        if self.original is not None:
            return self.geometry.pixels(self.original, box, size).to(self.pixels)
        return cut_pixels(self.pixels, box, size)
