"""The choice of a network's form for many forward passes; remade when the weights change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from relook.engines.agreement import Normalise, as_trained
from relook.engines.exported import OnnxRuntime
from relook.engines.fingerprint import Fingerprint, UnreadableError, fingerprint
from relook.engines.folded import Folded
from relook.errors import first_line
from relook.layers import evaluating
from relook.target import Target

# Smallest number of forward passes that is worth the time to make another form (up to 10 s).
_PAYS_FROM = 128

# Smallest number of forward passes in a call that starts to make another form: a call for fewer,
# as of a single photo, should not have to wait for it.
_FEWEST = 4

# Smallest number of forward passes at sizes without a form that is worth a form for any size, which
# is made in a second once the network is known to export; and the smallest at one such size that is
# worth trying that form on it, which takes as long as one forward pass.
_SHARED_FROM, _TRIES_FROM = 32, 1

# Largest number of input sizes with a form of their own; the oldest form is dropped.
_SIZES = 4

_log = logging.getLogger("relook")


Run = Callable[[Tensor], Tensor]
"""Function from normalised inputs (n, 3, h, w) to raw outputs (n, C)."""


class Engines:
    """Faster forms of one network, one per frequently used input size, or one for several.

    The form is ONNX Runtime if the whole network is in float32 on the CPU. Otherwise, or if the
    export fails, it is PyTorch with BatchNorm folded into the convolutions. The first input size
    has a form of its own; others share one that takes any size, where its answers are right. A
    network with hooks gets no other form, so that its hooks are called. This class takes no lock:
    callers must.

    >>> from relook.engines import Engines
    >>> Engines().name
    'PyTorch'
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], OnnxRuntime | Folded | None] = {}
        self._any_size: OnnxRuntime | None = None
        self._any_size_fails = False
        self._unfit: set[tuple[int, int]] = set()
        self._trusted = 0
        self._checked = False
        self._expected: dict[tuple[int, int], int] = {}
        self._network: Fingerprint | None = None
        self._restless: set[str] = set()
        self._warned = False

    @property
    def name(self) -> str:
        """Name of the latest form, or "PyTorch" if there is none."""
        forms = self.forms
        return forms[-1].name if forms else "PyTorch"

    @property
    def forms(self) -> list[OnnxRuntime | Folded]:
        """Forms that are kept, the latest last."""
        return list(dict.fromkeys(form for form in self._made.values() if form))

    def get(
        self,
        network: nn.Module,
        forwards: int,
        size: tuple[int, int],
        memory_format: torch.memory_format = torch.channels_last,
        normalise: Normalise = as_trained,
        target: Target | None = None,
    ) -> OnnxRuntime | Folded | None:
        """Return a faster form of the network for this input size, or None if none pays off.

        Args:
            network: the network.
            forwards: number of forward passes needed now. The numbers of all calls are added up to
                decide whether a form pays off.
            size: (height, width) of the inputs.
            memory_format: memory format of the network's inputs.
            normalise: function from pixels in [0, 1] to the network's inputs.
            target: layer whose maps a form on ONNX Runtime returns too, if it can. A form that is
                there stays as it is.
        """
        self._expected[size] = self._expected.get(size, 0) + forwards
        if self._trusted and self._checked and size in self._made:
            return self._made[size]
        if size not in self._made and not self._pays(forwards, size):
            return None
        found = self._fingerprint(network)
        if found is None or found.hooked or _hooked_everywhere():
            return None
        if self._changed(found):
            if self._network is not None:
                self._expected = {size: forwards}
            self._network = found
            self._made.clear()
            self._any_size = None
            self._any_size_fails = False
            self._unfit.clear()
        self._checked = True
        if size not in self._made:
            if not self._pays(forwards, size):
                return None
            if not self._shared(network, size, normalise):
                if self._expected[size] < _PAYS_FROM:
                    return None
                own = [size for size, form in self._made.items() if form is not self._any_size]
                if len(own) == _SIZES:
                    del self._made[own[0]]
                self._made[size] = _make(network, size, memory_format, normalise, target)
            # Values that running the network changes (a counter, a cache) are ignored from now on.
            after = self._fingerprint(network)
            if after is None:
                return None
            self._restless |= found.differences(after)
            self._network = after
        return self._made[size]

    @contextmanager
    def trusting(self) -> Iterator[None]:
        """Look for changes of the network once in the block: it takes up to 10 ms a call."""
        if not self._trusted:
            self._checked = False
        self._trusted += 1
        try:
            yield
        finally:
            self._trusted -= 1

    def _pays(self, forwards: int, size: tuple[int, int]) -> bool:
        """Whether a form that has not been made or tried yet is worth the time."""
        own = self._expected[size]
        if own >= _PAYS_FROM and forwards >= _FEWEST:
            return True
        if not self._may_share(size):
            return False
        if self._any_size is not None:
            return own >= _TRIES_FROM
        others = (count for other, count in self._expected.items() if other not in self._made)
        return forwards >= _FEWEST and sum(others) >= _SHARED_FROM

    def _may_share(self, size: tuple[int, int]) -> bool:
        """Whether the network exports, and a form for any size may be right at this one."""
        exports = any(isinstance(form, OnnxRuntime) for form in self._made.values())
        return exports and not self._any_size_fails and size not in self._unfit

    def _shared(self, network: nn.Module, size: tuple[int, int], normalise: Normalise) -> bool:
        """Use the form for any size at this size, if there is one and its answers are right."""
        if not self._may_share(size):
            return False
        example = torch.zeros(1, 3, *size)
        with evaluating(network):
            if self._any_size is None:
                try:
                    self._any_size = OnnxRuntime(
                        network, example, normalise=normalise, any_size=True
                    )
                except Exception as error:  # noqa: BLE001  an exporter may raise anything
                    _log.info("relook: there is no form for any size (%s)", first_line(error))
                    self._any_size_fails = True
                    return False
            elif not self._any_size.fits(network, example, normalise):
                self._unfit.add(size)
                return False
        self._made[size] = self._any_size
        return True

    def _fingerprint(self, network: nn.Module) -> Fingerprint | None:
        """The network's fingerprint; None if its changes cannot be detected, so that it is run
        itself.
        """
        try:
            return fingerprint(network)
        except UnreadableError as error:
            if not self._warned:
                _log.warning(
                    "relook: the network runs in PyTorch; its changes cannot be detected (%s)",
                    error,
                )
            self._warned = True
            return None

    def _changed(self, found: Fingerprint) -> bool:
        """Whether the network differs from the one that the forms were made from."""
        if self._network is None:
            return True
        changed = self._network.differences(found) - self._restless
        # New items in a container that every run changes do not count.
        both = self._network.values.keys() & found.values.keys()
        grown = tuple(f"{name}." for name in self._restless)
        return any(name in both or not name.startswith(grown) for name in changed)

    def __getstate__(self) -> dict[str, object]:
        """Leave out the forms: ONNX Runtime sessions cannot be copied; a copy makes its own."""
        return {
            "_made": {},
            "_any_size": None,
            "_any_size_fails": False,
            "_unfit": set(),
            "_trusted": 0,
            "_checked": False,
            "_expected": {},
            "_network": None,
            "_restless": set(),
            "_warned": False,
        }


