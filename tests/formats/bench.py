"""One topology of a test: its topics, what was produced to them, one run of the program, and the verdict on its tables.

Every record is produced with a fate: the row that it has to become, value by value, or the reasons for which it has to be in
the quarantine. Where the broker put it is the key under which it is looked for, in every cloud. Nothing of isobar is used but
the program `$ISOBAR_BIN`: the log is read by delta-rs; the Parquet files by Arrow and, of the cloud in a folder, by DuckDB.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import typing
import uuid

import duckdb
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.serialization import MessageField, SerializationContext
from deltalake import DeltaTable

# Where a topic is to hold records at the limit of isobar, which is far beyond that of a broker.
RECORD_BYTES_MAX = 16 << 20
BROKER_BYTES_MAX = RECORD_BYTES_MAX + (1 << 20)
# After that something hangs: the machine may be slow, and nothing here measures it.
PATIENCE_SECONDS = 900
SHOWN_MAX = 5
POSITION = ("kafka_partition", "kafka_offset")


def variable(name):
    value = os.environ.get(name)
    if value is None:
        raise RuntimeError(f"{name} is not set: these tests are run by `tests/run live`")
    return value


# ---------------------------------------------------------------- fates


@dataclasses.dataclass(frozen=True)
class Row:
    """It becomes a row with these values: `plain` ones, see `plain`."""

    values: dict


@dataclasses.dataclass(frozen=True)
class Bad:
    """It is in quarantine for one of these reasons, and the message names the field."""

    reasons: tuple
    field: str = ""


@dataclasses.dataclass(frozen=True)
class Judged:
    """It is either: in quarantine for whatever reason, or the row that another implementation reads; None: any row."""

    values: typing.Optional[dict]


@dataclasses.dataclass(frozen=True)
class Dropped:
    """It is nowhere: an expectation says `drop`, or it holds no row."""


DROPPED = Dropped()


def bad(*reasons, field=""):
    return Bad(reasons, field)


# ---------------------------------------------------------------- values


class Wrong(AssertionError):
    """A table that holds something else than was produced."""


def plain(scalar):
    """A value of Arrow in Python: dates and instants as the numbers they are, structs and maps as dictionaries."""
    if not scalar.is_valid:
        return None
    kind = str(scalar.type)
    if kind.startswith(("timestamp", "date")):
        return scalar.value
    if kind.startswith("map"):
        entries = [(plain(entry["key"]), plain(entry["value"])) for entry in scalar.values]
        if len(dict(entries)) != len(entries):
            raise Wrong(f"a map has a key twice: {shown(entries)}")
        return dict(entries)
    if kind.startswith(("list", "large_list")):
        return [plain(item) for item in scalar.values]
    if kind.startswith("struct"):
        return {field.name: plain(scalar[field.name]) for field in scalar.type}
    return scalar.as_py()


def shown(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def difference(path, expected, found):
    """The first difference, with the way to it; None if there is none. NaN is itself, and 0 is not -0."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if set(expected) != set(found):
            return f"field `{path}`: expected the names {sorted(expected)}, found {sorted(found)}"
        inner = ((f"{path}.{name}" if path else name, expected[name], found[name]) for name in expected)
        return next(filter(None, (difference(*each) for each in inner)), None)
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return f"field `{path}`: expected {len(expected)} elements {shown(expected)}, found {len(found)} {shown(found)}"
        inner = ((f"{path}[{index}]", *pair) for index, pair in enumerate(zip(expected, found)))
        return next(filter(None, (difference(*each) for each in inner)), None)
    if isinstance(expected, float) and isinstance(found, float):
        is_same = math.isnan(expected) and math.isnan(found) or struct.pack("d", expected) == struct.pack("d", found)
    else:
        is_same = type(expected) is type(found) and expected == found
    return None if is_same else f"field `{path}`: expected {shown(expected)}, found {shown(found)}"


# ---------------------------------------------------------------- topics and their tables


