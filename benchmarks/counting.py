"""Time the statistics of a large run.

    python benchmarks/counting.py [--rows 1000000]

Makes a table of rows like those of `relook evaluate DATA --versus flip,tencrop`, with random
answers for 1,000 classes, and prints the seconds that `Statistics.of` takes.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow

from relook.evaluation import Names, Statistics, schema

NAMES = Names("first look", "best", ("flip", "tencrop"))
CLASSES = 1000


def answers(rows: int, generator: np.random.Generator) -> pyarrow.StructArray:
    """Random answers, most probable class first."""
    classes = generator.integers(0, CLASSES, (rows, 5), dtype=np.int32)
    probabilities = np.sort(generator.dirichlet([1.0] * 6, rows)[:, :5])[:, ::-1]
    ends = np.arange(0, 5 * rows + 1, 5, dtype=np.int32)
    columns = {
        "classes": pyarrow.ListArray.from_arrays(ends, classes.ravel()),
        "probabilities": pyarrow.ListArray.from_arrays(ends, probabilities.ravel()),
        "true": pyarrow.array(probabilities[:, 1]),
        "brier": pyarrow.array(generator.random(rows)),
        "forwards": pyarrow.array(generator.integers(1, 5, rows)),
        "cost": pyarrow.array(generator.random(rows)),
        "seconds": pyarrow.array(generator.random(rows)),
        "corrected": pyarrow.array(generator.random(rows) < 0.3),
        "notes": pyarrow.array([[]] * rows, pyarrow.list_(pyarrow.string())),
    }
    return pyarrow.StructArray.from_arrays(list(columns.values()), list(columns))


def table(rows: int) -> pyarrow.Table:
    """Random rows; the columns that follow from the answers are left empty."""
    generator = np.random.default_rng(0)
    found = {
        "index": pyarrow.array(np.arange(rows)),
        "image": pyarrow.array([f"{index}.jpg" for index in range(rows)]),
        "label": pyarrow.array(generator.integers(0, CLASSES, rows, dtype=np.int32)),
        "answers": pyarrow.StructArray.from_arrays(
            [answers(rows, generator) for _ in NAMES], list(NAMES)
        ),
    }
    columns = [found.get(each.name, pyarrow.nulls(rows, each.type)) for each in schema(NAMES)]
    return pyarrow.Table.from_arrays(columns, schema=schema(NAMES))


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = table(parser.parse_args().rows)
    start = time.perf_counter()
    counted = Statistics.of(rows)
    seconds = time.perf_counter() - start
    print(f"{counted.before.images:,} rows of {len(list(NAMES))} answers: {seconds:.1f} s")


if __name__ == "__main__":
    main()
