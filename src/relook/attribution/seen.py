"""Attribution of chosen classes for a photo, without a second look."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from relook.attribution.cam import CAM
from relook.attribution.context import Classes, Context, Progress, class_indices
from relook.attribution.grad_cam import GradCAM
from relook.attribution.protocol import Attribution
from relook.attribution.score_cam import ScoreCAM
from relook.classifier import Classifier
from relook.errors import NotFiniteError, RelookError
from relook.geometry import Box
from relook.images import ImageSource, WritableFile
from relook.labels import composed, plain
from relook.reading import Photo

METHODS: dict[str, type[Attribution]] = {"scorecam": ScoreCAM, "cam": CAM, "gradcam": GradCAM}
"""Attribution methods by name."""

_TOP = 5


@dataclass(frozen=True, repr=False)
class Seen:
    """Attribution maps of one image, as `relook.attribute` returns them. Tensors are on the CPU.

    Attributes:
        image: name of the image.
        classes: (k,), class indices in the requested order; by default most probable first.
        labels: (k,), class names.
        probabilities: (k,), class probabilities.
        maps: (k, H, W) in [0, 1], one map per class; all 0 if the class was not found.
        pixels: (3, H, W) in [0, 1], the network's crop of the image.
        original: the whole image, upright RGB.
        box: (left, top, right, bottom) of the crop, in pixels of the original.
        forwards: number of forward passes, one per image, including the first look.
        notes: what was skipped because the network does not support it, in words.

    >>> seen = classifier.attribution("photo.jpg", ["tabby", "Egyptian cat"], method="cam")
    >>> seen
    <Seen photo.jpg: tabby, Egyptian cat, 1 forwards>
    >>> seen.classes, tuple(seen.maps.shape), seen.original.size
    (tensor([281, 285]), (2, 224, 224), (451, 300))
    """

    image: str
    classes: Int[Tensor, " k"]
    labels: tuple[str, ...]
    probabilities: Float[Tensor, " k"]
    maps: Float[Tensor, "k h w"]
    pixels: Float[Tensor, "3 h w"]
    original: Image.Image
    box: Box
    forwards: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Seen {self.image}: {', '.join(self.labels)}, {self.forwards} forwards>"

    def overlay(self, of: int | str | None = None) -> Image.Image:
        """Draw the map of one class over the network's crop, at the network's input size.

        Args:
            of: index or name of the class; the first of `classes` by default.

        Raises:
            RelookError: the class is not among `classes`.

        >>> import relook
        >>> from relook.demo import photos
        >>> classifier = relook.load("bundled/efficientnet_lite0")
        >>> seen = classifier.attribution(photos()[0], classes=["tabby"], method="cam")
        >>> seen.overlay("tabby").size
        (224, 224)
        """
        from relook.report.tiles import map_tile  # here, since report builds on attribution

        wanted = 0 if of is None else self._place(of)
        return map_tile(self.pixels, self.maps[wanted])

    def save_picture(self, file: str | os.PathLike[str] | WritableFile) -> None:
        """Save the photo and, over it, the map of each class as a PNG file.

        Args:
            file: a path that ends in .png, or a file that is open for writing in binary mode.

        Raises:
            RelookError: the file name does not end in .png.
            OSError: the file cannot be written.
        """
        from relook.report.picture import save_maps

        save_maps(self, file)

    def _place(self, of: int | str) -> int:
        for place, (c, label) in enumerate(zip(self.classes.tolist(), self.labels, strict=True)):
            if of in (c, label):
                return place
        indices = self.classes.tolist()
        known = ", ".join(f"{c} ({m})" for c, m in zip(indices, self.labels, strict=True))
        raise RelookError(f"no map of class {of!r} was computed; choose one of {known}")


def attribute(
    classifier: Classifier,
    image: ImageSource,
    classes: Classes | str | Iterable[int | str] | None = None,
    method: str | Attribution | None = None,
    progress: Progress | None = None,
) -> Seen:
    """Compute where the network sees each of the given classes in an image.

    Args:
        classifier: the classifier; it needs a target layer.
        image: a path, open file, PIL image or array (see `relook.images.open_image`).
        classes: one or several class indices or names. Case, spaces, dashes and underscores in
            names may differ from the label if the name remains unambiguous. None means the five
            most probable classes.
        method: "scorecam" (exact, the default), "cam", "gradcam", or an object such as
            `relook.ScoreCAM(budget="fast")`.
        progress: called with (forward passes done, forward passes in total).

    Raises:
        ImageError: the image cannot be read.
        ModelError: the network has no target layer, or the method does not support the network.
        RelookError: a class or the method is unknown.
        NotFiniteError: the network returned NaN or infinity.

    >>> import relook
    >>> from relook.demo import photos
    >>> classifier = relook.load("bundled/efficientnet_lite0")
    >>> seen = relook.attribute(classifier, photos()[0], ["tiger cat", 285], method="cam")
    >>> seen.labels, tuple(seen.maps.shape), seen.forwards
    (('tiger cat', 'Egyptian cat'), (2, 224, 224), 1)
    """
    if not isinstance(classifier, Classifier):
        raise RelookError(
            f"attribute needs a relook.Classifier, not a {type(classifier).__name__}: "
            'relook.attribute(classifier, "photo.jpg")'
        )
    asked = _method(method)
    wanted = None if classes is None else named_classes(classifier, classes)
    photo = Photo.read(image, classifier)
    try:
        [first] = classifier.first_looks(photo.pixels.unsqueeze(0), True, [photo.original])
        if wanted is None:
            wanted = first.probabilities.topk(min(_TOP, len(first.probabilities))).indices
        seen = asked(Context(classifier, first, wanted, progress))
    except NotFiniteError as error:
        raise NotFiniteError(f"{photo.name}: {error}") from error
    wanted = wanted.cpu()
    return Seen(
        image=photo.name,
        classes=wanted,
        labels=tuple(classifier.labels[c] for c in wanted.tolist()),
        probabilities=first.probabilities.cpu()[wanted],
        maps=seen.maps.cpu(),
        pixels=photo.pixels,
        original=photo.original,
        box=classifier.geometry.crop_box(*photo.original.size),
        forwards=1 + seen.forwards,
        notes=tuple(map(str, seen.notes)),
    )


def _method(method: str | Attribution | None) -> Attribution:
    if method is None:
        return ScoreCAM()
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if isinstance(method, str | type) or not callable(method):
        raise RelookError(
            f"method {method!r} is unknown; choose one of {', '.join(METHODS)}, or pass an object "
            "such as relook.ScoreCAM()"
        )
    return method


def named_classes(
    classifier: Classifier, classes: Classes | str | Iterable[int | str]
) -> Int[Tensor, " k"]:
    """Convert class indices or names to indices.

    Raises:
        RelookError: a class is unknown, or several classes have the name.
    """
    if isinstance(classes, str):
        classes = [classes]
    if isinstance(classes, Set | Mapping):
        raise RelookError(
            f"classes must be an ordered collection, not a {type(classes).__name__}; pass a list, "
            "such as [281, 285]"
        )
    if isinstance(classes, Iterable) and not isinstance(classes, Tensor | np.ndarray | np.generic):
        labels = classifier.labels
        classes = [_named(labels, c) if isinstance(c, str) else c for c in classes]
    return class_indices(classifier, classes)


def _named(labels: Sequence[str], name: str) -> int:
    """Find the class with this label, or else the only one with the same simplified label."""
    for form in (str, composed, plain):
        found = [c for c, label in enumerate(labels) if form(label) == form(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise RelookError(
                f"{len(found)} classes are called {name!r}: {', '.join(map(str, found))}; pass the "
                "index"
            )
    simple = {plain(label): label for label in labels}
    holding = [label for label in simple if plain(name) in label.split()]
    close = holding[:5] or difflib.get_close_matches(plain(name), simple, n=3, cutoff=0.6)
    closest = f"; closest: {', '.join(repr(simple[c]) for c in close)}" if close else ""
    raise RelookError(f"no class is called {name!r}{closest}")
