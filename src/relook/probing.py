"""What a few forward passes of trial images show of a network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from relook.answers import at_least_float32, class_outputs
from relook.batching import is_out_of_memory
from relook.checks import Outputs, check_kind, checked_answer
from relook.errors import ModelError, first_line
from relook.layers import REFUSALS, Probe, evaluating, layers_of
from relook.layout import Grid
from relook.target import Target, find_target, has_tokens, last_maps, named_target
from relook.wrappers import uncompiled

_SAME_ANSWER = {torch.float16: 0.1, torch.bfloat16: 0.1}
"""Largest difference of two answers that counts as rounding, relative to the largest output; 1e-3
for other dtypes."""
_OTHER_ROUNDING = 0.05
"""The same limit for batches of different sizes; random weights may amplify rounding to 0.01."""
_TRIED = [6, 0, 5]
"""Indices into `probing_pixels` of the images in a trial batch. The first is nearly grey; the
others, noise of higher contrast and nearly white noise, change the batch's mean, maximum and
minimum."""

_SCALARS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.allclose.default,
)
"""Operations that turn a tensor into a Python number, as `if x.min() < 0` and `x.item()` do."""

_ARRAYS = (Tensor.numpy, Tensor.tolist, Tensor.__array__)
"""Methods that read a tensor's values without an operation of PyTorch."""


