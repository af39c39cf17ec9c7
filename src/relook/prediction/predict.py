"""Answer all images of files, folders and tables, and save the answers as rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.compute

from relook.correction import Corrector
from relook.folder import folder_at, read_settings
from relook.prediction.images import FoundImages, find_images
from relook.prediction.job import Predicting
from relook.prediction.rows import Form
from relook.runs import OnRows, Run, run_locally
from relook.runs.forecast import OnForecast, forecaster
from relook.runs.on_ray import Engine, OnRay, cluster_of
from relook.runs.spelling import describe, named, on_device

KIND = "prediction"


@dataclass(frozen=True)
class Totals:
    """Sums over rows; those of parts add up.

    Attributes:
        images: number of images that were answered.
        errors: number of images that could not be.
        corrected: number of images that got a second look.
        changed: number of these whose answer the second look changed.
        abstained: number of answers that are not to be relied on.
        forwards: number of forward passes.
        cost: their cost, in forward passes at the network's own input size.
        seconds: sum of the wall-clock times of the images; many are worked on at the same time.
    """

    images: int = 0
    errors: int = 0
    corrected: int = 0
    changed: int = 0
    abstained: int = 0
    forwards: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, rows: pyarrow.Table) -> Totals:
        """Add up the rows of a table."""
        errors = len(rows) - rows["error"].null_count
        changed = pyarrow.compute.not_equal(rows["class"], rows["first_class"])
        abstained = rows["abstained"] if "abstained" in rows.column_names else []
        return cls(
            len(rows) - errors,
            errors,
            _sum(rows["corrected"]),
            _sum(changed),
            _sum(abstained),
            _sum(rows["forwards"]),
            float(_sum(rows["cost"])),
            float(_sum(rows["seconds"])),
        )

    def __add__(self, other: Totals) -> Totals:
        """Return the totals of both parts."""
        return Totals(*(getattr(self, each) + getattr(other, each) for each in _FIELDS))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of `relook predict --rows RUN --json`."""
        keys = ("images", "errors", "corrected", "forwards", "cost", "seconds")
        return {key: getattr(self, key) for key in keys}


_FIELDS = tuple(Totals.__dataclass_fields__)
_NEEDED = ["error", "corrected", "class", "first_class", "forwards", "cost", "seconds", "abstained"]


def _sum(column: Any) -> Any:
    return pyarrow.compute.sum(column).as_py() or 0 if len(column) else 0


@dataclass(frozen=True)
class Predictions:
    """The answers for many images, in the folder of a run.

    >>> predictions = relook.predict(corrector, "photos", "answers")
    >>> predictions.totals.images, predictions.totals.corrected
    (2, 2)
    >>> predictions.table()["label"].to_pylist()
    ['tiger cat', 'espresso']

    Attributes:
        folder: the folder, or its address.
        settings: everything that the rows depend on, as in run.json.
        totals: sums over the rows.
    """

    folder: str
    settings: Mapping[str, Any]
    totals: Totals

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Predictions:
        """Read predictions from their folder; an unfinished run has only the rows so far.

        Raises:
            RunError: the folder holds no predictions, has another format, or cannot be read.
        """
        return cls.of(Run(folder_at(folder), read_settings(folder, KIND), schema_of))

    @classmethod
    def of(cls, run: Run) -> Predictions:
        """Add up the rows of a run, part by part."""
        totals = sum(map(Totals.of, run.tables(_NEEDED)), Totals())
        return cls(run.folder.place, run.settings, totals)

    def errors(self) -> list[str]:
        """Return the reasons why images could not be answered."""
        return [
            error
            for rows in self._run.tables(["error"])
            for error in rows["error"].drop_null().to_pylist()
        ]

    def table(self) -> pyarrow.Table:
        """Read all rows, in the order of the images (see `relook.prediction.rows.Form.schema`)."""
        return self._run.table()

    @property
    def _run(self) -> Run:
        return Run(folder_at(self.folder), self.settings, schema_of)


def schema_of(settings: Mapping[str, Any]) -> pyarrow.Schema:
    """Return the schema of the rows of a run with these settings."""
    return Form.of(settings).schema


def predict(
    corrector: Corrector,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | FoundImages,
    output: str | os.PathLike[str],
    *,
    all_classes: bool = False,
    engine: Engine | OnRay = "local",
    ray_address: str | None = None,
    on_rows: OnRows | None = None,
    on_forecast: OnForecast | None = None,
) -> Predictions:
    """Answer many images and save one row for each.

    An image that cannot be read or classified gets a row with its error, and the run goes on. Rows
    are on disk within 15 seconds or the time of one image, whichever is longer, and a repeated call
    continues where an interrupted one stopped.

    >>> predictions = relook.predict(corrector, ["photos", "photo.jpg"], "answers")
    >>> import pyarrow.parquet
    >>> pyarrow.parquet.read_table("answers/rows").select(["image", "label"]).num_rows
    3

    Args:
        corrector: the classifier with its second look.
        images: files, folders (all images below) and tables with a column `image`, or one of them;
            or what `relook.prediction.find_images` found.
        output: folder of the run, or its address (see `relook.storage`): run.json, rows/*.parquet
            and, at the end, summary.json.
        all_classes: whether the rows hold the probabilities of all classes, as `probabilities`.
        engine: as for `relook.evaluate`.
        ray_address: as for `relook.evaluate`.
        on_rows: called with tables of rows as they are computed; first with those that `output`
            already holds.
        on_forecast: called once, before the first image, with the expected time and forward passes;
            not for the engine ray.

    Raises:
        DataError: there are no images.
        RunError: `output` holds another run.
        RelookError: the network failed on many images in a row, or the cluster cannot be used.
        ModelError: the network lacks something that the look needs, such as a target layer.
    """
    found = images if isinstance(images, FoundImages) else find_images(_several(images))
    job = Predicting(corrector, all_classes)
    settings = {
        "kind": KIND,
        **named(corrector),
        **({} if corrector.risk is None else {"risk": corrector.risk}),
        "all_classes": all_classes,
        **describe(corrector.classifier),
        "data": {
            "images": len(found.items),
            "left_out": found.left_out,
            "content": found.content,
        },
    }
    tell = forecaster([corrector], [[corrector.gate]], on_forecast)
    with ExitStack() as stack:
        cluster = stack.enter_context(cluster_of(engine, ray_address, corrector.classifier))
        if cluster:
            settings = on_device(settings, cluster.device)
        run = stack.enter_context(Run.open(output, settings, schema_of))
        done = run.done()
        left = [item for item in found.items if item.index not in done]
        if done and on_rows:
            for rows in run.tables():
                on_rows(rows)
        if cluster:
            cluster(job, left, run, on_rows, len(found.items))
        elif left:
            # For all images, so that an answer does not depend on where the run started.
            job.warm_up(len(found.items))
            if tell:
                tell(left)
            run_locally(job, left, run, on_rows)
        run.compact()
        predictions = Predictions.of(run)
        run.folder.write("summary.json", json.dumps(predictions.totals.to_json(), indent=2))
    return predictions


def _several(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[str | os.PathLike[str]]:
    return [images] if isinstance(images, str | os.PathLike) else list(images)
