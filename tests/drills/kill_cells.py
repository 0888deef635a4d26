#!/usr/bin/env python3
"""Kills, and freezes, `isobar` at every failpoint, in every cloud, and shows that nothing is lost or doubled.

    cargo build --release --locked --workspace
    tests/services/services start kafka s3 azure --dir DIR
    set -a; . DIR/services.env; set +a
    tests/drills/kill_cells.py --bin target/release --json kill_cells.json
    tests/drills/kill_cells.py --bin target/release --shard 1/2      # every other one; 2/2 has the rest
    tests/drills/kill_cells.py --bin target/release --list --only repair

Needs the packages of tests/oracle (`tests/services/services python tests/oracle/requirements.txt` prints an
interpreter that has them; without them this script starts itself again with that one). The clouds are S3
(moto), Azure (Azurite) and Google Cloud Storage (`isobar-gcs-sim`, started here unless ISOBAR_GCS_ENDPOINT is set).

A cell is what is done, a failpoint, the cloud at which it is armed (first, second or third in the specification), and
which time it is reached. Each has a topic, a topology and prefixes of its own:

    kill     `isobar run` must die by SIGKILL, and not otherwise. At `maintain.` and `checkpoint.` it is a run that goes on,
             with maintenance that is due and steady traffic; the next one must finish what was begun: in every cloud a newer
             checkpoint, and none of the files that the newest VACUUM lets go
    freeze   a leader is frozen (SIGSTOP) for longer than its time-outs, superseded by a second `isobar run`, woken by
             SIGCONT, and must stop by itself with exit code 1
    leader   of a leader and a worker, the leader dies. The worker goes on with a new leader and stops well
    worker   of a leader and a worker, the worker dies. The leader goes on with a new worker and stops well
    repair   one cloud is damaged: a file rotten and one missing, a version that differs, one missing and one that nobody
             decided, a rotten checkpoint, a wrong _last_checkpoint. `isobar scrub --repair` must die by SIGKILL; the next one
             ends well, `isobar scrub` finds nothing, and the foreign bytes were kept
    readmit  a decision is in no _delta_log yet, and everything in one cloud is deleted. `isobar scrub --readmit` must die by
             SIGKILL; the next one ends well, and after the next run `isobar scrub` finds nothing. (Where the point is a step in the
             other clouds, the cloud of the cell is one of those.)
    between  the same, and the topology runs between the kill and the second attempt
    redrive  records were rejected by a rule that is then relaxed. `isobar quarantine redrive` must die by SIGKILL; the next
             one ends well, and nothing is left in the quarantine

Records are produced before and after. At the end of each cell

    1. `isobar run --until-caught-up` must end with exit code 0
    2. `isobar prove` must hold
    3. in every cloud, as Python's deltalake reads it, each record that was produced lies exactly once, at its own
       partition and offset, in the dataset or in its quarantine, as the ledger kept here says; and nothing else

Exit code 0 only if every cell passes. SIGINT and SIGTERM end it together with all that it started.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import tables
from bench import DATASET, LEADS, QUARANTINE, Bench, Shape, Wrong
from stores import CLOUDS, ROOT, Children, Stores, exit_on_signals, oracle_python, start_gcs

ROLES = dict(zip(CLOUDS, ("first", "second", "third")))
# Half of the large ones are two parts of a multipart upload, also after compression.
RECORDS_SMALL, RECORDS_LARGE = 1_200, 40_000
LARGE = ("upload.before-part", "upload.after-part", "upload.before-complete", "upload.after-complete")

# Two files are combined, old ones are let go, and every third version has a checkpoint.
MAINTAINED = "{ compact: { min_files: 2 }, keep_versions: 2, checkpoint_every: 3 }"
CHECKPOINTED = "{ compact: { enabled: false }, checkpoint_every: 3 }"

# Which times a point is reached that are worth a cell. The first record is the header, the second one the tables and
# first positions, the third one rows; the dataset is published before its quarantine. What is decided first in
# maintenance is a compaction, a VACUUM later. `tables.damage` says what is repaired first and second.
HITS = {
    "consume.before-absorb": (1, 3), "consume.after-absorb": (1, 3),
    "upload.before-put": (1, 3), "upload.after-put": (1, 3),
    "upload.before-part": (1, 2), "upload.after-part": (1, 2),
    "decide.before-put": (1, 2, 3), "decide.after-put": (1, 2, 3),
    "decide.before-accept": (1, 2), "decide.after-majority": (1, 2),
    "publish.before-put": (1, 2, 3, 4), "publish.after-put": (1, 2, 3, 4),
    "fill.before-file": (1, 2), "fill.after-file": (1, 2),
    "fill.before-version": (1, 2), "fill.after-version": (1, 2),
    "worker.before-send": (1, 3), "worker.after-send": (1, 3),
    "group.after-receive": (1, 3), "group.before-answer": (1, 3),
    "maintain.before-decide": (1, 2, 3), "maintain.after-decide": (1, 2, 3),
    "repair.before-file": (1, 2), "repair.after-file": (1, 2),
    "repair.before-set-aside": (1, 2), "repair.after-set-aside": (1, 2),
    "repair.before-entry": (1, 2), "repair.after-entry": (1, 2),
}
# Points at which a leader is frozen: around everything that another process could see or depend on.
FREEZES = ("elect.after-claim", "elect.before-header", "consume.before-close", "upload.before-put", "decide.before-put",
           "decide.after-put", "decide.after-majority", "publish.before-put", "publish.after-put")
# What a leader with a worker and its worker reach besides the points of their own: rows, and not a leader's first records.
LEADER_HITS = {"decide.before-put": (3,), "decide.after-put": (3,), "decide.after-majority": (2,), "publish.after-put": (3,)}
WORKER_HITS = {"consume.before-close": (1,), "upload.before-put": (1,), "upload.after-put": (1,)}
# What a readmission reaches besides the points of its own: a take-over in the other clouds, and filling the lost one.
OTHERS_IN_READMISSION = ("elect.before-claim", "elect.after-claim", "elect.before-seal", "elect.after-seal",
                         "readmit.before-header", "readmit.after-header")
FILL_IN_READMISSION = ("repair.before-file", "repair.after-file", "repair.before-entry", "repair.after-entry",
                       "repair.before-checkpoint", "repair.after-checkpoint", "repair.before-hint", "repair.after-hint")
# A second readmission writes the keys of both generations.
READMIT_HITS = {"readmit.before-key": (1, 2), "readmit.after-key": (1, 2)}
# What a redrive reaches besides the points of its own. The first record of its epoch is the header.
REDRIVE_HITS = {"upload.before-put": (1,), "upload.after-put": (1,), "decide.before-put": (2,), "decide.after-put": (2,),
                "decide.after-majority": (1,), "publish.before-put": (1, 2), "publish.after-put": (1, 2)}
BETWEEN = ("readmit.after-header", "readmit.after-decide", "readmit.after-record", "readmit.after-key")

Cell = collections.namedtuple("Cell", "action point cloud hit")


# ---------------------------------------------------------------- one cell


def failpoint(cell, action):
    at = f"@{cell.cloud}" if cell.cloud else ""
    armed = f"{cell.point}{at}:{cell.hit}={action}"
    if cell.point in ("fill.before-file", "fill.after-file"):
        # The cloud misses the files because their uploads fail.
        armed = f"upload.before-put@{cell.cloud}:1+=error,{armed}"
    return armed


def kill(bench, cell):
    if cell.point.startswith(("maintain.", "checkpoint.")):
        kill_in_maintenance(bench, cell)
        return
    bench.produce(bench.records // 2)
    history(bench, cell)
    bench.run("--until-caught-up", failpoint=failpoint(cell, "kill")).dies()
    bench.produce(bench.records // 2)
    bench.judge()


def history(bench, cell):
    """What a point needs to be reached: earlier epochs to seal, or a cloud that was away."""
    if cell.point in ("fill.before-version", "fill.after-version"):
        bench.catch_up()
        bench.produce(bench.records // 4)
        bench.catch_up(failpoint=f"publish.before-put@{cell.cloud}:1+=error")
        bench.produce(bench.records // 4)
    elif cell.point in ("elect.before-seal", "elect.after-seal"):
        bench.catch_up()
        bench.produce(bench.records // 4)


def kill_in_maintenance(bench, cell):
    bench.create_topic()
    doomed = bench.run(failpoint=failpoint(cell, "kill"))
    bench.flows_until(f"{cell.point} is reached", doomed.has_ended)
    doomed.dies()
    clouds = [bench.objects(cloud) for cloud in CLOUDS]
    before = max(tables.head(objects, DATASET) for objects in clouds)
    following = bench.run()
    bench.flows_until("every cloud has a newer checkpoint",
                      lambda: all(tables.checkpointed(objects, DATASET) > before for objects in clouds))
    bench.flows_until("a newer VACUUM is decided", lambda: tables.vacuumed(clouds[0], DATASET)[0] > before)
    _, let_go = tables.vacuumed(clouds[0], DATASET)
    bench.flows_until("what it lets go is deleted everywhere",
                      lambda: not any(let_go.intersection(objects.list("datasets")) for objects in clouds))
    following.stops()
    bench.judge()


def freeze(bench, cell):
    bench.produce(bench.records // 2)
    frozen = bench.run(failpoint=failpoint(cell, "pause"))
    bench.until("the first process is frozen", lambda: frozen.state() == "T")
    since = time.monotonic()
    second = bench.run()
    bench.until("the second process leads", lambda: second.says(LEADS))
    bench.produce(bench.records // 2)
    # Longer than any time-out of the frozen process: its requests, its connections, its patience.
    time.sleep(max(0.0, bench.arguments.freeze_seconds - (time.monotonic() - since)))
    if second.has_ended():
        raise Wrong("the second process ended")
    frozen.signal(signal.SIGCONT)
    frozen.ends(1)
    if not frozen.says("another process took over"):
        raise Wrong("the woken process does not say that another one took over")
    second.stops()
    bench.judge()


def kill_in_group(bench, cell):
    dies_first, armed = cell.action, failpoint(cell, "kill")
    bench.create_topic()
    leader = bench.lead(armed if dies_first == "leader" else "")
    worker = bench.work(armed if dies_first == "worker" else "")
    doomed = leader if dies_first == "leader" else worker
    bench.flows_until(f"{cell.point} is reached", doomed.has_ended)
    doomed.dies()
    bench.produce(bench.records // 2)
    if dies_first == "leader":
        leader = bench.lead()
    else:
        worker = bench.work()
    bench.produce(bench.records // 2)
    for cloud in CLOUDS:
        bench.until(f"everything is committed in {cloud}", lambda: bench.has_everything(cloud))
    worker.stops()
    leader.stops()
    bench.keeps_the_token()
    bench.judge()


def several_versions(bench):
    """Versions of the dataset and of its quarantine, and a checkpoint of each, in every cloud."""
    bench.create_topic()
    running = bench.run()
    places = [(bench.objects(cloud), table) for cloud in CLOUDS for table in (DATASET, QUARANTINE)]
    bench.flows_until("every cloud has several versions", lambda: all(tables.head(*place) >= 4 for place in places))
    # A run that stops while it builds one leaves a checkpoint that nobody has decided.
    bench.until("every cloud has the checkpoints that are due",
                lambda: all(tables.checkpointed(*place) == tables.head(*place) // 3 * 3 for place in places))
    running.stops()
    bench.catch_up()


def repair(bench, cell):
    several_versions(bench)
    objects = bench.objects(cell.cloud)
    kept = tables.damage(objects)
    bench.scrub("--repair", failpoint=failpoint(cell, "kill")).dies()
    bench.scrub("--repair").ends(0)
    bench.scrub().ends(0)
    tables.must_be_kept(objects, kept)
    bench.produce(bench.records // 2)
    bench.judge()


def readmit(bench, cell):
    lost = cell.cloud
    if cell.point in OTHERS_IN_READMISSION:
        lost = CLOUDS[(CLOUDS.index(cell.cloud) + 1) % len(CLOUDS)]
    several_versions(bench)
    if cell.hit > 1:
        # The generation before.
        tables.wipe(bench.objects(lost))
        bench.scrub("--readmit", lost).ends(0)
    bench.produce(bench.records // 4)
    # What a leader has decided and nobody has published.
    bench.run("--until-caught-up", failpoint="publish.before-put=kill").dies()
    tables.wipe(bench.objects(lost))
    bench.scrub("--readmit", lost, failpoint=failpoint(cell, "kill")).dies()
    if cell.action == "between":
        bench.produce(bench.records // 4)
        bench.catch_up()
    bench.scrub("--readmit", lost).ends(0)
    bench.produce(bench.records // 4)
    bench.catch_up()
    bench.scrub().ends(0)
    bench.judge()


def redrive(bench, cell):
    bench.produce(bench.records // 2)
    bench.catch_up()
    bench.relax()
    bench.redrive(failpoint=failpoint(cell, "kill")).dies()
    bench.redrive().ends(0)
    bench.produce(bench.records // 2)
    bench.judge()


ACTIONS = {"kill": kill, "freeze": freeze, "leader": kill_in_group, "worker": kill_in_group, "repair": repair,
           "readmit": readmit, "between": readmit, "redrive": redrive}


# ---------------------------------------------------------------- all cells


def cells(arguments):
    """All of them, in an order that only changes with the failpoints: a cell's seed is its number."""
    listed = subprocess.run([arguments.isobar, "failpoints"], check=True, stdout=subprocess.PIPE, text=True).stdout
    scopes = dict(line.split()[:2] for line in listed.splitlines())

    def of(action, point, hits):
        for cloud in CLOUDS if scopes[point] == "cloud" else (None,):
            yield from (Cell(action, point, cloud, hit) for hit in hits)

    def starting(*parts):
        return [point for point in scopes if point.startswith(parts)]

    known = ("elect.", "consume.", "upload.", "decide.", "publish.", "fill.", "maintain.", "checkpoint.")
    others = ("worker.", "group.", "repair.", "readmit.", "redrive.")
    unknown = set(scopes).difference(starting(*known, *others))
    if unknown:
        sys.exit(f"no cell is known for {', '.join(sorted(unknown))}")
    for point in starting(*known):
        yield from of("kill", point, HITS.get(point, (1,)))
    for point in FREEZES:
        # The header and the first positions are decided: what is frozen are rows.
        yield from of("freeze", point, (max(HITS.get(point, (1,))),))
    for action, parts, hits in (("leader", "group.", LEADER_HITS), ("worker", "worker.", WORKER_HITS)):
        for point in [*starting(parts), *hits]:
            yield from of(action, point, hits.get(point) or HITS[point])
    for point in starting("repair."):
        yield from of("repair", point, HITS.get(point, (1,)))
    for point in starting("readmit."):
        yield from of("readmit", point, READMIT_HITS.get(point, (1,)))
    for point in (*FILL_IN_READMISSION, *filter(lambda point: point.startswith("elect."), OTHERS_IN_READMISSION)):
        yield from of("readmit", point, (1,))
    for point in BETWEEN:
        yield from of("between", point, (1,))
    for point in (*starting("redrive."), *REDRIVE_HITS):
        yield from of("redrive", point, REDRIVE_HITS.get(point, (1,)))


