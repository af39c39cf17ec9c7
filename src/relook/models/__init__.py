"""Loading classifiers by name; one file per source of models."""

from relook.models.load import DEFAULT_MODEL, load

__all__ = ["DEFAULT_MODEL", "load"]
