"""Checks of numbers that callers pass, from Python, NumPy or PyTorch; not booleans or NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

from numpy.typing import NDArray
from torch import Tensor

from relook.errors import RelookError

Number = SupportsFloat
"""A number from Python, NumPy or PyTorch."""

Numbers = Sequence[SupportsFloat] | NDArray[Any] | Tensor
"""Several numbers from Python, NumPy or PyTorch."""


def whole_number(value: Any, name: str) -> int:
    """The value as an int; whole floats such as 3.0 and numbers from NumPy are accepted.

    Raises:
        RelookError: the value is not a whole number.
    """
    number = _as_float(value)
    if number is None or not number.is_integer():
        raise RelookError(f"{name} must be a whole number, not {value!r}")
    return int(number)


def real_number(value: Any, name: str) -> float:
    """The value as a float.

    Raises:
        RelookError: the value is not a number, or NaN.
    """
    number = _as_float(value)
    if number is None or math.isnan(number):
        raise RelookError(f"{name} must be a number, not {value!r}")
    return number


def height_and_width(value: Any, name: str) -> tuple[int, int]:
    """The value, one side or (height, width), as two ints of at least 1.

    Raises:
        RelookError: the value is neither.
    """
    wanted = f"{name} must be a side or (height, width), whole numbers of at least 1, not {value!r}"
    items = _items(value)
    sides = [value, value] if items is None else items
    return _pair(sides, name, wanted)


def rows_and_columns(value: Any, name: str) -> tuple[int, int]:
    """The value, (rows, columns), as two ints of at least 1.

    Raises:
        RelookError: the value is not a pair of such numbers.
    """
    wanted = f"{name} must be (rows, columns), not {value!r}"
    return _pair(_items(value) or [], name, wanted)


def three_numbers(value: Any, name: str) -> tuple[float, float, float]:
    """The value, a list, tuple, array or tensor such as mean or std, as three floats.

    Raises:
        RelookError: the value is not three numbers.
    """
    items = _items(value)
    if items is None or len(items) != 3:
        raise RelookError(
            f"{name} must be three numbers, one per colour channel, not {value!r}: relook corrects "
            "classifiers of RGB images"
        )
    red, green, blue = (real_number(item, name) for item in items)
    return red, green, blue


def _pair(items: Sequence[Any], name: str, message: str) -> tuple[int, int]:
    try:
        sides = [whole_number(item, name) for item in items]
    except RelookError:
        sides = []
    if len(sides) != 2 or min(sides) < 1:
        raise RelookError(message)
    return sides[0], sides[1]


def _as_float(value: Any) -> float | None:
    """The value of a number, or of an array or tensor with one item; None for anything else."""
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if callable(item):  # a NumPy or PyTorch value
        try:
            value = item()
        except (ValueError, RuntimeError, TypeError):  # more than one number
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _items(value: Any) -> list[Any] | None:
    """The items of a list, tuple, or one-dimensional array or tensor; None for anything else."""
    values = value.tolist() if callable(getattr(value, "tolist", None)) else value
    return list(values) if isinstance(values, list | tuple) else None
