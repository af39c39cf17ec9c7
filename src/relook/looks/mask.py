"""Mask images: the picture with all hidden but the region of one class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from relook.attribution import Attribution, Context, Note, ScoreCAM
from relook.errors import RelookError
from relook.fills import check_fill, fill_image, hide
from relook.looks.protocol import SecondLook, Views
from relook.looks.weights import check_rule, weigh


@dataclass(frozen=True)
class Mask:
    """The poster's second look (D. Maeng and J.-G. Baek, "CNN-based Class Probability Correction
    using Mask-image"): for each of the top-k classes M_i = X ⊙ L^{c_i}, weighted by Y[c_i].

    A class whose map is flat was found nowhere; the network is not asked about its mask image,
    which shows nothing.

    Attributes:
        attribution: where a class was seen.
        fill: what a hidden pixel becomes: "black", "mean" or "blur"; None is what
            Score-CAM hides with, so that both hide alike, and "black" for other attributions.
        threshold: map values ≤ threshold become 0.
        hard: a pixel is kept or hidden as a whole: all other map values become 1.
        weights: what a view's answer weighs, see `relook.looks.weights`.

    >>> corrector = relook.Corrector(classifier, k=2, look=relook.looks.Mask(relook.CAM()))
    >>> correction = corrector.correct("photo.jpg")
    >>> tuple(correction.mask_images.shape), correction.forwards
    ((2, 3, 224, 224), 3)
    """

    needs_activations: ClassVar[bool] = True
    needs_original: ClassVar[bool] = False

    attribution: Attribution = field(default_factory=ScoreCAM)
    fill: str | None = None
    threshold: float = 0.1
    hard: bool = False
    weights: str = "poster"

    def __post_init__(self) -> None:
        check_rule(self.weights)
        if self.fill is not None:
            check_fill(self.fill)
        if not 0 <= self.threshold < 1:
            raise RelookError(f"threshold must be in [0, 1), not {self.threshold}")

    @property
    def hidden_as(self) -> str:
        """The fill that is used."""
        if self.fill is None and isinstance(self.attribution, ScoreCAM):
            return self.attribution.hidden_as
        return self.fill or "black"

    def __call__(self, context: Context) -> SecondLook:
        """One mask image a class; the network is asked about those that show anything."""
        first, classes = context.first, context.classes
        seen = self.attribution(context)
        maps = seen.maps.masked_fill(seen.maps <= self.threshold, 0).to(first.pixels.dtype)
        kept = (maps > 0).to(maps.dtype) if self.hard else maps
        hidden = fill_image(self.hidden_as, first.pixels, context.classifier.mean)
        images = hide(first.pixels, kept, hidden)
        found = maps.flatten(1).any(dim=1)
        views = []
        for asked in (True, False):
            of = (found == asked).nonzero().squeeze(1)
            if len(of):
                weights = weigh(self.weights, first.probabilities, classes[of])
                views.append(Views(images[of], weights, of, "mask image", maps=maps, asked=asked))
        nowhere: tuple[Note, ...] = ()
        if not found.all():
            which = "some" if found.any() else "any"
            nowhere = (Note(f"a mask image of {which} of the classes, which were seen nowhere"),)
        return SecondLook(
            tuple(views), seen.forwards, seen.backwards, left_out=seen.notes, no_view=nowhere
        )
