"""Every type of Protobuf that isobar reads: what is put into a message, and what Google's own implementation reads out of it."""

import dataclasses
import datetime
import decimal
import pathlib
import tempfile
import typing

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.type import date_pb2
from grpc_tools import protoc
from values import BLOBS, DOUBLES, FLOATS, TEXTS, blob, boolean, days, double, int_edges, integer, items, mapping, maybe, single, text

PROTO = pathlib.Path(__file__).resolve().parent / "proto"
# What protoc brings along: Google's well-known files.
WELL_KNOWN = pathlib.Path(protoc.__file__).resolve().parent / "_proto"
# What Google's package of common files brings along, and for those of Confluent, which come compiled, what isobar knows itself.
COMMON = pathlib.Path(date_pb2.__file__).resolve().parents[2]
KNOWN = pathlib.Path(__file__).resolve().parents[2] / "schemas/src/decode/protobuf/known"
EVERYTHING = "test.Outer.Everything"
Decimal = decimal.Decimal


# ---------------------------------------------------------------- compiling


def descriptor_set(file, folder=PROTO):
    """The bytes of the descriptor set of a `.proto` file with all its imports, from the real `protoc`."""
    with tempfile.TemporaryDirectory() as out:
        path = pathlib.Path(out) / "set"
        folders = [f"-I{each}" for each in (folder, WELL_KNOWN, COMMON, KNOWN)]
        code = protoc.main(["protoc", *folders, "--include_imports", f"--descriptor_set_out={path}", file])
        if code != 0:
            raise RuntimeError(f"protoc {file}: exit code {code}")
        return path.read_bytes()


def pool_of(descriptors):
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        pool.Add(file)
    return pool


def compiled(text, file="schema.proto"):
    """A pool of the messages of this text."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / file).write_text(text)
        return pool_of(descriptor_set(file, folder))


def message_class(pool, name):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def with_id(payload, identity):
    """The same payload behind a header that names another schema of the registry."""
    return payload[:1] + identity.to_bytes(4, "big") + payload[5:]


# ---------------------------------------------------------------- putting in


def fill(message, values):
    """Puts values into a message; None is left out."""
    for name, value in values.items():
        if value is None:
            continue
        field = message.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, dict) and is_map(field):
            for key, item in value.items():
                if isinstance(item, dict):
                    # Also without anything in it, the entry is there.
                    fill(getattr(message, name)[key], item)
                else:
                    getattr(message, name)[key] = item
        elif isinstance(value, dict):
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    fill(getattr(message, name).add(), item)
                else:
                    getattr(message, name).append(item)
        else:
            setattr(message, name, value)
    return message


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


# ---------------------------------------------------------------- reading out


def read(message, names=None):
    """What a message holds by Google's implementation: enums by name, well-known types as what they mean."""
    fields = message.DESCRIPTOR.fields_by_name
    return {name: read_field(message, fields[name]) if name in fields else None for name in names or fields}


