#!/usr/bin/env python3
"""Kills, and freezes, `isobar run` at every failpoint, in every cloud, and shows that nothing is lost or doubled.

    cargo build --release --locked --workspace
    tests/services/services start kafka s3 azure --dir DIR
    set -a; . DIR/services.env; set +a
    tests/drills/kill_cells.py --bin target/release --json kill_cells.json

Needs the packages of tests/oracle (`tests/services/services python tests/oracle/requirements.txt` prints an
interpreter that has them; without them this script starts itself again with that one). The clouds are S3
(moto), Azure (Azurite) and Google Cloud Storage (`isobar-gcs-sim`, started here unless ISOBAR_GCS_ENDPOINT is set).

A cell is a failpoint, the cloud at which it is armed (first, second or third in the specification), and which time it
is reached. In each, on a topic, a topology and prefixes of its own:

    1. half of the records are produced; for points that need a history, a run before that leaves one
    2. `isobar run` with the failpoint must die by SIGKILL, and not otherwise
    3. the other half is produced; `isobar run --until-caught-up` without the failpoint must end with exit code 0
    4. `isobar prove` must hold
    5. in every cloud, as Python's deltalake reads it, each record that was produced lies exactly once, at its own
       partition and offset, in the dataset or in its quarantine, as the ledger kept here says; and nothing else

A frozen leader (SIGSTOP at the failpoint, longer than its time-outs) is superseded by a second `isobar run`, woken by
SIGCONT, and must stop by itself with exit code 1; then 3 to 5 hold as well.

Exit code 0 only if every cell passes.
"""

import argparse
import base64
import collections
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from stores import CLOUDS, PARTITIONS, ROOT, Stores, start_gcs

ROLES = dict(zip(CLOUDS, ("first", "second", "third")))
DATASET = "cells"
PATIENCE_SECONDS = 120
# Half of the large ones are two parts of a multipart upload, also after compression.
RECORDS_SMALL, RECORDS_LARGE = 1_200, 40_000

# Which times a point is reached that are worth a cell. The first record is the header, the second one the tables and
# first positions, the third one rows; the dataset is published before its quarantine.
HITS = {
    "consume.before-absorb": (1, 3), "consume.after-absorb": (1, 3),
    "upload.before-put": (1, 3), "upload.after-put": (1, 3),
    "upload.before-part": (1, 2), "upload.after-part": (1, 2),
    "decide.before-put": (1, 2, 3), "decide.after-put": (1, 2, 3),
    "decide.before-accept": (1, 2), "decide.after-majority": (1, 2),
    "publish.before-put": (1, 2, 3, 4), "publish.after-put": (1, 2, 3, 4),
    "fill.before-file": (1, 2), "fill.after-file": (1, 2),
    "fill.before-version": (1, 2), "fill.after-version": (1, 2),
}
# Points at which a leader is frozen: around everything that another process could see or depend on.
FREEZES = ("elect.after-claim", "elect.before-header", "consume.before-close", "upload.before-put", "decide.before-put",
           "decide.after-put", "decide.after-majority", "publish.before-put", "publish.after-put")

Cell = collections.namedtuple("Cell", "action point cloud hit")


def oracle_python():
    """Starts this script again with an interpreter that has deltalake, if this one does not."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        if os.environ.get("ISOBAR_CELLS_PYTHON"):
            sys.exit("the interpreter of tests/oracle has no deltalake")
        command = [ROOT / "tests/services/services", "python", ROOT / "tests/oracle/requirements.txt"]
        python = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        os.environ["ISOBAR_CELLS_PYTHON"] = python
        os.execv(python, [python, *sys.argv])


# ---------------------------------------------------------------- what is produced


class Ledger:
    """What was produced: per partition, the payload's id at each offset. Kept here, by nobody else."""

    def __init__(self, seed, filler_bytes):
        self.random, self.filler_bytes = random.Random(seed), filler_bytes
        self.ids = [[] for _ in range(PARTITIONS)]
        self.rejected = set()
        self.next_id = 0

    def records(self, count):
        lines = []
        for _ in range(count):
            number, partition = self.next_id, self.random.randrange(PARTITIONS)
            self.next_id += 1
            filler = base64.b64encode(self.random.randbytes(self.filler_bytes)).decode()
            record = {"id": number, "shelf": f"s{number % 3}", "filler": filler}
            if number % 10 == 7:
                # Breaks the expectation, so that the quarantine has versions of its own.
                record["shelf"] = None
                self.rejected.add((partition, len(self.ids[partition])))
            self.ids[partition].append(number)
            lines.append(f"{partition}\t{json.dumps(record)}\n")
        return "".join(lines)

    def expected(self):
        """Where each record must lie: (table, partition, offset, id)."""
        places = collections.Counter()
        for partition, ids in enumerate(self.ids):
            for offset, number in enumerate(ids):
                table = f"{DATASET}.quarantine" if (partition, offset) in self.rejected else DATASET
                places[table, partition, offset, number] += 1
        return places


# ---------------------------------------------------------------- what is found


