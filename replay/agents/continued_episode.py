"""An episode that answers from a recording, until a live continuation takes over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

from trajrec.agents.async_block import AsyncBlock
from trajrec.agents.counters import StepCounter
from trajrec.agents.episode import AgentEpisode
from trajrec.agents.exchange_memory import ExchangeMemory
from trajrec.agents.retries import AttemptLoop, Exceptions, RetryPlan
from trajrec.agents.tool_wrappers import NamedGenerators, ToolDecorator, ToolFunction
from trajrec.corpus.episode import Episode
from trajrec.protocols import Access, Tool, Verdict
from trajrec.replay.agents.live_fork import FunctionTool
from trajrec.types import JsonObject, Value
from trajrec.verifiers import identify


class ContinuedEpisode(AsyncBlock, ToolDecorator):
    """The base of reruns: the parts that only count, or that the live episode does.

    Args:
        episode: The recorded episode.

    Attributes:
        episode: The recorded episode.
        live: The episode that continues live; None as long as the recording answers.
    """

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.live: AgentEpisode | None = None
        self._functions: list[FunctionTool] = []
        self._generators = NamedGenerators()
        self._steps = StepCounter()
        self._n_checks: Counter[str] = Counter()
        self._has_ended = False

    @property
    def id(self) -> str:
        """Id of the recorded episode, or of the live one."""
        return self.episode.id if self.live is None else self.live.id

    @property
    def has_ended(self) -> bool:
        """Whether the block of the rerun was left."""
        return self._has_ended

    @property
    def exchange_memory(self) -> ExchangeMemory | None:
        """That of the live episode: recorded answers are found by their requests."""
        return None if self.live is None else self.live.exchange_memory

    @property
    def n_steps(self) -> int:
        """Number of steps so far."""
        return self._steps.step + 1

    @property
    def last_step(self) -> int:
        """Number of the last step; -1 before the first."""
        return self._steps.step

    def _add_tool(
        self, function: ToolFunction, *, name: str, schema: JsonObject | None, access: Access
    ) -> None:
        tool = FunctionTool(function=function, name=name, schema=schema, access=access)
        self._functions.append(tool)
        self._generators.add(name, function)
        if self.live is not None:
            self.live.tool(function, name=name, schema=schema, access=access)

    def call(self, tool: str, /, **arguments: Value) -> Value:
        """Return the recorded result of a call, or raise its recorded exception."""
        begun = self._generators.begun(self, tool, arguments, "")
        return self.execute(tool, arguments) if begun is None else begun

    def register_tool(self, tool: Tool) -> None:
        """Describe a tool to the live episode; the recording needs no description."""
        if self.live is not None:
            self.live.register_tool(tool)

    def check(self, verifier: Callable[..., Value], *args: Value) -> Verdict:
        """Return the recorded verdict of a verifier, or an empty one; a live episode runs it.

        An agent that checks its work again gets the verdicts in the recorded order.
        """
        if self.live is not None:
            return self.live.check(verifier, *args)
        check_id = identify(verifier).id
        number = self._n_checks[check_id]
        self._n_checks[check_id] += 1
        recorded = [check for check in self.episode.checks if check.check_id == check_id]
        if number >= len(recorded):
            return Verdict(None)
        check = recorded[number]
        evidence = self.episode.transcript.value(check.evidence_data)
        return Verdict(check.verdict, check.score, evidence)

    def step(self) -> AbstractContextManager[int]:
        """Make the calls of a block one step."""
        return self._steps.grouped()

    def attempts(
        self, plan: RetryPlan = 3, *, wait: float = 0.0, on: Exceptions = Exception
    ) -> AttemptLoop:
        """Retry a block as the recorded loop did, without waiting between tries."""
        return AttemptLoop(plan, 0.0 if self.live is None else wait, on)

    def stop(
        self, reason: str, *, claimed_done: bool | None = None, truncated: bool = False
    ) -> None:
        """Record why a live episode ends; the recording has its own reason."""
        if self.live is not None:
            self.live.stop(reason, claimed_done=claimed_done, truncated=truncated)
