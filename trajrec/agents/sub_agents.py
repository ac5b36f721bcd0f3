"""Finds the agent that a new conversation works for, if no context tells it.

An agent in another process, or in another language, is seen by its requests alone. A tool that runs
a sub-agent hands it its task, so that a text among the arguments of the tool call stands in the
first messages of the sub-agent. Agents that run side by side tell nothing of each other this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trajrec.agents.context import EpisodeSession
from trajrec.types import Value
from trajrec.wire.contents import ToolCall
from trajrec.wire.dialects.choose import dialect_of
from trajrec.wire.exchange import HttpRequest

MIN_PART = 16
"""Characters of an argument that tells a sub-agent by standing within a message. A shorter one, say
the name of a town, must be the whole message."""


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
        (episode, calls)
        for episode in episodes
        if not episode.has_ended
        and (memory := episode.exchange_memory) is not None
        and (calls := memory.running_calls())
    ]
    if not waiting:
        return None
    messages = _texts_of(request)
    callers = [
        episode
        for episode, calls in waiting
        if any(_is_task(text, messages) for call in calls for text in _arguments(call))
    ]
    return callers[0] if len(callers) == 1 else None


def _texts_of(request: HttpRequest) -> list[str]:
    dialect = dialect_of(request.url, request.body)
    content = dialect.request(request.url, request.body)
    texts = [dialect.message(message).text for message in content.messages]
    return [text.strip() for text in [content.system or "", *texts]]


def _is_task(text: str, messages: list[str]) -> bool:
    if len(text) >= MIN_PART:
        return any(text in message for message in messages)
    return bool(text) and text in messages


def _arguments(call: ToolCall) -> Iterator[str]:
    yield from _leaves(call.arguments)


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
