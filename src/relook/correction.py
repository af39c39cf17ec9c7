"""The correction: R, Y' and the classifier that takes a second look.

    Y  = f(X)                      the first look
    M_i                            the views: for the poster's look, one mask image per class
    R  = sum_i f(M_i) · Y[c_i]     the weighted sum of the answers to the views
    Y' = Y + R                     the corrected answer; users get Y' / sum(Y')

(D. Maeng and J.-G. Baek, "CNN-based Class Probability Correction using Mask-image".)
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from relook.arguments import Number, whole_number
from relook.attribution import Context, Note, Progress
from relook.batching import is_out_of_memory
from relook.calibration import agreement, tempered
from relook.cascade import class_order, forward_cost
from relook.checks import check_finite, check_pixels
from relook.classifier import Classifier
from relook.digest import labels_digest, weights_digest
from relook.errors import ImageError, ModelError, NotFiniteError, RelookError, first_line
from relook.first_look import FirstLook
from relook.gate import AMBIGUOUS as AMBIGUOUS
from relook.gate import EVERY_IMAGE, Gate
from relook.gate import gap as gap
from relook.geometry import Box
from relook.images import ImageSource, ReadableFile, WritableFile, quietly
from relook.looks import (
    Frame,
    Judgement,
    Learnt,
    Look,
    Preset,
    SecondLook,
    Views,
    keeps_maps,
    needs_layer,
    networks,
)
from relook.reading import Photo, ReadAhead

_log = logging.getLogger("relook")

_BACKWARD = 2
"""Cost of a backward pass, in forward passes."""

_OF_TWO, _OF_MANY = (4.0, 0.4), (1.5, 0.2)
"""How far answers may still vary, as (multiple of the deviation, constant): for two, for more."""

_SETTLED = Note("the remaining views, since the answer was settled")

_TOGETHER = 32
"""Number of forward passes that are collected and run together before results are returned."""

_FEWEST, _SMALL = 4, 1_000_000
"""Minimum number of images per batch; `_TOGETHER` images if the originals have no more pixels than
this. A photo of 12 megapixels takes 36 MB, and a second batch is read ahead."""


def correction_term(
    weights: Float[Tensor, "n c"], answers: Float[Tensor, "n c"]
) -> Float[Tensor, " c"]:
    """Compute R = sum_i w_i ⊙ f(M_i); the poster's weights are Y[c_i] for all classes."""
    return (weights * answers).sum(dim=0)


