"""Labelled data in, rows out, and what the rows say."""

from relook.evaluation.data import DataError, LabelledImage, LabelledImages, read_data
from relook.evaluation.rows import Answer, Row, from_table, to_table
from relook.evaluation.statistics import Method, Pairing, Statistics, Tally

__all__ = [
    "Answer",
    "DataError",
    "LabelledImage",
    "LabelledImages",
    "Method",
    "Pairing",
    "Row",
    "Statistics",
    "Tally",
    "from_table",
    "read_data",
    "to_table",
]
