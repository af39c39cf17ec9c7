"""The command line, with one file per command: each parses, calls and prints."""

from relook.cli import demo, evaluate, export, multicam, predict, report  # noqa: F401
from relook.cli.app import app as app
from relook.cli.app import main as main
