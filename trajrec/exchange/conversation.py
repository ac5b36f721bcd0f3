"""An agent's episode in the order of its conversation: messages, and the turns between them."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TypeAlias

import msgspec

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.call_contents import CallContent, content_of, plain
from trajrec.corpus.episode import Episode
from trajrec.corpus.model_calls import ModelCall
from trajrec.corpus.said_messages import SaidMessage
from trajrec.corpus.untold_parts import untold_parts
from trajrec.exchange.chat import assistant, json_text, tool_call, tool_result
from trajrec.log.events import ModelStart, StepValues
from trajrec.log.source_facts import extra_of, messages_of
from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import as_dict, dicts_in

# Formats whose importers hold one conversation, in which each message has its own place.
_IN_ORDER = ("atif", "harbor")

# A log may state any number of steps, and claim all memory so: of more than these, only those with
# a record are told.
_MAX_STEPS = 1 << 20

# Fields of a message that `LoggedMessage.value` or `LoggedTurn.message` says.
_PLAIN_FIELDS = frozenset(("role", "content", "tool_call_id", "name", "type"))
_ANSWER_FIELDS = _PLAIN_FIELDS - {"name"} | {"tool_calls", "reasoning_content"}


class LoggedMessage(msgspec.Struct, kw_only=True):
    """A message that no model gave in this episode.

    Attributes:
        value: The message in the form of the API of chats.
        original: The message as its dialect writes it, if `value` leaves out parts of it.
        time_ns: Its time, 0 if unknown.
        extra: The facts that its importer found no place for.
    """

    value: JsonObject
    original: Value = None
    time_ns: int = 0
    extra: JsonObject | None = None


class LoggedTurn(msgspec.Struct, kw_only=True):
    """A step of the agent.

    Attributes:
        step: Its number.
        message: The answer of the model in the form of the API of chats; None if there is none.
        original: The answer as its dialect writes it, if `message` leaves out parts of it.
        model_calls: The attempts at model calls, in order; the last one that was answered gave
            `message`.
        calls: The tool calls of the step: the attempts at each.
        extra: The facts that its importer found no place for.
    """

    step: int
    message: JsonObject | None = None
    original: Value = None
    model_calls: list[ModelCall] = msgspec.field(default_factory=list)
    calls: list[list[Attempt]] = msgspec.field(default_factory=list)
    extra: JsonObject | None = None

    @property
    def answered(self) -> ModelCall | None:
        """The model call that gave the message; the last one if none was answered."""
        answered = [call for call in self.model_calls if call.has_answer]
        calls = answered or self.model_calls
        return calls[-1] if calls else None


Logged: TypeAlias = LoggedMessage | LoggedTurn


def conversation_of(episode: Episode) -> list[Logged]:
    """Return the messages and steps of an agent's episode, in order.

    Raises:
        LogCorruptError: The log has lost a value.
    """
    turns = {step: LoggedTurn(step=step) for step in _steps(episode)}
    for call in episode.transcript.model_calls:
        turns[call.start.step].model_calls.append(call)
    by_call: dict[tuple[int, int], list[Attempt]] = defaultdict(list)
    for attempt in episode.transcript.attempts:
        by_call[attempt.start.step, attempt.start.call].append(attempt)
    for (step, _), attempts in sorted(by_call.items()):
        turns[step].calls.append(attempts)
    if has_places(episode):
        return _in_order(episode, turns)
    return _as_told(episode, turns)


def _steps(episode: Episode) -> list[int]:
    """Return the steps of an episode, in order; also those that a damaged log has behind its end."""
    steps = {attempt.start.step for attempt in episode.transcript.attempts}
    steps |= {call.start.step for call in episode.transcript.model_calls}
    steps |= {e.step for e in episode.agent_events if isinstance(e, ModelStart | StepValues)}
    if episode.n_steps <= _MAX_STEPS:
        steps |= set(range(episode.first_step, episode.end_step))
    return sorted(step for step in steps if step >= 0)


def has_places(episode: Episode) -> bool:
    """Return whether each message of an episode has its own place, with its time and leftovers."""
    source = episode.source
    return source is not None and source.get("format") in _IN_ORDER


def leftovers(episode: Episode, data: bytes | None) -> JsonObject | None:
    """Return the facts of a record that its importer found no place for, None if there are none."""
    if data is None:
        return None
    extra = extra_of(episode.value(data))
    return extra if type(extra) is dict else None


def _in_order(episode: Episode, turns: dict[int, LoggedTurn]) -> list[Logged]:
    """Return the conversation of an imported episode: each message where the source has it."""
    reader = _OrderReader(episode, turns)
    for event in episode.agent_events:
        if isinstance(event, ModelStart):
            reader.add_messages([episode.value(data) for data in event.messages])
            reader.begin(event.step)
            turn = turns[event.step]
            call = turn.answered
            choices = dicts_in(as_dict(None if call is None else call.answer).get("choices"))
            turn.message = choices[0].get("message") if choices else None
            turn.extra = leftovers(episode, event.extra_data)
        elif isinstance(event, StepValues) and event.step > reader.last:
            reader.begin(event.step)
            values = as_dict(episode.value(event.values_data))
            turns[event.step].message = values.get("turn")
            reader.place(event.step, values.get("messages_before"))
            turns[event.step].extra = leftovers(episode, event.extra_data)
    # Calls whose turn a damaged log has lost.
    reader.begin(max(turns, default=-1))
    end = None if episode.end is None else episode.end.extra_data
    reader.add_messages(messages_of(None if end is None else episode.value(end)))
    return reader.logged


class _OrderReader:
    """Puts the turns of an imported episode between the messages of its requests."""

    def __init__(self, episode: Episode, turns: dict[int, LoggedTurn]) -> None:
        self.logged: list[Logged] = []
        self.last = -1
        self._ahead = deque(turns.values())
        # The turns since the last request, which the next one repeats, with the number of the
        # messages before each: an equal message may stand beside it.
        self._waiting: list[LoggedTurn] = []
        self._places: dict[int, int] = {}
        self._n_messages = 0
        self._facts = _message_facts(episode)

    def begin(self, step: int) -> None:
        """Begin a turn; those of steps that have no record of a turn come before it."""
        while self._ahead and self._ahead[0].step <= step:
            self._waiting.append(self._ahead.popleft())
        self.last = max(self.last, step)

    def place(self, step: int, n_messages: Value) -> None:
        """Note how many messages come before a turn."""
        if type(n_messages) is int:
            self._places[step] = n_messages

    def add_messages(self, messages: list[Value]) -> None:
        """Add the new messages of a request."""
        for value in messages:
            waiting = self._waiting
            n_before = self._places.get(waiting[0].step, 0) if waiting else 0
            if waiting and value == waiting[0].message and self._n_messages >= n_before:
                self.logged.append(waiting.pop(0))
                continue
            time_ns, extra = self._facts.get(self._n_messages, (0, None))
            self._n_messages += 1
            fields = as_dict(value)
            self.logged.append(LoggedMessage(value=fields, time_ns=time_ns, extra=extra))
        self.logged += self._waiting
        self._waiting = []


def _message_facts(episode: Episode) -> dict[int, tuple[int, JsonObject | None]]:
    """Return the times and leftovers of messages by their numbers."""
    facts: dict[int, tuple[int, JsonObject | None]] = {}
    for event in episode.agent_events:
        if isinstance(event, StepValues):
            values = as_dict(episode.value(event.values_data))
            number = values.get("message_number")
            if type(number) is int:
                time_ns = values.get("time_ns", 0)
                facts[number] = (time_ns, leftovers(episode, event.extra_data))
    return facts


def _as_told(episode: Episode, turns: dict[int, LoggedTurn]) -> list[Logged]:
    """Return the conversation of an episode as its model calls tell it."""
    by_step: dict[int, list[SaidMessage]] = defaultdict(list)
    for said in episode.messages:
        by_step[said.step].append(said)
    told = {
        (attempt.start.call_id, _text(attempt.result)) for attempt in episode.transcript.attempts
    }
    spoken = _without_model(episode, turns)
    logged: list[Logged] = []
    for step in sorted({*turns, *by_step}):
        for said in by_step[step]:
            # A result stands beside its call, unless the model was told another one.
            call_id = said.call_ids[0] if said.call_ids else ""
            is_known = said.role == "tool" and (call_id, said.text) in told
            if said.role == "assistant" and said.origin == "request" and said.text in spoken:
                spoken.remove(said.text)
            elif said.origin == "request" and not is_known:
                logged.append(_message(said))
        turn = turns.get(step)
        if turn is not None:
            _add_answer(episode, turn)
            logged.append(turn)
    return logged


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json_text(plain(value))


def _without_model(episode: Episode, turns: dict[int, LoggedTurn]) -> list[str]:
    """Give the turns without a model call their messages, and return the texts of these."""
    texts: list[str] = []
    for event in episode.agent_events:
        if isinstance(event, StepValues) and event.step in turns:
            turn = turns[event.step]
            message = as_dict(episode.value(event.values_data)).get("turn")
            if type(message) is dict and not turn.model_calls:
                turn.message = message
                turn.extra = leftovers(episode, event.extra_data)
                read, _ = CallContent("", [], None, None, None).message(message)
                texts.append(read.text)
    return texts


def _message(said: SaidMessage) -> LoggedMessage:
    fields = as_dict(said.value)
    has_more = bool(untold_parts(said.value)) or not _PLAIN_FIELDS.issuperset(fields)
    if "name" in fields if said.role != "tool" else not said.text:
        # A result without a text may be a picture.
        has_more = True
    original = said.value if has_more or said.role == "assistant" else None
    if said.role == "tool":
        call_id = said.call_ids[0] if said.call_ids else ""
        value = tool_result(call_id, said.text, said.tool or "")
    else:
        # All other words for a role are those of dialects, and say no more than ours.
        role = "developer" if fields.get("role") == "developer" else said.role
        value = {"role": role, "content": said.text}
    return LoggedMessage(value=value, original=original)


def _add_answer(episode: Episode, turn: LoggedTurn) -> None:
    """Give a turn the answer of its model call."""
    call = turn.answered
    if call is None:
        return
    turn.extra = leftovers(episode, call.start.extra_data)
    content = content_of(call)
    answer = content.answer
    if answer is None:
        return
    value = plain(content.answered())
    calls = [
        tool_call(asked.call_id or "", asked.name or "", plain(asked.arguments))
        for asked in answer.calls
        if not asked.choice
    ]
    reasoning = as_dict(value).get("reasoning_content")
    turn.message = assistant(answer.text, calls, reasoning_content=reasoning)
    others = {name for name, field in as_dict(value).items() if field is not None}
    if untold_parts(value) or others - _ANSWER_FIELDS or (answer.text is None and not calls):
        turn.original = value
