"""Protobuf of every type: with a registry, references and message indexes; with a `.proto` file; with a descriptor set; gzipped."""

import gzip
import unittest

import protobuf_types
from bench import Bench, Row, bad
from confluent_kafka.schema_registry import Schema, SchemaReference
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from protobuf_types import EVERYTHING, PROTO, fill, message_class, read
from values import TEXTS, generator, integer, text

LEGACY = {"id": {"type": "int64", "nullable": False}, "number": "int32", "zigzag": "int64", "name": "string", "raw": "binary", "ratio": "float64",
          "flag": "boolean", "level": "string", "nothing": "int32", "unpacked": "list<int32>", "packed": "list<int32>"}


def row(message):
    return Row(protobuf_types.expected(message))


class Protobuf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("protobuf")
        cls.addClassCleanup(cls.bench.remove)
        cls.descriptors = protobuf_types.descriptor_set("everything.proto")
        cls.pool = protobuf_types.pool_of(cls.descriptors)
        cls.everything = message_class(cls.pool, EVERYTHING)
        cls.with_registry(generator("protobuf registry"))
        cls.with_files(generator("protobuf files"))
        cls.with_descriptors(generator("protobuf descriptors"))
        cls.legacy(generator("protobuf legacy"))
        cls.bench.run()

    @classmethod
    def serializer(cls, kind):
        return ProtobufSerializer(kind, cls.bench.registry)

    @classmethod
    def with_registry(cls, rng):
        """All messages of one schema in one topic, and in another only one of them."""
        source = cls.bench.source("registry", {"format": "protobuf"}, protobuf_types.contract(), partitions=3)
        serializer = cls.serializer(cls.everything)
        for message, refused in protobuf_types.records(rng, cls.everything, 200):
            source.serialised(serializer, message, bad(refused[0], field=refused[1]) if refused else row(message))
        of_everything = len(source.records)
        # The first message of the schema, which has an index of its own kind; one that lies deeper.
        names = [field.name for field in protobuf_types.FIELDS]
        for name in ("test.First", f"{EVERYTHING}.Deepest"):
            kind = message_class(cls.pool, name)
            serializer = cls.serializer(kind)
            for _ in range(20):
                fields = {"string_": text(rng), **{key: integer(32)(rng) for key in kind.DESCRIPTOR.fields_by_name if key != "string_"}}
                message = fill(kind(), fields)
                source.serialised(serializer, message, Row(read(message, names)))
        # The official client registers compiled descriptors; those for Java and Go register the text.
        subject = f"{cls.bench.prefix}-money"
        cls.bench.registry.register_schema(subject, Schema((PROTO / "shared/money.proto").read_text(), "PROTOBUF"))
        text_schema = Schema((PROTO / "everything.proto").read_text(), "PROTOBUF", [SchemaReference("shared/money.proto", subject, 1)])
        identity = cls.bench.registry.register_schema(f"{cls.bench.prefix}-as-text", text_schema)
        as_text = cls.bench.source("registry_text", {"format": "protobuf"}, protobuf_types.contract())
        for payload, fate in source.records:
            as_text.add(protobuf_types.with_id(payload, identity), fate)
        one = cls.bench.source("one_message", {"format": "protobuf", "message": EVERYTHING}, protobuf_types.contract())
        for number, (payload, fate) in enumerate(as_text.records):
            if number % 3 == 0:
                one.add(payload, fate if number < of_everything else bad("incompatible_schema"))

    @classmethod
    def with_files(cls, rng):
        """The texts themselves, and payloads that the producer compressed."""
        files = [cls.bench.file(name, (PROTO / name).read_text()) for name in ("everything.proto", "shared/money.proto")]
        settings = {"format": "protobuf", "schema": files, "message": EVERYTHING, "payload_compression": "gzip"}
        source = cls.bench.source("texts", settings, protobuf_types.contract())
        for message, refused in protobuf_types.records(rng, cls.everything, 60):
            fate = bad(refused[0], field=refused[1]) if refused else row(message)
            source.add(gzip.compress(message.SerializeToString()), fate)

    @classmethod
    def with_descriptors(cls, rng):
        """A descriptor set; and several messages end to end, which is one message by the rules of the format."""
        settings = {"format": "protobuf", "schema": cls.bench.file("everything.binpb", cls.descriptors), "message": EVERYTHING}
        source = cls.bench.source("descriptors", settings, protobuf_types.contract())
        messages = [message for message, refused in protobuf_types.records(rng, cls.everything, 120) if not refused]
        for message in messages:
            # Taken as bytes, they are those of all occurrences, which means the same and looks different.
            message.ClearField("node")
            message.ClearField("any_struct")
            # Seconds of one and nanoseconds of another may have different signs, which is no duration.
            message.ClearField("took")
        for one, other, third in zip(messages, messages[1:], messages[2:]):
            payload = b"".join(message.SerializeToString() for message in (one, other, third))
            source.add(payload, row(cls.everything.FromString(payload)))
        source.add(b"", row(cls.everything()))

    @classmethod
    def legacy(cls, rng):
        """With a registry that has the descriptor, and with a descriptor set and with the text."""
        descriptors = protobuf_types.descriptor_set("legacy.proto")
        kind = message_class(protobuf_types.pool_of(descriptors), "test.Legacy")
        source = cls.bench.source("legacy", {"format": "protobuf"}, LEGACY)
        files = {"legacy.binpb": descriptors, "legacy.proto": (PROTO / "legacy.proto").read_text()}
        given = [cls.bench.source(name.replace(".", "_"), {"format": "protobuf", "schema": cls.bench.file(name, content)}, LEGACY)
                 for name, content in files.items()]
        serializer = cls.serializer(kind)
        for _ in range(30):
            values = {"id": integer(64)(rng), "number": integer(32)(rng), "zigzag": integer(64)(rng), "name": rng.choice(TEXTS), "level": 1,
                      "unpacked": [1, -1], "packed": [2, -2], "flag": False, "raw": b"", "ratio": 0.5, "nothing": 0}
            message = fill(kind(), {name: value for name, value in values.items() if name == "id" or rng.random() < 0.5})
            source.serialised(serializer, message, Row(read(message)))
        header = source.records[0][0][:6]
        source.add(header + kind(number=1).SerializePartialToString(), bad("missing_field"))
        for payload, fate in source.records:
            for other in given:
                other.add(payload[len(header):], fate)

    def test_with_a_registry_that_has_compiled_descriptors(self):
        self.bench.judge("registry")

    def test_with_a_registry_that_has_texts(self):
        self.bench.judge("registry_text")

    def test_with_a_registry_and_one_message(self):
        self.bench.judge("one_message")

    def test_with_given_texts_and_gzip(self):
        self.bench.judge("texts")

    def test_with_a_descriptor_set_and_messages_that_merge(self):
        self.bench.judge("descriptors")

    def test_what_only_proto2_has(self):
        self.bench.judge("legacy_binpb", "legacy_proto")

    def test_what_only_proto2_has_with_a_registry(self):
        self.bench.judge("legacy")

    def test_prove_holds(self):
        self.bench.prove()


if __name__ == "__main__":
    unittest.main()
