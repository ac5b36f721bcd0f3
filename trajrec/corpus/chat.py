"""Conversations of an episode in the form that trainers of chat models read.

A request repeats the messages before it, so the last request of a conversation, with its answer, is
the whole of it, exactly as the model saw it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from trajrec.corpus.answers import Answered, answered_calls, continues
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.call_contents import CallContent
from trajrec.corpus.chat_rows import Talk
from trajrec.corpus.episode import Episode
from trajrec.corpus.untold_parts import has_untold, has_untold_result
from trajrec.datasets.token_spans import ChatTokenizer, token_spans
from trajrec.log.schema import Check
from trajrec.types import JsonObject, Value
from trajrec.values.json import to_json
from trajrec.wire.contents import Message, ToolCall
from trajrec.wire.sampled_tokens import SampledTokens

Source = Literal["model calls", "messages", "tool calls"]


class Conversation(msgspec.Struct, kw_only=True):
    """One conversation of an agent with a model.

    Attributes:
        episode_id: Its episode.
        task: The episode's task, "" if it had none.
        number: The number of the conversation in its episode, from 0.
        messages: The messages: dicts with "role" and "content"; an assistant's also "tool_calls",
            each with its arguments as JSON text; a tool's also "tool_call_id" and "name".
        answers: The numbers of the messages that a model said in this episode; those of examples in
            a prompt are none.
        omitted: The numbers of the messages that had images, files or reasoning too, which are left
            out.
        unfinished: The numbers of the answers that the model did not end: the stream broke off, or a
            limit of tokens or a filter stopped it. The end of such a turn is not the model's.
        sampled: The tokens of each of `answers`, as its server told them; None if it did not, or if
            two answers to one prompt are equal, so that nothing tells whose tokens these are.
        is_dropped: Whether the agent dropped the last answer: it asked again with the same
            messages, and none of the answer's tool calls ran; or it is unknown which of several
            alternatives it took.
        tools: The tools on offer, each {"type": "function", "function": {...}}.
        source: The records that the messages come from: "model calls" as the model saw them;
            "messages" of an imported record; "tool calls", if no model call was recorded, of which
            each decision is a message.
        outcome: "success" or "failure" by the primary check; None if it gave no verdict.
        total_reward: The sum of the rewards of the episode; NaN if it has none, as those of agents,
            or if they are no numbers.
        checks: The checks of the episode, each with "check_id", "verdict" and "score".
    """

    episode_id: str
    task: str
    number: int
    messages: list[JsonObject]
    answers: list[int]
    omitted: list[int]
    unfinished: list[int]
    sampled: list[SampledTokens | None]
    is_dropped: bool
    tools: list[JsonObject]
    source: Source
    outcome: str | None
    total_reward: float
    checks: list[JsonObject]

    def as_dict(self) -> JsonObject:
        """Return the conversation as a dict, a row of a data set."""
        row = {name: getattr(self, name) for name in self.__struct_fields__}
        row["sampled"] = [
            None if one is None else msgspec.structs.asdict(one) for one in self.sampled
        ]
        return row

    def token_spans(self, tokenizer: ChatTokenizer) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of the conversation, and the half-open span of each answer in them.

        Args:
            tokenizer: One with a chat template, as those of transformers.

        Raises:
            ValueError: The template changes a message when others follow it, or the tokens of a
                span do not say its text: no span would be right.
        """
        return token_spans(self.messages, self.answers, tokenizer, tools=self.tools)


class Decision(NamedTuple):
    """What an agent said at a step, in the form of `Conversation.messages`.

    Attributes:
        before: The messages that it had then.
        answer: Its message.
        results: The results of the calls in it.
        tools: The tools on offer.
        has_omitted: Whether a message before, the answer or a result had images, files or reasoning
            too, which are left out.
        is_unfinished: Whether the model did not end its message: see `Conversation.unfinished`.
    """

    before: list[JsonObject]
    answer: JsonObject
    results: list[JsonObject]
    tools: list[JsonObject]
    has_omitted: bool = False
    is_unfinished: bool = False


