"""The stream that scores departures: what its topic is given, what its dataset has, and how good that is. Its topology is departures.yaml."""

import dataclasses
import json
import os
import pathlib
import subprocess

import numpy
import pandas
import pyarrow
import pyarrow.compute
from sklearn.metrics import roc_auc_score

from . import answers, steps
from .features import FEATURES, LABEL, TEST_FROM, TEST_TO, TIME
from .package import MODEL

TOPIC = "departures"
DATASET = "scored_departures"
# Which row of the training set a departure is: so its label is found, which the stream is not given.
KEY = "departure"
# An alias, and the columns of the dataset with what the model of this alias said and which file it was.
SAID = (("champion", "probability", "model_sha256"), ("challenger", "challenger_probability", "challenger_sha256"))
# The stream rounds as training does but for the order of sums, which may give two flights the other order.
AUC_TOLERANCE = 1e-5


class Unscored(Exception):
    """What the dataset has is not what should have been scored."""


def test_rows(table):
    """The rows of a training set that are judged by, in their order, each with its `departure`."""
    numbered = table.append_column(KEY, pyarrow.array(numpy.arange(table.num_rows)))
    time = numbered.column(TIME)
    first, end = (pyarrow.scalar(moment, time.type) for moment in (TEST_FROM, TEST_TO))
    return numbered.filter(pyarrow.compute.and_(pyarrow.compute.greater_equal(time, first), pyarrow.compute.less(time, end)))


def write_records(rows, path):
    """A line for each row: the record that the topic is given. Numbers are written so that they are read as the same ones."""
    with open(path, "w") as file:
        for row in rows.select([KEY, TIME, *FEATURES]).to_pylist():
            file.write(json.dumps({**row, TIME: row[TIME].isoformat()}, allow_nan=False) + "\n")


def replay(topology, path):
    """Runs the topology until all records of the file are committed in every cloud, on a broker that needs not be started."""
    # ONNX Runtime comes with its package for Python.
    environment = {"ISOBAR_ONNXRUNTIME": str(answers.library()), **os.environ}
    subprocess.run(steps.command("demo", "--topology", topology, "--records", f"{TOPIC}={path}"), check=True, env=environment)


def scored(topology, cloud, folder):
    """The dataset as it is in `cloud`, in the order of the departures."""
    path = pathlib.Path(folder) / f"{cloud}.parquet"
    query = f"SELECT * FROM {DATASET} ORDER BY {KEY}"
    subprocess.run(steps.command("query", query, "--config", topology, "--cloud", cloud, "--output", path), check=True)
    return pandas.read_parquet(path)


@dataclasses.dataclass(frozen=True)
class Judged:
    """How good a model is in the stream, and how good it was when it was trained, on that many rows."""

    alias: str
    version: int
    auc: float
    trained_auc: float
    trained_rows: int

    def __str__(self):
        return (f"{self.alias:10} {MODEL}@{self.version}: AUC {self.auc:.4f} in the stream, {self.trained_auc:.4f} in training, "
                f"of {self.trained_rows:,} departures")


def judged(topology, rows, found):
    """Champion and challenger. Every departure must be there once, and every one of the same two models."""
    if not numpy.array_equal(found[KEY].to_numpy(), rows.column(KEY).to_numpy()):
        raise Unscored(f"{len(found)} departures are scored, and not the {rows.num_rows} that were replayed: "
                       f"isobar quarantine ls --config {topology} says what became of others")
    late = rows.column(LABEL).to_numpy().astype("int64")
    said = []
    for alias, column, sha256 in SAID:
        manifest = steps.isobar("models", "show", f"{MODEL}@{alias}", "--config", topology)
        if set(found[sha256]) != {manifest["onnx"]["sha256"]}:
            raise Unscored(f"not every departure is scored by {MODEL}@{manifest['version']}, the {alias}")
        metrics = manifest["metrics"]
        one = Judged(alias, manifest["version"], float(roc_auc_score(late, found[column])), metrics["auc"], int(metrics["rows"]))
        # A trial is judged by a part of the rows.
        if one.trained_rows == rows.num_rows and not abs(one.auc - one.trained_auc) <= AUC_TOLERANCE:
            raise Unscored(f"{one}: that is not the same")
        said.append(one)
    return said
