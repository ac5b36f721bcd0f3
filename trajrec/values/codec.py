"""Encode any value as bytes, losslessly, and decode it: msgpack with extension types, never pickle.

JSON-like values are plain msgpack. An extension stores each value that msgpack cannot hold or cannot
tell apart: tuples, numpy arrays and scalars, integers beyond 64 bit, lone surrogates, objects.
docs/reference/log-format.md has the table of extensions. An object is decoded as `Plain`, the name of
its type and its fields; decoding makes no instance of a class that the bytes name.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from trajrec.errors import EncodeError
from trajrec.values.plain import STANDARD_VALUES

(
    TUPLE,
    ARRAY,
    SCALAR,
    BIGINT,
    MAP,
    TEXT,
    OBJECT,
    OPAQUE,
    SET,
    COMPLEX,
    OBJECT_ARRAY,
    FROZENSET,
    BYTEARRAY,
    REF,
) = range(1, 15)

MAX_DEPTH = 100
"""Nesting beyond this is refused on both sides: a bound that keeps damaged or hostile bytes from exhausting the stack."""

_ARRAY_KINDS = frozenset("biufcmMSUV")
_GRAPH = "gymnasium.spaces.graph.GraphInstance"

_local = threading.local()  # a decoder counts its depth, so each thread has one of its own
_pack = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext


@dataclasses.dataclass(frozen=True)
class Plain:
    """An object as plain data.

    Attributes:
        type_name: Module and qualified name of its class, e.g. "shop.Order".
        kind: What it was: "enum", "dataclass", "namedtuple", "pydantic", "attrs", "subclass" or "value".
        fields: Its fields by name; for an enum {"name", "value"}; for a subclass or a value {"value"}.
    """

    type_name: str
    kind: str
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Opaque:
    """What could not be stored: the type's name and the start of its repr, so that the loss is visible."""

    type_name: str
    text: str


@dataclasses.dataclass(frozen=True)
class Ref:
    """Stands for a value that is stored elsewhere in the log, by its digest (16 bytes)."""

    digest: bytes


def encode(
    value: Any, *, where: str = "value", opaque: bool = False, canonical: bool = False
) -> bytes:
    """Encode a value losslessly.

    Args:
        value: Anything built of None, bool, int, float, complex, str, bytes, list, tuple, dict, set, numpy arrays and
            scalars, enums, dataclasses, named tuples, pydantic and attrs objects, dates, decimals, UUIDs, paths.
        where: What the value is, for error messages, e.g. "step 3: action".
        opaque: Store what cannot be stored losslessly as `Opaque` instead of raising.
        canonical: Order the keys of dicts, so that equal values have equal bytes.

    Returns:
        The bytes; `decode` gives the value back, with its types and bits (objects as `Plain`).

    Raises:
        EncodeError: Something in the value cannot be stored losslessly; names the path to it.

    >>> decode(encode({"x": (1, 2.5), "big": 2**70}))
    {'x': (1, 2.5), 'big': 1180591620717411303424}
    """
    return _pack(_Lowering(where, opaque, canonical).lower(value, 0))


def decode(data: bytes | memoryview) -> Any:
    """Give back the value that `encode` was given.

    Raises:
        ValueError: The bytes are not an encoded value.

    >>> decode(encode([1, (2,)]))
    [1, (2,)]
    """
    raising = getattr(_local, "raising", None)
    if raising is None:
        raising = _local.raising = _Raising()
    return raising.decode(data)


def digest(value: Any, *, where: str = "value") -> str:
    """Return the BLAKE2b-128 digest of a value's canonical encoding, as 32 hex digits.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return digest_bytes(encode(value, where=where, opaque=True, canonical=True))


def digest_bytes(data: bytes) -> str:
    """Return the BLAKE2b-128 digest of bytes, as 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def hasher() -> Any:
    """Return a running BLAKE2b-128."""
    return hashlib.blake2b(digest_size=16)


