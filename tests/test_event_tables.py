"""Events that are stored by kind come back as they were, in their order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from test_schema import EXAMPLES

import trajrec
from trajrec.log import records, schema
from trajrec.log.compaction import compact
from trajrec.log.event_tables import to_tables, unpack_events
from trajrec.log.reader import LogReader
from trajrec.log.schema import Chunk, EventTable

EVENTS: list[Any] = [record for record in EXAMPLES if isinstance(record, get_args(schema.Event))]
encode = msgspec.msgpack.encode


def chunk_of(events: list[Any]) -> Chunk:
    return Chunk(time_ns=1, segments=[], columns=[], layouts={}, events=events, journal=3)


def changed(event: Any, rng: random.Random) -> Any:
    """Return an event with other numbers, texts and bytes in some of its fields."""
    changes = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if rng.random() < 0.5:
            continue
        if name == "time_ns":
            changes[name] = rng.choice([0, value, 1_750_000_000_000_000_000])
        elif type(value) is int and name != "episode":
            changes[name] = rng.choice([0, value, 2**31 - 1])
        elif name.endswith("_data") and type(value) is bytes:
            changes[name] = rng.randbytes(rng.randrange(5))
        elif type(value) is float:
            changes[name] = rng.choice([0.0, -0.0, float("nan"), 1.5])
    return msgspec.structs.replace(event, **changes)


@pytest.mark.parametrize("seed", range(40))
def test_events_come_back_from_their_tables(seed: int) -> None:
    rng = random.Random(seed)
    events = [changed(rng.choice(EVENTS), rng) for _ in range(rng.randrange(1, 60))]
    packed = to_tables(chunk_of(events))
    assert packed.events == []
    tags: set[str] = set()
    chunk = records.decode_chunk(encode(packed), 2, tags)
    # As bytes: a NaN does not equal itself, and 0.0 equals -0.0.
    assert list(map(encode, chunk.events)) == list(map(encode, events))
    assert (chunk.tables, chunk.order, chunk.journal, tags) == ([], b"", 3, set())


def test_tables_of_unknown_kinds_are_left_out_by_name() -> None:
    packed = to_tables(chunk_of([EVENTS[0], EVENTS[1], EVENTS[0]]))
    future = EventTable("future", 2, [["values", ["a", {"b": 1}]]])
    packed = msgspec.structs.replace(
        packed, tables=[*packed.tables, future], order=b"\x02" + packed.order + b"\x02"
    )
    tags: set[str] = set()
    chunk = records.decode_chunk(encode(packed), 2, tags)
    assert chunk.events == [EVENTS[0], EVENTS[1], EVENTS[0]]
    assert tags == {"future"}


@pytest.mark.parametrize(
    ("table", "order", "message"),
    [
        (EventTable("end", 2, [["const", 1]]), b"\0", "fewer events"),
        (EventTable("end", 1, [["const", 1]]), b"\0\0", "more events"),
        (EventTable("end", 1, [["const", 1]]), b"\1", "more events"),
        (EventTable("end", 2, [["values", [1]]]), b"\0\0", "1 values for 2 events"),
        (EventTable("end", 1, [["other", 1]]), b"\0", "is unknown"),
        (EventTable("end", 1, [["bytes", [3], b"ab"]]), b"\0", "do not add up"),
        (EventTable("end", 1, [[]]), b"\0", "is unknown"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(
    table: EventTable, order: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_events([table], order)


@pytest.mark.slow
def test_compacting_an_agents_log_stores_its_events_by_kind(tmp_path: Path) -> None:
    for k in range(30):
        with trajrec.episode(tmp_path, task=f"t{k}") as ep:
            ep.tool(lambda n: {"n": n, "square": n * n}, name="square")
            for n in range(20):
                ep.call("square", n=n)
    trajrec.close_logs()
    (path,) = tmp_path.glob("*.trj")
    with LogReader(path) as reader:
        before = [event for chunk in reader.chunks() for event in chunk.record.events]
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT * FROM attempts ORDER BY ALL").fetchall()
    result = compact(path)
    assert result.size_after < 0.7 * result.size_before
    with LogReader(path) as reader:
        assert [event for chunk in reader.chunks() for event in chunk.record.events] == before
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT * FROM attempts ORDER BY ALL").fetchall() == rows
