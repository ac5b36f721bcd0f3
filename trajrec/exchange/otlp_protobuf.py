"""Traces in OTLP's protobuf, as the object that OTLP/JSON writes for them.

The messages are few and settled, so they are read here, and the package of protobuf is not needed.
Source: opentelemetry-proto 1.x, `trace.proto`, `common.proto` and `resource.proto`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path

from trajrec.errors import ImportFileError
from trajrec.exchange.candidates import Candidate
from trajrec.exchange.reading import read_bytes
from trajrec.types import JsonObject, Value

MAX_DEPTH = 60
"""The deepest nesting of messages: attributes may hold lists of lists."""

_VARINT = 0
_FIXED64 = 1
_BYTES = 2
_FIXED32 = 5

_RESOURCE_SPANS = b"\x0a"
"""The first byte of an export: the tag of its only field."""

# Message -> number of a field -> its name in OTLP/JSON and its kind: a message, or a way to read it.
# A kind that ends with "*" may stand several times.
_FIELDS: dict[str, dict[int, tuple[str, str]]] = {
    "export": {1: ("resourceSpans", "resource_spans*")},
    "resource_spans": {
        1: ("resource", "resource"),
        2: ("scopeSpans", "scope_spans*"),
        3: ("schemaUrl", "text"),
    },
    "resource": {1: ("attributes", "attribute*"), 2: ("droppedAttributesCount", "number")},
    "scope_spans": {1: ("scope", "scope"), 2: ("spans", "span*"), 3: ("schemaUrl", "text")},
    "scope": {
        1: ("name", "text"),
        2: ("version", "text"),
        3: ("attributes", "attribute*"),
        4: ("droppedAttributesCount", "number"),
    },
    "span": {
        1: ("traceId", "hex"),
        2: ("spanId", "hex"),
        3: ("traceState", "text"),
        4: ("parentSpanId", "hex"),
        5: ("name", "text"),
        6: ("kind", "number"),
        7: ("startTimeUnixNano", "digits"),
        8: ("endTimeUnixNano", "digits"),
        9: ("attributes", "attribute*"),
        10: ("droppedAttributesCount", "number"),
        11: ("events", "event*"),
        12: ("droppedEventsCount", "number"),
        13: ("links", "link*"),
        14: ("droppedLinksCount", "number"),
        15: ("status", "status"),
        16: ("flags", "number"),
    },
    "event": {
        1: ("timeUnixNano", "digits"),
        2: ("name", "text"),
        3: ("attributes", "attribute*"),
        4: ("droppedAttributesCount", "number"),
    },
    "link": {
        1: ("traceId", "hex"),
        2: ("spanId", "hex"),
        3: ("traceState", "text"),
        4: ("attributes", "attribute*"),
        5: ("droppedAttributesCount", "number"),
        6: ("flags", "number"),
    },
    "status": {2: ("message", "text"), 3: ("code", "number")},
    "attribute": {1: ("key", "text"), 2: ("value", "value")},
    "value": {
        1: ("stringValue", "text"),
        2: ("boolValue", "flag"),
        3: ("intValue", "digits"),
        4: ("doubleValue", "float"),
        5: ("arrayValue", "list"),
        6: ("kvlistValue", "attributes"),
        7: ("bytesValue", "base64"),
    },
    "list": {1: ("values", "value*")},
    "attributes": {1: ("values", "attribute*")},
}


def is_protobuf(candidate: Candidate) -> bool:
    """Return whether a file is an export in protobuf: its two outer levels fill it to the byte."""
    if candidate.is_folder or not candidate.head.startswith(_RESOURCE_SPANS):
        return False
    try:
        for number, resource in _fields(memoryview(read_bytes(candidate.path))):
            if number != 1 or not isinstance(resource, memoryview):
                return False
            for inner, _ in _fields(resource):
                if inner not in _FIELDS["resource_spans"]:
                    return False
    except (ImportFileError, ValueError):
        return False
    return True


def read_protobuf(path: Path) -> JsonObject:
    """Return an export as OTLP/JSON has it. A field that is not known is kept under its number.

    Raises:
        ImportFileError: The file cannot be read, or is damaged.
    """
    try:
        return _message(memoryview(read_bytes(path)), "export", 0)
    except ValueError as exc:
        raise ImportFileError(f"is no whole export in protobuf: {exc}", path=path) from exc


def _message(data: memoryview, kind: str, depth: int) -> JsonObject:
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    known = _FIELDS[kind]
    message: JsonObject = {}
    for number, raw in _fields(data):
        name, inner = known.get(number, (f"field {number}", "unknown*"))
        value = _value(raw, inner.rstrip("*"), depth)
        if inner.endswith("*"):
            message.setdefault(name, []).append(value)
        elif name in message:
            raise ValueError(f"{kind}.{name} stands twice")
        else:
            message[name] = value
    return message


def _value(raw: int | memoryview, kind: str, depth: int) -> Value:
    if kind == "unknown":
        return raw if isinstance(raw, int) else bytes(raw).hex()
    is_number = kind in ("number", "digits", "flag", "float")
    if is_number is not isinstance(raw, int):
        raise ValueError(f"a field of type {kind} has another type")
    if isinstance(raw, int):
        if kind == "float":
            return struct.unpack("<d", struct.pack("<Q", raw))[0]
        # Negative numbers are written as those of 64 bits.
        signed = raw - (1 << 64) if raw >= 1 << 63 else raw
        return bool(raw) if kind == "flag" else signed if kind == "number" else str(signed)
    if kind == "text":
        return str(raw, "utf-8")
    if kind == "hex":
        return bytes(raw).hex()
    if kind == "base64":
        return base64.b64encode(raw).decode()
    return _message(raw, kind, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number of each field of a message, and its number or bytes.

    Raises:
        ValueError: The bytes are no message.
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if tag < 8:
            raise ValueError("a field has the number 0")
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field has the wire type {kind}")
        raw = data[position : position + size]
        if len(raw) != size:
            raise ValueError("it is cut off")
        position += size
        yield tag >> 3, raw if kind == _BYTES else int.from_bytes(raw, "little")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than 10 bytes")