def type_name(value: Any) -> str:
    """Return module and qualified name of a value's type."""
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


class _Lowering:
    """One walk from a value down to what msgpack holds."""

    def __init__(self, where: str, opaque: bool, canonical: bool) -> None:
        self.where, self.opaque, self.canonical = where, opaque, canonical
        self.path: list[str] = []

    def lower(self, value: Any, depth: int) -> Any:
        cls = type(value)
        if value is None or cls is bool or cls is float or cls is bytes:
            return value
        if depth > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH} levels (a cycle?)")
        lower = _LOWER.get(cls)
        return self.other(value, depth) if lower is None else lower(self, value, depth)

    def error(self, what: str) -> EncodeError:
        return EncodeError(what, where=self.where + "".join(self.path))

    def items(self, values: Any, depth: int) -> list[Any]:
        path, lowered = self.path, []
        path.append("")
        for index, value in enumerate(values):
            path[-1] = f"[{index}]"
            lowered.append(self.lower(value, depth + 1))
        path.pop()
        return lowered

    def integer(self, value: int, depth: int) -> Any:
        if -(2**63) <= value < 2**64:
            return value
        return _Ext(BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))

    def text(self, value: str, depth: int) -> Any:
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            return _Ext(TEXT, value.encode("utf-8", "surrogatepass"))
        return value

    def list(self, value: list[Any], depth: int) -> Any:
        return self.items(value, depth)

    def tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        return _Ext(TUPLE, _pack(self.items(value, depth)))

    def dict(self, value: dict[Any, Any], depth: int) -> Any:
        path = self.path
        path.append("")
        pairs, plain = [], True
        for key, item in value.items():
            path[-1] = f"[{key!r}]"
            low = self.lower(key, depth + 1)
            plain = plain and type(low) is str
            pairs.append((low, self.lower(item, depth + 1)))
        path.pop()
        if self.canonical:
            pairs.sort(key=lambda pair: _pack(pair[0]))
        return dict(pairs) if plain else _Ext(MAP, _pack(pairs))

    def set(self, value: Any, depth: int) -> Any:
        # The order of a set is an accident of hashing: sorted bytes make equal sets equal.
        code = SET if type(value) is set else FROZENSET
        return _Ext(
            code,
            _pack([msgspec.Raw(item) for item in sorted(map(_pack, self.items(value, depth)))]),
        )

    def complex(self, value: complex, depth: int) -> Any:
        return _Ext(COMPLEX, _pack([value.real, value.imag]))

    def bytearray(self, value: bytearray, depth: int) -> Any:
        return _Ext(BYTEARRAY, bytes(value))

    def array(self, value: np.ndarray[Any, Any], depth: int) -> Any:
        if value.dtype.kind in "OT":
            items = self.items(value.ravel().tolist(), depth)
            return _Ext(OBJECT_ARRAY, _pack([value.dtype.kind, list(value.shape), items]))
        return _Ext(ARRAY, _pack([self.dtype(value.dtype), list(value.shape), value.tobytes()]))

    def scalar(self, value: np.generic, depth: int) -> Any:
        if value.dtype.kind == "O":
            return self.unknown(value)
        return _Ext(SCALAR, _pack([self.dtype(value.dtype), value.tobytes()]))

    def dtype(self, dtype: np.dtype[Any]) -> Any:
        if dtype.kind not in _ARRAY_KINDS or dtype.hasobject or dtype.subdtype is not None:
            raise self.error(f"numpy dtype {dtype} cannot be stored")
        if dtype.names is None or dtype.fields is None:
            return dtype.str
        return [[name, self.dtype(dtype[name]), dtype.fields[name][1]] for name in dtype.names] + [
            dtype.itemsize
        ]

    def other(self, value: Any, depth: int) -> Any:
        """Lower what no exact type matched: numpy scalars, then objects by what they are."""
        if isinstance(value, np.generic):
            return self.scalar(value, depth)
        # What was decoded encodes to the same bytes again.
        if isinstance(value, Ref):
            return _Ext(REF, value.digest)
        if isinstance(value, Opaque):
            return _Ext(OPAQUE, _pack([value.type_name, value.text]))
        if isinstance(value, Plain):
            return _Ext(
                OBJECT, _pack([value.type_name, value.kind, self.dict(value.fields, depth + 1)])
            )
        described = _describe(value)
        if described is None:
            return self.unknown(value)
        kind, fields = described
        return _Ext(OBJECT, _pack([type_name(value), kind, self.dict(fields, depth + 1)]))

    def unknown(self, value: Any) -> Any:
        if not self.opaque:
            raise self.error(f"{type_name(value)} cannot be stored losslessly")
        try:
            text = repr(value)
        except (
            Exception
        ) as exc:  # a repr of foreign code may do anything; its failure is worth recording too
            text = f"<repr failed: {type(exc).__name__}>"
        return _Ext(
            OPAQUE, _pack([type_name(value), text[:1000].encode("utf-8", "replace").decode()])
        )


