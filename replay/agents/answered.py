"""The requests of an agent that its recording has answered, which a live fork goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trajrec.corpus.episode import Episode
from trajrec.corpus.program_changes import ProgramChange
from trajrec.corpus.transcript import AttemptKey


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The requests of an agent that its recording has answered.

    Attributes:
        attempts: Keys of the attempts at tool calls. The world is brought to the state after them.
        n_models: Number of model calls that a client made; None if it does not matter.
        n_side_effects: Number of side effects.
        exchanges: Places of the HTTP exchanges among all that the episode has; None if they do not
            matter.
    """

    attempts: frozenset[AttemptKey]
    n_models: int | None = None
    n_side_effects: int = 0
    exchanges: tuple[int, ...] | None = None

    def has_led_to(self, change: ProgramChange) -> bool:
        """Return whether no request before a change of the agent's program is unanswered."""
        if self.n_models is not None and change.n_models > self.n_models:
            return False
        if self.exchanges is None:
            return True
        return all(place in self.exchanges for place in range(change.n_exchanges))


def answered_before_fork(episode: Episode) -> Answered:
    """Return the requests of its parent that lead to an agent's fork."""
    assert episode.fork is not None
    data: Any = episode.value(episode.fork.metadata_data) or {}
    exchanges = data.get("exchanges")
    return Answered(
        attempts=frozenset(tuple(key) for key in data.get("attempts", [])),
        n_models=data.get("models"),
        n_side_effects=data.get("effects", 0),
        exchanges=None if exchanges is None else tuple(exchanges),
    )
