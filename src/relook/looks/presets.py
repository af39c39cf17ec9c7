"""Looks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from relook.attribution import CAM, Attribution, ScoreCAM
from relook.errors import RelookError
from relook.looks.flip import Flip
from relook.looks.mask import Mask
from relook.looks.protocol import Look

ATTRIBUTIONS = ("scorecam", "cam")


def _poster(
    fill: str | None = None,
    attribution: str | None = None,
    variant: str | None = None,
    budget: int | Literal["fast"] | None = None,
) -> Look:
    if attribution in (None, "scorecam"):
        method: Attribution = ScoreCAM(variant or "poster", fill, budget=budget)
    elif attribution == "cam":
        if variant is not None:
            raise RelookError(f"variant {variant!r} is one of Score-CAM; CAM has none")
        if budget is not None:
            raise RelookError(f"budget {budget} is one of Score-CAM; CAM needs no forward")
        method = CAM()
    else:
        raise RelookError(
            f"attribution {attribution!r} is unknown; choose one of {', '.join(ATTRIBUTIONS)}"
        )
    return Mask(method, fill)


LOOKS: dict[str, Callable[..., Look]] = {"poster": _poster, "flip": Flip}
"""Every look that has a name, and what makes it."""


def make_look(
    name: str,
    *,
    fill: str | None = None,
    attribution: str | None = None,
    variant: str | None = None,
    budget: int | Literal["fast"] | None = None,
) -> Look:
    """The look of that name.

    Args:
        name: "poster" (mask images, the default everywhere) or "flip".
        fill: of "poster": "black" (default), "mean" or "blur".
        attribution: of "poster": "scorecam" (default) or "cam".
        variant: of Score-CAM: "poster" (default), "paper", "torchcam" or "gradcam".
        budget: of Score-CAM: at most so many masked forwards an image; "fast" is 64.

    Raises:
        RelookError: there is no such look, or it does not take one of the options given.
    """
    if name not in LOOKS:
        raise RelookError(f"look {name!r} is unknown; choose one of {', '.join(LOOKS)}")
    options = {"fill": fill, "attribution": attribution, "variant": variant, "budget": budget}
    given = {option: value for option, value in options.items() if value is not None}
    if given and name != "poster":
        raise RelookError(f"the look {name!r} has no {' and no '.join(given)}; drop it")
    return LOOKS[name](**given)
