"""The bodies of exchanges as a log stores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from trajrec.types import Value
from trajrec.values import codec
from trajrec.wire.deltas import BodyDelta


class RequestBody(NamedTuple):
    """The body of a request.

    Attributes:
        delta: Its difference from an earlier body.
        size: Its number of bytes.
    """

    delta: BodyDelta
    size: int


class ResponseNotes(NamedTuple):
    """What is known of a response beside its head and body.

    Attributes:
        sizes: The number of bytes of each piece in which the body came; [] if it came in one, or if
            secrets were taken out of it.
        first_ns: Time of the first piece, 0 if unknown.
        coding: The content coding that the body still has, "" if it is decoded.
        is_open: Whether the episode ended before the body was read to its end: `IS_OPEN`.
    """

    sizes: list[int]
    first_ns: int
    coding: str
    is_open: bool = False


NO_NOTES = ResponseNotes([], 0, "")


def encode_body(body: RequestBody, store: Callable[[bytes], bytes]) -> bytes:
    """Return a body as stored: its bytes, or [base, prefix, suffix, bytes in between, size].

    Args:
        body: The body.
        store: Returns encoded bytes, or a reference to them if they are many.
    """
    delta = body.delta
    middle = store(codec.encode(delta.middle))
    if delta.base < 0:
        return middle
    parts = [delta.base, delta.n_prefix, delta.n_suffix, codec.decode(middle), body.size]
    return codec.encode(parts)


def decode_body(
    data: bytes, value: Callable[[bytes], Value], bodies: Mapping[int, bytes]
) -> bytes | None:
    """Return a stored body.

    Args:
        data: The body as stored.
        value: Returns the value of a field, with references followed.
        bodies: The bodies of earlier exchanges, by number.

    Returns:
        The body; None if a part of it is lost, or the log contradicts itself.
    """
    stored = value(data)
    if isinstance(stored, bytes):
        return stored
    if not isinstance(stored, list) or len(stored) != 5:
        return None
    base, n_prefix, n_suffix, middle, size = stored
    if not (_is_count(n_prefix) and _is_count(n_suffix) and isinstance(middle, bytes)):
        return None
    earlier = bodies.get(base) if type(base) is int else None
    if earlier is None or n_prefix + n_suffix > len(earlier):
        return None
    body = BodyDelta(base, n_prefix, n_suffix, middle).applied(earlier)
    return body if len(body) == size else None


def encode_notes(notes: ResponseNotes) -> bytes | None:
    """Return notes as stored, None if there are none."""
    fields = {name: item for name, item in notes._asdict().items() if item}
    return codec.encode(fields) if fields else None


def decode_notes(data: bytes | None) -> ResponseNotes:
    """Return stored notes; other fields, and those that cannot be, are left out."""
    fields = codec.decode(data) if data is not None else None
    if not isinstance(fields, dict):
        return NO_NOTES
    sizes = fields.get("sizes")
    first_ns = fields.get("first_ns")
    coding = fields.get("coding")
    return ResponseNotes(
        sizes=sizes if isinstance(sizes, list) and all(map(_is_count, sizes)) else [],
        first_ns=first_ns if isinstance(first_ns, int) and _is_count(first_ns) else 0,
        coding=coding if isinstance(coding, str) else "",
        is_open=fields.get("is_open") is True,
    )


def _is_count(value: Value) -> bool:
    return type(value) is int and value >= 0
