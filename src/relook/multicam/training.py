"""One stage of the training, with early stopping; it continues after an interruption."""

from __future__ import annotations

import io
import math
import pickle
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relook.answers import class_outputs
from relook.batching import is_out_of_memory
from relook.classifier import Classifier
from relook.errors import ImageError, RelookError, first_line
from relook.folder import RunError, write_atomically
from relook.images import quiet
from relook.layers import evaluating
from relook.multicam.data import TrainingImage

BATCH = 32
SMOOTHING = 0.05
"""Label smoothing of the training loss; the validation loss has none."""
KEEP_SECONDS = 60.0
"""Seconds after which the progress within an epoch is saved."""

_WARM_UP = 0.1
"""Fraction of the steps in which the learning rate rises, before it falls as a cosine."""
_AREA = (0.35, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_LIGHT = (0.8, 1.2)


@dataclass(frozen=True)
class Plan:
    """Duration and learning rate of the training.

    Attributes:
        epochs: largest number of epochs per stage.
        rate: highest learning rate of AdamW.
        seed: seed of the order of images, the augmentation and dropout.
    """

    epochs: int
    rate: float
    seed: int

    @property
    def patience(self) -> int:
        """Number of epochs without a lower validation loss after which a stage ends."""
        return max(3, self.epochs // 4)


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes:
        name: "target", "object" or "fusion".
        network: network that is trained and saved.
        prepare: frozen function from normalised images to the network's inputs.
        pace: factor of the plan's learning rate.
    """

    name: str
    network: nn.Module
    prepare: Callable[[Tensor], Tensor]
    pace: float = 1.0


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch.

    Attributes:
        epoch: number of the epoch, from 1; 0 is the state before the training.
        loss: mean training loss during the epoch, on augmented images; None for epoch 0.
        accuracy: fraction of correct answers during the epoch, on augmented images; None for
            epoch 0.
        validation_loss: cross entropy of the validation images after the epoch.
        validation_accuracy: fraction of correct answers for the validation images.
        seconds: time since the stage began, without interruptions.

    >>> from relook.multicam import Training
    >>> first = Training.read("trained").stages["target"].epochs[0]
    >>> first.epoch, first.loss is None, first.validation_loss > 0
    (0, True, True)
    """

    epoch: int
    loss: float | None
    accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Progress of a stage.

    Attributes:
        stage: name of the stage.
        epoch: number of the epoch, from 1; 0 is the state before the training.
        epochs: largest number of epochs.
        step: number of batches done in this epoch.
        steps: number of batches per epoch.
        loss: mean training loss of this epoch so far; None before its first step.
        accuracy: fraction of correct answers in this epoch so far; None before its first step.
        ended: results of the epoch that has just ended, or after which an interrupted stage
            continues; None during an epoch.

    >>> from relook.multicam import Progress
    >>> told = Progress("target", epoch=1, epochs=8, step=3, steps=10, loss=1.2, accuracy=0.5)
    >>> told.ended is None
    True
    """

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    accuracy: float | None
    ended: Epoch | None = None


OnProgress = Callable[[Progress], None]


@dataclass
class _State:
    """The saved state from which an interrupted stage continues."""

    epoch: int
    step: int
    loss: float
    right: int
    seconds: float
    network: dict[str, Any]
    optimizer: dict[str, Any]
    best: dict[str, Any]
    epochs: list[dict[str, Any]]

    def write(self, file: Path) -> None:
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        write_atomically(file, buffer.getvalue())

    @classmethod
    def read(cls, file: Path) -> _State:
        try:
            return cls(**torch.load(file, map_location="cpu", weights_only=True))
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, TypeError) as error:
            raise RunError(
                f"{file}: cannot be read ({first_line(error)}); delete it to start the stage again"
            ) from error


def fit(
    stage: Stage,
    classifier: Classifier,
    train: Sequence[TrainingImage],
    validation: Sequence[TrainingImage],
    plan: Plan,
    kept: Path,
    on_progress: OnProgress | None = None,
) -> list[Epoch]:
    """Train the stage's network in place, and restore the weights of its best epoch.

    The loss is cross entropy with label smoothing, the optimiser AdamW with a warm-up and a cosine
    decay of the learning rate. The augmentation is a random crop of 35 to 100 % of the image, a
    random flip and a random brightness.

    The best epoch has the lowest validation loss, and may be the state before the training. After
    `Plan.patience` epochs without a lower loss the stage ends. Order, augmentation and dropout
    depend only on seed, stage, epoch and step, so that an interrupted training ends with the same
    weights (on a CPU, with the same number of threads).

    Args:
        stage: stage to train.
        classifier: classifier that cuts and normalises the images.
        train: training images.
        validation: validation images.
        plan: epochs, learning rate and seed.
        kept: file for the progress so far; training continues from it if it exists.
        on_progress: called after every step.

    Returns:
        Results of every epoch, the first being the state before the training.

    Raises:
        RelookError: an image can no longer be read, the loss is not finite, or PyTorch fails, for
            example out of memory; saved progress is kept.
        RunError: `kept` cannot be read.
    """
    with torch.random.fork_rng(), quiet(), evaluating(stage.network):
        return _Fit(stage, classifier, train, validation, plan, kept, on_progress).run()


def random_of(*what: object) -> random.Random:
    """Random number generator for one purpose, seeded with the values that identify it."""
    return random.Random(" ".join(map(str, what)))


class _Fit:
    def __init__(
        self,
        stage: Stage,
        classifier: Classifier,
        train: Sequence[TrainingImage],
        validation: Sequence[TrainingImage],
        plan: Plan,
        kept: Path,
        on_progress: OnProgress | None,
    ) -> None:
        self.stage, self.classifier, self.plan = stage, classifier, plan
        self.train, self.validation = train, validation
        self.kept, self.on_progress = kept, on_progress
        self.optimizer = torch.optim.AdamW(stage.network.parameters(), lr=plan.rate)
        # An incomplete last batch is skipped; the next epoch has another order.
        self.steps = max(1, len(train) // BATCH)
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.epoch = self.step = self.right = 0
        self.loss = 0.0
        self.start = time.monotonic()

    def run(self) -> list[Epoch]:
        try:
            if self.kept.exists():
                self._resume()
            else:
                self._end_epoch(None, None)
            while self.epoch < self.plan.epochs and not self._is_over():
                self._train_epoch()
        except (RuntimeError, MemoryError) as error:
            raise self._failed(error) from error
        self.stage.network.load_state_dict(self.best)
        return self.epochs

    def _is_over(self) -> bool:
        best = min(self.epochs, key=lambda epoch: epoch.validation_loss)
        return self.epochs[-1].epoch - best.epoch >= self.plan.patience

    def _train_epoch(self) -> None:
        number = self.epoch + 1
        order = list(range(len(self.train)))
        random_of(self.plan.seed, self.stage.name, number).shuffle(order)
        batches = [
            [self.train[i] for i in order[step * BATCH : (step + 1) * BATCH]]
            for step in range(self.step, self.steps)
        ]
        saved = time.monotonic()
        self.stage.network.train()
        for inputs, labels in self._read(batches, f"{self.plan.seed} {self.stage.name} {number}"):
            self._train_step(inputs, labels, number)
            self._tell(number)
            if time.monotonic() - saved > KEEP_SECONDS and self.step < self.steps:
                self._keep()
                saved = time.monotonic()
        images = min(self.steps * BATCH, len(self.train))
        loss, accuracy = self.loss / self.steps, self.right / images
        self.epoch, self.step, self.loss, self.right = number, 0, 0.0, 0
        self._end_epoch(loss, accuracy)

    def _train_step(self, inputs: Tensor, labels: Tensor, epoch: int) -> None:
        name = (self.plan.seed, self.stage.name, epoch, self.step)
        torch.manual_seed(random_of(*name).getrandbits(62))  # for dropout
        done = (epoch - 1) * self.steps + self.step
        rate = self.plan.rate * self.stage.pace
        for group in self.optimizer.param_groups:
            group["lr"] = rate * _rate(done / (self.plan.epochs * self.steps))
        logits = self._answer(inputs)
        loss = cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        if not bool(loss.isfinite()):
            raise RelookError(
                f"{self.stage.name}: the loss is {loss.item()} in epoch {epoch}, which would "
                "happen again; start a new run with other weights or another seed"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.loss += float(loss.detach())
        self.right += int((logits.argmax(dim=1) == labels).sum())

    def _answer(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            prepared = self.stage.prepare(inputs)
        return class_outputs(self.stage.network(prepared))

    def _failed(self, error: Exception) -> RelookError:
        small = "; use a smaller backbone or another device" if is_out_of_memory(error) else ""
        return RelookError(
            f"{self.stage.name}: PyTorch failed in epoch {self.epoch + 1} ({first_line(error)})"
            f"{small}. The progress so far is saved"
        )

    def _end_epoch(self, loss: float | None, accuracy: float | None) -> None:
        """Validate, remember the weights if they are the best so far, and save the progress."""
        self.stage.network.eval()
        lost, right = 0.0, 0
        batches = [self.validation[i : i + BATCH] for i in range(0, len(self.validation), BATCH)]
        with torch.no_grad():
            for inputs, labels in self._read(batches, None):
                logits = self._answer(inputs)
                lost += float(cross_entropy(logits, labels, reduction="sum"))
                right += int((logits.argmax(dim=1) == labels).sum())
        count = len(self.validation)
        if not math.isfinite(lost):
            raise RelookError(
                f"{self.stage.name}: the validation loss is {lost} after epoch {self.epoch}, which "
                "would happen again; start a new run with other weights or another seed"
            )
        found = Epoch(self.epoch, loss, accuracy, lost / count, right / count, self._seconds())
        if all(found.validation_loss < e.validation_loss for e in self.epochs):
            state = self.stage.network.state_dict()
            self.best = {name: value.detach().clone() for name, value in state.items()}
        self.epochs.append(found)
        self._keep()
        self._tell(self.epoch, found)

    def _read(
        self, batches: Sequence[Sequence[TrainingImage]], augmented: str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised inputs and labels of each batch; images are read one batch ahead."""
        reading: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(2) as pool:
            try:
                for batch, following in zip(batches, (*batches[1:], ()), strict=True):
                    while len(reading) < len(batch):
                        image = batch[len(reading)]
                        reading.append(pool.submit(self._pixels, image, augmented))
                    reading.extend(pool.submit(self._pixels, i, augmented) for i in following)
                    pixels = torch.stack([reading.popleft().result() for _ in batch])
                    inputs = self.classifier.normalised(pixels).to(
                        memory_format=self.classifier.memory_format
                    )
                    labels = torch.tensor([i.label for i in batch], device=inputs.device)
                    yield inputs, labels
            finally:
                for future in reading:
                    future.cancel()

    def _pixels(self, image: TrainingImage, augmented: str | None) -> Float[Tensor, "3 h w"]:
        try:
            opened = image.open()
        except ImageError as error:
            raise RelookError(
                f"{error}; it was readable when the training began: restore it, and run the same "
                "command again to continue"
            ) from error
        if augmented is None:
            return self.classifier.pixels(opened)
        chance = random_of(augmented, image.name)
        box = _box(chance, opened.width, opened.height)
        pixels = self.classifier.pixels(opened, box)
        pixels = pixels.flip(2) if chance.random() < 0.5 else pixels
        return pixels.mul(chance.uniform(*_LIGHT)).clamp(0, 1)

    def _seconds(self) -> float:
        return time.monotonic() - self.start

    def _keep(self) -> None:
        _State(
            self.epoch,
            self.step,
            self.loss,
            self.right,
            self._seconds(),
            self.stage.network.state_dict(),
            self.optimizer.state_dict(),
            self.best,
            [asdict(epoch) for epoch in self.epochs],
        ).write(self.kept)

    def _resume(self) -> None:
        state = _State.read(self.kept)
        self.stage.network.load_state_dict(state.network)
        self.optimizer.load_state_dict(state.optimizer)
        self.best = state.best
        self.epochs = [Epoch(**epoch) for epoch in state.epochs]
        self.epoch, self.step, self.loss, self.right = (
            state.epoch,
            state.step,
            state.loss,
            state.right,
        )
        self.start = time.monotonic() - state.seconds
        self._tell(self.epoch, self.epochs[-1])

    def _tell(self, epoch: int, ended: Epoch | None = None) -> None:
        if self.on_progress is None:
            return
        place = (self.stage.name, epoch, self.plan.epochs)
        if ended:
            step = self.steps if ended.epoch else 0
            told = Progress(*place, step, self.steps, ended.loss, ended.accuracy, ended)
        else:
            images = min(self.step * BATCH, len(self.train))
            running = (self.loss / self.step, self.right / images)
            told = Progress(*place, self.step, self.steps, *running)
        self.on_progress(told)


def _rate(done: float) -> float:
    """Learning rate relative to its maximum, after the fraction `done` of the steps."""
    if done < _WARM_UP:
        return (done + 0.01) / (_WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _box(chance: random.Random, width: int, height: int) -> tuple[float, float, float, float]:
    """A random box inside the image, of a fraction in `_AREA` if its aspect allows."""
    area = chance.uniform(*_AREA) * width * height
    aspect = math.exp(chance.uniform(*map(math.log, _ASPECT))) * width / height
    across = min(float(width), math.sqrt(area * aspect))
    down = min(float(height), math.sqrt(area / aspect))
    left, top = chance.uniform(0, width - across), chance.uniform(0, height - down)
    return (left, top, left + across, top + down)