def decisions(episode: Episode) -> dict[int, Decision]:
    """Return the decisions of an agent's episode by step, the last one of each step.

    They come from the model calls, and from the tool calls at steps without one: nothing was
    recorded of the model then, or, in a fork, its answer came from the recording. Answers that the
    agent dropped are left out: `dropped_steps`.
    """
    transcript = episode.transcript
    answered = _answered(episode)
    with_answer = {item.call.start.step for item in answered}
    steps = {attempt.start.step for attempt in transcript.attempts}
    found = {} if steps <= with_answer else _of_attempts(episode)
    # Some servers give the calls of each answer the same ids: they tell calls of one step apart.
    by_step: dict[int, list[Attempt]] = {}
    for attempt in transcript.attempts:
        by_step.setdefault(attempt.start.step, []).append(attempt)
    for number, (call, talk, is_dropped) in enumerate(answered):
        if is_dropped:
            continue
        *before, answer = talk.messages
        results: list[JsonObject] = []
        has_omitted = bool(talk.omitted)
        # Calls of other agents, and of alternatives, may lie between.
        after = (item.talk for item in itertools.islice(answered, number + 1, None))
        later = next((other for other in after if continues(other.keys, talk)), None)
        if later is not None:
            # Without its own answer: a request may end with the results.
            first = len(talk.messages)
            results = _results(later.messages[first:-1])
            places = range(first, first + len(results))
            has_omitted = has_omitted or not set(places).isdisjoint(later.omitted)
        results = results or _results_by_id(by_step.get(call.start.step, ()), answer)
        found[call.start.step] = Decision(
            before,
            answer,
            results,
            talk.tools,
            has_omitted=has_omitted,
            is_unfinished=talk.unfinished[-1:] == [len(before)],
        )
    return found


def dropped_steps(episode: Episode) -> frozenset[int]:
    """Return the steps of an agent's episode whose answer the agent dropped; see `Answered`."""
    answered = _answered(episode)
    kept = {item.call.start.step for item in answered if not item.is_dropped}
    return frozenset(item.call.start.step for item in answered) - kept


def _answered(episode: Episode) -> list[Answered]:
    transcript = episode.transcript
    return answered_calls(transcript.model_calls, transcript.attempts)


def _before_fork(episode: Episode) -> Decision | None:
    """Return what a fork's parent had said before its first step; None if it is no fork.

    The decision at that step is another one in the fork: only the messages before it are the same.
    """
    parent = episode.parent
    if parent is None:
        return None
    found = decisions(parent)
    if episode.first_step in found:
        return found[episode.first_step]
    earlier = [step for step in found if step < episode.first_step]
    if not earlier:
        return None
    last = found[max(earlier)]
    return last._replace(before=[*last.before, last.answer, *last.results])


def _of_attempts(episode: Episode) -> dict[int, Decision]:
    talk = _of_tool_calls(episode)
    steps = sorted({attempt.start.step for attempt in episode.transcript.attempts})
    return {
        step: Decision(
            talk.messages[:place],
            talk.messages[place],
            _results(talk.messages[place + 1 :]),
            talk.tools,
        )
        for step, place in zip(steps, talk.answers, strict=True)
    }


