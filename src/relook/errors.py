"""What can go wrong, in words for the person who can mend it.

Every message says what was wrong, where (file, class, layer) and what to do.
"""


class RelookError(ValueError):
    """Base of all errors that relook raises on purpose."""


class ImageError(RelookError):
    """One image cannot be used: missing, unreadable, too large or too small."""


class ModelError(RelookError):
    """A model cannot be used: unknown name, wrong checkpoint, wrong layer, odd output."""


class WeightsMissingError(ModelError):
    """A library's own weights for a model cannot be loaded."""


class DataError(RelookError):
    """The labelled data cannot be used as they are."""


class NotFiniteError(RelookError):
    """The network answered NaN or infinity."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of one line; its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
