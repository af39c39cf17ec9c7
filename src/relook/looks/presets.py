"""Looks by name, and presets, which combine a look with its options, k and gate."""

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
from relook.looks.learnt import Learnt
from relook.looks.mask import Mask
from relook.looks.mirrored import Mirrored
from relook.looks.network import load_network
from relook.looks.protocol import Look
from relook.looks.symmetries import Symmetries
from relook.looks.together import Together
from relook.looks.uncropped import Uncropped
from relook.looks.weighted import Weighted
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
    name, needs = (
        ("CAM", "no forward pass") if attribution == "cam" else ("Grad-CAM", "one forward pass")
    )
    if variant is not None:
        raise RelookError(f"variant {variant!r} belongs to Score-CAM; {name} has no variants")
    if budget is not None:
        raise RelookError(f"budget {budget} belongs to Score-CAM; {name} needs {needs}")
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
    settled = variant is not None or budget is not None  # options of Score-CAM
    return Zoom(_attribution(attribution or ("scorecam" if settled else "cam"), variant, budget))


# The most informative views come first; the order was chosen in docs/second-look.md.
_AROUND = Mirrored(
    Uncropped(), otherwise=Mirrored(Whole(), otherwise=Flip(), alone=True), alone=True
)
_SMALLER = Whole(weight=0.5)


_CLOSER = Zoom(
    CAM(Activity()), threshold=0.3, magnification=1.25, joint=True, weights="doubt", required=False
)

SUMS = {
    "quick": {"around": 1.0, "whole": 0.5},
    # With full weights, so many views would too often outvote a correct first answer.
    "best": {"around": 0.75, "closer": 0.75, "whole": 0.375, "uncropped": 0.75},
}
"""The presets that are sums of looks: names and weights, most informative first."""


def _quick() -> Look:
    return InTurn(Together((_AROUND, _SMALLER)))


def _best() -> Look:
    return InTurn(Together((_AROUND, _CLOSER, _SMALLER, Uncropped()), weight=0.75))


