#!/usr/bin/env python3
"""Runs `isobar drill` on real Kafka and three stores under steady traffic, and says what a failure costs.

    cargo build --release --locked --workspace
    tests/drills/live_drills.py --bin target/release --json live_drills.json            # about 40 minutes
    tests/drills/live_drills.py --bin target/release --only long                        # about 20 minutes

    away-CLOUD-N the cloud is taken away until at least 200 commits are decided without it, and comes back
    standby      the leader is killed, and a process that stands by takes over
    restart      the leader is killed, and started again
    long         (only when named) one cloud stays away until at least 10,000 commits are decided without it

Each drill has services of its own, because the emulators take longer to list the more they hold; 1,000 records a
second; and a commit every 100 ms (long: every 1 KiB). It ends with `isobar prove`, which reads every file in every
cloud. Clouds as in kill_cells.py. Printed: median and maximum over all runs of a kind.

Exit code 0 only if every drill passed, every cloud that was away missed the commits it had to, and the limits held: no
pause over 3 s when a cloud is away, none over 15 s when the leader is killed. SIGINT and SIGTERM end it together with all
that it started.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from stores import CLOUDS, PARTITIONS, ROOT, end, exit_on_signals, new_services, start_producer, traffic

RECORDS_PER_SECOND = 1_000
PAUSE_MAX = {"away": 3.0, "standby": 15.0, "restart": 15.0, "long": 3.0}
COMMITS_MIN = {"away": 200, "long": 10_000}


def topology(name, stores, commit):
    return f"""topology: drilled
kafka:
  brokers: "{os.environ['ISOBAR_KAFKA_BROKERS']}"
{stores.yaml(name)}commit: {commit}
memory: 256MiB
sources:
  records:
    topic: {name}
    format: json
    fields: {{ id: int64, shelf: string }}
datasets:
  drilled:
    from: records
    sql: SELECT id, shelf FROM records
"""


class Numbers:
    """Records with rising numbers, dealt to the partitions in turn."""

    def __init__(self):
        self.next = 0

    def records(self, count):
        numbers = range(self.next, self.next + count)
        self.next += count
        return "".join(f'{number % PARTITIONS}\t{{"id":{number},"shelf":"s{number % 3}"}}\n' for number in numbers)


def drill(arguments, stores, children, home, name, commit, failure):
    """One `isobar drill`; its report."""
    topic = f"drill-{name}"
    (home / "gcs.json").write_text(stores.key)
    (home / "topology.yaml").write_text(topology(topic, stores, commit))
    producer = start_producer(children, arguments.bin, topic, PARTITIONS)
    with traffic(producer, RECORDS_PER_SECOND, Numbers().records):
        # The topic is there before it is read.
        time.sleep(2)
        command = [arguments.bin / "isobar", "drill", "--config", "topology.yaml", "--take-over", "--report", "report", *failure]
        with open(home / "log", "w") as log:
            process = children.start(command, cwd=home, stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"})
            try:
                process.wait()
            finally:
                # Before the traffic: when this script is interrupted, the drill ends its fault and its children.
                end(process)
    report = home / "report.json"
    if not report.exists():
        sys.exit(f"{name}: no report:\n{(home / 'log').read_text()}")
    return json.loads(report.read_text())


def drills(arguments):
    """Kind, name, when to commit, and the arguments of `isobar drill`."""
    steady = "{ interval: 100ms, size: 1MiB }"
    each = -(-arguments.runs // len(CLOUDS))
    for cloud in CLOUDS:
        for number in range(1, each + 1):
            yield "away", f"away-{cloud}-{number}", steady, ["cloud-away", cloud, "--hold", "30s", "--runs", "1"]
    yield "standby", "standby", steady, ["leader-kill", "--standby", "--runs", str(arguments.runs)]
    yield "restart", "restart", steady, ["leader-kill", "--runs", str(arguments.runs)]
    if arguments.only == "long":
        # As many commits as the stores take.
        yield "long", "long", "{ interval: 100ms, size: 1KiB }", ["cloud-away", "gcp", "--hold", f"{arguments.long_seconds}s"]


def judge(kind, name, report):
    """What is wrong with a report, if anything."""
    if not report["passed"] or not report["prove"]["holds"]:
        return f"{name}: did not pass; see its report"
    for run in report["runs"]:
        missed = run["commits_during_fault"]
        if missed is not None and missed < COMMITS_MIN.get(kind, 0):
            return f"{name}: run {run['run']} missed {missed} commits only, not {COMMITS_MIN[kind]}"
        if run["pause_seconds"] is None or run["pause_seconds"] > PAUSE_MAX[kind]:
            return f"{name}: run {run['run']} paused for {run['pause_seconds']} s, not at most {PAUSE_MAX[kind]} s"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the built programs lie")
    parser.add_argument("--runs", type=int, default=21, help="how often each failure happens")
    parser.add_argument("--only", default="", help="only the drills whose name begins so")
    parser.add_argument("--long-seconds", type=int, default=1000, help="how long the cloud is away in the long drill")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures and all reports there")
    parser.add_argument("--keep", type=pathlib.Path, help="keep specs, logs and reports in this new folder")
    arguments = parser.parse_args()
    arguments.bin = arguments.bin.resolve()
    exit_on_signals()
    reports, wrong = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or pathlib.Path(temporary)).resolve()
        for kind, name, commit, failure in drills(arguments):
            if not name.startswith(arguments.only):
                continue
            home = folder / name
            home.mkdir(parents=True)
            with new_services(arguments.bin, home / "services") as (stores, children):
                report = drill(arguments, stores, children, home, name, commit, failure)
            reports.setdefault(kind, []).append(report)
            wrong += filter(None, [judge(kind, name, report)])
            pauses = ", ".join(f"{run['pause_seconds']:.2f}" for run in report["runs"] if run["pause_seconds"] is not None)
            print(f"{name}: {report['prove']['rows']} rows proved, pauses of {pauses} s", flush=True)
    figures = [figure for kind, of_kind in reports.items() for figure in figures_of(kind, of_kind)]
    print(f"\n{'drill':8} {'figure':9} {'runs':>4}  {'median s':>8}  {'maximum s':>9}")
    for figure in figures:
        print(f"{figure['drill']:8} {figure['figure']:9} {figure['runs']:4}  {figure['median']:8.2f}  {figure['maximum']:9.2f}")
    print(*wrong, sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"format": 1, "figures": figures, "reports": reports}, indent=2) + "\n")
    print(f"{sum(map(len, reports.values()))} drills, {len(wrong)} wrong")
    sys.exit(1 if wrong or not reports else 0)


def figures_of(kind, reports):
    runs = [run for report in reports for run in report["runs"]]
    for figure in ("detection", "pause", "recovery"):
        seconds = [run[f"{figure}_seconds"] for run in runs if run[f"{figure}_seconds"] is not None]
        if seconds:
            yield {"drill": kind, "figure": figure, "runs": len(seconds), "median": statistics.median(seconds), "maximum": max(seconds)}
    missed = [run["commits_during_fault"] for run in runs if run["commits_during_fault"] is not None]
    if missed:
        yield {"drill": kind, "figure": "missed", "runs": len(missed), "median": statistics.median(missed), "maximum": max(missed)}


if __name__ == "__main__":
    main()
