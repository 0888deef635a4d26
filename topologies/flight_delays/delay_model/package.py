"""A folder that `isobar models register` takes: the model, what it was made of, and what is known of it.

    model.onnx  manifest.json  statistics.json  model_card.md  plots/*.png  saved_model/ (of the network)
"""

import hashlib
import json
import os
import pathlib
import subprocess

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot
import yaml
from sklearn.metrics import roc_curve

from . import answers, evaluation
from .features import CATEGORIES, DATASETS, FEATURES, TEST_FROM, VALIDATE_FROM
from .statistics import statistics

MODEL = "flight_delay"
HERE = pathlib.Path(__file__).resolve().parent


def write(folder, pinned, topology, onnx_bytes, split, kind, seed, difference):
    """Measures the model in `onnx_bytes` on the test rows, and writes all but the SavedModel, which lies there if there is one.

    `difference` is what came out when its answers were compared with the library's.
    """
    folder = pathlib.Path(folder)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(onnx_bytes)
    running = answers.session(onnx_bytes)
    score = lambda x: answers.predict(running, x)[0]
    probabilities, test = score(split.test.x), split.test
    metrics = {
        **evaluation.metrics(test.y, probabilities),
        "validation_auc": evaluation.metrics(split.validation.y, score(split.validation.x))["auc"],
        "train_rows": float(len(split.train)),
        "library_difference": difference,
    }
    importance = evaluation.importance(score, test.x, test.y, seed)
    written(folder / "statistics.json", statistics(split.train, probabilities))
    plots(folder / "plots", test.y, probabilities, importance)
    (folder / "model_card.md").write_text(card(kind, pinned, split, metrics, importance, seed))
    manifest = {
        "model": MODEL,
        "onnx": artifact(folder, "model.onnx"),
        "signature": answers.signature(onnx_bytes),
        "features": [feature(name, pinned, contracts(topology)) for name in FEATURES],
        "data": [{"dataset": name, "version": version, "sha256": sha256} for name, version, sha256 in pinned.inputs],
        "training_set_sha256": pinned.digest,
        "metrics": metrics,
        "statistics": artifact(folder, "statistics.json"),
        "files": [artifact(folder, name) for name in further(folder)],
    }
    if (found := revision()) is not None:
        manifest["revision"] = found
    written(folder / "manifest.json", manifest)
    return manifest


def written(path, value):
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def artifact(folder, name):
    content = (folder / name).read_bytes()
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def further(folder):
    known = {"model.onnx", "manifest.json", "statistics.json"}
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if path not in known]


def feature(name, pinned, versions):
    column = next(column for column in pinned.manifest["columns"] if column["name"] == name)
    of = {"name": name, "type": column["type"], "dataset": DATASETS[name]}
    # In the training set the name of a view stands before its columns.
    _, is_of_view, of_dataset = name.partition("__")
    if is_of_view:
        of["column"] = of_dataset
    return {**of, "contract": versions[DATASETS[name]]} if DATASETS[name] in versions else of


def contracts(topology):
    """The version of the contract of each dataset that has one."""
    topology = pathlib.Path(topology)
    datasets = yaml.safe_load(topology.read_text())["datasets"]
    paths = {name: dataset["contract"] for name, dataset in datasets.items() if "contract" in dataset}
    return {name: yaml.safe_load((topology.parent / path).read_text())["version"] for name, path in paths.items()}


