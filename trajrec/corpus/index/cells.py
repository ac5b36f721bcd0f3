"""Values as the cells of the tables hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable

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


def plain_text(value: str) -> str:
    """Return a text that DuckDB can store: without lone surrogates and NUL characters."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def name_json(name: str) -> str:
    """Return a name as it stands in `names_json`, where no other text equals it.

    >>> name_json('a, "b"')
    '"a\\\\u002c \\\\u0022b\\\\u0022"'
    """
    text = json.dumps(plain_text(name), ensure_ascii=False)[1:-1]
    # With quotes around names alone, and commas between them alone, SQL finds a name in the array as
    # a part of its text: to read the JSON of a million rows takes twenty times as long.
    text = text.replace('\\"', "\\u0022").replace(",", "\\u002c")
    return f'"{text}"'


def names_json(names: Iterable[str]) -> str | None:
    """Return distinct names as a sorted JSON array; None without names.

    Each is the text that a cell of a table has for it, so that the two can be compared.
    """
    texts = sorted({plain_text(name) for name in names})
    return f"[{','.join(map(name_json, texts))}]" if texts else None


def with_name(names: str | None, name: str) -> str | None:
    """Return a JSON array of names with another one."""
    known = [] if names is None else json.loads(names)
    return names if plain_text(name) in known else names_json([*known, name])


# Microseconds, rounded down, are as much as DuckDB's TIMESTAMP holds.
def to_timestamp(time_ns: int) -> int | None:
    """Return a time in ns since 1970 UTC in microseconds; a time of 0 is unknown, and gives None.

    NumPy makes DuckDB's TIMESTAMP of it, in a tenth of the time of a `datetime`.
    """
    return time_ns // 1000 if time_ns else None
