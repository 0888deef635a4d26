"""Change events of Debezium, in Avro as Kafka Connect's converter writes them and the same events in JSON.

Among them what holds no row: tombstones, heartbeats and boundaries of transactions, which have schemas of their own; and what no
row can say: truncates, messages of applications, deletes of nobody knows what.
"""

import io
import json
import unittest

import fastavro
from avro_types import scaled
from bench import DROPPED, Bench, Row, bad
from confluent_kafka.schema_registry.avro import AvroSerializer
from values import blob, boolean, generator, integer, items, maybe, text

ROUNDS = 200
COLUMNS = {"op": "_op", "changed_at": "_source_timestamp"}


def connect(base, name, **further):
    """A type as the converter names it."""
    base = base if isinstance(base, dict) else {"type": base}
    return {**base, "connect.version": 1, "connect.name": name, **further}


DECIMAL = connect("bytes", "org.apache.kafka.connect.data.Decimal", logicalType="decimal", scale=2, precision=64,
                  **{"connect.parameters": {"scale": "2", "connect.decimal.precision": "12"}})
# Name, type in Avro, type in the contract, how to pick a value, and what has to be found of one.
FIELDS = [
    ("id", {"type": "long", "connect.default": 0}, {"type": "int64", "nullable": False}, integer(64), None),
    ("name", ["null", "string"], "string", lambda r: maybe(r, text), None),
    ("is_vip", [{"type": "boolean", "connect.default": False}, "null"], "boolean", lambda r: maybe(r, boolean), None),
    ("price", ["null", DECIMAL], "decimal(12,2)", lambda r: maybe(r, scaled(12, 2)), None),
    ("at", ["null", connect("long", "org.apache.kafka.connect.data.Timestamp", logicalType="timestamp-millis")], "timestamp",
     lambda r: maybe(r, integer(40)), lambda v: v * 1000),
    ("day", connect("int", "org.apache.kafka.connect.data.Date", logicalType="date"), "date", integer(16), None),
    ("born", ["null", connect("int", "io.debezium.time.Date")], "int32", lambda r: maybe(r, integer(16)), None),
    ("seen", connect("long", "io.debezium.time.MicroTimestamp"), "int64", integer(50), None),
    ("zoned", ["null", connect("string", "io.debezium.time.ZonedTimestamp")], "string", lambda r: maybe(r, text), None),
    ("kind", connect("string", "io.debezium.data.Enum", **{"connect.parameters": {"allowed": "a,b"}}), "string", lambda r: r.choice("ab"), None),
    ("raw", ["null", "bytes"], "binary", lambda r: maybe(r, blob), None),
    ("tags", ["null", {"type": "array", "items": ["null", "string"]}], "list<string>", lambda r: maybe(r, lambda r: items(r, lambda r: maybe(r, text))), None),
    ("odd", ["null", connect({"type": "record", "name": "VariableScaleDecimal", "namespace": "io.debezium.data", "fields": [
        {"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}]}, "io.debezium.data.VariableScaleDecimal")],
     "struct<scale: int32, value: binary>", lambda r: maybe(r, lambda r: {"scale": integer(8)(r), "value": blob(r)}), None),
]
CONTRACT = {name: contract for name, _, contract, _, _ in FIELDS}
# What JSON says in the same way.
IN_JSON = ("id", "name", "is_vip", "born", "seen", "zoned", "kind", "tags")

SOURCE = {"type": "record", "name": "Source", "namespace": "io.debezium.connector.postgresql", "fields": [
    {"name": "version", "type": "string"}, {"name": "ts_ms", "type": "long"},
    {"name": "snapshot", "type": [connect("string", "io.debezium.data.Enum"), "null"], "default": "false"},
    {"name": "sequence", "type": ["null", "string"], "default": None}, {"name": "lsn", "type": ["null", "long"], "default": None}]}
TRANSACTION = {"type": "record", "name": "block", "namespace": "event", "fields": [
    {"name": "id", "type": "string"}, {"name": "total_order", "type": "long"}, {"name": "data_collection_order", "type": "long"}]}
HEARTBEAT = {"type": "record", "name": "Heartbeat", "namespace": "io.debezium.connector.common", "fields": [{"name": "ts_ms", "type": "long"}]}
BOUNDARY = {"type": "record", "name": "TransactionMetadataValue", "namespace": "io.debezium.connector.common", "fields": [
    {"name": "status", "type": "string"}, {"name": "id", "type": "string"}, {"name": "event_count", "type": ["null", "long"]},
    {"name": "data_collections", "type": ["null", {"type": "array", "items": {"type": "record", "name": "collection", "namespace": "event",
        "fields": [{"name": "data_collection", "type": "string"}, {"name": "event_count", "type": "long"}]}}]},
    {"name": "ts_ms", "type": "long"}]}
MESSAGE = {"type": "record", "name": "MessageValue", "namespace": "io.debezium.connector.postgresql", "fields": [
    {"name": "op", "type": ["null", "string"]}, {"name": "ts_ms", "type": ["null", "long"]}, {"name": "source", "type": SOURCE},
    {"name": "message", "type": {"type": "record", "name": "Message", "fields": [
        {"name": "prefix", "type": ["null", "string"]}, {"name": "content", "type": ["null", "bytes"]}]}}]}


def envelope(more=()):
    """The schema of the events of a table, which may have further columns."""
    fields = [{"name": name, "type": avro} for name, avro, _, _, _ in FIELDS] + [{"name": name, "type": avro} for name, avro in more]
    value = {"type": "record", "name": "Value", "fields": fields, "connect.name": "shop.public.customers.Value"}
    return {"type": "record", "name": "Envelope", "namespace": "shop.public.customers", "connect.version": 2, "fields": [
        {"name": "before", "type": ["null", value], "default": None}, {"name": "after", "type": ["null", "Value"], "default": None},
        {"name": "source", "type": SOURCE}, {"name": "transaction", "type": ["null", TRANSACTION], "default": None},
        {"name": "op", "type": "string"}, *({"name": name, "type": ["null", "long"], "default": None} for name in ("ts_ms", "ts_us", "ts_ns"))]}


def row(rng):
    return {name: pick(rng) for name, _, _, pick, _ in FIELDS}


def found(values):
    """What has to be found of a row."""
    expects = {name: expect for name, _, _, _, expect in FIELDS if expect}
    return {name: expects[name](value) if name in expects and value is not None else value for name, value in values.items()}


def source_of(ts_ms):
    return {"version": "3.0.0.Final", "ts_ms": ts_ms, "snapshot": "false", "sequence": None, "lsn": 24_023_128}


def event(rng, op, before, after):
    ts_ms = integer(40)(rng)
    transaction = maybe(rng, lambda r: {"id": "571:53195832", "total_order": 1, "data_collection_order": 1})
    return {"before": before, "after": after, "source": source_of(ts_ms), "transaction": transaction, "op": op,
            "ts_ms": ts_ms + 98, "ts_us": (ts_ms + 98) * 1000, "ts_ns": None}


def events(rng):
    """Events and their fates."""
    def fate(value, values):
        return Row({**found(values), "op": value["op"], "changed_at": value["source"]["ts_ms"] * 1000})

    for _ in range(ROUNDS):
        op = rng.choice("curd")
        one, other = row(rng), row(rng)
        before, after = {"c": (None, one), "r": (None, one), "u": (other, one), "d": (one, None)}[op]
        value = event(rng, op, before, after)
        yield value, fate(value, one)
    for op, before, after, reason, field in [
            ("t", None, None, "invalid_value", "op"), ("m", None, None, "invalid_value", "op"), ("x", None, row(rng), "invalid_value", "op"),
            ("c", None, None, "missing_field", "after"), ("u", row(rng), None, "missing_field", "after"),
            ("d", None, None, "missing_field", "before"), ("d", row(rng), row(rng), "invalid_value", "after")]:
        yield event(rng, op, before, after), bad(reason, field=field)


class Debezium(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("debezium")
        cls.addClassCleanup(cls.bench.remove)
        cls.with_registry(generator("debezium registry"))
        cls.with_one_schema(generator("debezium plain"))
        cls.with_more_columns(generator("debezium more"))
        cls.in_json(generator("debezium json"))
        cls.bench.run()

    @classmethod
    def source(cls, name, settings, contract, **further):
        return cls.bench.source(name, {"envelope": "debezium", **settings}, contract, columns=COLUMNS, **further)

    @classmethod
    def serializer(cls, schema):
        return AvroSerializer(cls.bench.registry, json.dumps(schema))

    @classmethod
    def with_registry(cls, rng):
        source = cls.source("registry", {"format": "avro"}, CONTRACT, partitions=3)
        changes, heartbeat, boundary, message = map(cls.serializer, (envelope(), HEARTBEAT, BOUNDARY, MESSAGE))
        for value, fate in events(rng):
            source.serialised(changes, value, fate)
            if value["op"] == "d":
                source.add(None, DROPPED)
        for payload, _ in source.records[:20]:
            if payload:
                source.add(payload[:-1], bad("undecodable"))
                source.add(payload + b"\0", bad("undecodable"))
        source.serialised(heartbeat, {"ts_ms": 1}, DROPPED)
        for status, count, collections in (("BEGIN", None, None), ("END", 2, [{"data_collection": "public.customers", "event_count": 2}])):
            value = {"status": status, "id": "571:53195832", "event_count": count, "data_collections": collections, "ts_ms": 1}
            source.serialised(boundary, value, DROPPED)
        source.serialised(boundary, {**value, "status": "PAID"}, bad("missing_field", field="op"))
        value = {"op": "m", "ts_ms": 1, "source": source_of(1), "message": {"prefix": "p", "content": b"c"}}
        source.serialised(message, value, bad("invalid_value", field="op"))

    @classmethod
    def with_one_schema(cls, rng):
        settings = {"format": "avro", "schema": cls.bench.file("customers.avsc", json.dumps(envelope()))}
        source = cls.source("plain", settings, CONTRACT)
        parsed = fastavro.parse_schema(envelope())
        for value, fate in events(rng):
            out = io.BytesIO()
            fastavro.schemaless_writer(out, parsed, value)
            source.add(out.getvalue(), fate)
        source.add(None, DROPPED)

    @classmethod
    def with_more_columns(cls, rng):
        """A column that the table got, in quarantine or left out, record by record."""
        refused = cls.source("refused", {"format": "avro"}, CONTRACT)
        ignored = cls.source("ignored", {"format": "avro", "unknown_fields": "ignore"}, CONTRACT)
        before, after = cls.serializer(envelope()), cls.serializer(envelope([("new", ["null", "string"])]))
        for value, fate in events(rng):
            wider = {name: rows and {**rows, "new": text(rng)} for name, rows in value.items() if name in ("before", "after")}
            ignored.serialised(before, value, fate)
            ignored.serialised(after, {**value, **wider}, fate)
            refused.serialised(before, value, fate)
            refused.serialised(after, {**value, **wider}, bad("unknown_field", field="new"))

    @classmethod
    def in_json(cls, rng):
        source = cls.source("in_json", {"format": "json"}, {name: CONTRACT[name] for name in IN_JSON})

        def only(values):
            return values and {name: values[name] for name in IN_JSON}

        for number, (value, fate) in enumerate(events(rng)):
            value = {**value, "before": only(value["before"]), "after": only(value["after"])}
            if isinstance(fate, Row):
                fate = Row({name: fate.values[name] for name in (*IN_JSON, *COLUMNS)})
            wrapped = {"schema": {"type": "struct", "fields": []}, "payload": value}
            source.add(json.dumps(wrapped if number % 2 else value).encode(), fate)
        for payload in (None, b"null", b'{"ts_ms":1}'):
            source.add(payload, DROPPED)

    def test_avro_with_a_registry(self):
        self.bench.judge("registry")

    def test_avro_with_one_given_schema(self):
        self.bench.judge("plain")

    def test_a_column_that_the_table_got(self):
        self.bench.judge("refused", "ignored")

    def test_json(self):
        self.bench.judge("in_json")

    def test_prove_holds(self):
        self.bench.prove()


if __name__ == "__main__":
    unittest.main()