_LOWER: dict[type, Callable[[_Lowering, Any, int], Any]] = {
    int: _Lowering.integer,
    str: _Lowering.text,
    list: _Lowering.list,
    tuple: _Lowering.tuple,
    dict: _Lowering.dict,
    set: _Lowering.set,
    frozenset: _Lowering.set,
    complex: _Lowering.complex,
    bytearray: _Lowering.bytearray,
    np.ndarray: _Lowering.array,
}

_BASES: tuple[Any, ...] = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)


def _describe(value: Any) -> tuple[str, dict[str, Any]] | None:
    """Say what an object is and what it holds; None where that is not known."""
    cls = type(value)
    if isinstance(value, type):
        return None
    if isinstance(value, enum.Enum):
        return "enum", {"name": value._name_, "value": value._value_}
    if dataclasses.is_dataclass(value):
        return "dataclass", {
            f.name: getattr(value, f.name)
            for f in dataclasses.fields(value)
            if hasattr(value, f.name)
        }
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return "namedtuple", dict(zip(cls._fields, value, strict=True))
    if hasattr(cls, "__attrs_attrs__"):
        return "attrs", {
            a.name: getattr(value, a.name) for a in cls.__attrs_attrs__ if hasattr(value, a.name)
        }
    if hasattr(cls, "model_fields") and hasattr(cls, "__pydantic_core_schema__"):
        return "pydantic", {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if isinstance(value, msgspec.Struct):
        return "struct", {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, datetime.timedelta):
        return "value", {"value": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, STANDARD_VALUES):
        return "value", {"value": str(value)}
    for base in _BASES:
        # A subclass of a builtin that carries attributes of its own has more than its base's value.
        if isinstance(value, base):
            extra = getattr(value, "__dict__", None)
            return "subclass", {
                "value": base(value),
                **({"attributes": dict(extra)} if extra else {}),
            }
    return None


class _Raising:
    """One walk from bytes back to the value; counts how deep extensions nest."""

    def __init__(self) -> None:
        self.depth = 0
        self.decoder = msgspec.msgpack.Decoder(ext_hook=self.raise_ext)

    def decode(self, data: bytes | memoryview) -> Any:
        self.depth = 0
        try:
            return self.decoder.decode(data)
        except (
            msgspec.MsgspecError,
            TypeError,
            KeyError,
            IndexError,
            RecursionError,
            OverflowError,
            MemoryError,
        ) as exc:
            raise ValueError(f"not an encoded value: {exc}") from exc

    def raise_ext(self, code: int, data: memoryview) -> Any:
        raiser = _RAISE.get(code)
        if raiser is None:
            raise ValueError(f"extension {code} is unknown")
        if self.depth >= 2 * MAX_DEPTH + 2:
            raise ValueError("nested too deeply")
        self.depth += 1
        try:
            return raiser(self, data)
        finally:
            self.depth -= 1

    def array(self, data: memoryview) -> Any:
        dtype, shape, raw = self.decoder.decode(data)
        kind, counts = _dtype(dtype), _shape(shape)
        if kind.itemsize == 0:
            return _empty_texts(kind, counts)
        return np.frombuffer(raw, kind).reshape(counts).copy()

    def scalar(self, data: memoryview) -> Any:
        dtype, raw = self.decoder.decode(data)
        kind = _dtype(dtype)
        if kind.itemsize == 0:
            return _empty_texts(kind, ())[()]
        # NumPy strips trailing NULs from the texts that it takes out of an array.
        if kind.kind == "S":
            return np.bytes_(raw)
        if kind.kind == "U":
            encoding = "utf-32-be" if kind.str[0] == ">" else "utf-32-le"
            return np.str_(raw.decode(encoding, "surrogatepass"))
        return np.frombuffer(raw, kind, count=1)[0]

    def object_array(self, data: memoryview) -> Any:
        kind, shape, items = self.decoder.decode(data)
        dtype = np.dtype(object) if kind == "O" else _text_dtype(items)
        array = np.empty(len(items), dtype)
        for index, item in enumerate(items):
            array[index] = item
        return array.reshape(_shape(shape))

    def object(self, data: memoryview) -> Any:
        name, kind, fields = self.decoder.decode(data)
        if name == _GRAPH and "gymnasium" in sys.modules:
            from gymnasium.spaces import (
                GraphInstance,
            )  # only where a graph is decoded: a Gymnasium value, not just data

            return GraphInstance(**fields)
        return Plain(str(name), str(kind), dict(fields))

    def opaque(self, data: memoryview) -> Any:
        name, text = self.decoder.decode(data)
        return Opaque(str(name), str(text))


def _dtype(described: Any) -> np.dtype[Any]:
    """Rebuild a dtype from its description; objects are refused."""
    if isinstance(described, str):
        dtype = np.dtype(described)
        if dtype.kind not in _ARRAY_KINDS or dtype.hasobject:
            raise ValueError(f"dtype {described!r} is not stored in logs")
        return dtype
    *fields, itemsize = described
    names, formats, offsets = zip(*fields, strict=True) if fields else ((), (), ())
    return np.dtype(
        {
            "names": list(names),
            "formats": [_dtype(f) for f in formats],
            "offsets": list(offsets),
            "itemsize": itemsize,
        }
    )


def _text_dtype(items: list[Any]) -> np.dtype[Any]:
    """Return NumPy's variable-width text type, with the missing value that the items hold, if any."""
    for item in items:
        if type(item) is not str:
            return np.dtypes.StringDType(na_object=item)
    return np.dtypes.StringDType()


def _empty_texts(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return an array of items without bytes: texts of length 0, or records without fields."""
    if math.prod(shape) > 1 << 24:
        raise ValueError("too many items without bytes")
    return np.zeros(shape, dtype)


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array's shape must be a list of counts")
    return tuple(shape)


_RAISE: dict[int, Callable[[_Raising, memoryview], Any]] = {
    TUPLE: lambda self, data: tuple(self.decoder.decode(data)),
    ARRAY: _Raising.array,
    SCALAR: _Raising.scalar,
    BIGINT: lambda self, data: int.from_bytes(data, "little", signed=True),
    MAP: lambda self, data: dict(self.decoder.decode(data)),
    TEXT: lambda self, data: bytes(data).decode("utf-8", "surrogatepass"),
    OBJECT: _Raising.object,
    OPAQUE: _Raising.opaque,
    SET: lambda self, data: set(self.decoder.decode(data)),
    FROZENSET: lambda self, data: frozenset(self.decoder.decode(data)),
    COMPLEX: lambda self, data: complex(*self.decoder.decode(data)),
    OBJECT_ARRAY: _Raising.object_array,
    BYTEARRAY: lambda self, data: bytearray(data),
    REF: lambda self, data: Ref(bytes(data)),
}