def selected(arguments):
    """The cells that are asked for, with their numbers among all."""
    wanted = [(number, cell) for number, cell in enumerate(cells(arguments))
              if re.search(arguments.only, " ".join(map(str, cell)))]
    mine, of = arguments.shard
    return wanted[mine - 1::of]


def shard(text):
    mine, of = map(int, text.split("/"))
    if not 1 <= mine <= of:
        raise ValueError
    return mine, of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the built programs lie")
    parser.add_argument("--only", default="", help="a regular expression for `action point cloud hit`")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="only the I-th of N parts, which may run beside each other")
    parser.add_argument("--list", action="store_true", help="print the cells, and run none")
    parser.add_argument("--freeze-seconds", type=float, default=15, help="how long a leader is frozen")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--json", type=pathlib.Path, help="write the results there")
    parser.add_argument("--keep", type=pathlib.Path, help="keep specs and logs in this new folder")
    arguments = parser.parse_args()
    arguments.bin = arguments.bin.resolve()
    arguments.isobar = arguments.bin / "isobar"
    if arguments.list:
        print(*(" ".join(map(str, cell)) for _, cell in selected(arguments)), sep="\n")
        return
    oracle_python()
    exit_on_signals()
    # Other parts may have begun in the same second.
    arguments.stamp = f"{int(time.time())}-{os.getpid()}"
    with tempfile.TemporaryDirectory() as temporary, Children() as children:
        address = os.environ.get("ISOBAR_GCS_ENDPOINT") or start_gcs(children, arguments.bin)
        folder = (arguments.keep or pathlib.Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        results = run_all(arguments, Stores(address), folder)
    failed = [result for result in results if not result["passed"]]
    if arguments.json:
        document = {"format": 1, "seed": arguments.seed, "freeze_seconds": arguments.freeze_seconds,
                    "cells": len(results), "failed": len(failed), "results": results}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{len(results)} cells, {len(results) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not results else 0)


def run_all(arguments, stores, folder):
    results, mine = [], selected(arguments)
    width = len(f"{len(mine)} of {len(mine)}")
    print(f"{'cell':{width}}  {'action':7} {'failpoint':26} {'cloud':14} {'hit':>3}  {'seconds':>7}  outcome", flush=True)
    for at, (number, cell) in enumerate(mine, 1):
        began = time.monotonic()
        wrong = run_one(arguments, stores, folder, number, cell)
        seconds = time.monotonic() - began
        cloud = f"{cell.cloud} ({ROLES[cell.cloud]})" if cell.cloud else "-"
        outcome = "passed" if wrong is None else f"FAILED: {wrong}"
        count = f"{at} of {len(mine)}"
        print(f"{count:>{width}}  {cell.action:7} {cell.point:26} {cloud:14} {cell.hit:3}  {seconds:7.1f}  {outcome}", flush=True)
        results.append({**cell._asdict(), "seconds": round(seconds, 1), "passed": wrong is None, "why": wrong})
    return results


def run_one(arguments, stores, folder, number, cell):
    """What is wrong with a cell, None if it passes."""
    maintenance = MAINTAINED if cell.point.startswith(("maintain.", "checkpoint.")) else ""
    if cell.action in ("repair", "readmit", "between"):
        maintenance = CHECKPOINTED
    shape = Shape(maintenance=maintenance, has_workers=cell.action in ("leader", "worker"))
    if cell.point in LARGE:
        # A large file needs all rows in one commit and in one file.
        shape.commit, shape.partition_by, shape.filler_bytes = "{ interval: 3s, size: 256MiB }", "", 768
    # What the cell has started ends with it.
    with Children() as children:
        bench = Bench(arguments, stores, children, folder / str(number), f"cells-{arguments.stamp}-{number}",
                      arguments.seed + number, shape, RECORDS_LARGE if cell.point in LARGE else RECORDS_SMALL)
        try:
            ACTIONS[cell.action](bench, cell)
        except Exception as error:  # Whatever it is, the other cells are run.
            why = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
            return "\n".join([why, *bench.last_words()])
    return None


if __name__ == "__main__":
    main()
