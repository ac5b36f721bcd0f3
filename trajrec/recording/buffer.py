"""The buffer of a recorder: rows of steps, block after block, for the log's writer to drain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from zlib import crc32

import numpy as np

from trajrec.log.columns import Packer
from trajrec.log.schema import Event
from trajrec.log.writer import Drained
from trajrec.recording.blocks import Block, Mark
from trajrec.recording.options import DIGESTED, StoredStates
from trajrec.recording.step_fields import MisfitError, Put, is_fitting
from trajrec.types import Info, Value
from trajrec.values import codec
from trajrec.values.digest import state_check, state_key

# A few infos of another kind than the first are exceptions. If there are more, and they are a
# quarter of all, keys come and go: then each info is encoded at once, without an attempt that
# mostly fails.
_FEW_INFOS = 8
_MISFIT_SHARE = 4


class StepBuffer:
    """Takes the values of steps, hands over full blocks, and is drained by the log's writer.

    Each block has `put_*` functions of its own, since the first value of a field decides how the
    block keeps it. If a value does not fit (MisfitError), `refit` begins a new block in which that
    field is kept as encoded values.

    Attributes:
        block: The block that is being filled. The recorder raises its `n` when a step is complete.
        hand_over: Called when a block is full, with the number of blocks that wait.
        put_action: Adds an action.
        put_obs: Adds an observation.
        put_reward: Adds a reward.
        put_state: Adds a state, or its digest.
    """

    put_action: Put
    put_obs: Put
    put_reward: Put
    put_state: Put

    def __init__(self, stored_states: StoredStates, clock_ns: Callable[[], int]) -> None:
        self.block = Block(stored_states)
        self.hand_over: Callable[[int], None] = lambda waiting: None
        self._stored_states = stored_states
        self._clock_ns = clock_ns
        self._waiting: list[Block] = []
        # Fields that are kept as encoded values from the next block on.
        self._whole: set[str] = set()
        self._n_infos = 0
        self._n_misfit_infos = 0
        # The episode whose steps the next block continues; None after its end.
        self._episode: int | None = None
        self._last_episode = -1
        # The step of the episode in row `_first_row` of the block.
        self._first_step = 0
        self._first_row = 0
        self._put_info: Put | None = None
        self._fit()

    @property
    def n_steps(self) -> int:
        """Steps of the current or last episode so far, failed ones included."""
        return self._first_step + self.block.n - self._first_row

    def begin_episode(self, episode: int, first_step: int = 0) -> None:
        """Begin an episode whose first observation and state were put last."""
        self._episode = episode
        self._last_episode = episode
        self._first_step = first_step
        self._first_row = self.block.n
        self.block.marks.append(Mark(self.block.n, episode, first_step, True))

    def end_episode(self) -> None:
        """End the episode: no step comes before the next reset."""
        self._episode = None

    def add_event(self, event: Event) -> None:
        """Add an event after the steps so far."""
        self.block.events.append((self.block.n, event))

    def put_info(self, info: Info) -> None:
        """Add an info: in columns if it is of the first one's kind, else encoded."""
        block = self.block
        put = self._put_info
        self._n_infos += 1
        try:
            if put is None:
                put = self._put_info = block.add_field("info", info, whole="info" in self._whole)
            put(info)
            block.info_rows.append(block.n)
        except MisfitError:
            # Take back the leaves that the info has filled already.
            for leaf in block.fields["info"].leaves:
                del leaf.rows[len(block.info_rows) :]
            data = codec.encode(info, opaque=True)
            block.irregular.append((block.n, self._last_episode, self.n_steps, data))
            self._n_misfit_infos += 1
            if (
                self._n_misfit_infos > _FEW_INFOS
                and _MISFIT_SHARE * self._n_misfit_infos > self._n_infos
            ):
                self._whole.add("info")

    def keep_state(self, state: Value) -> None:
        """Keep the state that was put last whole, besides its digest."""
        block = self.block
        is_kept = bool(block.state_rows) and block.state_rows[-1] == len(block.digests) - 1
        if not is_kept:
            try:
                block.add_state(state, whole="state" in self._whole)
            except MisfitError:
                # This state is not kept whole. Its digest is stored in any case.
                for leaf in block.fields["state"].leaves:
                    del leaf.rows[len(block.state_rows) :]
                self._whole.add("state")

    def skip_step(self) -> None:
        """Count a step that has no row, because it failed.

        A new block begins, since the present one may hold half of its row.
        """
        self.next_block(first_step=self.n_steps + 1)

    def refit(self, values: list[tuple[str, Value]]) -> None:
        """Begin a block that these values of the current step fit.

        Fields whose value did not fit are kept as encoded values from now on.
        """
        for name, value in values:
            field = self.block.fields.get(name)
            if field is not None and not is_fitting(field.put, value):
                self._whole.add(name)
        self.next_block()
        for name, value in values:
            getattr(self, f"put_{name}")(value)

    def next_block(self, *, first_step: int | None = None) -> None:
        """Hand the block over to the writer and begin the next one."""
        old = self.block
        step = self.n_steps if first_step is None else first_step
        block = Block(self._stored_states)
        if self._episode is not None:
            block.marks.append(Mark(0, self._episode, step, False))
        # Before `block` is replaced: the flusher must not see the new block before the old one.
        self._waiting.append(old)
        self.block = block
        self._first_step = step
        self._first_row = 0
        self._fit()
        self.hand_over(len(self._waiting))

    def drain(self, packer: Packer) -> Iterator[Drained]:
        """Yield the pending rows and events, oldest first."""
        time_ns = self._clock_ns()
        while self._waiting:
            if (drained := self._waiting[0].drain(packer, time_ns)) is not None:
                yield drained
            else:
                # Only a block that is drained whole: the caller may stop at any chunk.
                self._waiting.pop(0)
        if (drained := self.block.drain(packer, time_ns)) is not None:
            yield drained

    def discard(self) -> None:
        """Drop the pending blocks, because the log cannot be written any more.

        The present block ends with its next step, which then raises the log's error.
        """
        self._waiting.clear()
        self.block.fill()

    def _fit(self) -> None:
        """Have the first value of each field in the new block decide how the field is kept."""
        self._put_info = None
        self.put_action = self._fitting("action")
        self.put_obs = self._fitting("obs")
        self.put_reward = self._fitting("reward")
        is_digested = self._stored_states in DIGESTED
        self.put_state = self._put_first_digest if is_digested else self._fitting("state")

    def _fitting(self, name: str) -> Put:
        """Return a `put` for the first value of a field, which replaces itself."""
        block = self.block

        def put_first(value: Value) -> None:
            put = block.add_field(name, value, whole=name in self._whole)
            setattr(self, f"put_{name}", put)
            put(value)

        return put_first

    def _put_first_digest(self, value: Value) -> None:
        append = self.block.digests.append
        has_keys = self._stored_states == "key"
        digest = state_key if has_keys else state_check

        def put_digest(value: Value) -> None:
            append(digest(value))

        ndarray = np.ndarray
        dtype = getattr(value, "dtype", None)

        def put_array_digest(value: Value) -> None:
            # Most states are contiguous arrays of one dtype. For these, `state_check` comes down
            # to the CRC-32, whose low bits packing keeps.
            try:
                is_like_first = type(value) is ndarray and value.dtype is dtype
                append(crc32(value) if is_like_first else state_check(value))
            except (TypeError, ValueError):
                append(state_check(value))

        is_array = type(value) is ndarray and value.dtype.kind in "iuf"
        self.put_state = put_array_digest if is_array and not has_keys else put_digest
        put_digest(value)
        self.keep_state(value)
