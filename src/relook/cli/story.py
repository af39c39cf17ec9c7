"""Output of one answer on stdout: its classes before and after a second look."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relook.report.story import Story
from relook.words import percent

_STYLES = {True: "green", False: "red"}


def print_story(console: Console, story: Story) -> None:
    """A table of the classes before and after, and a line with the change and its cost."""
    table = Table(title=escape(story.title), title_justify="left", title_style="bold")
    table.add_column("class", overflow="fold")
    for column in ("before", story.second, "change"):
        table.add_column(column, justify="right")
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
    if not story.corrected:
        gate, gap = story.gate, story.gap
        verdict = f"left as it is: {gate.name} is {gap:.2f}, not below the gate of {gate.below}"
        if story.calibrated:
            verdict += "; its probabilities are calibrated"
    elif not story.asked:
        verdict = f"{escape(story.top_after)}, as before: there was no view to ask about"
    elif story.changed:
        verdict = f"[bold]{escape(story.top_before)} → {escape(story.top_after)}[/]"
    else:
        verdict = f"{escape(story.top_after)}, as before"
    doubt = f"[bold yellow]{escape(story.doubt())}[/]" if story.not_sure else ""
    surety = f"[dim]{story.surety}[/]" if story.surety else ""
    said = [doubt, verdict, surety, story.spent, f"{story.seconds:.1f} s"]
    console.print(" · ".join(filter(None, said)), soft_wrap=True)
    for note in story.left_out:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    for note in story.no_view:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    console.print()
