"""From a photo to maps of chosen classes: attribution without a second look."""

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
"""The methods that have a name."""

_TOP = 5


@dataclass(frozen=True, repr=False)
class Seen:
    """Where classes were seen in one image. Tensors are on the CPU.

    Attributes:
        image: the image's name.
        classes: (k,), class indices in the order asked for; by default most probable first.
        labels: (k,), their names.
        probabilities: (k,), their class probabilities.
        maps: (k, H, W) in [0, 1], one a class; all 0 where a class was seen nowhere.
        pixels: (3, H, W) in [0, 1], what the network saw.
        original: the whole image, upright RGB.
        box: the part of the original that the pixels show, in its own pixels.
        forwards: images that went through the network.
        notes: what the method did without because the network does not allow it, in words.

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
        """One class's map over what the network saw: an image of its input size.

        Args:
            of: the class's index or name; the first of `classes` by default.

        Raises:
            RelookError: this class is not among `classes`.

        >>> import relook
        >>> from relook.demo import photos
        >>> classifier = relook.load("bundled/efficientnet_lite0")
        >>> seen = classifier.attribution(photos()[0], classes=["tabby"], method="cam")
        >>> seen.overlay("tabby").size
        (224, 224)
        """
        from relook.report.tiles import map_tile  # a drawing of it, two floors up

        wanted = 0 if of is None else self._place(of)
        return map_tile(self.pixels, self.maps[wanted])

    def save_picture(self, file: str | os.PathLike[str] | WritableFile) -> None:
        """Write the photo and the map of each class over it as a PNG file.

        Args:
            file: a path that ends in .png, or a file that is open for writing bytes.

        Raises:
            RelookError: the file's name does not end in .png.
            OSError: it cannot be written.
        """
        from relook.report.picture import save_maps

        save_maps(self, file)

    def _place(self, of: int | str) -> int:
        for place, (c, label) in enumerate(zip(self.classes.tolist(), self.labels, strict=True)):
            if of in (c, label):
                return place
        indices = self.classes.tolist()
        known = ", ".join(f"{c} ({m})" for c, m in zip(indices, self.labels, strict=True))
        raise RelookError(f"there is no map of class {of!r}; there are those of {known}")


def attribute(
    classifier: Classifier,
    image: ImageSource,
    classes: Classes | str | Iterable[int | str] | None = None,
    method: str | Attribution | None = None,
    progress: Progress | None = None,
) -> Seen:
    """Where the network sees each of these classes in an image.

    Args:
        classifier: with a target layer.
        image: a path, open file, PIL image or array (see `relook.images.open_image`).
        classes: indices or names, one or several: a name is a label, or the same as just one
            label once case, spaces, dashes and underscores are set aside. None is the five most
            probable classes.
        method: "scorecam" (exact, the default), "cam", "gradcam", or an object such as
            `relook.ScoreCAM(budget="fast")`.
        progress: told (forwards done, forwards in all).

    Raises:
        ImageError: the image cannot be read.
        ModelError: there is no target layer, or the method does not go with the network.
        RelookError: there is no such class or method.
        NotFiniteError: the network answered NaN.

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
    """The indices of classes that are given by index or by name.

    Raises:
        RelookError: there is no such class, or several of that name.
    """
    if isinstance(classes, str):
        classes = [classes]
    if isinstance(classes, Set | Mapping):
        raise RelookError(
            f"classes must be in an order, which a {type(classes).__name__} has not; pass a list, "
            "such as [281, 285]"
        )
    if isinstance(classes, Iterable) and not isinstance(classes, Tensor | np.ndarray | np.generic):
        labels = classifier.labels
        classes = [_named(labels, c) if isinstance(c, str) else c for c in classes]
    return class_indices(classifier, classes)


def _named(labels: Sequence[str], name: str) -> int:
    """The class of that label; else the only one whose simplified label is the same."""
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
