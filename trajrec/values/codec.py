"""Converts any value to bytes and back, losslessly. Neither direction uses pickle or eval.

JSON-like values become plain msgpack. Tuples, NumPy arrays and scalars, integers beyond 64 bit,
lone surrogates and objects become extensions (`trajrec.values.extensions`). Objects come back as
`Plain`: the name of their type and their fields as data. Decoding creates no instance of a class
that the bytes name.
"""

from __future__ import annotations

import hashlib
import threading

from trajrec.errors import DecodeError, EncodeError
from trajrec.types import Value
from trajrec.values.decoder import Decoder
from trajrec.values.encoder import Encoder, pack
from trajrec.values.extensions import MAX_DEPTH as MAX_DEPTH
from trajrec.values.extensions import Opaque as Opaque
from trajrec.values.extensions import Plain as Plain
from trajrec.values.extensions import Ref as Ref
from trajrec.values.extensions import type_name as type_name
from trajrec.values.item_count import check_items

# A decoder counts its depth, so each thread needs its own.
_local = threading.local()


def encode(
    value: Value, *, where: str = "value", opaque: bool = False, canonical: bool = False
) -> bytes:
    """Encode a value losslessly.

    Args:
        value: Anything built of None, bool, int, float, complex, str, bytes, list, tuple, dict,
            set, NumPy arrays and scalars, enums, dataclasses, named tuples, pydantic and attrs
            objects, dates, decimals, UUIDs and paths.
        where: The value's name in error messages, e.g. "step 3: action".
        opaque: Whether to store `Opaque` instead of raising if a value cannot be stored.
        canonical: Whether to sort the keys of dicts, so that equal values have equal bytes.

    Returns:
        The bytes. `decode` returns the value with its types and bits, and objects as `Plain`.

    Raises:
        EncodeError: A part of the value cannot be stored losslessly; the message has its path.

    >>> decode(encode({"x": (1, 2.5), "big": 2**70}))
    {'x': (1, 2.5), 'big': 1180591620717411303424}
    """
    # Positional: keywords cost a tenth of encoding a small dict.
    data = pack(Encoder(where, opaque, canonical).lower(value, 0))
    try:
        check_items(data)
    except ValueError as exc:
        if opaque:
            return encode(Opaque(type_name(value), f"left out: {exc}"))
        raise EncodeError(f"{exc}, which no reader takes", where=where) from exc
    return data


def left_out(value: Value, exc: Exception) -> Opaque:
    """Return what stands for a value that raised when it was to be encoded, say by a cycle.

    >>> left_out([], EncodeError("nested deeper than 100 levels", where="x[0][0]"))
    Opaque(type_name='builtins.list', text='left out: nested deeper than 100 levels')
    """
    # Without the path of the error, which may be as deep as the value.
    reason = exc.what if isinstance(exc, EncodeError) else f"{type(exc).__name__} by its own code"
    return Opaque(type_name(value), f"left out: {reason}")


def without_unstorable(values: dict[Value, Value]) -> dict[Value, Value]:
    """Return a dict with `left_out` in place of items that `encode` refuses even if `opaque`.

    >>> cycle = []
    >>> cycle.append(cycle)
    >>> without_unstorable({"a": 1, "b": cycle})["a"]
    1
    """
    storable: dict[Value, Value] = {}
    for key, value in values.items():
        storable[key] = value
        try:
            # With its key, which may be the cause, and at its depth.
            encode({key: value}, opaque=True)
        except EncodeError as exc:
            storable[key] = left_out(value, exc)
    try:
        encode(storable, opaque=True)
    except EncodeError as exc:
        return {"": left_out(values, exc)}
    return storable


def encode_info(info: Value) -> bytes:
    """Return an info encoded as a recorder stores it: with `left_out` in place of some items.

    Raises:
        EncodeError: The info is no dict, and cannot be stored.
    """
    try:
        return encode(info, opaque=True)
    except EncodeError:
        if type(info) is not dict:
            raise
        return encode(without_unstorable(info), opaque=True)


def decode(data: bytes | memoryview) -> Value:
    """Return the value that `encode` was given.

    Raises:
        DecodeError: The bytes are not an encoded value.

    >>> decode(encode([1, (2,)]))
    [1, (2,)]
    """
    try:
        decoder: Decoder = _local.decoder
    except AttributeError:
        decoder = _local.decoder = Decoder()
    return decoder.decode(data)


def decode_map(data: bytes | memoryview | None) -> dict[str, Value]:
    """Return the map of names and values that `encode` was given, {} for None or no bytes.

    Raises:
        DecodeError: The bytes are no such map.

    >>> decode_map(encode({"a": 1})), decode_map(None)
    ({'a': 1}, {})
    """
    value = decode(data) if data else {}
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise DecodeError(f"a map of names should stand where {str(value)[:40]!r} stands")
    return value


def decode_info(data: bytes) -> dict[Value, Value]:
    """Return an info as `encode_info` was given it, {} for no bytes.

    Its keys may be any: an environment may tell of its parts by number.

    Raises:
        DecodeError: The bytes are no dict.
    """
    value = decode(data) if data else {}
    if type(value) is not dict:
        raise DecodeError(f"an info should stand where {str(value)[:40]!r} stands")
    return value


def digest(value: Value, *, where: str = "value") -> str:
    """Return the BLAKE2b-128 digest of a value's canonical encoding, as 32 hex digits.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return digest_bytes(encode(value, where=where, opaque=True, canonical=True))


def digest_bytes(data: bytes) -> str:
    """Return the BLAKE2b-128 digest of bytes, as 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def hasher() -> hashlib.blake2b:
    """Return a BLAKE2b-128 hash object, to be updated piece by piece."""
    return hashlib.blake2b(digest_size=16)
