"""JSON behind a header of a registry and without, CSV, raw payloads; gzip and zstd around them."""

import base64
import decimal
import gzip
import json
import unittest

import zstandard
from avro_types import most, scaled
from bench import Bench, DROPPED, Row, bad
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from values import (BLOBS, DOUBLES, FLOATS, TEXTS, blob, boolean, days, double, float32, generator, int_edges, integer, items, mapping, maybe,
                    micros_text, single, text)

Decimal = decimal.Decimal
DAYS = (-719_162, 2_932_896)
MICROS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
FINITE = [value for value in DOUBLES if value == value and abs(value) != float("inf")]


def day_text(day):
    return micros_text(day * 86_400_000_000)[:10]


def exact(value):
    """A number of JSON that says a decimal digit for digit."""
    return f"{value:f}"


def struct_(rng):
    return {"a": maybe(rng, integer(32)), "at": maybe(rng, lambda r: r.randrange(*MICROS)), "tags": maybe(rng, lambda r: items(r, text))}


# Of each field: its type, a random value as it has to be found, values at the edges, and how JSON and CSV write it.
FIELDS = {
    "flag": ("boolean", boolean, [True, False], None),
    "i8": ("int8", integer(8), int_edges(8), None),
    "i16": ("int16", integer(16), int_edges(16), None),
    "i32": ("int32", integer(32), int_edges(32), None),
    "i64": ("int64", integer(64), int_edges(64), None),
    "f32": ("float32", single, [float32(v) for v in FINITE if abs(v) < 3.5e38], None),
    "f64": ("float64", double, FINITE, None),
    "amount": ("decimal(12,2)", scaled(12, 2), most(12, 2), exact),
    "large": ("decimal(38,10)", scaled(38, 10), most(38, 10), exact),
    "name": ("string", text, TEXTS, None),
    "bytes_": ("binary", blob, BLOBS, lambda value: base64.b64encode(value).decode()),
    "day": ("date", lambda rng: rng.randrange(*DAYS), [*DAYS, 0, -1, 11_016], day_text),
    "at": ("timestamp", lambda rng: rng.randrange(*MICROS), [*MICROS, 0, -1], micros_text),
}
NESTED = {
    "list_": ("list<int64>", lambda rng: items(rng, integer(64)), [[], int_edges(64), list(range(2000))], None),
    "lists": ("list<list<string>>", lambda rng: items(rng, lambda r: items(r, lambda r: maybe(r, text))), [[], [[]], [TEXTS[:5], [None]]], None),
    "map_": ("map<string, float64>", lambda rng: mapping(rng, double), [{}, {"": 0.0, "é\n": -0.0}], None),
    "struct_": ("struct<a: int32, at: timestamp, tags: list<string>>", struct_, [{"a": None, "at": None, "tags": None}],
                lambda value: {**value, "at": value["at"] if value["at"] is None else micros_text(value["at"])}),
    "structs": ("list<struct<k: string, v: map<string, boolean>>>",
                lambda rng: items(rng, lambda r: {"k": text(r), "v": maybe(r, lambda r: mapping(r, boolean))}), [[], [{"k": "", "v": {}}]], None),
}


def contract(fields):
    return {name: contract for name, (contract, *_) in fields.items()}


def records(rng, fields, number):
    """Rows: all random, then all edges side by side; a third of the values is null."""
    for _ in range(number):
        yield {name: maybe(rng, pick) for name, (_, pick, _, _) in fields.items()}
    for index in range(max(len(edges) for _, _, edges, _ in fields.values())):
        yield {name: edges[index % len(edges)] for name, (_, _, edges, _) in fields.items()}
    yield dict.fromkeys(fields)


def written(fields, row):
    return {name: value if value is None or fields[name][3] is None else fields[name][3](value) for name, value in row.items()}


def csv_line(fields, row, delimiter):
    """RFC 4180, with quotes where they are needed and where they tell an empty text from none."""
    def cell(value):
        if value is None:
            return ""
        shown = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
        if shown == "" or any(character in shown for character in f'"\r\n{delimiter}'):
            shown = '"' + shown.replace('"', '""') + '"'
        return shown

    return delimiter.join(cell(value) for value in written(fields, row).values()).encode()


