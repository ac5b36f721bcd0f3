"""Turns values into objects that msgpack can hold."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from trajrec.errors import EncodeError
from trajrec.types import Array, JsonObject, Value
from trajrec.values import extensions as ext
from trajrec.values.arrays import array_bytes
from trajrec.values.decoder import Decoder
from trajrec.values.extensions import ARRAY_KINDS, MAX_DEPTH, Opaque, Plain, Ref, type_name
from trajrec.values.foreign_arrays import ARRAY, describe_array, has_own_dtype
from trajrec.values.plain import STANDARD_VALUES

MAX_REPR = 1000
"""Characters that are stored of a repr: its start shows which value is lost, and the repr of an
image can have megabytes."""

pack = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext


class Encoder:
    """Lowers one value to an object that msgpack can hold.

    Args:
        where: The value's name in error messages.
        opaque: Whether to store `Opaque` instead of raising if a value cannot be stored.
        canonical: Whether to sort the keys of dicts.
    """

    def __init__(self, where: str, opaque: bool, canonical: bool) -> None:
        self._where = where
        self._opaque = opaque
        self._canonical = canonical
        # Keys and indices that lead to the current value; text is joined only for an error.
        self._path: list[str] = []

    def lower(self, value: Value, depth: int) -> object:
        """Return a value as msgpack can hold it.

        Raises:
            EncodeError: The value, or a part of it, cannot be stored.
        """
        cls = type(value)
        # Most leaves are of these types: they need no look-up.
        if value is None or cls is bool or cls is float or cls is bytes:
            return value
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels (a cycle?)")
        lower = _LOWER.get(cls)
        return self._other(value, depth) if lower is None else lower(self, value, depth)

    def _error(self, reason: str) -> EncodeError:
        return EncodeError(reason, where=self._where + "".join(self._path))

    def _items(self, values: Iterable[Value], depth: int) -> list[object]:
        path = self._path
        lowered = []
        path.append("")
        for index, value in enumerate(values):
            path[-1] = f"[{index}]"
            lowered.append(self.lower(value, depth + 1))
        path.pop()
        return lowered

    def _integer(self, value: int, depth: int) -> object:
        if -(2**63) <= value < 2**64:
            return value
        n_bytes = value.bit_length() // 8 + 1
        return _Ext(ext.BIGINT, value.to_bytes(n_bytes, "little", signed=True))

    def _text(self, value: str, depth: int) -> object:
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            return _Ext(ext.TEXT, value.encode("utf-8", "surrogatepass"))
        return value

    def _list(self, value: list[Value], depth: int) -> object:
        return self._items(value, depth)

    def _tuple(self, value: tuple[Value, ...], depth: int) -> object:
        return _Ext(ext.TUPLE, pack(self._items(value, depth)))

    def _dict(self, value: dict[Value, Value], depth: int) -> object:
        path = self._path
        path.append("")
        pairs: list[tuple[Any, object]] = []
        has_plain_keys = True
        is_shallow = depth < MAX_DEPTH
        for key, item in value.items():
            # Most items need neither a call nor a name for errors, which take most of the time.
            if is_shallow and type(key) is str and key.isascii() and _is_plain(item):
                pairs.append((key, item))
                continue
            path[-1] = f"[{key!r}]"
            lowered = self.lower(key, depth + 1)
            has_plain_keys = has_plain_keys and type(lowered) is str
            pairs.append((lowered, self.lower(item, depth + 1)))
        path.pop()
        if self._canonical:
            pairs.sort(key=lambda pair: pack(pair[0]))
        if has_plain_keys:
            return dict(pairs)
        encoded = _Ext(ext.MAP, pack(pairs))
        keys = [key for key, _ in pairs if type(key) is _Ext]
        return encoded if _stay_apart(value, keys, encoded) else self._unknown(value)

    def _set(self, value: set[Value] | frozenset[Value], depth: int) -> object:
        # The order of a set is an accident of hashing; sorted bytes make equal sets equal.
        lowered = self._items(value, depth)
        items = sorted(map(pack, lowered))
        code = ext.SET if type(value) is set else ext.FROZENSET
        encoded = _Ext(code, pack(list(map(msgspec.Raw, items))))
        objects = [item for item in lowered if type(item) is _Ext]
        return encoded if _stay_apart(value, objects, encoded) else self._unknown(value)

    def _complex(self, value: complex, depth: int) -> object:
        return _Ext(ext.COMPLEX, pack([value.real, value.imag]))

    def _bytearray(self, value: bytearray, depth: int) -> object:
        return _Ext(ext.BYTEARRAY, bytes(value))

    def _array(self, value: Array, depth: int) -> object:
        # The bytes of object and variable-width text arrays are addresses.
        if has_own_dtype(value):
            return self._foreign(value, depth)
        if value.dtype.kind in "OT":
            items = self._items(value.ravel().tolist(), depth)
            return _Ext(ext.OBJECT_ARRAY, pack([value.dtype.kind, list(value.shape), items]))
        fields = [self._dtype(value.dtype), list(value.shape), array_bytes(value)]
        return _Ext(ext.ARRAY, pack(fields))

    def _scalar(self, value: np.generic, depth: int) -> object:
        if value.dtype.kind == "O":
            return self._unknown(value)
        if has_own_dtype(value):
            return self._foreign(value, depth)
        return _Ext(ext.SCALAR, pack([self._dtype(value.dtype), array_bytes(value)]))

    def _dtype(self, dtype: np.dtype[Any]) -> object:
        """Return a dtype as its text, or of a record [[name, dtype, offset], ..., item size]."""
        is_storable = dtype.kind in ARRAY_KINDS and dtype.isbuiltin != 2
        if not is_storable or dtype.hasobject or dtype.subdtype is not None:
            raise self._error(f"numpy dtype {dtype} cannot be stored")
        if dtype.names is None or dtype.fields is None:
            return dtype.str
        fields: list[object] = [
            [name, self._dtype(dtype[name]), dtype.fields[name][1]] for name in dtype.names
        ]
        fields.append(dtype.itemsize)
        return fields

    def _other(self, value: Value, depth: int) -> object:
        """Lower a value whose exact type is not in the table: a NumPy scalar or an object."""
        if isinstance(value, np.generic):
            return self._scalar(value, depth)
        # Decoded values encode to the same bytes again.
        if isinstance(value, Ref):
            return _Ext(ext.REF, value.digest)
        if isinstance(value, Opaque):
            return _Ext(ext.OPAQUE, pack([value.type_name, value.text]))
        if isinstance(value, Plain):
            return self._object(value.type_name, value.kind, value.fields, depth)
        try:
            described = _describe(value)
        except Exception as exc:
            # Its own code, such as that of a property, may do anything.
            if self._opaque:
                return self._unknown(value)
            reason = f"{type_name(value)} cannot be read: {type(exc).__name__}"
            raise self._error(reason) from exc
        if described is None:
            return self._foreign(value, depth)
        kind, fields = described
        return self._object(type_name(value), kind, fields, depth)

    def _object(self, name: str, kind: str, fields: JsonObject, depth: int) -> object:
        return _Ext(ext.OBJECT, pack([name, kind, self._dict(fields, depth + 1)]))

    def _foreign(self, value: Value, depth: int) -> object:
        """Lower an array of another package, or any other object as an unknown one."""
        described = describe_array(value)
        if described is None:
            return self._unknown(value)
        name, fields = described
        return self._object(name, ARRAY, fields, depth)

    def _unknown(self, value: Value) -> object:
        if not self._opaque:
            raise self._error(f"{type_name(value)} cannot be stored losslessly")
        try:
            text = repr(value)
        except Exception as exc:
            # A repr of foreign code may do anything; its failure is worth recording too.
            text = f"<repr failed: {type(exc).__name__}>"
        text = text[:MAX_REPR].encode("utf-8", "replace").decode()
        return _Ext(ext.OPAQUE, pack([type_name(value), text]))


def _is_plain(value: Value) -> bool:
    """Return whether a value is stored as it is, and holds no others."""
    cls = type(value)
    if cls is str:
        return bool(value.isascii())
    if cls is int:
        return bool(-(2**63) <= value < 2**64)
    return value is None or cls is bool or cls is float


def _is_compared_by_identity(value: Value) -> bool:
    cls: Any = type(value)
    return cls.__hash__ is object.__hash__


def _stay_apart(
    value: Collection[Value], lowered: Sequence[object], encoded: msgspec.msgpack.Ext
) -> bool:
    """Return whether a dict or set still has all of its items when it is decoded.

    Two objects that compare by identity may have equal fields. They are one item when they are
    plain data, so one of them would be lost.

    Args:
        value: The dict or set.
        lowered: Its lowered keys or items that may be objects.
        encoded: The whole dict or set.
    """
    has_other_bytes = len(set(map(pack, lowered))) == len(lowered)
    # Fields of other bytes may be equal: 1 and True.
    if has_other_bytes and not any(map(_is_compared_by_identity, value)):
        return True
    # Two NaN have the same bytes too, and stay two items.
    return len(Decoder().decode(pack(encoded))) == len(value)


_LOWER: dict[type, Callable[[Encoder, Value, int], object]] = {
    int: Encoder._integer,
    str: Encoder._text,
    list: Encoder._list,
    tuple: Encoder._tuple,
    dict: Encoder._dict,
    set: Encoder._set,
    frozenset: Encoder._set,
    complex: Encoder._complex,
    bytearray: Encoder._bytearray,
    np.ndarray: Encoder._array,
}

# bool comes before int, which is its base class.
_BASES: tuple[Callable[[Value], Value], ...] = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    list,
    tuple,
    dict,
    set,
    frozenset,
)

_OWN_VALUE: dict[Callable[[Value], Value], Callable[[Value], Value]] = {
    int: int.__int__,
    float: float.__float__,
}
"""Reads the number that an instance of a subclass is, and not what its own `__int__` returns."""


def _describe(value: Value) -> tuple[str, JsonObject] | None:
    """Return the kind and the fields of an object, or None if its fields are not known.

    The order decides: an enum may be a dataclass, and a named tuple is a tuple.
    """
    cls = type(value)
    if isinstance(value, type):
        return None
    if isinstance(value, enum.Enum):
        return "enum", {"name": value._name_, "value": value._value_}
    if dataclasses.is_dataclass(value):
        fields = _present(value, [field.name for field in dataclasses.fields(value)])
        return _with_content(value, fields) or ("dataclass", fields)
    if isinstance(value, tuple) and hasattr(cls, "_fields") and len(cls._fields) == len(value):
        return "namedtuple", dict(zip(cls._fields, value, strict=True))
    if hasattr(cls, "__attrs_attrs__"):
        fields = _present(value, [field.name for field in cls.__attrs_attrs__])
        return _with_content(value, fields) or ("attrs", fields)
    if hasattr(cls, "model_fields") and hasattr(cls, "__pydantic_core_schema__"):
        return "pydantic", {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if isinstance(value, msgspec.Struct):
        return "struct", {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, datetime.timedelta):
        fields = {"value": [value.days, value.seconds, value.microseconds]}
        if cls is not datetime.timedelta:
            # That of pandas has nanoseconds too.
            fields["text"] = str(value)
        return "value", fields
    if isinstance(value, STANDARD_VALUES):
        return "value", _standard_fields(value)
    return _describe_subclass(value)


def _with_content(value: Value, fields: JsonObject) -> tuple[str, JsonObject] | None:
    """Return the description of an object with declared fields that is a dict or the like too.

    None if its fields are all of it, as of a dict that has just them as its items.
    """
    described = _describe_subclass(value)
    if described is None:
        return None
    content = described[1]["value"]
    if type(content) is dict and all(
        key in fields and fields[key] is item for key, item in content.items()
    ):
        return None
    return "subclass", {"value": content, "attributes": fields}


def _standard_fields(value: Value) -> JsonObject:
    """Return the text of a value of the standard library, and what its text does not show."""
    fields: JsonObject = {"value": str(value)}
    if isinstance(value, (datetime.datetime, datetime.time)) and value.utcoffset() is None:
        # Without an offset, the text of a time has neither its fold nor its zone.
        if value.fold:
            fields["fold"] = value.fold
        if value.tzinfo is not None:
            fields["zone"] = str(value.tzinfo)
    attributes = getattr(value, "__dict__", None)
    if attributes:
        # Of a subclass.
        fields["attributes"] = dict(attributes)
    return fields


def _present(value: object, names: Iterable[str]) -> JsonObject:
    """Return the fields that are set: a field without a default may be missing."""
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _describe_subclass(value: Value) -> tuple[str, JsonObject] | None:
    """Return the value and the own attributes of an instance of a builtin's subclass."""
    for base in _BASES:
        if isinstance(value, base):  # type: ignore[arg-type]
            fields = {"value": _OWN_VALUE.get(base, base)(value)}
            attributes = getattr(value, "__dict__", None)
            if attributes:
                fields["attributes"] = dict(attributes)
            return "subclass", fields
    return None
