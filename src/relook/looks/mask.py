"""Mask images: the picture with all hidden but the region of one class."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from relook.attribution import Attribution, Progress, ScoreCAM
from relook.classifier import Classifier, FirstLook
from relook.errors import RelookError
from relook.fills import check_fill, fill_image, hide
from relook.looks.protocol import SecondLook, Views


@dataclass(frozen=True)
class Mask:
    """The poster's second look (D. Maeng and J.-G. Baek, "CNN-based Class Probability Correction
    using Mask-image"): for each of the top-k classes M_i = X ⊙ L^{c_i}, weighted by Y[c_i].

    A class whose map is flat was found nowhere; it gets no view.

    Attributes:
        attribution: where a class was seen.
        fill: what a hidden pixel becomes: "black", "mean" or "blur"; None is what
            Score-CAM hides with, so that both hide alike, and "black" for other attributions.
        threshold: map values ≤ threshold become 0.
    """

    attribution: Attribution = field(default_factory=ScoreCAM)
    fill: str | None = None
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.fill is not None:
            check_fill(self.fill)
        if not 0 <= self.threshold < 1:
            raise RelookError(f"threshold must be in [0, 1), not {self.threshold}")

    @property
    def needs_activations(self) -> bool:
        """Attribution is made of the target layer's maps."""
        return True

    @property
    def needs_original(self) -> bool:
        """What is hidden are the pixels that the network saw."""
        return False

    @property
    def hidden_as(self) -> str:
        """The fill that is used."""
        if self.fill is None and isinstance(self.attribution, ScoreCAM):
            return self.attribution.hidden_as
        return self.fill or "black"

    def __call__(
        self,
        classifier: Classifier,
        first: FirstLook,
        classes: Int[Tensor, " k"],
        progress: Progress | None = None,
    ) -> SecondLook:
        """One mask image a class, and a view of each that shows anything."""
        seen = self.attribution(classifier, first, classes, progress)
        maps = seen.maps.masked_fill(seen.maps <= self.threshold, 0).to(first.pixels.dtype)
        hidden = fill_image(self.hidden_as, first.pixels, classifier.mean)
        images = hide(first.pixels, maps, hidden)
        found = maps.flatten(1).any(dim=1).nonzero().squeeze(1)
        weights = first.probabilities[classes[found]]
        views = Views(
            pixels=images[found],
            weights=weights.unsqueeze(1).expand(-1, len(first.probabilities)),
            of=found,
        )
        return SecondLook((views,) if len(found) else (), maps, images, seen.forwards)
