"""Runs: many images through one piece of work, whose rows are saved as they come."""

from relook.runs.job import MANY as MANY
from relook.runs.job import Batch as Batch
from relook.runs.job import Item as Item
from relook.runs.job import Job as Job
from relook.runs.local import OnRows as OnRows
from relook.runs.local import answered as answered
from relook.runs.local import run_locally as run_locally
from relook.runs.run import Run as Run
