"""The recorders of one episode of an agent, which share its journal and its count of steps."""

from __future__ import annotations

from typing import NamedTuple

from trajrec.agents.counters import StepCounter
from trajrec.agents.exchanges import ExchangeRecorder
from trajrec.agents.journal import Journal
from trajrec.agents.model_calls import ModelCallRecorder
from trajrec.agents.tool_calls import IsError, ToolCallRecorder
from trajrec.protocols import Tool
from trajrec.taps import unseen


class Recorders(NamedTuple):
    """What records an episode.

    Attributes:
        journal: Writes the records.
        calls: Records tool calls.
        models: Records calls by `ep.model`.
        exchanges: Records the HTTP exchanges that a tap has seen.
    """

    journal: Journal
    calls: ToolCallRecorder
    models: ModelCallRecorder
    exchanges: ExchangeRecorder

    def end(self) -> None:
        """Record the last changes of the state, and what is open when the episode ends."""
        try:
            self.calls.states.end()
        finally:
            self.calls.leave_open()
            self.models.leave_open()
            self.exchanges.leave_open()

    def unseen_ways(self) -> list[str]:
        """Return the ways past the taps by which model calls may be missing, and warn of them."""
        ways = unseen.ways(self.models.n_calls + self.exchanges.memory.n_calls)
        unseen.warn_of(ways)
        return ways

    @classmethod
    def of_episode(
        cls, journal: Journal, steps: StepCounter, *, tools: dict[str, Tool], is_error: IsError
    ) -> Recorders:
        """Return the recorders of a new episode.

        Args:
            journal: The episode's journal.
            steps: The episode's counter.
            tools: The tools by name. Tools may be added later.
            is_error: Returns why a tool's result is an error, None if it is none.
        """
        calls = ToolCallRecorder(journal, steps, tools, is_error)
        return cls(
            journal=journal,
            calls=calls,
            models=ModelCallRecorder(journal, steps, calls.states),
            exchanges=ExchangeRecorder(journal, steps, calls.states),
        )
