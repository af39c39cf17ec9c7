"""module:function: classifiers returned by a function of the user."""

from __future__ import annotations

import importlib
import os
import sys

from relook.classifier import Classifier
from relook.errors import ModelError, RelookError, first_line
from relook.models.checkpoint import load_state
from relook.models.request import Request
from relook.record import Record, refusal


def load(name: str, request: Request) -> Classifier:
    """Load the classifier that the function returns, with the checkpoint's weights if given.

    The module is imported from the current folder or from `sys.path`. The caller's other arguments
    (labels, input size, target layer) are set on the classifier that the function returned.

    Args:
        name: "module:function".
        request: the other arguments of `relook.load`.

    Raises:
        ModelError: the function cannot be imported, fails or returns something else; or an argument
            does not fit the network.
    """
    module_name, _, function_name = name.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"model {name!r}: cannot import {module_name!r} ({_in_short(error)}); searched in "
            f"{folder} and the installed packages (PYTHONPATH adds folders)"
        ) from error
    finally:
        sys.path.remove(folder)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"model {name!r}: {module_name} has no function {function_name!r}")
    try:
        classifier = function()
    except RelookError:
        raise
    except Exception as error:
        raise ModelError(f"model {name!r}: the function failed ({_in_short(error)})") from error
    if not isinstance(classifier, Classifier):
        raise ModelError(
            f"model {name!r}: the function returned a {type(classifier).__name__}; it must return "
            "relook.Classifier(module, mean=..., std=..., input_size=...)"
        )
    if request.checkpoint is not None:
        load_state(classifier.network, request.checkpoint)
    classifier.name = request.name
    _adjust(classifier, request.said)
    return classifier


def _adjust(classifier: Classifier, said: Record) -> None:
    own = classifier.geometry
    size = said.input_size or own.crop
    if size != own.crop:
        classifier.geometry = own.scaled(size)
        try:
            classifier.aim(classifier.target_layer if classifier.has_target_layer else None)
        except ModelError as error:
            classifier.geometry = own
            raise refusal(classifier.name, size, own.crop, error.__cause__ or error) from error
    if said.target_layer is not None or said.token_grid is not None:
        classifier.aim(said.target_layer, said.token_grid)
    if said.labels is not None:
        if len(said.labels) != len(classifier.labels):
            raise ModelError(
                f"{classifier.name} has {len(classifier.labels)} classes, but "
                f"{len(said.labels)} labels were given"
            )
        classifier.labels = said.labels


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
