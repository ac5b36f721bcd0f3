"""The places in a record that a fuzzer changes, and the values that it puts there."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

from fuzz_parts import EVENTS, Part, encode

from trajrec.log import frames, schema

MAX_DEPTH = 50

LONGEST_LIST = 20_000


@dataclasses.dataclass
class Site:
    name: str
    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        return self.holder[self.key]


def sites(part: Part) -> list[Site]:
    """Return the places in a frame's record."""
    if part.kind == frames.CHUNK:
        return list(_chunk_sites(part.record))
    if part.kind != frames.FOOTER or not isinstance(part.record, list):
        return list(_tree_sites("Header", [part.record], 0))
    # Its first item is a copy of the header.
    tables = (
        site for k in range(1, len(part.record)) for site in _tree_sites("Footer", part.record, k)
    )
    return [*_tree_sites("Header", part.record, 0), *tables]


def _chunk_sites(record: list[Any]) -> Iterator[Site]:
    for number, field in enumerate(schema.Chunk.__struct_fields__[: len(record)]):
        yield Site(f"Chunk.{field}", record, number)
    for segment in record[1]:
        yield from _struct_sites(schema.Segment, segment)
    for column in record[2]:
        yield from _struct_sites(schema.Column, column)
    yield from _tree_sites("layout", record, 3)
    for event in record[4]:
        cls = EVENTS[event[0]]
        for number, field in enumerate(cls.__struct_fields__[: len(event) - 1], 1):
            yield Site(f"{cls.__name__}.{field}", event, number)
            if isinstance(event[number], list):
                for k in range(len(event[number])):
                    yield Site(f"{cls.__name__}.{field}", event[number], k)
    if len(record) > 5:
        yield from _tree_sites("irregular", record, 5)
    if len(record) > 7:
        yield from _tree_sites("tables", record, 7)
        yield Site("order", record, 8)


def _struct_sites(cls: Any, values: list[Any]) -> Iterator[Site]:
    for number, field in enumerate(cls.__struct_fields__[: len(values)]):
        yield Site(f"{cls.__name__}.{field}", values, number)


def _tree_sites(name: str, holder: Any, key: Any, depth: int = 0) -> Iterator[Site]:
    yield Site(name, holder, key)
    # An earlier change may have put a value there that nests deeply.
    if depth > MAX_DEPTH:
        return
    value = holder[key]
    if isinstance(value, list):
        for number in range(len(value)):
            yield from _tree_sites(name, value, number, depth + 1)
    elif isinstance(value, dict):
        for inner in value:
            yield from _tree_sites(name, value, inner, depth + 1)


NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    100,
    2**16,
    2**20 + 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**31),
    -(2**63),
]
TEXTS = ["", "a", "leaf", "dict", "tuple", "const", "array", "scalar", "value", "int", "float"]
TEXTS += ["<f4", "<f8", "|u1", "|O", "S0", "U3", "<i8", "(1000000,)f8", "M8[ns]", "é", "\0", "../x"]
TEXTS += [
    "start",
    "end",
    "obs",
    "obs/x",
    "state_digest",
    "digest",
    "every",
    "\ud7ff" * 3,
    "x" * 5000,
]


def deep(rng: random.Random) -> Any:
    """Return a value that is nested deeply."""
    value: Any = None
    for _ in range(rng.choice([20, 99, 101, 150, 500, 900])):
        value = [value] if rng.random() < 0.7 else {"a": value}
    return value


def deep_bytes(rng: random.Random) -> bytes:
    """Return an encoded value that is nested deeply, or refers to nothing."""
    n = rng.choice([50, 101, 200, 800, 3000])
    return rng.choice(
        [
            b"\x91" * n + b"\xc0",
            b"\x81\xa1a" * n + b"\xc0",
            b"\xd8\x0e" + rng.randbytes(16),
            b"\xdd\xff\xff\xff\xff",
            b"\xdc\xff\xff" + b"\x90" * 0xFFFF,
            b"\xc7\x09\x02" + encode(["<f8", [2**40], b""]),
            b"\xc7\x0c\x02" + encode(["S0", [2**31], b""]),
            b"\xd4\x07\x90",
            encode({"kwargs": 3}),
            encode([["replace", 5]]),
            encode([["add", ["a"], 1], ["add", ["a"], 2]]),
            b"",
        ]
    )


def change_value(value: Any, rng: random.Random, others: list[Any]) -> Any:
    """Return another value for a place."""
    choice = rng.random()
    if choice < 0.1:
        return rng.choice([None, [], {}, b"", "", 0, True, 1.5, float("nan"), deep(rng)])
    same = [other for other in others if type(other) is type(value) and other != value]
    if choice < 0.35 and same:
        return rng.choice(same)
    if type(value) is bool:
        return not value
    if type(value) is int:
        return rng.choice([*NUMBERS, value + 1, value - 1, value * 2, -value])
    if type(value) is float:
        return rng.choice([0.0, float("nan"), float("inf"), -value, 1e300])
    if type(value) is str:
        return rng.choice([*TEXTS, value[:-1], value + "x", value.upper()])
    if type(value) is bytes:
        return change_bytes(value, rng)
    if type(value) is list:
        return change_list(value, rng)
    if type(value) is dict:
        changed = dict(value)
        if changed and rng.random() < 0.5:
            changed.pop(rng.choice(list(changed)))
        changed[rng.choice(TEXTS)] = rng.choice([*changed.values(), 0])
        return changed
    return rng.choice([0, "", b"x", [], 2**40, deep_bytes(rng)])


def change_bytes(value: bytes, rng: random.Random) -> bytes:
    if not value or rng.random() < 0.3:
        return deep_bytes(rng)
    changed = bytearray(value)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.3 else changed)


def change_list(value: list[Any], rng: random.Random) -> list[Any]:
    changed = list(value)
    if not changed:
        return [rng.choice([0, None, "leaf", [], deep(rng)])]
    k = rng.randrange(len(changed))
    match rng.randrange(5):
        case 0:
            del changed[k]
        case 1:
            changed.insert(rng.randrange(len(changed) + 1), changed[k])
        case 2:
            j = rng.randrange(len(changed))
            changed[k], changed[j] = changed[j], changed[k]
        case 3:
            changed = changed[:k]
        case _:
            # A hundred thousand events take seconds to read, and may.
            changed *= min(rng.choice([2, 3, 1000]), max(2, LONGEST_LIST // len(changed)))
    return changed
