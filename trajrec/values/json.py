"""Values as JSON for SQL to look into: readable, not lossless (the log is)."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from trajrec.values.codec import Opaque, Plain

MAX_ELEMENTS = 64
"""Arrays with more elements are left out of the index: they are read from the log."""

_encode = msgspec.json.Encoder(enc_hook=str).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode


def to_json(value: Any) -> str:
    """Return a value as JSON text. Arrays are lists, large ones null; bytes are hex; NaN and infinities are strings.

    >>> to_json({"p": np.float64(0.5), "mask": np.array([1, 0], np.int8)})
    '{"p":0.5,"mask":[1,0]}'
    """
    return _encode(_plain(value)).decode()


def to_json_value(value: Any) -> Any:
    """Return a value as Python's JSON types, by the same rules as `to_json`.

    >>> to_json_value({"p": np.float64(0.5), "x": float("nan")})
    {'p': 0.5, 'x': 'nan'}
    """
    return _plain(value)


def to_canonical_json(value: Any) -> str:
    """Return a value as `to_json` does, with sorted keys: equal values give equal texts.

    >>> to_canonical_json({"b": 1, "a": [True]})
    '{"a":[true],"b":1}'
    """
    return _encode_sorted(_plain(value)).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, (bool, int)):
        return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)
    if isinstance(value, str):
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist()) if value.size <= MAX_ELEMENTS else None
    if isinstance(value, np.generic):
        return _plain(value.item()) if not isinstance(value.item(), np.generic) else str(value)
    if isinstance(value, Plain):
        return {
            "type": value.type_name,
            **{key: _plain(item) for key, item in value.fields.items()},
        }
    if isinstance(value, Opaque):
        return {"type": value.type_name, "repr": value.text}
    return str(value)
