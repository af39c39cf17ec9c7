"""Charts as inline SVG, with the page's light and dark colours and with selectable text."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from relook.correction import AMBIGUOUS
from relook.evaluation import Method
from relook.evaluation.rows import is_derived
from relook.evaluation.selective import Bin

# Placeholders for the colours of the page; see page.html.j2.
_INK, _SOFT, _LINE, _BEFORE, _AFTER = (f"#0{n}0{n}0{n}" for n in range(1, 6))
_PAGE = {
    _INK: "currentColor",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _BEFORE: "var(--before)",
    _AFTER: "var(--after)",
}
_POINTS = 400
"""Most points of a curve; of a million images no more could be told apart."""
_NOISY = 0.05
"""The risk among fewer than this share of the images is left to run out of the chart."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "relook",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}


def gap_histogram(counts: Sequence[int], label: str) -> str:
    """Histogram of images by gap, in equal bins from 0 to 1; ambiguous ones are highlighted."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.8, 2.7)
        width = 1 / len(counts)
        starts = [place * width for place in range(len(counts))]
        colours = [_AFTER if start < AMBIGUOUS else _BEFORE for start in starts]
        axes.bar(starts, counts, width * 0.92, align="edge", color=colours)
        axes.set_xlim(0, 1)
        axes.set_xlabel(label)
        axes.set_ylabel("images")
        return _svg(figure)


def reliability(bins: Mapping[str, Sequence[Bin]], own: str) -> str:
    """Reliability diagram: accuracy by the answer's probability (Guo et al. 2017).

    Args:
        bins: the marks of each answer, by name.
        own: name of the answers to highlight.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.0, 4.2)
        marks = [each for found in bins.values() for each in found]
        # Where most answers are sure, the rest of the square is empty.
        lowest = min((min(each.probability, each.right) for each in marks), default=0.0)
        start = max(0.0, np.floor(10 * lowest) / 10)
        axes.plot([start, 1], [start, 1], color=_LINE, linewidth=1.2, zorder=0)
        for name, found in bins.items():
            axes.plot(
                [each.probability for each in found],
                [each.right for each in found],
                marker="s" if name == own else "o",
                markersize=4.5,
                label=_wrapped(name),
                **_line(name, own),
            )
        axes.set_xlim(start, 1.01)
        axes.set_ylim(start, 1.01)
        axes.set_xlabel("probability of the answer")
        axes.set_ylabel("share that is right")
        _legend(figure)
        return _svg(figure)


def risk_coverage(
    curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], own: str, asked: float | None = None
) -> str:
    """Share of wrong answers among the most confident images, by the share of images answered.

    Args:
        curves: coverage and risk of each answer, by name (see
            `relook.evaluation.selective.risk_coverage`).
        own: name of the answers to highlight.
        asked: the risk that was asked for, drawn as a line; None for none.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.8, 3.4)
        highest = 0.0 if asked is None else 100 * asked
        for name, (coverage, risk) in curves.items():
            few = np.unique(np.linspace(0, len(risk) - 1, min(_POINTS, len(risk))).astype(int))
            axes.plot(
                100 * coverage[few], 100 * risk[few], label=_wrapped(name), **_line(name, own)
            )
            highest = max(highest, 100 * risk[coverage >= _NOISY].max(initial=0.0))
        if asked is not None:
            axes.axhline(100 * asked, color=_SOFT, linewidth=1, linestyle=":")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 1.08 * highest or 1)
        axes.set_xlabel("images answered, the most confident first, %")
        axes.set_ylabel("wrong among them, %")
        _legend(figure)
        return _svg(figure)


def _line(name: str, own: str) -> dict[str, Any]:
    """Colour and style of a line: dashed where a temperature alone makes the difference."""
    return {
        "color": _AFTER if name == own else _BEFORE,
        "linestyle": "--" if is_derived(name) else "-",
        "linewidth": 1.4,
    }


def _legend(figure: Figure) -> None:
    """Names of the lines above the chart, where they cover nothing."""
    legend = figure.legend(loc="outside upper left", frameon=False, labelcolor=_INK)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _wrapped(name: str) -> str:
    """A name in at most three lines."""
    return "\n".join(textwrap.wrap(name, 44)[:3])


def gains(methods: dict[str, Method], own: str) -> str:
    """The gain of each method with its 95 % interval, in points; `own` is highlighted."""
    with matplotlib.rc_context(_STYLE):
        names = ["\n".join(textwrap.wrap(name, 26)[:3]) for name in methods]
        lines = sum(name.count("\n") for name in names)
        figure, axes = _figure(5.2, 0.75 + 0.36 * len(methods) + 0.2 * lines)
        axes.axvline(0, color=_SOFT, linewidth=1)
        for place, (name, method) in enumerate(methods.items()):
            colour = _AFTER if name == own else _BEFORE
            low, high = method.pairing.interval or (0.0, 0.0)
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2.4)
            axes.plot([100 * (method.pairing.gain or 0)], [place], "o", color=colour, markersize=7)
        axes.set_yticks(range(len(methods)), names)
        for tick in axes.get_yticklabels():
            tick.set_color(_INK)
            tick.set_parse_math(False)
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("gain of top-1 in points, with 95 % interval")
        return _svg(figure)


def learning(curves: dict[str, Sequence[tuple[int, float, float | None]]]) -> str:
    """Accuracy by epoch on validation images and, dashed, on training images; a panel per stage.

    Args:
        curves: for each stage, (epoch, validation accuracy, training accuracy or None).
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * len(curves), 2.3), layout="constrained")
        panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axes, (name, curve) in zip(panels, curves.items(), strict=True):
            axes.spines[["top", "right"]].set_visible(False)
            epochs = [epoch for epoch, _, _ in curve]
            axes.plot(
                epochs, [100 * right for _, right, _ in curve], color=_AFTER, marker="o", ms=4
            )
            trained = [(epoch, 100 * right) for epoch, _, right in curve if right is not None]
            if trained:
                axes.plot(*zip(*trained, strict=True), color=_BEFORE, linestyle="--")
            axes.set_title(name, fontsize=10, color=_INK)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        panels[0].set_ylabel("right, %")
        return _svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # a page knows
    # As wide as its place, but its text not much larger than the page's.
    widest = f' style="max-width: {1.5 * 72 * figure.get_figwidth():.0f}px"'
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2).replace(
        "<svg", f"<svg{widest}", 1
    )
    for colour, name in _PAGE.items():
        svg = svg.replace(colour, name)
    return svg
