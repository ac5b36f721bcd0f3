"""Encoded values, read by hand: msgpack with trajrec's extensions as typed JSON, and back.

This module and `slow_reader` were written from docs/reference/log-format.md alone.
They import nothing of trajrec, so that they can tell whether page and program agree.

A typed value is what JSON can hold, with exact types:

- null, true, false, texts and arrays stand for None, bools, texts and lists;
- a number stands for an int; an int beyond 2^53 is {"int": "digits"};
- anything else is an object with one key, its type: see `TYPES`.

In memory a typed value may hold bytes and ints of any size; `to_json` writes those out.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from typing import Any

import numpy as np

Typed = Any

TYPES = {
    "int": "digits of an int beyond 2^53",
    "float": "bits of a float of 64 bits, 16 hex digits, the sign first",
    "complex": "the bits of both parts",
    "surrogates": "UTF-8 with surrogates, in hex, of a text with lone surrogates",
    "text": "[size in UTF-8, BLAKE2b-128 of it] of a text of more than 200 characters",
    "bytes": "hex, or [size, BLAKE2b-128] of more than 64 bytes",
    "bytearray": "as bytes",
    "tuple": "array of values",
    "set": "array of values, in the order of the log",
    "frozenset": "as set",
    "dict": "array of [key, value], in the order of the log",
    "scalar": "[dtype, bytes] of a numpy scalar",
    "array": "[dtype, shape, bytes] of a numpy array",
    "objects": "[kind, shape, array of values] of a numpy array of objects or texts",
    "object": "[type name, kind, fields]",
    "opaque": "[type name, start of its repr]",
    "ref": "digest of a Blob, in hex",
    "json": "[size, BLAKE2b-128] of the JSON of a value of a step that has more than 2000 bytes",
}

BIG = 1 << 53
SHORT = 64
SHORT_TEXT = 200
SHORT_JSON = 2000
NESTED = {1: "tuple", 9: "set", 12: "frozenset"}
NAMES = {2: "array", 3: "scalar", 7: "object", 8: "opaque", 11: "objects"}
LIMIT = 100


class DamageError(Exception):
    """The bytes are not as the page says."""


def float_bits(number: float) -> Typed:
    return {"float": struct.pack(">d", number).hex()}


def tag_of(value: Typed) -> str:
    """Return the type of a typed value that is an object, else ""."""
    return next(iter(value)) if isinstance(value, dict) else ""


# --- Decoding --------------------------------------------------------------------------------


class Unpacker:
    """Reads msgpack from bytes, one value after the other.

    Args:
        data: The bytes.
        depth: How deep the bytes are nested in others.
    """

    def __init__(self, data: bytes, depth: int = 0) -> None:
        self.data = data
        self.at = 0
        self.depth = depth

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise DamageError("msgpack ends in the middle of a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def value(self) -> Typed:
        """Read the next value."""
        first = self.number("B")
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0x90:
            return self.mapping(first & 15)
        if first < 0xA0:
            return self.array(first & 15)
        if first < 0xC0:
            return self.text(first & 31)
        return self.long_value(first)

    def long_value(self, first: int) -> Typed:
        """Read the rest of a value whose first byte is a type of its own."""
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in (0xC4, 0xC5, 0xC6):
            return {"bytes": self.take(self.number("BHI"[first - 0xC4]))}
        if first in (0xC7, 0xC8, 0xC9):
            size = self.number("BHI"[first - 0xC7])
            return self.extension(self.number("b"), self.take(size))
        if first in (0xCA, 0xCB):
            return float_bits(self.number("fd"[first - 0xCA]))
        if 0xCC <= first <= 0xD3:
            return self.number("BHIQbhiq"[first - 0xCC])
        if 0xD4 <= first <= 0xD8:
            return self.extension(self.number("b"), self.take(1 << (first - 0xD4)))
        if first in (0xD9, 0xDA, 0xDB):
            return self.text(self.number("BHI"[first - 0xD9]))
        if first in (0xDC, 0xDD):
            return self.array(self.number("HI"[first - 0xDC]))
        if first in (0xDE, 0xDF):
            return self.mapping(self.number("HI"[first - 0xDE]))
        raise DamageError(f"msgpack has no type {first:#x}")

    def text(self, size: int) -> str:
        return self.take(size).decode()

    def array(self, size: int) -> list[Typed]:
        self.enter()
        items = [self.value() for _ in range(size)]
        self.depth -= 1
        return items

    def mapping(self, size: int) -> Typed:
        self.enter()
        items = [[self.value(), self.value()] for _ in range(size)]
        self.depth -= 1
        return {"dict": items}

    def enter(self) -> None:
        self.depth += 1
        if self.depth > LIMIT:
            raise DamageError(f"a value is nested deeper than {LIMIT} levels")

    def extension(self, code: int, data: bytes) -> Typed:
        """Return the typed value of an extension."""
        match code:
            case 4:
                return int.from_bytes(data, "little", signed=True)
            case 6:
                return {"surrogates": data}
            case 13:
                return {"bytearray": data}
            case 14:
                return {"ref": data.hex()}
        content = unpack(data, self.depth + 1)
        match code:
            case 1 | 9 | 12:
                return {NESTED[code]: content}
            case 5:
                return {"dict": content}
            case 10:
                return {"complex": [part["float"] for part in content]}
            case 2 | 3:
                return {NAMES[code]: [*content[:-1], content[-1]["bytes"]]}
            case 7 | 8 | 11:
                return {NAMES[code]: content}
        raise DamageError(f"unknown extension {code}")


def unpack(data: bytes, depth: int = 0) -> Typed:
    """Return the one value that some bytes hold."""
    reader = Unpacker(data, depth)
    value = reader.value()
    if reader.at != len(data):
        raise DamageError("bytes follow a value")
    return value


# --- Encoding, with the keys of maps sorted ---------------------------------------------------


def head(size: int, *forms: tuple[int, int, str]) -> bytes:
    """Return the shortest head of a size: forms are (first byte, sizes below, format)."""
    for first, limit, form in forms:
        if size < limit:
            return struct.pack(">B" + form, first, size) if form else bytes([first | size])
    raise DamageError("a value is too large")


def pack_int(value: int) -> bytes:
    """Return the shortest msgpack of an int."""
    if 0 <= value < 0x80:
        return bytes([value])
    if -32 <= value < 0:
        return bytes([value + 0x100])
    letters = "BHIQ" if value >= 0 else "bhiq"
    first = 0xCC if value >= 0 else 0xD0
    for place, letter in enumerate(letters):
        try:
            return struct.pack(">B" + letter, first + place, value)
        except struct.error:
            continue
    # One bit for the sign.
    size = value.bit_length() // 8 + 1
    return pack_extension(4, value.to_bytes(size, "little", signed=True))


def pack_text(text: str) -> bytes:
    data = text.encode()
    forms = ((0xA0, 32, ""), (0xD9, 1 << 8, "B"), (0xDA, 1 << 16, "H"), (0xDB, 1 << 32, "I"))
    return head(len(data), *forms) + data


def pack_bytes(data: bytes) -> bytes:
    return head(len(data), (0xC4, 1 << 8, "B"), (0xC5, 1 << 16, "H"), (0xC6, 1 << 32, "I")) + data


def array_head(size: int) -> bytes:
    return head(size, (0x90, 16, ""), (0xDC, 1 << 16, "H"), (0xDD, 1 << 32, "I"))


def map_head(size: int) -> bytes:
    return head(size, (0x80, 16, ""), (0xDE, 1 << 16, "H"), (0xDF, 1 << 32, "I"))


def pack_array(items: list[Typed]) -> bytes:
    return array_head(len(items)) + b"".join(map(pack, items))


def pack_extension(code: int, data: bytes) -> bytes:
    if len(data) in (1, 2, 4, 8, 16):
        return bytes([0xD4 + len(data).bit_length() - 1, code]) + data
    forms = (0xC7, 1 << 8, "B"), (0xC8, 1 << 16, "H"), (0xC9, 1 << 32, "I")
    return head(len(data), *forms) + bytes([code]) + data


def pack_dict(items: list[list[Typed]]) -> bytes:
    """Return a map with its keys in the order of their encodings."""
    pairs = sorted((pack(key), pack(value)) for key, value in items)
    if all(isinstance(key, str) for key, _ in items):
        return map_head(len(items)) + b"".join(key + value for key, value in pairs)
    rows = b"".join(b"\x92" + key + value for key, value in pairs)
    return pack_extension(5, array_head(len(items)) + rows)


def pack(value: Typed) -> bytes:
    """Return the canonical encoding of a typed value."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return pack_int(value)
        case str():
            return pack_text(value)
        case list():
            return pack_array(value)
    return pack_tagged(*next(iter(value.items())))


