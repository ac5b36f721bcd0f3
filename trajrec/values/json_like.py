"""Decodes values that are JSON as they are: most arguments and results of tools.

msgspec checks their types while it decodes, which takes a third of the time of `codec.decode`.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec

from trajrec.types import Value
from trajrec.values.item_count import COUNTED_BYTES

# SQL's BIGINT ends at 64 bit, and JSON has neither NaN nor infinities.
_Integer = Annotated[int, msgspec.Meta(ge=1 - (1 << 63), le=(1 << 63) - 1)]
_Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]

# Values that nest deeper are decoded like all others.
_MAX_DEPTH = 6

# msgspec passes the error on that Python raises for bytes that are no UTF-8.
NOT_JSON_LIKE = (msgspec.MsgspecError, UnicodeDecodeError)
"""The errors of `decode_json_like`."""


def _nested(depth: int) -> Any:
    """Return the type of values that nest up to a depth: msgspec has no recursive types."""
    leaf = None | bool | _Integer | _Finite | str
    if depth == 0:
        return leaf
    item = _nested(depth - 1)
    return leaf | list[item] | dict[str, item]  # type: ignore[valid-type]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.msgpack.Decoder(_nested(_MAX_DEPTH)).decode


def decode_json_like(data: bytes) -> Value:
    """Return an encoded value that JSON holds as it is.

    Its dicts have texts as keys, its integers less than 64 bits, and its floats are finite.

    Raises:
        NOT_JSON_LIKE: It is another value, or none.

    >>> decode_json_like(bytes.fromhex("81a16107"))
    {'a': 7}
    """
    if len(data) > COUNTED_BYTES:
        raise msgspec.MsgspecError("its items must be counted first")
    return _decode(data)


def json_like_text(value: Value) -> str:
    """Return a value that `decode_json_like` returned as JSON: `to_json` gives the same text.

    >>> json_like_text(decode_json_like(bytes.fromhex("81a16107")))
    '{"a":7}'
    """
    return _encode(value).decode()
