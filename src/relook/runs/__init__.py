"""Runs: many images through one piece of work, whose rows are saved as they come."""

from relook.runs.job import MANY, Batch, Item, Job
from relook.runs.local import OnRows, answered, run_locally
from relook.runs.run import Run

__all__ = ["MANY", "Batch", "Item", "Job", "OnRows", "Run", "answered", "run_locally"]
