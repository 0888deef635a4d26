"""Every type of Avro that isobar reads, in every column that takes it: what is written and what has to be found."""

import dataclasses
import decimal
import typing
import uuid

from values import (BLOBS, DOUBLES, FLOATS, TEXTS, blob, boolean, double, float32, int_edges, integer, items, mapping, maybe, single, text)

Decimal = decimal.Decimal
DAY_MS = 86_400_000
# No context of ours may round.
EXACT = decimal.Context(prec=80)


@dataclasses.dataclass
class Field:
    """A field of a record. `pick(rng)` is a random value as fastavro takes it, `expect` what must be found of such a value.

    `edges` are values that must be met, and `refused` those that reject their record, by the reason.
    """

    name: str
    avro: object
    contract: str
    pick: typing.Callable
    edges: list = dataclasses.field(default_factory=list)
    expect: typing.Callable = lambda value: value
    refused: list = dataclasses.field(default_factory=list)


def logical(base, name, **further):
    base = base if isinstance(base, dict) else {"type": base}
    return {**base, "logicalType": name, **further}


def fixed(name, size):
    return {"type": "fixed", "name": name, "size": size}


def scaled(digits, scale):
    return lambda rng: Decimal(rng.randrange(-(10**digits) + 1, 10**digits)).scaleb(-scale, EXACT)


def to_scale(scale):
    return lambda value: value.quantize(Decimal(1).scaleb(-scale), context=EXACT)


def most(digits, scale):
    """The largest and the smallest decimal of so many digits, and zero."""
    largest = Decimal(10**digits - 1).scaleb(-scale, EXACT)
    return [largest, largest.copy_negate(), Decimal(0).scaleb(-scale)]


def uuid_of(rng):
    return uuid.UUID(int=rng.getrandbits(128))


POINT = {"type": "record", "name": "geo.Point", "fields": [{"name": "x", "type": "double"}, {"name": "label", "type": ["null", "string"]}]}


def point(rng):
    return {"x": double(rng), "label": maybe(rng, text)}


def number(value, wide):
    return wide(value[1] if isinstance(value, tuple) else value)


def nearest32(value):
    """The nearest float to a whole number, rounded once: by way of a double it would be twice."""
    sign, magnitude = (-1, -value) if value < 0 else (1, value)
    shift = max(magnitude.bit_length() - 24, 0)
    low = magnitude >> shift
    rest = magnitude - (low << shift)
    half = 1 << shift >> 1
    if shift and (rest > half or rest == half and low & 1):
        low += 1
    return float(sign * (low << shift))


INT, LONG = int_edges(32), int_edges(64)
DECIMAL = logical("bytes", "decimal", precision=12, scale=2)