@dataclass(frozen=True)
class Probed:
    """Results of probing a network.

    Attributes:
        classes: number of classes.
        target: target layer; None if no layer has maps.
        choices: layers that could be named as target layer, as the end of a message.
        returns_tensor: whether the network returns a tensor, and not a tuple, dict or dataclass.
        channels_last: whether images and weights are in the channels-last memory format.
        one_at_a_time: whether each image needs a forward pass of its own.
        remarks: warnings about the network for its users, one phrase each.
    """

    classes: int
    target: Target | None
    choices: str
    returns_tensor: bool
    channels_last: bool
    one_at_a_time: bool
    remarks: tuple[str, ...]

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of images and weights."""
        # Not a field: pickle protocols below 4 do not know torch's formats.
        return torch.channels_last if self.channels_last else torch.contiguous_format


def probed(
    network: nn.Module,
    images: Float[Tensor, "8 3 h w"],
    *,
    name: str,
    outputs: Outputs,
    layer: str | None = None,
    grid: Grid | None = None,
) -> Probed:
    """Probe a network: run it on trial images, alone and in batches, and watch its layers.

    Args:
        network: the network, in train or eval mode.
        images: `probing_pixels`, normalised, on the network's device and in its dtype.
        name: name of the network, for messages.
        outputs: kind of outputs that the user declared.
        layer: name of the target layer; searched for if None.
        grid: (rows, columns) of a transformer's tokens, if the user gave them.

    Raises:
        ModelError: the network fails on images of this size or does not return (N, classes); its
            outputs are not what `outputs` declares; the layer is unknown or has no maps.
        NotFiniteError: the network returns NaN or infinity.
    """
    return _Probing(network, images, name).run(outputs, layer, grid)


class _Probing:
    """A network while it is probed, with the memory format found so far."""

    def __init__(self, network: nn.Module, images: Float[Tensor, "8 3 h w"], name: str) -> None:
        self._network = network
        self._images = images.split(1)
        self._name = name
        self._channels_last = False
        self._layers = layers_of(network)

    def run(self, outputs: Outputs, layer: str | None, grid: Grid | None) -> Probed:
        images = torch.cat([self._images[place] for place in _TRIED])
        inputs = images[:1]
        height, width = inputs.shape[-2:]
        try:
            seen = self._layers.probe(inputs)
        except REFUSALS as error:
            raise ModelError(
                f"{self._name}: the network fails on an input of 1×3×{height}×{width} "
                f"({first_line(error)}); check input_size, and that the network takes RGB images"
            ) from error
        answer = checked_answer(self._name, seen.outputs, inputs.dtype)
        one_at_a_time, remarks = self._settle(images, answer, {call.name for call in seen.calls})
        others = (self._try(image) for image in self._images)
        check_kind(self._name, outputs, answer, seen.ends_in, others)
        classes, aspect = answer.shape[1], height / width

        def search() -> Target | None:
            def counts(target: Target) -> bool:
                return self._layers.matters(target, inputs)

            return find_target(seen.calls, classes, aspect, grid, counts)

        if layer is None:
            target = search()
        else:
            names = [name for name, _ in self._network.named_modules() if name]
            names += [call.name for call in seen.calls]
            target = named_target(names, seen.calls, layer, search, aspect, grid)
        return Probed(
            classes,
            target,
            "" if target else _choices(seen, aspect, grid),
            isinstance(seen.outputs, Tensor),
            self._channels_last,
            one_at_a_time,
            remarks,
        )

    def _settle(
        self,
        images: Float[Tensor, "n 3 h w"],
        answer: Float[Tensor, "1 c"],
        called: Collection[str],
    ) -> tuple[bool, tuple[str, ...]]:
        """Choose the memory format, and find out whether images can share a forward pass.

        Convolutions are about twice as fast in the channels-last memory format, on CPUs too; but
        a network that flattens its maps with `view` fails on it.

        Args:
            images: normalised images that have little in common.
            answer: outputs for the first of them alone.
            called: names of the layers called for it.

        Returns:
            Whether each image needs a forward pass of its own, and remarks for the user.
        """
        inputs = images[:1]
        with ValuesRead() as read:
            together = self._try_formats(images)
        fits = together is not None and together.shape == (len(images), answer.shape[1])
        if together is None:
            self._try_formats(inputs)
        depends = varies = False
        if not fits or together is None or not _same(together[:1], answer, inputs.dtype):
            # `answer` may have been computed in another memory format, which rounds differently.
            alone = self._again(inputs, answer)
            varies = not _same(alone, self._again(inputs, answer), inputs.dtype)
            if fits and together is not None:
                # A batch of copies of one image has the statistics of that image. Rounding, which
                # some networks amplify, is the same at the same index in batches of one size.
                twins = self._again(inputs.expand_as(images), together)
                depends = not _same(together[:1], twins[:1], inputs.dtype)
                if _same(twins[:1], twins[-1:], inputs.dtype):
                    depends |= not _same(twins[:1], alone, inputs.dtype, _OTHER_ROUNDING)
        remarks = []
        if not fits:
            remarks.append("it takes one image at a time, which is slow")
        elif statistics := _batch_statistics(self._network, called):
            remarks.append(
                f"{statistics} has no running statistics and uses those of the batch; images go "
                "through the network one at a time, since they would change each other's answers"
            )
        elif read.values and self._layers.in_pytorch and self._decides_by_values():
            remarks.append(
                "its code branches on values of its input (as in `if x.min() < 0`); images go "
                "through it one at a time, in PyTorch"
            )
        elif depends and not varies:
            remarks.append(
                "its answer for an image depends on the rest of the batch; images go through it "
                "one at a time"
            )
        one_at_a_time = bool(remarks)
        if varies:
            remarks.append(
                "the same image gets a different answer each time: is there dropout or noise that "
                "stays on in eval mode? No result will be reproducible"
            )
        return one_at_a_time, tuple(remarks)

    def _try_formats(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "m c"] | None:
        """Run the network in the first memory format that it accepts, and keep that format."""
        # An ONNX graph gets its inputs as arrays, whatever their memory format.
        for channels_last in (True, False) if self._layers.in_pytorch else (False,):
            self._channels_last = channels_last
            found = self._try(inputs)
            if found is not None:
                return found
        return None

    @torch.inference_mode(False)
    @torch.no_grad()
    def _try(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "m c"] | None:
        """The network's outputs for a batch of normalised inputs; None if it fails."""
        memory_format = torch.channels_last if self._channels_last else torch.contiguous_format
        try:
            with evaluating(self._network), uncompiled(self._network):
                answers = class_outputs(self._network(inputs.to(memory_format=memory_format)))
        except REFUSALS as error:
            if is_out_of_memory(error):
                raise
            return None
        return at_least_float32(answers)

    def _again(
        self, inputs: Float[Tensor, "n 3 h w"], otherwise: Float[Tensor, "m c"]
    ) -> Float[Tensor, "k c"]:
        """The network's outputs for a batch; `otherwise` if it fails."""
        found = self._try(inputs)
        return otherwise if found is None else found

    def _decides_by_values(self) -> bool:
        """Whether the values that the network's code reads out of tensors depend on the image."""
        found = set()
        for image in self._images:
            with ValuesRead() as read:
                self._try(image)
            found.add(repr(read.values))
        return len(found) > 1


