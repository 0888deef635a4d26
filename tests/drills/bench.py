"""What a drill with a ledger works with: a topic, a topology and prefixes of its own, programs, and what was produced."""

import base64
import collections
import dataclasses
import json
import os
import random
import signal
import subprocess
import time

from stores import CLOUDS, PARTITIONS, end, start_producer

# The topology is called so as well.
DATASET = "cells"
QUARANTINE = f"{DATASET}.quarantine"
RULE = "shelf IS NOT NULL"
# How long anything may take that a cell waits for. Only a hang takes longer.
PATIENCE_SECONDS = 180
POLL_SECONDS = 0.05
# What a leader and a worker say when they have begun.
LEADS, WORKS = " consuming", " working"
TOKEN = "token-of-the-kill-cells-0123456789abcdef"


class Wrong(Exception):
    """A cell or a drill does not pass; the text says why."""


@dataclasses.dataclass
class Shape:
    """What the topic and the topology of a bench are like."""

    partitions: int = PARTITIONS
    # Of random bytes in each record.
    filler_bytes: int = 24
    commit: str = "{ interval: 200ms, size: 1MiB }"
    # The option of that name, or empty.
    partition_by: str = "[shelf]"
    # The option of that name, or empty.
    maintenance: str = ""
    has_workers: bool = False


class Ledger:
    """What was produced: per partition, the payload's id at each offset. Kept here, by nobody else."""

    def __init__(self, seed, shape):
        self.random, self.filler_bytes = random.Random(seed), shape.filler_bytes
        self.ids = [[] for _ in range(shape.partitions)]
        self.rejected, self.rejects = set(), True
        self.next_id = 0

    def records(self, count):
        lines = []
        for _ in range(count):
            number, partition = self.next_id, self.random.randrange(len(self.ids))
            self.next_id += 1
            filler = base64.b64encode(self.random.randbytes(self.filler_bytes)).decode()
            record = {"id": number, "shelf": f"s{number % 3}", "filler": filler}
            if number % 10 == 7:
                # Breaks the expectation, so that the quarantine has versions of its own.
                record["shelf"] = None
                if self.rejects:
                    self.rejected.add((partition, len(self.ids[partition])))
            self.ids[partition].append(number)
            lines.append(f"{partition}\t{json.dumps(record)}\n")
        return "".join(lines)

    def relax(self):
        """From now on nothing is rejected, and what was is to be redriven."""
        self.rejected, self.rejects = set(), False

    def expected(self):
        """Where each record must lie: (table, partition, offset, id)."""
        places = collections.Counter()
        for partition, ids in enumerate(self.ids):
            for offset, number in enumerate(ids):
                table = QUARANTINE if (partition, offset) in self.rejected else DATASET
                places[table, partition, offset, number] += 1
        return places


def delta_table(stores, cloud, prefix, table):
    from deltalake import DeltaTable

    return DeltaTable(f"{stores.urls(prefix)[cloud]}/datasets/{table}", storage_options=stores.python_options(cloud))


def rows(stores, cloud, prefix):
    """How many rows dataset and quarantine have in `cloud` by the statistics of their files, as an independent reader sees it."""
    return sum(delta_table(stores, cloud, prefix, table).count() for table in (DATASET, QUARANTINE))


def places(stores, cloud, prefix):
    """Where each record lies in `cloud`, as an independent reader sees it."""
    found = collections.Counter()
    for table, columns in ((DATASET, ("kafka_partition", "kafka_offset")), (QUARANTINE, ("partition", "offset"))):
        delta = delta_table(stores, cloud, prefix, table)
        names = [*columns, "id"] if table == DATASET else [*columns, "payload"]
        for partition, offset, last in zip(*delta.to_pyarrow_table(columns=names).to_pydict().values()):
            number = last if table == DATASET else json.loads(last)["id"]
            found[table, partition, offset, number] += 1
    return found