class Source:
    """A topic, the source that reads it and the dataset that is made of it, and what was produced.

    The dataset has the fields, and `columns` beside: by name, what they are in SQL.
    """

    def __init__(self, prefix, name, settings, fields, columns=(), expect=(), partitions=1):
        self.name = name
        self.topic = f"{prefix}-{name}"
        self.partitions = partitions
        self.spec = {"topic": self.topic, **settings, "fields": fields}
        self.columns = dict(columns)
        self.expect = list(expect)
        # Payloads and their fates, and where the broker put them.
        self.records = []
        self.produced = {}
        self.sent = 0

    def add(self, payload, fate):
        self.records.append((payload, fate))

    def serialised(self, serializer, value, fate):
        self.add(serializer(value, SerializationContext(self.topic, MessageField.VALUE)), fate)

    def dataset(self):
        position = "_partition AS kafka_partition, _offset AS kafka_offset"
        names = [f'"{name}"' for name in self.spec["fields"]] + [f"{sql} AS {name}" for name, sql in self.columns.items()]
        dataset = {"from": self.name, "sql": f"SELECT {', '.join(names)}, {position} FROM {self.name}"}
        return {**dataset, "expect": self.expect} if self.expect else dataset

    # The verdict, on one cloud's tables.

    def judge(self, cloud):
        rows = by_position(cloud.rows(self.name), POSITION)
        kept = by_position(cloud.rows(f"{self.name}.quarantine"), ("partition", "offset"))
        problems = []
        for position, (payload, fate) in sorted(self.produced.items()):
            problem = verdict(self.topic, payload, fate, rows.pop(position, None), kept.pop(position, None))
            if problem:
                size = "no payload" if payload is None else f"{len(payload)} bytes {payload[:40].hex()}"
                problems.append(f"partition {position[0]} offset {position[1]} ({size}): {problem}")
        problems.extend(f"{position} in the dataset was not produced" for position in rows)
        problems.extend(f"{position} in the quarantine was not produced" for position in kept)
        if problems:
            listed = "\n  ".join(problems[:SHOWN_MAX])
            raise Wrong(f"{self.topic} in {cloud.name}: {len(problems)} of {len(self.produced)} records are wrong\n  {listed}")


def by_position(table, columns):
    """The rows of a table by their positions, each once."""
    names = [name for name in table.column_names if name not in columns or columns != POSITION]
    partitions, offsets = (table[column].to_pylist() for column in columns)
    found = {}
    for index, position in enumerate(zip(partitions, offsets)):
        if position in found:
            raise Wrong(f"partition {position[0]} offset {position[1]} is there twice")
        found[position] = (table, names, index)
    return found


def values_of(row):
    table, names, index = row
    return {name: plain(table[name][index]) for name in names}


def verdict(topic, payload, fate, row, quarantined):
    """What is wrong with what became of a record, or None."""
    if fate == DROPPED:
        return "expected to be dropped" if row or quarantined else None
    if row and quarantined:
        return "it is a row and in quarantine as well"
    if not row and not quarantined:
        return f"it is lost; expected {shown(fate)}"
    if quarantined:
        found = values_of(quarantined)
        if isinstance(fate, Row):
            return f"expected {shown(fate.values)}, found in quarantine: {found['reason']}: {found['message']}"
        if isinstance(fate, Bad) and found["reason"] not in fate.reasons:
            return f"expected in quarantine for {' or '.join(fate.reasons)}, found {found['reason']}: {found['message']}"
        if isinstance(fate, Bad) and fate.field not in found["message"]:
            return f"expected a message that names `{fate.field}`, found {found['message']}"
        kept = {"payload": found["payload"], "topic": found["topic"]}
        return difference("", {"payload": payload, "topic": topic}, kept)
    if isinstance(fate, Bad):
        return f"expected in quarantine for {' or '.join(fate.reasons)}, found the row {shown(values_of(row))}"
    return None if fate.values is None else difference("", fate.values, values_of(row))


# ---------------------------------------------------------------- clouds


class StoreCloud:
    """A cloud in an object store, read by delta-rs and Arrow."""

    def __init__(self, name, url, options, reader_options):
        self.name, self.url, self.options, self.reader_options = name, url, options, reader_options

    def spec(self):
        return {"url": self.url, "options": self.options}

    def table(self, name):
        return DeltaTable(f"{self.url}/datasets/{name}", storage_options=self.reader_options)

    def rows(self, name):
        return self.table(name).to_pyarrow_table()