def revision():
    """The revision of this code: of its clone, or what the image that it is in was told. In an image that was told nothing there is none."""
    if os.environ.get("ISOBAR_REVISION"):
        return os.environ["ISOBAR_REVISION"]
    try:
        asked = subprocess.run(["git", "-C", HERE, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"], capture_output=True, text=True)
    except FileNotFoundError:
        # The image has no git.
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


# ---------------------------------------------------------------- for people


def plots(folder, y, probabilities, importance):
    false_alarms, found, _ = roc_curve(y, probabilities)
    figure, axes = matplotlib.pyplot.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot(false_alarms, found, label=f"AUC {evaluation.roc_auc_score(y, probabilities):.4f}")
    axes.set(xlabel="flights in time that are called late", ylabel="late flights that are called late", title="ROC, last quarter of 2013")
    axes.legend()
    save(figure, folder / "roc.png")

    bins = evaluation.calibration(y, probabilities)
    figure, axes = matplotlib.pyplot.subplots(figsize=(5, 5))
    highest = max(max(each.predicted, each.observed) for each in bins) * 1.05
    axes.plot([0, highest], [0, highest], color="grey", linewidth=1)
    axes.plot([each.predicted for each in bins], [each.observed for each in bins], marker="o")
    axes.set(xlabel="late according to the model", ylabel="late", title="Calibration, a tenth of the flights at each point")
    save(figure, folder / "calibration.png")

    names = list(importance)[::-1]
    figure, axes = matplotlib.pyplot.subplots(figsize=(7, 5))
    axes.barh(names, [importance[name][0] for name in names], xerr=[importance[name][1] for name in names])
    axes.set(xlabel="AUC lost when the feature is dealt out anew", title="Permutation importance")
    save(figure, folder / "importance.png")

    figure, axes = matplotlib.pyplot.subplots(figsize=(5, 4))
    for value, name in ((0, "in time"), (1, "late")):
        axes.hist(probabilities[y == value], bins=50, range=(0, 1), density=True, alpha=0.6, label=name)
    axes.set(xlabel="probability of being late", ylabel="density", title="Answers")
    axes.legend()
    save(figure, folder / "answers.png")


def save(figure, path):
    figure.tight_layout()
    # Without the name of the version that made it, the same plot is the same bytes.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    matplotlib.pyplot.close(figure)


KINDS = {
    "forest": "a random forest (scikit-learn) on frequencies of lateness per carrier and airport, and on numbers with the median for what is missing",
    "network": "a dense neural network (Keras) on a place per carrier and airport, and on scaled numbers with the median for what is missing",
}


def card(kind, pinned, split, metrics, importance, seed):
    inputs = "\n".join(f"| `{name}` | {version} | `{sha256}` |" for name, version, sha256 in pinned.inputs)
    parts = "\n".join(
        f"| {name} | {len(part):,} | {part.times.min():%Y-%m-%d %H:%M} | {part.times.max():%Y-%m-%d %H:%M} | {part.y.mean():.1%} |"
        for name, part in (("train", split.train), ("validation", split.validation), ("test", split.test))
    )
    measured = "\n".join(f"| {name} | {metrics[name]:.4f} |" for name in (
        "auc", "average_precision", "log_loss", "brier", "calibration_error", "late_rate", "late_rate_predicted", "validation_auc"
    ))
    features = "\n".join(
        f"| `{name}` | `{DATASETS[name]}` | {'a name, as a number' if name in CATEGORIES else 'a number'} | "
        f"{importance[name][0]:+.4f} ± {importance[name][1]:.4f} |" for name in FEATURES
    )
    return f"""# flight_delay: {kind}

How likely a departure from EWR, JFK or LGA is to arrive more than 15 minutes late, from what is known at its scheduled departure. It is {KINDS[kind]}.

## Use

For planning around delays, over many flights. Not for decisions about single persons, not for safety, and not for airports, carriers
or years that it has not seen without looking at how good it is there. It knows timetable and weather, and nothing of the aircraft's
journey so far, so it cannot be good: see the AUC.

Cancelled and diverted flights are not in the data: it answers for flights that arrive.

## Data

Training set `{pinned.manifest['training_set']}`, {pinned.manifest['rows']:,} rows, digest `{pinned.digest}`.

| dataset | version | SHA-256 of its log entry |
|---|---|---|
{inputs}

Flights and weather of New York in 2013, in the public domain. Rows are split by time; validation begins at {VALIDATE_FROM:%Y-%m-%d %H:%M} and the
test at {TEST_FROM:%Y-%m-%d %H:%M} UTC (midnight in New York), and the rows of the day before each are left out.

| | rows | from | to | late |
|---|---|---|---|---|
{parts}

## How good it is

On the test rows, which are later than all others. {metrics['library_difference']:.1g} is the largest difference between the probabilities of
the ONNX file and those of the library that trained it, and all labels are the same.

| | |
|---|---|
{measured}

![ROC](plots/roc.png) ![calibration](plots/calibration.png) ![answers](plots/answers.png)

## Features

The last column is how much AUC is lost when the values of the feature are dealt out anew among the rows.

| feature | dataset | | importance |
|---|---|---|---|
{features}

![importance](plots/importance.png)

## Made again

Seed {seed}. `train.py` makes the same forest, byte for byte, from the same rows with the same packages; the network is the same on the same kind of
processor. `manifest.json` has what it was made of.
"""
