"""A second look for trained image classifiers, without retraining."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relook.attribution import CAM as CAM
    from relook.attribution import GradCAM as GradCAM
    from relook.attribution import ScoreCAM as ScoreCAM
    from relook.attribution import attribute as attribute
    from relook.classifier import Classifier as Classifier
    from relook.correction import Correction as Correction
    from relook.correction import Corrector as Corrector
    from relook.errors import ImageError as ImageError
    from relook.errors import ModelError as ModelError
    from relook.errors import NotFiniteError as NotFiniteError
    from relook.errors import RelookError as RelookError
    from relook.evaluation import Evaluation as Evaluation
    from relook.evaluation import evaluate as evaluate
    from relook.evaluation import tune as tune
    from relook.models.export import export as export
    from relook.models.load import load as load
    from relook.prediction.predict import predict as predict

__version__ = "0.1.0"

# Each is imported on first use, so that `import relook` and `relook --help` do not wait for torch.
_HOMES = {
    "CAM": "relook.attribution",
    "Classifier": "relook.classifier",
    "Correction": "relook.correction",
    "Corrector": "relook.correction",
    "GradCAM": "relook.attribution",
    "Evaluation": "relook.evaluation",
    "ImageError": "relook.errors",
    "ModelError": "relook.errors",
    "NotFiniteError": "relook.errors",
    "RelookError": "relook.errors",
    "ScoreCAM": "relook.attribution",
    "attribute": "relook.attribution",
    "evaluate": "relook.evaluation",
    "export": "relook.models.export",
    "load": "relook.models",
    "predict": "relook.prediction",
    "tune": "relook.evaluation",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'relook' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
