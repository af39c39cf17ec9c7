"""The correction: R, Y' and the classifier that takes a second look.

    Y  = f(X)                      the first look
    M_i                            its views: for the poster's look, one mask image a class
    R  = sum_i f(M_i) · Y[c_i]     every view's answer with its weight
    Y' = Y + R                     the new answer; offered to users as Y' / sum(Y')

(D. Maeng and J.-G. Baek, "CNN-based Class Probability Correction using Mask-image".)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from relook.arguments import Number, whole_number
from relook.attribution import Context, Note, Progress
from relook.batching import is_out_of_memory
from relook.cascade import class_order, forward_cost
from relook.checks import check_finite, check_pixels
from relook.classifier import Classifier
from relook.errors import ImageError, ModelError, NotFiniteError, RelookError, first_line
from relook.first_look import FirstLook
from relook.gate import AMBIGUOUS as AMBIGUOUS
from relook.gate import EVERY_IMAGE, Gate
from relook.gate import gap as gap
from relook.geometry import Box
from relook.images import ImageSource, ReadableFile, WritableFile, quietly
from relook.looks import Frame, Look, Preset, SecondLook, Views, keeps_maps, needs_layer, networks
from relook.reading import Photo, ReadAhead

_log = logging.getLogger("relook")

_BACKWARD = 2
"""What a backward costs, in forwards."""

_OF_TWO, _OF_MANY = (4.0, 0.4), (1.5, 0.2)
"""How far answers may vary yet, in deviations and beyond them: of two answers, and of more."""

_SETTLED = Note("the remaining views, since the answer was settled")

_TOGETHER = 32
"""So many forwards are worth asking together; answers come out as soon as so many are there."""

_FEWEST, _SMALL = 4, 1_000_000
"""At least so many images are corrected in one batch; as many as are worth it where the originals
have no more pixels than this. A photo of 12 megapixels takes 36 MB, and as many are read ahead."""


def correction_term(
    weights: Float[Tensor, "n c"], answers: Float[Tensor, "n c"]
) -> Float[Tensor, " c"]:
    """R = sum_i w_i ⊙ f(M_i); the poster's weights are Y[c_i] for all classes."""
    return (weights * answers).sum(dim=0)


