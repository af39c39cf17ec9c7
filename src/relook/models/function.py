"""module:function: a network of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from relook.classifier import Classifier
from relook.errors import ModelError, RelookError, first_line
from relook.models.checkpoint import load_state
from relook.models.size import resize


def load(name: str, checkpoint: Path | None, size: tuple[int, int] | None = None) -> Classifier:
    """What the function returns, with the weights of `checkpoint` where one is given, and for
    inputs of `size`, with the resize in proportion, where that is given.

    The module is imported as Python imports it, and from the current folder too.
    """
    module_name, _, function_name = name.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"model {name!r}: cannot import {module_name!r} ({_in_short(error)}); it is looked for "
            f"in {folder} and among the installed packages (PYTHONPATH adds folders)"
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
    if checkpoint is not None:
        load_state(classifier.network, checkpoint)
    if size is not None and size != classifier.input_size:
        classifier.name = name
        resize(classifier, size)
    return classifier


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
