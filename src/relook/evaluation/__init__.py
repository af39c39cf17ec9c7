"""Evaluation on labelled images: data sets, runs of looks, rows of results and statistics."""

from relook.errors import DataError
from relook.evaluation.data import (
    LabelledImage,
    LabelledImages,
    class_names,
    read_data,
)
from relook.evaluation.evaluation import Evaluation, evaluate, experiment_of, rivals_of
from relook.evaluation.experiment import Experiment
from relook.evaluation.rows import Answer, Names, Row, from_table, schema, to_table
from relook.evaluation.selective import Quality
from relook.evaluation.share import GateOfShare, gate_of_share
from relook.evaluation.statistics import Method, Pairing, Statistics, Tally
from relook.evaluation.tuning import GATES, Candidate, Tuning, tune
from relook.folder import RunError
from relook.runs import Run
from relook.runs.forecast import Forecast

__all__ = [
    "GATES",
    "Answer",
    "Candidate",
    "DataError",
    "Evaluation",
    "Experiment",
    "Forecast",
    "GateOfShare",
    "LabelledImage",
    "LabelledImages",
    "Method",
    "Names",
    "Pairing",
    "Quality",
    "Row",
    "Run",
    "RunError",
    "Statistics",
    "Tally",
    "Tuning",
    "class_names",
    "evaluate",
    "experiment_of",
    "from_table",
    "gate_of_share",
    "read_data",
    "rivals_of",
    "schema",
    "to_table",
    "tune",
]
