"""What nobody should send: cut short, made up, too deep, too wide, too large, of no schema or another. Nothing of it is lost.

What isobar must make of a payload that is neither whole nor surely broken, another implementation says: fastavro, Google's
Protobuf. It may be in quarantine; if it is a row, it is the one that those read.
"""

import io
import json
import struct
import unittest

import fastavro
import protobuf_types
from bench import RECORD_BYTES_MAX, Bench, Judged, Row, bad
from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from values import generator, integer, text

WIDTH = 2000
DEPTH_MAX = 64
UNKNOWN_IDS = (0, 2**31 - 1, 2**31, 2**32 - 1, 1_999_999_999)
TREE = {"type": "record", "name": "Tree", "fields": [
    {"name": "id", "type": "long"}, {"name": "name", "type": ["null", "string"]}, {"name": "marks", "type": {"type": "array", "items": "int"}},
    {"name": "by_name", "type": {"type": "map", "values": "double"}}, {"name": "node", "type": ["null", {
        "type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}]}]}
TREE_CONTRACT = {"id": "int64", "name": "string", "marks": "list<int32>", "by_name": "map<string, float64>"}
EMPTY = {"id": 7, "name": None, "marks": [], "by_name": {}, "node": None}
PROTO_TREE = """syntax = "proto3"; package test;
message Tree { int64 id = 1; optional string name = 2; repeated int32 marks = 3; map<string, double> by_name = 4; Node node = 5; Level level = 6; }
message Node { Node next = 1; }
enum Level { LOW = 0; HIGH = 5; }
"""
BY_NAME = 4
PROTO_CONTRACT = {**TREE_CONTRACT, "level": "string"}
# Apicurio knows a JSON Schema by its `$schema`.
JSON_SCHEMA = '{"$schema": "http://json-schema.org/draft-07/schema#", "title": "Tree", "type": "object"}'


def header(identity):
    return b"\0" + struct.pack(">I", identity)


def nodes(depth):
    node = None
    for _ in range(depth):
        node = {"next": node}
    return node


def only(contract, values):
    return {name: values[name] for name in contract}


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("hostile")
        cls.addClassCleanup(cls.bench.remove)
        cls.ids = cls.foreign_schemas()
        cls.avro(generator("hostile avro"))
        cls.protobuf(generator("hostile protobuf"))
        cls.json(generator("hostile json"))
        cls.garbage(generator("garbage"))
        cls.wide(generator("wide"))
        cls.limits(generator("limits"))
        cls.bench.run()

    @classmethod
    def register(cls, subject, schema, kind):
        return cls.bench.registry.register_schema(f"{cls.bench.prefix}-{subject}", Schema(schema, kind))

    @classmethod
    def foreign_schemas(cls):
        """Schemas that are there and are not those of the records."""
        return {
            "avro": cls.register("foreign-avro", json.dumps({"type": "record", "name": "Other", "fields": [{"name": "o", "type": "int"}]}), "AVRO"),
            "primitive": cls.register("foreign-primitive", '"string"', "AVRO"),
            "protobuf": cls.register("foreign-protobuf", 'syntax = "proto3"; message Other { int32 o = 1; }', "PROTOBUF"),
            "json": cls.register("foreign-json", JSON_SCHEMA, "JSON"),
        }

    @classmethod
    def no_payloads(cls, source):
        source.add(None, bad("tombstone"))
        source.add(b"", bad("empty_payload"))
        source.add(None, bad("tombstone"))

    @classmethod
    def wrong_headers(cls, source, payload, foreign):
        """The value of a good record behind headers that are not its own."""
        value = payload[5:]
        for identity in UNKNOWN_IDS:
            source.add(header(identity) + value, bad("unknown_schema"))
        for name in foreign:
            # What a schema of the same language has is stepped over, and the value is not one of it.
            source.add(header(cls.ids[name]) + value, bad("undecodable" if name == "avro" and "avro" in source.name else "incompatible_schema"))
        for magic in (1, 2, 3, 255):
            source.add(bytes([magic]) + payload[1:], bad("unknown_schema"))
        # AWS Glue's; Avro's single-object encoding.
        source.add(b"\3\0" + bytes(16) + value, bad("unknown_schema"))
        source.add(b"\xc3\1" + bytes(8) + value, bad("unknown_schema"))
        source.add(value, bad("unknown_schema"))

    # ------------------------------------------------------------ avro

    @classmethod
    def avro(cls, rng):
        source = cls.bench.source("avro", {"format": "avro", "unknown_fields": "ignore"}, TREE_CONTRACT, partitions=2)
        serializer = AvroSerializer(cls.bench.registry, json.dumps(TREE))
        parsed = fastavro.parse_schema(TREE)
        whole = {"id": -(2**63), "name": "né🜁", "marks": [1, -(2**31), 300], "by_name": {"a": 0.5, "": -1.0}, "node": nodes(2)}
        source.serialised(serializer, whole, Row(only(TREE_CONTRACT, whole)))
        payload = source.records[-1][0]
        start = payload[:5]
        for end in range(1, len(payload)):
            source.add(payload[:end], bad("unknown_schema" if end < 5 else "undecodable"))
        source.add(payload + b"\0", bad("undecodable"))
        cls.wrong_headers(source, payload, ["avro", "primitive", "protobuf", "json"])
        cls.no_payloads(source)
        for _ in range(300):
            value = rng.randbytes(rng.randrange(1, 60))
            source.add(start + value, cls.judged_by_fastavro(parsed, value))
        for _ in range(300):
            value = bytearray(payload[5:])
            value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
            source.add(start + value, cls.judged_by_fastavro(parsed, bytes(value)))
        # How deep it goes: the record, then its nodes.
        for depth in (1, 20, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 500):
            value = {**EMPTY, "node": nodes(depth)}
            fate = Row(only(TREE_CONTRACT, value)) if depth < DEPTH_MAX else bad("undecodable", field="node")
            source.serialised(serializer, value, fate)
        source.add(start + b"\0\0\0\0" + b"\2" * 1_000_000 + b"\0", bad("undecodable", "oversize"))
        # Counts of blocks that say more than there is: 2^62 elements, a negative count, one that has no opposite.
        for count in (b"\xfe" + b"\xff" * 8 + b"\x01", b"\x01", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80" * 9 + b"\x02"):
            source.add(start + b"\0\0" + count, bad("undecodable", "oversize"))

    @classmethod
    def judged_by_fastavro(cls, parsed, value):
        stream = io.BytesIO(value)
        try:
            found = fastavro.schemaless_reader(stream, parsed)
        except Exception:
            # Whatever it says: it reads none.
            return bad("undecodable", "oversize", "duplicate_field")
        if stream.tell() != len(value):
            return bad("undecodable", "oversize", "duplicate_field")
        return Judged(only(TREE_CONTRACT, found))

    # ------------------------------------------------------------ protobuf

    @classmethod
    def protobuf(cls, rng):
        kind = protobuf_types.message_class(protobuf_types.compiled(PROTO_TREE), "test.Tree")
        start = header(cls.register("tree", PROTO_TREE, "PROTOBUF")) + b"\0"
        source = cls.bench.source("protobuf", {"format": "protobuf", "unknown_fields": "ignore"}, PROTO_CONTRACT, partitions=2)
        strict = cls.bench.source("protobuf_strict", {"format": "protobuf"}, PROTO_CONTRACT)
        whole = kind(id=-1, name="né🜁", marks=[1, -1, 300], by_name={"a": 0.5, "": -1.0}, level=5)
        payload = start + whole.SerializeToString()
        source.add(payload, Row(protobuf_types.read(whole, PROTO_CONTRACT)))
        for end in range(1, len(payload)):
            fate = bad("unknown_schema" if end < 5 else "undecodable") if end < 6 else cls.judged_by_google(kind, payload[6:end], is_made_of_it=True)
            source.add(payload[:end], fate)
            if end > 5:
                strict.add(payload[:end], fate)
        cls.wrong_headers(source, payload, ["avro", "json"])
        cls.no_payloads(source)
        source.add(start[:5] + b"\2\x06" + payload[6:], bad("undecodable"))
        source.add(start[:5] + b"\4\0\0" + payload[6:], bad("undecodable"))
        source.add(start[:5] + b"\xff" * 12, bad("undecodable"))
        # Another message of the schema, which has nothing of the contract: all is null.
        source.add(start[:5] + b"\2\2", Row(dict.fromkeys(PROTO_CONTRACT)))
        strict.add(start[:5] + b"\2\2\x0a\0", bad("unknown_field"))
        for _ in range(300):
            value = rng.randbytes(rng.randrange(1, 40))
            source.add(start + value, cls.judged_by_google(kind, value))
        for _ in range(300):
            value = bytearray(payload[6:])
            value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
            source.add(start + value, cls.judged_by_google(kind, bytes(value)))
        # What is left out is not looked at, however deep.
        value = b""
        for _ in range(2000):
            length = bytearray()
            size = len(value)
            while size > 127:
                length.append(size & 127 | 128)
                size >>= 7
            value = b"\x0a" + bytes(length) + bytes([size]) + value
        for node in (value[-40:], value):
            payload = start + b"\x08\7\x2a" + (bytes([len(node)]) if len(node) < 128 else bytes([len(node) & 127 | 128, len(node) >> 7])) + node
            source.add(payload, Row({**protobuf_types.read(kind(id=7), PROTO_CONTRACT)}))
            strict.add(payload, bad("unknown_field", field="node"))
        # A group in a group in …
        source.add(start + b"\x53" * 10_000, bad("undecodable"))

    @classmethod
    def judged_by_google(cls, kind, value, is_made_of_it=False):
        try:
            message = kind.FromString(value)
        except DecodeError:
            return bad("undecodable", "wrong_type", "out_of_range", "invalid_value")
        if any(field.field_number == BY_NAME for field in UnknownFieldSet(message)):
            # Of an entry of a map with an unknown field in it, this implementation makes an unknown field as a whole; the
            # others, and isobar, leave that one field out.
            return Judged(None)
        row = protobuf_types.read(message, PROTO_CONTRACT)
        if protobuf_types.holds_unnamed(row):
            return bad("invalid_value", "undecodable", "wrong_type")
        return Row(row) if is_made_of_it else Judged(row)

    # ------------------------------------------------------------ json, csv, compressed

    @classmethod
    def json(cls, rng):
        source = cls.bench.source("json", {"format": "json", "unknown_fields": "ignore"}, TREE_CONTRACT)
        framed = cls.bench.source("json_registry", {"format": "json", "framing": "confluent", "unknown_fields": "ignore"}, TREE_CONTRACT)
        serializer = JSONSerializer(JSON_SCHEMA, cls.bench.registry)
        whole = {"id": -(2**63), "name": "né🜁", "marks": [1, -(2**31)], "by_name": {"a": 0.5}, "node": {"next": [None, True]}}
        payload = json.dumps(whole, ensure_ascii=False).encode()
        source.add(payload, Row(only(TREE_CONTRACT, whole)))
        for end in range(1, len(payload)):
            source.add(payload[:end], bad("undecodable"))
        framed.serialised(serializer, whole, Row(only(TREE_CONTRACT, whole)))
        payload = framed.records[-1][0]
        for end in range(1, len(payload)):
            framed.add(payload[:end], bad("unknown_schema" if end < 5 else "undecodable", "empty_payload"))
        # Which schema a header names is not looked at.
        for identity in UNKNOWN_IDS:
            framed.add(header(identity) + payload[5:], Row(only(TREE_CONTRACT, whole)))
        for each in (source, framed):
            cls.no_payloads(each)
        row = Row(only(TREE_CONTRACT, EMPTY))
        for depth in (1, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 100_000):
            value = b'{"id": 7, "marks": [], "by_name": {}, "node": ' + b"[" * depth + b"]" * depth + b"}"
            source.add(value, row if depth < DEPTH_MAX else bad("undecodable"))
        source.add(b'{"id":' * 5000, bad("undecodable", "wrong_type"))
        source.add(b'{"id": ' + b"9" * 1_000_000 + b"}", bad("out_of_range"))
        source.add(b'{"id": 1e' + b"9" * 1_000 + b"}", bad("out_of_range"))

    # ------------------------------------------------------------ nothing but garbage

    @classmethod
    def garbage(cls, rng):
        """Topics of which no record is good, in every format."""
        cls.garbages = []
        fields = {"id": "int64", "name": "string"}
        schema = cls.bench.file("garbage.avsc", json.dumps({"type": "record", "name": "G", "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": {
            "type": "fixed", "name": "F", "size": 1000}}]}))
        proto = cls.bench.file("garbage.proto", 'syntax = "proto2"; message G { required int64 id = 1; required string name = 2; }')
        for name, settings in {
            "json": {"format": "json"}, "json_registry": {"format": "json", "framing": "confluent"}, "avro": {"format": "avro"},
            "avro_plain": {"format": "avro", "schema": schema}, "avro_single": {"format": "avro", "framing": "single_object", "schema": schema},
            "protobuf": {"format": "protobuf"}, "protobuf_plain": {"format": "protobuf", "schema": proto}, "csv": {"format": "csv"},
            "gzip": {"format": "json", "payload_compression": "gzip"}, "zstd": {"format": "csv", "payload_compression": "zstd"},
        }.items():
            its_fields = {"id": "int64", "name": "binary"} if name in ("avro_plain", "avro_single") else fields
            source = cls.bench.source(f"garbage_{name}", settings, its_fields, partitions=2)
            cls.garbages.append(source.name)
            for _ in range(200):
                # No delimiter, so that a line of CSV has one value where two belong; no zero first, so that no schema is named.
                payload = bytes(byte for byte in rng.randbytes(rng.randrange(1, 100)) if byte not in b",\0") or b"\1"
                source.add(payload, ANY_REASON)

    # ------------------------------------------------------------ wide and large

    @classmethod
    def wide(cls, rng):
        names = [f"f{number}" for number in range(WIDTH)]
        kinds = ["long", ["null", "string"], "double", "boolean"]
        types = ["int64", "string", "float64", "boolean"]
        fields = [{"name": name, "type": kinds[number % 4]} for number, name in enumerate(names)]
        contract = {name: types[number % 4] for number, name in enumerate(names)}
        picks = [integer(64), text, lambda r: r.random(), lambda r: r.random() < 0.5]
        schema = json.dumps({"type": "record", "name": "Wide", "fields": fields})
        wide, some = (cls.bench.source(name, {"format": "avro", **more}, fields) for name, more, fields in (
            ("wide", {}, contract), ("wide_some", {"unknown_fields": "ignore"}, {name: contract[name] for name in names[::97]})))
        serializer = AvroSerializer(cls.bench.registry, schema)
        for _ in range(10):
            row = {name: picks[number % 4](rng) for number, name in enumerate(names)}
            for source in (wide, some):
                source.serialised(serializer, row, Row(only(source.spec["fields"], row)))
        wide.add(some.records[-1][0][:-1], bad("undecodable"))

    @classmethod
    def limits(cls, rng):
        """Payloads of the largest size that there may be, and of one byte more."""
        fields = {"content": "binary"}
        raw = cls.bench.source("limit_raw", {"format": "raw"}, fields)
        content = bytes(RECORD_BYTES_MAX)
        raw.add(content, Row({"content": content}))
        raw.add(content + b"\0", bad("oversize"))
        raw.add(b"small", Row({"content": b"small"}))
        schema = json.dumps({"type": "record", "name": "Limit", "fields": [{"name": "content", "type": "bytes"}]})
        serializer = AvroSerializer(cls.bench.registry, schema)
        avro = cls.bench.source("limit_avro", {"format": "avro"}, fields)
        # The header and the length of the content, which takes four bytes.
        content = bytes(RECORD_BYTES_MAX - 5 - 4)
        avro.serialised(serializer, {"content": content}, Row({"content": content}))
        assert len(avro.records[-1][0]) == RECORD_BYTES_MAX, len(avro.records[-1][0])
        avro.serialised(serializer, {"content": content + b"\0"}, bad("oversize"))
        avro.serialised(serializer, {"content": b"small"}, Row({"content": b"small"}))

    # ------------------------------------------------------------ the verdicts

    def test_avro(self):
        self.bench.judge("avro")

    def test_protobuf(self):
        self.bench.judge("protobuf")

    def test_protobuf_without_unknown_fields(self):
        self.bench.judge("protobuf_strict")

    def test_json(self):
        self.bench.judge("json")

    def test_json_with_a_registry(self):
        self.bench.judge("json_registry")

    def test_topics_of_nothing_but_garbage(self):
        self.bench.judge(*self.garbages)
        for name in self.garbages:
            for cloud in self.bench.clouds:
                self.assertEqual(cloud.rows(name).num_rows, 0, f"{name} in {cloud.name}")

    def test_schemas_of_two_thousand_fields(self):
        self.bench.judge("wide", "wide_some")

    def test_records_at_the_limit_of_size(self):
        self.bench.judge("limit_raw", "limit_avro")

    def test_prove_holds(self):
        self.bench.prove()


ANY_REASON = bad("undecodable", "wrong_type", "unknown_schema", "oversize", "invalid_value", "unknown_field", "missing_field", "out_of_range")


if __name__ == "__main__":
    unittest.main()
