"""Values as JSON, for SQL and for people: readable, but not lossless as the log is."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from trajrec.types import Value
from trajrec.values.codec import Opaque, Plain

# An observation of a camera would make every index row megabytes long.
MAX_ELEMENTS = 64
"""Arrays with more elements are null in JSON; read them from the log."""

_encode = msgspec.json.Encoder(enc_hook=str).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode


def to_json(value: Value) -> str:
    """Return a value as JSON text.

    Arrays become lists, and large arrays null. Bytes become hex. NaN and infinities become texts.

    >>> to_json({"p": np.float64(0.5), "mask": np.array([1, 0], np.int8)})
    '{"p":0.5,"mask":[1,0]}'
    """
    return _encode(to_json_value(value)).decode()


def to_canonical_json(value: Value) -> str:
    """Return a value as JSON text with sorted keys, so that equal values give equal texts.

    >>> to_canonical_json({"b": 1, "a": [True]})
    '{"a":[true],"b":1}'
    """
    return _encode_sorted(to_json_value(value)).decode()


def to_pointer(path: str) -> str:
    """Return the path of a change as a JSON Pointer (RFC 6901), which JSON tools take as it is.

    A path of a change has no first slash, and writes an empty key as "~2".

    >>> to_pointer("stock/1"), to_pointer("a~1b/~2"), to_pointer("")
    ('/stock/1', '/a~1b/', '')
    """
    # Every "~" of a key is escaped as "~0", so "~2" can only be an empty key.
    return "/" + path.replace("~2", "") if path else ""


def to_json_value(value: Value) -> Value:
    """Return a value as Python's JSON types, by the same rules as `to_json`.

    >>> to_json_value({"p": np.float64(0.5), "x": float("nan")})
    {'p': 0.5, 'x': 'nan'}
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # SQL's BIGINT ends at 64 bit; a text keeps all digits.
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, str):
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {str(to_json_value(key)): to_json_value(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_json_value(value._asdict())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json_value(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_json_value(value.tolist()) if value.size <= MAX_ELEMENTS else None
    if isinstance(value, np.generic):
        item = value.item()
        # The item of a long double is a long double.
        return str(value) if isinstance(item, np.generic) else to_json_value(item)
    if isinstance(value, Plain):
        fields = {key: to_json_value(item) for key, item in value.fields.items()}
        return {"type": value.type_name, **fields}
    if isinstance(value, Opaque):
        return {"type": value.type_name, "repr": value.text}
    return str(value)
