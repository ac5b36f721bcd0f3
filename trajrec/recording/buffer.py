"""Where the rows of steps go, block after block: the recording side of `trajrec.recording.blocks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import numpy as np

from trajrec.log.columns import Packer
from trajrec.log.schema import Event
from trajrec.log.writer import Drained
from trajrec.recording.blocks import Block, Mark, MisfitError
from trajrec.values import codec
from trajrec.values.digest import state_digest

Put = Callable[[Any], None]


class StepBuffer:
    """Takes steps row by row, hands over full blocks, and is drained by the log's writer.

    The `put_*` functions are replaced with every block: the first value of a field decides how its rows are kept, and a value
    that does not fit (MisfitError) begins a new block by `refit`, in which that field is kept as whole values.

    Attributes:
        block: The block that is being filled; the recorder raises its `n` when a step is complete.
        hand_over: Called when a block is full, with how many wait.
    """

    put_action: Put
    put_obs: Put
    put_reward: Put
    put_state: Put

    def __init__(self, keep_state: str, clock_ns: Callable[[], int]) -> None:
        self.block = Block(keep_state)
        self.hand_over: Callable[[int], None] = lambda waiting: None
        self._keep_state, self._clock_ns = keep_state, clock_ns
        self._waiting: list[Block] = []
        self._whole: set[str] = set()
        self._n_infos = self._n_misfit_infos = 0
        self._episode: int | None = None
        self._last_episode = -1
        self._first_step = self._first_row = 0
        self._put_info: Put | None = None
        self._fit()

    @property
    def n_steps(self) -> int:
        """Steps of the current or last episode so far, those that raised included."""
        return self._first_step + self.block.n - self._first_row

    def begin_episode(self, episode: int, first_step: int = 0) -> None:
        """Let the observation and state that were put last be those of a reset, or of where a fork begins."""
        self._episode = self._last_episode = episode
        self._first_step, self._first_row = first_step, self.block.n
        self.block.marks.append(Mark(self.block.n, episode, first_step, True))

    def end_episode(self) -> None:
        """Let no further steps come before the next reset."""
        self._episode = None

    def add_event(self, event: Event) -> None:
        """Add an event after the steps so far."""
        self.block.events.append((self.block.n, event))

    def put_info(self, info: dict[str, Any]) -> None:
        """Add an info: by columns where it has the usual keys, as a value of its own where it does not."""
        block, put = self.block, self._put_info
        self._n_infos += 1
        try:
            if put is None:
                put = self._put_info = block.add_field("info", info, whole="info" in self._whole)
            put(info)
            block.info_rows.append(block.n)
        except MisfitError:
            for leaf in block.fields["info"].leaves:
                del leaf.rows[len(block.info_rows) :]
            block.irregular.append(
                (block.n, self._last_episode, self.n_steps, codec.encode(info, opaque=True))
            )
            self._n_misfit_infos += 1
            if self._n_misfit_infos > 8 and 4 * self._n_misfit_infos > self._n_infos:
                self._whole.add("info")  # from the next block on: its keys come and go

    def keep_state(self, state: Any) -> None:
        """Keep the state that was put last as it is, besides its digest."""
        block = self.block
        if not block.state_rows or block.state_rows[-1] != len(block.digests) - 1:
            try:
                block.add_state(state, whole="state" in self._whole)
            except MisfitError:
                for leaf in block.fields["state"].leaves:
                    del leaf.rows[len(block.state_rows) :]
                self._whole.add("state")  # from the next block on; its digest is there in any case

    def skip_step(self) -> None:
        """Give a step its number and no row: it raised. A new block begins, without the half row that this one may have."""
        step = self.n_steps + 1
        self.next_block(first_step=step)

    def refit(self, values: list[tuple[str, Any]]) -> None:
        """Begin a block in which the fields that did not fit are whole values, with these rows of the current step."""
        for name, value in values:
            field = self.block.fields.get(name)
            if field is not None and not _fits(field.put, value):
                self._whole.add(name)
        self.next_block()
        for name, value in values:
            getattr(self, f"put_{name}")(value)

    def next_block(self, *, first_step: int | None = None) -> None:
        """Hand the block over to the writer and begin the next."""
        old, step = self.block, self.n_steps if first_step is None else first_step
        block = Block(self._keep_state)
        if self._episode is not None:
            block.marks.append(Mark(0, self._episode, step, False))
        # First waiting, then replaced: the flusher never sees the new block before the old one.
        self._waiting.append(old)
        self.block = block
        self._first_step, self._first_row = step, 0
        self._fit()
        self.hand_over(len(self._waiting))

    def drain(self, packer: Packer) -> Iterator[Drained]:
        """Yield what is pending, oldest first."""
        now = self._clock_ns()
        while self._waiting:
            if (drained := self._waiting[0].drain(packer, now)) is not None:
                yield drained
            else:
                self._waiting.pop(0)
        if (drained := self.block.drain(packer, now)) is not None:
            yield drained

    def discard(self) -> None:
        """Drop what waits, and let the next step find out: the log cannot be written any more."""
        self._waiting.clear()
        self.block.fill()

    def _fit(self) -> None:
        """Let each field be fitted by the next value that it gets."""
        self._put_info = None
        for name in ("action", "obs", "reward", "state"):
            first = (
                self._first_digest
                if name == "state" and self._keep_state == "digest"
                else self._first(name)
            )
            setattr(self, f"put_{name}", first)

    def _first(self, name: str) -> Put:
        block = self.block

        def put_first(value: Any) -> None:
            put = block.add_field(name, value, whole=name in self._whole)
            setattr(self, f"put_{name}", put)
            put(value)

        return put_first

    def _first_digest(self, value: Any) -> None:
        append = self.block.digests.append

        def put_digest(value: Any) -> None:
            append(state_digest(value))

        ndarray, dtype = np.ndarray, getattr(value, "dtype", None)

        def put_array(value: Any) -> None:
            # What most states are: state_digest without its questions; packing keeps the low bits.
            try:
                is_like = type(value) is ndarray and value.dtype is dtype
                append(crc32(value) if is_like else state_digest(value))
            except (TypeError, ValueError):
                append(state_digest(value))

        self.put_state = (
            put_array if type(value) is ndarray and value.dtype.kind in "iuf" else put_digest
        )
        put_digest(value)
        self.keep_state(value)


def _fits(put: Put, value: Any) -> bool:
    """Try a value on a block that is done: its rows beyond `n` are never read."""
    try:
        put(value)
    except MisfitError:
        return False
    return True
