"""What a person sees on the terminal: tables on stdout, progress and errors on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

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
from rich.table import Table

from relook.evaluation import Method, Pairing, Row, Statistics, Tally
from relook.multicam import STAGE_NAMES, TARGET, Comparison, Epoch, Training
from relook.multicam import Progress as TrainingProgress
from relook.report.findings import Findings
from relook.report.story import Story
from relook.words import count, duration, percent, percent_range, points, significance

_STYLES = {True: "green", False: "red"}


class Bars:
    """A bar over the images and one over the forwards of the image at hand."""

    def __init__(self, progress: Progress, images: int) -> None:
        self._progress = progress
        self._images: TaskID | None = None
        if images > 1:
            self._images = progress.add_task("images", total=images)
        self._forwards = progress.add_task("", total=None)
        self._name = ""

    def show(self, name: str, done: int, total: int) -> None:
        """So many of the forward passes of this image are done; another name is another image."""
        if name != self._name:
            if self._name:
                self.end()
            self._name = name
            self.begin(name)
        self.forwards(done, total)

    def begin(self, name: str) -> None:
        """A new image."""
        self._progress.reset(self._forwards, description=escape(name), total=None)

    def forwards(self, done: int, total: int) -> None:
        """So many of its forwards are done."""
        self._progress.update(self._forwards, completed=done, total=total)

    def end(self) -> None:
        """The image is done, or given up."""
        if self._images is not None:
            self._progress.advance(self._images)


class EvaluationBar:
    """A bar over the images of an evaluation: rate, how many are right so far, estimate."""

    def __init__(self, progress: Progress, what: str, images: int) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=images, told="")
        self._done = self._resumed = self._classified = 0
        self._right = [0, 0]
        self._start = time.monotonic()

    def __call__(self, rows: Sequence[Row]) -> None:
        """Rows came; first those that were there already, if any."""
        if not self._done and len(rows) > 1:  # an earlier run's, which say nothing of the rate
            self._resumed = len(rows)
            self._progress.reset(self._task, completed=len(rows))
        self._done += len(rows)
        for row in rows:
            if row.before and row.after:
                self._classified += 1
                self._right[0] += row.before.best == row.label
                self._right[1] += row.after.best == row.label
        rate = (self._done - self._resumed) / max(time.monotonic() - self._start, 1e-9)
        told = f"{rate:.1f} images/s" if self._done > self._resumed else ""
        if self._classified:
            before, after = (percent(right / self._classified) for right in self._right)
            told += f" · top-1 {before} → {after}"
        self._progress.update(self._task, completed=self._done, told=told)


class TrainingBar:
    """A bar over the steps of each stage: loss, accuracy, estimate; a line for each epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._validated = ""
        self._printed = (-1, "")

    def images(self, done: int, total: int) -> None:
        """So many images are read, before the training."""
        task = self._task("reading the images", total)
        self._progress.update(task, completed=done, visible=done < total)

    def __call__(self, told: TrainingProgress) -> None:
        """A step is done, or an epoch."""
        name = STAGE_NAMES[told.stage]
        task = self._task(told.stage, told.epochs * told.steps)
        done = max(0, told.epoch - 1) * told.steps + told.step
        running = ""
        if told.loss is not None and told.accuracy is not None:
            running = f"loss {told.loss:.3f}, {percent(told.accuracy)} right"
        if told.ended:
            self._validated = f"validation {percent(told.ended.validation_accuracy)}"
            if self._printed != (told.ended.epoch, name):  # what was resumed is told again
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
    """Of `relook train-multicam`; nothing at all in a pipe."""
    with _progress(TextColumn("{task.fields[told]}")) as progress:
        yield TrainingBar(progress)


@contextmanager
def progress_bars(images: int) -> Iterator[Bars]:
    """Bars with an estimate on a terminal; nothing at all in a pipe."""
    with _progress() as progress:
        yield Bars(progress, images)


@contextmanager
def evaluation_bar(what: str, images: int) -> Iterator[EvaluationBar]:
    """The same for an evaluation."""
    with _progress(TextColumn("{task.fields[told]}")) as progress:
        yield EvaluationBar(progress, what, images)


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
        speed_estimate_period=600,  # images come in batches, some of which take far longer
    )
    with progress if console.is_terminal else nullcontext():
        yield progress


def print_training(console: Console, training: Training) -> None:
    """What each stage of a training came to."""
    table = Table(title=escape(str(training.folder)), title_justify="left", title_style="bold")
    table.add_column("stage")
    for column in ("epochs", "kept", "validation loss", "right of validation", "time"):
        table.add_column(column, justify="right")
    for name, stage in training.stages.items():
        table.add_row(
            STAGE_NAMES[name],
            f"{stage.epochs[-1].epoch}",
            f"{stage.best.epoch}",
            f"{stage.best.validation_loss:.3f}",
            f"{percent(stage.best.validation_accuracy)} of {stage.validation:,}",
            duration(stage.seconds),
        )
    console.print(table)
    if not all(stage.best.epoch for stage in training.stages.values()):
        console.print("kept 0: no epoch did better on the validation images than what it began as")


