"""Answer the images of an evaluation that are left to do, and return the rows of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow

from relook.evaluation.data import LabelledImages, shuffled
from relook.evaluation.experiment import Experiment
from relook.evaluation.rows import names_in
from relook.runs import Item, OnRows, Run, run_locally
from relook.runs.on_ray import OnRay


def work(
    experiment: Experiment,
    data: LabelledImages,
    run: Run | None,
    on_rows: OnRows | None,
    on_left: Callable[[Sequence[Item]], None] | None = None,
    cluster: OnRay | None = None,
) -> pyarrow.Table:
    """Run an experiment and return the rows of all images, as a table in the order of the data.

    Args:
        experiment: the experiment, run on the images that have no row in `run` yet.
        data: the images.
        run: where rows are saved; None: they are not saved.
        on_rows: called with tables of rows as they are computed; first with those already in `run`.
        on_left: called with the images left to do, before the first of them; not for a cluster,
            since a forecast from this machine would not be true of it.
        cluster: the cluster that does the work; None: this process does it.

    Raises:
        RelookError: the network failed on many consecutive images; these are not saved.
    """
    done: set[int] = set()
    if run:
        # A continued run keeps its own order of answers.
        experiment = replace(experiment, names=names_in(run.settings))
        kept = run.table()
        done = set(kept["index"].to_pylist())
        if done and on_rows:
            on_rows(kept)
    items = [item for item in data.items(shuffled(len(data))) if item.index not in done]
    if cluster:
        found = cluster(experiment, items, run, on_rows, len(data))
    else:
        if items:
            # Built now, so that an image's time and answer do not depend on where the run started.
            experiment.warm_up(len(data))
        if on_left:
            on_left(items)
        found = run_locally(experiment, items, run, on_rows)
    if run:
        run.compact()
        return run.table()
    return pyarrow.concat_tables([experiment.schema.empty_table(), *found]).sort_by("index")