def read_field(message, field):
    value = getattr(message, field.name)
    if is_map(field):
        inner = field.message_type.fields_by_name["value"]
        return {map_key(key): read_value(value[key], inner) for key in value}
    if field.is_repeated:
        return [read_value(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name) and not field.has_default_value:
        return None
    return read_value(value, field)


def map_key(key):
    return str(key).lower() if isinstance(key, bool) else str(key)


def read_value(value, field):
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return Unnamed(value) if named is None else named.name
    if field.message_type is None:
        return value
    name = field.message_type.full_name
    if name == "google.protobuf.Timestamp":
        return value.seconds * 1_000_000 + value.nanos // 1000
    if name == "google.protobuf.Duration":
        # Towards zero.
        total = value.seconds * 1_000_000_000 + value.nanos
        return -(-total // 1000) if total < 0 else total // 1000
    if name == "google.type.Date":
        return days(datetime.date(value.year, value.month, value.day))
    if name == "google.type.TimeOfDay":
        return ((value.hours * 60 + value.minutes) * 60 + value.seconds) * 1_000_000 + value.nanos // 1000
    if name == "confluent.type.Decimal":
        return Decimal(int.from_bytes(value.value, "big", signed=True)).scaleb(-value.scale)
    if name.startswith("google.protobuf.") and name.endswith("Value") and "value" in field.message_type.fields_by_name:
        return value.value
    if name in ("google.protobuf.Struct", "test.Node"):
        return value.SerializeToString(deterministic=True)
    return read(value)


@dataclasses.dataclass(frozen=True)
class Unnamed:
    """A number that an enum has no name for."""

    number: int


# ---------------------------------------------------------------- the fields


@dataclasses.dataclass
class Field:
    name: str
    contract: str
    pick: typing.Callable
    edges: list = dataclasses.field(default_factory=list)
    # From what `read` finds to what isobar has to find.
    expect: typing.Callable = lambda value: value
    refused: list = dataclasses.field(default_factory=list)


def unsigned(bits):
    return lambda rng: rng.getrandbits(rng.randrange(1, bits + 1))


def money(rng):
    return {"units": integer(64)(rng), "nanos": integer(32)(rng), "currency": rng.choice([0, 1, -2])}


def instant(rng):
    return {"seconds": rng.randrange(-62_135_596_800, 253_402_300_800), "nanos": rng.randrange(10**9)}


def length(rng):
    sign = rng.choice([1, -1])
    return {"seconds": sign * rng.randrange(10**9), "nanos": sign * rng.randrange(10**9)}


def day(year, month, day):
    return {"year": year, "month": month, "day": day}


def clock(rng):
    return {"hours": rng.randrange(24), "minutes": rng.randrange(60), "seconds": rng.randrange(60), "nanos": rng.randrange(10**9)}


def unscaled(value, scale):
    """A decimal as Confluent's clients write it."""
    return {"value": value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), "precision": len(str(abs(value))), "scale": scale}


def wrapped(pick):
    return lambda rng: maybe(rng, lambda rng: {"value": pick(rng)})


def wrapping(values):
    return [None, {}, *({"value": value} for value in values)]


def optional(pick):
    return lambda rng: maybe(rng, pick)


def to_decimal(scale):
    return lambda value: Decimal(value).quantize(Decimal(1).scaleb(-scale), context=decimal.Context(prec=60))


COVERS = [0, 1, 8]
NUMBERS = {"CLEAR": 0, "FEW": 1, "OVERCAST": 8, "UNKNOWN": 0, "EUR": 1, "USD": -2}
MONEY = "struct<units: int64, nanos: int32, currency: string>"
INT, LONG = int_edges(32), int_edges(64)
U32, U64 = [0, 1, 2**31, 2**32 - 1], [0, 1, 2**63 - 1, 2**64 - 1]


def cover(rng):
    return rng.choice(COVERS)


def by_number(value):
    return value.number if isinstance(value, Unnamed) else NUMBERS[value]


FIELDS = [
    Field("map_", "map<string, int32>", lambda r: mapping(r, integer(32)), [{}, {"": 0, "é": -1}]),
    Field("bool_", "boolean", boolean, [True, False]),
    Field("int32_", "int32", integer(32), INT),
    Field("int32_8", "int8", integer(8), int_edges(8), refused=[(128, "out_of_range"), (-(2**31), "out_of_range")]),
    Field("int32_16", "int16", integer(16), int_edges(16), refused=[(2**15, "out_of_range")]),
    Field("int32_64", "int64", integer(32), INT),
    Field("int32_decimal", "decimal(14,3)", integer(32), INT, to_decimal(3)),
    Field("int32_f64", "float64", integer(32), INT, float),
    Field("int64_", "int64", integer(64), LONG),
    Field("int64_32", "int32", integer(32), INT, refused=[(2**31, "out_of_range"), (-(2**63), "out_of_range")]),
    Field("int64_decimal", "decimal(19,0)", integer(64), LONG, to_decimal(0)),
    Field("uint32_", "int64", unsigned(32), U32),
    Field("uint32_32", "int32", unsigned(31), [0, 2**31 - 1], refused=[(2**31, "out_of_range"), (2**32 - 1, "out_of_range")]),
    Field("uint64_", "decimal(20,0)", unsigned(64), U64, to_decimal(0)),
    Field("uint64_64", "int64", unsigned(63), [0, 2**63 - 1], refused=[(2**63, "out_of_range"), (2**64 - 1, "out_of_range")]),
    Field("sint32_", "int32", integer(32), INT),
    Field("sint64_", "int64", integer(64), LONG),
    Field("fixed32_", "int64", unsigned(32), U32),
    Field("fixed64_", "decimal(20,0)", unsigned(64), U64, to_decimal(0)),
    Field("sfixed32_", "int32", integer(32), INT),
    Field("sfixed64_", "int64", integer(64), LONG),
    Field("float_", "float32", single, FLOATS),
    Field("float_64", "float64", single, FLOATS),
    Field("double_", "float64", double, DOUBLES),
    Field("string_", "string", text, TEXTS),
    Field("string_bytes", "binary", text, TEXTS, str.encode),
    Field("bytes_", "binary", blob, BLOBS),
    Field("bytes_text", "string", lambda r: text(r).encode(), [t.encode() for t in TEXTS], bytes.decode,
          refused=[(b"\xff", "invalid_value")]),
    Field("cover", "string", cover, COVERS, refused=[(5, "invalid_value"), (-1, "invalid_value")]),
    Field("cover_number", "int32", lambda r: r.choice([*COVERS, 77]), [77, -1], by_number),
    Field("currency_number", "int64", lambda r: r.choice([0, 1, -2]), [-2], by_number),
    Field("opt_int32", "int32", optional(integer(32)), [None, *INT]),
    Field("opt_string", "string", optional(text), [None, *TEXTS]),
    Field("opt_bool", "boolean", optional(boolean), [None, False, True]),
    Field("opt_double", "float64", optional(double), [None, *DOUBLES]),
    Field("opt_cover", "string", optional(cover), [None, *COVERS]),
    Field("opt_bytes", "binary", optional(blob), [None, *BLOBS]),
    # Of these three one at most: see `records`.
    Field("one_int", "int32", lambda r: None),
    Field("one_text", "string", lambda r: None),
    Field("one_money", MONEY, lambda r: None),
    Field("list_int32", "list<int32>", lambda r: items(r, integer(32)), [[], INT, list(range(-1500, 1500))]),
    Field("list_unpacked", "list<int64>", lambda r: items(r, integer(64)), [[], LONG]),
    Field("list_string", "list<string>", lambda r: items(r, text), [[], TEXTS]),
    Field("list_double", "list<float64>", lambda r: items(r, double), [[], DOUBLES]),
    Field("list_bool", "list<boolean>", lambda r: items(r, boolean), [[True, False]]),
    Field("list_cover", "list<string>", lambda r: items(r, cover), [COVERS]),
    Field("list_money", f"list<{MONEY}>", lambda r: items(r, money), [[], [{}], [{"units": -1}, {}]]),
    Field("list_bytes", "list<binary>", lambda r: items(r, blob), [BLOBS]),
    Field("list_at", "list<timestamp>", lambda r: items(r, instant), [[{}], [{"seconds": -1, "nanos": 999_999_999}]]),
    Field("map_int_key", "map<string, string>", lambda r: {integer(32)(r): text(r) for _ in range(3)}, [{}, {k: "" for k in INT}]),
    Field("map_bool_key", "map<string, float64>", lambda r: {boolean(r): double(r)}, [{True: -0.0, False: float("nan")}]),
    Field("map_cover", "map<string, string>", lambda r: {unsigned(64)(r): cover(r)}, [{k: 8 for k in U64}]),
    Field("map_money", f"map<string, {MONEY}>", lambda r: mapping(r, money), [{}, {"": {}}]),
    Field("map_bytes", "map<string, binary>", lambda r: {integer(64)(r): blob(r)}, [{k: b"\0" for k in LONG}]),
    Field("money", MONEY, optional(money), [None, {}]),
    Field("deepest", "struct<int32_: int32, string_: string>", optional(lambda r: {"int32_": integer(32)(r), "string_": text(r)}), [None, {}]),
    Field("node", "binary", optional(lambda r: {"value": integer(32)(r), "next": {"next": {"value": 1}}}), [None, {}]),
    Field("at", "timestamp", optional(instant), [None, {}, {"seconds": -62_135_596_800}, {"seconds": 253_402_300_799, "nanos": 999_999_999}],
          refused=[({"seconds": 253_402_300_800}, "out_of_range"), ({"nanos": -1}, "invalid_value"), ({"nanos": 10**9}, "invalid_value")]),
    Field("took", "int64", optional(length), [None, {}, {"nanos": -999}, {"seconds": -1, "nanos": -1500}, {"seconds": 315_576_000_000}],
          refused=[({"seconds": 315_576_000_001}, "out_of_range"), ({"seconds": 1, "nanos": -1}, "invalid_value")]),
    Field("wrapped_int32", "int32", wrapped(integer(32)), wrapping(INT)),
    Field("wrapped_uint64", "decimal(20,0)", wrapped(unsigned(64)), wrapping(U64), lambda v: None if v is None else to_decimal(0)(v)),
    Field("wrapped_double", "float64", wrapped(double), wrapping(DOUBLES)),
    Field("wrapped_string", "string", wrapped(text), wrapping(TEXTS)),
    Field("wrapped_bool", "boolean", wrapped(boolean), wrapping([True, False])),
    Field("wrapped_bytes", "binary", wrapped(blob), wrapping(BLOBS)),
    Field("any_struct", "binary", optional(lambda r: {"fields": {"a": {"number_value": double(r)}}}), [None, {}]),
    Field("wrapped_float", "float32", wrapped(single), wrapping(FLOATS)),
    Field("wrapped_int64", "int64", wrapped(integer(64)), wrapping(LONG)),
    Field("wrapped_uint32", "int64", wrapped(unsigned(32)), wrapping(U32)),
    Field("day", "date", optional(lambda r: day(r.randrange(1, 10_000), r.randrange(1, 13), r.randrange(1, 29))),
          [None, day(1, 1, 1), day(9999, 12, 31), day(2024, 2, 29)],
          refused=[({}, "invalid_value"), (day(2023, 2, 29), "invalid_value"), (day(10_000, 1, 1), "out_of_range")]),
    Field("clock", "int64", optional(clock), [None, {}, {"hours": 23, "minutes": 59, "seconds": 59, "nanos": 999_999_999}],
          refused=[({"hours": 24}, "invalid_value"), ({"seconds": 60}, "invalid_value")]),
    Field("amount", "decimal(12,2)", optional(lambda r: unscaled(r.randrange(-(10**12) + 1, 10**12), 2)),
          [None, unscaled(0, 2), unscaled(10**12 - 1, 2), unscaled(1 - 10**12, 2), unscaled(7, -3), unscaled(-15, 1)],
          refused=[({}, "invalid_value"), (unscaled(1, 3), "invalid_value"), (unscaled(10**12, 2), "out_of_range")]),
    Field("far", "int32", integer(32), INT),
]


def contract():
    return {field.name: field.contract for field in FIELDS}


def expected(message):
    """The row that a message must become; None if it holds a number of an enum that has no name where a name is wanted."""
    found = read(message, [field.name for field in FIELDS])
    row = {field.name: field.expect(found[field.name]) if found[field.name] is not None else None for field in FIELDS}
    return None if holds_unnamed(row) else row


def holds_unnamed(value):
    if isinstance(value, dict):
        return any(map(holds_unnamed, value.values()))
    if isinstance(value, list):
        return any(map(holds_unnamed, value))
    return isinstance(value, Unnamed)


def records(rng, kind, number):
    """Pairs of a message and reason and field of what must reject it, None if nothing must."""
    def base():
        values = {field.name: field.pick(rng) for field in FIELDS}
        name, pick = rng.choice([("one_int", integer(32)), ("one_text", text), ("one_money", money), ("one_int", lambda r: None)])
        return {**values, name: pick(rng)}

    yield kind(), None
    for _ in range(number):
        yield fill(kind(), base()), None
    for index in range(max(len(field.edges) for field in FIELDS)):
        edges = {field.name: field.edges[index % len(field.edges)] for field in FIELDS if field.edges}
        yield fill(kind(), {**base(), **edges}), None
    for member, value in (("one_int", 0), ("one_text", ""), ("one_money", {})):
        yield fill(kind(), {member: value}), None
    for field in FIELDS:
        for refused, reason in field.refused:
            yield fill(kind(), {**base(), field.name: refused}), (reason, field.name)
