"""Numbers and lists as people read them: on the terminal, on pages and in messages."""

from __future__ import annotations

from collections.abc import Iterable


def percent(share: float) -> str:
    """A share of 0 to 1: "39.3 %", in one piece; "< 0.1 %" for what would round to nothing."""
    return "< 0.1\u00a0%" if 0 < share < 0.0005 else f"{100 * share:.1f}\u00a0%"


def percent_range(interval: tuple[float, float] | None) -> str:
    """An interval of shares in percent, for a column headed so: "91.2–95.0"; "–" for None."""
    if interval is None:
        return "–"
    low, high = interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def points(gain: float | None) -> str:
    """A difference of two shares in percentage points, with its sign: "+2.5"; "–" for None."""
    if gain is None:
        return "–"
    rounded = round(100 * gain, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def points_range(interval: tuple[float, float] | None) -> str:
    """An interval of such differences: "−0.9 to +0.9"; "–" for None."""
    if interval is None:
        return "–"
    low, high = interval
    return f"{points(low)} to {points(high)}"


def p(value: float | None) -> str:
    """A p-value in a sentence: "p = 0.58" or "p < 0.001"."""
    told = significance(value)
    return f"p = {told}" if told[0].isdigit() else f"p {told}"


def significance(value: float | None) -> str:
    """A p-value in a column headed p: "0.58" or "< 0.001"; "–" for None."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(number: int, what: str) -> str:
    """So many things, in the plural where it takes one: "1 image" or "2,000 images"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it, in one piece: "48 s", "25 min" or "3.2 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.0f}\u00a0min" if seconds < 5970 else f"{seconds / 3600:.1f}\u00a0h"


def sentence(note: str) -> str:
    """A note with a capital letter and a full stop."""
    return f"{note[:1].upper()}{note[1:]}."


def some(things: Iterable[object], most: int = 5) -> str:
    """The first few things of a list, and how many more there are: "a, b and 1,200 more"."""
    listed = [str(thing) for thing in things]
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
