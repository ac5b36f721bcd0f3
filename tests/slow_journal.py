"""The journal of a log, read slowly: the items that the log does not have yet.

Written from docs/reference/log-format.md alone, as `slow_values` was.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from slow_columns import assembled, leaves
from slow_values import DamageError, Typed, Unpacker, numpy_dtype, unpack

Struct = dict[str, Any]

FILE = bytes.fromhex("8954524A4A4E4C0A")
HALF = bytes.fromhex("74726A48414C460A")
ROW, EVENT, LAYOUT = 0, 1, 2
FIRST_HALF = 64
HALF_HEAD = 36
STATE, INFO, WHOLE_STATE = 3, 4, 5


@dataclass
class Record:
    """A record of a journal; the number is that of its item, or of the item after a layout."""

    number: int
    kind: int
    content: bytes


class RowUnpacker(Unpacker):
    """Reads rows, which have two extensions of their own."""

    def extension(self, code: int, data: bytes) -> Typed:
        if code not in (1, 2):
            raise DamageError(f"a row has no extension {code}")
        return {"other" if code == 1 else "whole info": unpack(data)}


def read_row(content: bytes) -> list[Typed]:
    reader = RowUnpacker(content)
    row = reader.value()
    if reader.at != len(content) or len(row) not in (4, 6, 8):
        raise DamageError("a record of the journal is no row")
    return row


def read_records(path: Path, log_id: bytes) -> list[Record]:
    """Return the records of a log's journal, the older half first; none if it has no journal."""
    journal = path.with_name(path.name + ".journal")
    data = journal.read_bytes() if journal.exists() else b""
    if len(data) < FIRST_HALF or data[:8] != FILE:
        return []
    version, half_size = struct.unpack_from("<II", data, 8)
    is_intact = zlib.crc32(data[:32]) == struct.unpack_from("<I", data, 32)[0]
    if version != 1 or not is_intact or data[16:32] != log_id:
        return []
    halves = []
    for start in (FIRST_HALF, FIRST_HALF + half_size):
        half = data[start : start + half_size]
        head = half[: HALF_HEAD - 4]
        if head[:8] == HALF and head[8:24] == log_id:
            (check,) = struct.unpack_from("<I", half, HALF_HEAD - 4)
            if zlib.crc32(head) == check:
                halves.append((struct.unpack_from("<Q", head, 24)[0], half))
    halves.sort(key=lambda numbered: numbered[0])
    return [record for number, half in halves for record in half_records(number, half)]


def half_records(number: int, half: bytes) -> list[Record]:
    """Return the records of a half up to its end."""
    records = []
    at = HALF_HEAD
    while at + 8 <= len(half):
        word, check = struct.unpack_from("<II", half, at)
        size = word & 0x0FFFFFFF
        kind = word >> 28
        content = half[at + 8 : at + 8 + size]
        start = (kind << 28) ^ (number % (1 << 32))
        if size == 0 or at + 8 + size > len(half) or zlib.crc32(content, start) != check:
            break
        if kind not in (ROW, EVENT, LAYOUT):
            break
        records.append(Record(number, kind, content))
        number += kind != LAYOUT
        at += 8 + size
    return records