def _same(
    one: Float[Tensor, "1 c"],
    other: Float[Tensor, "1 c"],
    dtype: torch.dtype,
    tolerance: float = 1e-3,
) -> bool:
    """Whether two answers of a network of this dtype are equal up to rounding."""
    off = float((one - other).abs().max())
    tolerance = max(tolerance, _SAME_ANSWER.get(dtype, 0.0))
    return off <= tolerance * max(float(other.abs().max()), 1e-6)


def _batch_statistics(network: nn.Module, called: Collection[str]) -> str:
    """The first called layer that uses batch statistics even in eval mode, for a message."""
    for name, module in network.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and module.running_mean is None and name in called:
            return f"{type(module).__name__} {name!r}"
    return ""


def _choices(seen: Probe, aspect: float, grid: Grid | None) -> str:
    """Layers that could be named as target layer, as the end of a message."""
    layers = last_maps(seen.calls, aspect, grid)
    choices = f", for instance {', '.join(layers)}" if layers else ""
    if has_tokens(seen.calls) and grid is None:
        choices += " (for tokens, give their rows and columns with token_grid= or --token-grid)"
    elif has_tokens(seen.calls) and grid is not None:
        choices += (
            f" (no tokens fill {grid[0]} rows and {grid[1]} columns: correct or omit token_grid)"
        )
    return choices


def probing_pixels(height: int, width: int) -> Float[Tensor, "8 3 h w"]:
    """Eight images in [0, 1] that have little in common; the same on every call.

    Noise; coloured blocks; a noisy ramp; black and white blocks; and noise that is nearly black,
    nearly white, nearly grey and nearly red. None is constant: normalisation layers would amplify
    the rounding of a constant image.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(8, 3, height, width, generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    blocks = noise[1, :, rows // max(1, height // 4), columns // max(1, width // 4)]
    ramp = (rows / max(1, height - 1) + columns / max(1, width - 1)) / 2
    board = ((rows // max(1, height // 2) + columns // max(1, width // 2)) % 2).float()
    red = 0.05 * noise[7]
    red[0] = 1 - red[0]
    return torch.stack(
        [
            noise[0],
            blocks,
            ramp.expand(3, -1, -1) * 0.9 + 0.1 * noise[2],
            board.expand(3, -1, -1),
            0.05 * noise[4],
            1 - 0.05 * noise[5],
            0.45 + 0.1 * noise[6],
            red,
        ]
    )


class ValuesRead:
    """Context manager that records every value that Python code reads from a tensor.

    A network that branches on such values (`if x.min() < 0`) cannot be exported by tracing, and
    its answer for an image may depend on the rest of the batch. Shapes are not recorded.

    Attributes:
        values: the values read, in order.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._modes = (_Scalars(self.values), _Arrays(self.values))

    def __enter__(self) -> ValuesRead:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)  # type: ignore[no-untyped-call]


class _Scalars(TorchDispatchMode):
    def __init__(self, values: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values = values

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise PyTorch imports its compiler, which takes as long as PyTorch itself, only to
        # keep it away from the method below; it stays away while any such mode is active.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SCALARS:
            self._values.append(result)
        return result


class _Arrays(TorchFunctionMode):
    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self._values = values

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ARRAYS:
            self._values.append(np.asarray(result).tobytes())
        return result
