"""The call of a tool that is a generator, while its items come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from trajrec.agents.journal import Journal
from trajrec.types import Value
from trajrec.values.recorded import RecordedStream


class RecordedToolStream:
    """One call of a generator that is being recorded.

    Args:
        journal: The episode's journal.
        on_end: Called once at the end, with the exception.
        freeze: Returns the block in which the generator runs, by the number of its items so far.

    Attributes:
        items: The items so far.
        kept: The items as they were when they came: a generator may give one object again and
            again, and the agent may change it.
        was_left: Whether the episode ended before the generator did.
    """

    recorded: RecordedStream | None = None
    was_left = False

    def __init__(
        self,
        journal: Journal,
        on_end: Callable[[BaseException | None], None],
        freeze: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        self._journal = journal
        self._on_end = on_end
        self._freeze = freeze
        self.items: list[Value] = []
        self.kept: list[Value] = []

    def running(self) -> AbstractContextManager[None]:
        """Return the block in which the generator runs up to its next item."""
        # By its number, or the randomness of all items would be the same.
        return self._freeze(len(self.items))

    def received(self, item: Value) -> None:
        """Note an item."""
        self.kept.append(self._journal.snapshot(item))
        self.items.append(item)

    def ended(self, error: BaseException | None) -> None:
        """Record the end."""
        self._on_end(error)