FIELDS = [
    Field("flag", "boolean", "boolean", boolean, [True, False]),
    Field("int_", "int", "int32", integer(32), INT),
    Field("int_8", "int", "int8", integer(8), int_edges(8), refused=[(128, "out_of_range"), (-129, "out_of_range")]),
    Field("int_16", "int", "int16", integer(16), int_edges(16), refused=[(2**15, "out_of_range")]),
    Field("int_64", "int", "int64", integer(32), INT),
    Field("int_f32", "int", "float32", integer(32), [*INT, 2**24 + 1], float32),
    Field("int_f64", "int", "float64", integer(32), INT, float),
    Field("int_decimal", "int", "decimal(12,2)", integer(32), INT, lambda v: to_scale(2)(Decimal(v))),
    Field("long_", "long", "int64", integer(64), LONG),
    Field("long_8", "long", "int8", integer(8), int_edges(8), refused=[(2**7, "out_of_range"), (-(2**63), "out_of_range")]),
    Field("long_16", "long", "int16", integer(16), int_edges(16), refused=[(-(2**15) - 1, "out_of_range")]),
    Field("long_32", "long", "int32", integer(32), INT, refused=[(2**31, "out_of_range"), (2**63 - 1, "out_of_range")]),
    Field("long_f32", "long", "float32", integer(64), LONG, nearest32),
    Field("long_f64", "long", "float64", integer(64), [*LONG, 2**53 + 1], float),
    Field("long_decimal", "long", "decimal(20,1)", integer(64), LONG, lambda v: to_scale(1)(Decimal(v))),
    Field("long_small", "long", "decimal(4,1)", integer(9), [999, -999], lambda v: to_scale(1)(Decimal(v)),
          refused=[(1000, "out_of_range")]),
    Field("float_", "float", "float32", single, FLOATS),
    Field("float_64", "float", "float64", single, FLOATS),
    Field("double_", "double", "float64", double, DOUBLES),
    Field("bytes_", "bytes", "binary", blob, BLOBS),
    Field("bytes_text", "bytes", "string", lambda r: text(r).encode(), [t.encode() for t in TEXTS], bytes.decode,
          refused=[(b"\xff", "invalid_value"), (b"\xed\xa0\x80", "invalid_value")]),
    Field("string_", "string", "string", text, TEXTS),
    Field("string_bytes", "string", "binary", text, TEXTS, str.encode),
    Field("date_", logical("int", "date"), "date", integer(20), [0, -719_162, 2_932_896, *INT]),
    Field("time_ms", logical("int", "time-millis"), "int32", lambda r: r.randrange(DAY_MS), [0, DAY_MS - 1],
          refused=[(DAY_MS, "invalid_value"), (-1, "invalid_value")]),
    Field("time_ms_64", logical("int", "time-millis"), "int64", lambda r: r.randrange(DAY_MS), [0, DAY_MS - 1], lambda v: v * 1000),
    Field("time_us", logical("long", "time-micros"), "int64", lambda r: r.randrange(DAY_MS * 1000), [0, DAY_MS * 1000 - 1],
          refused=[(DAY_MS * 1000, "invalid_value"), (-1, "invalid_value")]),
    Field("at_ms", logical("long", "timestamp-millis"), "timestamp", integer(45), [0, -1, -62_135_596_800_000, 253_402_300_799_999,
          (2**63 - 1) // 1000], lambda v: v * 1000, refused=[(2**63 - 1, "out_of_range"), (-(2**63), "out_of_range")]),
    Field("at_us", logical("long", "timestamp-micros"), "timestamp", integer(55), LONG),
    Field("at_ns", logical("long", "timestamp-nanos"), "timestamp", integer(62), LONG, lambda v: v // 1000),
    Field("local_ms", logical("long", "local-timestamp-millis"), "int64", integer(45), [0, -1], lambda v: v * 1000,
          refused=[(2**63 - 1, "out_of_range")]),
    Field("local_us", logical("long", "local-timestamp-micros"), "int64", integer(60), LONG),
    Field("local_ns", logical("long", "local-timestamp-nanos"), "int64", integer(60), LONG, lambda v: v // 1000),
    Field("decimal_", DECIMAL, "decimal(12,2)", scaled(12, 2), most(12, 2)),
    Field("decimal_38", logical("bytes", "decimal", precision=38, scale=10), "decimal(38,10)", scaled(38, 10), most(38, 10)),
    Field("decimal_fixed", logical(fixed("Money", 16), "decimal", precision=38, scale=0), "decimal(38,0)", scaled(38, 0), most(38, 0)),
    Field("decimal_small", logical(fixed("Small", 2), "decimal", precision=4, scale=4), "decimal(4,4)", scaled(4, 4), most(4, 4)),
    Field("decimal_up", logical("bytes", "decimal", precision=9, scale=3), "decimal(20,7)", scaled(9, 3), most(9, 3), to_scale(7)),
    Field("decimal_down", logical("bytes", "decimal", precision=12, scale=4), "decimal(6,2)", scaled(6, 2), most(6, 2),
          refused=[(Decimal("0.0001"), "invalid_value"), (Decimal("10000"), "out_of_range"), (Decimal("99999999.99"), "out_of_range")]),
    Field("uuid_", logical("string", "uuid"), "string", uuid_of, [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)], str),
    Field("enum_", {"type": "enum", "name": "sky.Cover", "symbols": ["CLEAR", "FEW", "OVERCAST"], "default": "CLEAR"}, "string",
          lambda r: r.choice(["CLEAR", "FEW", "OVERCAST"]), ["CLEAR", "OVERCAST"]),
    Field("fixed_", fixed("Sum", 5), "binary", lambda r: r.randbytes(5), [b"\0" * 5, b"\xff" * 5]),
    Field("duration_", logical(fixed("Span", 12), "duration"), "binary", lambda r: r.randbytes(12), [b"\0" * 12]),
    Field("null_first", ["null", "int"], "int32", lambda r: maybe(r, integer(32)), [None, *INT]),
    Field("null_last", ["string", "null"], "string", lambda r: maybe(r, text), [None, *TEXTS]),
    Field("null_at", ["null", logical("long", "timestamp-micros")], "timestamp", lambda r: maybe(r, integer(55)), [None, 0]),
    Field("null_decimal", ["null", DECIMAL], "decimal(12,2)", lambda r: maybe(r, scaled(12, 2)), [None, *most(12, 2)]),
    Field("always_null", "null", "string", lambda r: None),
    Field("int_or_long", ["null", "int", "long"], "int64",
          lambda r: r.choice([None, ("int", integer(32)(r)), ("long", integer(64)(r))]), [("int", -1), ("long", 2**63 - 1)],
          lambda v: None if v is None else number(v, int)),
    Field("int_or_double", ["int", "double"], "float64", lambda r: r.choice([("int", integer(32)(r)), ("double", double(r))]),
          [("int", 7), ("double", float("nan"))], lambda v: number(v, float)),
    Field("text_or_int", ["null", "string", "int"], "string", lambda r: maybe(r, text), ["", None], refused=[(7, "wrong_type")]),
    Field("list_", {"type": "array", "items": "long"}, "list<int64>", lambda r: items(r, integer(64)), [[], LONG, list(range(3000))]),
    Field("list_null", {"type": "array", "items": ["null", "string"]}, "list<string>", lambda r: items(r, lambda r: maybe(r, text)),
          [[], [None], [None, "", None], TEXTS]),
    Field("list_list", {"type": "array", "items": {"type": "array", "items": "double"}}, "list<list<float64>>",
          lambda r: items(r, lambda r: items(r, double)), [[], [[]], [[], [float("nan")], []]]),
    Field("list_enum", {"type": "array", "items": "sky.Cover"}, "list<string>",
          lambda r: items(r, lambda r: r.choice(["CLEAR", "FEW"])), [["OVERCAST"] * 4]),
    Field("map_", {"type": "map", "values": "int"}, "map<string, int32>", lambda r: mapping(r, integer(32)), [{}, {"": 1, "é": -1}]),
    Field("map_list", {"type": "map", "values": {"type": "array", "items": ["null", "boolean"]}}, "map<string, list<boolean>>",
          lambda r: mapping(r, lambda r: items(r, lambda r: maybe(r, boolean))), [{"a": []}, {"a": [None], "b": [True, False]}]),
    Field("null_list", ["null", {"type": "array", "items": "bytes"}], "list<binary>", lambda r: maybe(r, lambda r: items(r, blob)), [None, [], BLOBS]),
    Field("null_map", ["null", {"type": "map", "values": "float"}], "map<string, float32>", lambda r: maybe(r, lambda r: mapping(r, single)),
          [None, {}, {"nan": float("nan")}]),
    Field("record_", {"type": "record", "name": "Inner", "namespace": "deep", "fields": [
        {"name": "a", "type": ["null", "int"]}, {"name": "b", "type": {"type": "record", "name": "Innermost", "fields": [
            {"name": "at", "type": logical("long", "timestamp-millis")}, {"name": "amount", "type": DECIMAL}]}}]},
          "struct<a: int32, b: struct<at: timestamp, amount: decimal(12,2)>>",
          lambda r: {"a": maybe(r, integer(32)), "b": {"at": integer(40)(r), "amount": scaled(12, 2)(r)}},
          [{"a": None, "b": {"at": 0, "amount": Decimal("-0.01")}}],
          lambda v: {"a": v["a"], "b": {"at": v["b"]["at"] * 1000, "amount": v["b"]["amount"]}}),
    Field("null_record", ["null", {"type": "record", "name": "Other", "fields": [{"name": "n", "type": "long"}]}], "struct<n: int64>",
          lambda r: maybe(r, lambda r: {"n": integer(64)(r)}), [None, {"n": 0}]),
    Field("point", "geo.Point", "struct<x: float64, label: string>", point, [{"x": float("nan"), "label": None}]),
    Field("points", {"type": "array", "items": ["null", "geo.Point"]}, "list<struct<x: float64, label: string>>",
          lambda r: items(r, lambda r: maybe(r, point)), [[], [None], [None, {"x": -0.0, "label": ""}]]),
    Field("point_map", {"type": "map", "values": "geo.Point"}, "map<string, struct<x: float64, label: string>>",
          lambda r: mapping(r, point), [{}, {"p": {"x": 5e-324, "label": "🜁"}}]),
    # fastavro knows no such logical type of a fixed: it takes the bytes.
    Field("uuid_fixed", logical(fixed("Id", 16), "uuid"), "string", lambda r: r.randbytes(16), [b"\0" * 16, b"\xff" * 16],
          lambda v: str(uuid.UUID(bytes=v))),
    Field("uuid_bytes", logical(fixed("OtherId", 16), "uuid"), "binary", lambda r: r.randbytes(16), [bytes(range(16))]),
]


def schema(with_point):
    """The record of all fields; `geo.Point` inside it, or to be found elsewhere."""
    fields = []
    for field in FIELDS:
        avro = field.avro
        if field.name == "point" and with_point:
            avro = POINT
        fields.append({"name": field.name, "type": avro})
    return {"type": "record", "name": "test.Everything", "fields": fields}


def contract():
    return {field.name: field.contract for field in FIELDS}


def records(rng, number):
    """Pairs of a value for fastavro and what is to become of it: the row, or reason and field."""
    def base():
        return {field.name: field.pick(rng) for field in FIELDS}

    def expected(value):
        return {field.name: field.expect(value[field.name]) for field in FIELDS}

    for _ in range(number):
        value = base()
        yield value, expected(value), None
    # Each edge once, the edges of all fields side by side.
    for index in range(max(len(field.edges) for field in FIELDS)):
        value = base()
        value.update({field.name: field.edges[index % len(field.edges)] for field in FIELDS if field.edges})
        yield value, expected(value), None
    for field in FIELDS:
        for refused, reason in field.refused:
            yield {**base(), field.name: refused}, None, (reason, field.name)
