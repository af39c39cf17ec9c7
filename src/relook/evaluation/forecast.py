"""What a run will take, known before it begins: its forward passes and, by a trial, its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image

from relook.attribution import FAST, ScoreCAM
from relook.classifier import Classifier
from relook.correction import Corrector
from relook.evaluation.data import LabelledImages
from relook.evaluation.work import read
from relook.gate import Gate
from relook.images import quiet
from relook.looks import InTurn, Look, Together
from relook.reading import THREADS

_SAMPLE = 48
"""So many images are read and classified in the trial."""


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run.

    >>> forecasts = []
    >>> evaluation = relook.evaluate(corrector, "photos", on_forecast=forecasts.append)
    >>> forecasts[0].images, forecasts[0].forwards
    (2, 4)

    Attributes:
        images: how many it will answer.
        unsure: how many of them will get a second look, going by a sample.
        forwards: images that will go through the network in all.
        rate: forward passes a second at the network's own input size, measured.
        seconds: in all, reading the images included.
    """

    images: int
    unsure: int
    forwards: int
    rate: float
    seconds: float


OnForecast = Callable[[Forecast], None]


def forecast(
    correctors: Sequence[Corrector],
    data: LabelledImages,
    indices: Sequence[int],
    gates: Sequence[Sequence[Gate]],
) -> Forecast | None:
    """What it will take to answer images under several correctors of one classifier.

    A few of the images are read and classified to learn how many are unsure and how fast the
    network is; these forward passes belong to no image's count.

    Args:
        correctors: each looks again at every image that one of its gates lets pass.
        data: the images.
        indices: which of them are still to be done, in the order in which they will be.
        gates: those of each corrector.

    Returns:
        None where there is nothing to do, or no image of the sample can be read.
    """
    if not indices or not correctors:
        return None
    classifier = correctors[0].classifier
    start = time.perf_counter()
    with quiet(), ThreadPoolExecutor(THREADS) as pool:
        sample = [data.images[index] for index in indices[:_SAMPLE]]
        images = list(pool.map(partial(read, classifier, 0, original=False), sample))
    reading = (time.perf_counter() - start) / len(sample)
    pixels = [image.pixels for image in images if image.pixels is not None]
    if not pixels:
        return None
    # A faster form of the network is used where there is one, and never made for a trial.
    ask = classifier if classifier.engine == "PyTorch" else classifier.many
    start = time.perf_counter()
    with torch.no_grad():
        sure = ask(torch.stack(pixels)).cpu()
    each = (time.perf_counter() - start) / len(pixels)
    forwards, cost = float(len(indices)), float(len(indices))
    widest = 0
    for corrector, own in zip(correctors, gates, strict=True):
        passing = sum(any(gate.passes(gate.gap(p)) for gate in own) for p in sure)
        unsure = round(passing / len(pixels) * len(indices))
        asked, costs = _asked(corrector.look, corrector)
        forwards += unsure * asked
        cost += unsure * costs
        widest = max(widest, unsure)
    return Forecast(
        images=len(indices),
        unsure=widest,
        forwards=math.ceil(forwards),
        rate=1 / each,
        seconds=len(indices) * reading + cost * each,
    )


def _asked(look: Look, corrector: Corrector) -> tuple[int, float]:
    """Forward passes that a look takes for an image beyond the first, and their cost, at most."""
    if isinstance(look, InTurn):
        return _asked(look.look, corrector)
    if isinstance(look, Together):
        parts = [_asked(part, corrector) for part in look.looks]
        return sum(forwards for forwards, _ in parts), sum(cost for _, cost in parts)
    classifier = corrector.classifier
    attribution = getattr(look, "attribution", None)
    if isinstance(attribution, ScoreCAM):  # tried out, it would take what is to be said before
        budget = FAST if attribution.budget == "fast" else attribution.budget
        channels = classifier.layout.channels
        forwards = min(budget or channels, channels) + corrector.k
        return forwards, float(forwards)
    tried = Corrector(classifier, k=corrector.k, look=look).correct(photo(classifier))
    return tried.forwards - 1, tried.cost - 1


def photo(classifier: Classifier) -> Image.Image:
    """Noise of twice the network's height and six times its width: there is something to cut, and
    long photos are what views cost most of.
    """
    height, width = classifier.input_size
    noise = np.random.default_rng(0).integers(0, 256, (2 * height, 6 * width, 3), np.uint8)
    return Image.fromarray(noise)