JSON = {**FIELDS, **NESTED}
# What a payload says word for word, and what that is: a value of `FIELDS` and `NESTED`, or the reasons why it is none.
WORDS = [
    ('{"i32": 3.0}', {"i32": 3}), ('{"i32": 3e2}', {"i32": 300}), ('{"i32": -0}', {"i32": 0}), ('{"i32": 300E-2}', {"i32": 3}),
    ('{"i32": 1.5}', ("wrong_type", "i32")), ('{"i32": "12"}', ("wrong_type", "i32")), ('{"i32": 2147483648}', ("out_of_range", "i32")),
    ('{"i8": 128}', ("out_of_range", "i8")), ('{"i16": -32769}', ("out_of_range", "i16")), ('{"i64": 9223372036854775808}', ("out_of_range", "i64")),
    ('{"i64": 9223372036854775807}', {"i64": 2**63 - 1}), ('{"i64": true}', ("wrong_type", "i64")), ('{"flag": 1}', ("wrong_type", "flag")),
    ('{"f64": 1e400}', ("out_of_range", "f64")), ('{"f32": 3.5e38}', ("out_of_range", "f32")), ('{"f64": -0}', {"f64": -0.0}),
    ('{"f32": 0.1}', {"f32": float32(0.1)}), ('{"f64": 1e-400}', {"f64": 0.0}), ('{"f64": NaN}', ("undecodable", "")),
    ('{"amount": "12.5"}', {"amount": Decimal("12.50")}), ('{"amount": 1e3}', {"amount": Decimal("1000.00")}),
    ('{"amount": 0.001}', ("invalid_value", "amount")), ('{"amount": 1e10}', ("out_of_range", "amount")), ('{"amount": "x"}', ("invalid_value", "amount")),
    ('{"name": "\\u00e9\\ud83d\\ude01\\n\\/"}', {"name": "é😁\n/"}), ('{"name": "\\ud83d"}', ("undecodable", "")), ('{"name": "\t"}', ("undecodable", "")),
    ('{"name": 7}', ("wrong_type", "name")), ('{"name": null}', {}), ("{}", {}), (' \t\r\n{"i32" : 1 , "i64":2} ', {"i32": 1, "i64": 2}),
    ('{"bytes_": "AA=="}', {"bytes_": b"\0"}), ('{"bytes_": "AA"}', ("invalid_value", "bytes_")), ('{"bytes_": "A*=="}', ("invalid_value", "bytes_")),
    ('{"day": "2000-02-29"}', {"day": 11_016}), ('{"day": "1900-02-29"}', ("invalid_value", "day")), ('{"day": 11016}', ("wrong_type", "day")),
    ('{"at": "2013-01-01T05:00:00+05:30"}', {"at": 1_356_996_600_000_000}), ('{"at": "2013-01-01 00:00:00.1234569"}', {"at": 1_356_998_400_123_456}),
    ('{"at": "2013-01-01"}', ("invalid_value", "at")), ('{"at": 0}', ("wrong_type", "at")), ('{"at": "2013-01-01T24:00:00Z"}', ("invalid_value", "at")),
    ('{"i32": 1, "i32": 1}', ("duplicate_field", "i32")), ('{"map_": {"a": 1, "a": 2}}', ("duplicate_field", "map_")),
    ('{"other": 1}', ("unknown_field", "other")), ('{"struct_": {"b": 1}}', ("unknown_field", "struct_.b")), ('{"struct_": {}}', {"struct_": dict.fromkeys(("a", "at", "tags"))}),
    ('{"structs": [null, {"k": "x"}]}', {"structs": [None, {"k": "x", "v": None}]}), ('{"list_": [1, "2"]}', ("wrong_type", "list_[]")),
    ('{"list_": {}}', ("wrong_type", "list_")), ('{"map_": []}', ("wrong_type", "map_")), ('{"map_": {"a": null}}', {"map_": {"a": None}}),
    ("[]", ("undecodable", "")), ("null", ("undecodable", "")), ('"{}"', ("undecodable", "")), ('{"i32": 1}{"i32": 2}', ("undecodable", "")),
    ('{"i32": 1,}', ("undecodable", "")), ("{'i32': 1}", ("undecodable", "")), ('{"i32": 01}', ("undecodable", "")), ('{"i32": +1}', ("undecodable", "")),
    ('{"i32": 1.}', ("undecodable", "")), ('\ufeff{"i32": 1}', ("undecodable", "")), ("", ("empty_payload", "")), (None, ("tombstone", "")),
]


