#!/usr/bin/env python3
"""Shares that move, workers that die and a broker that restarts, all at once: exactly what was produced is there at the end.

    cargo build --release --locked --workspace
    tests/drills/unrest.py --bin target/release --json unrest.json        # five minutes of unrest, with services of its own
    tests/drills/unrest.py --bin target/release --seconds 20              # a short one, as `tests/run live` has it
    tests/drills/unrest.py --bin target/release --services DIR            # with those that run under DIR

A topic of 12 partitions gets 1,000 records a second. `isobar run` leads, and three `isobar run --worker` read for it.
Meanwhile

    rebalance   every 2 s one of the workers stops well (SIGTERM) and a new one starts, so that shares move twice. Who
                stops must end with exit code 0
    kill        every 20 s one of the workers dies (SIGKILL), whatever it does just then, and a new one starts
    restart     every 60 s the broker is ended and started again on its ports (`services restart kafka`), while the rest
                goes on. The cluster has one node, so that the restart of this node is all of a rolling restart: nobody
                takes over its partitions, and nothing can be read or produced until it is back
    leader      every 120 s the leader dies (SIGKILL), and a new one starts

The first time of each comes earlier, and an interval is at most as long as the unrest, so that a short run has all of them.
A worker that waits for the broker when it is to stop is left to start: while all of them wait, a rebalance falls through.
That is counted, and made up for: the unrest goes on, without further restarts and deaths of the leader, until there were
as many rebalances as there should be. Where the machine is so slow that a process finds no broker for 30 s when it starts, or a worker that
is to stop no leader for 30 s, it ends with exit code 1; the first is started again, as whoever watches it would, and both
are counted. Any other process that ends by itself, or does not stop well, fails the drill.

Then nobody produces any more. The leader and its workers, as they are then, must commit all that is left, and stop
well. At the end, as in kill_cells.py, `isobar run --until-caught-up` must end with exit code 0, `isobar prove` must hold,
and in every cloud, as Python's deltalake reads it, each record lies exactly once at its own partition and offset, in the
dataset or in its quarantine, as the ledger kept here says; and nothing else.

Needs the packages of tests/oracle, as kill_cells.py does, and Java, Maven and Node.js for services of its own. The clouds
are those of kill_cells.py. Exit code 0 only if all of that holds. SIGINT and SIGTERM end it together with all that it
started; a restart of the broker is finished first.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import tables
from bench import DATASET, LEADS, POLL_SECONDS, WORKS, Bench, Shape, Wrong, last_words
from stores import (CLOUDS, ROOT, SERVICES, Children, Stores, exit_on_signals, know_services, new_services, oracle_python,
                    start_gcs, start_producer, traffic)

PARTITIONS = 12
WORKERS = 3
RECORDS_PER_SECOND = 1_000
# In which part of its interval an action comes for the first time.
FIRST = {"rebalance": 0.5, "kill": 0.5, "restart": 0.25, "leader": 0.75}
# How much longer than it should be the unrest may last, for the rebalances that fell through.
PROLONGED_SECONDS_MAX = 600
# How long a worker may take to stop well. It has 30 s for its last commit.
STOP_SECONDS_MAX = 60
# What a process says that cannot start without a broker, and a worker that cannot stop well without a leader.
NO_BROKER = "error: ask Kafka about the topics"
NO_LEADER = "error: cannot commit before stopping: no leader answers"
# What the logs say that is counted.
SAID = {"joins": "worker joins", "silences": "worker is silent", "shares": "reading another share", "stale": "batch is stale"}


class Broker:
    """The broker under `folder`, which can be restarted while other things happen."""

    def __init__(self, folder):
        self.folder, self.restarting, self.began = folder, None, 0.0
        # How long it was away, each time.
        self.seconds = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Half-way, nobody would know of the new process.
        if self.restarting is not None:
            self.restarting.wait()

    def restart(self):
        self.began = time.monotonic()
        command = [SERVICES, "restart", "kafka", "--dir", self.folder]
        self.restarting = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def look(self):
        """Notices that it is back."""
        if self.restarting is not None and self.restarting.poll() is not None:
            self.wait()

    def wait(self):
        """Until it is back, if it is away."""
        if self.restarting is None:
            return
        code = self.restarting.wait()
        self.restarting = None
        if code != 0:
            raise Wrong(f"`services restart kafka` ended with {code}")
        self.seconds.append(round(time.monotonic() - self.began, 1))


class Unrest:
    """A leader and its workers, and what is done to them."""

    def __init__(self, bench, broker, seed):
        self.bench, self.broker, self.choice = bench, broker, random.Random(seed)
        self.leader = bench.lead()
        self.workers = [bench.work() for _ in range(WORKERS)]
        # Who was asked to stop, and when.
        self.stopping = []
        # When there was no leader last.
        self.leaderless = 0.0
        self.done = collections.Counter()

    def go_on(self, seconds, intervals):
        """Does what `intervals` says, as often as it says, for so long, and until no rebalance is missing. How long that was."""
        actions = {"rebalance": self.rebalance, "kill": self.kill, "restart": self.restart, "leader": self.kill_leader}
        began = time.monotonic()
        due = {action: interval * FIRST[action] for action, interval in intervals.items() if interval > 0}
        wanted = int(seconds / intervals["rebalance"]) if intervals["rebalance"] > 0 else 0
        while (now := time.monotonic() - began) < seconds or self.done["rebalance"] < wanted:
            if now > seconds + PROLONGED_SECONDS_MAX:
                raise Wrong(f"too slow: {self.done['rebalance']} of {wanted} rebalances in {now:.0f} s")
            self.look()
            if now >= seconds:
                # What makes rebalances fall through is over.
                due = {action: when for action, when in due.items() if action in ("rebalance", "kill")}
            for action in due:
                if due[action] <= now:
                    due[action] += intervals[action]
                    actions[action]()
            time.sleep(POLL_SECONDS)
        missing = [action for action, interval in intervals.items() if interval > 0 and self.done[action] == 0]
        if missing:
            raise Wrong(f"too short: {', '.join(missing)} never happened")
        return now

    # ---------------------------------------------------------------- what is done

    def rebalance(self):
        working = [worker for worker in self.workers if has_begun(worker)]
        if not working:
            self.done["fell through"] += 1
            return
        worker = self.choice.choice(working)
        worker.signal(signal.SIGTERM)
        self.stopping.append((worker, time.monotonic()))
        self.replace(worker)
        self.done["rebalance"] += 1

    def kill(self):
        worker = self.choice.choice(self.workers)
        worker.kill()
        self.replace(worker)
        self.done["kill"] += 1

    def restart(self):
        # On a slow machine it may still be on its way.
        if self.broker.restarting is None:
            self.broker.restart()
            self.done["restart"] += 1

    def kill_leader(self):
        self.leader.kill()
        self.replace(self.leader)
        self.done["leader"] += 1

    def replace(self, program):
        if program is self.leader:
            self.leader = self.bench.start_leader()
        else:
            self.workers[self.workers.index(program)] = self.bench.start_worker()

    # ---------------------------------------------------------------- what follows

    def look(self):
        """Notices who has ended, and the broker that is back."""
        self.broker.look()
        for program in (self.leader, *self.workers):
            if program.has_ended():
                if not found_no_broker(program):
                    raise ended(program, "by itself ")
                self.replace(program)
                self.done["started without broker"] += 1
        if not has_begun(self.leader):
            self.leaderless = time.monotonic()
        for worker, since in self.stopping:
            if worker.has_ended() and worker.process.returncode != 0:
                if self.leaderless < since or not found_no_leader(worker):
                    raise ended(worker)
                self.done["stopped without leader"] += 1
            if not worker.has_ended() and time.monotonic() > since + STOP_SECONDS_MAX:
                raise Wrong("\n".join([f"{worker.what} did not stop within {STOP_SECONDS_MAX} s", *last_words(worker.log)]))
        self.stopping = [(worker, since) for worker, since in self.stopping if not worker.has_ended()]

    def calm_down(self):
        """Nothing is produced any more: what is left is committed, and everybody stops well. How long the first took."""
        began = time.monotonic()
        self.broker.wait()
        for cloud in CLOUDS:

            def is_done():
                self.look()
                return self.bench.has_as_many(cloud)

            self.bench.until(f"everything is committed in {cloud}", is_done)
        seconds = time.monotonic() - began
        self.bench.until("who was to stop has stopped", lambda: self.look() or not self.stopping)
        self.bench.until("everybody has begun", lambda: self.look() or all(map(has_begun, (*self.workers, self.leader))))
        for program in (*self.workers, self.leader):
            program.stops()
        return seconds


def has_begun(program):
    return program.says(LEADS) or program.says(WORKS)


def found_no_broker(program):
    return program.process.returncode == 1 and program.says(NO_BROKER) and not has_begun(program)


def found_no_leader(worker):
    return worker.process.returncode == 1 and worker.says(NO_LEADER)


def ended(program, how=""):
    return Wrong("\n".join([f"{program.what} ended {how}with {program.process.returncode}", *last_words(program.log)]))


# ---------------------------------------------------------------- figures


def said(bench):
    """How often the logs say what is counted."""
    texts = [log.read_text(errors="replace") for log in bench.logs]
    return {name: sum(text.count(words) for text in texts) for name, words in SAID.items()}


def decided(bench):
    """What the dataset's log in the first cloud says: versions by operation, commits of several processes, and the longest
    time between two commits in seconds."""
    log = tables.log(bench.objects(CLOUDS[0]), DATASET)
    infos = [action["commitInfo"] for version in sorted(log) for action in log[version] if "commitInfo" in action]
    times = [info["timestamp"] for info in infos if info["operation"] == "WRITE"]
    united = sum(len(info["isobar"].get("members", ())) > 1 for info in infos)
    pause_ms = max((later - earlier for earlier, later in zip(times, times[1:])), default=0)
    return dict(collections.Counter(info["operation"] for info in infos)), united, pause_ms / 1000


def figures(bench, unrest):
    operations, united, pause_seconds = decided(bench)
    return {
        "records": bench.ledger.next_id, "rejected": len(bench.ledger.rejected),
        "rebalances": unrest.done["rebalance"], "rebalances_fallen_through": unrest.done["fell through"],
        "kills": unrest.done["kill"], "leader_kills": unrest.done["leader"],
        "broker_restarts": unrest.done["restart"], "broker_restart_seconds": unrest.broker.seconds,
        "processes": len(bench.logs), "started_without_broker": unrest.done["started without broker"],
        "stopped_without_leader": unrest.done["stopped without leader"], "said": said(bench),
        "versions": operations, "commits_of_several": united, "pause_seconds": pause_seconds,
    }


def show(found):
    words, versions = found["said"], ", ".join(f"{count} {operation}" for operation, count in found["versions"].items())
    lines = {
        "unrest": f"{found['unrest_seconds']} s",
        "records": f"{found['records']:,} produced, {found['rejected']:,} of them for the quarantine",
        "rebalances": f"{found['rebalances']} (a worker stopped well and another one came), {found['rebalances_fallen_through']} fell through",
        "kills": f"{found['kills']} of a worker, {found['leader_kills']} of the leader",
        "restarts": f"{found['broker_restarts']} of the broker, which took {', '.join(map(str, found['broker_restart_seconds']))} s",
        "processes": f"{found['processes']} in all, {found['started_without_broker']} of which found no broker for 30 s when they started, and "
                     f"{found['stopped_without_leader']} no leader when they stopped",
        "shares": f"{words['joins']} workers joined, {words['silences']} were given up as silent; {words['shares']} times a process read another share",
        "stale": f"{words['stale']} batches were dropped as stale and read again",
        "versions": f"{versions}; {found['commits_of_several']} of them unite commits of several processes",
        "pause": f"{found['pause_seconds']:.1f} s at most between two commits",
        "catch-up": f"{found['catch_up_seconds']} s after the last record",
    }
    for name, text in lines.items():
        print(f"{name:11} {text}")


# ---------------------------------------------------------------- the drill


@contextlib.contextmanager
def services(arguments, home):
    """How to reach the stores, and the folder of the services: those that run already, or new ones."""
    if arguments.services is None:
        with new_services(arguments.bin, home / "services") as (stores, _):
            yield stores, home / "services"
        return
    know_services(arguments.services)
    with Children() as children:
        yield Stores(os.environ.get("ISOBAR_GCS_ENDPOINT") or start_gcs(children, arguments.bin)), arguments.services


def drill(arguments, bench, broker):
    """The figures of a drill that passes."""
    intervals = {"rebalance": arguments.rebalance_every, "kill": arguments.kill_every, "restart": arguments.restart_every,
                 "leader": arguments.leader_every}
    intervals = {action: min(interval, arguments.seconds) for action, interval in intervals.items()}
    bench.create_topic()
    producer = start_producer(bench.children, arguments.bin, bench.name, PARTITIONS)
    with traffic(producer, RECORDS_PER_SECOND, bench.ledger.records):
        unrest = Unrest(bench, broker, arguments.seed)
        lasted_seconds = unrest.go_on(arguments.seconds, intervals)
    catch_up_seconds = unrest.calm_down()
    bench.keeps_the_token()
    bench.judge()
    return {"unrest_seconds": round(lasted_seconds, 1), "catch_up_seconds": round(catch_up_seconds, 1), **figures(bench, unrest)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the built programs lie")
    parser.add_argument("--seconds", type=float, default=300, help="how long the unrest lasts")
    parser.add_argument("--rebalance-every", type=float, default=2, metavar="SECONDS", help="0: never, and so for the others")
    parser.add_argument("--kill-every", type=float, default=20, metavar="SECONDS")
    parser.add_argument("--restart-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--leader-every", type=float, default=120, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--services", type=pathlib.Path, help="the folder of services that run, whose broker is restarted; without it new ones")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures there")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the specification and the logs in this new folder")
    arguments = parser.parse_args()
    arguments.bin = arguments.bin.resolve()
    arguments.isobar = arguments.bin / "isobar"
    oracle_python()
    exit_on_signals()
    shape = Shape(partitions=PARTITIONS, commit="{ interval: 500ms, size: 1MiB }", partition_by="", has_workers=True)
    with tempfile.TemporaryDirectory() as temporary:
        home = (arguments.keep or pathlib.Path(temporary)).resolve()
        home.mkdir(parents=True, exist_ok=True)
        with services(arguments, home) as (stores, folder), Broker(folder) as broker, Children(grace_seconds=0) as children:
            name = f"unrest-{int(time.time())}-{os.getpid()}"
            bench = Bench(arguments, stores, children, home / "unrest", name, arguments.seed, shape)
            try:
                found, why = drill(arguments, bench, broker), None
                show(found)
            except Wrong as wrong:
                found, why = {}, "\n".join([str(wrong), *bench.last_words()])
    if arguments.json:
        document = {"format": 1, "seed": arguments.seed, "seconds": arguments.seconds, "passed": why is None, "why": why, **found}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print("passed: each record lies exactly once where it belongs, in every cloud" if why is None else f"FAILED: {why}")
    sys.exit(0 if why is None else 1)


if __name__ == "__main__":
    main()
