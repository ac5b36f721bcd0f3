"""A slow, plain reader of logs, written from docs/reference/log-format.md alone.

It shares no code with trajrec, so that the two can be compared.

    python tests/slow_reader.py FILE > FILE.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slow_episodes import Episodes, Events
from slow_footer import FooterTables
from slow_frames import CHUNK, COPY, FOOTER, HEADER, SlowLog, Trailer, read_log
from slow_journal import EVENT, LAYOUT, Rows, read_records
from slow_schema import chunk_events, opened, read_event
from slow_values import DamageError, compact, short_json, to_json, unpack


def header_of(log: SlowLog) -> dict[str, Any] | None:
    """Return the header: the footer's, else the first; all that a log has must be equal."""
    records = [(frame.kind, frame.record) for frame in log.frames if frame.record]
    headers = [record["header"] for kind, record in reversed(records) if kind == FOOTER]
    headers += [record for kind, record in records if kind in (HEADER, COPY)]
    for header in headers:
        log.check("header", header == headers[0])
    return headers[0] if headers else None


def contents(path: Path) -> dict[str, Any]:
    """Return everything that a log holds, as typed values."""
    log = read_log(path)
    header = header_of(log)
    if header is None and log.version == 1:
        raise DamageError("the id of the log is lost with its header")
    events = Events(log)
    episodes = Episodes(log, header["log_id"] if header else log.salt.hex())
    tables = FooterTables(log)
    for number, frame in enumerate(log.frames):
        if frame.kind == CHUNK and frame.record is not None:
            known = [events.add(number, item) for item in chunk_events(frame.record)]
            tables.add(number, frame.record, [event for event in known if event])
            for event in known:
                if event and event["episode"] >= 0:
                    episodes.episode(event["episode"])
            episodes.add(frame.record, frame.data)
    n_items = 0
    if log.version == 2 and log.trailer is None:
        n_items = add_journal(path, log, events, episodes)
    episodes.check_verdicts([event for _, event in events.records if event["episode"] >= 0])
    if log.version == 2 and log.trailer and log.footer:
        tables.check(log.footer.record, episodes.rewards())
    trailer = log.trailer or Trailer(0)
    footer = log.footer and {k: v for k, v in log.footer.record.items() if k != "header"}
    return {
        "version": log.version,
        "size": len(log.content),
        "is_sealed": log.trailer is not None,
        "generation": trailer.generation,
        "seal": trailer.seal,
        "frames": [[f.offset, f.size, f.kind, f.sequence] for f in log.frames],
        "damage": [list(part) for part in log.damage],
        "torn": log.torn,
        "header": header and opened(header) | {"env": opened(header["env"])},
        "footer": footer,
        "unknown_events": events.unknown,
        "events": events.records,
        "episodes": episodes.as_list(),
        "parts": events.parts,
        "checked": dict(sorted(log.checked.items())),
        "failed": log.failed,
    } | ({"journal": n_items} if n_items else {})


def add_journal(path: Path, log: SlowLog, events: Events, episodes: Episodes) -> int:
    """Add the items of the journal that the log does not have; return their number.

    Their events count to a frame behind the last one.
    """
    chunks = [frame.record for frame in log.frames if frame.kind == CHUNK and frame.record]
    last = max((chunk["journal"] for chunk in chunks), default=-1)
    rows = Rows()
    n_items = 0
    for record in read_records(path, log.salt):
        is_new = record.number > last
        if record.kind == LAYOUT:
            rows.set_layout(record.content)
            continue
        n_items += is_new
        if record.kind == EVENT:
            items = unpack(record.content)
            event = events.add(len(log.frames), items) if is_new else read_event(2, items)
            if event and event["episode"] >= 0:
                rows.see_event(event)
                if is_new:
                    episodes.episode(event["episode"])
            continue
        place, values = rows.take(record.content)
        if is_new:
            episodes.add_row(place, values)
    return n_items


def shorten_rows(record: dict[str, Any]) -> dict[str, Any]:
    """Return a row of an episode, or the state of a part, with its large values shortened."""
    return {name: short_json(value) for name, value in record.items()}


def expected(path: Path) -> dict[str, Any]:
    """Return the JSON that each reader of a log must come to."""
    found = contents(path)
    episodes = [
        episode
        | {"reset": shorten_rows(episode["reset"])}
        | {"steps": list(map(shorten_rows, episode["steps"]))}
        for episode in found["episodes"]
    ]
    parts = list(map(shorten_rows, found["parts"]))
    return to_json(found | {"episodes": [], "parts": []}) | {"episodes": episodes, "parts": parts}


def lines(value: Any, name: str = "") -> Iterator[str]:
    """Yield the lines of a JSON text: one for each frame, event and step."""
    if name in ("", "episodes") and isinstance(value, dict):
        yield "{"
        items = list(value.items())
        for key, item in items:
            comma = "," if key != items[-1][0] else ""
            first, *rest = lines(item, key)
            text = [f"{json.dumps(key)}: {first}", *rest]
            yield from [*text[:-1], text[-1] + comma]
        yield "}"
    elif name in ("frames", "events", "episodes", "steps", "parts") and isinstance(value, list):
        yield "["
        for number, item in enumerate(value, 1):
            text = list(lines(item, "episodes" if name == "episodes" else "item"))
            yield from [*text[:-1], text[-1] + ("," if number < len(value) else "")]
        yield "]"
    else:
        yield compact(value)


def main(paths: list[str]) -> None:
    """Print the contents of logs as typed JSON."""
    for path in paths:
        print("\n".join(lines(expected(Path(path)))))


if __name__ == "__main__":
    main(sys.argv[1:])
