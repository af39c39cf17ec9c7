"""Checkpoints: weights that users bring, read without running code from the file."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from relook.errors import ModelError, WeightsMissingError, first_line
from relook.models.weights_file import StandsFor, convert, load_plain
from relook.words import some

State = dict[str, Tensor]

_log = logging.getLogger("relook")

_DEPTH = 4
"""Maximum depth of a state dict in the nested dicts of a checkpoint."""

_NAMED = 3
"""Maximum number of names in a suggested command."""

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Names of the wrappers that torch.compile, FSDP and others put around modules."""

_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)")

_BOOKKEEPING = re.compile(
    # of averaging, of counting operations, of BatchNorm, of what follows from the input size alone
    r"(^|\.)(n_averaged|total_ops|total_params|num_batches_tracked|attn_mask|position_ids"
    r"|relative_position_index|relative_coords_table)$"
    # of losses and metrics
    r"|(^|\.)([a-z0-9]+_)*(criterions?|loss(es)?|metrics?|acc|accuracy|auroc|confmat)"
    r"(_[a-z0-9]+)*(\.|$)"
    r"|(^|\.)(class_weights?|pos_weight|tp|fp|tn|fn)$"
    r"|^(train|val|valid|validation|test)_([a-z0-9]+_)*(f1|f1score|precision|recall|auc|top[0-9]+)\."
)
"""Tensors that training tools leave beside a network's weights."""


@dataclass(frozen=True)
class StateDict:
    """One state dict of a checkpoint.

    Attributes:
        place: keys that lead to it; empty if the file itself is a state dict.
        tensors: weights by name.
        others: names of entries that are not tensors.
    """

    place: tuple[str, ...]
    tensors: State
    others: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """Its place in the checkpoint, for messages."""
        return " in ".join(repr(key) for key in reversed(self.place)) or "the file itself"


@dataclass(frozen=True)
class _Fit:
    """How well a state dict, or the part of it whose names begin with a prefix, fits a network.

    Attributes:
        of: the state dict.
        prefix: prefix of the names, before the network's own names.
        tensors: tensors for the network, by the network's own names.
        missing: names that the state dict lacks.
        extra: names that the network lacks.
        shapes: descriptions of tensors with other shapes.
        ignored: names of bookkeeping values that the network does not use.
        beside: names outside the prefix, of other networks for example.
        classes: number of classes in the state dict, if only that differs from the network.
    """

    of: StateDict
    prefix: str
    tensors: State
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    classes: int | None = None

    @property
    def is_whole(self) -> bool:
        return not self.missing and not self.extra and (not self.shapes or self.classes is not None)

    @property
    def is_averaged(self) -> bool:
        return bool(_AVERAGED.search(".".join((*self.of.place, self.prefix))))

    @property
    def described(self) -> str:
        beside = f"names that begin with {self.prefix!r}" if self.prefix else ""
        if beside and self.of.place:
            return f"{self.of.described}, {beside}"
        return beside or self.of.described


def read_states(checkpoint: Path) -> list[StateDict]:
    """The state dicts in a checkpoint, written by safetensors or `torch.save`.

    Objects beside the weights, such as a namespace of arguments, are skipped, and none of their
    code is run.

    Raises:
        ModelError: the file is missing, damaged, of another kind, or holds no state dict.
    """
    loaded = load_plain(checkpoint)
    found = list(_state_dicts(loaded, ()))
    if found:
        return found
    keys: list[str] = []
    arrays = _place_of_arrays(loaded, ())
    if arrays is not None:
        read = f"torch.load({checkpoint.name!r}, weights_only=False)"
        read += "".join(f"[{key!r}]" for key in arrays)
        raise ModelError(
            f"{checkpoint}: its weights are NumPy arrays and not tensors; save them as tensors: "
            f"torch.save({{k: torch.from_numpy(v) for k, v in {read}.items()}}, "
            f"{checkpoint.with_name(f'{checkpoint.stem}-tensors.pth').name!r}) (this runs "
            "code from the file: only for files that you trust)"
        )
    if isinstance(loaded, Mapping):
        keys = [str(key) for key, value in loaded.items() if isinstance(value, StandsFor)][:1]
        loaded = loaded[keys[0]] if keys else loaded
    if isinstance(loaded, StandsFor):
        where = f" under {keys[0]!r}" if keys else ""
        raise ModelError(
            f"{checkpoint}: holds no state dict of plain tensors, but a pickled "
            f"{type(loaded).__name__}{where}; relook does not unpickle objects, so save "
            f"model.state_dict(): {convert(checkpoint, keys)}"
        )
    raise ModelError(f"{checkpoint}: holds no state dict; save model.state_dict()")


