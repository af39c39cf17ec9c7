"""The options, each declared once, and the classifier and look that are made from them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from relook.cli.messages import refuse, usage_errors
from relook.errors import RelookError

if TYPE_CHECKING:
    from relook.classifier import Classifier
    from relook.gate import Gate
    from relook.looks import Preset
    from relook.runs.on_ray import OnRay

Command = TypeVar("Command", bound=Callable[..., None])

# The help texts list the choices themselves, because reading them from relook.looks would import
# torch; a test keeps both lists equal.
Model = Annotated[
    str,
    typer.Option(
        help="The classifier: bundled/efficientnet_lite0, timm/NAME[.TAG], "
        "torchvision/NAME[.WEIGHTS], hf/FOLDER, an ONNX file (net.onnx), module:function for "
        "Python code of yours, or the output folder of train-multicam."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="File with your own weights, written by safetensors or torch.save."),
]
Layer = Annotated[
    str | None,
    typer.Option(
        help="Name of the target layer, whose maps show where a class was seen; detected and "
        "printed by default."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device to run on: cpu, cuda, cuda:1 or mps; by default CUDA if it is available."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="Floating-point type of the network: float32, float64, float16 or bfloat16."),
]
_OWN = "What a model file may lack (or to override it)"
TokenGrid = Annotated[
    str | None,
    typer.Option(
        metavar="ROWSxCOLS",
        rich_help_panel=_OWN,
        help="Rows and columns of the token grid of a transformer, for example 14x14.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_OWN,
        help="File with the class names: text with one name per line, or JSON (a list or a dict).",
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
        help="For ONNX files: order of the input's dimensions.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        rich_help_panel=_OWN,
        help="For ONNX files: mean of each colour channel in the normalisation, for pixels in "
        "[0, 1]; for example 0.5,0.5,0.5.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        rich_help_panel=_OWN,
        help="For ONNX files: standard deviation of each colour channel, in the same form.",
    ),
]
K = Annotated[
    int | None,
    typer.Option(
        "-k",
        help="Number of most probable classes that are looked at again; by default 5, or 2 with "
        "--look best.",
    ),
]
GateGiven = Annotated[
    str | None,
    typer.Option(
        "--gate",
        metavar="GAP",
        show_default="the look's own gate, else none for predict, 0.5 for evaluate and compare",
        help="Which images get a second look. A number from 0 to 1: those with a gap(1,5), the "
        "lead of the most probable class over the fifth, below it. gap2:0.6: those with a gap(1,2) "
        "below 0.6. none: every image. evaluate also takes a share: 20% is the least sure fifth "
        "of the images.",
    ),
]
LookName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        show_default="poster",
        help="The second look. poster: mask images. quick and best: the whole photo and other "
        "views, at a cost of at most 4 and 7 forward passes (in our study best fixed 30 and broke "
        "11 of 462 unsure answers on full-size photos: measure on yours). Single views: around, "
        "closer, uncropped, whole, larger, ends, zoom, flip, rotations, symmetries, fivecrop, "
        "tencrop. network:MODEL: a second network with the same classes. Several can be joined by "
        "+. Or a file that evaluate --tune saved.",
    ),
]
FillName = Annotated[
    str | None,
    typer.Option(help="Colour of the hidden pixels in mask images: black (default), mean or blur."),
]
AttributionName = Annotated[
    str | None,
    typer.Option(help="Method for the attribution maps: scorecam (default), cam or gradcam."),
]
Variant = Annotated[
    str | None,
    typer.Option(help="Variant of Score-CAM: poster (default), paper, torchcam or gradcam."),
]
Budget = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of masked forward passes per image for Score-CAM; unlimited by "
        "default, and the maps are exact.",
    ),
]
Fast = Annotated[bool, typer.Option("--fast", help="Short for --budget 64.")]
ClassOrder = Annotated[
    Literal["string", "natural"] | None,
    typer.Option(
        help="Order of the classes if the names of the folders do not tell: string (0, 1, 10, 2, "
        "as in torchvision's ImageFolder) or natural (0, 1, 2, 10).",
    ),
]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--engine",
        help="What classifies the images: this process, or the workers of a Ray cluster, which "
        "have to see the images and the output folder too.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto",
        help="With --engine ray: the address of the cluster; without it, one is started on this "
        "machine.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object per line, instead of tables.")
]


def given_by(**groups: type) -> Callable[[Command], Command]:
    """Add the fields of dataclasses to a command as options.

    Args:
        groups: the dataclass for each of the command's parameters that takes an instance of one.
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
        del run.__wrapped__  # so that Typer reads the signature below, not that of the command
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True)
class NetworkOptions:
    """The options that select the network."""

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
        """Load the classifier; see `relook.load`.

        Raises:
            ModelError: the model cannot be loaded.
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
    """The options of the second look."""

    look: LookName = None
    k: K = None
    gate: GateGiven = None
    fill: FillName = None
    attribution: AttributionName = None
    variant: Variant = None
    budget: Budget = None
    fast: Fast = False

    def preset(self) -> Preset:
        """The look with its settings, checked before a network is loaded.

        Raises:
            RelookError: the options contradict each other, or the gate is a share of the images.
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
        """A gate such as 20% as a fraction of 1; None for other gates."""
        if self.gate is None or not self.gate.endswith("%"):
            return None
        try:
            percent = float(self.gate.removesuffix("%"))
        except ValueError:
            percent = 0.0
        if not 0 < percent < 100:
            refuse(
                f"--gate takes a share of the images between 0% and 100%, as in 20%; not "
                f"{self.gate!r} (none: every image; 0: no image)"
            )
        return percent / 100


@dataclass(frozen=True)
class EngineOptions:
    """The options that say where images are classified."""

    engine: EngineName = "local"
    ray_address: RayAddress = None

    @contextmanager
    def connected(self, classifier: Classifier) -> Iterator[OnRay | None]:
        """Connect to the cluster or start it, and print where it is; None for this process."""
        from relook.runs.on_ray import cluster_of

        with ExitStack() as stack:
            with usage_errors():
                given = cluster_of(self.engine, self.ray_address, classifier)
                cluster = stack.enter_context(given)
            if cluster:
                typer.echo(f"on Ray: {cluster}", err=True)
            yield cluster


def gate_of(text: str | None) -> Gate | None:
    """The value of --gate as a gate; None if it is not given.

    Raises:
        RelookError: the value is a share of the images; the message names the command that takes
            one.
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
    """The budget from --budget and --fast; None if neither is given."""
    if fast and budget is not None:
        refuse(f"--fast is short for --budget 64; give either --fast or --budget {budget}")
    return "fast" if fast else budget


def _size(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    both = text if "x" in text.lower() else f"{text}x{text}"
    return _numbers("--input-size", both.lower(), "x", "224")


def _numbers(option: str, text: str | None, between: str, example: str) -> tuple[float, ...] | None:
    """Two whole numbers of at least 1 joined by x, or three numbers joined by commas."""
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
