"""The options, each declared once, and what they make: a classifier, a look with its settings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from relook.cli.messages import refuse
from relook.errors import RelookError

if TYPE_CHECKING:
    from relook.classifier import Classifier
    from relook.gate import Gate
    from relook.looks import Preset

Command = TypeVar("Command", bound=Callable[..., None])

# Choices are spelt out in the help texts because asking relook.looks for them would import torch;
# a test keeps them in step.
Model = Annotated[
    str,
    typer.Option(
        help="bundled/efficientnet_lite0, timm/NAME[.TAG], torchvision/NAME[.WEIGHTS], hf/FOLDER, "
        "net.onnx, module:function, or a folder of train-multicam."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Your weights: a safetensors file, or one that torch.save wrote."),
]
Layer = Annotated[
    str | None, typer.Option(help="Name of the target layer; detected and printed by default.")
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; by default CUDA where there is one.")
]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, float16 or bfloat16.")]
_OWN = "If the model file does not say, or to override it"
TokenGrid = Annotated[
    str | None,
    typer.Option(
        metavar="ROWSxCOLS",
        rich_help_panel=_OWN,
        help="Rows and columns of a transformer's tokens, for example 14x14.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_OWN,
        help="Class names: a text file with one a line, or JSON (a list or a dict).",
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE|HxW",
        rich_help_panel=_OWN,
        help="Size of the network's input, for example 224 or 224x320.",
    ),
]
TensorLayout = Annotated[
    Literal["NCHW", "NHWC"] | None,
    typer.Option(
        "--layout",
        rich_help_panel=_OWN,
        help="ONNX files only: order of the input's dimensions.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        rich_help_panel=_OWN,
        help="ONNX files only: mean of the normalisation, of pixels in [0, 1], for example "
        "0.5,0.5,0.5.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        rich_help_panel=_OWN,
        help="ONNX files only: standard deviation of the normalisation, in the same form.",
    ),
]
K = Annotated[
    int | None,
    typer.Option(
        "-k", help="How many of the most probable classes to look at again; 5, or 2 with best."
    ),
]
GateGiven = Annotated[
    str | None,
    typer.Option(
        "--gate",
        metavar="GAP",
        show_default="the look's own; without one: predict none, evaluate and compare 0.5",
        help="Which images get a second look: those with gap(1,5) below this (0 to 1) or, as "
        "gap2:0.6, with gap(1,2), the lead of the first class over the second, below 0.6; none: "
        "every image. evaluate also takes a share: 20% is the least sure fifth of the images.",
    ),
]
LookName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        show_default="poster",
        help="poster (mask images); quick or best (all of the photo and more, at a cost of at most "
        "4 and 7; best fixed 30 and broke 11 of 462 unsure answers on full-size photos: measure on "
        "yours); uncropped, whole, larger, ends, zoom, flip, rotations, symmetries, fivecrop, "
        "tencrop; network:MODEL, which asks a second network of the same classes; several joined "
        "by +; or a file that --tune saved.",
    ),
]
FillName = Annotated[
    str | None,
    typer.Option(help="What a hidden pixel becomes: black (default), mean or blur."),
]
AttributionName = Annotated[
    str | None,
    typer.Option(help="How attribution maps are made: scorecam (default), cam or gradcam."),
]
Variant = Annotated[
    str | None,
    typer.Option(help="Variant of Score-CAM: poster (default), paper, torchcam or gradcam."),
]
Budget = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="At most N masked forward passes per image for its maps; by default all that exact "
        "Score-CAM takes.",
    ),
]
Fast = Annotated[bool, typer.Option("--fast", help="The same as --budget 64.")]
ClassOrder = Annotated[
    Literal["string", "natural"] | None,
    typer.Option(
        help="Order of the classes, where the folders' names do not tell: string (0, 1, 10, 2; as "
        "torchvision's ImageFolder has it) or natural (0, 1, 2, 10).",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object per line, instead of tables.")
]


def given_by(**groups: type) -> Callable[[Command], Command]:
    """Give a command the options of dataclasses, each under the name of one of its parameters.

    The command is called with an instance of each; to the command line its options are those of
    the dataclasses' fields.
    """

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name not in groups
        ]
        fields = {name: dataclasses.fields(group) for name, group in groups.items()}
        more = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=get_type_hints(group, include_extras=True)[field.name],
            )
            for name, group in groups.items()
            for field in fields[name]
        ]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            made = {
                name: group(**{field.name: given.pop(field.name) for field in fields[name]})
                for name, group in groups.items()
            }
            command(**given, **made)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + more
        del run.__wrapped__  # its parameters are not these
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True)
class NetworkOptions:
    """Which network is asked."""

    model: Model = "bundled/efficientnet_lite0"
    checkpoint: Checkpoint = None
    layer: Layer = None
    device: Device = None
    dtype: Dtype = None
    token_grid: TokenGrid = None
    labels: Labels = None
    input_size: InputSize = None
    layout: TensorLayout = None
    mean: Mean = None
    std: Std = None

    def load(self) -> Classifier:
        """The classifier.

        Raises:
            ModelError: as `relook.load`.
        """
        token_grid = _numbers("--token-grid", self.token_grid, "x", "14x14")
        input_size = _size(self.input_size)
        mean = _numbers("--mean", self.mean, ",", "0.5,0.5,0.5")
        std = _numbers("--std", self.std, ",", "0.5,0.5,0.5")
        from relook.labels import read_labels
        from relook.models import load

        return load(
            self.model,
            checkpoint=self.checkpoint,
            target_layer=self.layer,
            device=self.device,
            dtype=self.dtype,
            labels=None if self.labels is None else read_labels(self.labels),
            token_grid=token_grid,
            input_size=input_size,
            layout=self.layout,
            mean=mean,
            std=std,
        )


@dataclass(frozen=True)
class LookOptions:
    """How the network is asked again."""

    look: LookName = None
    k: K = None
    gate: GateGiven = None
    fill: FillName = None
    attribution: AttributionName = None
    variant: Variant = None
    budget: Budget = None
    fast: Fast = False

    def preset(self) -> Preset:
        """The look with its settings, checked before any network is loaded.

        Raises:
            RelookError: they do not go together, or the gate is a share of the images.
        """
        from relook.looks import Preset

        preset = Preset.of(
            self.look or Preset().look,
            k=self.k,
            gate=gate_of(self.gate),
            fill=self.fill,
            attribution=self.attribution,
            variant=self.variant,
            budget=budget_of(self.budget, self.fast),
        )
        preset.check()
        return preset

    @property
    def share(self) -> float | None:
        """What a gate such as 20% is the share of; None for other gates."""
        if self.gate is None or not self.gate.endswith("%"):
            return None
        try:
            percent = float(self.gate.removesuffix("%"))
        except ValueError:
            percent = 0.0
        if not 0 < percent < 100:
            refuse(
                f"--gate takes a share of the images between 0% and 100%, as in 20%; not "
                f"{self.gate!r} (none is every image, 0 is no image)"
            )
        return percent / 100


def gate_of(text: str | None) -> Gate | None:
    """The gate that was given.

    Raises:
        RelookError: it is a share of the images; the message says where one can be given.
    """
    from relook.gate import EXAMPLES, Gate

    if text is None:
        return None
    if text.endswith("%"):
        return Gate.of(text)
    gate: float | str
    try:
        gate = float(text)
    except ValueError:
        gate = text.lower()
    try:
        return Gate.of(gate)
    except RelookError:
        refuse(f"--gate takes a number from 0 to 1, or none; not {text!r} ({EXAMPLES})")


def budget_of(budget: int | None, fast: bool) -> int | Literal["fast"] | None:
    """The budget that was given."""
    if fast and budget is not None:
        refuse(f"--fast is a budget of its own; drop it or --budget {budget}")
    return "fast" if fast else budget


def _size(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    both = text if "x" in text.lower() else f"{text}x{text}"
    return _numbers("--input-size", both.lower(), "x", "224")


def _numbers(option: str, text: str | None, between: str, example: str) -> tuple[float, ...] | None:
    """Two whole numbers from 1 on with an x between them, or three numbers with commas."""
    if text is None:
        return None
    kind, count = (int, 2) if between == "x" else (float, 3)
    try:
        numbers = tuple(kind(part) for part in text.split(between))
    except ValueError:
        numbers = ()
    if len(numbers) != count or (kind is int and min(numbers) < 1):
        refuse(f"{option} takes numbers as in {example}; not {text!r}")
    return numbers
