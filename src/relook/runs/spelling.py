"""Looks, networks and data as settings: JSON values by which runs are compared.

Settings contain names of kinds and options, never of relook's classes, so that a renamed class does
not invalidate existing runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from relook.attribution import CAM, Activity, GradCAM, ScoreCAM
from relook.classifier import Classifier
from relook.correction import Corrector
from relook.digest import labels_digest, weights_digest
from relook.folder import versions
from relook.looks import (
    Crops,
    Ends,
    Flip,
    InTurn,
    Larger,
    Look,
    Mask,
    Mirrored,
    Network,
    Symmetries,
    Together,
    Uncropped,
    Weighted,
    Whole,
    Zoom,
    networks,
)

KINDS: dict[type, str] = {
    CAM: "cam",
    Activity: "activity",
    GradCAM: "gradcam",
    ScoreCAM: "scorecam",
    Crops: "crops",
    Ends: "ends",
    Flip: "flip",
    InTurn: "in turn",
    Larger: "larger",
    Mask: "mask",
    Mirrored: "mirrored",
    Network: "network",
    Symmetries: "symmetries",
    Together: "together",
    Uncropped: "uncropped",
    Weighted: "weighted",
    Whole: "whole",
    Zoom: "zoom",
}
"""Names of looks and attributions in run.json; changing one invalidates the runs that use it."""


def spelt(thing: Any) -> Any:
    """Convert a look or an attribution with all of its options to JSON values.

    A class that is not relook's goes by its own name; a dataclass is stored with its fields.
    """
    if isinstance(thing, Classifier):
        return thing.name  # described by `second_networks`
    if isinstance(thing, tuple | list):
        return [spelt(part) for part in thing]
    if isinstance(thing, float) and not math.isfinite(thing):
        return str(thing)  # JSON has no infinity
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    kind = KINDS.get(type(thing), type(thing).__name__)
    if is_dataclass(thing):
        options = {each.name: spelt(getattr(thing, each.name)) for each in fields(thing)}
        return {"kind": kind, **options}
    return {"kind": kind, "is": re.sub(r" at 0x[0-9a-f]+", "", repr(thing))}


def named(corrector: Corrector) -> dict[str, Any]:
    """Return a corrector's settings.

    These are k, the gate, the name and all options of the look, and the second networks it uses.
    """
    look = corrector.look
    return {
        "k": corrector.k,
        "gate": corrector.gate.setting,
        "called": corrector.called,
        "look": spelt(look),
        **({"learnt": learnt.to_json()} if (learnt := corrector.learnt) else {}),
        **second_networks([look]),
    }


def describe(classifier: Classifier) -> dict[str, Any]:
    """Return the network and the versions of packages as settings, with a digest of the weights."""
    return {
        "model": {
            **_network(classifier),
            "layer": classifier.target_layer if classifier.has_target_layer else None,
            "labels": list(classifier.labels),
            "remarks": list(classifier.remarks),
        },
        "versions": versions(),
    }


def on_device(settings: Any, device: str) -> Any:
    """Return settings with this type of device for all networks: that of a cluster's workers."""
    if isinstance(settings, Mapping):
        found = {name: on_device(value, device) for name, value in settings.items()}
        return found | ({"device": device} if {"weights", "device"} <= found.keys() else {})
    return settings


def second_networks(looks: Iterable[Look]) -> dict[str, Any]:
    """Return the settings of the second networks that looks use, if any.

    Their labels are replaced by a digest.
    """
    found = dict.fromkeys(network for look in looks for network in networks(look))
    told = {
        str(number): {**_network(network), "labels": labels_digest(network)}
        for number, network in enumerate(found, 2)
    }
    return {"networks": told} if told else {}


def _network(classifier: Classifier) -> dict[str, Any]:
    return {
        "name": classifier.name,
        "weights": weights_digest(classifier),
        "input_size": list(classifier.input_size),
        "geometry": asdict(classifier.geometry),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        "dtype": str(classifier.dtype).removeprefix("torch."),
        "device": classifier.device.type,
    }