def corrected_probabilities(y: Float[Tensor, " c"], r: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Y' = Y + R, divided by its sum: the same order, and probabilities again."""
    corrected = y + r
    return corrected / corrected.sum()


def settled(
    answers: Float[Tensor, "n c"], weights: Float[Tensor, "n c"], left: Float[Tensor, " c"]
) -> bool:
    """Whether the views that are left hardly can change the answer, or cannot at all.

    A view can change the lead of the first class over another by its whole weight, and does so only
    where it says the opposite of the views before it. So we expect of the views that are left at
    worst the mean lead so far, less what the answers have varied by: 1.5 times the largest
    deviation of an answer from that mean, and 0.2 for what they have not shown yet; 4 times and 0.4
    where there are two answers only, which say little of how much they vary. Networks whose answers
    vary more are asked more. The numbers were chosen in docs/second-look.md.

    Args:
        answers: f(X) and f of the views so far.
        weights: theirs.
        left: the weight of the views that are left.
    """
    total = (weights * answers).sum(dim=0)
    best = total.argmax()
    leads = answers[:, best, None] - answers
    mean = (weights * leads).sum(dim=0) / weights.sum(dim=0)
    varied = (leads - mean).abs().amax(dim=0)
    times, unseen = _OF_MANY if len(answers) > 2 else _OF_TWO
    worst = left * (times * varied + unseen - mean)
    safe = total[best] - total > torch.minimum(left, worst)
    safe[best] = True
    return bool(safe.all())


@dataclass(frozen=True)
class SeenView:
    """One view that a look made. Tensors are on the CPU.

    Attributes:
        what: in a few words, what it shows.
        pixels: (3, H, W) in [0, 1].
        probabilities: (C,), f of it; None where the network was not asked about it.
        of: for a view made for one of the top-k classes its place among them; None for others.
        box: the part of the original that it was cut from, in its own pixels; None where it was
            not cut from it.
        frame: what of the photo it shows, in which shape and at which scale; None without a box.
        maps: (k, H, W) in [0, 1], for a view that attribution maps led to: where each of the top-k
            classes was seen, faint values set to 0; None for other views.
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
    """One image's second look, with everything seen on the way. Tensors are on the CPU.

    Attributes:
        image: the image's name.
        model: the classifier's name.
        labels: one name a class.
        pixels: (3, H, W) in [0, 1], what the network saw.
        original: the whole image, upright RGB.
        box: the part of the original that the pixels show, in its own pixels.
        before: (C,), Y; sums to 1.
        after: (C,), Y' / sum(Y'); equal to `before` where no second look was taken.
        classes: (k,), the top-k classes, most probable first.
        corrected: whether a second look was taken; the gate may have held it back.
        made: every view that the look made, also those that the network was not asked about: mask
            images of classes that were seen nowhere, and what was left when the answer was settled.
        forwards: images that went through the network: 1 + `attribution_forwards` + `views`.
        cost: the same in units of one forward at the network's own input size.
        seconds: wall-clock time, reading the image included.
        left_out: what the look did without because this network cannot be asked about it, such as
            a larger input of a network that takes one size only.
        no_view: what it did without because there is no more to see in this image.
        gate: the corrector's: which images get a second look.

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

    def __repr__(self) -> str:
        top = [self.labels[int(p.argmax())] for p in (self.before, self.after)]
        return f"<Correction {self.image}: {' → '.join(top)}, {self.forwards} forwards>"

    @property
    def views(self) -> tuple[SeenView, ...]:
        """The views that the network was asked about, in order."""
        return tuple(view for view in self.made if view.probabilities is not None)

    def view_of(self, place: int) -> SeenView | None:
        """The view that was made for one of the top-k classes, such as its mask image; None where
        there is none.

        Args:
            place: of the class in `classes`.
        """
        return next((view for view in self.made if view.of == place), None)

    @property
    def maps(self) -> Float[Tensor, "m h w"]:
        """(k, H, W) in [0, 1], the attribution maps of the top-k classes, with values ≤ 0.1 set to
        0; (0, H, W) where the look made none.
        """
        maps = (view.maps for view in self.made if view.maps is not None)
        return next(maps, self.pixels.new_zeros(0, *self.pixels.shape[1:]))

    @property
    def mask_images(self) -> Float[Tensor, "n 3 h w"]:
        """(k, 3, H, W) in [0, 1], the mask images of the top-k classes; (0, 3, H, W) where the look
        made none.
        """
        views = (self.view_of(place) for place in range(self.k))
        found = [view.pixels for view in views if view is not None and view.box is None]
        return torch.stack(found) if found else self.pixels.new_zeros(0, *self.pixels.shape)

    @property
    def attribution_forwards(self) -> int:
        """How many forward passes were spent on the attribution maps."""
        return self.forwards - 1 - len(self.views)

    @property
    def k(self) -> int:
        """How many classes the second look is about."""
        return len(self.classes)

    @property
    def changed(self) -> bool:
        """Whether the most probable class is another one now."""
        return bool(self.before.argmax() != self.after.argmax())

    @property
    def notes(self) -> tuple[str, ...]:
        """All that the look did without, in words: what is left out on this network first."""
        return self.left_out + self.no_view

    def save_picture(self, file: str | os.PathLike[str] | WritableFile) -> None:
        """Write what `relook predict --output` does: the photo, the classes before and after, each
        class's map and the views asked about, as a PNG file.

        Args:
            file: a path that ends in .png, or a file that is open for writing bytes.

        Raises:
            RelookError: the file's name does not end in .png.
            OSError: it cannot be written.
        """
        from relook.report.picture import save_picture  # a drawing of it, some floors up
        from relook.report.story import tell

        save_picture(tell(self), file)

    def to_json(self) -> dict[str, Any]:
        """The object of `relook predict --json`; "notes" only where there are any."""
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
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def _top(self, probabilities: Tensor) -> list[dict[str, Any]]:
        values, classes = probabilities.topk(min(5, len(probabilities)))
        return [
            {"class": c, "label": self.labels[c], "probability": p}
            for c, p in zip(classes.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Outcome:
    """One image's first look, its second look and their sum, as tensors of the classifier's device.

    Attributes:
        first: the first look.
        classes: (k,), the top-k classes, most probable first.
        second: the second look; None where the gate held it back.
        view_answers: (n, C) for each batch of views that the network was asked about.
        after: (C,), Y' / sum(Y'); Y where there was no second look.
        forwards: images that went through the network, the first look counted.
        cost: the same in units of one forward at the network's own input size.
        seconds: wall-clock time of the second look; of views asked together its share.
    """

    first: FirstLook
    classes: Int[Tensor, " k"]
    second: SecondLook | None
    view_answers: tuple[Tensor, ...]
    after: Float[Tensor, " c"]
    forwards: int
    cost: float
    seconds: float


class Corrector(nn.Module):
    """A classifier that takes a second look: in place of the classifier, same input, same output.

    Attributes:
        classifier: the frozen classifier.
        k: how many of the most probable classes the second look is about.
        gate: which images get a second look, a `relook.gate.Gate`.
        look: the way to look again.
        called: the name of the look with its options; None for an object.

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
            classifier: what `relook.load` or `relook.Classifier` gave.
            k: 1 to the number of classes; None is 5, or all of fewer classes (2 for "best").
            gate: an image that the classifier is surer of stays as it is, at the cost of one
                forward: a number from 0 to 1 for gap(1,5), "gap2:0.6" for gap(1,2), the lead of
                the first class over the second, below 0.6, or a `relook.gate.Gate`. "none" looks
                again at every image; None is the look's own gate ("quick" and "best" have one),
                or "none" where it has none.
            look: a name as `relook.looks.make_look` takes it ("poster", "quick", "best", "flip",
                "network:MODEL" for a second network, several joined by +), a file that tuning
                saved or a `relook.looks.Preset`, whose k and gate hold where none are given here,
                or an object, such as `relook.looks.Mask(relook.ScoreCAM(fill="mean"))`.
            budget: at most how many masked forwards an image gets for its maps; None is all that
                exact Score-CAM takes, "fast" is 64 (see `relook.ScoreCAM`).

        Raises:
            RelookError: k, gate or budget is out of range, there is no such look, or it takes no
                budget.
            ModelError: the look needs a target layer and the classifier has none; a second network
                cannot be loaded, or has other classes.
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
                "budget goes with a look's name; an object has its own, as in "
                "relook.looks.Mask(relook.ScoreCAM(budget=64))"
            )
        called = None
        if isinstance(look, str | os.PathLike):
            look = Preset.of(look, budget=budget)
        if isinstance(look, Preset):
            default, own = look.k_or(default), look.gate_or(own)
            called = replace(look, k=None, gate=None).describe()
            look = look.make(classifier)
        elif not isinstance(look, Look):
            raise RelookError(
                f"look must be a name, a file that tuning saved, or a look of relook.looks; not "
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
        self._said = False
        if needs_layer(self.look):
            _ = classifier.target_layer  # raises if there is none: now, not at the first image
        for number, network in enumerate(networks(self.look), 2):
            class_order(classifier, network)  # raises if there is none
            forward_cost(network, classifier)  # measured now, not while images are counted
            self.add_module(f"network_{number}", network)  # `.to(device)` moves it too

    @property
    def needs_activations(self) -> bool:
        """Whether first looks have to keep the target layer's maps, if the network has one."""
        return keeps_maps(self.look, self.classifier)

    def extra_repr(self) -> str:
        """The settings, for `print(corrector)`."""
        return f"look {self.called or self.look}, k = {self.k}, gate {self.gate.setting}"

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Corrected probabilities, one row an image that sums to 1, on the classifier's device.

        Each image has its own top-k classes; its answer does not depend on the rest of the batch.
        A look that cuts from the original image cuts from the pixels here, which a warning says
        once.

        Args:
            pixels: in [0, 1].

        Raises:
            RelookError: the pixels are not in [0, 1].
            NotFiniteError: the network answered NaN.
        """
        check_pixels(pixels)
        if not len(pixels):
            return torch.zeros(0, len(self.classifier.labels), device=self.classifier.device)
        if self.look.needs_original and not self._said:
            self._said = True
            _log.warning(
                "relook: the look %s has only pixels to cut from: it cannot show what resize and "
                "crop threw away, nor finer detail; correct() and relook.evaluate have the "
                "original images, and what they measure does not hold for this call",
                self.called or type(self.look).__name__,
            )
        firsts = (
            first
            for chunk in self.classifier.chunks(pixels)
            for first in self.classifier.first_looks(chunk, self.needs_activations)
        )
        return torch.stack([outcome.after for outcome in self.look_again(firsts)])

    def correct(self, image: ImageSource, progress: Progress | None = None) -> Correction:
        """Correct one image and keep everything seen on the way.

        Args:
            image: a path, open file, PIL image or array (see `relook.images.open_image`).
            progress: called with (forward passes done, forward passes in all) while the attribution
                goes on.

        Raises:
            ImageError: the image cannot be read.
            NotFiniteError: the network answered NaN for it.
        """
        photo = Photo.read(image, self.classifier)
        [found] = self._corrected([photo], progress)
        if isinstance(found, RelookError):
            raise found
        return found

    def correct_many(
        self, images: Iterable[ImageSource]
    ) -> Iterator[Correction | ImageError | NotFiniteError]:
        """Correct images, several in one batch, and keep everything seen on the way.

        The results are those of `correct`, in the order of the images, each as soon as it is there.
        Images are read by threads while the network is busy with those before them: at most 64
        ahead, fewer where they are large, so that there may be any number of them.

        Args:
            images: each as in `correct`; may be a generator.

        Returns:
            One result an image: its correction, or the error that `correct` would raise for it. It
            does not keep the others from being corrected.

        Raises:
            RelookError: `images` is a single image.
            ModelError: the look asks about another size than the network's, which it refuses.
        """
        single = (str, bytes, os.PathLike, Image.Image, ReadableFile)
        if isinstance(images, single) or getattr(images, "ndim", 4) < 4:
            raise RelookError("correct_many takes several images, as in a list; correct takes one")
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
        """What became of each of them, in order."""
        outcomes = self._each([each for each in batch if isinstance(each, Photo)], progress)
        for each in batch:
            yield each if isinstance(each, ImageError) else next(outcomes)

    def _each(
        self, photos: Sequence[Photo], progress: Progress | None
    ) -> Iterator[Correction | NotFiniteError]:
        """Photos in one batch; if the network answers NaN for it, one by one."""
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
        """With the seconds that its first look took."""
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
        )

    @torch.no_grad()
    def look_again(
        self, firsts: Iterable[FirstLook], progress: Progress | None = None
    ) -> Iterator[Outcome]:
        """Second look and sum for each image, in order; views of several are asked together.

        Args:
            firsts: first looks of this classifier, with activations if the look needs them.
            progress: told (forwards done, forwards in all) while an attribution goes on.

        Raises:
            NotFiniteError: the network answered NaN.
            ModelError: the look asks about another size than the network's, which it refuses.
        """
        waiting: list[_Waiting] = []
        for first in firsts:
            start = time.perf_counter()
            classes = first.probabilities.topk(self.k).indices
            unsure = self.gate.passes(self.gate.gap(first.probabilities))
            context = Context(self.classifier, first, classes, progress)
            second = self.look(context) if unsure else None
            waiting.append(_Waiting(first, classes, second, time.perf_counter() - start))
            if sum(w.forwards for w in waiting) >= _TOGETHER:
                yield from self._outcomes(waiting)
                waiting = []
        yield from self._outcomes(waiting)

    def about(self, outcome: Outcome, k: int) -> Outcome:
        """The same second look about the first k of its classes only; it asks nothing anew.

        Views that were made for no class in particular stay. Right for looks whose weights for a
        class do not depend on the others, such as the poster's.
        """
        if outcome.second is None or k >= len(outcome.classes):
            return outcome
        answers = tuple(
            answer if views.of is None else answer[views.of < k]
            for views, answer in zip(outcome.second.asked, outcome.view_answers, strict=True)
        )
        views = tuple(views.about(k) for views in outcome.second.views)
        second = replace(outcome.second, views=views)
        fewer = _Waiting(outcome.first, outcome.classes[:k], second, outcome.seconds)
        return self._sum(fewer, answers, 0.0)

    def _outcomes(self, waiting: Sequence[_Waiting]) -> Iterator[Outcome]:
        start = time.perf_counter()
        answers: list[list[Tensor]] = [[] for _ in waiting]
        undecided = [i for i, w in enumerate(waiting) if w.views]
        while undecided:
            turn = [(i, views) for i in undecided for views in waiting[i].turn(len(answers[i]))]
            asked = self._ask([views for _, views in turn])
            for (i, _), answer in zip(turn, asked, strict=True):
                answers[i].append(answer)
            undecided = [i for i in undecided if not waiting[i].is_settled(answers[i])]
        seconds = time.perf_counter() - start
        done = [w.after(len(a)) for w, a in zip(waiting, answers, strict=True)]
        forwards = sum(w.asked for w in done)
        for w, view_answers in zip(done, answers, strict=True):
            yield self._sum(w, tuple(view_answers), seconds * w.asked / max(1, forwards))

    def _ask(self, batches: Sequence[Views]) -> list[Tensor]:
        """Answers to every view, in order; views of one size for one network go through it
        together.
        """
        answers: dict[int, Tensor] = {}
        groups: dict[tuple[Classifier, torch.Size], list[int]] = {}
        for i, batch in enumerate(batches):
            group = (batch.by or self.classifier, batch.pixels.shape[-2:])
            groups.setdefault(group, []).append(i)
        for (network, _), members in groups.items():
            views = torch.cat([batches[i].pixels for i in members])
            asked = self._many(network, views)
            if network is not self.classifier:
                order = list(class_order(self.classifier, network))
                asked = asked[:, order].to(batches[members[0]].weights)
            counts = [len(batches[i].pixels) for i in members]
            answers |= dict(zip(members, asked.split(counts), strict=True))
        return [answers[i] for i in range(len(batches))]

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

    def _sum(self, w: _Waiting, view_answers: tuple[Tensor, ...], seconds: float) -> Outcome:
        y = w.first.probabilities
        own = self.classifier.cost(*w.first.size)
        forwards, cost, after = 1, own, y
        if w.second is not None:
            r = torch.zeros_like(y)
            forwards += w.forwards
            cost += (w.second.forwards + _BACKWARD * w.second.backwards) * own
            for views, answers in zip(w.views, view_answers, strict=True):
                r = r + correction_term(views.weights, answers)
                network = views.by or self.classifier
                each = network.cost(*views.pixels.shape[-2:])
                cost += len(views.pixels) * each * forward_cost(network, self.classifier)
            after = corrected_probabilities(y, r)
        return Outcome(
            w.first, w.classes, w.second, view_answers, after, forwards, cost, w.seconds + seconds
        )


@dataclass(frozen=True)
class _Waiting:
    """An image whose views are not asked about yet."""

    first: FirstLook
    classes: Tensor
    second: SecondLook | None
    seconds: float

    @property
    def views(self) -> tuple[Views, ...]:
        return self.second.asked if self.second else ()

    def turn(self, done: int) -> tuple[Views, ...]:
        """What to ask about next."""
        in_turn = self.second is not None and self.second.in_turn
        return self.views[done : done + 1] if in_turn else self.views

    def is_settled(self, answers: Sequence[Tensor]) -> bool:
        """Whether nothing is left to ask about, or nothing that would change the answer."""
        left = self.views[len(answers) :]
        if not left:
            return True
        y = self.first.probabilities
        weights = [views.weights for views in self.views[: len(answers)]]
        return settled(
            torch.cat([y.unsqueeze(0), *answers]),
            torch.cat([torch.ones_like(y).unsqueeze(0), *weights]),
            torch.cat([views.weights for views in left]).sum(dim=0),
        )

    def after(self, asked: int) -> _Waiting:
        """The same with only so many batches of views, which is said."""
        if self.second is None or asked == len(self.views):
            return self
        views, left = [], asked
        for some in self.second.views:
            views.append(replace(some, asked=some.asked and left > 0))
            left -= some.asked
        no_view = (*self.second.no_view, _SETTLED)
        return replace(self, second=replace(self.second, views=tuple(views), no_view=no_view))

    @property
    def asked(self) -> int:
        return sum(len(views.pixels) for views in self.views)

    @property
    def forwards(self) -> int:
        return self.asked + (self.second.forwards if self.second else 0)


def _refusal(network: Classifier, views: Tensor, why: str) -> ModelError:
    height, width = views.shape[-2:]
    return ModelError(
        f"{network.name} takes no inputs of {height}×{width} "
        f"({why}); use a look at its own size, such as tencrop"
    )


def _made(outcome: Outcome) -> tuple[SeenView, ...]:
    """Every view, those that the network was asked about with its answer."""
    first = outcome.first
    shown, own = first.shown, first.size

    def frame(views: Views, pixels: Tensor, box: Box | None) -> Frame | None:
        if box is None or views.by is not None:  # another network has another scale
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
