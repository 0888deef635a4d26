"""Schemas that change under a contract that does not: by the rules of docs/formats.md each record is right or in quarantine."""

import json
import unittest

import protobuf_types
from bench import Bench, Row, bad
from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from values import double, float32, generator, integer, single, text

CONTRACT = {"id": {"type": "int64", "nullable": False}, "a": "int64", "b": "float64", "c": "string"}
ROUNDS = 12
PICKS = {"int": integer(32), "long": integer(64), "float": single, "double": double, "string": text}

# Fields and types in the order in which a version has them, and what that means for a record: nothing, or the reason and the
# field for which it is in quarantine; "ignore" if only where unknown fields are not left out.
AVRO = {
    "first": ({"id": "long", "a": "int", "b": "float"}, None),
    "added": ({"id": "long", "a": "int", "b": "float", "c": ("string", "default")}, None),
    "widened": ({"id": "long", "a": "long", "b": "double"}, None),
    "removed": ({"id": "long", "a": "int"}, None),
    "reordered": ({"c": "string", "b": "float", "a": "int", "id": "long"}, None),
    "renamed": ({"id": "long", "a2": ("int", "aliases", ["a"]), "b": "float"}, ("unknown_field", "a2", "ignore")),
    "without_id": ({"a": "int", "b": "float"}, ("missing_field", "id")),
    "retyped": ({"id": "long", "a": "string"}, ("incompatible_schema", "a")),
    "narrowed": ({"id": "int", "a": "int", "b": "int"}, None),
    "nullable": ({"id": ["long", "null"], "a": ["null", "long"], "b": ["double", "null"], "c": ["null", "string"]}, None),
    "null": ({"id": ["null", "long"], "a": "int"}, ("null_field", "id")),
}


def avro_schema(fields):
    def field(name, kind):
        if isinstance(kind, tuple):
            attribute = {"default": ""} if kind[1] == "default" else {kind[1]: kind[2]}
            return {"name": name, "type": kind[0], **attribute}
        return {"name": name, "type": kind}

    return json.dumps({"type": "record", "name": "Event", "fields": [field(*each) for each in fields.items()]})


def avro_value(rng, fields):
    def value(kind):
        kind = kind[0] if isinstance(kind, tuple) else kind
        if isinstance(kind, list):
            # The branch that comes first.
            return None if kind[0] == "null" else PICKS[kind[0]](rng)
        return PICKS[kind](rng)

    return {name: value(kind) for name, kind in fields.items()}


PROTOBUF = {
    "first": ("int64 id = 1; int32 a = 2; float b = 3;", None),
    "added": ("int64 id = 1; int32 a = 2; float b = 3; string c = 4;", None),
    "widened": ("int64 id = 1; int64 a = 2; double b = 3;", None),
    "removed": ("reserved 3; int64 id = 1; int32 a = 2;", None),
    "reordered": ("string c = 1; double b = 2; sint64 a = 3; sfixed64 id = 9;", None),
    "renamed": ("int64 id = 1; int32 a2 = 2; float b = 3;", ("unknown_field", "a2", "ignore")),
    "without_id": ("int32 a = 2; float b = 3;", ("incompatible_schema", "id")),
    "retyped": ("int64 id = 1; string a = 2;", ("incompatible_schema", "a")),
    "optional": ("int64 id = 1; optional int64 a = 2; optional double b = 3; optional string c = 4;", None),
    "one": ("int64 id = 1; oneof one { int64 a = 2; double b = 3; string c = 4; }", None),
}
JSON = {
    "first": (["id", "a", "b"], None),
    "added": (["id", "a", "b", "c"], None),
    "removed": (["id", "a"], None),
    "reordered": (["c", "b", "id", "a"], None),
    "renamed": (["id", "a2", "b"], ("unknown_field", "a2", "ignore")),
    "without_id": (["a", "b"], ("missing_field", "id")),
    "retyped": (["id", "a"], ("wrong_type", "a")),
    "null": (["id", "c"], ("null_field", "id")),
}


def fate(row, problem, unknown_fields):
    if problem is None or problem[2:] == (unknown_fields,):
        return Row({name: row.get(name) for name in CONTRACT})
    return bad(problem[0], field=problem[1])


