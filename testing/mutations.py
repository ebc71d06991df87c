"""Random mutations of valid protobuf messages, and encoders of single fields."""

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number: int, wire_type: int, payload: bytes) -> bytes:
    return varint(number << 3 | wire_type) + payload


def length_delimited(number: int, payload: bytes) -> bytes:
    return field(number, 2, varint(len(payload)) + payload)


def _bits_flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _repeated(rng: random.Random, data: bytes) -> bytes:
    begin = rng.randrange(len(data) + 1)
    end = rng.randint(begin, len(data))
    return data[:end] + data[begin:end] * rng.randint(1, 5) + data[end:]


def _with_unknown_fields(rng: random.Random, data: bytes) -> bytes:
    unknown = [
        field(rng.randint(1, 2**29 - 1), 0, varint(rng.getrandbits(64))),
        field(rng.randint(1, 2**29 - 1), 1, rng.randbytes(8)),
        field(rng.randint(1, 40), 5, rng.randbytes(4)),
        length_delimited(rng.randint(1, 40), rng.randbytes(rng.randint(0, 300))),
        field(rng.randint(1, 40), rng.choice([3, 4, 6, 7]), b""),
        field(0, 0, b"\0"),
    ]
    added = b"".join(rng.sample(unknown, rng.randint(1, 3)))
    return data + added if rng.random() < 0.5 else added + data


def _nested(rng: random.Random, data: bytes) -> bytes:
    depth = rng.choice([10, 99, 101, 2000])
    if rng.random() < 0.5:
        return data + field(1, 3, b"") * depth + field(1, 4, b"") * depth
    for _ in range(min(depth, 200)):
        data = length_delimited(rng.randint(1, 10), data)
    return data


def _with_huge_varints(rng: random.Random, data: bytes) -> bytes:
    huge = rng.choice([b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\xff" * 300, varint(2**63)])
    kind = rng.choice([0, 2])
    return data + field(rng.randint(1, 10), kind, huge)


def _with_bad_utf_8(rng: random.Random, data: bytes) -> bytes:
    bad = rng.choice([b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
    return data + length_delimited(rng.randint(1, 6), bad)


def _with_wrong_wire_types(rng: random.Random, data: bytes) -> bytes:
    kind = rng.choice([0, 1, 2, 5])
    payload = {0: b"\x07", 1: bytes(8), 2: b"\x01x", 5: bytes(4)}[kind]
    return data + b"".join(field(number, kind, payload) for number in range(1, 11))


def _random(rng: random.Random, _: bytes) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 2, 5, 20, 300]))


MUTATIONS: list[Mutation] = [
    _bits_flipped,
    _cut,
    _repeated,
    _with_unknown_fields,
    _nested,
    _with_huge_varints,
    _with_bad_utf_8,
    _with_wrong_wire_types,
    _random,
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return these bytes after one to three mutations."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(MUTATIONS)(rng, data)
    return data