def _state_dicts(loaded: object, place: tuple[str, ...]) -> Iterator[StateDict]:
    if not isinstance(loaded, Mapping) or len(place) > _DEPTH:
        return
    named = {key: value for key, value in loaded.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield StateDict(place, tensors, tuple(key for key in named if key not in tensors))
    for key, value in named.items():
        yield from _state_dicts(value, (*place, key))


def _place_of_arrays(loaded: object, place: tuple[str, ...]) -> tuple[str, ...] | None:
    """The keys that lead to a dict of NumPy arrays; None if there is no such dict."""
    if not isinstance(loaded, Mapping) or len(place) > _DEPTH:
        return None
    kinds = [value.of for value in loaded.values() if isinstance(value, StandsFor)]
    if any(kind.startswith("numpy.") and kind.endswith("._reconstruct") for kind in kinds):
        return place
    inside = (_place_of_arrays(v, (*place, k)) for k, v in loaded.items() if isinstance(k, str))
    return next((found for found in inside if found is not None), None)


def load_into(create: Callable[[int | None], nn.Module], checkpoint: Path) -> nn.Module:
    """Create a network with the weights of `checkpoint`.

    Args:
        create: function that creates the network for a number of classes (None: its default).
        checkpoint: file of weights. If they differ from the network only in the number of classes,
            the network is created again with their number.

    Raises:
        ModelError: the checkpoint cannot be read, or its weights do not fit.
    """
    states = read_states(checkpoint)
    network = create(None)
    fit = _choose(network, states, checkpoint, any_classes=True)
    if fit.classes is not None:
        network = create(fit.classes)
        fit = _choose(network, states, checkpoint, any_classes=False)
    _fill(network, fit, states, checkpoint)
    return network


def weights_missing(name: str, error: Exception) -> WeightsMissingError:
    """Error for a model whose own weights a library cannot load."""
    return WeightsMissingError(
        f"the weights of {name!r} cannot be loaded ({first_line(error)}); pass your own with "
        "checkpoint= or --checkpoint (in Python, pretrained=False gives random ones)"
    )


def load_state(network: nn.Module, checkpoint: Path) -> None:
    """Load the weights of `checkpoint` into a network.

    Raises:
        ModelError: the checkpoint cannot be read, or its weights do not fit.
    """
    states = read_states(checkpoint)
    fit = _choose(network, states, checkpoint, any_classes=False)
    _fill(network, fit, states, checkpoint)


def fitting_state(network: nn.Module, checkpoint: Path) -> State:
    """Read the weights of `checkpoint` that fit a network, up to the number of classes.

    If none fit, return the largest state dict, with averaged weights only as a last resort, since
    some libraries save weights under other names than those of the modules.

    Raises:
        ModelError: the checkpoint cannot be read, or contains several different weights that fit.
    """
    states = read_states(checkpoint)
    fits = _fits(network, states)
    if any(fit.is_whole for fit in fits):
        fit = _choose(network, states, checkpoint, any_classes=True)
        _say(fit, states, checkpoint)
        return fit.tensors
    plain = [s for s in states if not _AVERAGED.search(".".join(s.place))] or states
    largest = max(plain, key=lambda state: len(state.tensors))
    tensors = {_unwrapped(key): value for key, value in largest.tensors.items()}
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _choose(
    network: nn.Module, states: list[StateDict], checkpoint: Path, any_classes: bool
) -> _Fit:
    """The weights in a checkpoint that fit the network, preferring plain to averaged weights.

    Raises:
        ModelError: no weights fit, or several do and differ.
    """
    fits = _fits(network, states)
    whole = [fit for fit in fits if fit.is_whole and (any_classes or fit.classes is None)]
    if not whole:
        raise _refusal(network, max(fits, key=lambda fit: len(fit.tensors)), checkpoint)
    chosen = [fit for fit in whole if not fit.is_averaged] or whole
    first, *others = chosen
    if any(not _are_equal(first.tensors, other.tensors) for other in others):
        places = "; ".join(fit.described for fit in chosen)
        raise ModelError(
            f"{checkpoint}: holds several state dicts that fit: {places}; save only the one that "
            f"you mean, as in {_alone(max(chosen, key=lambda fit: fit.prefix), checkpoint)}"
        )
    return first


def _fits(network: nn.Module, states: list[StateDict]) -> list[_Fit]:
    own = network.state_dict()
    names = {_unwrapped(key): key for key in own}
    found = []
    for state in states:
        tensors = {_unwrapped(key): value for key, value in state.tensors.items()}
        prefixes = _prefixes(names, tensors)
        # Each complete prefix is a network of its own, which may be part of another.
        complete = [
            prefix
            for prefix in prefixes
            if all(prefix + n in tensors for n in names if not n.endswith("num_batches_tracked"))
        ]
        found += [_fit(own, names, state, tensors, p, complete) for p in prefixes]
    return found


def _prefixes(names: Mapping[str, str], tensors: State) -> list[str]:
    """Possible prefixes of a state dict's names before the network's own names."""
    own = [name for name in names if not name.endswith("num_batches_tracked")]
    found = {""}
    for name in {own[0], own[-1]} if own else ():
        found |= {key.removesuffix(name) for key in tensors if key.endswith(f".{name}")}
    return sorted(found)


def _fit(
    own: Mapping[str, Tensor],
    names: Mapping[str, str],
    state: StateDict,
    tensors: State,
    prefix: str,
    complete: list[str],
) -> _Fit:
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    found = {names[key]: value for key, value in inside.items() if key in names}
    missing = [k for k in own if k not in found and not k.endswith("num_batches_tracked")]
    inner = tuple(p for p in complete if p != prefix and p.startswith(prefix))
    others = [
        key
        for key in tensors
        if not key.startswith(prefix)
        or (key.startswith(inner) and key.removeprefix(prefix) not in names)
    ]
    apart = set(others)
    left = [prefix + k for k in inside if k not in names and prefix + k not in apart] + others
    # Averaged weights beside plain ones are bookkeeping, but not the reverse.
    averages = set() if _AVERAGED.search(prefix) else set(filter(_AVERAGED.search, others))
    known = [key for key in left if _BOOKKEEPING.search(key) or key in averages]
    extra = [key for key in left if key not in known]
    # Weights around a complete network belong to the program that trained it.
    beside = [] if missing else [key for key in extra if key in apart]
    differ = {key for key, value in found.items() if own[key].shape != value.shape}
    return _Fit(
        state,
        prefix,
        found,
        missing,
        [key for key in extra if key not in beside],
        [f"{k} is {_shape(found[k])} there, {_shape(own[k])} here" for k in own if k in differ],
        [*known, *state.others],
        beside,
        _other_classes(own, found, differ),
    )


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _other_classes(own: Mapping[str, Tensor], state: State, differ: set[str]) -> int | None:
    """The number of classes of the state, if it differs from the network in nothing else."""
    counts = {state[key].shape[0] for key in differ if state[key].ndim}
    rows_only = all(own[key].shape[1:] == state[key].shape[1:] for key in differ)
    return counts.pop() if rows_only and len(counts) == 1 else None


def _are_equal(one: State, other: State) -> bool:
    shared = one.keys() & other.keys()
    return all(torch.equal(one[key], other[key]) for key in shared)


def _refusal(network: nn.Module, fit: _Fit, checkpoint: Path) -> ModelError:
    # A different number of classes alone is allowed, so it is not reported beside other problems.
    shapes = [] if fit.classes is not None and (fit.missing or fit.extra) else fit.shapes
    problems = [
        _some("it lacks", fit.missing),
        _some("it has extra", fit.extra),
        _some("other shapes:", shapes),
    ]
    where = f" ({fit.described})" if fit.prefix or fit.of.place else ""
    what = f"of another architecture than {type(network).__name__}"
    remedy = "name the architecture that it was trained with"
    if not fit.missing and not fit.extra:
        remedy = "name the architecture, or the input size (--input-size), that it was trained with"
    elif not fit.missing and not shapes:
        what = f"more than the weights of a {type(network).__name__}"
        remedy = (
            f"save only the weights of the network, as in {_alone(fit, checkpoint)}, or name the "
            "architecture that has all of them"
        )
    found = "; ".join(filter(None, problems))
    return ModelError(f"{checkpoint}{where}: {what}: {found}; {remedy}")


def _alone(fit: _Fit, checkpoint: Path) -> str:
    """Python code that saves only the weights of a checkpoint that fit."""
    state = "checkpoint" + "".join(f"[{key!r}]" for key in fit.of.place)
    target = checkpoint.with_name(f"{checkpoint.stem}-alone.pth").name
    chosen = f"k.startswith({fit.prefix!r})" if fit.prefix else ""
    if fit.extra:
        tops = sorted({key.removeprefix(fit.prefix).split(".")[0] for key in fit.extra})
        own = {key.split(".")[0] for key in fit.tensors}
        words = [key.removeprefix(fit.prefix) for key in fit.extra] if own & set(tops) else tops
        unwanted = ", ".join(repr(fit.prefix + word) for word in words[:_NAMED])
        more = ", ..." if len(words) > _NAMED else ","
        without = f"not k.startswith(({unwanted}{more}))"
        chosen = f"{chosen} and {without}" if chosen else without
    if not chosen:
        return f"torch.save({state}, {target!r})"
    return f"torch.save({{k: v for k, v in {state}.items() if {chosen}}}, {target!r})"


def _fill(network: nn.Module, fit: _Fit, states: list[StateDict], checkpoint: Path) -> None:
    network.load_state_dict(fit.tensors, strict=False)
    _say(fit, states, checkpoint)


def _say(fit: _Fit, states: list[StateDict], checkpoint: Path) -> None:
    """Log which weights were chosen and what was left out."""
    averaged = [s.described for s in states if _AVERAGED.search(".".join(s.place))]
    notes = []
    if fit.is_averaged:
        notes.append(f"averaged weights ({fit.described}) are used, the only ones that fit")
    elif averaged:
        notes.append(
            f"those of {fit.of.described} are used; the averaged ones in {averaged[0]} are not used"
        )
    if fit.ignored:
        notes.append(_some("ignored, as the network does not have them:", fit.ignored))
    if fit.beside:
        own = f"all of the network's weights have {fit.described}" if fit.prefix else ""
        other = "they belong to other networks in the file"
        notes.append(_some(f"skipped, as {own or other}:", fit.beside))
    if notes:
        _log.warning("relook: weights of %s: %s", checkpoint, "; ".join(notes))
    elif fit.prefix:
        _log.info("relook: weights of %s: %s", checkpoint, fit.described)


def _some(what: str, things: list[str]) -> str:
    """The first two things and the number of others; empty if there are none."""
    return f"{what} {some(things, 2)}" if things else ""


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
