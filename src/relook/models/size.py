"""Another input size than a model's own, for models that are made before it is known."""

from __future__ import annotations

from relook.classifier import Classifier
from relook.errors import ModelError, first_line


def resize(classifier: Classifier, size: tuple[int, int]) -> Classifier:
    """The classifier itself, at another input size: its resize in proportion, its layer the same.

    Raises:
        ModelError: the network takes no inputs of this (height, width).
    """
    own, classifier.geometry = classifier.geometry, classifier.geometry.scaled(size)
    try:
        classifier.aim(classifier.target_layer if classifier.has_target_layer else None)
    except ModelError as error:
        classifier.geometry = own
        raise refusal(classifier.name, size, own.crop, error.__cause__ or error) from error
    return classifier


def refusal(
    name: str, size: tuple[int, int], own: tuple[int, int] | None, error: BaseException
) -> ModelError:
    """What to say where a network does not take a size.

    Args:
        name: of the model.
        size: the (height, width) that was asked for.
        own: the network's own.
        error: what it raised.
    """
    back = f" for its own {own[0]}×{own[1]}" if own else ""
    return ModelError(
        f"{name}: does not take inputs of {size[0]}×{size[1]} ({first_line(error)}); leave the "
        f"input size out{back}"
    )
