"""Mask images: the image with everything hidden except the region of one class."""

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

    If the map of a class is 0 everywhere, its mask image shows nothing and is not run through the
    network.

    Attributes:
        attribution: the method that computes the map of each class.
        fill: what hidden pixels are replaced by: "black", "mean" or "blur". None means the fill of
            Score-CAM, so that masks and mask images agree, and "black" for other methods.
        threshold: map values up to this become 0; in [0, 1).
        hard: whether the remaining map values become 1, so that pixels are either kept or hidden.
        weights: the rule for the weight of each view, see `relook.looks.weights.weigh`.

    Raises:
        RelookError: a value is unknown or out of range.

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
        """The fill in use: `fill`, or the default for the attribution method."""
        if self.fill is None and isinstance(self.attribution, ScoreCAM):
            return self.attribution.hidden_as
        return self.fill or "black"

    def __call__(self, context: Context) -> SecondLook:
        """Return one mask image per class; those that show nothing are not run."""
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
            which = "the classes that were not" if found.any() else "any class, since none was"
            nowhere = (Note(f"mask images of {which} found in the image"),)
        return SecondLook(
            tuple(views), seen.forwards, seen.backwards, left_out=seen.notes, no_view=nowhere
        )
