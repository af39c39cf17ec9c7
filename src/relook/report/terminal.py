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
from relook.report.findings import Findings, gain, significance
from relook.report.story import Story, count, percent

_STYLES = {True: "green", False: "red"}


class Bars:
    """A bar over the images and one over the forwards of the image at hand."""

    def __init__(self, progress: Progress, images: int) -> None:
        self._progress = progress
        self._images: TaskID | None = None
        if images > 1:
            self._images = progress.add_task("images", total=images)
        self._forwards = progress.add_task("", total=None)

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
        verdict = f"left as it is: gap(1,5) is {story.gap:.2f}, not below the gate"
    elif story.correction.changed:
        verdict = f"[bold]{escape(story.top_before)} → {escape(story.top_after)}[/]"
    else:
        verdict = f"{escape(story.top_after)}, as before"
    console.print(
        f"{verdict} · {story.forwards} · {story.correction.seconds:.1f} s\n", soft_wrap=True
    )


def print_statistics(console: Console, statistics: Statistics, found: Findings, name: str) -> None:
    """The tables of an evaluation, and what it found."""
    if statistics.before.images:
        console.print(_whole_set(statistics, name))
        if statistics.after.ambiguous.images:
            console.print(_two_by_two(statistics.after.ambiguous))
    style = {"helps": "bold green", "hurts": "bold red"}.get(found.verdict, "bold")
    console.print(f"[{style}]{escape(found.sentence)}[/]", soft_wrap=True)
    for remark in found.remarks:
        console.print(escape(remark), soft_wrap=True)


def _whole_set(statistics: Statistics, name: str) -> Table:
    images = statistics.before.images
    title = count(images, "image")
    if statistics.errors:
        title += f", {count(statistics.errors, 'other')} could not be used"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True, min_width=min(24, len(name) + 7))
    for column in ("right", "wrong", "top-1 %", "top-5 %", "gain", "p", "forwards"):
        table.add_column(column, justify="right")
    table.add_row("before", *_counts(statistics.before), "", "", _per_image(statistics.before))
    for label, method in {f"after: {name}": statistics.after, **statistics.rivals}.items():
        table.add_row(escape(label), *_counts(method.tally), *_gained(method))
    return table


def _counts(tally: Tally) -> list[str]:
    wrong = tally.images - tally.right
    return [
        f"{tally.right:,}",
        f"{wrong:,}",
        f"{100 * (tally.top1 or 0):.1f}",
        f"{100 * (tally.top5 or 0):.1f}",
    ]


def _gained(method: Method) -> list[str]:
    p = significance(method.pairing.p_value).replace(" ", "")
    return [gain(method.pairing), p, _per_image(method.tally)]


def _per_image(tally: Tally) -> str:
    return f"{tally.forwards / tally.images:,.2f}"


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
