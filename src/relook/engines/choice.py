"""Which form of a network runs many forwards, made when it pays and again when weights change."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from relook.batching import BATCH
from relook.engines.agreement import Normalise, as_trained
from relook.engines.exported import OnnxRuntime
from relook.engines.fingerprint import Fingerprint, UnreadableError, fingerprint
from relook.engines.folded import Folded
from relook.errors import first_line
from relook.layers import evaluating

# From how many forwards on another form of the network (up to ten seconds) is worth making.
_PAYS_FROM = 128

# Each input size has a copy of the network; the oldest gives way.
_SIZES = 4

_log = logging.getLogger("relook")


Run = Callable[[Tensor], Tensor]
"""Normalised inputs (n, 3, h, w) to raw outputs (n, C)."""


class Engines:
    """Other forms of one network, one for each input size that is used a lot.

    ONNX Runtime where all of the network is float32 on the CPU; else, and where the export fails,
    PyTorch with BatchNorm folded into the convolutions. A network with hooks is left as it is,
    and its hooks are called. Nothing is locked here: callers of one network take turns.

    >>> from relook.engines import Engines
    >>> Engines().name
    'PyTorch'
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], OnnxRuntime | Folded | None] = {}
        self._expected: dict[tuple[int, int], int] = {}
        self._network: Fingerprint | None = None
        self._restless: set[str] = set()
        self._warned = False

    @property
    def name(self) -> str:
        """The name of what many forward passes run on."""
        forms = self.forms
        return forms[-1].name if forms else "PyTorch"

    @property
    def forms(self) -> list[OnnxRuntime | Folded]:
        """The forms that are kept, one for each input size, the latest last."""
        return [form for form in self._made.values() if form]

    def get(
        self,
        network: nn.Module,
        forwards: int,
        size: tuple[int, int],
        chunk: int = BATCH,
        memory_format: torch.memory_format = torch.channels_last,
        normalise: Normalise = as_trained,
    ) -> OnnxRuntime | Folded | None:
        """What runs so many forwards at this size faster than the network, if that pays.

        Args:
            network: the network.
            forwards: how many are wanted now; from all asked for it follows whether it pays.
            size: (height, width) of the inputs.
            chunk: how many of this size may go through the network at once.
            memory_format: of the inputs that the network takes.
            normalise: what makes its inputs of pixels in [0, 1].
        """
        batch = min(BATCH, chunk)
        self._expected[size] = self._expected.get(size, 0) + forwards
        if forwards < batch / 2:
            return None
        if size not in self._made and self._expected[size] < _PAYS_FROM:
            return None
        found = self._fingerprint(network)
        if found is None or found.hooked or _hooked_everywhere():
            return None
        if self._changed(found):
            if self._network is not None:
                self._expected = {size: forwards}
            self._network = found
            self._made.clear()
        if size not in self._made:
            if self._expected[size] < _PAYS_FROM:
                return None
            if len(self._made) == _SIZES:
                del self._made[next(iter(self._made))]
            self._made[size] = _make(network, size, batch, memory_format, normalise)
            # What changes by running the network (a counter, a cache) is no change of it.
            after = self._fingerprint(network)
            if after is None:
                return None
            self._restless |= found.differences(after)
            self._network = after
        return self._made[size]

    def _fingerprint(self, network: nn.Module) -> Fingerprint | None:
        """None where changes of the network could not be noticed: it runs as it is then."""
        try:
            return fingerprint(network)
        except UnreadableError as error:
            if not self._warned:
                _log.warning(
                    "relook: PyTorch runs the network: its changes could not be noticed (%s)", error
                )
            self._warned = True
            return None

    def _changed(self, found: Fingerprint) -> bool:
        """Whether it is another network than the one that the forms were made of."""
        if self._network is None:
            return True
        changed = self._network.differences(found) - self._restless
        # What is put into a container that every run changes is new each time.
        both = self._network.values.keys() & found.values.keys()
        grown = tuple(f"{name}." for name in self._restless)
        return any(name in both or not name.startswith(grown) for name in changed)

    def __getstate__(self) -> dict[str, object]:
        """A session can be neither copied nor pickled; a copy makes its own."""
        return {
            "_made": {},
            "_expected": {},
            "_network": None,
            "_restless": set(),
            "_warned": False,
        }


def _hooked_everywhere() -> bool:
    """Whether there are hooks on all modules of the process."""
    module = nn.modules.module
    return bool(module._global_forward_hooks or module._global_forward_pre_hooks)


def _make(
    network: nn.Module,
    size: tuple[int, int],
    batch: int,
    memory_format: torch.memory_format,
    normalise: Normalise,
) -> OnnxRuntime | Folded | None:
    tensors = [*network.parameters(), *network.buffers()]
    if all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64) for t in tensors):
        try:
            with evaluating(network):
                return OnnxRuntime(network, torch.zeros(1, 3, *size), batch, normalise)
        except Exception as error:  # noqa: BLE001  what an exporter raises is not bounded
            _log.warning(
                "relook: PyTorch runs the network, the export to ONNX failed (%s)",
                first_line(error),
            )
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not floats:
        return None
    try:
        with evaluating(network):
            return Folded(network, floats[0].new_zeros(1, 3, *size), memory_format, normalise)
    except Exception as error:  # noqa: BLE001  networks are other people's code
        _log.info("relook: BatchNorm is not folded (%s)", first_line(error))
    return None
