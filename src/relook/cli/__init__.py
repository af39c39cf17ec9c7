"""The command line: one file a command; each parses, calls and prints."""

from relook.cli import demo, evaluate, export, multicam, predict
from relook.cli.app import app, main

__all__ = ["app", "demo", "evaluate", "export", "main", "multicam", "predict"]
