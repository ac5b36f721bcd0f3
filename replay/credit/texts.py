"""Steps and prompts of an episode as text, for training data."""

from __future__ import annotations

import json

from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import Attempt
from trajrec.types import JsonObject
from trajrec.values.json import to_json

NO_CALLS = "[]"
"""The text of a step at which an agent called no tool."""


def step_texts(episode: Episode) -> dict[int, str]:
    """Return the text of each step: its action as JSON, or the tool calls of an agent as JSON.

    Steps at which an agent called no tool are left out: a log may state any number of them.
    """
    if not episode.is_agent_episode:
        steps = zip(episode.step_numbers, episode.actions, strict=True)
        return {int(step): to_json(action) for step, action in steps}
    calls: dict[int, list[JsonObject]] = {}
    for attempt in episode.transcript.attempts:
        # Later attempts repeat the call without a decision of the agent.
        if attempt.start.attempt == 0:
            calls.setdefault(attempt.start.step, []).append(_call(attempt))
    return {step: _calls_text(calls_of_step) for step, calls_of_step in calls.items()}


def counterfactual_text(action: str, *, is_agent_episode: bool) -> str:
    """Return the text of a counterfactual action, in the form of `step_texts`.

    Args:
        action: The action as JSON. A tool call is `[tool, arguments]`; a list of them is several.
        is_agent_episode: Whether the action consists of tool calls.
    """
    if not is_agent_episode:
        return action
    calls = json.loads(action)
    if isinstance(calls[0], str):
        calls = [calls]
    return _calls_text([{"tool": tool, "arguments": arguments} for tool, arguments in calls])


def prompt_text(episode: Episode, step: int | None = None) -> str:
    """Return the information that an agent had before a step, one item a line.

    The first line is the goal, or the first observation. Then follow the text and the result of
    each earlier step; those before a fork are its parent's.

    Args:
        episode: The episode.
        step: The step; None for the first one, so that the text of an episode that is no fork is
            one line.

    Raises:
        CorpusError: The episode is a fork, and its parent is not in the corpus.
    """
    take_lines = _agent_prompt if episode.is_agent_episode else _env_prompt
    return "\n".join(take_lines(episode, step))


def _env_prompt(episode: Episode, step: int | None) -> list[str]:
    observations = episode.observation_values
    parent = episode.parent
    if parent is not None:
        lines = _env_prompt(parent, episode.first_step)
    else:
        lines = [to_json(observations[0])] if observations else [""]
    if step is not None:
        # Steps that raised have neither a text nor an observation.
        for (number, text), observation in zip(
            step_texts(episode).items(), observations[1:], strict=False
        ):
            if number < step:
                lines += [text, to_json(observation)]
    return lines


def _agent_prompt(episode: Episode, step: int | None) -> list[str]:
    parent = episode.parent
    if parent is not None:
        lines = _agent_prompt(parent, episode.first_step)
    else:
        start = episode.transcript.task_start
        goal = None if start is None else episode.value(start.goal_data)
        lines = [goal if isinstance(goal, str) else to_json(goal)]
    for attempt in episode.transcript.attempts:
        if step is not None and attempt.start.step < step:
            result = attempt.result
            if attempt.has_failed and attempt.end is not None:
                result = attempt.end.message
            lines += [to_json(_call(attempt)), to_json(result)]
    return lines


def _call(attempt: Attempt) -> JsonObject:
    return {"tool": attempt.tool, "arguments": attempt.arguments}


def _calls_text(calls: list[JsonObject]) -> str:
    """Return calls as JSON: one call as an object, several as a list."""
    return to_json(calls[0] if len(calls) == 1 else calls)
