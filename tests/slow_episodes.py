"""The episodes of a log, read slowly: the values of each step, and the states of watched parts.

Written from docs/reference/log-format.md alone, as `slow_values` was.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

from slow_columns import assembled, column_values, leaves, row_numbers
from slow_parts import changed, part_digests
from slow_schema import opened, read_event
from slow_values import DamageError, Typed, numpy_dtype, pack, tag_of, unpack

Struct = dict[str, Any]

FIELDS = ("action", "obs", "reward", "state", "info")

WITH_RESET = {"obs", "state", "state_digest"}
"""The fields that have a row for the reset."""


def episode_id(log_id: str, number: int) -> str:
    return hashlib.blake2b(f"{log_id}/{number}".encode(), digest_size=8).hexdigest()


def rows_of(segments: list[Struct], has_reset: bool) -> list[tuple[int, int, bool]]:
    """Return episode and step of each row of a field, and whether it is the row of a reset."""
    rows = []
    for segment in segments:
        first = segment["first_step"]
        if has_reset and segment["has_reset"]:
            rows.append((segment["episode"], first, True))
        steps = range(first, first + segment["n_steps"])
        rows += [(segment["episode"], step, False) for step in steps]
    return rows


def digest_of(value: Typed) -> str:
    """Return the digest of the canonical encoding of a value."""
    return hashlib.blake2b(pack(value), digest_size=16).hexdigest()


def state_digest(state: Typed, n_bytes: int) -> bytes:
    """Return the 24 bits that check a state, or the 64 bits that tell it from others."""
    if n_bytes == 8:
        return bytes.fromhex(digest_of(state))[:8]
    data = pack(state)
    if tag_of(state) == "array" and numpy_dtype(state["array"][0]).kind in "biufcmM":
        data = state["array"][2]
    return (zlib.crc32(data) & 0xFFFFFF).to_bytes(3, "little")


class Episodes:
    """Collects the rows of chunks by episode and step.

    Args:
        log: The log that the checks are noted in.
        log_id: Its id as text.
    """

    def __init__(self, log: Any, log_id: str) -> None:
        self.log = log
        self.log_id = log_id
        self.by_number: dict[int, Struct] = {}

    def episode(self, number: int) -> Struct:
        if number not in self.by_number:
            name = episode_id(self.log_id, number)
            self.by_number[number] = {"episode": number, "id": name, "reset": {}, "steps": {}}
        return self.by_number[number]

    def row(self, number: int, step: int, is_reset: bool) -> Struct:
        """Return the values of a step or of a reset, to be filled."""
        episode = self.episode(number)
        if is_reset:
            return episode["reset"]
        return episode["steps"].setdefault(step, {"step": step})

    def add(self, chunk: Struct, data: bytes | None) -> None:
        """Take the rows of a chunk."""
        if data is None:
            return
        for segment in chunk["segments"]:
            rows = rows_of([segment], has_reset=True)
            for place in rows:
                self.row(*place)
        values = [self.column(chunk, column, data) for column in chunk["columns"]]
        for name, layout in chunk["layouts"].items():
            if name in FIELDS:
                self.add_field(chunk, name, layout, values)
        if "info" not in chunk["layouts"]:
            self.add_field(chunk, "info", ["dict", [], []], [], n=0)
        for column, digests in zip(chunk["columns"], values, strict=True):
            if column["name"] == "state_digest":
                rows = rows_of(chunk["segments"], has_reset=True)
                for place, number in zip(rows, row_numbers(column, len(rows)), strict=True):
                    self.row(*place)["digest"] = digests[number]["array"][2]
        for number, step, encoded in chunk["irregular"]:
            self.row(number, step, False)["info"] = unpack(encoded)
        self.check_states(chunk)

    def column(self, chunk: Struct, column: Struct, data: bytes) -> list[Typed]:
        """Return the values of a column, and check its checksum."""
        stored = data[column["offset"] : column["offset"] + column["size"]]
        if column.get("checksum") is not None:
            holds = zlib.crc32(stored) == column["checksum"]
            self.log.check("column", holds, what=column["name"])
        if self.log.version == 1:
            column = column | {"const_data": stored}
        return column_values(stored, column)

    def add_field(
        self,
        chunk: Struct,
        name: str,
        layout: list[Any],
        values: list[list[Typed]],
        *,
        n: int | None = None,
    ) -> None:
        """Take the rows of a field."""
        rows = rows_of(chunk["segments"], has_reset=name in WITH_RESET)
        numbers = list(range(len(rows) if n is None else n))
        if columns := leaves(layout):
            numbers = row_numbers(chunk["columns"][columns[0]], len(rows))
            for column in columns[1:]:
                if row_numbers(chunk["columns"][column], len(rows)) != numbers:
                    raise DamageError(f"the columns of {name} have other rows")
        for place, row in enumerate(numbers):
            self.row(*rows[row])[name] = assembled(layout, values, place)
        if name == "info":
            for row in set(range(len(rows))) - set(numbers):
                self.row(*rows[row])["info"] = {"dict": []}

    def check_states(self, chunk: Struct) -> None:
        """Compare the states that are stored whole with their digests."""
        for place in rows_of(chunk["segments"], has_reset=True):
            self.check_state(place)

    def check_state(self, place: tuple[int, int, bool]) -> None:
        row = self.row(*place)
        if "state" in row and "digest" in row:
            holds = state_digest(row["state"], len(row["digest"])) == row["digest"]
            self.log.check("state digest", holds, what=f"episode {place[0]}, step {place[1]}")

    def add_row(self, place: tuple[int, int, bool], values: Struct) -> None:
        """Take a row of the journal."""
        self.row(*place).update(values)
        self.check_state(place)

    def check_verdicts(self, events: list[Struct]) -> None:
        """Compare the digests of the states that were judged with the states that are stored."""
        for event in events:
            row = self.state_row(event) if event["tag"] == "check" else {}
            if "state" in row and event["state_digest"] is not None:
                holds = event["state_digest"] == digest_of(row["state"])
                self.log.check("digest of a check", holds, what=event["check_id"])

    def state_row(self, event: Struct) -> Struct:
        """Return the row with the state that a check has judged: that after the step before."""
        episode = self.by_number[event["episode"]]
        return episode["steps"].get(event["step"] - 1, {} if event["step"] else episode["reset"])

    def rewards(self) -> dict[int, list[Typed]]:
        """Return the rewards of each episode."""
        return {
            number: [row["reward"] for row in episode["steps"].values() if "reward" in row]
            for number, episode in self.by_number.items()
        }

    def as_list(self) -> list[Struct]:
        """Return the episodes in order, each with its steps in order."""
        return [
            episode | {"steps": [episode["steps"][step] for step in sorted(episode["steps"])]}
            for _, episode in sorted(self.by_number.items())
        ]


# --- Events ----------------------------------------------------------------------------------


class Events:
    """Collects the events of a log, their blobs, and the states of watched parts.

    Args:
        log: The log that the checks are noted in.
    """

    def __init__(self, log: Any) -> None:
        self.log = log
        self.records: list[tuple[int, Struct]] = []
        self.unknown = 0
        self.blobs: dict[str, Typed] = {}
        self.adapters: dict[tuple[int, str], str] = {}
        self.digests: dict[int, dict[str, str]] = {}
        self.states: dict[tuple[int, str], Typed] = {}
        self.parts: list[Struct] = []

    def add(self, frame: int, items: list[Typed]) -> Struct | None:
        """Take an event of a frame; return its record, or None if its tag is not known."""
        raw = read_event(self.log.version, items)
        if raw is None:
            self.unknown += 1
            return None
        if raw["tag"] == "blob":
            digest = hashlib.blake2b(raw["data"], digest_size=16).digest()
            self.log.check("blob", digest == raw["digest"], what=raw["digest"].hex())
            self.blobs[raw["digest"].hex()] = unpack(raw["data"])
        if raw["tag"] == "task":
            self.check_task(raw)
        if raw["tag"] == "state":
            self.digests.setdefault(raw["episode"], {})[raw["part"]] = raw["digest"]
        if raw["tag"] == "check" and raw["episode"] in self.digests:
            digests = sorted(self.digests[raw["episode"]].items())
            expected = digest_of([{"tuple": [part, digest]} for part, digest in digests])
            holds = raw["state_digest"] in (None, expected)
            self.log.check("digest of a check", holds, what=raw["check_id"])
        record = opened(raw, raw["tag"])
        self.check_references(record)
        if raw["tag"] == "state":
            self.change(record)
        self.records.append((frame, record))
        return record

    def check_task(self, raw: Struct) -> None:
        """Compare the digests of a task with the data, and note the adapters of its parts."""
        for name in ("goal", "tools"):
            if raw.get(f"{name}_digest") is not None:
                digest = hashlib.blake2b(raw[f"{name}_data"], digest_size=16).digest()
                self.log.check(f"digest of {name}", digest == raw[f"{name}_digest"])
        for part, adapter, _ in raw["parts"]:
            self.adapters[raw["episode"], part] = adapter

    def check_references(self, value: Any) -> None:
        """Check that each reference stands behind its blob."""
        match value:
            case {"ref": digest}:
                self.log.check("reference", digest in self.blobs, what=digest)
            case dict():
                for item in value.values():
                    self.check_references(item)
            case list():
                for item in value:
                    self.check_references(item)

    def resolved(self, value: Any) -> Any:
        """Return a value with each reference replaced by the blob."""
        match value:
            case {"ref": digest}:
                return self.resolved(self.blobs[digest])
            case dict():
                return {key: self.resolved(item) for key, item in value.items()}
            case list():
                return [self.resolved(item) for item in value]
        return value

    def change(self, record: Struct) -> None:
        """Follow the state of a part, and compare it with its digest."""
        key = (record["episode"], record["part"])
        data = self.resolved(record["data"])
        # Before the first step, the agent's own program may change what the reset gave.
        is_reset = record["step"] == -1 and record.get("actor") != "scaffold"
        if is_reset and data is not None:
            self.states[key] = data
        elif data is not None and key in self.states:
            self.states[key] = changed(self.states[key], data, self.log.version)
        if data is None or key not in self.states:
            # Unknown until the next change, which begins with the last known state.
            return
        holds = record["digest"] in part_digests(self.states[key])
        if self.adapters.get(key) in ("tree", "sqlite", "folder"):
            self.log.check("digest of a part", holds, what=f"{record}")
        if holds:
            self.parts.append({"event": len(self.records), "value": self.states[key]})
