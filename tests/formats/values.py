"""Random values and edge values of each kind, from a seeded generator."""

import datetime
import os
import random
import struct

SEED = int(os.environ.get("ISOBAR_SEED") or 20130101)
TEXTS = ["", " ", "a", "\0", "\x7f", "é", "e\u0301", "日本語", "🜁🜂", "\u202eright to left", "\u2028\u2029", "\ufeffbom", "\ufffd",
         "\U0010ffff", "null", "NaN", 'quotes "\' and \\ and ,;\t', "line\r\nbreak",
         # Long, and no bomb when it is compressed.
         "".join(random.Random(SEED).choices("0123456789abcdef", k=70_000))]
FLOATS = [0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf"), 3.4028234663852886e38, -3.4028234663852886e38,
          1.401298464324817e-45, 1.1754943508222875e-38]
DOUBLES = [*FLOATS, 0.1, 1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 2.2250738585072014e-308, 2.0**53 + 2]
BLOBS = [b"", b"\0", b"\xff\xfe", bytes(range(256)), b"\x80" * 5000]


def generator(name):
    return random.Random(f"{SEED}/{name}")


def int_edges(bits):
    return [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]


def integer(bits):
    """Of any length up to `bits`, so that small and large ones are met alike."""

    def pick(rng):
        width = rng.randrange(1, bits)
        return rng.choice([1, -1]) * rng.getrandbits(width)

    return pick


def float32(value):
    """The nearest one that has 32 bits."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def single(rng):
    return float32(rng.choice([rng.uniform(-1, 1), rng.uniform(-1e30, 1e30), rng.gauss(0, 1e-30)]))


def double(rng):
    return rng.choice([rng.uniform(-1, 1), rng.uniform(-1e300, 1e300), rng.gauss(0, 1e-300)])


def text(rng):
    kinds = [(32, 126), (0xA0, 0x24F), (0x3040, 0x30FF), (0x1F300, 0x1F5FF)]
    low, high = rng.choice(kinds)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(12)))


def blob(rng):
    return rng.randbytes(rng.randrange(20))


def boolean(rng):
    return rng.random() < 0.5


def maybe(rng, pick, share=0.3):
    return None if rng.random() < share else pick(rng)


def items(rng, pick, most=5):
    return [pick(rng) for _ in range(rng.randrange(most))]


def mapping(rng, pick, most=4):
    return {text(rng) or "key": pick(rng) for _ in range(rng.randrange(most))}


EPOCH = datetime.date(1970, 1, 1)


def days(date):
    return (date - EPOCH).days


def micros_text(micros):
    """An instant of the years 1 to 9999 as RFC 3339 writes it."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros)
    return moment.isoformat(timespec="microseconds") + "Z"
