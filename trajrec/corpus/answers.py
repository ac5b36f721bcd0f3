"""The answers of models in an episode: which alternative the agent took, and which it dropped.

A request repeats the messages before it, so a later request tells what became of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.call_contents import CallContent, alternatives_of, content_of, offered_tools
from trajrec.corpus.chat_rows import Talk, key_of, tool_row, turns_of
from trajrec.corpus.model_calls import ModelCall
from trajrec.corpus.untold_parts import has_untold
from trajrec.types import Value
from trajrec.wire.contents import Message, is_stopped
from trajrec.wire.sampled_tokens import SampledTokens, sampled_tokens


class Answered(NamedTuple):
    """A model call that was answered.

    Attributes:
        call: The call.
        talk: The messages of its request and its answer: of several alternatives, the one that the
            agent took.
        is_dropped: Whether the agent did not go on from the answer: it asked again with the same
            messages, and none of its tool calls ran. Or it is unknown which of several
            alternatives the agent took.
    """

    call: ModelCall
    talk: Talk
    is_dropped: bool


class _Alternative(NamedTuple):
    """One of the alternatives of an answer, also as its dialect writes it."""

    message: Message
    value: Value
    is_unfinished: bool
    sampled: SampledTokens | None


class _Asked(NamedTuple):
    """A request with the alternatives of its answer; and where the request ends."""

    call: ModelCall
    talk: Talk
    alternatives: list[_Alternative]
    node: int | None


class _Requests:
    """All requests of an episode, as a tree of messages: each node is a beginning of requests."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, str], int] = {}
        self._last: dict[int, int] = {}
        self._sampled: dict[tuple[int, str], SampledTokens | None] = {}

    def go_on(self, node: int, key: str, number: int) -> int:
        """Add the next message of a request, and return its node. The first one is behind 0."""
        node = self._nodes.setdefault((node, key), len(self._nodes) + 1)
        self._last[node] = number
        return node

    def add_sampled(self, node: int, key: str, sampled: SampledTokens | None) -> None:
        """Note the tokens of an answer to the request that ends at a node."""
        # Equal answers to samples of one prompt may have other tokens: whose they are is not known.
        if self._sampled.setdefault((node, key), sampled) != sampled:
            self._sampled[node, key] = None

    def sampled(self, node: int, key: str) -> SampledTokens | None:
        """Return the tokens of a message behind a node, None if they are not known."""
        return self._sampled.get((node, key))

    def is_continued(self, node: int, key: str) -> bool:
        """Return whether a request goes on from a node with a message."""
        return (node, key) in self._nodes

    def is_repeated(self, node: int, number: int) -> bool:
        """Return whether a later request has the messages of a node too."""
        return self._last.get(node, number) > number


def answered_calls(calls: Sequence[ModelCall], attempts: Sequence[Attempt]) -> list[Answered]:
    """Return the model calls that were answered, in order.

    Args:
        calls: The model calls of an episode.
        attempts: Its attempts at tool calls.
    """
    requests = _Requests()
    asked = _read(calls, requests)
    ran_by_step: dict[int, list[str]] = {}
    for attempt in attempts:
        if not attempt.is_from_wire:
            ran_by_step.setdefault(attempt.start.step, []).append(attempt.start.call_id)
    ran_ids = {call_id for ids in ran_by_step.values() for call_id in ids if call_id}
    # A retry is in the step of the call that it repeats: the calls of the step follow the last one.
    last_by_step = {item.call.start.step: number for number, item in enumerate(asked)}
    found = []
    for number, item in enumerate(asked):
        taken = item.alternatives[item.call.taken[0] if item.call.taken else 0]
        message = taken.message
        talk = item.talk
        talk.answer_key = key_of(message)
        talk.add(
            message,
            is_partial=has_untold(taken.value),
            is_answer=True,
            is_unfinished=taken.is_unfinished,
            sampled=taken.sampled,
        )
        ids = {call.call_id for call in message.calls if call.call_id}
        step = item.call.start.step
        # A call without an id, or an action that a text names, is known by its step alone.
        has_run = not ids.isdisjoint(ran_ids) or (
            last_by_step[step] == number
            and any(not ids or not call_id for call_id in ran_by_step.get(step, ()))
        )
        is_dropped = (
            item.node is not None
            and not requests.is_continued(item.node, talk.answer_key)
            and not has_run
            and requests.is_repeated(item.node, number)
        )
        found.append(Answered(item.call, talk, is_dropped or not item.call.taken))
    return found


def _read(calls: Sequence[ModelCall], requests: _Requests) -> list[_Asked]:
    # Each answer so far, with whether the model did not end it.
    said: dict[str, bool] = {}
    asked: list[_Asked] = []
    for call in calls:
        content = content_of(call)
        alternatives = _alternatives(call, content)
        if not alternatives:
            continue
        talk, node = _talk_of(call, content, said, requests, len(asked))
        for other in alternatives:
            key = key_of(other.message)
            said[key] = other.is_unfinished
            if node is not None:
                requests.add_sampled(node, key, other.sampled)
        asked.append(_Asked(call, talk, alternatives, node))
    return asked


def _alternatives(call: ModelCall, content: CallContent) -> list[_Alternative]:
    """Return the alternatives of an answer; none if it says nothing, or is an error."""
    answer = content.answer
    if answer is None or answer.error is not None:
        return []
    has_broken_off = call.outcome != "ok" or answer.is_complete is False
    n_output = answer.usage.output
    others = alternatives_of(content)
    if others:
        return [
            _Alternative(
                message,
                value,
                has_broken_off or is_stopped(reason),
                sampled_tokens(answer.value, number, n_output),
            )
            for number, (message, value, reason) in enumerate(others)
        ]
    calls = tuple(call for call in answer.calls if not call.choice)
    if answer.text is None and not calls:
        return []
    message = Message("assistant", answer.text or "", calls)
    is_unfinished = has_broken_off or is_stopped(answer.finish_reason)
    sampled = sampled_tokens(answer.value, 0, n_output)
    return [_Alternative(message, content.answered(), is_unfinished, sampled)]


def continues(keys: Sequence[str], earlier: Talk) -> bool:
    """Return whether a request has all messages of an earlier one, its answer, and more."""
    return list(keys[: len(earlier.keys) + 1]) == [*earlier.keys, earlier.answer_key]


def _talk_of(
    call: ModelCall,
    content: CallContent,
    said: Mapping[str, bool],
    requests: _Requests,
    number: int,
) -> tuple[Talk, int | None]:
    """Return the messages of a request, and the node at its end."""
    talk = Talk()
    # A request that continues an earlier answer by its id does not repeat the messages before.
    node = None if content.continues else 0
    talk.tools = [tool_row(tool) for tool in offered_tools(call)]
    read = [] if content.system is None else [(Message("system", content.system), None)]
    read += [content.message(value) for value in content.messages]
    for message, is_partial in turns_of(read):
        key = key_of(message)
        talk.keys.append(key)
        talk.add(
            message,
            is_partial=is_partial,
            is_answer=key in said,
            is_unfinished=said.get(key, False),
            sampled=None if node is None else requests.sampled(node, key),
        )
        node = None if node is None else requests.go_on(node, key, number)
    return talk, node
