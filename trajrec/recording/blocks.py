"""The recorder's buffers: what a step costs is decided here.

A `Block` holds the rows of some steps, one list a column. Adding a row is an append of an immutable value or of an array's
bytes, never a reference to something that an environment may change later. The flusher's thread takes rows [done, n) of the
lists without a lock: rows below `n` never change, and a step raises `n` only when all its rows are there. When a block is full
the recorder starts the next one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from trajrec.log.columns import PLANES_ROW_BYTES, Packer
from trajrec.log.pixels import Pixels
from trajrec.log.schema import Chunk, Column, Event, Segment
from trajrec.log.writer import Drained
from trajrec.values import codec
from trajrec.values.digest import pack_digests

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 1536
CHANGES_BYTES = 1 << 19
"""A block is full at any of these: small enough to bound memory, large enough to compress. Of CartPole, 8192 rows save three
hundredths of the bytes, and cost twice the memory: the rows that wait are most of what recording takes."""

IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes, np.bool_, np.str_, np.bytes_}) | {
    cls for cls in np.sctypeDict.values() if issubclass(cls, np.number)
}


class MisfitError(Exception):
    """A value is not of the kind that its field's rows have."""


class Leaf:
    """The rows of one leaf of a field's values."""

    __slots__ = ("dtype", "kind", "name", "rows", "shape")

    def __init__(
        self, name: str, kind: str, dtype: Any = None, shape: tuple[int, ...] = ()
    ) -> None:
        self.name, self.kind, self.dtype, self.shape = name, kind, dtype, shape
        self.rows: list[Any] = []

    def pack(self, packer: Packer, start: int, stop: int) -> tuple[Column, bytes]:
        """Pack rows [start, stop) into a column."""
        rows = self.rows[start:stop]
        if self.kind == "array":
            return packer.arrays(self.name, rows, self.dtype, self.shape)
        if self.kind == "scalar":
            return packer.scalars(self.name, rows)
        return packer.values(self.name, rows)


class PixelLeaf(Leaf):
    """The rows of a leaf of large arrays, kept as changes."""

    __slots__ = ("pixels",)

    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        super().__init__(name, "pixels", dtype, shape)
        self.pixels = Pixels(dtype, shape)

    def pack(self, packer: Packer, start: int, stop: int) -> tuple[Column, bytes]:
        return packer.pixels(self.name, self.pixels, start, stop, self.dtype, self.shape)