class Rows:
    """Follows the records of a journal: the layout of rows, and the position in an episode.

    Attributes:
        episode: The episode.
        step: The number of the next step.
    """

    def __init__(self) -> None:
        self.episode = -1
        self.step = 0
        self._fields: dict[str, list[Any]] = {}
        self._digest_size = 0
        # The bytes of the last row of pixels, by the path of its leaf.
        self._pixels: dict[str, bytes] = {}

    def set_layout(self, content: bytes) -> None:
        """Take the layout of the rows that follow."""
        position, (fields, self._digest_size) = unpack(content)
        self._fields = dict(fields["dict"])
        if position is not None:
            self.episode, self.step, _ = position
            self._pixels = {}

    def see_event(self, event: Struct) -> None:
        """Follow the position."""
        match event["tag"]:
            case "start":
                self.episode, self.step = event["episode"], 0
            case "failure" if event["phase"] == "step":
                self.step += 1

    def take(self, content: bytes) -> tuple[tuple[int, int, bool], Struct]:
        """Return the place of a row, as in `Episodes.row`, and its values."""
        row = read_row(content)
        is_reset = len(row) == 8
        if is_reset:
            self.episode, self.step = row[6:]
        names = ["obs"] if is_reset else ["action", "obs", "reward"]
        parts = dict(zip(["action", "obs", "reward"], row, strict=False))
        values = {name: self.field(name, parts[name]) for name in names if name in self._fields}
        if self._digest_size:
            values["digest"] = self.digest(row[STATE])
        elif "state" in self._fields:
            values["state"] = self.field("state", row[STATE])
        if len(row) > WHOLE_STATE and row[WHOLE_STATE] is not None:
            values["state"] = self.field("state", row[WHOLE_STATE])
        if not is_reset:
            values["info"] = self.info(row[INFO] if len(row) > INFO else None)
        place = (self.episode, self.step, is_reset)
        self.step += not is_reset
        return place, values

    def info(self, part: Typed) -> Typed:
        if part is None:
            return {"dict": []}
        if isinstance(part, dict) and "whole info" in part:
            return part["whole info"]
        return self.field("info", part)

    def digest(self, number: int) -> bytes:
        if self._digest_size == 3:
            return (number & 0xFFFFFF).to_bytes(3, "little")
        return number.to_bytes(8, "big")

    def field(self, name: str, part: Typed) -> Typed:
        """Return the value of a field."""
        layout, columns = self._fields[name]
        parts = [part] if layout[0] == "leaf" else part
        if len(parts) != len(columns) or sorted(leaves(layout)) != list(range(len(columns))):
            raise DamageError(f"the row has other leaves of {name}")
        values = [[self.leaf(*column, part)] for column, part in zip(columns, parts, strict=True)]
        return assembled(layout, values, 0)

    def leaf(self, path: str, kind: str, dtype: Typed, shape: list[int], part: Typed) -> Typed:
        """Return the value of a leaf."""
        if kind == "value":
            return unpack(part["bytes"])
        if kind == "array":
            return {"array": [dtype, shape, part["bytes"]]}
        if kind == "pixels":
            self._pixels[path] = self.pixels(path, numpy_dtype(dtype), shape, part)
            return {"array": [dtype, shape, self._pixels[path]]}
        if isinstance(part, dict) and "other" in part:
            return part["other"]
        if not dtype:
            return part
        number = struct.unpack(">d", bytes.fromhex(part["float"]))[0] if is_float(part) else part
        return {"scalar": [dtype, np.array(number, numpy_dtype(dtype)).tobytes()]}

    def pixels(self, path: str, dtype: np.dtype[Any], shape: list[int], part: Typed) -> bytes:
        """Return the bytes of a row of pixels."""
        if isinstance(part, dict):
            return part["bytes"]
        axis, *changes = part
        before = np.frombuffer(self._pixels[path], dtype).reshape(shape)
        if axis == -1:
            return changed_frame(before.tobytes(), *changes)
        # The oldest frame of a stack is first.
        frames = list(np.moveaxis(before, axis, 0))
        newest = np.ascontiguousarray(frames[-1]).tobytes()
        for words in changes[0] if len(changes) == 1 else [changes]:
            newest = changed_frame(newest, *words)
            frame = np.frombuffer(newest, dtype).reshape(frames[0].shape)
            frames = [*frames[1:], frame]
        return np.stack(frames, axis).tobytes()


def is_float(part: Typed) -> bool:
    return isinstance(part, dict) and "float" in part


def changed_frame(frame: bytes, positions: Typed, words: Typed) -> bytes:
    """Return a frame with other words at some positions."""
    width = next(size for size in (8, 4, 2, 1) if len(frame) % size == 0)
    places = np.frombuffer(positions["bytes"], "<i8").tolist()
    new = words["bytes"]
    if len(new) != width * len(places):
        raise DamageError("a change of pixels has words of another size")
    changed = bytearray(frame)
    for number, place in enumerate(places):
        at = place * width
        changed[at : at + width] = new[number * width : (number + 1) * width]
    if len(changed) != len(frame):
        raise DamageError("a change of pixels is outside of its frame")
    return bytes(changed)
