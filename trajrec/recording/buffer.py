"""The buffer of a recorder: the items of its steps, block after block, for journal and log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal
from zlib import crc32

import msgspec
import numpy as np

from trajrec.log.columns import Packer
from trajrec.log.events import Redaction
from trajrec.log.items import (
    IRREGULAR,
    Entry,
    Item,
    Position,
    Reset,
    Row,
    RowLayout,
    encode_row,
    make_reset,
)
from trajrec.log.journal import EVENT, ROW
from trajrec.log.packing import Drained
from trajrec.log.record_encoder import encode_record
from trajrec.log.schema import Event
from trajrec.log.writer import LogWriter
from trajrec.recording.blocks import BLOCK_ROWS, Block
from trajrec.recording.fast_steps import AddStep, make_add_step
from trajrec.recording.item_journal import ItemJournal
from trajrec.recording.options import DIGESTED, StoredStates
from trajrec.recording.step_fields import Field, MisfitError, Take
from trajrec.recording.step_redaction import StepRedaction
from trajrec.redaction.redactor import Redactor
from trajrec.types import Action, Info, Observation, Value
from trajrec.values import codec
from trajrec.values.digest import CHECK_BYTES, KEY_BYTES, state_check, state_key

# A few infos of another kind than the first are exceptions. If there are more, and they are a
# quarter of all, keys come and go: then each info is encoded at once, without an attempt that
# mostly fails.
_FEW_INFOS = 8
_MISFIT_SHARE = 4

_DIGEST_BYTES: dict[StoredStates, Literal[3, 8]] = {"digest": CHECK_BYTES, "key": KEY_BYTES}

NO_EPISODE = -1
RESETTING = -2
UNFINISHED = -3
NOT_RECORDED = -4
"""Values of `StepBuffer.begun` outside of a step: no episode is open, a reset has begun and not
ended, so has another call, and nothing is recorded any more."""


class StepBuffer:
    """Takes the values of steps, appends them as items, and is drained by the log's writer.

    A step is one item. If an exception interrupts it earlier, it leaves no trace here but `begun`,
    by which the next call of the recorder notices. The first value of a field decides how the field
    is kept. If a later one does not fit (MisfitError), `refit` begins a new block in which that
    field is kept as encoded values.

    Args:
        stored_states: Which states the log has.
        capture: Returns the state, None if none is recorded.
        clock_ns: Returns the wall-clock time in ns.
        redactor: Takes the secrets out of values.

    Attributes:
        block: The block that is being filled.
        rows: Its items.
        limit: The block ends with the item that has this number.
        number: Between two calls, the number of the next item.
        add_step: Adds a step: (part of the action, observation, reward, number).
        begun: None between two steps of an episode, inside of a step the number of its item, else
            one of the constants above.
        action: The action of the step that has begun last.
        has_pixels: Whether rows are changes of the rows before.
        take_action: Returns an action's part of a row.
        take_obs: Returns an observation's part of a row.
        take_reward: Returns a reward's part of a row.
        take_state: Reads the state, and returns its part of a row.
    """

    take_action: Take
    take_obs: Take
    take_reward: Take
    take_state: Callable[[], Any]

    def __init__(
        self,
        stored_states: StoredStates,
        capture: Callable[[], Value] | None,
        clock_ns: Callable[[], int],
        redactor: Redactor,
    ) -> None:
        self.begun: int | None = NO_EPISODE
        self.action: Action = None
        # One object for the items, their numbers and their limit, so that one assignment switches
        # to the next block.
        self.block = Block(0, Position(), RowLayout({}, _DIGEST_BYTES.get(stored_states, 0)))
        self.rows: list[Item] = self.block.rows
        self.number = 0
        self.limit = self.block.first_number + BLOCK_ROWS - 1
        self.has_pixels = False
        self.add_step: AddStep = self.add_values
        self._stored_states = stored_states
        self._capture = capture
        self._clock_ns = clock_ns
        self._redaction = StepRedaction(redactor)
        self._writer: LogWriter
        self._journal: ItemJournal
        self._waiting: list[Block] = []
        self._fields: dict[str, Field] = {}
        self._n_infos = 0
        self._n_misfit_infos = 0
        # Of infos and of states that are kept whole now and then: those that are encoded whole.
        self._whole: set[str] = set()
        self.take_action = self._first_take("action")
        self.take_obs = self._first_take("obs")
        self.take_reward = self._first_take("reward")
        self.take_state = self._state_taker()

    def attach(self, writer: LogWriter) -> None:
        """Let a writer write the items from now on."""
        self._writer = writer
        self._journal = ItemJournal(self, writer)

    @property
    def position(self) -> Position:
        """The position after the last item."""
        return self.block.position()

    @property
    def next_number(self) -> int:
        """The number of the next item."""
        return self.block.next_number

    def add_values(self, action_part: Any, obs: Observation, reward: Value, number: int) -> None:
        """Add a step that goes on, of values that fit their fields.

        Raises:
            MisfitError: A value does not fit its field. Nothing was added.
            LogWriteError: As for `add_encoded`.
        """
        row = (action_part, self.take_obs(obs), self.take_reward(reward), self.take_state())
        self.add_encoded(encode_row(row), number)

    def add_encoded(self, row: bytes, number: int) -> None:
        """Add the encoded row of a step that goes on; `number` is the number of its item.

        Raises:
            LogWriteError: There was no room in the journal, the log cannot be written, and
                `on_full` is "raise".
        """
        self.rows.append(row)
        self._journal.write_items(number)
        self.end_call()
        if self._redaction.counts:
            self.add_redactions()

    def add_last_row(self, row: Row) -> None:
        """Add a step that ends its episode; the end must be added next."""
        number = self.number
        content = encode_row(row)
        self.rows.append(content)
        self.begun = UNFINISHED
        if not self._journal.put(number, ROW, content):
            self._journal.write_items(number)
        if self._redaction.counts:
            self.add_redactions()

    def add_redactions(self, *, is_before: bool = False) -> None:
        """Add the secrets that were replaced in the last step, or in the next one, as events."""
        begun = self.begun
        if begun is None:
            self.begun = UNFINISHED
        episode, step, _ = self.position
        for name, n in self._redaction.take_counts().items():
            self.add_event(Redaction(episode, step if is_before else step - 1, name, n))
        if begun is None:
            self.end_call()

    def _clean_action(self, name: str, action: Action) -> Action:
        """Return an action without secrets. Its step is not begun yet."""
        action = self._redaction.clean(name, action)
        if self._redaction.counts:
            self.add_redactions(is_before=True)
        return action

    def drop_redactions(self) -> None:
        """Forget the secrets of a step whose values are not recorded."""
        self._redaction.take_counts()

    def add_event(self, event: Event) -> None:
        """Add an event after the steps so far. `begun` must not be None."""
        raw = encode_record(event)
        self._add_other(Entry(event, raw), EVENT, raw)

    def _add_other(self, item: Entry | Reset, kind: int, content: bytes) -> None:
        """Add an item that is no row of a step."""
        block = self.block
        number = block.first_number + len(block.rows)
        block.items.append_other(item)
        if not self._journal.put(number, kind, content):
            self._journal.write_items(number)

    def add_reset(self, obs: Value, episode: int, first_step: int) -> None:
        """Add the first observation of an episode, or of a fork's steps, and the state."""
        try:
            obs_part = self.take_obs(obs)
            state_part = self.take_state()
        except MisfitError:
            values = {"obs": obs}
            if self._stored_states == "every" and self._capture is not None:
                values["state"] = self._capture()
            self.refit(**values)
            obs_part = self.take_obs(obs)
            state_part = self.take_state()
        row = (None, obs_part, None, state_part, None, self._whole_state())
        reset = make_reset(row, episode, first_step)
        self._add_other(reset, ROW, reset.row)
        if self._redaction.counts:
            self.add_redactions()

    def take_extras(self, info: Info, *, with_state: bool) -> tuple[Any, ...]:
        """Return the fields that most rows do not have: the info and the whole state, or none."""
        info_part = self._take_info(info) if info else None
        state_part = self._whole_state() if with_state else None
        if info_part is None and state_part is None:
            return ()
        return (info_part, state_part)

    def refit(self, **values: Value) -> None:
        """Begin a block that these values of the current step fit.

        Fields whose value does not fit are kept as encoded values from now on.
        """
        for name, value in values.items():
            field = self._fields.get(name)
            if field is not None and not _is_fitting(field, value):
                self._whole.add(name)
                del self._fields[name]
                self.add_step = self.add_values
                if name == "state":
                    self.take_state = self._state_taker()
                else:
                    setattr(self, f"take_{name}", self._first_take(name))
        self.next_block()

    def refit_step(self, obs: Value, reward: Value) -> None:
        """Begin a block that the values of a step fit, which it is the first of."""
        values = {"obs": obs, "reward": reward}
        if self._stored_states == "every" and self._capture is not None:
            values["state"] = self._capture()
        self.refit(**values)

    def next_block(self) -> None:
        """Hand the block over to the writer and begin the next one.

        Raises:
            LogWriteError: The log cannot be written, and `on_full` is "raise".
        """
        self.begin_block()
        self._journal.end_block()
        self._writer.hand_over(len(self._waiting))
        self.check_writer()

    def begin_block(self) -> None:
        """Begin the next block."""
        begun = self.begun
        if begun is None:
            # If the switch is interrupted, the next call does it again.
            self.begun = UNFINISHED
        old = self.block
        # Infos, and states that are kept whole now and then, are fitted to their first value in each
        # block.
        fitted_anew = {"info", "state"} if old.layout.digest_bytes else {"info"}
        self._fields = {
            name: field for name, field in self._fields.items() if name not in fitted_anew
        }
        layouts = {name: field.layout for name, field in self._fields.items()}
        block = Block(old.next_number, old.position(), RowLayout(layouts, old.layout.digest_bytes))
        self._journal.layout_changed()
        # Before `block` is replaced: the flusher must not see the new block before the old one.
        self._waiting.append(old)
        self.block = block
        self.rows = block.rows
        self.limit = block.first_number + BLOCK_ROWS - 1
        for field in self._fields.values():
            field.begin_block()
        if begun is None:
            self.end_call()

    def resume(self) -> None:
        """Bring journal and block into order after a call that an exception has broken off.

        Raises:
            LogWriteError: The log cannot be written, and `on_full` is "raise".
        """
        # The exception may have come before or after the journal got an item, or between the
        # change of a row's pixels and the row.
        self._journal.write_through()

    def end_call(self, begun: int | None = None) -> None:
        """Note that a call is done: its episode goes on, or (`NO_EPISODE`) none is open."""
        self.number = self.next_number
        if self.begun != NOT_RECORDED:
            self.begun = begun

    def check_writer(self) -> bool:
        """Return whether the log can be written. If not, nothing more is recorded."""
        if self._writer.is_closed or self._writer.error is not None:
            self._waiting.clear()
            self.begun = NOT_RECORDED
            return False
        return True

    def drain(self, packer: Packer, last_written: int, *, only_full: bool) -> Iterator[Drained]:
        """Yield the items after `last_written` as chunks, perhaps only those of full blocks."""
        time_ns = self._clock_ns()
        # Read first: the recording thread may hand this block over and begin another meanwhile.
        block = self.block
        while self._waiting:
            drained = self._waiting[0].drain(packer, last_written, time_ns)
            if drained is None:
                # Only a block that is written whole: the caller may stop at any chunk.
                self._waiting.pop(0)
            else:
                yield drained
                last_written = drained.last_item
        drained = None if only_full else block.drain(packer, last_written, time_ns)
        if drained is not None:
            yield drained

    def discard(self) -> None:
        """Drop the pending blocks, because the log cannot be written any more.

        The present block ends with its next step, which then notices the log's error.
        """
        self._waiting.clear()
        self.limit = 0

    def _first_take(self, name: str) -> Take:
        """Return a `take` for the first value of a field, which replaces itself."""

        def take_first(value: Value) -> Any:
            take = self._add_field(name, value).take
            setattr(self, f"take_{name}", take)
            return take(value)

        return take_first

    def _add_field(self, name: str, value: Value) -> Field:
        """Add a field fitted to its first value, which is not taken yet."""
        redaction = self._redaction
        text = redaction.rule(name, value, self._clean_action if name == "action" else None)
        if text.clean is not None:
            value = redaction.example(name, value)
        field = self._fields[name] = Field(name, value, whole=name in self._whole, text=text)
        self.has_pixels = self.has_pixels or field.has_pixels
        layout = self.block.layout
        fields = {**layout.fields, name: field.layout}
        self._journal.layout_changed()
        self.block.layout = RowLayout(fields, layout.digest_bytes)
        # The fast way knows nothing of secrets.
        has_secrets = any(field.take is not field.fit for field in self._fields.values())
        self.add_step = (
            self.add_values
            if has_secrets
            else make_add_step(self, self._journal, fields.get("obs"), fields.get("reward"))
        )
        return field

    def _state_taker(self) -> Callable[[], Any]:
        capture = self._capture
        if capture is None:
            return lambda: None
        if self._stored_states in DIGESTED:
            return self._digest_taker(capture)
        field = self._fields.get("state")
        if field is not None:
            take = field.take
            return lambda: take(capture())

        def take_first() -> Any:
            value = capture()
            self._add_field("state", value)
            self.take_state = self._state_taker()
            return self._fields["state"].take(value)

        return take_first

    def _digest_taker(self, capture: Callable[[], Value]) -> Callable[[], int]:
        """Return a function that digests the state."""
        has_keys = self._stored_states == "key"
        digest = state_key if has_keys else state_check

        def take_digest() -> int:
            return digest(capture())

        def take_first() -> int:
            value = capture()
            is_array = type(value) is np.ndarray and value.dtype.kind in "iuf"
            is_fast = is_array and not has_keys
            self.take_state = _array_check_taker(capture, value) if is_fast else take_digest
            return digest(value)

        return take_first

    def _whole_state(self) -> Any:
        """Return the whole state's part of a row if states are digested, else None."""
        if self._stored_states not in DIGESTED or self._capture is None:
            return None
        state = self._capture()
        field = self._fields.get("state") or self._add_field("state", state)
        try:
            return field.take(state)
        except MisfitError:
            # This state is not kept whole. Its digest is stored in any case.
            self._whole.add("state")
            return None

    def _take_info(self, info: Info) -> Any:
        """Return an info's part of a row: in columns if it is of the first one's kind."""
        self._n_infos += 1
        field = self._fields.get("info")
        if field is None:
            field = self._add_field("info", info)
        try:
            return field.take(info)
        except MisfitError:
            self._n_misfit_infos += 1
            if (
                self._n_misfit_infos > _FEW_INFOS
                and _MISFIT_SHARE * self._n_misfit_infos > self._n_infos
            ):
                self._whole.add("info")
            info = self._redaction.clean("info", info)
            return msgspec.msgpack.Ext(IRREGULAR, codec.encode(info, opaque=True))


def _array_check_taker(capture: Callable[[], Value], first: Value) -> Callable[[], int]:
    """Return a function that checks states which are contiguous arrays of one dtype."""
    ndarray = np.ndarray
    dtype = first.dtype

    def take_check() -> int:
        value = capture()
        # For such states `state_check` comes down to the CRC-32, whose low bits packing keeps.
        try:
            is_like_first = type(value) is ndarray and value.dtype is dtype
            return crc32(value) if is_like_first else state_check(value)
        except (TypeError, ValueError):
            return state_check(value)

    return take_check


def _is_fitting(field: Field, value: Value) -> bool:
    """Return whether a field takes a value. It is tried in a block that ends here."""
    try:
        field.fit(value)
    except MisfitError:
        return False
    return True
