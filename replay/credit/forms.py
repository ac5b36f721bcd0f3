"""The two forms of steps in training data: texts, and messages for trainers of chat models."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Protocol

from trajrec.corpus.chat import Decision, decisions
from trajrec.corpus.episode import Episode
from trajrec.replay.credit.texts import counterfactual_text, prompt_text, step_texts
from trajrec.types import JsonObject, Value
from trajrec.values.json import to_json


class Form(Protocol):
    """How prompts and steps of an episode are written."""

    def takes(self, episode: Episode) -> bool:
        """Return whether an episode can be written so."""

    def prompt(self, episode: Episode, step: int | None = None) -> Value:
        """Return what was known before a step; None for the first one."""

    def completions(self, episode: Episode) -> list[Value]:
        """Return each step with what came of it, in order."""

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

    def extra(self, episode: Episode) -> Mapping[str, Value]:
        """Return further columns of a row."""


class TextForm:
    """Actions and tool calls as JSON, and prompts with an item a line."""

    def takes(self, episode: Episode) -> bool:
        return True

    def prompt(self, episode: Episode, step: int | None = None) -> Value:
        return prompt_text(episode, step)

    def completions(self, episode: Episode) -> list[Value]:
        return list(step_texts(episode).values())

    def action(self, episode: Episode, step: int) -> Value:
        return step_texts(episode).get(step)

    def counterfactual(self, action: str, episode: Episode, step: int) -> Value:
        return counterfactual_text(action, is_agent_episode=episode.is_agent_episode)

    def extra(self, episode: Episode) -> Mapping[str, Value]:
        return {}


class MessageForm:
    """Messages of agents' episodes, with tool calls and results; see `Conversation.messages`.

    A completion has the message of the step and the results of its calls. A step at which nothing
    was said is an empty list.
    """

    def __init__(self) -> None:
        # Rows of one episode follow each other.
        self._decisions = functools.lru_cache(maxsize=2)(decisions)

    def takes(self, episode: Episode) -> bool:
        return episode.is_agent_episode and bool(self._decisions(episode))

    def prompt(self, episode: Episode, step: int | None = None) -> Value:
        decision = self._decision(episode, step)
        return [] if decision is None else decision.before

    def completions(self, episode: Episode) -> list[Value]:
        found = self._decisions(episode)
        steps = range(episode.first_step, episode.end_step)
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

    def extra(self, episode: Episode) -> Mapping[str, Value]:
        decision = self._decision(episode, None)
        return {"tools": [] if decision is None else decision.tools}

    def _decision(self, episode: Episode, step: int | None) -> Decision | None:
        """Return the decision at a step, or the first one; else the next one after the step."""
        found = self._decisions(episode)
        later = [own for own in found if step is None or own >= step]
        return found[min(later)] if later else None
