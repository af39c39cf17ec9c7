"""Looks by name, and presets: a look with its k and gate, which a file can hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from relook.attribution import CAM, Attribution, ScoreCAM
from relook.errors import RelookError
from relook.looks.crops import Crops
from relook.looks.flip import Flip
from relook.looks.larger import Larger
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


LOOKS: dict[str, Callable[..., Look]] = {
    "poster": _poster,
    "flip": Flip,
    "fivecrop": Crops,
    "tencrop": partial(Crops, flip=True),
    "larger": Larger,
}
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
        name: "poster" (mask images, the default everywhere), "flip", "fivecrop", "tencrop" or
            "larger".
        fill: of "poster": "black" (default), "mean" or "blur".
        attribution: of "poster": "scorecam" (default) or "cam".
        variant: of Score-CAM: "poster" (default), "paper", "torchcam" or "gradcam".
        budget: of Score-CAM: at most so many masked forwards an image; "fast" is 64.

    Raises:
        RelookError: there is no such look, or it does not take one of the options given.
    """
    if name not in LOOKS:
        raise RelookError(
            f"look {name!r} is unknown; choose one of {', '.join(LOOKS)}, or name a file that "
            "tuning saved"
        )
    options = {"fill": fill, "attribution": attribution, "variant": variant, "budget": budget}
    given = {option: value for option, value in options.items() if value is not None}
    if given and name != "poster":
        raise RelookError(f"the look {name!r} has no {' and no '.join(given)}; drop it")
    return LOOKS[name](**given)


@dataclass(frozen=True)
class Preset:
    """A look by name with all that goes with it: what tuning chooses and a file keeps.

    Attributes:
        look: a name in `LOOKS`.
        fill, attribution, variant, budget: its options, see `make_look`; None where not given.
        k: how many of the most probable classes; None where not given.
        gate: only images with gap(1,5) below it get a second look, "none": all do; None where not
            given.
    """

    look: str = "poster"
    fill: str | None = None
    attribution: str | None = None
    variant: str | None = None
    budget: int | Literal["fast"] | None = None
    k: int | None = None
    gate: float | Literal["none"] | None = None

    @classmethod
    def of(cls, look: str, **options: Any) -> Preset:
        """Of a look's name, or of a file; options that are not None have the last word.

        Raises:
            RelookError: there is no such look, or the file cannot be used.
        """
        preset = cls(look) if look in LOOKS or not Path(look).is_file() else cls.read(look)
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**{**asdict(preset), **given})

    def make(self) -> Look:
        """The look itself.

        Raises:
            RelookError: as `make_look`.
        """
        return make_look(
            self.look,
            fill=self.fill,
            attribution=self.attribution,
            variant=self.variant,
            budget=self.budget,
        )

    def describe(self) -> str:
        """In words: what is not given is left out."""
        if self.gate == 0:
            return "no second look"
        options = {name: value for name, value in asdict(self).items() if value is not None}
        look = options.pop("look")
        return ", ".join([look, *(f"{name} {value}" for name, value in options.items())])

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write a JSON file that `--look` and `Corrector(look=...)` take."""
        Path(file).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> Preset:
        """What `save` wrote.

        Raises:
            RelookError: it cannot be read, or holds something else.
        """
        try:
            found = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RelookError(f"{file}: cannot be read as a saved look ({error})") from error
        if not isinstance(found, dict) or "look" not in found or not set(found) <= set(_KINDS):
            raise RelookError(
                f"{file}: is no saved look; one holds {', '.join(_KINDS)} (relook evaluate --tune "
                "writes it)"
            )
        if not all(_KINDS[name](value) for name, value in found.items() if value is not None):
            raise RelookError(f"{file}: k, gate and budget are numbers, the others names; or null")
        preset = cls(**found)
        try:
            preset.make()
        except RelookError as error:
            raise RelookError(f"{file}: {error}") from error
        return preset


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[object], bool]] = {
    "look": _is_text,
    "fill": _is_text,
    "attribution": _is_text,
    "variant": _is_text,
    "budget": lambda value: value == "fast" or _is_count(value),
    "k": _is_count,
    "gate": lambda value: value == "none" or _is_number(value),
}
"""What a saved value is, where it is not null."""
