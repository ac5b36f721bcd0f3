"""Events by kind and by field: the form in which `compact` stores the events of a chunk.

Fields of one kind resemble each other more than the fields of one event do, so the events of
tool calls take a third less so. A recorder stores events one by one: it has no time for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec

from trajrec.log.schema import Chunk, Event, EventTable

_encode = msgspec.msgpack.Encoder().encode

# The kinds of events in a chunk are counted in one byte.
_MAX_KINDS = 255

CONST = "const"
DIFFERENCES = "differences"
BYTES = "bytes"
VALUES = "values"


def to_tables(chunk: Chunk) -> Chunk:
    """Return a chunk whose events stand in tables, or the chunk itself if it has none."""
    kinds: dict[type[Event], list[Event]] = {}
    for event in chunk.events:
        kinds.setdefault(type(event), []).append(event)
    if not kinds or len(kinds) > _MAX_KINDS:
        return chunk
    numbers = {kind: number for number, kind in enumerate(kinds)}
    return msgspec.structs.replace(
        chunk,
        events=[],
        tables=[_pack_table(events) for events in kinds.values()],
        order=bytes(numbers[type(event)] for event in chunk.events),
    )


def _pack_table(events: Sequence[Event]) -> EventTable:
    kind = type(events[0])
    return EventTable(
        tag=str(kind.__struct_config__.tag),
        n=len(events),
        fields=[
            _pack_field([getattr(event, name) for event in events])
            for name in kind.__struct_fields__
        ],
    )


def _pack_field(values: list[Any]) -> list[Any]:
    """Return the values of a field in the form that compresses best."""
    types = set(map(type, values))
    # Encoded: 0.0 equals -0.0, and a NaN does not equal itself.
    first = _encode(values[0])
    if len(types) == 1 and all(_encode(value) == first for value in values[1:]):
        return [CONST, values[0]]
    if types == {int}:
        return [DIFFERENCES, [b - a for a, b in pairwise((0, *values))]]
    if types <= {bytes, type(None)}:
        lengths = [-1 if value is None else len(value) for value in values]
        return [BYTES, lengths, b"".join(value or b"" for value in values)]
    return [VALUES, values]


def unpack_events(tables: Sequence[EventTable], order: bytes) -> list[Any]:
    """Return events as lists of their tags and fields, in their order.

    Raises:
        ValueError: The tables contradict themselves.
    """
    # Before they are unpacked: a constant may be stated to stand for any number of events.
    n_events = sum(table.n for table in tables)
    if len(order) < n_events:
        raise ValueError("the order names fewer events than the tables have")
    rows = []
    for table in tables:
        fields = [_unpack_field(field, table.n) for field in table.fields]
        rows.append(iter([[table.tag, *values] for values in zip(*fields, strict=True)]))
        if fields and len(fields[0]) != table.n:
            raise ValueError(f"a table of {table.tag!r} does not have its {table.n} events")
    try:
        events = [next(rows[number]) for number in order]
    except (IndexError, StopIteration):
        raise ValueError("the order names more events than the tables have") from None
    return events


def _unpack_field(field: Sequence[Any], n: int) -> list[Any]:
    match field:
        case [str(form), value] if form == CONST:
            return [value] * n
        case [str(form), list(differences)] if form == DIFFERENCES:
            values: list[Any] = list(accumulate(differences))
        case [str(form), list(lengths), bytes(data)] if form == BYTES:
            values = _split(lengths, data)
        case [str(form), list(values)] if form == VALUES:
            pass
        case _:
            raise ValueError(f"a field of the form {field[:1]} is unknown")
    if len(values) != n:
        raise ValueError(f"a field has {len(values)} values for {n} events")
    return values


def _split(lengths: Sequence[int], data: bytes) -> list[bytes | None]:
    values: list[bytes | None] = []
    start = 0
    for length in lengths:
        if length < 0:
            values.append(None)
            continue
        values.append(data[start : start + length])
        start += length
    if start != len(data):
        raise ValueError("the lengths of a field's values do not add up")
    return values
