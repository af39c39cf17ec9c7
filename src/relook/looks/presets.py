"""Looks by name, and presets: a look with its k and gate, which a file can hold."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from relook.arguments import Number, whole_number
from relook.attribution import CAM, Activity, Attribution, GradCAM, ScoreCAM
from relook.classifier import Classifier
from relook.errors import RelookError
from relook.gate import EVERY_IMAGE, Gate
from relook.looks.crops import Crops
from relook.looks.ends import Ends
from relook.looks.flip import Flip
from relook.looks.in_turn import InTurn
from relook.looks.larger import Larger
from relook.looks.mask import Mask
from relook.looks.mirrored import Mirrored
from relook.looks.network import load_network
from relook.looks.protocol import Look
from relook.looks.symmetries import Symmetries
from relook.looks.together import Together
from relook.looks.uncropped import Uncropped
from relook.looks.whole import Whole
from relook.looks.zoom import Zoom

ATTRIBUTIONS = ("scorecam", "cam", "gradcam")


Budget = int | Literal["fast"]
T = TypeVar("T")


def _attribution(
    attribution: str | None, variant: str | None, budget: Budget | None, fill: str | None = None
) -> Attribution:
    if attribution == "scorecam":
        return ScoreCAM(variant or "poster", fill, budget=budget)
    if attribution not in ATTRIBUTIONS:
        raise RelookError(
            f"attribution {attribution!r} is unknown; choose one of {', '.join(ATTRIBUTIONS)}"
        )
    name, needs = ("CAM", "no forward") if attribution == "cam" else ("Grad-CAM", "one forward")
    if variant is not None:
        raise RelookError(f"variant {variant!r} is one of Score-CAM; {name} has none")
    if budget is not None:
        raise RelookError(f"budget {budget} is one of Score-CAM; {name} needs {needs}")
    return CAM() if attribution == "cam" else GradCAM()


def _poster(
    fill: str | None = None,
    attribution: str | None = None,
    variant: str | None = None,
    budget: Budget | None = None,
) -> Look:
    return Mask(_attribution(attribution or "scorecam", variant, budget, fill), fill)


def _zoom(
    attribution: str | None = None, variant: str | None = None, budget: Budget | None = None
) -> Look:
    settled = variant is not None or budget is not None  # of Score-CAM
    return Zoom(_attribution(attribution or ("scorecam" if settled else "cam"), variant, budget))


# Views in the order of what they tell, chosen in docs/second-look.md.
_AROUND = Mirrored(
    Uncropped(), otherwise=Mirrored(Whole(), otherwise=Flip(), alone=True), alone=True
)
_SMALLER = Whole(weight=0.5)


def _quick() -> Look:
    return InTurn(Together((_AROUND, _SMALLER)))


def _best() -> Look:
    closer = Zoom(
        CAM(Activity()),
        threshold=0.3,
        magnification=1.25,
        joint=True,
        weights="doubt",
        required=False,
    )
    # At their full weights so many views outvote a first answer that was right too often.
    return InTurn(Together((_AROUND, closer, _SMALLER, Uncropped()), weight=0.75))


LOOKS: dict[str, Callable[..., Look]] = {
    "poster": _poster,
    "quick": _quick,
    "best": _best,
    "zoom": _zoom,
    "flip": Flip,
    "whole": Whole,
    "larger": Larger,
    "uncropped": Uncropped,
    "ends": Ends,
    "rotations": Symmetries,
    "symmetries": partial(Symmetries, mirrored=True),
    "fivecrop": Crops,
    "tencrop": partial(Crops, flip=True),
}
"""Every look that has a name, and what makes it."""

NETWORK = "network:"
"""How the name of a look begins that asks a second network, whose own name follows."""

_KS = {"best": 2}
"""Default k of looks for which it is not 5."""

_GATES = {"quick": Gate(0.4, j=2), "best": Gate(0.4, j=2)}
"""Default gate of looks that have one: by gap(1,2), which means the same for any number of
classes."""

OPTIONS = ("fill", "attribution", "variant", "budget")
"""What can be said of a look beside its name, its k and its gate."""


def takes(name: str) -> tuple[str, ...]:
    """Which of the `OPTIONS` the look of that name has; of several joined by + all of theirs."""
    makers = [LOOKS[part] for part in name.split("+") if part in LOOKS]
    found = {option for maker in makers for option in inspect.signature(maker).parameters}
    return tuple(option for option in OPTIONS if option in found)


def make_look(
    name: str,
    *,
    fill: str | None = None,
    attribution: str | None = None,
    variant: str | None = None,
    budget: Budget | None = None,
    network: Callable[[str], Look] = load_network,
) -> Look:
    """The look of that name.

    Args:
        name: "poster" (mask images, the default everywhere), "quick" or "best" (at a cost of
            at most 4 and 7), "uncropped", "whole", "larger", "ends", "zoom", "flip", "rotations",
            "symmetries", "fivecrop", "tencrop" or "network:MODEL", which asks a second network,
            the model of that name (see `relook.load`; it may hold no + and no comma); or several
            joined by +, as in "zoom+flip". Of 462 unsure answers of three networks on full-size
            photos "quick" fixed / broke 30 / 9 and "best" 30 / 11; on one of the networks there
            was no evidence of a gain (docs/second-look.md): measure on images of your own first.
        fill: of "poster": "black" (default), "mean" or "blur".
        attribution: of "poster" and "zoom": "scorecam" (default of the former), "cam" (of the
            latter) or "gradcam".
        variant: of Score-CAM: "poster" (default), "paper", "torchcam" or "gradcam".
        budget: of Score-CAM: at most so many masked forwards an image; "fast" is 64.
        network: makes the look of a second network of its model's name.

    Raises:
        RelookError: there is no such look, or it does not take one of the options given.
        ModelError: the second network cannot be loaded.

    >>> relook.looks.make_look("flip")
    Flip()
    >>> look = relook.looks.make_look("zoom+flip", attribution="gradcam")
    >>> [type(part).__name__ for part in look.looks]
    ['Zoom', 'Flip']
    """
    options = {"fill": fill, "attribution": attribution, "variant": variant, "budget": budget}
    given = {option: value for option, value in options.items() if value is not None}
    names = name.split("+")
    unknown = [part for part in names if part not in LOOKS and not part.startswith(NETWORK)]
    if unknown:
        cut = ""
        if len(unknown) < len(names) and any(part.startswith(NETWORK) for part in names):
            cut = " (the name of a second network may hold no + and no comma: rename it)"
        raise RelookError(
            f"look {unknown[0]!r} is unknown{cut}; choose one of {', '.join(LOOKS)} or "
            f"{NETWORK}MODEL, several joined by +, or name a file that tuning saved"
        )
    if NETWORK in names:
        raise RelookError(
            f"the look {NETWORK!r} names no network; name a model behind it, as in "
            f"{NETWORK}bundled/efficientnet_lite2"
        )
    left_over = [option for option in given if option not in takes(name)]
    if left_over:
        raise RelookError(f"the look {name!r} has no {' and no '.join(left_over)}; drop it")
    looks = tuple(
        network(part.removeprefix(NETWORK))
        if part.startswith(NETWORK)
        else LOOKS[part](**{o: v for o, v in given.items() if o in takes(part)})
        for part in names
    )
    return looks[0] if len(looks) == 1 else Together(looks)


@dataclass(frozen=True)
class Preset:
    """A look by name with all that goes with it: what tuning chooses and a file keeps.

    Attributes:
        look: a name as `make_look` takes it.
        fill, attribution, variant, budget: its options, see `make_look`; None where not given.
        k: how many of the most probable classes; None where not given.
        gate: which images get a second look; None where not given.

    >>> preset = relook.looks.Preset.of("poster", k=3, budget="fast")
    >>> preset.describe()
    'poster, budget fast, k 3'
    >>> preset.save("look.json")
    >>> relook.looks.Preset.of("look.json") == preset
    True
    """

    look: str = "poster"
    fill: str | None = None
    attribution: str | None = None
    variant: str | None = None
    budget: Budget | None = None
    k: int | None = None
    gate: Gate | None = None

    @classmethod
    def of(
        cls,
        look: str | os.PathLike[str],
        *,
        k: Number | None = None,
        gate: Number | str | Gate | None = None,
        budget: Number | Literal["fast"] | None = None,
        **options: str | None,
    ) -> Preset:
        """Of a look's name, or of a file; what is given beside it has the last word.

        Args:
            look: a name as `make_look` takes it, or a file that `save` wrote.
            k: as for `relook.Corrector`.
            gate: the same.
            budget: as for `make_look`.
            options: fill, attribution and variant, as for `make_look`.

        Raises:
            RelookError: there is no such look, the file cannot be used, or k, gate or budget is
                no number.
        """
        file = Path(look).expanduser()
        # A path is a file, and a name may be one.
        is_file = not isinstance(look, str) or (look not in LOOKS and file.is_file())
        preset = cls.read(file) if is_file else cls(str(look))
        given: dict[str, Any] = {
            **options,
            "k": None if k is None else whole_number(k, "k"),
            "gate": None if gate is None else Gate.of(gate),
            "budget": budget if budget in (None, "fast") else whole_number(budget, "budget"),
        }
        return replace(preset, **{key: value for key, value in given.items() if value is not None})

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given."""
        given = {option: getattr(self, option) for option in OPTIONS}
        return {option: value for option, value in given.items() if value is not None}

    def of_look(self, look: str) -> Preset:
        """The same of another look; options that it does not have are left out."""
        return replace(self, look=look, **dict.fromkeys(set(OPTIONS) - set(takes(look))))

    def make(self, beside: Classifier | None = None) -> Look:
        """The look itself; a second network that it names is loaded, to where the network `beside`
        it is.

        Raises:
            RelookError: as `make_look`.
            ModelError: as `make_look`.
        """
        return make_look(self.look, network=partial(load_network, beside=beside), **self.options)

    def check(self) -> None:
        """Raise what `make` raises, but for a second network, which is not loaded."""
        make_look(self.look, network=lambda name: Flip(), **self.options)

    def k_or(self, default: int) -> int:
        """The k that was given, or the look's own (of several joined by + that of the first that
        has one), or else `default`.
        """
        return self.k if self.k is not None else _own(_KS, self.look) or default

    def gate_or(self, default: Gate = EVERY_IMAGE) -> Gate:
        """The gate that was given, or the look's own (of several joined by + that of the first
        that has one), or else `default`.
        """
        return self.gate or _own(_GATES, self.look) or default

    def describe(self) -> str:
        """In words: what is not given is left out."""
        if self.gate is not None and not self.gate.below:
            return "no second look"
        more = {**self.options, "k": self.k, "gate": self.gate and self.gate.setting}
        given = [f"{name} {value}" for name, value in more.items() if value is not None]
        return ", ".join([self.look, *given])

    def to_json(self) -> dict[str, Any]:
        """What `save` writes."""
        return {**asdict(self), "gate": self.gate and self.gate.setting}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Preset:
        """The preset that `to_json` gave."""
        gate = found.get("gate")
        return cls(**{**found, "gate": None if gate is None else Gate.of(gate)})

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write a JSON file that `--look` and `Corrector(look=...)` take."""
        Path(file).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

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
            raise RelookError(
                f"{file}: k, gate and budget are numbers (a gate may be none or gap2:NUMBER), the "
                "others names; or null"
            )
        try:
            preset = cls.of_json(found)
            preset.check()
        except RelookError as error:
            raise RelookError(f"{file}: {error}") from error
        return preset


def _own(table: Mapping[str, T], look: str) -> T | None:
    """What the table holds for a look; of several joined by + for the first that it knows."""
    return next((table[part] for part in look.split("+") if part in table), None)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("look", *OPTIONS), _is_text),
    "budget": lambda value: value == "fast" or _is_count(value),
    "k": _is_count,
    "gate": lambda value: _is_text(value) or _is_number(value),
}
"""What a saved value is, where it is not null."""