class Evolution(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("evolution")
        cls.addClassCleanup(cls.bench.remove)
        cls.rng = generator("evolution")
        for format, produce in (("avro", cls.avro), ("protobuf", cls.protobuf), ("json", cls.json)):
            settings = {"format": format, "framing": "confluent"}
            for kind, more in (("steady", {}), ("pair", {}), ("all", {}), ("ignore", {"unknown_fields": "ignore"})):
                cls.bench.source(f"{format}_{kind}", {**settings, **more}, CONTRACT)
            produce(rounds=ROUNDS, late=False)
        cls.bench.run()
        cls.files = {name: cls.bench.files(name) for name in cls.bench.sources}
        # Versions that nobody knew when the first run ended, and those that were there, to a process that starts anew.
        for produce in (cls.avro, cls.protobuf, cls.json):
            produce(rounds=2, late=True)
        cls.bench.run()

    @classmethod
    def each(cls, format, versions, rounds, late):
        """Of each record to be made: the source, whether it ignores unknown fields, the version and its problem.

        Record by record another version, of all or of two; and as many of one alone.
        """
        names = list(versions)
        for number in range(rounds * len(names)):
            chosen = {"steady": names[0], "pair": names[number % 2], "all": names[number % len(names)], "ignore": names[number % len(names)]}
            for kind, name in chosen.items():
                # The last is kept for later.
                if late or name != names[-1]:
                    yield cls.bench.sources[f"{format}_{kind}"], "ignore" if kind == "ignore" else "quarantine", name, versions[name]

    @classmethod
    def avro(cls, rounds, late):
        serializers = {}
        for source, unknown_fields, name, (fields, problem) in cls.each("avro", AVRO, rounds, late):
            if name not in serializers:
                serializers[name] = AvroSerializer(cls.bench.registry, avro_schema(fields))
            value = avro_value(cls.rng, fields)
            row = {**value, "b": None if value.get("b") is None else float(value["b"])}
            source.serialised(serializers[name], value, fate(row, problem, unknown_fields))

    @classmethod
    def protobuf(cls, rounds, late):
        serializers = {}
        for source, unknown_fields, name, (fields, problem) in cls.each("protobuf", PROTOBUF, rounds, late):
            if name not in serializers:
                schema = f'syntax = "proto3"; package test; message Event {{ {fields} }}'
                kind = protobuf_types.message_class(protobuf_types.compiled(schema), "test.Event")
                identity = cls.bench.registry.register_schema(f"{cls.bench.prefix}-{name}", Schema(schema, "PROTOBUF"))
                serializers[name] = kind, identity, ProtobufSerializer(kind, cls.bench.registry)
            kind, identity, serializer = serializers[name]
            values = {"id": integer(64)(cls.rng), "a": integer(32)(cls.rng), "a2": -1, "b": single(cls.rng), "c": text(cls.rng)}
            if name == "retyped":
                values["a"] = text(cls.rng)
            known = {key: value for key, value in values.items() if key in kind.DESCRIPTOR.fields_by_name}
            if name in ("optional", "one"):
                known = {key: value for key, value in known.items() if key == "id" or cls.rng.random() < 0.5}
            message = protobuf_types.fill(kind(), known)
            row = protobuf_types.read(message, CONTRACT)
            its_fate = fate(row, problem, unknown_fields)
            source.serialised(serializer, message, its_fate)
            payload, its_fate = source.records[-1]
            if len(source.records) % 2:
                # As clients register it that have texts of their schemas.
                source.records[-1] = protobuf_types.with_id(payload, identity), its_fate

    @classmethod
    def json(cls, rounds, late):
        serializers = {}
        for source, unknown_fields, name, (names, problem) in cls.each("json", JSON, rounds, late):
            if name not in serializers:
                schema = {"title": "Event", "type": "object", "properties": {key: {} for key in names}, "additionalProperties": False}
                serializers[name] = JSONSerializer(json.dumps(schema), cls.bench.registry)
            values = {"id": None if name == "null" else integer(64)(cls.rng), "a": "7" if name == "retyped" else integer(64)(cls.rng),
                      "a2": 1, "b": double(cls.rng), "c": text(cls.rng)}
            value = {key: values[key] for key in names}
            source.serialised(serializers[name], value, fate(value, problem, unknown_fields))

    def judge(self, format):
        self.bench.judge(*(f"{format}_{kind}" for kind in ("steady", "pair", "all", "ignore")))

    def test_avro(self):
        self.judge("avro")

    def test_protobuf(self):
        self.judge("protobuf")

    def test_json(self):
        self.judge("json")

    def test_alternating_versions_make_no_more_files_than_one(self):
        for format in ("avro", "protobuf", "json"):
            steady = self.files[f"{format}_steady"]
            for kind in ("pair", "all", "ignore"):
                for cloud, files in self.files[f"{format}_{kind}"].items():
                    self.assertGreater(files, 0, f"{format}_{kind} in {cloud}")
                    self.assertLessEqual(files, steady[cloud], f"{format}_{kind} in {cloud}")

    def test_prove_holds(self):
        self.bench.prove()


if __name__ == "__main__":
    unittest.main()
