"""Values as the cells of the tables hold them."""

from __future__ import annotations

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import MISSING
from trajrec.values.json import stored_to_json, to_canonical_json


def interface_columns(interface: Value) -> tuple[str | None, str | None]:
    """Return an interface as canonical JSON, and its digest."""
    if interface is None:
        return None, None
    text = to_canonical_json(interface)
    return text, codec.digest_bytes(text.encode())[:16]


def stored_json(data: bytes | None) -> str | None:
    """Return an encoded value as JSON; None for no value."""
    return None if data is None else stored_to_json(codec.decode(data))


def json_or_null(value: Value) -> str | None:
    """Return a value as JSON; None for None."""
    return None if value is None else stored_to_json(value)


def digest_or_none(value: Value) -> str | None:
    """Return the digest of a value, 32 hex digits: equal for values that are equal as JSON."""
    if value is None:
        return None
    return codec.digest_bytes(to_canonical_json(value).encode())


def json_or_none(value: Value) -> str | None:
    """Return a value of a change as JSON; None if it is missing."""
    return None if value is MISSING else stored_to_json(value)


# Microseconds, rounded down, are as much as DuckDB's TIMESTAMP holds.
def to_timestamp(time_ns: int) -> int | None:
    """Return a time in ns since 1970 UTC in microseconds; a time of 0 is unknown, and gives None.

    NumPy makes DuckDB's TIMESTAMP of it, in a tenth of the time of a `datetime`.
    """
    return time_ns // 1000 if time_ns else None
