"""What the features, the label and the answers looked like in training: `statistics.json`, which later data are held against.

docs/training-models.md describes the format.
"""

import numpy

from .features import CATEGORIES, FEATURES

FORMAT = "isobar feature statistics 1"
QUANTILES = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1]
BINS = 20


def statistics(train, answers):
    """Of the rows that were learnt from, and of the model's answers to rows that it did not learn from."""
    features = {name: feature(name, train.x[:, index].astype("float64")) for index, name in enumerate(FEATURES)}
    return {
        "format": FORMAT,
        "rows": len(train),
        "from": train.times.min().isoformat(),
        "to": train.times.max().isoformat(),
        "features": features,
        "label": {"rows": len(train), "counts": {str(value): int((train.y == value).sum()) for value in (0, 1)}},
        "prediction": numbers(numpy.asarray(answers, dtype="float64"), numpy.linspace(0, 1, BINS + 1)),
    }


def feature(name, values):
    present = values[~numpy.isnan(values)]
    missing = len(values) - len(present)
    if name in CATEGORIES:
        found, counts = numpy.unique(present, return_counts=True)
        # Counts by value: the values are whole numbers.
        return {"kind": "category", "rows": len(values), "missing": missing,
                "counts": {str(int(value)): int(count) for value, count in zip(found, counts)}}
    # Between neighbouring edges lie equally many rows, as far as equal values allow.
    edges = numpy.unique(numpy.quantile(present, numpy.linspace(0, 1, BINS + 1)))
    return {**numbers(present, edges), "rows": len(values), "missing": missing}


def numbers(present, edges):
    return {
        "kind": "number",
        "rows": len(present),
        "missing": 0,
        "mean": float(present.mean()),
        "deviation": float(present.std()),
        "quantiles": {f"{at:g}": float(value) for at, value in zip(QUANTILES, numpy.quantile(present, QUANTILES))},
        # `counts` has one entry more than there are edges: below the first edge, between two, from the last on. The last is that of the
        # values that equal the greatest.
        "edges": edges.tolist(),
        "counts": numpy.bincount(numpy.searchsorted(edges, present, side="right"), minlength=len(edges) + 1).tolist(),
    }