class FolderCloud:
    """A cloud in a folder: delta-rs says which files there are, DuckDB reads them."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder

    def spec(self):
        return {"url": f"file://{self.folder}"}

    def table(self, name):
        return DeltaTable(str(self.folder / "datasets" / name))

    def rows(self, name):
        table = self.table(name)
        files = table.file_uris()
        if not files:
            return table.to_pyarrow_table()
        with contextlib.closing(duckdb.connect()) as connection:
            connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
            return connection.read_parquet(files).to_arrow_table()


def clouds(prefix, folder):
    s3, azure = variable("ISOBAR_S3_ENDPOINT"), variable("ISOBAR_AZURE_ENDPOINT")
    account, region = variable("ISOBAR_AZURE_ACCOUNT"), variable("ISOBAR_S3_REGION")
    return [
        StoreCloud(
            "aws", f"s3://{variable('ISOBAR_S3_BUCKET')}/{prefix}",
            {"endpoint": s3, "allow_http": True, "region": region, "access_key_id": "${env:ISOBAR_S3_ACCESS_KEY_ID}",
             "secret_access_key": "${env:ISOBAR_S3_SECRET_ACCESS_KEY}"},
            {"AWS_ENDPOINT_URL": s3, "AWS_ALLOW_HTTP": "true", "AWS_REGION": region,
             "AWS_ACCESS_KEY_ID": variable("ISOBAR_S3_ACCESS_KEY_ID"),
             "AWS_SECRET_ACCESS_KEY": variable("ISOBAR_S3_SECRET_ACCESS_KEY")}),
        StoreCloud(
            "azure", f"az://{variable('ISOBAR_AZURE_CONTAINER')}/{prefix}",
            {"endpoint": azure, "allow_http": True, "account_name": account, "account_key": "${env:ISOBAR_AZURE_KEY}"},
            {"azure_storage_account_name": account, "azure_storage_account_key": variable("ISOBAR_AZURE_KEY"),
             "azure_endpoint": azure, "allow_http": "true"}),
        FolderCloud("folder", folder / "folder"),
    ]


# ---------------------------------------------------------------- the topology


class Bench:
    """A topology with a name of its own. Everything of one run is committed at once, so that files can be counted."""

    def __init__(self, name, registry=None):
        self.prefix = f"formats-{name}-{uuid.uuid4().hex[:8]}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        self.clouds = clouds(self.prefix, self.folder)
        self.registry_spec = registry or {"url": variable("ISOBAR_REGISTRY_URL")}
        self.registry = SchemaRegistryClient({"url": variable("ISOBAR_REGISTRY_URL")})
        self.sources = {}

    def source(self, name, settings, fields, **further):
        self.sources[name] = Source(self.prefix, name, settings, fields, **further)
        return self.sources[name]

    def file(self, name, content):
        """A file beside the spec, by the path that the spec names it with."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return f"./{name}"

    def spec(self):
        path = self.folder / "topology.yaml"
        if not path.exists():
            spec = {
                "topology": self.prefix, "kafka": {"brokers": variable("ISOBAR_KAFKA_BROKERS")}, "registry": self.registry_spec,
                "clouds": {cloud.name: cloud.spec() for cloud in self.clouds}, "commit": {"interval": "1h", "size": "1GiB"},
                "sources": {source.name: source.spec for source in self.sources.values()},
                "datasets": {source.name: source.dataset() for source in self.sources.values()},
            }
            # JSON is YAML.
            path.write_text(json.dumps(spec, indent=1))
        return path

    def produce(self):
        brokers = {"bootstrap.servers": variable("ISOBAR_KAFKA_BROKERS")}
        config = {"max.message.bytes": str(BROKER_BYTES_MAX)}
        admin = AdminClient(brokers)
        topics = [NewTopic(source.topic, source.partitions, 1, config=config) for source in self.sources.values() if not source.produced]
        for created in admin.create_topics(topics, operation_timeout=PATIENCE_SECONDS).values() if topics else ():
            created.result()
        producer = Producer({**brokers, "message.max.bytes": BROKER_BYTES_MAX, "acks": "all", "linger.ms": 5,
                             "enable.idempotence": True, "delivery.timeout.ms": PATIENCE_SECONDS * 1000})
        for source in self.sources.values():
            for record in source.records[source.sent:]:
                # In turn, so that all partitions hold a bit of everything.
                partition = source.sent % source.partitions
                producer.produce(source.topic, record[0], partition=partition, on_delivery=noting(source, record))
                producer.poll(0)
                source.sent += 1
        left = producer.flush(PATIENCE_SECONDS)
        for source in self.sources.values():
            if left or len(source.produced) != len(source.records):
                raise RuntimeError(f"{source.topic}: the broker has {len(source.produced)} of {len(source.records)} records")

    def isobar(self, *arguments):
        command = [variable("ISOBAR_BIN"), *map(str, arguments)]
        return subprocess.run(command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE_SECONDS)

    def succeed(self, *arguments):
        done = self.isobar(*arguments)
        if done.returncode != 0:
            raise Wrong(f"isobar {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}")
        return done.stdout

    def run(self):
        """Produces what was added and lets the program make rows of it."""
        self.produce()
        self.succeed("check", self.spec())
        self.succeed("run", self.spec(), "--until-caught-up", "--progress", "never")

    def judge(self, *names):
        """Every record of these topics is where it belongs, in every cloud; what is wrong is said of all of them."""
        problems = []
        for name in names:
            for cloud in self.clouds:
                try:
                    self.sources[name].judge(cloud)
                except Wrong as wrong:
                    problems.append(str(wrong))
        if problems:
            raise Wrong("\n".join(problems))

    def prove(self):
        """The program's own audit of all clouds holds, dataset by dataset."""
        proof = json.loads(self.succeed("prove", "--config", self.spec(), "--format", "json"))
        if proof["holds"] is not True:
            raise Wrong(f"prove: {json.dumps(proof)[:4000]}")

    def files(self, name):
        """How many data files the dataset has, in each cloud."""
        return {cloud.name: len(cloud.table(name).file_uris()) for cloud in self.clouds}

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def noting(source, record):
    def delivered(error, message):
        if error is None:
            source.produced[(message.partition(), message.offset())] = record

    return delivered
