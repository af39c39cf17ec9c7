"""What a person sees on the terminal: tables on stdout, progress and errors on stderr."""

from __future__ import annotations

from collections.abc import Iterator
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

from relook.report.story import Story, percent

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


@contextmanager
def progress_bars(images: int) -> Iterator[Bars]:
    """Bars with an estimate on a terminal; nothing at all in a pipe."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with progress if console.is_terminal else nullcontext():
        yield Bars(progress, images)


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
