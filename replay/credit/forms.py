"""The two forms of steps in training data: texts, and messages for trainers of chat models."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from trajrec.corpus.chat import Decision, decisions, dropped_steps
from trajrec.corpus.episode import Episode
from trajrec.replay.credit.texts import NO_CALLS, counterfactual_text, prompt_text, step_texts
from trajrec.types import JsonObject, Value
from trajrec.values.json import to_json
from trajrec.wire.json_bodies import as_list

T = TypeVar("T")


class Form(Protocol):
    """How prompts and steps of an episode are written."""

    def takes(self, episode: Episode) -> bool:
        """Return whether an episode can be written so."""

    def kept(self, episode: Episode, steps: Iterable[int]) -> list[int]:
        """Return the steps that can be written: those whose answer the agent did not drop."""

    def prompt(self, episode: Episode, step: int | None = None) -> Value:
        """Return what was known before a step; None for the first one."""

    def completions(self, episode: Episode, steps: Iterable[int]) -> list[Value]:
        """Return some steps, each with what came of it, in order."""

    def action(self, episode: Episode, step: int) -> Value:
        """Return what was done at a step; None if the episode does not tell."""

    def counterfactual(self, action: str, episode: Episode, step: int) -> Value:
        """Return another action at a step.

        Args:
            action: The action as JSON. A tool call is `[tool, arguments]`; a list of them is
                several.
            episode: The episode.
            step: The step.
        """

    def changed(self, action: Value, call: int, arguments: JsonObject) -> Value:
        """Return an action with other arguments of one of its calls; None if it has no such call.

        Args:
            action: The action, as `action` returns it.
            call: The number of the call, from 0.
            arguments: The arguments that differ.
        """

    def extra(self, episode: Episode) -> Mapping[str, Value]:
        """Return further columns of a row."""


class _LastOnes(Generic[T]):
    """Remembers what a function returned for the last two episodes, and not the episodes.

    The rows of an episode follow each other; a fork and its parent take turns.
    """

    def __init__(self, function: Callable[[Episode], T]) -> None:
        self._function = function
        self._known: dict[str, T] = {}

    def __call__(self, episode: Episode) -> T:
        if episode.id not in self._known:
            while len(self._known) > 1:
                del self._known[next(iter(self._known))]
            self._known[episode.id] = self._function(episode)
        return self._known[episode.id]


class _KeptSteps:
    """Leaves out the steps whose answer the agent dropped, and counts them."""

    def __init__(self) -> None:
        self._dropped = _LastOnes(dropped_steps)
        self._n_dropped: dict[str, int] = {}

    @property
    def n_dropped(self) -> int:
        """The number of steps that were left out."""
        return sum(self._n_dropped.values())

    def kept(self, episode: Episode, steps: Iterable[int]) -> list[int]:
        given = list(steps)
        if not episode.is_agent_episode:
            return given
        dropped = self._dropped(episode)
        kept = [step for step in given if step not in dropped]
        self._n_dropped[episode.id] = len(given) - len(kept)
        return kept


class TextForm(_KeptSteps):
    """Actions and tool calls as JSON, and prompts with an item a line."""

    def __init__(self) -> None:
        super().__init__()
        self._texts = _LastOnes(step_texts)

    def takes(self, episode: Episode) -> bool:
        return True

    def prompt(self, episode: Episode, step: int | None = None) -> Value:
        return prompt_text(episode, step)

    def completions(self, episode: Episode, steps: Iterable[int]) -> list[Value]:
        return [self.action(episode, step) for step in steps]

    def action(self, episode: Episode, step: int) -> Value:
        text = self._texts(episode).get(step)
        is_step = episode.first_step <= step < episode.end_step
        return NO_CALLS if text is None and is_step and episode.is_agent_episode else text

    def counterfactual(self, action: str, episode: Episode, step: int) -> Value:
        return counterfactual_text(action, is_agent_episode=episode.is_agent_episode)

    def changed(self, action: Value, call: int, arguments: JsonObject) -> Value:
        value = json.loads(action)
        calls = as_list(value) or [value]
        if call >= len(calls) or type(calls[call].get("arguments")) is not dict:
            return None
        calls[call]["arguments"] |= arguments
        return to_json(value)

    def extra(self, episode: Episode) -> Mapping[str, Value]:
        return {}


class MessageForm(_KeptSteps):
    """Messages of agents' episodes, with tool calls and results; see `Conversation.messages`.

    A completion has the message of the step and the results of its calls. A step at which nothing
    was said is an empty list.
    """

    def __init__(self) -> None:
        super().__init__()
        self._decisions = _LastOnes(decisions)
        self._with_omitted: set[str] = set()
        self._with_unfinished: set[str] = set()

    @property
    def n_with_omitted(self) -> int:
        """The number of episodes with rows whose messages had parts that are left out."""
        return len(self._with_omitted)

    @property
    def n_with_unfinished(self) -> int:
        """The number of episodes with rows that have an answer which the model did not end."""
        return len(self._with_unfinished)

    def takes(self, episode: Episode) -> bool:
        return episode.is_agent_episode and bool(self._decisions(episode))

    def prompt(self, episode: Episode, step: int | None = None) -> Value:
        decision = self._decision(episode, step)
        return [] if decision is None else decision.before

    def completions(self, episode: Episode, steps: Iterable[int]) -> list[Value]:
        found = self._decisions(episode)
        return [
            [found[step].answer, *found[step].results] if step in found else [] for step in steps
        ]

    def action(self, episode: Episode, step: int) -> Value:
        decision = self._decisions(episode).get(step)
        return None if decision is None else [decision.answer]

    def counterfactual(self, action: str, episode: Episode, step: int) -> Value:
        calls = json.loads(action)
        if isinstance(calls[0], str):
            calls = [calls]
        rows: list[JsonObject] = [
            {
                "id": f"call_{step}_{number}",
                "type": "function",
                "function": {"name": tool, "arguments": to_json(arguments)},
            }
            for number, (tool, arguments) in enumerate(calls)
        ]
        return [{"role": "assistant", "content": "", "tool_calls": rows}]

    def changed(self, action: Value, call: int, arguments: JsonObject) -> Value:
        (message,) = copy.deepcopy(action)
        calls = message.get("tool_calls", ())
        function = calls[call]["function"] if call < len(calls) else {}
        try:
            recorded = json.loads(function.get("arguments", ""))
        except ValueError:
            return None
        if type(recorded) is not dict:
            return None
        # Other spaces would be a second difference between the two calls of a pair.
        has_spaces = function["arguments"] == json.dumps(recorded)
        write = json.dumps if has_spaces else to_json
        function["arguments"] = write(recorded | arguments)
        return [message]

    def extra(self, episode: Episode) -> Mapping[str, Value]:
        found = self._decisions(episode).values()
        if any(decision.has_omitted for decision in found):
            self._with_omitted.add(episode.id)
        if any(decision.is_unfinished for decision in found):
            self._with_unfinished.add(episode.id)
        decision = self._decision(episode, None)
        return {"tools": [] if decision is None else decision.tools}

    def _decision(self, episode: Episode, step: int | None) -> Decision | None:
        """Return the decision at a step, None if there is none; by default the first one."""
        found = self._decisions(episode)
        return found.get(min(found) if step is None else step)
