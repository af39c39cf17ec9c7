"""Score-CAM: a channel weighs what the network says of the image masked by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relook.arguments import whole_number
from relook.attribution.budget import Sample, choose
from relook.attribution.context import Context, check_context
from relook.attribution.masks import Upsampling
from relook.attribution.protocol import (
    AttributionMaps,
    activations_of,
    combine,
    full_precision,
    min_max,
    rescale,
    upsample,
)
from relook.batching import BATCH, chunked
from relook.checks import check_finite
from relook.errors import RelookError
from relook.fills import check_fill, fill_image, hide


@dataclass(frozen=True)
class _Recipe:
    """In what the published forms of Score-CAM differ.

    Attributes:
        score: a masked image's "probability" of the class, or the network's raw "output" for it.
        softmax: whether the scores go through a softmax over the channels.
        mask: maps are brought to [0, 1] after upsampling ("upsampled") or before ("activation").
        align_corners: of the upsampling of the masks.
        eps: added to the span that a map is divided by.
        constant: a channel that is constant over the image is left out ("skip"), or counts as a
            mask that hides everything ("hides-all").
        sum: weighted sum, ReLU and min-max at the size of the image ("upsampled") or of the maps
            ("activation"), the result then upsampled.
        again: the upsampled result goes through min-max once more.
        fill: what hidden pixels become, where the form fixes it.
    """

    score: Literal["probability", "output"] = "probability"
    softmax: bool = False
    mask: Literal["upsampled", "activation"] = "upsampled"
    align_corners: bool = False
    eps: float = 0.0
    constant: Literal["skip", "hides-all"] = "skip"
    sum: Literal["upsampled", "activation"] = "upsampled"
    again: bool = False
    fill: str | None = None


_RECIPES = {
    "poster": _Recipe(),
    "paper": _Recipe(score="output", softmax=True),
    "torchcam": _Recipe(
        score="output",
        softmax=True,
        mask="activation",
        eps=1e-8,
        constant="hides-all",
        sum="activation",
        fill="mean",
    ),
    "gradcam": _Recipe(
        score="output",
        softmax=True,
        align_corners=True,
        eps=1e-8,
        constant="hides-all",
        sum="activation",
        again=True,
        fill="mean",
    ),
}

VARIANTS: tuple[str, ...] = tuple(_RECIPES)

FAST = 64
"""The budget called "fast"; `benchmarks/budget.py` measures what it costs and what it keeps."""


@dataclass(frozen=True)
class ScoreCAM:
    """Score-CAM (Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for
    Convolutional Neural Networks") for any number of classes from one set of masked forwards:

        H_k = s(up(A_k)),  alpha_k^c = f(X ⊙ H_k)[c],  L^c = s(ReLU(sum_k alpha_k^c · up(A_k))).

    A channel that is constant over the image masks nothing meaningful. It is skipped, costs no
    forward and adds nothing. For maps ≥ 0 (after a ReLU) that is exact: a constant would be taken
    off again by the min-max. For signed maps it is a decision, the one of the authors' code: a
    constant could have moved the sum across the zero of the ReLU.

    If every score of a class is 0, or nothing positive is left of the sum, its map is all 0.

    Attributes:
        variant: "poster": the formulas above, which are those of the authors' code. "paper":
            the paper's Algorithm 1, with the raw output (logit) as score and a softmax over the
            channels; its baseline f(X_b) is the same for all channels, so the softmax cancels it
            and it costs no forward here. "torchcam" and "gradcam": what those libraries compute
            (masks normalised before or upsampled with aligned corners, constant channels kept as
            masks that hide everything, the sum at the size of the maps).
        fill: what a hidden pixel becomes: "black", "mean" (the dataset mean) or "blur". None is
            "black", but "mean" for "torchcam" and "gradcam", which allow no other: they multiply
            the normalised image.
        chunk: how many masked images are in memory at once; None is the classifier's choice,
            16 at 224×224 on a CPU, and it is halved where memory runs out. It changes memory and
            speed, not the maps.
        budget: at most how many masked forwards an image gets; None is one a channel, which is
            exact, and "fast" is 64. With fewer forwards than channels, the channels whose masks
            tell most are asked about, and what the others would have scored is worked out from
            masks like theirs (see `relook.attribution.budget`): the maps are close, not equal.

    >>> seen = classifier.attribution("photo.jpg", ["tabby"], method=relook.ScoreCAM(budget=8))
    >>> tuple(seen.maps.shape), seen.forwards  # the first look and 8 masked images
    ((1, 224, 224), 9)
    """

    variant: str = "poster"
    fill: str | None = None
    chunk: int | None = None
    budget: int | Literal["fast"] | None = None

    def __post_init__(self) -> None:
        if self.variant not in _RECIPES:
            raise RelookError(
                f"variant {self.variant!r} is unknown; choose one of {', '.join(VARIANTS)}"
            )
        fixed = _RECIPES[self.variant].fill
        if self.fill is not None:
            check_fill(self.fill)
            if fixed not in (None, self.fill):
                raise RelookError(
                    f"variant {self.variant!r} multiplies the normalised image, which is fill "
                    f"{fixed!r}; drop fill {self.fill!r} or choose the variant 'poster'"
                )
        if self.chunk is not None and self.chunk < 1:
            raise RelookError(f"chunk must be at least 1, not {self.chunk}")
        if self.budget is None or self.budget == "fast":
            return
        try:
            budget = whole_number(self.budget, "budget")
        except RelookError:
            budget = 0
        if budget < 1:
            raise RelookError(
                f'budget must be a number of forwards from 1 on, "fast" or None, '
                f"not {self.budget!r}"
            )
        object.__setattr__(self, "budget", budget)  # of Python, which settings are written with

    @property
    def hidden_as(self) -> str:
        """The fill that is used."""
        return self.fill or _RECIPES[self.variant].fill or "black"

    @torch.no_grad()
    def __call__(self, context: Context) -> AttributionMaps:
        """Maps of the classes in question.

        Raises:
            NotFiniteError: the network answered NaN for a masked image.
        """
        check_context(self, context)
        recipe = _RECIPES[self.variant]
        activations, size = activations_of(context.first), context.size
        live = live_channels(activations)
        if not live.any():
            return AttributionMaps(
                context.first.pixels.new_zeros(len(context.classes), *size), forwards=0
            )
        asked = live.nonzero().squeeze(1)
        if recipe.constant == "hides-all":
            # The masks of all constant channels are 0 everywhere: one is asked for all of them.
            asked = torch.cat([asked, (~live).nonzero().squeeze(1)[:1]])
        maps = activations[asked]
        up = Upsampling.of(maps, size, recipe.align_corners)
        masks = (
            rescale(maps, *up.range(maps), recipe.eps)
            if recipe.mask == "upsampled"
            else min_max(maps, recipe.eps)
        )
        if recipe.constant == "hides-all":
            masks[int(live.sum()) :] = 0  # eps may have blown rounding up
        sample = self._sample(maps, masks)
        shown = masks if sample is None else masks[sample.asked]
        scores = self._scores(context, shown, up)
        if sample is not None:
            scores = sample.complete(scores)
        if recipe.constant == "hides-all":
            weights = scores[:, -1:].repeat(1, len(live))
            weights[:, asked] = scores
        else:
            weights, activations = scores, maps
        if recipe.softmax:
            weights = weights.softmax(dim=1)
        weights = weights.to(activations.dtype)
        if recipe.sum == "upsampled":
            return AttributionMaps(combine(weights, activations, size), len(shown))
        with full_precision(activations):
            summed = torch.einsum("ck,kuv->cuv", weights, activations).relu()
        seen = upsample(min_max(summed, recipe.eps), size)
        return AttributionMaps(min_max(seen, recipe.eps) if recipe.again else seen, len(shown))

    def _sample(self, maps: Float[Tensor, "k u v"], masks: Float[Tensor, "k u v"]) -> Sample | None:
        """Which channels to ask about; None for all."""
        budget = FAST if self.budget == "fast" else self.budget
        if budget is None or budget >= len(maps):
            return None
        return choose(maps, masks, budget, outputs=_RECIPES[self.variant].score == "output")

    def _scores(
        self, context: Context, masks: Float[Tensor, "k u v"], up: Upsampling
    ) -> Float[Tensor, "c k"]:
        """Alpha before any softmax: one masked forward a mask, all classes from each."""
        classifier, first, size = context.classifier, context.first, context.size
        run = classifier.runner(len(masks), size)
        # Masking and normalising are both affine, so the masks are laid on normalised pixels.
        kept = classifier.normalised(first.pixels)
        hidden = classifier.normalised(fill_image(self.hidden_as, first.pixels, classifier.mean))
        buffer = kept.new_empty(0)

        def ask(piece: Tensor) -> Tensor:
            nonlocal buffer
            if len(buffer) != len(piece):
                # Fresh memory for every chunk would cost as much as filling it.
                buffer = kept.new_empty(0)
                buffer = kept.new_empty(len(piece), *kept.shape)
            answers = run(hide(kept, up(piece).to(kept.dtype), hidden, out=buffer))
            if _RECIPES[self.variant].score == "probability":
                answers = classifier.to_probabilities(answers)
            return answers[:, context.classes]

        count, chunk = len(masks), self.chunk or classifier.chunk_size(*size)
        if classifier.device.type != "cpu":
            # Few different shapes: accelerators choose or compile their kernels for each anew.
            masks = torch.cat([masks, masks.new_zeros(-count % BATCH, *masks.shape[1:])])
        scores, done = [], 0
        for answers in chunked(masks, chunk, ask):
            scores.append(answers)
            done = min(done + len(answers), count)
            if context.progress:
                context.progress(done, count)
        result = torch.cat(scores)[:count]
        check_finite(result, classifier.dtype)
        return result.T


def live_channels(activations: Float[Tensor, "k u v"]) -> Bool[Tensor, " k"]:
    """Which channels are not constant over the image."""
    return activations.amax(dim=(1, 2)) > activations.amin(dim=(1, 2))
