"""First looks at images: what the network saw and answered, and how to see other parts."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class FirstLooks:
    """First looks at many images, column by column; an item is the `FirstLook` at one image.

    >>> looks = classifier.first_look_batch(torch.rand(3, 3, 224, 224))
    >>> len(looks), tuple(looks.probabilities.shape)
    (3, (3, 1000))
    >>> looks[0].size
    (224, 224)

    Attributes:
        geometry: the classifier's resize and crop, which brought the originals to these pixels.
        pixels: (n, 3, H, W) in [0, 1].
        probabilities: (n, C), class probabilities.
        outputs: (n, C), the network's raw outputs.
        activations: (n, K, h, w), the target layer's maps; None if they were not recorded.
        originals: for each image the whole image that its pixels were cut from, or None; None if
            only pixels are known of all images.
    """

    geometry: Geometry
    pixels: Float[Tensor, "n 3 h w"]
    probabilities: Float[Tensor, "n c"]
    outputs: Float[Tensor, "n c"]
    activations: Float[Tensor, "n k u v"] | None
    originals: Sequence[Image.Image | None] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> FirstLook:
        """The first look at one image; its tensors are views of the columns."""
        return FirstLook(
            self.geometry,
            self.pixels[index],
            self.probabilities[index],
            self.outputs[index],
            None if self.activations is None else self.activations[index],
            None if self.originals is None else self.originals[index],
        )