class Field:
    """What of a step goes together (action, obs, reward, state, info), as leaves; the first value decides their kinds.

    `put` adds a row. It raises MisfitError, and leaves the rows of this step incomplete, where a value does not fit.
    """

    def __init__(
        self,
        name: str,
        value: Any,
        *,
        whole: bool = False,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self._on_full = name, on_full
        self.leaves: list[Leaf] = []
        self.put: Callable[[Any], None]
        self.put, self.layout = (self._object(name)) if whole else self._fit(name, value, 0)
        self.row_bytes = sum(
            max(64, int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize)
            if leaf.kind == "array"
            else 64
            for leaf in self.leaves
        )
        """Memory of a row, about; of changes, which say themselves when they are too large, the least."""

    def _fit(self, path: str, value: Any, depth: int) -> tuple[Callable[[Any], None], Any]:
        cls = type(value)
        if cls in IMMUTABLE:
            return self._scalar(path)
        if cls is np.ndarray and value.dtype.kind in "biufcmM" and value.size:
            # Only of observations: rows of others may be taken back.
            large = self.name == "obs" and value.nbytes > PLANES_ROW_BYTES
            return self._pixels(path, value) if large else self._array(path, value)
        if cls is dict and depth < 8 and all(type(key) is str for key in value):
            return self._dict(path, value, depth)
        if cls is tuple and depth < 8:
            return self._tuple(path, value, depth)
        return self._object(path)

    def _leaf(
        self, path: str, kind: str, dtype: Any = None, shape: tuple[int, ...] = ()
    ) -> tuple[Leaf, Any]:
        leaf = Leaf(path, kind, dtype, shape)
        self.leaves.append(leaf)
        return leaf, ["leaf", len(self.leaves) - 1]

    def _scalar(self, path: str) -> tuple[Callable[[Any], None], Any]:
        leaf, layout = self._leaf(path, "scalar")
        append, immutable = leaf.rows.append, IMMUTABLE

        def put(value: Any) -> None:
            if type(value) not in immutable:
                raise MisfitError
            append(value)

        return put, layout

    def _array(self, path: str, like: np.ndarray[Any, Any]) -> tuple[Callable[[Any], None], Any]:
        dtype, shape, ndarray = like.dtype, like.shape, np.ndarray
        leaf, layout = self._leaf(path, "array", dtype, shape)
        append = leaf.rows.append

        def put(value: Any) -> None:
            if (
                type(value) is not ndarray
                or value.shape != shape
                or (value.dtype is not dtype and value.dtype != dtype)
            ):
                raise MisfitError
            append(value.tobytes())

        return put, layout

    def _pixels(self, path: str, like: np.ndarray[Any, Any]) -> tuple[Callable[[Any], None], Any]:
        dtype, shape, ndarray, on_full = like.dtype, like.shape, np.ndarray, self._on_full
        leaf = PixelLeaf(path, dtype, shape)
        pixels = leaf.pixels
        self.leaves.append(leaf)

        def put(value: Any) -> None:
            if (
                type(value) is not ndarray
                or value.shape != shape
                or (value.dtype is not dtype and value.dtype != dtype)
            ):
                raise MisfitError
            pixels.add(value)
            if pixels.n_bytes > CHANGES_BYTES:
                on_full()

        return put, ["leaf", len(self.leaves) - 1]

    def _object(self, path: str) -> tuple[Callable[[Any], None], Any]:
        leaf, layout = self._leaf(path, "value")
        append, encode, opaque, on_full = (
            leaf.rows.append,
            codec.encode,
            self.name == "info",
            self._on_full,
        )
        n_bytes = 0

        def put(value: Any) -> None:
            nonlocal n_bytes
            data = encode(value, where=path, opaque=opaque)
            append(data)
            n_bytes += len(data)
            if n_bytes > BLOCK_BYTES:  # the first value says little of how large others are
                on_full()

        return put, layout

    def _dict(
        self, path: str, like: dict[str, Any], depth: int
    ) -> tuple[Callable[[Any], None], Any]:
        keys = tuple(like)
        fitted = [self._fit(f"{path}/{key}", item, depth + 1) for key, item in like.items()]
        puts = [put for put, _ in fitted]

        def put(value: Any) -> None:
            if type(value) is not dict or tuple(value) != keys:
                raise MisfitError
            for put_item, item in zip(puts, value.values(), strict=True):
                put_item(item)

        return put, ["dict", list(keys), [layout for _, layout in fitted]]

    def _tuple(
        self, path: str, like: tuple[Any, ...], depth: int
    ) -> tuple[Callable[[Any], None], Any]:
        fitted = [self._fit(f"{path}/{index}", item, depth + 1) for index, item in enumerate(like)]
        puts, n = [put for put, _ in fitted], len(like)

        def put(value: Any) -> None:
            if type(value) is not tuple or len(value) != n:
                raise MisfitError
            for put_item, item in zip(puts, value, strict=True):
                put_item(item)

        return put, ["tuple", [layout for _, layout in fitted]]


class Mark(NamedTuple):
    """Where in a block steps of an episode begin: `row` counts steps, and with `has_reset` an observation came first."""

    row: int
    episode: int
    first_step: int
    has_reset: bool


class Block:
    """The rows of some consecutive steps. Filled in the recording thread, drained in the flusher's."""

    def __init__(self, keep_state: str, limit: int = BLOCK_ROWS) -> None:
        self.n = 0
        self.limit = limit
        self.fields: dict[str, Field] = {}
        self.marks: list[Mark] = []
        self.events: list[tuple[int, Event]] = []
        self.info_rows: list[int] = []
        self.irregular: list[tuple[int, int, int, bytes]] = []
        self._keep_state = keep_state
        self.digests: list[int] = []
        self.state_rows: list[int] = []
        self._done = self._obs_done = self._marks_done = self._events_done = (
            self._irregular_done
        ) = self._info_done = 0
        self._whole_done = 0

    def add_field(self, name: str, value: Any, *, whole: bool = False) -> Callable[[Any], None]:
        """Add a field fitted to its first value, which is not put yet; return its `put`."""
        field = self.fields[name] = Field(name, value, whole=whole, on_full=self.fill)
        total = sum(f.row_bytes for f in self.fields.values())
        self.limit = max(1, min(self.limit, BLOCK_BYTES // max(1, total)))
        return field.put

    def fill(self) -> None:
        """Let the step that is being added be the block's last."""
        self.limit = 0

    def add_state(self, state: Any, *, whole: bool = False) -> None:
        """Keep the state of the observation row added last, where states are digested."""
        if "state" not in self.fields:
            self.add_field("state", state, whole=whole)
        self.fields["state"].put(state)
        self.state_rows.append(len(self.digests) - 1)

    def drain(self, packer: Packer, time_ns: int) -> Drained | None:
        """Return the complete rows and events not drained yet as a chunk, or None where there are none."""
        n = self.n
        segments = self._segments(n)
        events = self._take_events(n)
        irregular = self._take_irregular(n)
        if not segments and not events and not irregular:
            return None
        n_obs = sum(s.n_steps + s.has_reset for s in segments)
        chunk = _Columns()
        # A copy: the recording thread may add a field meanwhile.
        for name, field in list(self.fields.items()):
            if name == "info":
                self._pack_infos(field, packer, n, chunk)
            elif name == "state" and self._keep_state == "digest":
                continue
            else:
                first, last = (
                    (self._obs_done, self._obs_done + n_obs)
                    if name in ("obs", "state")
                    else (self._done, n)
                )
                if last > first:
                    chunk.add_field(field, packer, first, last, None)
        if self._keep_state == "digest" and n_obs:
            self._pack_states(n_obs, packer, chunk)
        self._done, self._obs_done = n, self._obs_done + n_obs
        return Drained(
            Chunk(
                time_ns=time_ns,
                segments=segments,
                columns=chunk.columns,
                layouts=chunk.layouts,
                events=events,
                irregular=irregular,
            ),
            chunk.data,
        )

    def _pack_infos(self, field: Field, packer: Packer, n: int, chunk: _Columns) -> None:
        first, last = self._info_done, bisect_left(self.info_rows, n)
        if last > first:
            place = self.info_rows[first:last]
            everywhere = last - first == n - self._done
            chunk.add_field(
                field,
                packer,
                first,
                last,
                None if everywhere else [row - self._done for row in place],
            )
        self._info_done = last

    def _segments(self, n: int) -> list[Segment]:
        """Cut the steps [done, n) by the marks, and move past them."""
        marks = [mark for mark in self.marks if mark.row <= n]
        segments = []
        for index, mark in enumerate(marks):
            start = max(mark.row, self._done)
            end = marks[index + 1].row if index + 1 < len(marks) else n
            has_reset = mark.has_reset and index >= self._marks_done
            if end > start or has_reset:
                segments.append(
                    Segment(
                        mark.episode,
                        mark.first_step + start - mark.row,
                        max(0, end - start),
                        has_reset,
                    )
                )
        self._marks_done = len(marks)
        return segments

    def _take_events(self, n: int) -> list[Event]:
        taken = []
        for row, event in self.events[self._events_done :]:
            if row > n:
                break
            taken.append(event)
        self._events_done += len(taken)
        return taken

    def _take_irregular(self, n: int) -> list[tuple[int, int, bytes]]:
        taken = []
        for row, episode, step, value in self.irregular[self._irregular_done :]:
            if row >= n:
                break
            taken.append((episode, step, value))
        self._irregular_done += len(taken)
        return taken

    def _pack_states(self, n_obs: int, packer: Packer, chunk: _Columns) -> None:
        """Keep every state's digest, and the states that were kept whole."""
        first = self._obs_done
        column, raw = packer.unit_rows(
            "state_digest", pack_digests(self.digests[first : first + n_obs])
        )
        chunk.add(column, raw)
        start, stop = self._whole_done, bisect_left(self.state_rows, first + n_obs)
        if stop > start and "state" in self.fields:
            chunk.add_field(
                self.fields["state"],
                packer,
                start,
                stop,
                [row - first for row in self.state_rows[start:stop]],
            )
        self._whole_done = stop


class _Columns:
    """The columns of a chunk in the making."""

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self.data: list[bytes] = []
        self.layouts: dict[str, Any] = {}

    def add(self, column: Column, raw: bytes) -> None:
        self.columns.append(column)
        self.data.append(raw)

    def add_field(
        self, field: Field, packer: Packer, start: int, stop: int, place: list[int] | None
    ) -> None:
        """Add rows [start, stop) of a field; `place` says which rows of the chunk they are, where not all have one."""
        self.layouts[field.name] = _shift(field.layout, len(self.columns))
        for leaf in field.leaves:
            column, raw = leaf.pack(packer, start, stop)
            if place is not None:
                column = msgspec.structs.replace(column, rows_data=_encode_rows(place))
            self.add(column, raw)


def _encode_rows(rows: list[int]) -> bytes:
    return codec.encode(np.diff(np.array(rows, np.uint32), prepend=np.uint32(0)))


def _shift(layout: Any, by: int) -> Any:
    """Return a layout whose leaves count from `by`."""
    if layout[0] == "leaf":
        return ["leaf", layout[1] + by]
    if layout[0] == "dict":
        return ["dict", layout[1], [_shift(item, by) for item in layout[2]]]
    return ["tuple", [_shift(item, by) for item in layout[1]]]
