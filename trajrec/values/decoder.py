"""Turns encoded values back into values. Damaged bytes raise DecodeError and nothing else."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np

from trajrec.errors import DecodeError
from trajrec.types import Array, Value
from trajrec.values import extensions as ext
from trajrec.values.extensions import ARRAY_KINDS, MAX_DEPTH, Opaque, Plain, Ref
from trajrec.values.item_count import check_items
from trajrec.values.memory import MAX_RAW_BYTES

# An object takes up to two extensions for a level: itself and the map of its fields.
_MAX_EXTENSIONS = 2 * MAX_DEPTH + 2

# An array of items without bytes can state any shape: without a limit, a few damaged bytes could
# claim all memory.
_MAX_EMPTY_ITEMS = 1 << 24

_GRAPH = "gymnasium.spaces.graph.GraphInstance"


# The bytes of msgpack that no list or map begins with.
_NO_OPENING = bytes(byte for byte in range(256) if not (0x80 <= byte <= 0x9F or byte >= 0xDC))


def _n_openings(data: bytes | memoryview) -> int:
    """Return the number of bytes that lists and maps begin with, and others that are equal."""
    return len(bytes(data).translate(None, _NO_OPENING))


def _check_depth(value: Value) -> None:
    """Check that a value nests no deeper than values that are encoded.

    A deeper one would end whoever goes through it with a RecursionError.

    Raises:
        ValueError: It nests deeper.
    """
    level = [value]
    # The encoder's last level holds plain values.
    for _ in range(MAX_DEPTH + 2):
        level = [item for container in level for item in _items(container)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _items(value: Value) -> Iterable[Value]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, Plain):
        return value.fields.values()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.ravel().tolist()
    return ()


class Decoder:
    """Decodes encoded values, one at a time. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._n_open = 0
        self._msgpack = msgspec.msgpack.Decoder(ext_hook=self._extension)

    def decode(self, data: bytes | memoryview) -> Value:
        """Return the value of some bytes.

        Raises:
            DecodeError: The bytes are not an encoded value.
            MemoryError: The memory is short, which says nothing of the bytes.
        """
        self._n_open = 0
        try:
            # Nearly all values are small: they are spared the calls.
            if len(data) > MAX_DEPTH:
                check_items(data)
            value = self._msgpack.decode(data)
            # Most values are too short, or have too few lists, to nest that deeply.
            if len(data) > MAX_DEPTH and _n_openings(data) > MAX_DEPTH:
                _check_depth(value)
            return value
        except MemoryError as exc:
            if len(data) <= MAX_RAW_BYTES:
                raise
            raise DecodeError(f"not an encoded value: {len(data)} bytes are too many") from exc
        except (
            msgspec.MsgspecError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            RecursionError,
            OverflowError,
        ) as exc:
            raise DecodeError(f"not an encoded value: {exc}") from exc

    def _extension(self, code: int, data: memoryview) -> Value:
        decode = _DECODE.get(code)
        if decode is None:
            raise ValueError(f"extension {code} is unknown")
        if self._n_open >= _MAX_EXTENSIONS:
            raise ValueError("nested too deeply")
        self._n_open += 1
        try:
            return decode(self, data)
        finally:
            self._n_open -= 1

    def _nested(self, data: memoryview) -> Any:
        return self._msgpack.decode(data)

    def _array(self, data: memoryview) -> Array:
        described, counts, raw = self._nested(data)
        dtype = _dtype(described)
        shape = _shape(counts)
        if dtype.itemsize == 0:
            return _empty_items(dtype, shape)
        # A copy: arrays of `frombuffer` are read-only.
        return np.frombuffer(raw, dtype).reshape(shape).copy()

    def _scalar(self, data: memoryview) -> Value:
        described, raw = self._nested(data)
        dtype = _dtype(described)
        if dtype.itemsize == 0:
            return _empty_items(dtype, ())[()]
        # NumPy strips trailing NULs from the texts that it takes out of an array.
        if dtype.kind == "S":
            return np.bytes_(bytes(memoryview(raw)))
        if dtype.kind == "U":
            encoding = "utf-32-be" if dtype.str[0] == ">" else "utf-32-le"
            return np.str_(bytes(memoryview(raw)).decode(encoding, "surrogatepass"))
        return np.frombuffer(raw, dtype, count=1)[0]

    def _object_array(self, data: memoryview) -> Array:
        kind, counts, items = self._nested(data)
        dtype = np.dtype(object) if kind == "O" else _text_dtype(items)
        array = np.empty(len(items), dtype)
        # One by one: assigning a list of lists would make a second dimension of them.
        for index, item in enumerate(items):
            array[index] = item
        return array.reshape(_shape(counts))

    def _object(self, data: memoryview) -> Value:
        name, kind, fields = self._nested(data)
        # A graph is a value of Gymnasium's spaces, so environments expect it back as one.
        if name == _GRAPH and "gymnasium" in sys.modules:
            from gymnasium.spaces import GraphInstance

            return GraphInstance(**fields)
        return Plain(str(name), str(kind), dict(fields))

    def _opaque(self, data: memoryview) -> Opaque:
        name, text = self._nested(data)
        return Opaque(str(name), str(text))


_DECODE: dict[int, Callable[[Decoder, memoryview], Value]] = {
    ext.TUPLE: lambda decoder, data: tuple(decoder._nested(data)),
    ext.ARRAY: Decoder._array,
    ext.SCALAR: Decoder._scalar,
    ext.BIGINT: lambda decoder, data: int.from_bytes(data, "little", signed=True),
    ext.MAP: lambda decoder, data: dict(decoder._nested(data)),
    ext.TEXT: lambda decoder, data: bytes(data).decode("utf-8", "surrogatepass"),
    ext.OBJECT: Decoder._object,
    ext.OPAQUE: Decoder._opaque,
    ext.SET: lambda decoder, data: set(decoder._nested(data)),
    ext.FROZENSET: lambda decoder, data: frozenset(decoder._nested(data)),
    ext.COMPLEX: lambda decoder, data: complex(*decoder._nested(data)),
    ext.OBJECT_ARRAY: Decoder._object_array,
    ext.BYTEARRAY: lambda decoder, data: bytearray(data),
    ext.REF: lambda decoder, data: Ref(bytes(data)),
}


def _dtype(described: Value) -> np.dtype[Any]:
    """Return a dtype from its description; a dtype of objects is refused."""
    if isinstance(described, str):
        dtype = np.dtype(described)
        if dtype.kind not in ARRAY_KINDS or dtype.hasobject:
            raise ValueError(f"dtype {described!r} is not stored in logs")
        return dtype
    *fields, itemsize = described
    names, formats, offsets = zip(*fields, strict=True) if fields else ((), (), ())
    return np.dtype(
        {
            "names": list(names),
            "formats": list(map(_dtype, formats)),
            "offsets": list(offsets),
            "itemsize": itemsize,
        }
    )


def _text_dtype(items: list[Value]) -> np.dtype[Any]:
    """Return NumPy's variable-width text type, with the missing value that the items hold."""
    for item in items:
        if type(item) is not str:
            return np.dtypes.StringDType(na_object=item)
    return np.dtypes.StringDType()


def _empty_items(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return an array of items without bytes: texts of length 0, or records without fields."""
    if math.prod(shape) > _MAX_EMPTY_ITEMS:
        raise ValueError(f"an array of shape {shape} has too many items without bytes")
    return np.zeros(shape, dtype)


def _shape(counts: Value) -> tuple[int, ...]:
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        raise ValueError(f"an array's shape must be a list of counts, got {counts!r}")
    return tuple(counts)
