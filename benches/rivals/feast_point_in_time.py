#!/usr/bin/env python3
"""The point-in-time join of `isobar-bench point-in-time --directory DIR`, by Feast.

    feast_point_in_time.py DIR [--views 3] [--runs 3]

Feast's own file store reads the same files, `get_historical_features` joins them as of the event time, and the same columns are summed
up, each run in a process of its own. Prints the median time and the largest resident memory, and the sums. They are smaller than those of
the others: where a view has only later rows of an entity, Feast drops the question instead of answering with nulls. Needs
`feast-requirements.txt` beside this file; use small files, because all of it happens in memory.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def sums(directory, views, registry):
    import pyarrow.parquet
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64

    config = RepoConfig(project="rival", provider="local", registry=str(registry / "registry.db"), offline_store="dask",
                        online_store=None, entity_key_serialization_version=3)
    store = FeatureStore(config=config)
    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    tables = [
        FeatureView(
            name=f"view_{number}",
            entities=[entity],
            ttl=None,
            schema=[Field(name="entity", dtype=Int64), Field(name="amount", dtype=Float64), Field(name="count", dtype=Int64)],
            source=FileSource(name=f"source_{number}", path=str(directory / f"view_{number}.parquet"), timestamp_field="event_time",
                              created_timestamp_column="known_time"),
            online=False,
        )
        for number in range(views)
    ]
    store.apply([entity, *tables])
    start = time.perf_counter()
    spine = pyarrow.parquet.read_table(directory / "spine.parquet").to_pandas().rename(columns={"event_time": "event_timestamp"})
    features = [f"view_{number}:{name}" for number in range(views) for name in ("amount", "count")]
    joined = store.get_historical_features(entity_df=spine, features=features, full_feature_names=True).to_df()
    found = [len(joined)]
    for number in range(views):
        count, amount = joined[f"view_{number}__count"], joined[f"view_{number}__amount"]
        found += [int(count.count()), int(amount.sum()), int(count.sum())]
    return time.perf_counter() - start, found


def one(directory, views):
    """One run, in this process."""
    with tempfile.TemporaryDirectory() as registry:
        seconds, found = sums(directory, views, pathlib.Path(registry))
    return {"seconds": seconds, "resident_bytes_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "sums": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--views", default="3")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", metavar="VIEWS", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    directory = parsed.directory.resolve()
    if parsed.one:
        print(json.dumps(one(directory, int(parsed.one))))
        return
    print("| engine | views | seconds | resident MB (peak) |\n|---|---|---|---|")
    for views in parsed.views.split(","):
        command = [sys.executable, "-B", __file__, str(directory), "--one", views]
        runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]) for _ in range(parsed.runs)]
        seconds = statistics.median(run["seconds"] for run in runs)
        resident = max(run["resident_bytes_max"] for run in runs) / 1e6
        print(f"| feast | {views} | {seconds:.2f} | {resident:.0f} |")
        print(f"{views} views: sums {runs[0]['sums']}", file=sys.stderr)


if __name__ == "__main__":
    main()
