"""Rules for the weights of the views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relook.errors import RelookError


def _poster(y: Float[Tensor, " c"], classes: Int[Tensor, " k"]) -> Float[Tensor, "k c"]:
    return y[classes].unsqueeze(1).expand(-1, len(y))


def _share(y: Float[Tensor, " c"], classes: Int[Tensor, " k"]) -> Float[Tensor, "k c"]:
    weights = _poster(y, classes)
    return weights / weights.sum(dim=0)


def _doubt(y: Float[Tensor, " c"], classes: Int[Tensor, " k"]) -> Float[Tensor, "k c"]:
    top = y.topk(2).values
    weights: Tensor = _share(y, classes) * (1 - (top[0] - top[1]))
    return weights


def _own(y: Float[Tensor, " c"], classes: Int[Tensor, " k"]) -> Float[Tensor, "k c"]:
    weights = torch.zeros(len(classes), len(y), dtype=y.dtype, device=y.device)
    return weights.scatter_(1, classes.unsqueeze(1), 1.0)


def _mean(y: Float[Tensor, " c"], classes: Int[Tensor, " k"]) -> Float[Tensor, "k c"]:
    return y.new_full((len(classes), len(y)), 1 / max(1, len(classes)))


_RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "poster": _poster,
    "share": _share,
    "doubt": _doubt,
    "own": _own,
    "mean": _mean,
}

RULES: tuple[str, ...] = tuple(_RULES)


def weigh(rule: str, y: Float[Tensor, " c"], classes: Int[Tensor, " k"]) -> Float[Tensor, "k c"]:
    """Compute the weights of views that were made for `classes`, one view per class.

    Args:
        rule: "poster": Y[c_i] for all classes. "share": Y[c_i] divided by their sum, so that all
            views together weigh as much as the first answer. "doubt": "share" times
            1 − gap(1,2), so that views weigh less the more confident the first answer is. "own": 1
            for the class that the view was made for and 0 for all others. "mean": 1/k for all.
        y: (C,), the first answer Y.
        classes: (k,), indices of the classes c_i.

    Raises:
        RelookError: the rule is unknown.
    """
    return _RULES[check_rule(rule)](y, classes)


def check_rule(rule: str) -> str:
    """Return the rule, or raise RelookError if it is unknown."""
    if rule not in _RULES:
        raise RelookError(f"weights {rule!r} are unknown; choose one of {', '.join(RULES)}")
    return rule
