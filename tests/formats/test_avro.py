"""Avro of every type: with a registry and references, with one given schema, with fingerprints, compressed."""

import io
import json
import unittest

import avro_types
import fastavro
import zstandard
from bench import Bench, Row, bad
from confluent_kafka.schema_registry import Schema, SchemaReference
from confluent_kafka.schema_registry.avro import AvroSerializer
from values import generator, integer, text

OTHER = {"type": "record", "name": "test.Other", "fields": [{"name": "long_", "type": "long"}, {"name": "string_", "type": "string"}]}


def encode(parsed, value):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed, value)
    return out.getvalue()


def single_object(schema):
    form = fastavro.schema.to_parsing_canonical_form(schema)
    return b"\xc3\x01" + bytes.fromhex(fastavro.schema.fingerprint(form, "CRC-64-AVRO"))


def fate(expected, refused):
    return Row(expected) if refused is None else bad(refused[0], field=refused[1])


class Avro(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("avro")
        cls.addClassCleanup(cls.bench.remove)
        cls.with_registry(generator("avro registry"))
        cls.with_one_schema(generator("avro plain"))
        cls.with_fingerprints(generator("avro single object"))
        cls.bench.run()

    @classmethod
    def with_registry(cls, rng):
        source = cls.bench.source("registry", {"format": "avro"}, avro_types.contract(), partitions=3)
        compressed = cls.bench.source("compressed", {"format": "avro", "payload_compression": "zstd"}, avro_types.contract())
        subject = f"{cls.bench.prefix}-point"
        cls.bench.registry.register_schema(subject, Schema(json.dumps(avro_types.POINT), "AVRO"))
        reference = SchemaReference("geo.Point", subject, 1)
        schema = Schema(json.dumps(avro_types.schema(with_point=False)), "AVRO", [reference])
        serializer = AvroSerializer(cls.bench.registry, schema)
        for value, expected, refused in avro_types.records(rng, 300):
            source.serialised(serializer, value, fate(expected, refused))
        compressor = zstandard.ZstdCompressor()
        for payload, its_fate in source.records[::5]:
            compressed.add(compressor.compress(payload), its_fate)

    @classmethod
    def with_one_schema(cls, rng):
        schema = avro_types.schema(with_point=True)
        settings = {"format": "avro", "schema": cls.bench.file("everything.avsc", json.dumps(schema))}
        source = cls.bench.source("plain", settings, avro_types.contract())
        parsed = fastavro.parse_schema(schema)
        for value, expected, refused in avro_types.records(rng, 100):
            source.add(encode(parsed, value), fate(expected, refused))

    @classmethod
    def with_fingerprints(cls, rng):
        schemas = [avro_types.schema(with_point=True), OTHER]
        files = [cls.bench.file(f"written-{number}.avsc", json.dumps(schema)) for number, schema in enumerate(schemas)]
        settings = {"format": "avro", "framing": "single_object", "schema": files}
        source = cls.bench.source("single_object", settings, avro_types.contract())
        everything, other = ((fastavro.parse_schema(schema), single_object(schema)) for schema in schemas)
        empty = dict.fromkeys(avro_types.contract())
        for value, expected, refused in avro_types.records(rng, 50):
            source.add(everything[1] + encode(everything[0], value), fate(expected, refused))
            small = {"long_": integer(64)(rng), "string_": text(rng)}
            source.add(other[1] + encode(other[0], small), Row({**empty, **small}))
        source.add(b"\xc3\x01" + b"\0" * 8 + b"\0", bad("unknown_schema"))

    def test_with_a_registry_and_a_referred_schema(self):
        self.bench.judge("registry")

    def test_with_a_registry_and_zstd(self):
        self.bench.judge("compressed")

    def test_with_one_given_schema(self):
        self.bench.judge("plain")

    def test_with_fingerprints_of_given_schemas(self):
        self.bench.judge("single_object")

    def test_prove_holds(self):
        self.bench.prove()


if __name__ == "__main__":
    unittest.main()
