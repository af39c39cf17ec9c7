"""A frozen network with its preprocessing and labels: pixels in, class probabilities out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from relook.answers import Answers, at_least_float32, class_outputs
from relook.arguments import (
    Number,
    Numbers,
    height_and_width,
    rows_and_columns,
    three_numbers,
)
from relook.batching import chunked, images_at_once, is_out_of_memory
from relook.checks import (
    Outputs,
    check_finite,
    check_module,
    check_normalisation,
    check_pixels,
)
from relook.engines import Engines, Folded, OnnxRuntime, Run
from relook.errors import ModelError, RelookError
from relook.first_look import FirstLook, FirstLooks
from relook.geometry import Box, Geometry
from relook.labels import ClassIndices, Labels, class_labels
from relook.layers import REFUSALS, evaluating, exclusive, floating_point_tensor, layers_of
from relook.layout import Grid, Layout
from relook.probing import Probed, probed, probing_pixels
from relook.target import Target
from relook.wrappers import unwrapped

if TYPE_CHECKING:
    from relook.attribution import Attribution, Seen
    from relook.images import ImageSource

_log = logging.getLogger("relook")


class Classifier(nn.Module):
    """The function f from pixels to class probabilities: a network, its preprocessing and softmax.

    Callers pass pixels in [0, 1]; the classifier does resize, crop, normalisation, dtype, device
    and softmax. The network always runs in eval mode and is returned to its own mode afterwards.

    Threads may share a classifier: forward passes take turns.

    Attributes:
        network: the network itself, without a DataParallel or `torch.compile` wrapper.
        name: the name used in results and messages.
        labels: one label per class; a `relook.labels.ClassIndices` if no labels were given.
        mean: mean of the normalisation per colour channel, for pixels in [0, 1].
        std: standard deviation of the normalisation per colour channel, for pixels in [0, 1].
        geometry: resize and crop.

    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
    ...     torch.nn.Flatten(), torch.nn.Linear(8, 2),
    ... )
    >>> half, quarter = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    >>> own = relook.Classifier(
    ...     network, mean=half, std=quarter, input_size=32, labels=["cat", "dog"]
    ... )
    >>> own(torch.rand(4, 3, 32, 32)).sum(dim=1).round(decimals=4)
    tensor([1., 1., 1., 1.])
    >>> own.target_layer
    '1'
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Numbers,
        std: Numbers,
        input_size: Number | Numbers,
        labels: Labels | None = None,
        outputs: Outputs = "logits",
        target_layer: str | None = None,
        token_grid: Numbers | None = None,
        crop_pct: float | None = None,
        interpolation: str = "bilinear",
        geometry: Geometry | None = None,
        name: str | None = None,
    ) -> None:
        """Wrap any module that maps normalised (N, 3, H, W) to (N, classes).

        The module may return its outputs in a tuple, dict or dataclass (see
        `relook.answers.class_outputs`). It may be wrapped in DataParallel or by `torch.compile`:
        forward passes then run on the wrapper, while layers are watched in the network inside it.

        Args:
            module: the network; it stays on its device and keeps its dtype.
            mean: value per colour channel, subtracted from pixels in [0, 1].
            std: value per colour channel that the difference is divided by.
            input_size: side of the network's input, or (height, width), in pixels.
            labels: one label per class, in the order of the outputs, or a dict (see
                `relook.labels.class_labels`); the class indices by default.
            outputs: "logits" (softmax is applied) or "probabilities" (it is not).
            target_layer: name of a module as in `named_modules()`; searched for by default.
            token_grid: (rows, columns) of a transformer's tokens, needed only if the network's
                maps do not show how its tokens are arranged.
            crop_pct: None resizes the whole image to `input_size`; a fraction in (0, 1] resizes
                the shorter side to `input_size / crop_pct` and crops the centre.
            interpolation: method of the resize: "bilinear", "bicubic", "lanczos" or "nearest".
            geometry: complete description of resize and crop; replaces `crop_pct` and
                `interpolation`.
            name: name of the model in results and messages; the module's class by default.

        Raises:
            ModelError: the network fails on an input of this size or does not return
                (N, classes); its outputs are not what `outputs` declares; the target layer is
                unknown or has no maps; the number of labels differs from that of the classes.
        """
        super().__init__()
        check_module(module)
        try:
            size = height_and_width(input_size, "input_size")
            grid = None if token_grid is None else rows_and_columns(token_grid, "token_grid")
            mean, std = three_numbers(mean, "mean"), three_numbers(std, "std")
        except RelookError as error:
            raise ModelError(str(error)) from error
        if outputs not in ("logits", "probabilities"):
            raise ModelError(f'outputs must be "logits" or "probabilities", not {outputs!r}')
        check_normalisation(mean, std)
        self.network = unwrapped(module)
        # Not a submodule: its weights are the network's.
        self._wrapper = [module] if module is not self.network else []
        self.name = name or type(self.network).__name__
        self.mean = mean
        self.std = std
        self.geometry = geometry or (
            Geometry.whole(size, interpolation)
            if crop_pct is None
            else Geometry.centre(size, crop_pct, interpolation)
        )
        self._outputs: Outputs = outputs
        self._token_grid = grid
        self._engines = Engines()
        self._takes: dict[tuple[int, int], bool] = {}
        self._probed = self._probe(target_layer, grid)
        self._warn(self.remarks)
        classes = self._probed.classes
        self.labels: tuple[str, ...] = (
            ClassIndices.of(classes) if labels is None else class_labels(labels)
        )
        if len(self.labels) != classes:
            raise ModelError(
                f"{self.name} has {classes} classes, but {len(self.labels)} labels were given"
            )

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings about the network, one phrase each; each is also logged once.

        For example, that images go through it one at a time because they would change each other's
        answers, or that the same image gets a different answer each time.
        """
        return self._probed.remarks

    @property
    def labels_given(self) -> bool:
        """Whether labels were given; if not, the labels are the class indices."""
        return not isinstance(self.labels, ClassIndices)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.geometry.crop

    @property
    def input_range(self) -> tuple[float, float]:
        """(lowest, highest) value of the network's input: [0, 1] after the normalisation."""
        colours = zip(self.mean, self.std, strict=True)
        ends = [(pixel - mean) / std for mean, std in colours for pixel in (0, 1)]
        return min(ends), max(ends)

    @property
    def device(self) -> torch.device:
        """Device of the network's weights."""
        tensor = floating_point_tensor(self.network)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that the network computes in."""
        tensor = floating_point_tensor(self.network)
        return torch.float32 if tensor is None else tensor.dtype

    @property
    def returns(self) -> Outputs:
        """Kind of the network's own outputs: "logits" or "probabilities"."""
        return self._outputs

    @property
    def target_layer(self) -> str:
        """Name of the layer whose maps explain the decision; assign a name to change it.

        Raises:
            ModelError: no target layer was found; on assignment: the network has no such layer,
                or the layer's maps are not larger than 1×1.
        """
        return self.target.layer

    @target_layer.setter
    def target_layer(self, layer: str) -> None:
        self.aim(layer)

    def aim(
        self, target_layer: str | None = None, token_grid: tuple[int, int] | None = None
    ) -> None:
        """Choose the target layer again, by the rules of the constructor.

        Args:
            target_layer: name of a module as in `named_modules()`; searched for by default.
            token_grid: (rows, columns) of a transformer's tokens; by default the present ones.

        Raises:
            ModelError: the network has no such layer, or the layer's maps are not larger than 1×1.
        """
        grid = token_grid or self._token_grid
        found = self._probe(target_layer, grid)
        self._warn([remark for remark in found.remarks if remark not in self.remarks])
        with exclusive():
            if found.target != self._probed.target:
                self.forget_engines()  # they return the maps of the old target layer
            self._probed, self._token_grid = found, grid

    @property
    def layout(self) -> Layout:
        """How the target layer's output is read as maps, and the size of these maps.

        Raises:
            ModelError: there is no target layer.
        """
        return self.target.layout

    @property
    def has_target_layer(self) -> bool:
        """Whether a target layer was found or given."""
        return self._probed.target is not None

    @property
    def target(self) -> Target:
        """The target layer with its layout.

        Raises:
            ModelError: no target layer was found.
        """
        target = self._probed.target
        if target is None:
            raise ModelError(
                f"{self.name}: found no layer with maps larger than 1×1 before pooling; name one "
                f"with target_layer= or --layer{self._probed.choices}, or use a look that needs no "
                "maps, such as quick"
            )
        return target

    def pixels(
        self,
        image: Image.Image,
        box: Box | None = None,
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "3 h w"]:
        """Cut and resize part of an RGB image.

        Args:
            image: the image to cut from.
            box: part of the image; the classifier's own crop by default.
            size: (height, width) of the result; the network's input size by default.

        Returns:
            Pixels in [0, 1].
        """
        return self.geometry.pixels(image, box, size)

    def noise(self) -> Float[Tensor, "1 3 h w"]:
        """Random pixels at the network's input size, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, 3, *self.input_size, generator=generator)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute the class probabilities f(X).

        Args:
            pixels: images in [0, 1], on any device.

        Returns:
            One row per image, summing to 1, in float32 (float64 for a float64 network).

        Raises:
            RelookError: the pixels are not in [0, 1].
            NotFiniteError: the network returned NaN or infinity.
        """
        check_pixels(pixels)
        if not len(pixels):
            return torch.zeros(0, len(self.labels), device=self.device)
        size = self.chunk_size(*pixels.shape[-2:])
        probabilities = torch.cat(list(chunked(pixels, size, self._probabilities)))
        check_finite(probabilities, self.dtype)
        return probabilities

    def first_looks(
        self,
        pixels: Float[Tensor, "n 3 h w"],
        activations: bool = True,
        originals: Sequence[Image.Image | None] | None = None,
    ) -> list[FirstLook]:
        """Compute f(X) for each image, with the target layer's maps from the same forward pass.

        See `first_look_batch`, which returns the same for all images together.

        Raises:
            RelookError: the pixels are not in [0, 1].
            NotFiniteError: the network returned NaN or infinity.
            ModelError: `activations` is true and there is no target layer.
        """
        check_pixels(pixels)
        looks = self.first_look_batch(pixels, activations, originals)
        return [looks[index] for index in range(len(looks))]

    @torch.no_grad()
    def first_look_batch(
        self,
        pixels: Float[Tensor, "n 3 h w"],
        activations: bool = True,
        originals: Sequence[Image.Image | None] | None = None,
    ) -> FirstLooks:
        """Compute f(X) for all images, with the target layer's maps from the same forward passes.

        Unlike `first_looks`, it does not check the pixels, which takes 4 % of the time of a batch.

        Args:
            pixels: images in [0, 1], on any device.
            activations: whether to record the maps.
            originals: for each image the original that `pixels` is the classifier's crop of, so
                that a second look can cut views from it; None for images without an original.

        Raises:
            NotFiniteError: the network returned NaN or infinity.
            ModelError: `activations` is true and there is no target layer.
        """
        if originals is not None and len(originals) != len(pixels):
            raise ValueError(f"{len(originals)} originals were given for {len(pixels)} images")
        pixels = pixels.to(self.device)
        if not len(pixels):
            none = torch.zeros(0, len(self.labels), device=self.device)
            return FirstLooks(self.geometry, pixels, none, none, None, originals)
        outputs, maps = self._outputs_and_maps(pixels, activations)
        probabilities = self.to_probabilities(outputs)
        check_finite(probabilities, self.dtype)
        return FirstLooks(self.geometry, pixels, probabilities, outputs, maps, originals)

    def attribution(
        self,
        image: ImageSource,
        classes: Any = None,
        method: str | Attribution | None = None,
    ) -> Seen:
        """Compute maps of where the network sees classes in an image; see `relook.attribute`.

        Args:
            image: path, open file, PIL image or array.
            classes: class indices or labels; the five most probable classes by default.
            method: "scorecam" (the default), "cam", "gradcam" or an attribution object.

        >>> import relook
        >>> from relook.demo import photos
        >>> classifier = relook.load("bundled/efficientnet_lite0")
        >>> seen = classifier.attribution(photos()[0], classes=[281, "lynx"], method="cam")
        >>> seen.labels
        ('tabby', 'lynx')
        """
        from relook.attribution import attribute  # imports this module in turn

        return attribute(self, image, classes, method)

    def _outputs_and_maps(
        self, pixels: Float[Tensor, "n 3 h w"], activations: bool
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n k u v"] | None]:
        """Compute raw outputs and, if wanted, maps.

        Only ONNX Runtime replaces the network: other forms, in half precision or on an
        accelerator, round differently.
        """
        height, width = pixels.shape[-2:]
        exact = self.device.type == "cpu" and self.dtype == torch.float32
        form = self._engine(len(pixels), (height, width)) if exact else None
        if isinstance(form, OnnxRuntime) and (not activations or form.target == self.target):
            outputs, *maps = form.of_pixels(pixels, self.mean, self.std, activations)
            return outputs, maps[0] if maps else None
        size = self.chunk_size(height, width)
        if not activations:
            run = partial(chunked, pixels, size, lambda chunk: self.run(self.normalised(chunk)))
            return torch.cat(list(run())), None
        record = partial(self._recorded, self.target)
        found = list(chunked(pixels, size, lambda chunk: record(self.normalised(chunk))))
        return torch.cat([y for y, _ in found]), torch.cat([maps for _, maps in found])

    @torch.no_grad()
    def _recorded(
        self, target: Target, inputs: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n k u v"]]:
        with layers_of(self.network).recording(target) as maps:
            outputs = self._forward(self.network, inputs)
        self._check_maps(maps, inputs)
        return outputs, at_least_float32(maps[0])

    def gradients(
        self, pixels: Float[Tensor, "3 h w"], classes: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "k u v"], Float[Tensor, "n k u v"]]:
        """Compute the target layer's maps and the gradient of each class's output with respect to
        them.

        The output is the logit, or the logarithm of the probability if the network returns
        probabilities. It takes one forward pass, and one backward pass per class from the output
        to the target layer. The network's own gradients and modes stay unchanged.

        Args:
            pixels: one image in [0, 1].
            classes: class indices.

        Returns:
            The maps (K, h, w) and their gradients (n, K, h, w).

        Raises:
            ModelError: the outputs are not a differentiable function of the layer's maps.
            NotFiniteError: a gradient is NaN or infinite.
        """
        with layers_of(self.network).differentiating(self.target) as leaves:
            inputs = self.normalised(pixels.clone().unsqueeze(0))
            outputs = self._forward(self.network, inputs)[0]
            if self._outputs == "probabilities":
                outputs = outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
            self._check_maps(leaves, pixels)
            found = [self._gradient(outputs[c], leaves[0]) for c in classes.tolist()]
        gradients = at_least_float32(torch.cat(found))
        check_finite(gradients, self.dtype)
        maps = self.layout.maps(leaves[0].detach())
        assert maps is not None  # only outputs with maps become leaves
        return at_least_float32(maps[0]), gradients

    def _check_maps(self, maps: Sequence[Tensor], pixels: Float[Tensor, "*n 3 h w"]) -> None:
        if not maps:
            raise ModelError(
                f"{self.name}: layer {self.target_layer!r} has no maps larger than 1×1 "
                f"for pixels of {pixels.shape[-2]}×{pixels.shape[-1]}"
            )

    def _gradient(self, output: Tensor, leaf: Tensor) -> Float[Tensor, "1 k u v"]:
        gradient = None
        if output.requires_grad:
            [gradient] = torch.autograd.grad(output, leaf, retain_graph=True, allow_unused=True)
        maps = None if gradient is None else self.layout.maps(gradient)
        if maps is None:
            raise ModelError(
                f"{self.name}: the outputs have no gradient with respect to the layer "
                f"{self.target_layer!r}; use Score-CAM (--attribution scorecam)"
            )
        return maps

    def many(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute class probabilities with the network's fastest form for this number of images.

        Unlike `forward`, it checks neither the pixels nor the answers.
        """
        height, width = pixels.shape[-2:]
        form = self._engine(len(pixels), (height, width))
        if isinstance(form, OnnxRuntime):
            [outputs] = form.of_pixels(pixels, self.mean, self.std)
            return self.to_probabilities(outputs)
        run = form or self.run
        size = self.chunk_size(height, width)
        answers = chunked(pixels, size, lambda chunk: run(self.normalised(chunk)))
        return self.to_probabilities(torch.cat(list(answers)))

    def normalised(self, pixels: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
        """Normalised pixels, (pixels − mean) / std, on the network's device, at least float32."""
        pixels = at_least_float32(pixels.to(self.device))
        if self.dtype == torch.float64:
            pixels = pixels.double()
        mean, std = (pixels.new_tensor(value).reshape(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std

    def _probabilities(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        return self.to_probabilities(self.run(self.normalised(pixels)))

    @torch.no_grad()
    def run(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Compute the network's raw outputs for one batch of normalised inputs, without checks."""
        return self._forward(self._wrapper[0] if self._wrapper else self.network, inputs)

    def _forward(
        self, network: nn.Module, inputs: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, "n c"]:
        inputs = inputs.to(self.dtype, memory_format=self.memory_format)
        with evaluating(network):
            if self._probed.one_at_a_time and len(inputs) > 1:
                answers = torch.cat([class_outputs(network(image)) for image in inputs.split(1)])
            else:
                answers = class_outputs(network(inputs))
            return at_least_float32(answers)

    def to_probabilities(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Apply softmax to logits; return probabilities unchanged."""
        return outputs if self._outputs == "probabilities" else outputs.softmax(dim=-1)

    def runner(self, forwards: int, size: tuple[int, int]) -> Run:
        """Return the fastest replacement of `run` for this many forward passes at this size.

        If the time to make it pays off, this is another form of the network (see
        `relook.engines`). Its answers agree to 1e-4 of the largest output, or to the rounding of
        half precision. Otherwise it is `run` itself; so it is under autocast, for a compiled or
        DataParallel network, and for one that takes one image at a time.

        Changes to the network's tensors, modules and their attributes are noticed. Changes to what
        its forward method reads from elsewhere (a global or environment variable) are not: call
        `forget_engines` after those.
        """
        return self._engine(forwards, size) or self.run

    def warm_up(self, images: int = 1000, size: tuple[int, int] | None = None) -> str:
        """Make the faster form of the network now, rather than while images wait for it.

        Without this call, it is made once a call needs enough forward passes.

        Args:
            images: approximate number of forward passes that will follow; for fewer than 128 no
                form is made.
            size: (height, width) of the inputs; the network's input size by default.

        Returns:
            What the forward passes will run on and how long it took to make, such as
            "ONNX Runtime, made in 2.1 s", "ONNX Runtime, made before" or
            "PyTorch, no faster form".
        """
        start = time.perf_counter()
        before = self._engines.forms
        engine = self._engine(images, size or self.input_size)
        if engine is None:
            return f"{'PyTorch' if self.in_pytorch else 'ONNX Runtime'}, no faster form"
        if engine in before:
            return f"{engine.name}, made before"
        return f"{engine.name}, made in {time.perf_counter() - start:.1f} s"

    def _engine(self, forwards: int, size: tuple[int, int]) -> OnnxRuntime | Folded | None:
        """The faster form of the network, if there is one and it pays; see `runner`."""
        own = self._wrapper or not self.in_pytorch or self._probed.one_at_a_time
        if own or torch.is_autocast_enabled(self.device.type):
            return None
        network = self.network if self._probed.returns_tensor else Answers(self.network)
        # No other thread may hook the network or switch its mode while a form of it is made.
        with exclusive():
            # For tokens, the maps of other input sizes are unknown.
            target = self._probed.target if size == self.input_size else None
            return self._engines.get(
                network, forwards, size, self.memory_format, self.normalised, target
            )

    def unchanged(self) -> AbstractContextManager[None]:
        """Promise not to change the network inside a with-block, whose calls are then faster.

        >>> with classifier.unchanged():
        ...     probabilities = classifier.many(torch.rand(4, 3, 224, 224))
        """
        return self._engines.trusting()

    def forget_engines(self) -> None:
        """Discard the faster forms of the network; they are made again when next needed."""
        with exclusive():
            self._engines = Engines()

    @property
    def engine(self) -> str:
        """Engine for many forward passes, for example "ONNX Runtime" or "PyTorch"."""
        return self._engines.name

    def takes(self, height: int, width: int) -> bool:
        """Whether the network accepts inputs of this size and returns one value per class.

        The first call for a size runs the network on one image, a forward pass that no image's
        count includes.
        """
        size = (height, width)
        if size not in self._takes:
            try:
                answer = self.run(torch.zeros(1, 3, *size, device=self.device))
                self._takes[size] = answer.shape == (1, len(self.labels))
            except REFUSALS as error:
                if is_out_of_memory(error):
                    raise
                self._takes[size] = False
        return self._takes[size]

    def chunk_size(self, height: int, width: int) -> int:
        """Number of images of this size per forward pass.

        16 at 224×224 on a CPU, where larger batches are no faster; 64 on an accelerator; 1 if
        images would change each other's answers (see `remarks`).
        """
        if self._probed.one_at_a_time:
            return 1
        return images_at_once(height, width, self.device)

    def chunks(self, pixels: Float[Tensor, "n 3 h w"]) -> Iterator[Float[Tensor, "m 3 h w"]]:
        """Split the images into batches of at most `chunk_size`."""
        yield from pixels.split(self.chunk_size(*pixels.shape[-2:]))

    def cost(self, height: int, width: int) -> float:
        """The cost of a forward pass at this size, in passes at the network's input size."""
        return height * width / (self.input_size[0] * self.input_size[1])

    def _probe(self, layer: str | None, grid: Grid | None) -> Probed:
        images = self.normalised(probing_pixels(*self.input_size)).to(self.dtype)
        return probed(
            self.network, images, name=self.name, outputs=self._outputs, layer=layer, grid=grid
        )

    def _warn(self, remarks: Sequence[str]) -> None:
        for remark in remarks:
            _log.warning("relook: %s: %s", self.name, remark)

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of images and weights; the network accepts no other."""
        return self._probed.memory_format

    @property
    def is_exact(self) -> bool:
        """Whether the network computes in float32 or better."""
        return layers_of(self.network).is_exact

    @property
    def in_pytorch(self) -> bool:
        """Whether PyTorch runs the network; otherwise ONNX Runtime runs it as an ONNX graph."""
        return layers_of(self.network).in_pytorch
