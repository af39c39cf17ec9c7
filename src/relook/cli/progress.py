"""Progress bars on stderr with the estimated time left; none if stderr is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from relook.words import percent

if TYPE_CHECKING:
    import pyarrow

    from relook.multicam import Epoch
    from relook.multicam import Progress as TrainingProgress


class Bars:
    """A bar for the images, and one for the forward passes of the current image."""

    def __init__(self, progress: Progress, images: int) -> None:
        self._progress = progress
        self._images: TaskID | None = None
        if images > 1:
            self._images = progress.add_task("images", total=images)
        self._forwards = progress.add_task("", total=None)
        self._name = ""

    def show(self, name: str, done: int, total: int) -> None:
        """Show the finished forward passes of an image; a new name begins a new image."""
        if name != self._name:
            if self._name:
                self.end()
            self._name = name
            self.begin(name)
        self.forwards(done, total)

    def begin(self, name: str) -> None:
        """Begin a new image."""
        self._progress.reset(self._forwards, description=escape(name), total=None)

    def forwards(self, done: int, total: int) -> None:
        """Show the finished forward passes of the current image."""
        self._progress.update(self._forwards, completed=done, total=total)

    def end(self) -> None:
        """Count the current image as done, even if it failed."""
        if self._images is not None:
            self._progress.advance(self._images)


class EvaluationBar:
    """A bar for the images of an evaluation, with the rate, accuracy and estimated time left."""

    def __init__(
        self, progress: Progress, what: str, images: int, dashboard: str = "", resumed: int = 0
    ) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=images, told=dashboard)
        self._dashboard = f" · {dashboard}" if dashboard else ""
        self._resumed = resumed
        self._done = self._classified = 0
        self._right = [0, 0]
        self._start = time.monotonic()

    def __call__(self, rows: pyarrow.Table) -> None:
        """Add rows; first those of an earlier run, which do not count for the rate."""
        from relook.evaluation.rows import Answers, names_of

        self._done += len(rows)
        if self._done <= self._resumed:
            self._start = time.monotonic()
            self._progress.reset(self._task, completed=self._done)
        names = names_of(rows)
        rows = rows.filter(rows["error"].is_null())
        if names.main is not None and len(rows):
            labels = rows["label"].to_numpy()
            self._classified += len(rows)
            for place, name in enumerate((names.first, names.main)):
                self._right[place] += int((Answers.of(rows, name).best == labels).sum())
        rate = (self._done - self._resumed) / max(time.monotonic() - self._start, 1e-9)
        told = f"{rate:.1f} images/s" if self._done > self._resumed else ""
        if self._classified:
            before, after = (percent(right / self._classified) for right in self._right)
            told += f" · top-1 {before} → {after}"
        self._progress.update(self._task, completed=self._done, told=told + self._dashboard)


class PredictionBar:
    """A bar for the images of a prediction, with the rate and the estimated time left."""

    def __init__(
        self, progress: Progress, images: int, dashboard: str = "", resumed: int = 0
    ) -> None:
        self._progress = progress
        self._task = progress.add_task("images", total=images, told=dashboard)
        self._dashboard = f" · {dashboard}" if dashboard else ""
        self._resumed = resumed
        self._start = time.monotonic()
        self._done = self._corrected = self._errors = 0

    def __call__(self, rows: pyarrow.Table) -> None:
        """Add rows; first those of an earlier run, which do not count for the rate."""
        import pyarrow.compute

        self._done += len(rows)
        if self._done <= self._resumed:
            self._start = time.monotonic()
            self._progress.reset(self._task, completed=self._done)
        self._errors += len(rows) - rows["error"].null_count
        self._corrected += pyarrow.compute.sum(rows["corrected"]).as_py() or 0
        rate = (self._done - self._resumed) / max(time.monotonic() - self._start, 1e-9)
        told = f"{rate:,.1f} images/s" if self._done > self._resumed else ""
        told += f" · second looks {percent(self._corrected / max(1, self._done))}"
        if self._errors:
            told += f" · {self._errors:,} errors"
        self._progress.update(self._task, completed=self._done, told=told + self._dashboard)


class TrainingBar:
    """A bar for each stage's steps, with loss and accuracy, and a line for each epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._validated = ""
        self._printed = (-1, "")
        from relook.multicam import STAGE_NAMES

        self._names = STAGE_NAMES

    def images(self, done: int, total: int) -> None:
        """Show how many images are read before the training starts."""
        task = self._task("reading the images", total)
        self._progress.update(task, completed=done, visible=done < total)

    def __call__(self, told: TrainingProgress) -> None:
        """Show the progress after a step or an epoch."""
        name = self._names[told.stage]
        task = self._task(told.stage, told.epochs * told.steps)
        done = max(0, told.epoch - 1) * told.steps + told.step
        running = ""
        if told.loss is not None and told.accuracy is not None:
            running = f"loss {told.loss:.3f}, {percent(told.accuracy)} right"
        if told.ended:
            self._validated = f"validation {percent(told.ended.validation_accuracy)}"
            if self._printed != (told.ended.epoch, name):  # resumed epochs are reported again
                self._line(name, told.ended)
            self._printed = (told.ended.epoch, name)
        self._progress.update(
            task,
            description=f"{name}, epoch {max(1, told.epoch)} of {told.epochs}",
            completed=done,
            told=" · ".join(part for part in (running, self._validated) if part),
        )

    def _task(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            for other in self._tasks.values():
                self._progress.update(other, visible=False)
            self._tasks[name] = self._progress.add_task(name, total=total, told="")
            self._validated = ""
        return self._tasks[name]

    def _line(self, name: str, epoch: Epoch) -> None:
        if not self._progress.console.is_terminal:
            return
        trained = "before the training"
        if epoch.loss is not None and epoch.accuracy is not None:
            trained = f"loss {epoch.loss:.3f}, {percent(epoch.accuracy)} right"
        self._progress.console.print(
            f"[dim]{name}, epoch {epoch.epoch}: {trained}; validation loss "
            f"{epoch.validation_loss:.3f}, {percent(epoch.validation_accuracy)} right[/]"
        )


@contextmanager
def training_bar() -> Iterator[TrainingBar]:
    """The bar of `relook train-multicam`."""
    with _progress(TextColumn("{task.fields[told]}")) as progress:
        yield TrainingBar(progress)


@contextmanager
def progress_bars(images: int) -> Iterator[Bars]:
    """Bars for images that are corrected one by one."""
    with _progress() as progress:
        yield Bars(progress, images)


@contextmanager
def evaluation_bar(
    what: str, images: int, dashboard: str = "", resumed: int = 0
) -> Iterator[EvaluationBar]:
    """The bar of an evaluation, or of another run over many images.

    Args:
        what: what is done.
        images: number of images.
        dashboard: address of Ray's dashboard, to be shown; empty if there is none.
        resumed: number of rows of an earlier run, which come first.
    """
    with _progress(TextColumn("{task.fields[told]}")) as progress:
        yield EvaluationBar(progress, what, images, dashboard, resumed)


@contextmanager
def prediction_bar(images: int, dashboard: str = "", resumed: int = 0) -> Iterator[PredictionBar]:
    """The bar of `relook predict --rows`; see `evaluation_bar`."""
    with _progress(TextColumn("{task.fields[told]}")) as progress:
        yield PredictionBar(progress, images, dashboard, resumed)


@contextmanager
def _progress(*more: TextColumn) -> Iterator[Progress]:
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *more,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=600,  # seconds; batches of images differ much in duration
    )
    with progress if console.is_terminal else nullcontext():
        yield progress
