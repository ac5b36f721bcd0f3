"""Values of trajrec as the typed values of tests/slow_values.py, to be compared with them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from slow_values import Typed, float_bits, pack, tag_of

from trajrec.values.arrays import array_bytes
from trajrec.values.codec import Opaque, Plain, Ref

_SEQUENCES = {tuple: "tuple", set: "set", frozenset: "frozenset"}


def typed(value: Any) -> Typed:
    """Return a decoded value as a typed value: exact types, floats by their bits."""
    cls = type(value)
    if value is None or cls in (bool, int):
        return value
    if cls is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"surrogates": value.encode("utf-8", "surrogatepass")}
        return value
    if cls is float:
        return float_bits(value)
    if cls is complex:
        return {"complex": [float_bits(part)["float"] for part in (value.real, value.imag)]}
    if cls is list:
        return [typed(item) for item in value]
    if cls is dict:
        return {"dict": [[typed(key), typed(item)] for key, item in value.items()]}
    if cls is tuple:
        return {"tuple": [typed(item) for item in value]}
    if cls in (set, frozenset):
        return {_SEQUENCES[cls]: sorted(map(typed, value), key=pack)}
    return _other(value)


def _other(value: Any) -> Typed:
    """Return a typed value of a rarer type."""
    if isinstance(value, bytes) and not isinstance(value, np.generic):
        return {"bytes": value}
    if isinstance(value, bytearray):
        return {"bytearray": bytes(value)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OT":
            items = [typed(item) for item in value.ravel().tolist()]
            return {"objects": [value.dtype.kind, list(value.shape), items]}
        return {"array": [_dtype(value.dtype), list(value.shape), array_bytes(value)]}
    if isinstance(value, np.generic):
        return {"scalar": [_dtype(value.dtype), array_bytes(value)]}
    if isinstance(value, Plain):
        return {"object": [value.type_name, value.kind, typed(value.fields)]}
    if isinstance(value, Opaque):
        return {"opaque": [value.type_name, value.text]}
    if isinstance(value, Ref):
        return {"ref": value.digest.hex()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        # Gymnasium's graphs, the one class of which a log makes objects.
        cls = type(value)
        return {
            "object": [f"{cls.__module__}.{cls.__qualname__}", "namedtuple", typed(value._asdict())]
        }
    raise TypeError(f"{type(value)} is no value of a log")


def _dtype(dtype: np.dtype[Any]) -> Typed:
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    return [[name, _dtype(dtype[name]), dtype.fields[name][1]] for name in dtype.names] + [
        dtype.itemsize
    ]


def plain(value: Any) -> Any:
    """Return a record, or a part of one, as the slow reader has it: by name, with bytes as bytes.

    Numbers of its own fields are compared by their bits, too.
    """
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return float_bits(value) if isinstance(value, float) else value


def count(value: Any) -> int:
    """Return how many single values a typed value holds: each number of an array counts."""
    if isinstance(value, list):
        return sum(map(count, value))
    if not isinstance(value, dict):
        return 1
    if value and tag_of(value) == "array":
        return math.prod(value["array"][1])
    return sum(map(count, value.values()))
