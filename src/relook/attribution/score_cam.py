"""Score-CAM: each channel is weighted by the network's answer to the image masked by it."""

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
from relook.engines import OnnxRuntime
from relook.errors import RelookError
from relook.fills import check_fill, fill_image, hide

_CHUNKS = 4
"""Chunks that ONNX Runtime is given at a time: at the end of each its threads wait for each other,
and it splits them itself, so that memory stays small."""


@dataclass(frozen=True)
class _Recipe:
    """How the published variants of Score-CAM differ.

    Attributes:
        score: score of a masked image: the "probability" of the class, or the network's raw
            "output" for it.
        softmax: whether a softmax over the channels is applied to the scores.
        mask: whether maps are rescaled to [0, 1] after upsampling ("upsampled") or before
            ("activation").
        align_corners: whether masks are upsampled with aligned corners.
        eps: added to the denominator when maps are rescaled.
        constant: whether a channel that is constant over the image is skipped ("skip") or treated
            as a mask that hides everything ("hides-all").
        sum: whether weighted sum, ReLU and min-max are computed at the size of the image
            ("upsampled") or at the size of the maps and then upsampled ("activation").
        again: whether min-max is applied once more to the upsampled result.
        fill: what hidden pixels are replaced by, if the variant fixes it.
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
"""The budget called "fast"; `benchmarks/budget.py` measures its cost and its accuracy."""


@dataclass(frozen=True)
class ScoreCAM:
    """Score-CAM (Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for
    Convolutional Neural Networks"), for all classes from one set of masked forward passes:

        H_k = s(up(A_k)),  alpha_k^c = f(X ⊙ H_k)[c],  L^c = s(ReLU(sum_k alpha_k^c · up(A_k))).

    A channel that is constant over the image gives no meaningful mask and is skipped. For maps ≥ 0
    (after a ReLU) this is exact, since min-max removes constants. For signed maps it is a choice,
    the same as in the authors' code: a constant could move the sum across the zero of the ReLU.

    The map of a class is 0 everywhere if all its scores are 0 or the sum is nowhere positive.

    Attributes:
        variant: "poster": the formulas above, which are those of the authors' code. "paper":
            the paper's Algorithm 1, with the raw output (logit) as score and a softmax over the
            channels; its baseline f(X_b) is the same for all channels and cancels in the softmax,
            so it is not computed. "torchcam" and "gradcam": as in these libraries (masks rescaled
            before upsampling, or upsampled with aligned corners; constant channels kept as masks
            that hide everything; the sum computed at the size of the maps).
        fill: what hidden pixels are replaced by: "black", "mean" (the dataset mean) or "blur". None
            means "black", or "mean" for "torchcam" and "gradcam", which accept no other fill since
            they multiply the normalised image.
        chunk: number of masked images in memory at once; it affects memory and speed, not the maps.
            None lets the classifier choose (16 at 224×224 on a CPU). It is halved if memory runs
            out.
        budget: maximum number of masked forward passes per image. None is one per channel, which is
            exact; "fast" is 64. With fewer passes than channels, the most informative masks are run
            and the scores of the others are estimated (see `relook.attribution.budget`), so the
            maps are approximate.

    Raises:
        RelookError: a value is unknown or out of range.

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
                f'budget must be at least 1 forward pass, "fast" or None, not {self.budget!r}'
            )
        object.__setattr__(self, "budget", budget)  # a Python int, which JSON can hold

    @property
    def hidden_as(self) -> str:
        """The fill in use: `fill`, or the default of the variant."""
        return self.fill or _RECIPES[self.variant].fill or "black"

    @torch.no_grad()
    def __call__(self, context: Context) -> AttributionMaps:
        """Compute the maps of `context.classes`.

        Raises:
            NotFiniteError: the network returned NaN or infinity for a masked image.
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
            # The masks of all constant channels are 0 everywhere: one of them is run for all.
            asked = torch.cat([asked, (~live).nonzero().squeeze(1)[:1]])
        maps = activations[asked]
        up = Upsampling.of(maps, size, recipe.align_corners)
        masks = (
            rescale(maps, *up.range(maps), recipe.eps)
            if recipe.mask == "upsampled"
            else min_max(maps, recipe.eps)
        )
        if recipe.constant == "hides-all":
            masks[int(live.sum()) :] = 0  # eps may have amplified rounding errors
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
        """Choose the channels to run; None for all."""
        budget = FAST if self.budget == "fast" else self.budget
        if budget is None or budget >= len(maps):
            return None
        return choose(maps, masks, budget, outputs=_RECIPES[self.variant].score == "output")

    def _scores(
        self, context: Context, masks: Float[Tensor, "k u v"], up: Upsampling
    ) -> Float[Tensor, "c k"]:
        """Compute alpha before any softmax, with one forward pass per mask for all classes."""
        classifier, first, size = context.classifier, context.first, context.size
        run = classifier.runner(len(masks), size)
        # Masking and normalising are both affine, so masks are applied to normalised pixels.
        kept = classifier.normalised(first.pixels)
        hidden = classifier.normalised(fill_image(self.hidden_as, first.pixels, classifier.mean))
        buffer = kept.new_empty(0)

        def ask(piece: Tensor) -> Tensor:
            nonlocal buffer
            if len(buffer) != len(piece):
                # Allocating memory for every chunk would take as long as filling it.
                buffer = kept.new_empty(0)
                buffer = kept.new_empty(len(piece), *kept.shape)
            answers = run(hide(kept, up(piece).to(kept.dtype), hidden, out=buffer))
            if _RECIPES[self.variant].score == "probability":
                answers = classifier.to_probabilities(answers)
            return answers[:, context.classes]

        count, chunk = len(masks), self.chunk or classifier.chunk_size(*size)
        if self.chunk is None and isinstance(run, OnnxRuntime):
            chunk *= _CHUNKS
        if classifier.device.type != "cpu":
            # Keep the number of shapes small: accelerators select or compile kernels for each.
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
    """Return a mask of the channels that are not constant over the image."""
    return activations.amax(dim=(1, 2)) > activations.amin(dim=(1, 2))
