"""From a name to a classifier: one file a source."""

from relook.models.load import DEFAULT_MODEL, load

__all__ = ["DEFAULT_MODEL", "load"]
