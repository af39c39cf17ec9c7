"""What can go wrong, in words for the person who can mend it.

Every message says what was wrong, where (file, class, layer) and what to do.
"""


class RelookError(ValueError):
    """Base of all errors that relook raises on purpose.

    >>> try:
    ...     relook.Corrector(classifier, look="flip", gate=2)
    ... except relook.RelookError as error:
    ...     print(error)
    gate must be a gap from 0 to 1, or none; not 2.0 (...
    """


class ImageError(RelookError):
    """One image cannot be used: missing, unreadable, too large or too small.

    >>> try:
    ...     corrector.correct("nowhere.jpg")
    ... except relook.ImageError as error:
    ...     print(error)
    nowhere.jpg: ...
    """


class ModelError(RelookError):
    """A model cannot be used: unknown name, wrong checkpoint, wrong layer, odd output.

    >>> try:
    ...     relook.load("bundled/efficientnet_lite9")
    ... except relook.ModelError as error:
    ...     print(error)
    model 'bundled/efficientnet_lite9' is unknown; ...
    """


class WeightsMissingError(ModelError):
    """A library's own weights for a model cannot be loaded."""


class DataError(RelookError):
    """The labelled data cannot be used as they are.

    >>> try:
    ...     relook.evaluate(corrector, "nowhere")
    ... except relook.evaluation.DataError as error:
    ...     print(error)
    nowhere: there is no such folder or table
    """


class NotFiniteError(RelookError):
    """The network returned NaN or infinity.

    >>> try:
    ...     relook.checks.check_finite(torch.tensor([[0.5, float("nan")]]), torch.float32)
    ... except relook.NotFiniteError as error:
    ...     print(error)
    the network returned NaN or infinity for 1 of 1 inputs; check the weights
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of one line; its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