def print_comparison(console: Console, comparison: Comparison, found: Findings) -> None:
    """The methods side by side, and what was found."""
    statistics = comparison.statistics
    if statistics.before.images:
        title = count(statistics.before.images, "test image")
        if statistics.errors:
            title += f", {count(statistics.errors, 'other')} could not be used"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("", no_wrap=True)
        for column in ("top-1 %", "95 %", "gain", "p", "forwards", "training"):
            table.add_column(column, justify="right")
        for method in comparison.methods:
            pairing = method.pairing
            table.add_row(
                method.method.replace(f"{TARGET} +", "+"),
                f"{100 * (method.tally.top1 or 0):.1f}",
                percent_range(method.tally.interval),
                points(pairing.gain) if pairing else "",
                significance(pairing.p_value).replace(" ", "") if pairing else "",
                _per_image(method.tally),
                duration(method.seconds),
            )
        console.print(table)
    _print_findings(console, found)


def _print_findings(console: Console, found: Findings) -> None:
    style = {"helps": "bold green", "hurts": "bold red"}.get(found.verdict, "bold")
    console.print(f"[{style}]{escape(found.sentence)}[/]", soft_wrap=True)
    if "exact test" in found.details:
        console.print("[dim]The verdict goes by the exact test, at 5 %.[/]")
    for remark in found.remarks:
        console.print(escape(remark), soft_wrap=True)


def print_story(console: Console, story: Story) -> None:
    """A table of the classes before and after, and a line of what changed and what it cost."""
    table = Table(title=escape(story.title), title_justify="left", title_style="bold")
    table.add_column("class", overflow="fold")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("change", justify="right")
    for row in story.classes:
        change = round(row.change, 1)
        style = _STYLES[change > 0] if change else "dim"
        table.add_row(
            escape(row.label),
            percent(row.before),
            percent(row.after),
            f"[{style}]{change:+.1f}[/]" if change else "[dim]·[/]",
        )
    console.print(table)
    if not story.correction.corrected:
        gate, gap = story.gate, story.gap
        verdict = f"left as it is: {gate.name} is {gap:.2f}, not below the gate of {gate.below}"
    elif not story.correction.views:
        verdict = f"{escape(story.top_after)}, as before: there was no view to ask about"
    elif story.correction.changed:
        verdict = f"[bold]{escape(story.top_before)} → {escape(story.top_after)}[/]"
    else:
        verdict = f"{escape(story.top_after)}, as before"
    console.print(
        f"{verdict} · {story.forwards} · {story.correction.seconds:.1f} s", soft_wrap=True
    )
    for note in story.correction.left_out:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    for note in story.correction.no_view:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    console.print()


def print_statistics(console: Console, statistics: Statistics, found: Findings, name: str) -> None:
    """The tables of an evaluation, and what it found."""
    if statistics.before.images:
        console.print(_whole_set(statistics, name))
        if statistics.after.ambiguous.images:
            console.print(_two_by_two(statistics.after.ambiguous))
    _print_findings(console, found)


def _whole_set(statistics: Statistics, name: str) -> Table:
    images = statistics.before.images
    title = count(images, "image")
    if statistics.errors:
        title += f", {count(statistics.errors, 'other')} could not be used"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", overflow="fold")
    for column in ("top-1 %", "top-5 %", "fixed", "broken", "gain", "p", "cost"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("before", *_right(statistics.before), "", "", "", "", _cost(statistics.before))
    for label, method in {f"after: {name}": statistics.after, **statistics.rivals}.items():
        table.add_row(escape(label), *_right(method.tally), *_gained(method))
    return table


def _right(tally: Tally) -> list[str]:
    return [f"{100 * (tally.top1 or 0):.1f}", f"{100 * (tally.top5 or 0):.1f}"]


def _gained(method: Method) -> list[str]:
    p = significance(method.pairing.p_value).replace(" ", "")
    changed = [f"{method.pairing.fixed:,}", f"{method.pairing.broken:,}"]
    return [*changed, points(method.pairing.gain), p, _cost(method.tally)]


def _per_image(tally: Tally) -> str:
    return f"{tally.forwards / tally.images:,.2f}"


def _cost(tally: Tally) -> str:
    """Of an image, in forward passes at the network's own input size."""
    return f"{tally.cost / tally.images:,.2f}"


def _two_by_two(pairing: Pairing) -> Table:
    table = Table(
        title=f"{count(pairing.images, 'ambiguous image')}, gap(1,5) < 0.5",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("")
    table.add_column("right after", justify="right")
    table.add_column("wrong after", justify="right")
    table.add_row("right before", f"{pairing.both_right:,}", f"{pairing.broken:,} broken")
    table.add_row("wrong before", f"{pairing.fixed:,} fixed", f"{pairing.both_wrong:,}")
    return table
