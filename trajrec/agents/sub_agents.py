"""Finds the agent that a new conversation works for, if no context tells it.

An agent in another process, or in another language, is seen by its requests alone. A tool that runs
a sub-agent hands it its task, so that a text among the arguments of the tool call is one of
the first messages of the sub-agent. A text that also stands in the calling agent's own messages does
not count: another agent that works on the same task at the same time shares it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trajrec.agents.context import EpisodeSession
from trajrec.agents.exchange_memory import ExchangeMemory, texts_of
from trajrec.types import Value
from trajrec.wire.contents import ToolCall
from trajrec.wire.exchange import HttpRequest

MIN_TASK = 16
"""Characters of an argument that may be a task. A shorter one, say the name of a town, is in the
messages of many agents."""


def caller_of(request: HttpRequest, episodes: Iterable[EpisodeSession]) -> EpisodeSession | None:
    """Return the episode whose tool call the agent of a request was begun by.

    Args:
        request: The first request of a conversation.
        episodes: The other conversations.

    Returns:
        The only one that waits for a tool call with a text that the request repeats; None if there
        is none, or several.
    """
    waiting = [
        (episode, memory, calls)
        for episode in episodes
        if not episode.has_ended
        and (memory := episode.exchange_memory) is not None
        and (calls := memory.running_calls())
    ]
    if not waiting:
        return None
    messages = texts_of(request.url, request.body)
    callers = [episode for episode, memory, calls in waiting if _hands_on(calls, memory, messages)]
    return callers[0] if len(callers) == 1 else None


def _hands_on(calls: Iterable[ToolCall], memory: ExchangeMemory, messages: list[str]) -> bool:
    """Return whether a text of the calls is in messages, and not in those of the calling agent."""
    handed = [
        text for call in calls for text in _leaves(call.arguments) if _is_task(text, messages)
    ]
    told = memory.told_texts() if handed else []
    return any(not any(text in message for message in told) for text in handed)


def _is_task(text: str, messages: list[str]) -> bool:
    """Return whether a text is a whole message: one that quotes it may be a judge's, or a retry."""
    return len(text) >= MIN_TASK and text in messages


def _leaves(value: Value) -> Iterator[str]:
    """Yield the texts in a value as JSON has them."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item.strip()
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
