"""Values as JSON, for SQL and for people: readable, but not lossless as the log is."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.codec import Opaque, Plain
from trajrec.values.foreign_arrays import ARRAY, as_array
from trajrec.values.paths import Path

# An observation of a camera would make every index row megabytes long.
MAX_ELEMENTS = 64
"""Arrays with more elements are null in JSON; read them from the log."""

_encode = msgspec.json.Encoder(enc_hook=str).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode
_encode_exact = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

# Digits as zeros and all other bytes as spaces: a long run of zeros is a number beyond 60 bits.
_DIGITS = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_MANY_DIGITS = b"0" * 19


def to_json(value: Value) -> str:
    """Return a value as JSON text.

    Arrays become lists, and large arrays null. Bytes become hex. NaN and infinities become texts.

    >>> to_json({"p": np.float64(0.5), "mask": np.array([1, 0], np.int8)})
    '{"p":0.5,"mask":[1,0]}'
    """
    return _encode(to_json_value(value)).decode()


def stored_to_json(value: Value) -> str:
    """Return `to_json` of a value that `codec.decode` returned: a large one ten times as fast.

    >>> stored_to_json({"p": 0.5, "n": (7,)})
    '{"p":0.5,"n":[7]}'
    """
    # Most values are the same in JSON, and msgspec writes and compares them in C. Those that are
    # not raise an error, do not come back equal, or hold an integer that SQL cannot.
    try:
        data = _encode_exact(value)
        if _decode(data) == value and _MANY_DIGITS not in data.translate(_DIGITS):
            return data.decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        pass
    return to_json(value)


def to_canonical_json(value: Value) -> str:
    """Return a value as JSON text with sorted keys, so that equal values give equal texts.

    >>> to_canonical_json({"b": 1, "a": [True]})
    '{"a":[true],"b":1}'
    """
    return _encode_sorted(to_json_value(value)).decode()


def to_pointer(path: Path) -> str:
    """Return a path as a JSON Pointer (RFC 6901), which JSON tools take as it is.

    Keys that are no texts are shown by the text that `to_json` shows them by, so the keys 7 and "7"
    look alike. `to_keys` tells them apart.

    >>> to_pointer(("stock", 1)), to_pointer(("a/b", "")), to_pointer(())
    ('/stock/1', '/a~1b/', '')
    """
    return "".join(f"/{key_text(key).replace('~', '~0').replace('/', '~1')}" for key in path)


def to_keys(path: Path) -> str:
    """Return a path as a JSON array of its keys with their types: two paths have different texts.

    Texts, integers, finite floats, booleans and None are JSON values. Any other key is an object
    with its type, its readable value, and its encoding in hex.

    >>> to_keys(("stock", 7, "7", True, None))
    '["stock",7,"7",true,null]'
    >>> to_keys(((1, 2),))
    '[{"type":"builtins.tuple","value":[1,2],"data":"c70301920102"}]'
    """
    return _encode(typed_keys(path)).decode()


def typed_keys(path: Path) -> list[Value]:
    """Return the keys of a path as Python's JSON types, as `to_keys` writes them."""
    return [_typed_key(key) for key in path]


def to_field(path: Path) -> str:
    """Return a path that begins with the name of a field, e.g. of a step: the name, then a pointer.

    >>> to_field(("observation", "image", 3)), to_field(("reward",))
    ('observation/image/3', 'reward')
    """
    return to_pointer(path)[1:]


def describe_field(path: Path) -> str:
    """Return `to_field` for people, with the typed keys if it alone may mislead."""
    return describe_path(path)[1:]


def describe_path(path: Path) -> str:
    """Return a path for people: the JSON Pointer, and the typed keys if it alone may mislead.

    In a pointer alone, a number is an integer key or an index, and anything else is a text.

    >>> describe_path(("stock", 1)), describe_path(("stock", "1"))
    ('/stock/1', '/stock/1 ["stock","1"]')
    """
    return with_keys(to_pointer(path), typed_keys(path))


def with_keys(pointer: str, keys: list[Value] | None) -> str:
    """Return a pointer as `describe_path` does, from the typed keys of its path.

    The pointer stands alone if the types of the keys are unknown: `keys` is None.
    """
    is_clear = keys is None or all(map(_is_clear, keys))
    return pointer if is_clear else f"{pointer} {_encode(keys).decode()}"


