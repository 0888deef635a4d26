#!/usr/bin/env python3
"""Has the last quarter of 2013 scored by a topology, and says how good champion and challenger are there.

    python score.py sets/flight_delay-….json --topology departures.yaml --out scored

The departures go into the topic of departures.yaml, on a broker inside isobar, and from there through `predict('flight_delay', …)` into
the dataset `scored_departures` of every cloud. `--out` gets what was replayed and what each cloud has. The model must be registered,
with the aliases champion and challenger. Nothing of a departure's delay is in the stream; it is looked up afterwards.

Exit codes: 0 scored; 1 a cloud has other rows, a departure is missing, or an AUC is not that of the training; 2 wrong arguments.
"""

import argparse
import pathlib
import sys

import yaml
from delay_model import data, stream


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=pathlib.Path, help="the manifest of the training set")
    parser.add_argument("--topology", type=pathlib.Path, required=True, help="departures.yaml, beside the clouds")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder for what was replayed and scored")
    parsed = parser.parse_args(arguments)
    parsed.out.mkdir(parents=True, exist_ok=True)
    try:
        score(parsed.manifest, parsed.topology, parsed.out)
    except (data.Differs, stream.Unscored) as problem:
        print(f"score.py: {problem}", file=sys.stderr)
        return 1
    return 0


def score(manifest, topology, out):
    rows = stream.test_rows(data.from_file(data.Pinned.read(manifest)))
    records = out / "departures.jsonl"
    stream.write_records(rows, records)
    stream.replay(topology, records)

    clouds = list(yaml.safe_load(topology.read_text())["clouds"])
    first, *others = [stream.scored(topology, cloud, out) for cloud in clouds]
    for cloud, other in zip(clouds[1:], others):
        if not other.equals(first):
            raise stream.Unscored(f"{cloud} has other rows than {clouds[0]}")
    print(f"{len(first):,} departures of the last quarter of 2013 are scored, the same in {', '.join(clouds)}")
    for one in stream.judged(topology, rows, first):
        print(one)


if __name__ == "__main__":
    sys.exit(main())