def corrected_probabilities(y: Float[Tensor, " c"], r: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Compute Y' = Y + R divided by its sum, so that the result is probabilities again."""
    corrected = y + r
    return corrected / corrected.sum()


def settled(
    answers: Float[Tensor, "*m n c"], weights: Float[Tensor, "*m n c"], left: Float[Tensor, "*m c"]
) -> Bool[Tensor, "*m"]:
    """Return whether the remaining views cannot, or almost certainly will not, change the answer.

    A view can change the lead of the first class over another by at most its weight, and only does
    so if it contradicts the views before it. The worst case expected of the remaining views is
    therefore the mean lead so far, minus 1.5 times the largest deviation of an answer from that
    mean, minus 0.2 for variation not yet observed. With only two answers, which say little about
    the variation, the margins are 4 times and 0.4. Networks whose answers vary more thus get more
    views. The numbers were chosen in docs/second-look.md.

    Args:
        answers: (..., n, C), f(X) and the answers to the views so far.
        weights: (..., n, C), the weights of these answers.
        left: (..., C), the total weight of the remaining views.
    """
    total = (weights * answers).sum(dim=-2)
    best = total.argmax(dim=-1, keepdim=True)
    leads = answers.take_along_dim(best.unsqueeze(-2), dim=-1) - answers
    mean = (weights * leads).sum(dim=-2) / weights.sum(dim=-2)
    varied = (leads - mean.unsqueeze(-2)).abs().amax(dim=-2)
    times, unseen = _OF_MANY if answers.shape[-2] > 2 else _OF_TWO
    worst = left * (times * varied + unseen - mean)
    safe = total.take_along_dim(best, dim=-1) - total > torch.minimum(left, worst)
    return safe.scatter(-1, best, True).all(dim=-1)


@dataclass(frozen=True)
class SeenView:
    """One view of an image, with the network's answer. Tensors are on the CPU.

    Attributes:
        what: short description, such as "mask image".
        pixels: (3, H, W) in [0, 1].
        probabilities: (C,), the answer f(view); None if the network was not run on the view.
        of: index into the top-k classes of the class that the view was made for; None if it belongs
            to no class.
        box: (left, top, right, bottom) of the part that was cut from the original, in pixels of the
            original; None if the view was not cut from it.
        frame: which part of the photo the view shows, in which shape and at which scale; None
            without a box.
        maps: (k, H, W) in [0, 1], the attribution maps that the view is based on, one per top-k
            class, with faint values set to 0; None for views without maps.
    """

    what: str
    pixels: Float[Tensor, "3 h w"]
    probabilities: Float[Tensor, " c"] | None
    of: int | None = None
    box: Box | None = None
    frame: Frame | None = None
    maps: Float[Tensor, "k u v"] | None = None


@dataclass(frozen=True, repr=False)
class Correction:
    """The result of a second look at one image, step by step. Tensors are on the CPU.

    Attributes:
        image: name of the image.
        model: name of the classifier.
        labels: class names.
        pixels: (3, H, W) in [0, 1], the network's crop of the image.
        original: the whole image, upright RGB.
        box: (left, top, right, bottom) of the crop, in pixels of the original.
        before: (C,), the first answer Y; sums to 1.
        after: (C,), the corrected answer Y' / sum(Y'); equal to `before` without a second look.
            After tuning, both are calibrated: corrected answers by the temperature that it chose
            for them, the others by that of the first look.
        classes: (k,), indices of the top-k classes, most probable first.
        corrected: whether there was a second look; False if the gate kept the first answer.
        made: all views of the look, including those that were not run: mask images of classes that
            were not found, and the views that remained when the answer was settled.
        forwards: number of forward passes, one per image: 1 + `attribution_forwards` + number of
            `views`.
        cost: cost of all passes, in forward passes at the network's own input size.
        seconds: wall-clock time, including reading the image.
        left_out: what was skipped because the network does not support it, such as a larger input
            for a network that accepts one size only.
        no_view: what was skipped because this image has no such view.
        gate: the gate of the corrector.
        confidence: how far the answer can be relied on, higher is surer; the highest probability
            unless tuning chose another measure.
        abstained: whether the answer is not to be relied on: its confidence lies below the
            threshold that tuning chose for a risk.
        possible: if abstained, indices of the classes in question, most probable first: a set that
            holds the true class with a probability of at least 1 − risk.
        risk: share of wrong answers allowed among those given; None if tuning was not asked for
            one, so that nothing is abstained.

    >>> correction = corrector.correct("photo.jpg")
    >>> correction
    <Correction photo.jpg: tiger cat → Egyptian cat, 2 forwards>
    >>> correction.changed, tuple(correction.after.shape), [view.what for view in correction.views]
    (True, (1000,), ['mirror image'])
    """

    image: str
    model: str
    labels: tuple[str, ...]
    pixels: Float[Tensor, "3 h w"]
    original: Image.Image
    box: Box
    before: Float[Tensor, " c"]
    after: Float[Tensor, " c"]
    classes: Int[Tensor, " k"]
    corrected: bool
    made: tuple[SeenView, ...]
    forwards: int
    cost: float
    seconds: float
    left_out: tuple[str, ...] = ()
    no_view: tuple[str, ...] = ()
    gate: Gate = EVERY_IMAGE
    confidence: float = math.nan
    abstained: bool = False
    possible: tuple[int, ...] = ()
    risk: float | None = None

    def __repr__(self) -> str:
        top = [self.labels[int(p.argmax())] for p in (self.before, self.after)]
        return f"<Correction {self.image}: {' → '.join(top)}, {self.forwards} forwards>"

    @property
    def views(self) -> tuple[SeenView, ...]:
        """The views that were run through a network, in order."""
        return tuple(view for view in self.made if view.probabilities is not None)

    def view_of(self, place: int) -> SeenView | None:
        """Return the view of one of the top-k classes, such as its mask image; None if it has none.

        Args:
            place: index of the class in `classes`.
        """
        return next((view for view in self.made if view.of == place), None)

    @property
    def maps(self) -> Float[Tensor, "m h w"]:
        """(k, H, W) in [0, 1], the attribution maps of the top-k classes, with values ≤ 0.1 set to
        0; (0, H, W) if the look uses no maps.
        """
        maps = (view.maps for view in self.made if view.maps is not None)
        return next(maps, self.pixels.new_zeros(0, *self.pixels.shape[1:]))

    @property
    def mask_images(self) -> Float[Tensor, "n 3 h w"]:
        """(k, 3, H, W) in [0, 1], the mask images of the top-k classes; (0, 3, H, W) if the look
        makes none.
        """
        views = (self.view_of(place) for place in range(self.k))
        found = [view.pixels for view in views if view is not None and view.box is None]
        return torch.stack(found) if found else self.pixels.new_zeros(0, *self.pixels.shape)

    @property
    def attribution_forwards(self) -> int:
        """Number of forward passes spent on attribution maps."""
        return self.forwards - 1 - len(self.views)

    @property
    def k(self) -> int:
        """Number of top classes that the second look considers."""
        return len(self.classes)

    @property
    def changed(self) -> bool:
        """Whether the second look changed the most probable class."""
        return bool(self.before.argmax() != self.after.argmax())

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that was skipped, in words: `left_out`, then `no_view`."""
        return self.left_out + self.no_view

    def save_picture(self, file: str | os.PathLike[str] | WritableFile) -> None:
        """Save the picture of `relook predict --output` as a PNG file.

        It shows the photo, the most probable classes before and after, the map of each class and
        the views.

        Args:
            file: a path that ends in .png, or a file that is open for writing in binary mode.

        Raises:
            RelookError: the file name does not end in .png.
            OSError: the file cannot be written.
        """
        from relook.report.picture import save_picture  # here, since report builds on this
        from relook.report.story import tell

        save_picture(tell(self), file)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of `relook predict --json`.

        "notes" is only there if there are any; "abstained", "confidence" and "possible" only if
        tuning was asked for a risk.
        """
        return {
            "image": self.image,
            "model": self.model,
            "k": self.k,
            "corrected": self.corrected,
            "before": self._top(self.before),
            "after": self._top(self.after),
            "forwards": self.forwards,
            "cost": self.cost,
            "seconds": self.seconds,
            **({} if self.risk is None else self._judged()),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def _judged(self) -> dict[str, Any]:
        return {
            "abstained": self.abstained,
            "confidence": self.confidence,
            "possible": [
                {"class": c, "label": self.labels[c], "probability": float(self.after[c])}
                for c in self.possible
            ],
        }

    def _top(self, probabilities: Tensor) -> list[dict[str, Any]]:
        values, classes = probabilities.topk(min(5, len(probabilities)))
        return [
            {"class": c, "label": self.labels[c], "probability": p}
            for c, p in zip(classes.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Outcome:
    """First look, second look and corrected answer of one image, on the classifier's device.

    Attributes:
        first: the first look.
        classes: (k,), indices of the top-k classes, most probable first.
        second: the second look; None if the gate kept the first answer.
        view_answers: for each batch of views that was run, the (n, C) answers.
        raw: (C,), the corrected answer Y' / sum(Y'); Y without a second look.
        after: (C,), the same after the temperature that tuning chose, if there is one.
        forwards: number of forward passes, one per image, including the first look.
        cost: cost of all passes, in forward passes at the network's own input size.
        seconds: wall-clock time of the second look; the time of a batch that holds views of
            several images is divided among them.
        confidence, abstained, possible: see `Correction`.
    """

    first: FirstLook
    classes: Int[Tensor, " k"]
    second: SecondLook | None
    view_answers: tuple[Tensor, ...]
    raw: Float[Tensor, " c"]
    after: Float[Tensor, " c"]
    forwards: int
    cost: float
    seconds: float
    confidence: float
    abstained: bool = False
    possible: tuple[int, ...] = ()


@dataclass(frozen=True)
class Judged:
    """Answers for n images after what tuning learnt about them.

    Attributes:
        after: (n, C), the answers after the temperature.
        confidence: (n,), how far they can be relied on; higher is surer.
        abstained: (n,), whether they are not to be relied on.
        possible: for each abstained answer, the classes in question; otherwise empty.
    """

    after: Float[Tensor, "n c"]
    confidence: Float[Tensor, " n"]
    abstained: Bool[Tensor, " n"]
    possible: tuple[tuple[int, ...], ...]


class Corrector(nn.Module):
    """A classifier that takes a second look: a drop-in replacement with the same input and output.

    Attributes:
        classifier: the frozen classifier.
        k: number of top classes that the second look considers.
        gate: the `relook.gate.Gate` that decides which images get a second look.
        look: the second look.
        called: name of the look with its options; None if an object was passed.
        learnt: what tuning learnt, if the look is a file saved by it; otherwise None.

    >>> corrector = relook.Corrector(classifier, look="flip", gate="gap2:0.6")
    >>> corrector.correct("photo.jpg")
    <Correction photo.jpg: tiger cat → Egyptian cat, 2 forwards>
    >>> tuple(corrector(torch.rand(2, 3, 224, 224)).shape)
    (2, 1000)
    """

    def __init__(
        self,
        classifier: Classifier,
        k: Number | None = None,
        gate: Number | str | Gate | None = None,
        look: str | os.PathLike[str] | Preset | Look = "poster",
        budget: Number | Literal["fast"] | None = None,
    ) -> None:
        """Wrap a classifier.

        Args:
            classifier: a classifier from `relook.load` or `relook.Classifier`.
            k: number of top classes, from 1 to the number of classes; None means 5, or all classes
                if there are fewer (2 for the look "best").
            gate: threshold below which an image gets a second look; other images keep their first
                answer and cost one forward pass. A number from 0 to 1 for gap(1,5), "gap2:0.6" for
                gap(1,2), the lead of the first class over the second, or a `relook.gate.Gate`.
                "none" looks again at every image. None means the default of the look ("quick" and
                "best" have a gate), or else "none".
            look: a name for `relook.looks.make_look` ("poster", "quick", "best", "flip",
                "network:MODEL" for a second network, several joined by +); a file saved by tuning
                or a `relook.looks.Preset`, whose k and gate are the defaults; or an object, such as
                `relook.looks.Mask(relook.ScoreCAM(fill="mean"))`.
            budget: maximum number of masked forward passes per image for the maps; None means exact
                Score-CAM, "fast" means 64 (see `relook.ScoreCAM`).

        Raises:
            RelookError: k, gate or budget is out of range, the look is unknown, it has no budget,
                or it was tuned for a network with other classes.
            ModelError: the look needs a target layer and the classifier has none, or a second
                network cannot be loaded or has different classes.
        """
        super().__init__()
        if not isinstance(classifier, Classifier):
            raise RelookError(
                f"a Corrector needs a relook.Classifier, not a {type(classifier).__name__}: "
                "wrap your network in relook.Classifier(module, mean=..., std=..., input_size=...)"
            )
        k = None if k is None else whole_number(k, "k")
        count = len(classifier.labels)
        default = min(5, count)
        own = EVERY_IMAGE
        if budget is not None and not isinstance(look, str | os.PathLike):
            raise RelookError(
                "budget can only be combined with the name of a look; set it on the object, as in "
                "relook.looks.Mask(relook.ScoreCAM(budget=64))"
            )
        called = learnt = None
        if isinstance(look, str | os.PathLike):
            look = Preset.of(look, budget=budget)
        if isinstance(look, Preset):
            default, own = look.k_or(default), look.gate_or(own)
            called = replace(look, k=None, gate=None).describe()
            learnt = look.learnt
            if learnt is not None:
                learnt = _for_network(learnt, classifier)
                if k not in (None, learnt.k) and learnt.parts:
                    raise RelookError(
                        f"this look was tuned with k {learnt.k}; to use another, tune again"
                    )
            look = look.make(classifier)
        elif not isinstance(look, Look):
            raise RelookError(
                f"look must be a name, a file saved by tuning, or a look from relook.looks, not "
                f"{look!r}"
            )
        k = default if k is None else k
        if not 1 <= k <= count:
            raise RelookError(
                f"k must be 1 to {count}, the number of classes of {classifier.name}, not {k}"
            )
        self.classifier = classifier
        self.k = k
        self.gate = own if gate is None else Gate.of(gate)
        self.look: Look = look
        self.called = called
        self.learnt = learnt if learnt is None else _under(learnt, self.gate)
        self._said = False
        if needs_layer(self.look):
            _ = classifier.target_layer  # raises here, not at the first image, if there is none
        for number, network in enumerate(networks(self.look), 2):
            class_order(classifier, network)  # raises if the classes differ
            forward_cost(network, classifier)  # measured here, not in the time of an image
            self.add_module(f"network_{number}", network)  # so that `.to(device)` moves it too

    @property
    def risk(self) -> float | None:
        """Share of wrong answers allowed among those given; None if nothing is abstained."""
        abstention = self.learnt.after.abstention if self.learnt else None
        return None if abstention is None else abstention.risk

    @property
    def needs_activations(self) -> bool:
        """Whether first looks keep the target layer's maps: the look uses them, and they exist."""
        return keeps_maps(self.look, self.classifier)

    def extra_repr(self) -> str:
        """Return the settings, for `print(corrector)`."""
        return f"look {self.called or self.look}, k = {self.k}, gate {self.gate.setting}"

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute corrected probabilities, on the classifier's device.

        Each image has its own top-k classes, and its answer does not depend on the rest of the
        batch. Looks that cut views from the original image have only the pixels here; a warning is
        logged once.

        Args:
            pixels: (N, 3, H, W) in [0, 1].

        Returns:
            (N, C), one row per image that sums to 1.

        Raises:
            RelookError: the pixels are not in [0, 1].
            NotFiniteError: the network returned NaN or infinity.
        """
        check_pixels(pixels)
        if not len(pixels):
            return torch.zeros(0, len(self.classifier.labels), device=self.classifier.device)
        if self.look.needs_original and not self._said:
            self._said = True
            _log.warning(
                "relook: the look %s has only pixels to cut from: it cannot show what resize and "
                "crop removed, nor finer detail. correct() and relook.evaluate use the original "
                "images; their results do not apply to this call",
                self.called or type(self.look).__name__,
            )
        firsts = (
            first
            for chunk in self.classifier.chunks(pixels)
            for first in self.classifier.first_looks(chunk, self.needs_activations)
        )
        return torch.stack([outcome.after for outcome in self.look_again(firsts)])

    def correct(self, image: ImageSource, progress: Progress | None = None) -> Correction:
        """Correct one image and keep all intermediate results.

        Args:
            image: a path, open file, PIL image or array (see `relook.images.open_image`).
            progress: called with (forward passes done, forward passes in total) while attribution
                maps are computed.

        Raises:
            ImageError: the image cannot be read.
            NotFiniteError: the network returned NaN or infinity.
        """
        photo = Photo.read(image, self.classifier)
        [found] = self._corrected([photo], progress)
        if isinstance(found, RelookError):
            raise found
        return found

    def correct_many(
        self, images: Iterable[ImageSource]
    ) -> Iterator[Correction | ImageError | NotFiniteError]:
        """Correct many images in batches and keep all intermediate results.

        Results equal those of `correct`, in the order of the images, and are yielded as soon as
        they are ready. Threads read up to 64 images ahead of the network, fewer if the images are
        large, so memory stays bounded for any number of images.

        Args:
            images: the images, each as in `correct`; may be a generator.

        Returns:
            An iterator over one result per image: its correction, or the error that `correct` would
            raise. An error does not affect the other images.

        Raises:
            RelookError: `images` is a single image.
            ModelError: the look needs an input size that the network does not accept.
        """
        single = (str, bytes, os.PathLike, Image.Image, ReadableFile)
        if isinstance(images, single) or getattr(images, "ndim", 4) < 4:
            raise RelookError(
                "correct_many takes several images, such as a list; for one image use correct"
            )
        return quietly(self._many_corrected(images))

    def _many_corrected(
        self, images: Iterable[ImageSource]
    ) -> Generator[Correction | ImageError | NotFiniteError, None, None]:
        def read(image: ImageSource) -> Photo | ImageError:
            try:
                return Photo.read(image, self.classifier)
            except ImageError as error:
                return error

        size = _FEWEST
        with ReadAhead(read, images) as ahead:
            while batch := ahead.take(size):
                originals = [each.original for each in batch if isinstance(each, Photo)]
                yield from self._corrected(batch)
                if originals:
                    largest = max(original.width * original.height for original in originals)
                    size = min(_TOGETHER, max(_FEWEST, _TOGETHER * _SMALL // largest))

    @torch.no_grad()
    def _corrected(
        self, batch: Sequence[Photo | ImageError], progress: Progress | None = None
    ) -> Iterator[Correction | ImageError | NotFiniteError]:
        """Yield the result for each photo or error, in order."""
        outcomes = self._each([each for each in batch if isinstance(each, Photo)], progress)
        for each in batch:
            yield each if isinstance(each, ImageError) else next(outcomes)

    def _each(
        self, photos: Sequence[Photo], progress: Progress | None
    ) -> Iterator[Correction | NotFiniteError]:
        """Correct photos in one batch; if the network returns NaN for the batch, one by one."""
        if not photos:
            return
        done = 0
        start = time.perf_counter()
        try:
            firsts = self.classifier.first_looks(
                torch.stack([photo.pixels for photo in photos]),
                self.needs_activations,
                [photo.original for photo in photos],
            )
            seconds = (time.perf_counter() - start) / len(photos)
            for outcome in self.look_again(firsts, progress):
                yield self._correction(photos[done], outcome, seconds)
                done += 1
            return
        except NotFiniteError as error:
            if len(photos) == 1:
                named = NotFiniteError(f"{photos[0].name}: {error}")
                named.__cause__ = error
                yield named
                return
        for photo in photos[done:]:
            yield from self._each([photo], progress)

    def _correction(self, photo: Photo, outcome: Outcome, seconds: float) -> Correction:
        """Convert an outcome; `seconds` is the time of the first look."""
        second = outcome.second or SecondLook()
        return Correction(
            image=photo.name,
            model=self.classifier.name,
            labels=self.classifier.labels,
            pixels=photo.pixels,
            original=photo.original,
            box=self.classifier.geometry.crop_box(*photo.original.size),
            before=outcome.first.probabilities.cpu(),
            after=outcome.after.cpu(),
            classes=outcome.classes.cpu(),
            corrected=outcome.second is not None,
            made=_made(outcome),
            forwards=outcome.forwards,
            cost=outcome.cost,
            seconds=photo.seconds + seconds + outcome.seconds,
            left_out=tuple(map(str, second.left_out)),
            no_view=tuple(map(str, second.no_view)),
            gate=self.gate,
            confidence=outcome.confidence,
            abstained=outcome.abstained,
            possible=outcome.possible,
            risk=self.risk,
        )

    @torch.no_grad()
    def look_again(
        self, firsts: Iterable[FirstLook], progress: Progress | None = None
    ) -> Iterator[Outcome]:
        """Take the second look at each image, in order; views of several images share batches.

        Args:
            firsts: first looks of this classifier, with activations if the look needs them.
            progress: called with (forward passes done, forward passes in total) while attribution
                maps are computed.

        Raises:
            NotFiniteError: the network returned NaN or infinity.
            ModelError: the look needs an input size that the network does not accept.
        """
        looks, forwards = SecondLooks(self), 0
        for number, first in enumerate(firsts):
            waiting = self.views_of(first, progress)
            looks.add(number, waiting)
            forwards += waiting.forwards
            if forwards >= _TOGETHER:
                yield from _in_order(looks.rest())
                forwards = 0
        yield from _in_order(looks.rest())

    @torch.no_grad()
    def views_of(self, first: FirstLook, progress: Progress | None = None) -> Waiting:
        """Make the views of one image, if it passes the gate, for `SecondLooks`.

        Args:
            first: its first look, with activations if the look needs them.
            progress: called with (forward passes done, forward passes in total) while attribution
                maps are computed.
        """
        start = time.perf_counter()
        classes = first.probabilities.topk(self.k).indices
        unsure = self.gate.passes(self.gate.gap(first.probabilities))
        context = Context(self.classifier, first, classes, progress)
        second = self.look(context) if unsure else None
        return Waiting(first, classes, second, time.perf_counter() - start)

    def about(self, outcome: Outcome, k: int) -> Outcome:
        """Restrict an outcome to the first k of its classes, without further forward passes.

        Views that belong to no class are kept. The result is only correct for looks whose weights
        for a class do not depend on the other classes, such as the poster's.
        """
        if outcome.second is None or k >= len(outcome.classes):
            return outcome
        answers = tuple(
            answer if views.of is None else answer[views.of < k]
            for views, answer in zip(outcome.second.asked, outcome.view_answers, strict=True)
        )
        views = tuple(views.about(k) for views in outcome.second.views)
        second = replace(outcome.second, views=views)
        fewer = Waiting(outcome.first, outcome.classes[:k], second, outcome.seconds)
        return self._sum(fewer, answers, 0.0)

    @torch.no_grad()
    def _ask(self, network: Classifier, batches: Sequence[Views]) -> tuple[Tensor, ...]:
        """Return a network's answers to views of one size, for each batch."""
        asked = self._many(network, torch.cat([batch.pixels for batch in batches]))
        if network is not self.classifier:
            order = list(class_order(self.classifier, network))
            asked = asked[:, order].to(batches[0].weights)
        answers: tuple[Tensor, ...] = asked.split([len(batch.pixels) for batch in batches])
        return answers

    def _many(self, network: Classifier, views: Tensor) -> Tensor:
        try:
            asked = network.many(views)
        except (RuntimeError, ValueError, AssertionError) as error:
            own = views.shape[-2:] == network.input_size
            if own or is_out_of_memory(error):
                raise
            raise _refusal(network, views, first_line(error)) from error
        if asked.shape != (len(views), len(network.labels)):
            raise _refusal(network, views, f"it answers with {tuple(asked.shape)}")
        try:
            check_finite(asked, network.dtype)
        except NotFiniteError as error:
            if network is self.classifier:
                raise
            raise NotFiniteError(f"{network.name}: {error}") from error
        return asked

    def _sum(self, w: Waiting, view_answers: tuple[Tensor, ...], seconds: float) -> Outcome:
        y = w.first.probabilities
        own = self.classifier.cost(*w.first.size)
        forwards, cost, raw = 1, own, y
        if w.second is not None:
            r = torch.zeros_like(y)
            forwards += w.forwards
            cost += (w.second.forwards + _BACKWARD * w.second.backwards) * own
            for views, answers in zip(w.views, view_answers, strict=True):
                r = r + correction_term(views.weights, answers)
                network = views.by or self.classifier
                each = network.cost(*views.pixels.shape[-2:])
                cost += len(views.pixels) * each * forward_cost(network, self.classifier)
            raw = corrected_probabilities(y, r)
        agreed: Tensor | float = 1.0
        if self.learnt and self.learnt.after.confidence.kind == "agreement":
            agreed = _agreement(y, raw, w.views, view_answers)
        judged = self.judged(raw.unsqueeze(0), w.second is not None, agreed)
        return Outcome(
            first=w.first,
            classes=w.classes,
            second=w.second,
            view_answers=view_answers,
            raw=raw,
            after=judged.after[0],
            forwards=forwards,
            cost=cost,
            seconds=w.seconds + seconds,
            confidence=float(judged.confidence[0]),
            abstained=bool(judged.abstained[0]),
            possible=judged.possible[0],
        )

    def judged(
        self,
        raw: Float[Tensor, "n c"],
        corrected: bool,
        agreed: Float[Tensor, "*n"] | float = 1.0,
    ) -> Judged:
        """Apply what tuning learnt about answers: their temperature, and when not to answer.

        Args:
            raw: the answers Y' / sum(Y'); Y of images without a second look.
            corrected: whether there was a second look.
            agreed: see `relook.calibration.agreement`.
        """
        judgement = self.learnt.after if self.learnt else Judgement()
        temperature = judgement.temperature
        if self.learnt is not None and not corrected:
            temperature = self.learnt.first.temperature  # nothing was averaged
        # In the type that tuning keeps answers in, so that equal answers have equal confidence.
        confidence = judgement.confidence.of(raw.float(), agreed)
        abstention = judgement.abstention
        abstained = torch.tensor(
            [bool(abstention and abstention.abstains(each)) for each in confidence.tolist()],
            dtype=torch.bool,
        )
        possible: list[tuple[int, ...]] = [()] * len(raw)
        for place in abstained.nonzero().flatten().tolist():
            assert abstention is not None
            possible[place] = abstention.possible(raw[place])
        return Judged(tempered(raw, temperature), confidence, abstained, tuple(possible))


@dataclass(frozen=True)
class Waiting:
    """An image whose views have not been run yet.

    Attributes:
        first: the first look.
        classes: (k,), indices of the top-k classes, most probable first.
        second: the views; None if the image gets no second look.
        seconds: wall-clock time of making the views.
    """

    first: FirstLook
    classes: Tensor
    second: SecondLook | None
    seconds: float

    @property
    def views(self) -> tuple[Views, ...]:
        """The views to run."""
        return self.second.asked if self.second else ()

    def turn(self, done: int) -> tuple[Views, ...]:
        """Return the batches of views to run after the first `done` of them."""
        in_turn = self.second is not None and self.second.in_turn
        return self.views[done : done + 1] if in_turn else self.views

    def is_settled(self, answers: Sequence[Tensor]) -> bool:
        """Whether no views remain, or none that would change the answer."""
        left = self.views[len(answers) :]
        if not left:
            return True
        y = self.first.probabilities
        weights = [views.weights for views in self.views[: len(answers)]]
        found = settled(
            torch.cat([y.unsqueeze(0), *answers]),
            torch.cat([torch.ones_like(y).unsqueeze(0), *weights]),
            torch.cat([views.weights for views in left]).sum(dim=0),
        )
        return bool(found)

    def after(self, asked: int) -> Waiting:
        """Return a copy with only the first `asked` batches marked as run, and say so in a note."""
        if self.second is None or asked == len(self.views):
            return self
        views, left = [], asked
        for some in self.second.views:
            views.append(replace(some, asked=some.asked and left > 0))
            left -= some.asked
        no_view = (*self.second.no_view, _SETTLED)
        return replace(self, second=replace(self.second, views=tuple(views), no_view=no_view))

    def without_pixels(self) -> Waiting:
        """Return a copy that holds no image but the views, for images that wait long.

        Its first look keeps the shape of its pixels, which would otherwise keep those of all images
        of their batch in memory.
        """
        pixels = self.first.pixels.new_empty(1).expand(self.first.pixels.shape)
        return replace(
            self, first=replace(self.first, pixels=pixels, activations=None, original=None)
        )

    @property
    def forwards(self) -> int:
        """Number of forward passes, those for the maps included."""
        asked = sum(len(views.pixels) for views in self.views)
        return asked + (self.second.forwards if self.second else 0)


@dataclass
class _Open:
    """An image in work: the answers to its views so far, and the number still missing."""

    key: int
    waiting: Waiting
    answers: list[Tensor | None] = field(default_factory=list)
    missing: int = 0
    seconds: float = 0.0


class SecondLooks:
    """The second looks of many images in work; views of one size, of whatever image, share batches.

    Images are finished in any order. Each answer is the same as with the images one by one.

    >>> looks = relook.correction.SecondLooks(corrector)
    >>> for number, first in enumerate(classifier.first_looks(torch.rand(3, 3, 224, 224))):
    ...     looks.add(number, corrector.views_of(first))
    >>> sorted(number for number, outcome in looks.rest())
    [0, 1, 2]
    """

    def __init__(self, corrector: Corrector) -> None:
        self._corrector = corrector
        self._groups: dict[tuple[Classifier, torch.Size], list[tuple[_Open, int]]] = {}
        self._done: list[_Open] = []
        self._open = 0

    def __len__(self) -> int:
        """Number of images whose views have not all been run."""
        return self._open

    def add(self, key: int, waiting: Waiting) -> None:
        """Add an image.

        Args:
            key: a number by which its outcome is known.
            waiting: its views, from `Corrector.views_of`.
        """
        self._open += 1
        self._go_on(_Open(key, waiting))

    def full(self, most: int) -> Iterator[tuple[int, Outcome]]:
        """Run the views that fill a batch, and then others until at most `most` images are open.

        Yields:
            The key and the outcome of each image that is finished.
        """
        while group := self._largest(full=self._open <= most):
            self._run(group)
        yield from self._finished()

    def rest(self) -> Iterator[tuple[int, Outcome]]:
        """Run all views.

        Yields:
            The key and the outcome of each image.
        """
        while group := self._largest(full=False):
            self._run(group)
        yield from self._finished()

    def _largest(self, full: bool) -> tuple[Classifier, torch.Size] | None:
        """Return the group with the most views per batch; with `full`, only one that fills one."""

        def share(group: tuple[Classifier, torch.Size]) -> float:
            network, (height, width) = group
            views = sum(
                len(each.waiting.views[place].pixels) for each, place in self._groups[group]
            )
            return views / network.chunk_size(height, width)

        largest = max(self._groups, key=share, default=None)
        return None if largest is None or (full and share(largest) < 1) else largest

    def _run(self, group: tuple[Classifier, torch.Size]) -> None:
        members = self._groups.pop(group)
        start = time.perf_counter()
        views = [each.waiting.views[place] for each, place in members]
        answers = self._corrector._ask(group[0], views)
        seconds = (time.perf_counter() - start) / sum(map(len, answers))
        for (each, place), answer in zip(members, answers, strict=True):
            each.answers[place] = answer
            each.seconds += seconds * len(answer)
            each.missing -= 1
            if not each.missing:
                self._go_on(each)

    def _go_on(self, each: _Open) -> None:
        """Put the next views of an image into their groups, unless its answer is settled."""
        found = [answer for answer in each.answers if answer is not None]
        settled = not each.waiting.views or (found and each.waiting.is_settled(found))
        if settled:
            self._open -= 1
            self._done.append(each)
            return
        for place, views in enumerate(each.waiting.turn(len(found)), len(found)):
            group = (views.by or self._corrector.classifier, views.pixels.shape[-2:])
            self._groups.setdefault(group, []).append((each, place))
            each.answers.append(None)
            each.missing += 1

    def _finished(self) -> Iterator[tuple[int, Outcome]]:
        done, self._done = self._done, []
        for each in done:
            answers = tuple(answer for answer in each.answers if answer is not None)
            waiting = each.waiting.after(len(answers))
            yield each.key, self._corrector._sum(waiting, answers, each.seconds)


def _in_order(outcomes: Iterable[tuple[int, Outcome]]) -> list[Outcome]:
    return [outcome for _, outcome in sorted(outcomes, key=lambda found: found[0])]


def _agreement(
    y: Tensor, raw: Tensor, views: Sequence[Views], view_answers: Sequence[Tensor]
) -> Tensor:
    """Compute the share of the answers that agree with the corrected one; 1 without views."""
    answers = torch.cat([y.unsqueeze(0), *view_answers])
    weights = [y.new_ones(1), *(some.weights.mean(dim=1) for some in views)]
    return agreement(answers, torch.cat(weights), raw.argmax())


def _for_network(learnt: Learnt, classifier: Classifier) -> Learnt:
    """Return what was learnt; without the promise on wrong answers for another network.

    A network with other classes is refused.
    """
    made_on = learnt.made_on
    name = made_on.get("model", "another network")
    if made_on.get("labels") != labels_digest(classifier):
        raise RelookError(
            f"this look was tuned for {name}, whose classes are not those of {classifier.name}: "
            "tune again with relook evaluate DATA --tune"
        )
    if made_on.get("weights") != weights_digest(classifier):
        _log.warning(
            "relook: this look was tuned for another network (%s) than this one (%s), or for other "
            "weights or another dtype: its weights and temperature may not carry over, and the "
            "promise on wrong answers does not, so every answer is given; tune again with relook "
            "evaluate DATA --tune",
            name,
            classifier.name,
        )
        return _without_promise(learnt)
    return learnt


def _without_promise(learnt: Learnt) -> Learnt:
    after, first = (replace(each, abstention=None) for each in (learnt.after, learnt.first))
    return replace(learnt, after=after, first=first)


def _under(learnt: Learnt, gate: Gate) -> Learnt:
    """Return what was learnt; without the promise on wrong answers if the gate is another one."""
    if gate == learnt.gate or learnt.after.abstention is None:
        return learnt
    _log.warning(
        "relook: this look was tuned with the gate %s and is used with %s: the promise on wrong "
        "answers does not hold, so every answer is given",
        learnt.gate.setting,
        gate.setting,
    )
    return _without_promise(learnt)


def _refusal(network: Classifier, views: Tensor, why: str) -> ModelError:
    height, width = views.shape[-2:]
    return ModelError(
        f"{network.name} takes no inputs of {height}×{width} "
        f"({why}); use a look at the network's own input size, such as tencrop"
    )


def _made(outcome: Outcome) -> tuple[SeenView, ...]:
    """Collect all views, with the answers to those that were run."""
    first = outcome.first
    shown, own = first.shown, first.size

    def frame(views: Views, pixels: Tensor, box: Box | None) -> Frame | None:
        if box is None or views.by is not None:  # the scale of another network is not comparable
            return None
        return Frame.of(box, (pixels.shape[1], pixels.shape[2]), shown, first.extent, own)

    made: list[SeenView] = []
    answered = iter(outcome.view_answers)
    for views in outcome.second.views if outcome.second else ():
        nothing: list[None] = [None] * len(views.pixels)
        maps = None if views.maps is None else views.maps.cpu()
        each = zip(
            views.pixels.cpu(),
            next(answered).cpu() if views.asked else nothing,
            nothing if views.of is None else views.of.tolist(),
            views.boxes or nothing,
            strict=True,
        )
        made += [
            SeenView(views.what, pixels, answer, of, box, frame(views, pixels, box), maps)
            for pixels, answer, of, box in each
        ]
    return tuple(made)