def key_text(key: Value) -> str:
    """Return the text by which JSON and pointers show a key of a dict, or an index.

    >>> key_text("a"), key_text(7), key_text(b"\\xff"), key_text((1, "x"))
    ('a', '7', 'ff', "[1, 'x']")
    """
    if type(key) is str and key.isascii():
        return key
    if isinstance(key, Plain) and key.kind in ("enum", "value"):
        # The name of an enum's member, or the text of a date or path.
        return key_text(key.fields.get("name", key.fields.get("value")))
    return str(to_json_value(key))


def _is_clear(key: Value) -> bool:
    return type(key) is int or (type(key) is str and not key.lstrip("-").isdigit())


def _typed_key(key: Value) -> Value:
    if type(key) is str and key.isascii():
        return key
    if key is None or type(key) is bool or (type(key) is int and abs(key) < 2**63):
        return key
    if type(key) is float and math.isfinite(key):
        return key
    value = to_json_value(key)
    # A lone surrogate is shown as an escape, which another text may hold as it stands.
    if type(key) is str and value == key:
        return key
    data = codec.encode(key, opaque=True, canonical=True).hex()
    return {"type": _type_name(key), "value": value, "data": data}


def _type_name(value: Value) -> str:
    return value.type_name if isinstance(value, Plain) else codec.type_name(value)


def finite_json(value: Value) -> Value:
    """Return plain data with None for each NaN and infinity, which JSON does not have.

    >>> finite_json({"a": [0.5, float("nan")]})
    {'a': [0.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_json(item) for key, item in value.items()}
    return [finite_json(item) for item in value] if isinstance(value, list) else value


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
        return _object(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_json_value(value._asdict())
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in value]
    if isinstance(value, (set, frozenset)):
        # Python's order of a set is another one in another process.
        return sorted(map(to_json_value, value), key=_encode_sorted)
    if isinstance(value, np.ndarray):
        return to_json_value(value.tolist()) if value.size <= MAX_ELEMENTS else None
    if isinstance(value, np.generic):
        item = value.item()
        # The item of a long double is a long double.
        return str(value) if isinstance(item, np.generic) else to_json_value(item)
    if isinstance(value, Plain) and value.kind == ARRAY and "dtype" not in value.fields:
        return to_json_value(as_array(value))
    if isinstance(value, Plain):
        fields = {key: to_json_value(item) for key, item in value.fields.items()}
        return {"type": value.type_name, **fields}
    if isinstance(value, Opaque):
        return {"type": value.type_name, "repr": value.text}
    return str(value)


def to_text(value: Value) -> str:
    """Return a value as `to_json` does, for a person: a large array is shown by dtype and shape.

    >>> to_text({"pixels": np.zeros((84, 84), np.uint8), "n": 1})
    '{"pixels":"uint8 (84, 84)","n":1}'
    >>> to_text(np.zeros(100))
    'float64 (100,)'
    """
    named = with_named_arrays(value)
    return named if isinstance(value, np.ndarray) and isinstance(named, str) else to_json(named)


def with_named_arrays(value: Value) -> Value:
    """Return a value with its large arrays, at any depth, as texts of dtype and shape.

    >>> with_named_arrays([np.zeros(100)])
    ['float64 (100,)']
    """
    if isinstance(value, np.ndarray) and value.size > MAX_ELEMENTS:
        return f"{value.dtype} {value.shape}"
    if isinstance(value, dict):
        return {key: with_named_arrays(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return with_named_arrays(value._asdict())
    if isinstance(value, (list, tuple)):
        return list(map(with_named_arrays, value))
    if isinstance(value, Plain) and value.kind == ARRAY and "dtype" not in value.fields:
        return with_named_arrays(as_array(value))
    if isinstance(value, Plain):
        fields = {key: with_named_arrays(item) for key, item in value.fields.items()}
        return {"type": value.type_name, **fields}
    return value


def _object(value: dict[Value, Value]) -> JsonObject:
    """Return a dict with texts as keys; of two keys with one text, one gets its type added."""
    shown = {key_text(key): to_json_value(item) for key, item in value.items()}
    if len(shown) == len(value):
        return shown
    shown = {}
    # Texts that are shown as they are keep their names.
    for key, item in sorted(value.items(), key=lambda pair: key_text(pair[0]) != pair[0]):
        name = key_text(key)
        while name in shown:
            name = f"{name} ({_type_name(key)})"
        shown[name] = to_json_value(item)
    return shown
