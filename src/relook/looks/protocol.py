"""A second look: views of the image, each with a weight for every class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relook.attribution import Context, Note
from relook.classifier import Classifier
from relook.geometry import Box


@dataclass(frozen=True)
class Views:
    """Images of one size to ask a network about, and what their answers weigh.

    Attributes:
        pixels: (n, 3, h, w) in [0, 1].
        weights: (n, C): R = sum_i weights_i ⊙ f(pixels_i).
        of: (n,), for a view made for one of the top-k classes the place of that class among them;
            None for views made for no class.
        what: in a few words, what they show; for pictures and pages.
        boxes: (left, top, right, bottom) of the part of the image that each view was cut from, in
            pixels of `FirstLook.extent`; None where they were not cut from the image.
        by: the network that answers, in whose order of classes its answers then are (see
            `relook.cascade.class_order`); None for the corrector's own.
        maps: (k, H, W) in [0, 1], for views that attribution maps led to: where each of the top-k
            classes was seen, faint values set to 0; None for other views.
        asked: whether the network is asked about them; if not, they are only shown.

    >>> [first] = classifier.first_looks(torch.rand(1, 3, 224, 224))
    >>> context = relook.attribution.Context(classifier, first, [281])
    >>> corners = (0, 0, 112, 112), (112, 112, 224, 224)
    >>> views = relook.looks.Views.cut(context, *corners, what="corner")
    >>> tuple(views.pixels.shape), tuple(views.weights.shape)
    ((2, 3, 224, 224), (2, 1000))
    """

    pixels: Float[Tensor, "n 3 h w"]
    weights: Float[Tensor, "n c"]
    of: Int[Tensor, " n"] | None = None
    what: str = "view"
    boxes: tuple[Box, ...] | None = None
    by: Classifier | None = None
    maps: Float[Tensor, "k u v"] | None = None
    asked: bool = True

    @classmethod
    def cut(
        cls,
        context: Context,
        *boxes: Box,
        what: str,
        size: tuple[int, int] | None = None,
        weight: float = 1.0,
    ) -> Views:
        """Of parts of the image, each with the same weight for all classes.

        Args:
            context: the image.
            boxes: in pixels of `context.extent`; at least one.
            what: they show.
            size: (height, width) to bring them to; that of the first look by default.
            weight: of each answer; the first answer weighs 1.
        """
        pixels = torch.stack([context.cut(box, size) for box in boxes])
        weights = torch.full_like(context.first.probabilities, weight).expand(len(boxes), -1)
        return cls(pixels, weights, what=what, boxes=boxes)

    def about(self, k: int) -> Views:
        """Those of them that were made for one of the first k classes, or for no class."""
        maps = None if self.maps is None else self.maps[:k]
        if self.of is None:
            return replace(self, maps=maps)
        kept = self.of < k
        boxes = self.boxes
        if boxes is not None:
            boxes = tuple(compress(boxes, kept.tolist()))
        return replace(
            self,
            pixels=self.pixels[kept],
            weights=self.weights[kept],
            of=self.of[kept],
            boxes=boxes,
            maps=maps,
        )


@dataclass(frozen=True)
class SecondLook:
    """All that a look wants to ask about one image, and what it saw on the way.

    Attributes:
        views: batches of at least one view each; empty where there is nothing to ask about.
        forwards: images that went through the network for the maps.
        backwards: how many times gradients went back through it for them.
        left_out: what the look does without because the network does not allow it.
        no_view: what it does without because this image has no such view.
        in_turn: whether the batches of views are asked about one after the other, until the answer
            is settled, and not all at once.

    >>> [first] = classifier.first_looks(torch.rand(1, 3, 224, 224))
    >>> second = relook.looks.Flip()(relook.attribution.Context(classifier, first, [281]))
    >>> [views.what for views in second.views], second.forwards, second.notes
    (['mirror image'], 0, ())
    """

    views: tuple[Views, ...] = ()
    forwards: int = 0
    backwards: int = 0
    left_out: tuple[Note, ...] = ()
    no_view: tuple[Note, ...] = ()
    in_turn: bool = False

    @property
    def asked(self) -> tuple[Views, ...]:
        """The views that the network is asked about."""
        return tuple(views for views in self.views if views.asked)

    @property
    def maps(self) -> Float[Tensor, "k h w"] | None:
        """The attribution maps that views were made by, of the first views that have any."""
        return next((views.maps for views in self.views if views.maps is not None), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """All that the look does without, in words."""
        return tuple(map(str, self.left_out + self.no_view))

    def with_instead(self, instead: str) -> SecondLook:
        """The same, with what there is instead in each note that does not say so yet."""
        left_out, no_view = (
            tuple(note if note.instead else replace(note, instead=instead) for note in notes)
            for notes in (self.left_out, self.no_view)
        )
        return replace(self, left_out=left_out, no_view=no_view)


@runtime_checkable
class Look(Protocol):
    """A way to look again.

    >>> class UpsideDown:
    ...     needs_activations = needs_original = False
    ...     def __call__(self, context):
    ...         pixels = context.first.pixels.flip(1).unsqueeze(0)
    ...         weights = torch.ones(1, len(context.classifier.labels))
    ...         views = relook.looks.Views(pixels, weights, what="upside down")
    ...         return relook.looks.SecondLook((views,))
    >>> correction = relook.Corrector(classifier, look=UpsideDown()).correct("photo.jpg")
    >>> [view.what for view in correction.views]
    ['upside down']
    """

    @property
    def needs_activations(self) -> bool:
        """Whether the first look has to keep the target layer's maps."""
        ...

    @property
    def needs_original(self) -> bool:
        """Whether views are cut from the original image, where there is one."""
        ...

    def __call__(self, context: Context) -> SecondLook:
        """The views of one image, of which `context.classes` are the top-k classes."""
        ...


def keeps_maps(look: Look, classifier: Classifier) -> bool:
    """Whether first looks keep the target layer's maps for this look, if there is such a layer.

    >>> relook.looks.keeps_maps(relook.looks.Zoom(), classifier)
    True
    >>> relook.looks.keeps_maps(relook.looks.Flip(), classifier)
    False
    """
    return look.needs_activations and classifier.has_target_layer


def needs_layer(look: Look) -> bool:
    """Whether the look cannot do without a target layer; one that only makes use of it says so with
    a property of that name.

    >>> relook.looks.needs_layer(relook.looks.Zoom())
    True
    >>> relook.looks.needs_layer(relook.looks.Zoom(required=False))
    False
    """
    return bool(getattr(look, "needs_layer", look.needs_activations))