def pack_tagged(tag: str, content: Any) -> bytes:
    """Return the canonical encoding of a value of another type."""
    match tag:
        case "float":
            return b"\xcb" + bytes.fromhex(content)
        case "complex":
            return pack_extension(10, pack_array([{"float": part} for part in content]))
        case "surrogates":
            return pack_extension(6, content)
        case "bytes":
            return pack_bytes(content)
        case "bytearray":
            return pack_extension(13, content)
        case "ref":
            return pack_extension(14, bytes.fromhex(content))
        case "dict":
            return pack_dict(content)
        case "tuple":
            return pack_extension(1, pack_array(content))
        case "set" | "frozenset":
            data = array_head(len(content)) + b"".join(sorted(map(pack, content)))
            return pack_extension(9 if tag == "set" else 12, data)
        case "array" | "scalar":
            items = [*content[:-1], {"bytes": content[-1]}]
            return pack_extension(2 if tag == "array" else 3, pack_array(items))
    codes = {name: code for code, name in NAMES.items()}
    return pack_extension(codes[tag], pack_array(content))


def pack_plain(value: Typed) -> bytes:
    """Return the msgpack of plain data, with the keys of maps, all texts, in their own order.

    Raises:
        DamageError: The value is not plain, or has other keys.
    """
    if isinstance(value, list):
        return array_head(len(value)) + b"".join(map(pack_plain, value))
    if tag_of(value) == "dict":
        if not all(isinstance(key, str) for key, _ in value["dict"]):
            raise DamageError("a map has keys that are no texts")
        pairs = sorted(value["dict"], key=lambda pair: pair[0].encode())
        rows = (pack_text(key) + pack_plain(item) for key, item in pairs)
        return map_head(len(pairs)) + b"".join(rows)
    match value:
        case {"object": ["datetime.datetime", "value", {"dict": [["value", text]]}]}:
            return pack_time(text)
    if tag_of(value) not in ("", "float", "bytes") or not is_of_64_bits(value):
        raise DamageError(f"{value} is no plain data")
    return pack(value)