LOOKS: dict[str, Callable[..., Look]] = {
    "poster": _poster,
    "quick": _quick,
    "best": _best,
    "around": lambda: _AROUND,
    "closer": lambda: _CLOSER,
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
"""Factories of all looks, by name."""

NETWORK = "network:"
"""Prefix of the name of a look that runs a second network; the model's name follows."""

_KS = {"best": 2, "closer": 2}
"""Default k of looks for which it is not 5."""

_GATES = {"quick": Gate(0.4, j=2), "best": Gate(0.4, j=2)}
"""Default gate of looks that have one: by gap(1,2), which means the same for any number of
classes."""

OPTIONS = ("fill", "attribution", "variant", "budget")
"""Options of looks, in addition to name, k and gate."""


def takes(name: str) -> tuple[str, ...]:
    """Return which of the `OPTIONS` a look has; for looks joined by +, those of all of them."""
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
    """Create a look by name.

    In tests on full-size photos, of 462 unsure answers of three networks, "quick" fixed 30 and
    broke 9, and "best" fixed 30 and broke 11; for one of the networks there was no evidence of a
    gain (docs/second-look.md). Measure the gain on your own images first.

    Args:
        name: "poster" (mask images, the default), "quick" or "best" (at a cost of at most 4 and 7
            forward passes), "around" (the whole photo, mirrored; the first view of both),
            "closer" (the part that the network looked at), "uncropped", "whole", "larger", "ends",
            "zoom", "flip", "rotations", "symmetries", "fivecrop", "tencrop" or "network:MODEL" for
            a second network; or several joined by +, such as "zoom+flip". MODEL is a name for
            `relook.load` without + or comma.
        fill: fill of "poster": "black" (default), "mean" or "blur".
        attribution: attribution method of "poster" and "zoom": "scorecam" (default of "poster"),
            "cam" (default of "zoom") or "gradcam".
        variant: variant of Score-CAM: "poster" (default), "paper", "torchcam" or "gradcam".
        budget: maximum number of masked forward passes of Score-CAM per image; "fast" is 64.
        network: function that creates the look for MODEL.

    Raises:
        RelookError: the look is unknown, or it does not have one of the given options.
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
            cut = " (the name of a second network must not contain + or a comma: rename it)"
        raise RelookError(
            f"look {unknown[0]!r} is unknown{cut}; choose one of {', '.join(LOOKS)} or "
            f"{NETWORK}MODEL, several joined by +, or pass a file saved by tuning"
        )
    if NETWORK in names:
        raise RelookError(
            f"the look {NETWORK!r} names no network; add the name of a model, as in "
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
    """The name of a look with its options, k and gate, as chosen by tuning and saved to a file.

    Attributes:
        look: a name for `make_look`.
        fill, attribution, variant, budget: options of the look, see `make_look`; None for defaults.
        k: number of top classes; None for the default.
        gate: which images get a second look; None for the default.
        learnt: what tuning learnt; then `look` names the parts, and the options are None.

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
    learnt: Learnt | None = None

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
        """Create a preset from the name of a look or from a file; other arguments take precedence.

        Args:
            look: a name for `make_look`, or a file written by `save`.
            k: see `relook.Corrector`.
            gate: see `relook.Corrector`.
            budget: see `make_look`.
            options: fill, attribution and variant, see `make_look`.

        Raises:
            RelookError: the file is not a valid preset, k, gate or budget is invalid, or k or an
                option is given for a file with learnt weights.
        """
        file = Path(look).expanduser()
        # A path always means a file; a string means one unless it is the name of a look.
        is_file = not isinstance(look, str) or (look not in LOOKS and file.is_file())
        preset = cls.read(file) if is_file else cls(str(look))
        given: dict[str, Any] = {
            **options,
            "k": None if k is None else whole_number(k, "k"),
            "gate": None if gate is None else Gate.of(gate),
            "budget": budget if budget in (None, "fast") else whole_number(budget, "budget"),
        }
        given = {key: value for key, value in given.items() if value is not None}
        fixed = [key for key in given if key != "gate" and preset.learnt is not None]
        if fixed:
            raise RelookError(
                f"{look}: what was learnt holds for its own {' and '.join(fixed)}; to choose "
                "another, tune again: relook evaluate DATA --tune"
            )
        return replace(preset, **given)

    @property
    def options(self) -> dict[str, Any]:
        """The options that are not None."""
        given = {option: getattr(self, option) for option in OPTIONS}
        return {option: value for option, value in given.items() if value is not None}

    def of_look(self, look: str) -> Preset:
        """Return a copy for another look, without the options that it does not have."""
        return replace(self, look=look, **dict.fromkeys(set(OPTIONS) - set(takes(look))))

    def make(self, beside: Classifier | None = None) -> Look:
        """Create the look, loading the second network if there is one.

        Args:
            beside: the first network, whose device the second is moved to.

        Raises:
            RelookError: see `make_look`.
            ModelError: see `make_look`.
        """
        make = partial(make_look, network=partial(load_network, beside=beside))
        if self.learnt is None or not self.learnt.parts:
            return make(self.look, **self.options)
        looks = tuple(
            Weighted(make(part.look, **part.options), part.weight, part.k)
            for part in self.learnt.parts
        )
        together = looks[0] if len(looks) == 1 else Together(looks)
        return InTurn(together) if self.learnt.in_turn else together

    def check(self) -> None:
        """Raise the errors of `make`, without loading a second network."""
        make_look(self.look, network=lambda name: Flip(), **self.options)
        for part in self.learnt.parts if self.learnt else ():
            make_look(part.look, network=lambda name: Flip(), **part.options)

    def k_or(self, default: int) -> int:
        """Return k; if it is None, the default of the look, or else `default`.

        For looks joined by +, the first that has a default decides.
        """
        if self.learnt is not None and self.learnt.k is not None:
            return self.learnt.k
        return self.k if self.k is not None else _own(_KS, self.look) or default

    def gate_or(self, default: Gate = EVERY_IMAGE) -> Gate:
        """Return the gate; if it is None, the default of the look, or else `default`.

        For looks joined by +, the first that has a default decides.
        """
        return self.gate or _own(_GATES, self.look) or default

    def describe(self) -> str:
        """Return the preset in words, without values that are None."""
        if self.gate is not None and not self.gate.below:
            return "no second look"
        if self.learnt is not None and not self.learnt.parts:
            return "no second look"
        if self.learnt is not None:
            gate = f", gate {self.gate.setting}" if self.gate is not None else ""
            return f"tuned: {self._sum()}{gate}"
        more = {**self.options, "k": self.k, "gate": self.gate and self.gate.setting}
        given = [f"{name} {value}" for name, value in more.items() if value is not None]
        return ", ".join([self.look, *given])

    def _sum(self) -> str:
        """Return the learnt sum in words: the name of a preset, or all parts with their weights."""
        parts = self.learnt.parts if self.learnt else ()
        weights = {part.name: part.weight for part in parts}
        named = (
            name for name, preset in SUMS.items() if list(preset.items()) == list(weights.items())
        )
        return next(named, " + ".join(f"{name} {weight:.2g}" for name, weight in weights.items()))

    def to_json(self) -> dict[str, Any]:
        """Return the values that `save` writes."""
        found = {**asdict(self), "gate": self.gate and self.gate.setting}
        if self.learnt is None:
            del found["learnt"]
            return found
        return {**found, "learnt": self.learnt.to_json()}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Preset:
        """Create a preset from the values of `to_json`."""
        gate, learnt = found.get("gate"), found.get("learnt")
        return cls(
            **{
                **found,
                "gate": None if gate is None else Gate.of(gate),
                "learnt": None if learnt is None else Learnt.of_json(learnt),
            }
        )

    def save(self, file: str | os.PathLike[str]) -> None:
        """Save the preset as a JSON file for `--look` and `Corrector(look=...)`."""
        Path(file).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> Preset:
        """Read a preset from a file that `save` wrote.

        Raises:
            RelookError: the file cannot be read, or is not a valid preset.
        """
        try:
            found = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RelookError(f"{file}: cannot be read as a saved look ({error})") from error
        if not isinstance(found, dict) or "look" not in found or not set(found) <= set(_KINDS):
            raise RelookError(
                f"{file}: is not a saved look, which has the fields {', '.join(_KINDS)}; "
                "relook evaluate --tune writes one"
            )
        if not all(_KINDS[name](value) for name, value in found.items() if value is not None):
            raise RelookError(
                f"{file}: k, gate and budget must be numbers (a gate may be none or gap2:NUMBER), "
                "learnt an object, the other fields strings; any field but look may be null"
            )
        try:
            preset = cls.of_json(found)
            preset.check()
        except RelookError as error:
            raise RelookError(f"{file}: {error}") from error
        return preset


def _own(table: Mapping[str, T], look: str) -> T | None:
    """Look a name up in a table; for looks joined by +, the first that the table has."""
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
    "learnt": lambda value: isinstance(value, dict),
}
"""Check of each saved value that is not null."""