class Text(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bench = Bench("text")
        cls.addClassCleanup(cls.bench.remove)
        cls.json(generator("json"))
        cls.json_registry(generator("json registry"))
        cls.csv(generator("csv"))
        cls.raw(generator("raw"))
        cls.compressed(generator("compressed"))
        cls.bench.run()

    @classmethod
    def json(cls, rng):
        source = cls.bench.source("json", {"format": "json"}, contract(JSON), partitions=2)
        for row in records(rng, JSON, 150):
            values = {name: value for name, value in written(JSON, row).items() if value is not None or rng.random() < 0.5}
            names = list(values)
            rng.shuffle(names)
            source.add(json.dumps({name: values[name] for name in names}, ensure_ascii=rng.random() < 0.5).encode(), Row(row))
        for word, meant in WORDS:
            fate = Row({**dict.fromkeys(JSON), **meant}) if isinstance(meant, dict) else bad(meant[0], field=meant[1])
            source.add(None if word is None else word.encode(), fate)
        source.add(b'{"name": "\xff"}', bad("undecodable"))
        source.add(b'{"name": "\xed\xa0\x80"}', bad("undecodable"))
        # Decimals as numbers, not as texts.
        for value in most(38, 10):
            source.add(f'{{"large": {exact(value)}}}'.encode(), Row({**dict.fromkeys(JSON), "large": value}))

    @classmethod
    def json_registry(cls, rng):
        """With a rule of the topology that drops, and one that puts into quarantine."""
        rules = [{"name": "has_name", "check": "name IS NOT NULL", "action": "drop"},
                 {"name": "not_false", "check": "flag", "action": "quarantine"}]
        source = cls.bench.source("json_registry", {"format": "json", "framing": "confluent"}, contract(JSON), expect=rules)
        schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Record", "type": "object",
                  "properties": {"i32": {"type": ["integer", "null"]}}}
        serializer = JSONSerializer(json.dumps(schema), cls.bench.registry)
        for row in records(rng, JSON, 150):
            # The row that is always `null` in a rule passes it, as in SQL.
            fate = DROPPED if row["name"] is None else bad("expectation") if row["flag"] is False else Row(row)
            source.serialised(serializer, written(JSON, row), fate)
        source.add(b'{"i32": 1}', bad("unknown_schema"))
        source.add(b"\0\0\0\0", bad("unknown_schema"))
        source.add(b"\0\0\0\0\1", bad("undecodable", "empty_payload"))

    @classmethod
    def csv(cls, rng):
        source = cls.bench.source("csv", {"format": "csv"}, contract(FIELDS))
        columns = ["left_out", *reversed(FIELDS)]
        wanted = {name: FIELDS[name] for name in FIELDS if name not in ("large", "at")}
        other = cls.bench.source("csv_columns", {"format": "csv", "delimiter": ";", "columns": columns}, contract(wanted))
        for number, row in enumerate(records(rng, FIELDS, 150)):
            line = csv_line(FIELDS, row, ",")
            source.add(line + (b"", b"\n", b"\r\n")[number % 3], Row(row))
            backwards = {name: row[name] for name in reversed(FIELDS)}
            other.add(b'"left; out";' + csv_line(FIELDS, backwards, ";"), Row({name: row[name] for name in wanted}))
        blank = b"," * (len(FIELDS) - 1)
        for line in (blank + b",", blank[1:], b"x\n" + blank, b'a"' + blank, b'"a"b' + blank, blank + b'"', blank + b"\n" + blank):
            source.add(line, bad("undecodable", "wrong_type", "invalid_value"))
        source.add(b"yes" + blank, bad("wrong_type", "invalid_value", field="flag"))
        source.add(b",1.5" + blank[1:], bad("wrong_type", field="i8"))
        source.add(b",200" + blank[1:], bad("out_of_range", field="i8"))
        source.add(b"", bad("empty_payload"))
        source.add(None, bad("tombstone"))

    @classmethod
    def raw(cls, rng):
        source = cls.bench.source("raw", {"format": "raw"}, {"content": "binary"})
        text_source = cls.bench.source("raw_text", {"format": "raw"}, {"content": "string"})
        for content in [*BLOBS, *(rng.randbytes(rng.randrange(300)) for _ in range(50))]:
            source.add(content, Row({"content": content}))
        for content in [*TEXTS, *(text(rng) for _ in range(50))]:
            text_source.add(content.encode(), Row({"content": content}))
        text_source.add(b"\xff", bad("undecodable", field="content"))
        source.add(None, bad("tombstone"))

    @classmethod
    def compressed(cls, rng):
        """Whole streams of every make, and what is no whole stream: cut short, followed by something, corrupted, a bomb."""
        checked = zstandard.ZstdCompressor(write_checksum=True)
        sized = zstandard.ZstdCompressor(level=19, write_content_size=False)
        makes = {
            "gzip": [gzip.compress, lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:], 1), lambda data: gzip.compress(data, 0)],
            "zstd": [checked.compress, sized.compress, lambda data: checked.compress(data[:7]) + sized.compress(data[7:]),
                     lambda data: b"\x50\x2a\x4d\x18\x03\0\0\0abc" + checked.compress(data)],
        }
        for name, compress in makes.items():
            source = cls.bench.source(f"json_{name}", {"format": "json", "payload_compression": name}, contract(JSON))
            lines = cls.bench.source(f"csv_{name}", {"format": "csv", "payload_compression": name}, contract(FIELDS))
            whole = cls.bench.source(f"raw_{name}", {"format": "raw", "payload_compression": name}, {"content": "binary"})
            for number, row in enumerate(records(rng, JSON, 40)):
                source.add(compress[number % len(compress)](json.dumps(written(JSON, row)).encode()), Row(row))
            for number, row in enumerate(records(rng, FIELDS, 20)):
                lines.add(compress[number % len(compress)](csv_line(FIELDS, row, ",")), Row(row))
            for number, content in enumerate(content for content in BLOBS for _ in compress):
                whole.add(compress[number % len(compress)](content), Row({"content": content}))
            payload = compress[0](b'{"i32": 1, "name": "cut short"}')
            for end in range(1, len(payload)):
                source.add(payload[:end], bad("undecodable"))
            source.add(payload + b"{", bad("undecodable"))
            source.add(payload[:-1] + bytes([payload[-1] ^ 1]), bad("undecodable"))
            source.add(b'{"i32": 1}', bad("undecodable"))
            source.add(compress[0](b" " * (1 << 21) + b"{}"), bad("oversize"))
            # What is small may be a thousand times its length.
            source.add(compress[0](b" " * 16_000 + b"{}"), Row(dict.fromkeys(JSON)))
            source.add(None, bad("tombstone"))
            source.add(b"", bad("empty_payload", "undecodable"))

    def test_json(self):
        self.bench.judge("json")

    def test_json_with_a_registry_and_rules(self):
        self.bench.judge("json_registry")

    def test_csv(self):
        self.bench.judge("csv")

    def test_csv_with_named_columns(self):
        self.bench.judge("csv_columns")

    def test_raw(self):
        self.bench.judge("raw", "raw_text")

    def test_gzip(self):
        self.bench.judge("json_gzip", "csv_gzip", "raw_gzip")

    def test_zstd(self):
        self.bench.judge("json_zstd", "csv_zstd", "raw_zstd")

    def test_prove_holds(self):
        self.bench.prove()


if __name__ == "__main__":
    unittest.main()