def pack_time(text: str) -> bytes:
    """Return msgpack's timestamp of a time with a time zone, in its shortest form."""
    time = datetime.datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise DamageError("a time without a time zone is no plain data")
    span = time - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    seconds = span.days * 86400 + span.seconds
    nanoseconds = 1000 * span.microseconds
    if 0 <= seconds < 1 << 34:
        number = nanoseconds << 34 | seconds
        data = struct.pack(">I", number) if number < 1 << 32 else struct.pack(">Q", number)
        return pack_extension(-1 & 0xFF, data)
    return pack_extension(-1 & 0xFF, struct.pack(">Iq", nanoseconds, seconds))


def is_of_64_bits(value: Typed) -> bool:
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 64


# --- numpy, JSON ------------------------------------------------------------------------------


def numpy_dtype(stored: Typed) -> np.dtype[Any]:
    """Return a dtype from its text, or from the fields of a structured one."""
    if isinstance(stored, str):
        return np.dtype(stored)
    *fields, size = stored
    names, forms, offsets = zip(*fields, strict=True) if fields else ((), (), ())
    return np.dtype(
        {
            "names": list(names),
            "formats": [numpy_dtype(form) for form in forms],
            "offsets": list(offsets),
            "itemsize": size,
        }
    )


def shortened(data: bytes) -> list[Any]:
    """Return size and digest in place of some bytes."""
    return [len(data), hashlib.blake2b(data, digest_size=16).hexdigest()]


def to_json(value: Any) -> Any:
    """Return a typed value as JSON holds it: see `TYPES`."""
    match value:
        case bool() | None:
            return value
        case str():
            return value if len(value) <= SHORT_TEXT else {"text": shortened(value.encode())}
        case int():
            return value if abs(value) < BIG else {"int": str(value)}
        case bytes():
            return value.hex() if len(value) <= SHORT else shortened(value)
        case list() | tuple():
            return [to_json(item) for item in value]
        case dict():
            return {key: to_json(item) for key, item in value.items()}
    raise TypeError(f"{type(value)} is no typed value")


def compact(value: Any) -> str:
    """Return JSON on one line, without spaces, in ASCII."""
    return json.dumps(value, separators=(",", ":"))


def short_json(value: Typed) -> Any:
    """Return a typed value as JSON holds it, or its size and digest if it is large."""
    written = to_json(value)
    text = compact(written)
    return written if len(text) <= SHORT_JSON else {"json": shortened(text.encode())}
