"""A second look: views of the image, each with a weight for every class."""

from __future__ import annotations

import math
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
    """A batch of images of one size for a network, and the weights of their answers.

    Attributes:
        pixels: (n, 3, h, w) in [0, 1].
        weights: (n, C), the weights in R = sum_i weights_i ⊙ f(pixels_i).
        of: (n,), index into the top-k classes of the class that each view was made for; None if the
            views do not belong to classes.
        what: short description for pictures and pages, such as "mask image".
        boxes: (left, top, right, bottom) of the part of the image that each view was cut from, in
            pixels of `FirstLook.extent`; None if the views were not cut from the image.
        by: the network to run on the views, which answers in its own class order (see
            `relook.cascade.class_order`); None for the corrector's own classifier.
        maps: (k, H, W) in [0, 1], the attribution maps that the views are based on, one per top-k
            class, with faint values set to 0; None for views without maps.
        asked: whether the network is run on the views; if False, they are only displayed.

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
        """Cut views from the image, each with the same weight for all classes.

        Args:
            context: the image.
            boxes: one or more boxes, in pixels of `context.extent`.
            what: short description of the views.
            size: (height, width) of the views; the size of the first look by default.
            weight: weight of each answer; the first answer weighs 1.
        """
        pixels = torch.stack([context.cut(box, size) for box in boxes])
        weights = torch.full_like(context.first.probabilities, weight).expand(len(boxes), -1)
        return cls(pixels, weights, what=what, boxes=boxes)

    def about(self, k: int) -> Views:
        """Return only the views of the first k classes, and the views that belong to no class."""
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
    """The views of one image, and what computing them took.

    Attributes:
        views: batches of at least one view each; empty if the look has no view of the image.
        forwards: number of forward passes spent on attribution maps.
        backwards: number of backward passes spent on attribution maps.
        left_out: what was skipped because the network does not support it.
        no_view: what was skipped because this image has no such view.
        in_turn: whether the batches are run one after the other until the answer is settled,
            instead of all at once.

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
        """The views that are run through a network."""
        return tuple(views for views in self.views if views.asked)

    @property
    def maps(self) -> Float[Tensor, "k h w"] | None:
        """The attribution maps of the first views that have any; None if there are none."""
        return next((views.maps for views in self.views if views.maps is not None), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that was skipped, in words: `left_out`, then `no_view`."""
        return tuple(map(str, self.left_out + self.no_view))

    def with_instead(self, instead: str) -> SecondLook:
        """Return a copy in which each note that names no replacement names `instead`."""
        left_out, no_view = (
            tuple(note if note.instead else replace(note, instead=instead) for note in notes)
            for notes in (self.left_out, self.no_view)
        )
        return replace(self, left_out=left_out, no_view=no_view)


@runtime_checkable
class Look(Protocol):
    """A second look: a function from one image and its first answer to further views of it.

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
        """Whether the look uses the target layer's maps from the first look."""
        ...

    @property
    def needs_original(self) -> bool:
        """Whether views are cut from the original image, if it is available."""
        ...

    def __call__(self, context: Context) -> SecondLook:
        """Return the views of one image; `context.classes` are its top-k classes."""
        ...


def detail(look: Look) -> float:
    """Return the largest scale, relative to the first look, at which a look sees the original.

    Large photos can be decoded at a smaller size if this is known. A look says it in
    an attribute `detail`; without the attribute it is infinity, or 1 if the original is not used.

    >>> relook.looks.detail(relook.looks.Uncropped()), relook.looks.detail(relook.looks.Zoom())
    (1.0, 4.0)
    """
    return float(getattr(look, "detail", math.inf if look.needs_original else 1.0))


def keeps_maps(look: Look, classifier: Classifier) -> bool:
    """Whether first looks keep the target layer's maps: the look uses them, and the layer exists.

    >>> relook.looks.keeps_maps(relook.looks.Zoom(), classifier)
    True
    >>> relook.looks.keeps_maps(relook.looks.Flip(), classifier)
    False
    """
    return look.needs_activations and classifier.has_target_layer


def needs_layer(look: Look) -> bool:
    """Whether the look requires a target layer.

    A look that uses the maps if there are any, but works without them, has a property
    `needs_layer` that is False. Without the property, `needs_activations` decides.

    >>> relook.looks.needs_layer(relook.looks.Zoom())
    True
    >>> relook.looks.needs_layer(relook.looks.Zoom(required=False))
    False
    """
    return bool(getattr(look, "needs_layer", look.needs_activations))
