#!/usr/bin/env python3
"""Kills `isobar run` with SIGKILL at random moments and shows that nothing is lost or doubled.

    tests/services/services start kafka s3 azure --dir DIR
    set -a; . DIR/services.env; set +a
    isobar-bench ingest --megabytes 1000 --runs 1          # fills the topic bench_flights_1000mb
    tests/drills/kills.py --topic bench_flights_1000mb --records 3339222 --kills 50

Three clouds: S3, Azure and a directory. Every record must lie in the dataset or in its quarantine exactly once, as
the independent reader (tests/oracle, Python deltalake) sees it, and `isobar prove` must hold. Exit code 0 only then.
"""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from stores import PARTITIONS, ROOT, Children, Stores, exit_on_signals


def topology(topic, run):
    """The demo's flights alone; cancelled flights are quarantined, so that every record leaves a row."""
    text = (ROOT / "topologies/flight_delays/topology.yaml").read_text()
    for start, end in (("\n  weather:\n", "\ndatasets:"), ("\n  weather_hourly:\n", None), ("clouds:\n", "# A commit is made")):
        first = text.index(start)
        text = text[:first] + "\n" + (text[text.index(end, first):] if end else "")
    for old, new in (
        ("brokers: localhost:9092", "brokers: " + os.environ["ISOBAR_KAFKA_BROKERS"]),
        ("topic: flights", "topic: " + topic),
        ("action: drop", "action: quarantine"),
        ("    contract: ./contracts/flights.yaml\n", ""),
        ("commit: { interval: 1s, size: 16MiB }", "commit: { interval: 500ms, size: 32MiB }"),
    ):
        if old not in text:
            sys.exit(f"the demo's topology does not say {old!r}")
        text = text.replace(old, new, 1)
    return f"{text}\n{Stores().yaml(run, ('aws', 'azure'))}  local: {{ url: \"file:./local\" }}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--records", type=int, required=True, help="records in the topic, dealt round robin to its partitions")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--isobar", default=os.environ.get("ISOBAR_BIN", "isobar"))
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    exit_on_signals()
    with tempfile.TemporaryDirectory() as folder, Children() as children:
        spec = pathlib.Path(folder, "topology.yaml")
        spec.write_text(topology(arguments.topic, f"kills-{int(time.time())}"))
        ended = 0
        with open(pathlib.Path(folder, "log"), "w") as log:
            for _ in range(arguments.kills):
                process = children.start([arguments.isobar, "run", spec], stdout=log, stderr=log)
                # Short lives end in the start-up, longer ones in the middle of commits.
                bounds = moments.choice([(0.05, 1.0), (1.0, 3.5)])
                try:
                    process.wait(moments.uniform(*bounds))
                    ended += 1
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        print(f"{arguments.kills - ended} runs killed, {ended} had ended by themselves")
        subprocess.run([arguments.isobar, "run", spec, "--until-caught-up"], check=True)
        subprocess.run([arguments.isobar, "prove", "--config", spec], check=True)
        table = pathlib.Path(folder, "local/datasets/flight_features")
        share = [(arguments.records - partition + PARTITIONS - 1) // PARTITIONS for partition in range(PARTITIONS)]
        ends = ",".join(f"{partition}={end}" for partition, end in enumerate(share))
        oracle = [ROOT / "tests/oracle/oracle", "offsets", table, f"{table}.quarantine", "--ends", ends]
        sys.exit(subprocess.run(oracle).returncode or min(ended, 1))


if __name__ == "__main__":
    main()