def places(stores, cloud, prefix):
    """Where each record lies in `cloud`, as an independent reader sees it."""
    from deltalake import DeltaTable

    found = collections.Counter()
    for table, columns in ((DATASET, ("kafka_partition", "kafka_offset")),
                           (f"{DATASET}.quarantine", ("partition", "offset"))):
        delta = DeltaTable(f"{stores.urls(prefix)[cloud]}/datasets/{table}", storage_options=stores.python_options(cloud))
        names = [*columns, "id"] if table == DATASET else [*columns, "payload"]
        for partition, offset, last in zip(*delta.to_pyarrow_table(columns=names).to_pydict().values()):
            number = last if table == DATASET else json.loads(last)["id"]
            found[table, partition, offset, number] += 1
    return found


# ---------------------------------------------------------------- one cell


class Wrong(Exception):
    """A cell does not pass; the text says why."""


class Bench:
    """One cell's topic, topology and folder."""

    def __init__(self, arguments, stores, folder, number, cell):
        self.arguments, self.stores, self.folder, self.cell = arguments, stores, folder, cell
        self.folder.mkdir()
        self.name = f"cells-{arguments.stamp}-{number}"
        self.is_large = cell.point in ("upload.before-part", "upload.after-part", "upload.before-complete",
                                       "upload.after-complete")
        self.records = RECORDS_LARGE if self.is_large else RECORDS_SMALL
        self.ledger = Ledger(arguments.seed + number, 768 if self.is_large else 24)
        self.log = folder / "log"
        (folder / "gcs.json").write_text(stores.key)
        self.spec = folder / "topology.yaml"
        self.spec.write_text(self.topology())

    def topology(self):
        # A large file needs all rows in one commit and in one file.
        commit = "{ interval: 3s, size: 256MiB }" if self.is_large else "{ interval: 200ms, size: 1MiB }"
        partition_by = "" if self.is_large else "    partition_by: [shelf]\n"
        return f"""topology: cells
kafka:
  brokers: "{os.environ['ISOBAR_KAFKA_BROKERS']}"
{self.stores.yaml(self.name)}commit: {commit}
memory: 256MiB
sources:
  records:
    topic: {self.name}
    format: json
    fields: {{ id: int64, shelf: string, filler: string }}
datasets:
  {DATASET}:
    from: records
    sql: SELECT id, shelf, filler, _partition AS kafka_partition, _offset AS kafka_offset FROM records
    expect:
      - {{ name: shelved, check: "shelf IS NOT NULL", action: quarantine }}
{partition_by}"""

    def produce(self, count):
        command = [self.arguments.bin / "isobar-produce", os.environ["ISOBAR_KAFKA_BROKERS"], self.name, str(PARTITIONS)]
        subprocess.run(command, input=self.ledger.records(count), text=True, check=True, timeout=PATIENCE_SECONDS)

    def start(self, *more, failpoint="", log=None):
        environment = {**os.environ, "ISOBAR_FAILPOINT": failpoint, "NO_COLOR": "1"}
        with open(log or self.log, "a") as log:
            log.write(f"=== run {' '.join(more)} {failpoint}\n")
            log.flush()
            return subprocess.Popen([self.arguments.isobar, "run", "topology.yaml", *more], cwd=self.folder, stdout=log,
                                    stderr=log, env=environment)

    def run(self, *more, failpoint="", expected=0):
        self.ends(self.start(*more, failpoint=failpoint), expected, failpoint or "the run")

    def ends(self, process, expected, what):
        try:
            code = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Wrong(f"{what} did not end within {PATIENCE_SECONDS} s") from None
        if code != expected:
            raise Wrong(f"{what} ended with {code}, not {expected}")

    def failpoint(self, action):
        _, point, cloud, hit = self.cell
        at = f"@{cloud}" if cloud else ""
        armed = f"{point}{at}:{hit}={action}"
        if point in ("fill.before-file", "fill.after-file"):
            # The cloud misses the files because their uploads fail.
            armed = f"upload.before-put@{cloud}:1+=error,{armed}"
        return armed

    def history(self):
        """What a point needs to be reached: earlier epochs to seal, or a cloud that was away."""
        point, cloud = self.cell.point, self.cell.cloud
        if point in ("fill.before-version", "fill.after-version"):
            self.run("--until-caught-up")
            self.produce(self.records // 4)
            self.run("--until-caught-up", failpoint=f"publish.before-put@{cloud}:1+=error")
            self.produce(self.records // 4)
        elif point in ("elect.before-seal", "elect.after-seal"):
            self.run("--until-caught-up")
            self.produce(self.records // 4)

    def judge(self):
        self.run("--until-caught-up")
        proof = subprocess.run([self.arguments.isobar, "prove", "--config", "topology.yaml"], cwd=self.folder,
                               capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if proof.returncode != 0:
            raise Wrong(f"prove does not hold:\n{proof.stdout}{proof.stderr}")
        expected = self.ledger.expected()
        for cloud in CLOUDS:
            found = places(self.stores, cloud, self.name)
            lost, surplus = expected - found, found - expected
            if lost or surplus:
                raise Wrong(f"{cloud}: {lost.total()} records lost, {surplus.total()} doubled or misplaced; for example "
                            f"{list(lost)[:3]} {list(surplus)[:3]}")

    def kill(self):
        self.produce(self.records // 2)
        self.history()
        self.run("--until-caught-up", failpoint=self.failpoint("kill"), expected=-signal.SIGKILL)
        self.produce(self.records // 2)
        self.judge()

    def freeze(self):
        self.produce(self.records // 2)
        frozen = self.start(failpoint=self.failpoint("pause"))
        second = None
        try:
            self.until("the first process is frozen", lambda: state(frozen.pid) == "T")
            since = time.monotonic()
            second_log = self.folder / "log-second"
            second = self.start(log=second_log)
            self.until("the second process leads", lambda: "consuming" in second_log.read_text())
            self.produce(self.records // 2)
            # Longer than any time-out of the frozen process: its requests, its connections, its patience.
            time.sleep(max(0.0, self.arguments.freeze_seconds - (time.monotonic() - since)))
            if second.poll() is not None:
                raise Wrong(f"the second process ended with {second.returncode}")
            os.kill(frozen.pid, signal.SIGCONT)
            self.ends(frozen, 1, "the woken process")
            if "another process took over" not in self.log.read_text():
                raise Wrong("the woken process does not say that another one took over")
            second.send_signal(signal.SIGTERM)
            self.ends(second, 0, "the second process")
        finally:
            for process in (frozen, second):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()
        self.judge()

    def until(self, what, holds):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise Wrong(f"waited in vain until {what}")
            time.sleep(0.02)


def state(pid):
    """A process's state, as /proc shows it."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ---------------------------------------------------------------- all cells


def cells(arguments):
    listed = subprocess.run([arguments.isobar, "failpoints"], check=True, stdout=subprocess.PIPE, text=True).stdout
    # What only a leader with workers reaches is tested in tests/it/workers.rs. Maintenance waits for many commits of a run
    # that goes on: tests/it/maintenance.rs and tests/it/mirrored_checkpoints.rs kill it. A redrive is another command: tests/it/redrive.rs.
    elsewhere = ("worker.", "group.", "maintain.", "checkpoint.", "redrive.")
    points = [line.split()[:2] for line in listed.splitlines() if not line.startswith(elsewhere)]
    for point, scope in points:
        for cloud in CLOUDS if scope == "cloud" else (None,):
            for hit in HITS.get(point, (1,)):
                yield Cell("kill", point, cloud, hit)
    for point, scope in points:
        if point in FREEZES:
            for cloud in CLOUDS if scope == "cloud" else (None,):
                # The header and the first positions are decided: what is frozen are rows.
                yield Cell("freeze", point, cloud, max(HITS.get(point, (1,))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the built programs lie")
    parser.add_argument("--only", default="", help="a regular expression for `action point cloud hit`")
    parser.add_argument("--freeze-seconds", type=float, default=15, help="how long a leader is frozen")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--json", type=pathlib.Path, help="write the results there")
    parser.add_argument("--keep", type=pathlib.Path, help="keep specs and logs in this new folder")
    arguments = parser.parse_args()
    oracle_python()
    arguments.bin = arguments.bin.resolve()
    arguments.isobar = arguments.bin / "isobar"
    arguments.stamp = f"{int(time.time())}"
    gcs, address = None, os.environ.get("ISOBAR_GCS_ENDPOINT")
    if not address:
        gcs, address = start_gcs(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            results = run_all(arguments, Stores(address), folder)
        finally:
            if gcs is not None:
                gcs.kill()
                gcs.wait()
    failed = [result for result in results if not result["passed"]]
    if arguments.json:
        document = {"format": 1, "seed": arguments.seed, "freeze_seconds": arguments.freeze_seconds,
                    "cells": len(results), "failed": len(failed), "results": results}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{len(results)} cells, {len(results) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not results else 0)


def run_all(arguments, stores, folder):
    results = []
    print(f"{'action':7} {'failpoint':27} {'cloud':16} {'hit':>3}  {'seconds':>7}  outcome", flush=True)
    for number, cell in enumerate(cells(arguments)):
        name = " ".join(str(part) for part in cell)
        if not re.search(arguments.only, name):
            continue
        began, wrong = time.monotonic(), None
        bench = Bench(arguments, stores, folder / str(number), number, cell)
        try:
            bench.kill() if cell.action == "kill" else bench.freeze()
        except (Wrong, subprocess.SubprocessError) as error:
            tail = bench.log.read_text().splitlines()[-15:] if bench.log.exists() else []
            wrong = "\n".join([str(error), *tail])
        seconds = time.monotonic() - began
        cloud = f"{cell.cloud} ({ROLES[cell.cloud]})" if cell.cloud else "-"
        outcome = "passed" if wrong is None else f"FAILED: {wrong}"
        print(f"{cell.action:7} {cell.point:27} {cloud:16} {cell.hit:3}  {seconds:7.1f}  {outcome}", flush=True)
        results.append({**cell._asdict(), "seconds": round(seconds, 1), "passed": wrong is None, "why": wrong})
    return results


if __name__ == "__main__":
    main()
