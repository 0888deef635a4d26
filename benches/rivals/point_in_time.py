#!/usr/bin/env python3
"""The point-in-time join of `isobar-bench point-in-time --directory DIR`, by DuckDB, by Polars and by Feast.

    point_in_time.py DIR [--views 3,10] [--runs 3] [--engines duckdb,polars]
    point_in_time.py DIR --views 3 --engines feast

Reads the same files, joins as of the event time and sums up the same columns, each run in a process of its own. Prints the
median time and the largest resident memory, and the sums, which must be equal to isobar's (without `--known`). None is told that the rows
lie in the order of time; Polars sorts first, because its join needs it. Needs `requirements.txt` beside this file.

Feast (`feast-requirements.txt`) reads the files by its own file store; use small ones, because all of it happens in memory. Its sums are
smaller: where a view has only later rows of an entity, it drops the question instead of answering with nulls.
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


def duckdb_sums(directory, views):
    import duckdb

    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
    sums, joins = ["count(*)"], []
    for view in (f"view_{number}" for number in range(views)):
        sums += [f"count({view}.count)", f"sum({view}.amount)::BIGINT", f"sum({view}.count)::BIGINT"]
        joins.append(
            f"ASOF LEFT JOIN '{directory}/{view}.parquet' AS {view}"
            f" ON spine.entity = {view}.entity AND spine.event_time >= {view}.event_time"
        )
    sql = f"SELECT {', '.join(sums)} FROM '{directory}/spine.parquet' AS spine {' '.join(joins)}"
    return list(con.execute(sql).fetchone())


def polars_sums(directory, views):
    import polars

    frame = polars.scan_parquet(directory / "spine.parquet").sort("event_time")
    sums = [polars.len().alias("rows")]
    for number in range(views):
        features = {name: f"{name}_{number}" for name in ("amount", "count")}
        view = polars.scan_parquet(directory / f"view_{number}.parquet").select("entity", "event_time", *features)
        frame = frame.join_asof(view.rename(features).sort("event_time"), on="event_time", by="entity", strategy="backward")
        amount, count = (polars.col(name) for name in features.values())
        sums += [
            count.count().alias(f"found_{number}"),
            amount.sum().cast(polars.Int64).alias(f"sum_of_amounts_{number}"),
            count.sum().alias(f"sum_of_counts_{number}"),
        ]
    return list(frame.select(sums).collect().row(0))


def feast_sums(directory, views):
    import pyarrow.parquet
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64

    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    tables = [
        FeatureView(
            name=f"view_{number}",
            entities=[entity],
            ttl=None,
            schema=[Field(name="entity", dtype=Int64), Field(name="amount", dtype=Float64), Field(name="count", dtype=Int64)],
            source=FileSource(name=f"source_{number}", path=str(directory.resolve() / f"view_{number}.parquet"),
                              timestamp_field="event_time", created_timestamp_column="known_time"),
            online=False,
        )
        for number in range(views)
    ]
    with tempfile.TemporaryDirectory() as registry:
        store = FeatureStore(config=RepoConfig(project="rival", provider="local", registry=f"{registry}/registry.db", offline_store="dask",
                                               online_store=None, entity_key_serialization_version=3))
        store.apply([entity, *tables])
        spine = pyarrow.parquet.read_table(directory / "spine.parquet").to_pandas().rename(columns={"event_time": "event_timestamp"})
        features = [f"view_{number}:{name}" for number in range(views) for name in ("amount", "count")]
        joined = store.get_historical_features(entity_df=spine, features=features, full_feature_names=True).to_df()
    sums = [len(joined)]
    for number in range(views):
        count, amount = joined[f"view_{number}__count"], joined[f"view_{number}__amount"]
        sums += [int(count.count()), int(amount.sum()), int(count.sum())]
    return sums


ENGINES = {"duckdb": duckdb_sums, "polars": polars_sums, "feast": feast_sums}


def one(engine, directory, views):
    """One run, in this process."""
    start = time.perf_counter()
    sums = ENGINES[engine](directory, views)
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "core_seconds": usage.ru_utime + usage.ru_stime,
        "resident_bytes_max": usage.ru_maxrss * 1024,
        "sums": sums,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--views", default="3,10")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--engines", default="duckdb,polars", help="some of " + ", ".join(ENGINES))
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "VIEWS"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.one:
        engine, views = parsed.one
        print(json.dumps(one(engine, parsed.directory, int(views))))
        return
    print("| engine | views | seconds | core-seconds | resident MB (peak) |\n|---|---|---|---|---|")
    for views in parsed.views.split(","):
        for engine in parsed.engines.split(","):
            command = [sys.executable, "-B", __file__, str(parsed.directory), "--one", engine, views]
            runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1]) for _ in range(parsed.runs)]
            seconds = statistics.median(run["seconds"] for run in runs)
            cores = statistics.median(run["core_seconds"] for run in runs)
            resident = max(run["resident_bytes_max"] for run in runs) / 1e6
            print(f"| {engine} | {views} | {seconds:.2f} | {cores:.2f} | {resident:.0f} |")
            print(f"{views} views: sums {runs[0]['sums']}", file=sys.stderr)


if __name__ == "__main__":
    main()
