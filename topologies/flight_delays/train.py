#!/usr/bin/env python3
"""Trains the model `flight_delay`, twice, from a training set that is pinned by versions and digest.

    isobar training-set flight_delay.yaml --out sets
    python train.py sets/flight_delay-….json --out models
    python train.py sets/flight_delay-….json --out models --deltalake s3://features/isobar     the tables in any cloud
    python train.py sets/flight_delay-….json --out models --flight grpc://127.0.0.1:32010      a server; ISOBAR_TOKEN

`--out` gets a folder for each: `forest` (scikit-learn) and `network` (Keras), with model.onnx, manifest.json, statistics.json,
model_card.md and plots, ready for `isobar models register`; and beside it the held-out rows with the library's own answers. However the rows come, they have the digest of the manifest, or nothing is
trained. The answers of each ONNX file are compared with the library's. docs/training-models.md says more.

Exit codes: 0 trained; 1 the data are not what the manifest says, or an ONNX file answers something else; 2 wrong arguments.
"""

import argparse
import json
import os
import pathlib
import sys

from delay_model import answers, data, evaluation, features, package

HERE = pathlib.Path(__file__).resolve().parent
COMPARED_ROWS = 10_000
KINDS = ("forest", "network")


def main(arguments=None):
    parsed = parse(arguments)
    try:
        pinned = data.Pinned.read(parsed.manifest, parsed.digest)
        rows = read(pinned, parsed).to_pandas()
        split, held_out = features.split(rows, parsed.take), features.held_out(rows, COMPARED_ROWS)
        print(f"rows of {pinned.digest}: {len(split.train):,} to learn from, {len(split.validation):,} to choose by, {len(split.test):,} to judge by")
        for kind in parsed.models:
            train(kind, pinned, split, held_out, parsed.out / kind, parsed.topology, parsed.seed)
        if len(parsed.models) > 1:
            print(f"network against forest: {compared(split, parsed.out / 'forest', parsed.out / 'network', parsed.seed)}")
    except (data.Differs, answers.Unequal) as problem:
        print(f"train.py: {problem}", file=sys.stderr)
        return 1
    return 0


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=pathlib.Path, help="the manifest of the training set")
    parser.add_argument("--digest", help="the digest that the rows must have, beside that it must be the manifest's")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder for the models")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--deltalake", metavar="CLOUD", help="read the tables in this cloud: its URL, or a folder")
    way.add_argument("--flight", metavar="ADDRESS", help="ask this server, which has Flight SQL; the token is in ISOBAR_TOKEN")
    parser.add_argument("--storage-options", type=json.loads, metavar="JSON", help="options of the cloud, named as in a topology")
    parser.add_argument("--topology", type=pathlib.Path, default=HERE / "topology.yaml", help="the topology, for the versions of its contracts")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=2013)
    parser.add_argument("--take", type=int, default=1, metavar="N", help="every N-th row only, for a trial")
    return parser.parse_args(arguments)


def read(pinned, parsed):
    if parsed.deltalake:
        return data.from_deltalake(pinned, parsed.deltalake, parsed.storage_options)
    if parsed.flight:
        from adbc_driver_flightsql import DatabaseOptions, dbapi

        token = os.environ.get("ISOBAR_TOKEN")
        options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"} if token else {}
        with dbapi.connect(parsed.flight, options, autocommit=True) as connection:
            return data.from_flight(pinned, connection)
    return data.from_file(pinned)


def train(kind, pinned, split, held_out, folder, topology, seed):
    """Trains one model, holds its ONNX file against the library on `held_out`, and writes all that belongs to it into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "forest":
        from delay_model import forest as library
    else:
        from delay_model import network as library
    model = library.train(split, seed)
    onnx_bytes = library.to_bytes(model)
    probabilities, labels = library.predict(model, held_out)
    difference = answers.compare(onnx_bytes, probabilities, labels, held_out)
    answers.keep(folder.with_name(f"{kind}-held-out.parquet"), held_out, probabilities, labels)
    if kind == "network":
        library.save(model, folder / "saved_model")
    manifest = package.write(folder, pinned, topology, onnx_bytes, split, kind, seed, difference)
    print(f"{kind}: AUC {manifest['metrics']['auc']:.4f}, log loss {manifest['metrics']['log_loss']:.4f}, off by "
          f"{manifest['metrics']['calibration_error']:.4f}; ONNX {len(onnx_bytes):,} bytes, {manifest['onnx']['sha256']}; "
          f"{len(held_out):,} rows as the library answers, within {difference:.1g}")


def compared(split, champion, challenger, seed):
    scores = [
        answers.predict(answers.session((folder / "model.onnx").read_bytes()), split.test.x)[0] for folder in (champion, challenger)
    ]
    found = evaluation.compare(split.test.y, *scores, split.test.times, seed)
    return (f"AUC {found.auc_gain:+.4f} [{found.auc_gain_low:+.4f}, {found.auc_gain_high:+.4f}], log loss better by {found.log_loss_gain:+.4f} "
            f"[{found.log_loss_gain_low:+.4f}, {found.log_loss_gain_high:+.4f}]: {'better' if found.is_better else 'not better'}")


if __name__ == "__main__":
    sys.exit(main())
