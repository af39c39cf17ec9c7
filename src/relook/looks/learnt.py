"""What tuning learns from labelled images: a weighted sum of looks, true probabilities, and when
not to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from relook.calibration import Abstention, Confidence, is_number
from relook.errors import RelookError
from relook.gate import Gate


@dataclass(frozen=True)
class Part:
    """One look of a learnt sum.

    Attributes:
        look: a name for `relook.looks.make_look`.
        weight: factor for the weights of its views, above 0.
        k: number of top classes that it considers.
        fill, attribution, variant, budget: options of the look; None for defaults.

    >>> part = relook.looks.Part("poster", weight=0.5, k=3, fill="mean")
    >>> part.name
    'poster fill=mean k=3'
    """

    look: str
    weight: float
    k: int
    fill: str | None = None
    attribution: str | None = None
    variant: str | None = None
    budget: int | Literal["fast"] | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            RelookError: one is out of range.
        """
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise RelookError(f"k of {self.look} must be 1 or more, not {self.k!r}")
        if not isinstance(self.look, str):
            raise RelookError(f"a look is given by its name, not as {self.look!r}")
        if not (is_number(self.weight) and self.weight > 0):
            raise RelookError(f"the weight of {self.look} must be above 0, not {self.weight!r}")

    @property
    def options(self) -> dict[str, Any]:
        """The options that are not None."""
        values = asdict(self)
        return {
            name: values[name]
            for name in ("fill", "attribution", "variant", "budget")
            if values[name] is not None
        }

    @property
    def name(self) -> str:
        """The look with its options in words, without the weight."""
        several = self.options or self.look == "zoom"  # tried with several k
        more = {**self.options, "k": self.k} if several else {}
        return " ".join([self.look, *(f"{option}={value}" for option, value in more.items())])


@dataclass(frozen=True)
class Judgement:
    """What is learnt about the answers of one way to answer.

    Attributes:
        temperature: temperature of the probabilities (see `relook.calibration.tempered`); images
            without a second look have that of the first answers.
        confidence: the measure that ranks the answers best.
        abstention: when not to answer; None if no risk was asked for.

    >>> judgement = relook.looks.Judgement(temperature=0.5)
    >>> relook.looks.Judgement.of_json(judgement.to_json()) == judgement
    True
    """

    temperature: float = 1.0
    confidence: Confidence = field(default_factory=Confidence)
    abstention: Abstention | None = None

    def __post_init__(self) -> None:
        """Check the temperature.

        Raises:
            RelookError: it is not above 0.
        """
        Confidence(temperature=self.temperature)

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Judgement:
        """Restore the values of `to_json`."""
        abstention = found["abstention"]
        return cls(
            found["temperature"],
            Confidence(**found["confidence"]),
            None if abstention is None else Abstention.of_json(abstention),
        )


@dataclass(frozen=True)
class Learnt:
    """All that tuning learnt, as part of a `Preset`.

    Attributes:
        parts: the looks whose answers are added, most informative first; empty for no second look.
        in_turn: whether views are run one after the other until the answer is settled.
        gate: the gate that everything was learnt for.
        after: what was learnt about the corrected answers.
        first: the same about the first answers of all images, for comparison.
        made_on: the network (name, digest of its weights, digest of its labels), the data, the
            versions, and the number of images.

    >>> data = relook.evaluation.read_data("photos", classifier.labels)
    >>> learnt = relook.tune(classifier, data, looks=["flip"]).chosen.learnt
    >>> [(part.look, part.weight) for part in learnt.parts], learnt.made_on["images"]
    ([('flip', 1.0)], 2)
    """

    parts: tuple[Part, ...]
    in_turn: bool
    gate: Gate
    after: Judgement = field(default_factory=Judgement)
    first: Judgement = field(default_factory=Judgement)
    made_on: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check that there are parts if any image gets a second look.

        Raises:
            RelookError: there are none.
        """
        if not self.parts and self.gate.below:
            raise RelookError(f"there are no looks for images with {self.gate}")

    @property
    def k(self) -> int | None:
        """Largest k of the parts; None without parts."""
        return max((part.k for part in self.parts), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON values."""
        return {**asdict(self), "gate": self.gate.setting, "made_on": dict(self.made_on)}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Learnt:
        """Restore the values of `to_json`.

        Raises:
            RelookError: a value is missing, unknown or out of range.
        """
        try:
            return cls(
                tuple(Part(**part) for part in found["parts"]),
                bool(found["in_turn"]),
                Gate.of(found["gate"]),
                Judgement.of_json(found["after"]),
                Judgement.of_json(found["first"]),
                dict(found["made_on"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RelookError(f"what was learnt is incomplete or damaged ({error})") from error
