"""The states of an agent's world, rebuilt from its recorded changes and verified by their digests.

A state is never given out unverified: of each part, the digest that was recorded with its last
change is compared with that of the rebuilt part. A state that does not match, or whose changes do
not fit, is unknown.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from trajrec.corpus.part_history import UNKNOWN as UNKNOWN
from trajrec.corpus.part_history import PartHistory
from trajrec.errors import StateUnknownError
from trajrec.log.events import StateChange
from trajrec.types import Value
from trajrec.values.copies import copy_data
from trajrec.values.diff import Change
from trajrec.values.per_process import renew_in_children


class StateHistory:
    """The states between the recorded changes of an episode. Threads may share it.

    Args:
        events: The changes in the order of the log: first the parts at the reset.
        decode: Returns an encoded value, with its references resolved.
        episode_id: The episode, for errors.
    """

    def __init__(
        self,
        events: Sequence[StateChange],
        decode: Callable[[bytes | None], Value],
        episode_id: str,
    ) -> None:
        self._events = events
        self._episode_id = episode_id
        # The numbers of each part's events.
        self._numbers: dict[str, list[int]] = {}
        # The position of each event among those of its part.
        self._positions: list[int] = []
        for number, event in enumerate(events):
            numbers = self._numbers.setdefault(event.part, [])
            self._positions.append(len(numbers))
            numbers.append(number)
        self._decode = decode
        self._renew_lock()
        renew_in_children(self, StateHistory._renew_lock)

    def _renew_lock(self) -> None:
        """Begin with parts that no thread is bringing to another state."""
        self._parts = {
            part: PartHistory([self._events[number] for number in numbers], self._decode)
            for part, numbers in self._numbers.items()
        }
        # A part is in one state at a time, to which a look at another state brings it.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._events)

    def changes(self, index: int) -> tuple[list[Change], bool]:
        """Return the changes of an event, and whether the types of the keys in its paths are known.

        The parts at the reset have no changes.
        """
        with self._lock:
            return self._parts[self._events[index].part].changes(self._positions[index])

    def state(self, n_events: int, step: int) -> dict[str, Value]:
        """Return the parts of the state after the first events, as plain data of its own.

        Args:
            n_events: The number of events.
            step: The step that the state belongs to, for errors.

        Raises:
            StateUnknownError: The state is unknown.
        """
        with self._lock:
            return {
                name: copy_data(self._verified(name, n, step))
                for name, n in self._part_counts(n_events)
            }

    def unknown_after(self, index: int) -> str:
        """Return why the part that an event changed is unknown after it; "" if it is known."""
        with self._lock:
            part = self._parts[self._events[index].part]
            part.go_to(self._positions[index] + 1)
            return part.unknown_reason()

    def last_unknown(self) -> StateUnknownError | None:
        """Return why the last state is unknown; None if it is known, or if there is none."""
        step = self._events[-1].step if self._events else -1
        try:
            with self._lock:
                for name, n in self._part_counts(len(self._events)):
                    self._verified(name, n, step)
        except StateUnknownError as error:
            return error
        return None

    def first_unknown(self) -> StateUnknownError | None:
        """Return why the first unknown state is unknown; None if all are known."""
        with self._lock:
            for event, position in zip(self._events, self._positions, strict=True):
                try:
                    self._verified(event.part, position + 1, event.step)
                except StateUnknownError as error:
                    return error
        return None

    def _part_counts(self, n_events: int) -> Iterator[tuple[str, int]]:
        """Yield each part that the first events have, and the number of its own among them."""
        for name, numbers in self._numbers.items():
            n = bisect_left(numbers, n_events)
            if n:
                yield name, n

    def _verified(self, name: str, n_events: int, step: int) -> Value:
        """Return a part after the first of its events; it is borrowed until the next look."""
        part = self._parts[name]
        part.go_to(n_events)
        reason = part.unknown_reason()
        if reason:
            raise StateUnknownError(reason, episode_id=self._episode_id, step=step, part=name)
        return part.value
