"""The bytes of arrays and NumPy scalars, the same for the same values."""

from __future__ import annotations

import numpy as np

from trajrec.types import Array

PADDED = frozenset("gG")
"""The characters of the dtypes of long doubles: some of their bytes are no part of a value."""

_EXTENDED_BYTES = 10
"""Bytes of an extended float, as which x86 processors have long doubles."""

_EXTENDED_NMANT = 63
"""Bits of its mantissa."""


def array_bytes(values: Array | np.generic) -> bytes:
    """Return the C-order bytes of an array or scalar; those that are no part of a value are 0.

    These are the bytes between the fields of records, and the last ones of long doubles.
    NumPy leaves them as they are: they hold anything, and differ between copies of one array.

    >>> wide = np.dtype({"names": ["n"], "formats": ["i1"], "offsets": [1], "itemsize": 3})
    >>> array_bytes(np.frombuffer(b"garbage!!", wide))
    b'\\x00a\\x00\\x00a\\x00\\x00!\\x00'
    """
    if values.dtype.char in PADDED:
        return _long_double_bytes(values)
    if values.dtype.names is None:
        return values.tobytes()
    source = np.asarray(values)
    clean = np.zeros(source.shape, source.dtype)
    _copy_fields(clean, source)
    return clean.tobytes()


def _long_double_bytes(values: Array | np.generic) -> bytes:
    data = values.tobytes()
    size = np.dtype(np.longdouble).itemsize
    if np.finfo(np.longdouble).nmant != _EXTENDED_NMANT or size == _EXTENDED_BYTES:
        return data
    # In the other byte order, the value comes last.
    is_first = values.dtype.newbyteorder("=") == values.dtype
    used = slice(_EXTENDED_BYTES) if is_first else slice(-_EXTENDED_BYTES, None)
    parts = np.frombuffer(data, np.uint8).reshape(-1, size)
    clean = np.zeros_like(parts)
    clean[:, used] = parts[:, used]
    return clean.tobytes()


def _copy_fields(target: Array, source: Array) -> None:
    """Copy the fields of records, and of the records in them."""
    for name in source.dtype.names or ():
        field = source[name]
        if field.dtype.names is not None:
            _copy_fields(target[name], field)
        elif field.dtype.char in PADDED:
            clean = np.frombuffer(_long_double_bytes(field), field.dtype)
            target[name] = clean.reshape(field.shape)
        else:
            target[name] = field
