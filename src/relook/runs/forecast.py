"""Forecast of a run's forward passes and, from a short trial, of its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from relook.attribution import FAST, ScoreCAM
from relook.classifier import Classifier
from relook.correction import Corrector
from relook.errors import ImageError, RelookError
from relook.gate import Gate
from relook.images import quiet
from relook.looks import InTurn, Look, Together
from relook.reading import ReadAhead
from relook.runs.job import Item

_SAMPLE = 48
"""Number of images read and classified in the trial."""


@dataclass(frozen=True)
class Forecast:
    """The expected forward passes and time of a run.

    >>> forecasts = []
    >>> evaluation = relook.evaluate(corrector, "photos", on_forecast=forecasts.append)
    >>> forecasts[0].images, forecasts[0].forwards
    (2, 4)

    Attributes:
        images: number of images to classify.
        unsure: number of these that will get a second look, estimated from a sample.
        forwards: total number of forward passes, one image each.
        rate: measured forward passes per second at the network's own input size.
        seconds: total time in seconds, including reading the images.
    """

    images: int
    unsure: int
    forwards: int
    rate: float
    seconds: float


OnForecast = Callable[[Forecast], None]


def forecaster(
    correctors: Sequence[Corrector],
    gates: Sequence[Sequence[Gate]],
    on_forecast: OnForecast | None,
) -> Callable[[Sequence[Item]], None] | None:
    """Return a function that forecasts the work on images and passes the forecast on; None if
    nobody wants one. The arguments are those of `forecast`.
    """
    if on_forecast is None:
        return None

    def tell(left: Sequence[Item]) -> None:
        if expected := forecast(correctors, left, gates):
            on_forecast(expected)

    return tell


def forecast(
    correctors: Sequence[Corrector],
    items: Sequence[Item],
    gates: Sequence[Sequence[Gate]],
) -> Forecast | None:
    """Estimate the forward passes and time of several correctors of one classifier.

    A sample of the images is read and classified, to estimate how many are unsure and how fast the
    network is. These forward passes are not added to any image's count.

    Args:
        correctors: each takes a second look at every image that passes one of its gates.
        items: the images that are left to do, in the order of the work.
        gates: the gates of each corrector.

    Returns:
        The forecast; None if no image is left, or the sample cannot be read or classified.
    """
    if not items or not correctors:
        return None
    classifier = correctors[0].classifier
    start = time.perf_counter()
    sample = items[:_SAMPLE]
    with quiet(), ReadAhead(partial(_crop, classifier), sample) as ahead:
        images = ahead.take(len(sample))
    reading = (time.perf_counter() - start) / len(sample)
    pixels = [crop for crop in images if crop is not None]
    if not pixels:
        return None
    # Use a faster engine if there is one already, but do not build one for a trial.
    ask = classifier if classifier.engine == "PyTorch" else classifier.many
    start = time.perf_counter()
    try:
        with torch.no_grad():
            sure = ask(torch.stack(pixels)).cpu()
    except (RelookError, RuntimeError, MemoryError):
        return None  # one of the images may be to blame, and will be found in its turn
    each = (time.perf_counter() - start) / len(pixels)
    forwards, cost = float(len(items)), float(len(items))
    widest = 0
    for corrector, own in zip(correctors, gates, strict=True):
        passing = sum(any(gate.passes(gate.gap(p)) for gate in own) for p in sure)
        unsure = round(passing / len(pixels) * len(items))
        asked, costs = _asked(corrector.look, corrector)
        forwards += unsure * asked
        cost += unsure * costs
        widest = max(widest, unsure)
    return Forecast(
        images=len(items),
        unsure=widest,
        forwards=math.ceil(forwards),
        rate=1 / each,
        seconds=len(items) * reading + cost * each,
    )


def _crop(classifier: Classifier, item: Item) -> Float[Tensor, "3 h w"] | None:
    """The classifier's crop of an image; None if it cannot be read."""
    try:
        return classifier.pixels(item.open(classifier.geometry.needed))
    except (ImageError, ValueError, MemoryError):
        return None


def _asked(look: Look, corrector: Corrector) -> tuple[int, float]:
    """Maximum number of forward passes per image of a look after the first, and their cost."""
    if isinstance(look, InTurn):
        return _asked(look.look, corrector)
    if isinstance(look, Together):
        parts = [_asked(part, corrector) for part in look.looks]
        return sum(forwards for forwards, _ in parts), sum(cost for _, cost in parts)
    classifier = corrector.classifier
    attribution = getattr(look, "attribution", None)
    if isinstance(attribution, ScoreCAM):  # not tried: it may take thousands of forwards
        budget = FAST if attribution.budget == "fast" else attribution.budget
        channels = classifier.layout.channels
        forwards = min(budget or channels, channels) + corrector.k
        return forwards, float(forwards)
    tried = Corrector(classifier, k=corrector.k, look=look).correct(photo(classifier))
    return tried.forwards - 1, tried.cost - 1


def photo(classifier: Classifier) -> Image.Image:
    """Return a noise image with twice the network's input height and six times its width.

    It is larger than the input, so that looks can crop from it, and wide, because views of wide
    images cost the most.
    """
    height, width = classifier.input_size
    noise = np.random.default_rng(0).integers(0, 256, (2 * height, 6 * width, 3), np.uint8)
    return Image.fromarray(noise)
