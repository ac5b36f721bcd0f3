"""An agent's own loop as a policy: the function that was recorded, run against what it has done so far."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from trajrec.errors import AgentChangedError
from trajrec.protocols import Verdict
from trajrec.recorded import as_exception, as_objects
from trajrec.replay.credit.worlds import Call, Context


class AgentPolicy:
    """A function of an episode that calls tools, as `trajrec.episode` records it and `trajrec.rerun` runs it again.

    To act, it is run from its beginning: the calls that were made are answered with what came of them, and the first that was
    not is its action. So it must do the same where it is answered the same, and it goes on only from what it would have done
    itself. An agent that asks a model, or draws, needs a policy with a method `act` of its own.

    Args:
        agent: Takes an episode: `goal`, `call`, `tool`, `step`, `stop`, `check` and `effect` are there.
        id: What it is called in the corpus; by default the function's name.
    """

    def __init__(self, agent: Callable[[Any], Any], id: str = "") -> None:
        self._agent = agent
        self.id = id or f"{agent.__module__}:{getattr(agent, '__qualname__', type(agent).__qualname__)}"

    def act(self, context: Context, rng: np.random.Generator) -> Call | None:
        """Return the agent's next call; None when it is done.

        Raises:
            AgentChangedError: It does not make the calls that were made.
        """
        try:
            self._agent(_Answered(context))
        except _AskedError as asked:
            return asked.call
        return None


class _AskedError(BaseException):
    """A call that has no answer yet. Not an Exception: agents catch those."""

    def __init__(self, call: Call) -> None:
        self.call = call


class _Answered:
    """An episode that answers the calls that were made."""

    def __init__(self, context: Context) -> None:
        self.goal, self._made, self._n = as_objects(context.goal), context.made, 0

    def call(self, tool: str, /, **arguments: Any) -> Any:
        if self._n == len(self._made):
            raise _AskedError((tool, arguments))
        made = self._made[self._n]
        if (made.tool, made.arguments) != (tool, arguments):
            now, then = f"{tool}({arguments})", f"{made.tool}({made.arguments})"
            raise AgentChangedError(f"call {self._n} of the agent is {now}, and was {then}", episode_id="")
        self._n += 1
        if made.error:
            type_name, _, message = made.error.partition(": ")
            raise as_exception(type_name, message)
        return as_objects(made.result)

    def tool(self, function: Callable[..., Any], *, name: str = "", **_: Any) -> Callable[..., Any]:
        tool = name or function.__name__
        return lambda **arguments: self.call(tool, **arguments)

    def step(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def stop(self, reason: str, **_: Any) -> None:
        """The loop is over; what it says of itself is not asked."""

    def check(self, *_: Any) -> Verdict:
        return Verdict(None)

    def effect(self, name: str, function: Callable[..., Any], /, *args: Any) -> Any:
        return function(*args)
