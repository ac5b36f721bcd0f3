"""The buffer of a recorder: the items of its steps, block after block, for journal and log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from trajrec.log.columns import Packer
from trajrec.log.events import Redaction
from trajrec.log.items import (
    Entry,
    Item,
    Position,
    Reset,
    Row,
    RowLayout,
    encode_row,
    encoded_field,
    make_reset,
    max_rows,
)
from trajrec.log.journal import EVENT, ROW
from trajrec.log.packing import Drained
from trajrec.log.record_encoder import encode_event
from trajrec.log.schema import Event
from trajrec.log.writer import LogWriter
from trajrec.recording.blocks import BLOCK_ROWS, Block
from trajrec.recording.fast_steps import AddStep, make_add_step
from trajrec.recording.item_journal import ItemJournal, encode_item
from trajrec.recording.options import StoredStates
from trajrec.recording.step_fields import MisfitError
from trajrec.recording.step_redaction import StepRedaction
from trajrec.recording.step_takes import StepTakes
from trajrec.redaction.redactor import Redactor
from trajrec.types import Action, Observation, Value
from trajrec.values.digest import CHECK_BYTES, KEY_BYTES

_DIGEST_BYTES: dict[StoredStates, Literal[3, 8]] = {"digest": CHECK_BYTES, "key": KEY_BYTES}

NO_EPISODE = -1
RESETTING = -2
UNFINISHED = -3
NOT_RECORDED = -4
SKIPPED = -5
PENDING = -6
"""Values of `StepBuffer.begun` outside of a step: no episode is open, a reset has begun and not
ended, so has another call, nothing is recorded any more, this episode is not recorded, and its
reset is recorded with its first step."""

BETWEEN_CALLS = (NO_EPISODE, NOT_RECORDED, SKIPPED, PENDING)
"""Values of `StepBuffer.begun` outside of an episode, if each call that has begun has ended."""


class StepBuffer:
    """Takes the values of steps, appends them as items, and is drained by the log's writer.

    A step is one item. If an exception interrupts it earlier, it leaves no trace here but `begun`,
    by which the next call of the recorder notices. If a value does not fit its field (MisfitError),
    `refit` begins a new block, in which that field is kept as encoded values.

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
        action_part: The part of a row of the action of the step that has begun last.
        takes: Takes the values of a step.
    """

    def __init__(
        self,
        stored_states: StoredStates,
        capture: Callable[[], Value] | None,
        clock_ns: Callable[[], int],
        redactor: Redactor,
    ) -> None:
        self.begun: int | None = NO_EPISODE
        self.action_part: Any = None
        # One object for the items, their numbers and their limit, so that one assignment switches
        # to the next block.
        self.block = Block(0, Position(), RowLayout({}, _DIGEST_BYTES.get(stored_states, 0)))
        self.rows: list[Item] = self.block.rows
        self.number = 0
        self.limit = self._limit()
        self.add_step: AddStep = self.add_values
        self._clock_ns = clock_ns
        self._redaction = StepRedaction(redactor)
        self._writer: LogWriter
        self._journal: ItemJournal
        self._waiting: list[Block] = []
        self.takes = StepTakes(self, stored_states, capture, self._redaction)

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

    @property
    def has_pixels(self) -> bool:
        """Whether rows are changes of the rows before."""
        return self.takes.has_pixels

    def add_values(self, action_part: Any, obs: Observation, reward: Value, number: int) -> None:
        """Add a step that goes on, of values that fit their fields.

        Raises:
            MisfitError: A value does not fit its field. Nothing was added.
            LogWriteError: As for `add_encoded`.
        """
        takes = self.takes
        row = (action_part, takes.obs(obs), takes.reward(reward), takes.state())
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
        for event in self._redactions(episode, step if is_before else step - 1):
            self.add_event(event)
        if begun is None:
            self.end_call()

    def _redactions(self, episode: int, step: int) -> list[Redaction]:
        """Return the events of the secrets that were replaced since the last call."""
        counts = self._redaction.take_counts()
        return [Redaction(episode, step, name, n) for name, n in counts.items()]

    def clean_action(self, name: str, action: Action) -> Action:
        """Return an action without secrets. Its step is not begun yet."""
        action = self._redaction.clean(name, action)
        if self._redaction.counts:
            self.add_redactions(is_before=True)
        return action

    def action_data(self) -> bytes:
        """Return the action of the step that has begun last, encoded as it was before the step."""
        return encoded_field(self.takes.layouts["action"], self.action_part)

    def drop_redactions(self) -> None:
        """Forget the secrets of a step whose values are not recorded."""
        self._redaction.take_counts()

    def add_event(self, event: Event) -> None:
        """Add an event after the steps so far. `begun` must not be None."""
        entry = make_entry(event)
        block = self.block
        number = block.first_number + len(block.rows)
        block.items.append_other(entry)
        if not self._journal.put(number, EVENT, entry.raw):
            self._journal.write_items(number)

    def add_others(self, items: Sequence[Entry | Reset]) -> None:
        """Add items that are no rows of steps: all of them, or none if an exception comes.

        Raises:
            LogWriteError: As for `add_encoded`.
        """
        block = self.block
        number = block.first_number + len(block.rows)
        # First all into the block: the journal may begin another one, which no row of theirs fits.
        block.items.append_others(items)
        put = self._journal.put
        for item in items:
            if not put(number, *encode_item(item)):
                self._journal.write_items(number)
                return
            number += 1

    def take_reset(self, obs: Value, episode: int, first_step: int) -> list[Entry | Reset]:
        """Return the items of the first observation of an episode, or of a fork's steps.

        The items have the state too. They belong into the present block.
        """
        takes = self.takes
        try:
            obs_part = takes.obs(obs)
            state_part = takes.state()
        except MisfitError:
            self.refit(obs=obs)
            obs_part = takes.obs(obs)
            state_part = takes.state()
        row = (None, obs_part, None, state_part, None, takes.whole_state())
        items: list[Entry | Reset] = [make_reset(row, episode, first_step)]
        if self._redaction.counts:
            items.extend(map(make_entry, self._redactions(episode, first_step - 1)))
        return items

    def refit(self, **values: Value) -> None:
        """Begin a block that the state and these values of the current step fit.

        Fields whose value does not fit are kept as encoded values from now on.
        """
        self.takes.find_misfits(values)
        self.next_block()

    def _limit(self) -> int:
        """Return the number of the item with which the block is full."""
        block = self.block
        return block.first_number + min(BLOCK_ROWS, max_rows(block.layout)) - 1

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
        takes = self.takes
        takes.drop_outdated()
        layout = RowLayout(takes.layouts, old.layout.digest_bytes)
        block = Block(old.next_number, old.position(), layout)
        self._journal.layout_changed()
        # Before `block` is replaced: the flusher must not see the new block before the old one.
        self._waiting.append(old)
        self.block = block
        self.rows = block.rows
        self.limit = self._limit()
        takes.begin_block()
        self._choose_add_step()
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

    def drain(
        self, packer: Packer, last_written: int, *, only_full: bool, max_items: int
    ) -> Iterator[Drained]:
        """Yield the items after `last_written` as chunks, perhaps only those of full blocks."""
        time_ns = self._clock_ns()
        # Read first: the recording thread may hand this block over and begin another meanwhile.
        block = self.block
        while self._waiting:
            drained = self._waiting[0].drain(packer, last_written, time_ns, max_items)
            if drained is None:
                # Only a block that is written whole: the caller may stop at any chunk.
                self._waiting.pop(0)
            else:
                yield drained
                last_written = drained.last_item
        drained = None if only_full else block.drain(packer, last_written, time_ns, max_items)
        if drained is not None:
            yield drained

    def discard(self) -> None:
        """Drop the pending blocks, because the log cannot be written any more.

        The present block ends with its next step, which then notices the log's error.
        """
        self._waiting.clear()
        self.limit = 0

    def journal_paused(self) -> None:
        """Note that the journal must begin anew with the next item."""
        self._journal.layout_changed()

    def field_added(self) -> None:
        """Note that `takes` has one more field."""
        self._journal.layout_changed()
        self.block.layout = RowLayout(self.takes.layouts, self.block.layout.digest_bytes)
        self.limit = min(self.limit, self._limit())
        self._choose_add_step()

    def _choose_add_step(self) -> None:
        layouts = self.takes.layouts
        # The fast way knows nothing of secrets.
        self.add_step = (
            self.add_values
            if self.takes.may_have_secrets
            else make_add_step(self, self._journal, layouts.get("obs"), layouts.get("reward"))
        )


def make_entry(event: Event) -> Entry:
    """Return an event as an item."""
    return Entry(event, encode_event(event))