class Program:
    """A running isobar, and what it says."""

    def __init__(self, process, log, what):
        self.process, self.log, self.what = process, log, what

    def has_ended(self):
        return self.process.poll() is not None

    def says(self, text):
        return text in self.log.read_text(errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def state(self):
        """The state of the process, as /proc shows it."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]

    def ends(self, expected):
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            end(self.process)
            raise Wrong(f"{self.what} did not end within {PATIENCE_SECONDS} s") from None
        if code != expected:
            raise Wrong(f"{self.what} ended with {code}, not {expected}")

    def dies(self):
        self.ends(-signal.SIGKILL)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.dies()

    def stops(self):
        self.signal(signal.SIGTERM)
        self.ends(0)


class Bench:
    """The topic, the topology and the folder of one cell or drill. `records`: how many a cell produces altogether."""

    def __init__(self, arguments, stores, children, folder, name, seed, shape, records=0):
        self.arguments, self.stores, self.children, self.folder, self.name = arguments, stores, children, folder, name
        self.shape, self.records, self.ledger = shape, records, Ledger(seed, shape)
        self.logs = []
        self.folder.mkdir()
        (folder / "gcs.json").write_text(stores.key)
        (folder / "topology.yaml").write_text(self.topology())

    def topology(self):
        partition_by = f"    partition_by: {self.shape.partition_by}\n" if self.shape.partition_by else ""
        maintenance = f"    maintenance: {self.shape.maintenance}\n" if self.shape.maintenance else ""
        workers = 'workers: { token: "${env:ISOBAR_WORKER_TOKEN}" }\n' if self.shape.has_workers else ""
        return f"""topology: {DATASET}
kafka:
  brokers: "{os.environ['ISOBAR_KAFKA_BROKERS']}"
{self.stores.yaml(self.name)}commit: {self.shape.commit}
memory: 256MiB
{workers}sources:
  records:
    topic: {self.name}
    format: json
    fields: {{ id: int64, shelf: string, filler: string }}
datasets:
  {DATASET}:
    from: records
    sql: SELECT id, shelf, filler, _partition AS kafka_partition, _offset AS kafka_offset FROM records
    expect:
      - {{ name: shelved, check: "{RULE}", action: quarantine }}
{partition_by}{maintenance}"""

    # ---------------------------------------------------------------- what runs

    def produce(self, count):
        producer = start_producer(self.children, self.arguments.bin, self.name, self.shape.partitions)
        producer.communicate(self.ledger.records(count), timeout=PATIENCE_SECONDS)
        if producer.returncode != 0:
            raise Wrong(f"the producer ended with {producer.returncode}")

    def create_topic(self):
        self.produce(0)

    def start(self, *command, failpoint=""):
        """Starts `isobar` with `command`."""
        environment = {**os.environ, "ISOBAR_FAILPOINT": failpoint, "ISOBAR_WORKER_TOKEN": TOKEN, "NO_COLOR": "1"}
        log = self.folder / f"log-{len(self.logs) + 1}"
        self.logs.append(log)
        with open(log, "w") as file:
            file.write(f"=== isobar {' '.join(command)} {failpoint}\n")
            file.flush()
            process = self.children.start([self.arguments.isobar, *command], cwd=self.folder, stdout=file, stderr=file, env=environment)
        return Program(process, log, f"`isobar {' '.join(command)}` {failpoint}".rstrip())

    def run(self, *more, failpoint=""):
        return self.start("run", "topology.yaml", *more, failpoint=failpoint)

    def start_leader(self, failpoint=""):
        """Starts a process that takes workers."""
        return self.run("--metrics-addr", "127.0.0.1:0", failpoint=failpoint)

    def start_worker(self, failpoint=""):
        return self.run("--worker", failpoint=failpoint)

    def lead(self, failpoint=""):
        return self.begun(self.start_leader(failpoint), LEADS)

    def work(self, failpoint=""):
        return self.begun(self.start_worker(failpoint), WORKS)

    def begun(self, program, words):
        """Waits until `program` says `words`."""
        self.until(f"{program.what} says{words}", lambda: program.says(words) or program.has_ended())
        if not program.says(words):
            raise Wrong(f"{program.what} ended with {program.process.returncode} before it said{words}")
        return program

    def relax(self):
        """The rule that rejected records lets them pass from now on."""
        spec = self.folder / "topology.yaml"
        spec.write_text(spec.read_text().replace(RULE, "true"))
        self.ledger.relax()

    def redrive(self, failpoint=""):
        return self.start("quarantine", "redrive", DATASET, "--config", "topology.yaml", failpoint=failpoint)

    def scrub(self, *more, failpoint=""):
        return self.start("scrub", "topology.yaml", *more, failpoint=failpoint)

    def catch_up(self, failpoint=""):
        self.run("--until-caught-up", failpoint=failpoint).ends(0)

    def until(self, what, holds):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise Wrong(f"waited in vain until {what}")
            time.sleep(POLL_SECONDS)

    def flows_until(self, what, holds):
        """Produces a little again and again, so that there are many small commits."""

        def holds_by_now():
            self.produce(24)
            return holds()

        self.until(what, holds_by_now)

    # ---------------------------------------------------------------- what is found

    def objects(self, cloud):
        return self.stores.objects(cloud, self.name)

    def has_everything(self, cloud):
        return places(self.stores, cloud, self.name) == self.ledger.expected()

    def has_as_many(self, cloud):
        """Whether there are as many rows as there should be: quicker than looking at each."""
        return rows(self.stores, cloud, self.name) >= self.ledger.next_id

    def keeps_the_token(self):
        if any(TOKEN in log.read_text(errors="replace") for log in self.logs):
            raise Wrong("a log has the token of the workers in it")

    def judge(self):
        """Everything is read to its end; `prove` holds; and each record lies where the ledger says, in every cloud."""
        self.catch_up()
        self.start("prove", "--config", "topology.yaml").ends(0)
        expected = self.ledger.expected()
        for cloud in CLOUDS:
            found = places(self.stores, cloud, self.name)
            lost, surplus = expected - found, found - expected
            if lost or surplus:
                raise Wrong(f"{cloud}: {lost.total()} records lost, {surplus.total()} doubled or misplaced; for example "
                            f"{list(lost)[:3]} {list(surplus)[:3]}")

    def last_words(self):
        """The ends of the newest logs, for whoever looks at a cell that failed."""
        return [line for log in self.logs[-3:] for line in last_words(log)]


def last_words(log):
    """The first line of a log, which says what was started, and its end."""
    first, *rest = log.read_text(errors="replace").splitlines()
    return [first, *rest[-12:]]