def _results(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Return the messages before the first one that is no result of a tool."""
    return list(itertools.takewhile(lambda message: message["role"] == "tool", messages))


def _results_by_id(attempts: Sequence[Attempt], answer: JsonObject) -> list[JsonObject]:
    """Return the results of the calls of an answer that no later request has."""
    # Of several attempts at a call, the last.
    # A call that never ended has no result, and one that never ran neither.
    by_id = {
        attempt.start.call_id: attempt
        for attempt in attempts
        if attempt.start.call_id and (attempt.end is not None or attempt.result is not None)
    }
    return [
        _result(by_id[call["id"]], call["id"])
        for call in answer.get("tool_calls", ())
        if call["id"] in by_id
    ]


def _result(attempt: Attempt, call_id: str | None) -> JsonObject:
    text = _text(attempt.result)
    if attempt.has_failed and attempt.end is not None:
        text = attempt.end.message
    return {
        "role": "tool",
        "tool_call_id": call_id,
        "name": attempt.tool,
        "content": text,
    }


def conversations(episode: Episode) -> Iterator[Conversation]:
    """Yield the conversations of an agent's episode, in the order of their first model calls.

    A conversation that is continued, or that another one repeats, counts once; one whose earlier
    messages were changed or left out is another one from there on.
    """
    transcript = episode.transcript
    found = _of_model_calls(_answered(episode))
    source: Source = "model calls"
    if not found and episode.messages:
        found = [(_of_messages(episode), False)]
        source = "messages"
    elif not found and transcript.attempts:
        found = [(_of_tool_calls(episode), False)]
        source = "tool calls"
    task = "" if episode.task_start is None else episode.task_start.task
    for number, (talk, is_dropped) in enumerate(found):
        yield Conversation(
            episode_id=episode.id,
            task=task,
            number=number,
            messages=talk.messages,
            answers=talk.answers,
            omitted=talk.omitted,
            unfinished=talk.unfinished,
            sampled=talk.sampled,
            is_dropped=is_dropped,
            tools=talk.tools,
            source=source,
            outcome=episode.outcome,
            total_reward=math.nan if episode.is_agent_episode else episode.total_reward,
            checks=[_check(check) for check in episode.checks],
        )


def _check(check: Check) -> JsonObject:
    return {"check_id": check.check_id, "verdict": check.verdict, "score": check.score}


def _of_model_calls(answered: Sequence[Answered]) -> list[tuple[Talk, bool]]:
    """Return the conversations of model calls, each with whether its last answer was dropped."""
    found: list[tuple[Talk, bool]] = []
    for _, talk, is_dropped in answered:
        places = (i for i, (earlier, _) in enumerate(found) if continues(talk.keys, earlier))
        place = next(places, None)
        if place is None:
            found.append((talk, is_dropped))
        else:
            found[place] = (talk, is_dropped)
    return found


def _of_messages(episode: Episode) -> Talk:
    """Return the messages of an imported episode, whose requests are not known."""
    talk = Talk()
    content = CallContent("", [], None, None, None)
    for said in episode.messages:
        message, value = content.message(said.value)
        if said.role == "tool":
            if any(map(has_untold_result, message.results)):
                talk.omitted.append(len(talk.messages))
            row = {"role": "tool", "content": said.text, "name": said.tool}
            talk.messages.append(row | {"tool_call_id": next(iter(said.call_ids), None)})
        else:
            calls = message.calls
            is_answer = said.role == "assistant"
            said_message = Message(said.role, said.text, calls)
            talk.add(said_message, is_partial=has_untold(value), is_answer=is_answer)
    return talk


def _of_tool_calls(episode: Episode) -> Talk:
    """Return the goal, and each decision with its results, of an episode without model calls.

    A fork begins with the conversation of its parent.
    """
    talk = Talk()
    start = episode.task_start
    goal: Any = None if start is None else episode.value(start.goal_data)
    history = _before_fork(episode)
    if history is not None:
        talk.messages += history.before
        talk.tools = history.tools
    elif goal is not None:
        talk.messages.append({"role": "user", "content": _text(goal)})
    by_step: dict[int, list[Any]] = {}
    for attempt in episode.transcript.attempts:
        # Later attempts repeat a call without a decision of the agent; the last has the result.
        by_step.setdefault(attempt.start.step, []).append(attempt)
    for step, attempts in sorted(by_step.items()):
        last = {attempt.start.call: attempt for attempt in attempts}
        calls = [
            ToolCall(f"call_{step}_{number}", attempt.tool, attempt.arguments, False, number)
            for number, attempt in sorted(last.items())
        ]
        talk.add(Message("assistant", "", tuple(calls)), is_partial=False, is_answer=True)
        for call in calls:
            talk.messages.append(_result(last[call.number], call.call_id))
    return talk


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(json.loads(to_json(value)))
