"""Output of the commands on stdout: tables and findings."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relook.evaluation import Method, Pairing, Quality, Statistics, Tally
from relook.evaluation.rows import FIRST
from relook.multicam import STAGE_NAMES, TARGET, Comparison, Training
from relook.report.findings import Findings
from relook.words import count, duration, percent, percent_range, points, significance


def print_training(console: Console, training: Training) -> None:
    """A table of the stages of a training."""
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
        console.print(
            "kept 0: no epoch was better on the validation images than the initial weights"
        )


def print_comparison(console: Console, comparison: Comparison, found: Findings) -> None:
    """A table of the methods, and the findings."""
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


def print_statistics(
    console: Console,
    statistics: Statistics,
    found: Findings,
    name: str,
    qualities: Mapping[str, Quality] | None = None,
    risk: float | None = None,
) -> None:
    """The tables of an evaluation, and its findings.

    Args:
        console: where to print.
        statistics: the statistics of the rows.
        found: the findings.
        name: name of the answers that are evaluated.
        qualities: `Evaluation.qualities`, for the area under the risk–coverage curve.
        risk: share of wrong answers that was asked for, between 0 and 1; None if none was.
    """
    if statistics.before.images:
        console.print(_whole_set(statistics, name))
        if statistics.after.ambiguous.images:
            console.print(_two_by_two(statistics.after.ambiguous))
        console.print(_trusted(statistics, name, qualities or {}), highlight=False)
        if risk is not None:
            console.print(_answered(statistics.after.tally, risk), highlight=False)
    _print_findings(console, found)


def _trusted(statistics: Statistics, name: str, qualities: Mapping[str, Quality]) -> str:
    """How far the probabilities can be trusted, before and after, in a line of 80 characters."""
    before, after = statistics.before, statistics.after.tally
    measures = {
        "ECE": (before.ece, after.ece),
        "log loss": (before.mean_log_loss, after.mean_log_loss),
    }
    if name in qualities:
        measures["risk–coverage area"] = (qualities[FIRST].aurc, qualities[name].aurc)
    return " · ".join(
        f"{what} {was or 0:.3f} → {now or 0:.3f}" for what, (was, now) in measures.items()
    )


def _answered(tally: Tally, risk: float) -> str:
    """How many images were answered at a risk, and how many of the answers are wrong."""
    if tally.risk is None:
        return f"risk {100 * risk:g} %: no threshold can be promised, nothing is answered"
    return (
        f"risk {100 * risk:g} %: answered {tally.answered:,}, of these {tally.answered_wrong:,} "
        f"wrong ({percent(tally.risk)}); left to a person {tally.abstained:,}"
    )


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
    for label, method in {f"after: {name}": statistics.after, **statistics.other_looks}.items():
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
    """Mean cost per image, in forward passes at the network's own input size."""
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