def _hooked_everywhere() -> bool:
    """Whether global hooks are registered, which apply to all modules of the process."""
    module = nn.modules.module
    return bool(module._global_forward_hooks or module._global_forward_pre_hooks)


def _make(
    network: nn.Module,
    size: tuple[int, int],
    memory_format: torch.memory_format,
    normalise: Normalise,
    target: Target | None,
) -> OnnxRuntime | Folded | None:
    tensors = [*network.parameters(), *network.buffers()]
    if all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64) for t in tensors):
        example = torch.zeros(1, 3, *size)
        try:
            with evaluating(network):
                return _exported(network, example, normalise, target)
        except Exception as error:  # noqa: BLE001  an exporter may raise anything
            _log.warning(
                "relook: the network runs in PyTorch; its export to ONNX failed (%s)",
                first_line(error),
            )
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not floats:
        return None
    try:
        with evaluating(network):
            return Folded(network, floats[0].new_zeros(1, 3, *size), memory_format, normalise)
    except Exception as error:  # noqa: BLE001  a network's code may raise anything
        _log.info("relook: BatchNorm is not folded (%s)", first_line(error))
    return None


def _exported(
    network: nn.Module, example: Tensor, normalise: Normalise, target: Target | None
) -> OnnxRuntime:
    """Export a network with its target layer's maps, or without them if that fails."""
    if target is None:
        return OnnxRuntime(network, example, normalise=normalise)
    try:
        return OnnxRuntime(network, example, normalise=normalise, target=target)
    except Exception as error:  # noqa: BLE001  an exporter may raise anything
        form = OnnxRuntime(network, example, normalise=normalise)
        _log.warning(
            "relook: first looks with maps run in PyTorch; the export of the layer %r to ONNX "
            "failed (%s)",
            target.layer,
            first_line(error),
        )
        return form
