"""The bytes of arrays and NumPy scalars, the same for the same values."""

from __future__ import annotations

import numpy as np

from trajrec.types import Array


def array_bytes(values: Array | np.generic) -> bytes:
    """Return the C-order bytes of an array or scalar; those between the fields of records are 0.

    NumPy leaves them as they are: they hold anything, and differ between copies of one array.

    >>> wide = np.dtype({"names": ["n"], "formats": ["i1"], "offsets": [1], "itemsize": 3})
    >>> array_bytes(np.frombuffer(b"garbage!!", wide))
    b'\\x00a\\x00\\x00a\\x00\\x00!\\x00'
    """
    if values.dtype.names is None:
        return values.tobytes()
    source = np.asarray(values)
    clean = np.zeros(source.shape, source.dtype)
    _copy_fields(clean, source)
    return clean.tobytes()


def _copy_fields(target: Array, source: Array) -> None:
    """Copy the fields of records, and of the records in them."""
    for name in source.dtype.names or ():
        if source[name].dtype.names is None:
            target[name] = source[name]
        else:
            _copy_fields(target[name], source[name])
