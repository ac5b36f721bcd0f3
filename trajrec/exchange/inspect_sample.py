"""A sample of Inspect: its events, or its messages if it has no events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from trajrec.exchange.account import Account
from trajrec.exchange.inspect_conversation import read_conversation, set_result
from trajrec.exchange.inspect_messages import SampleMessages, odd_stores
from trajrec.exchange.inspect_scores import verdicts_of
from trajrec.exchange.reading import Place, dicts_of, parse_arguments, texts_by_key
from trajrec.exchange.records import (
    Call,
    Change,
    Effect,
    Fault,
    ImportedEpisode,
    Message,
    Note,
    Turn,
)
from trajrec.types import JsonObject, Value

SAMPLE = frozenset(
    (
        "id",
        "epoch",
        "input",
        "messages",
        "output",
        "scores",
        "events",
        "events_data",
        "message_pool",
        "attachments",
        "transcript",
        "started_at",
        "completed_at",
        "model_usage",
        "error",
        "error_retries",
        "limit",
    )
)
MODEL = frozenset(
    (
        "event",
        "timestamp",
        "completed",
        "model",
        "input",
        "input_refs",
        "tools",
        "tool_choice",
        "config",
        "output",
        "error",
    )
)
TOOL = frozenset(
    (
        "event",
        "timestamp",
        "completed",
        "id",
        "function",
        "arguments",
        "result",
        "error",
        "events",
        "agent_span_id",
    )
)
ERROR = frozenset(("message", "traceback"))
EVENT = frozenset(("event",))
CHANGES = frozenset(("event", "changes"))
SANDBOX = frozenset(("event", "timestamp", "action"))

# The `repr` of an exception: the text of others may have a bracket anywhere.
_ERROR_CLASS = re.compile(r"([^\W\d][\w.]{0,78})\(")


def read_sample(
    sample: JsonObject, place: Place, position: str, account: Account
) -> Iterator[ImportedEpisode]:
    """Yield the episode of a sample, and those of the agents that it called as tools."""
    rest = account.take(sample, "sample", SAMPLE) or {}
    rest |= odd_stores(sample)
    messages = SampleMessages(sample, place)
    episode = ImportedEpisode(
        position=position,
        goal=messages.resolved(sample.get("input")),
        start_ns=account.time(sample.get("started_at")),
        end_ns=account.time(sample.get("completed_at")),
        reported={"model_usage": sample["model_usage"]} if sample.get("model_usage") else None,
    )
    events = _events_of(sample, place)
    reader = _EventReader(messages, account, place, episode)
    if any(event.get("event") in ("model", "tool") for event in events):
        reader.read(events)
        reader.add_rest(sample)
    else:
        reader.read(events)
        read_conversation(sample, messages, episode.items, account, place)
        output = sample.get("output")
        if output is not None:
            rest["output"] = messages.resolved(output)
    episode.items += verdicts_of(sample, events, place, account, reader.is_own)
    _add_ending(sample, place, account, episode)
    rest |= messages.unreferred()
    episode.extra = rest or None
    yield episode
    yield from reader.nested


def _events_of(sample: JsonObject, place: Place) -> list[JsonObject]:
    events = sample.get("events")
    if not events:
        # In older logs.
        events = texts_by_key(sample.get("transcript")).get("events")
    return dicts_of(place, events, "events")


class _EventReader:
    """Turns the events of a sample into items.

    Attributes:
        nested: The episodes of agents that were called as tools.
    """

    def __init__(
        self, messages: SampleMessages, account: Account, place: Place, episode: ImportedEpisode
    ) -> None:
        self._messages = messages
        self._account = account
        self._place = place
        self._episode = episode
        self._spans: dict[str, str | None] = {}
        self._agents: dict[str, ImportedEpisode] = {}
        self._waiting: dict[str, list[Value]] = {}
        self._steps: dict[str, int] = {}
        self._last_output: Value = None
        self.nested: list[ImportedEpisode] = []

    def read(self, events: list[JsonObject]) -> None:
        """Read all events."""
        for event in events:
            if event.get("event") == "span_begin" and type(event.get("id")) is str:
                parent = event.get("parent_id")
                self._spans[event["id"]] = parent if type(parent) is str else None
        # The span of an agent that is called as a tool; its events come behind the call's.
        for event in events:
            span = event.get("agent_span_id")
            if event.get("event") == "tool" and type(span) is str:
                self._begin_nested(span)
        for event in events:
            self._add(event, self._owner(event))
        for owner in (self._episode, *self.nested):
            self._flush_notes(owner)

    def _begin_nested(self, span: str) -> ImportedEpisode:
        episode = self._agents.get(span)
        if episode is None:
            position = f"{self._episode.position} span {span}"
            episode = ImportedEpisode(position=position, caller=self._episode.position)
            self._agents[span] = episode
            self.nested.append(episode)
        return episode

    def is_own(self, event: JsonObject) -> bool:
        """Return whether an event is of the sample's own agent, and of none that it called."""
        return self._owner(event) is self._episode

    def _owner(self, event: JsonObject) -> ImportedEpisode:
        """Return the episode of an event: that of the innermost agent whose span it is in."""
        if not self._agents:
            return self._episode
        span = event.get("span_id")
        seen = set()
        while type(span) is str and span not in seen:
            if span in self._agents:
                return self._agents[span]
            seen.add(span)
            span = self._spans.get(span)
        return self._episode

    def _add(self, event: JsonObject, owner: ImportedEpisode) -> None:
        kind = event.get("event")
        if kind == "model":
            self._flush_notes(owner)
            owner.items.append(self._turn(event))
            self._steps[owner.position] = self._steps.get(owner.position, -1) + 1
        elif kind == "tool":
            self._add_call(event, owner)
        elif kind in ("store", "state"):
            rest = self._account.take(event, f"event {kind}", CHANGES)
            value = self._messages.resolved(event.get("changes"))
            owner.items.append(Change(part=str(kind), value=value, extra=rest))
        elif kind == "sandbox":
            self._add_effect(event, owner)
        elif kind not in ("score", "score_edit"):
            self._account.take(event, "event", EVENT)
            self._waiting.setdefault(owner.position, []).append(self._messages.resolved(event))

    def _flush_notes(self, owner: ImportedEpisode) -> None:
        """Add the events that have no place of their own, as one record."""
        waiting = self._waiting.pop(owner.position, None)
        if waiting:
            owner.items.append(Note(values={"events": waiting}))

    def _turn(self, event: JsonObject) -> Turn:
        place = self._place
        messages = self._messages
        rest = self._account.take(event, "event model", MODEL)
        request = messages.request(event)
        output = place.optional(dict, event.get("output"), "output", {})
        self._last_output = output
        answer = {**output, "choices": self._choices(output)} if output else None
        config = texts_by_key(event.get("config"))
        if type(event.get("config")) not in (dict, type(None)):
            rest = {**(rest or {}), "config": event["config"]}
        parameters = {name: value for name, value in config.items() if value is not None}
        for name in ("tools", "tool_choice"):
            if event.get(name):
                parameters[name] = event[name]
        error = event.get("error")
        is_open = _is_pending(event, output.get("choices"))
        if is_open and output:
            rest = {**(rest or {}), "output": output}
        return Turn(
            message=None,
            model=place.optional(str, event.get("model"), "model", ""),
            answer=answer,
            request=request,
            parameters=parameters,
            start_ns=self._account.time(event.get("timestamp")),
            end_ns=self._account.time(event.get("completed")),
            error="" if error is None else str(error),
            error_type="" if error is None else "inspect.ModelError",
            is_open=is_open,
            extra=messages.resolved(rest),
        )

    def _choices(self, output: JsonObject) -> list[Value]:
        """Return the choices of an answer, with messages in the form of chats."""
        choices = []
        for choice in dicts_of(self._place, output.get("choices"), "choices"):
            chosen = dict(choice)
            if type(choice.get("message")) is dict:
                chosen["message"] = self._messages.answer(choice["message"])
            if choice.get("stop_reason"):
                chosen["finish_reason"] = choice["stop_reason"]
            choices.append(chosen)
        return choices

    def _add_call(self, event: JsonObject, owner: ImportedEpisode) -> None:
        place = self._place
        rest = self._account.take(event, "event tool", TOOL)
        if type(event.get("agent_span_id")) not in (str, type(None)):
            rest = {**(rest or {}), "agent_span_id": event["agent_span_id"]}
        arguments, invalid = parse_arguments(event.get("arguments"))
        call = Call(
            tool=place.expect(str, event.get("function"), "function"),
            arguments=self._messages.resolved(arguments),
            call_id=place.optional(str, event.get("id"), "id", ""),
            invalid=invalid,
            start_ns=self._account.time(event.get("timestamp")),
            end_ns=self._account.time(event.get("completed")),
            extra=self._messages.resolved(rest),
        )
        set_result(call, self._messages.resolved(event.get("result")), event.get("error"), place)
        if _is_pending(event, event.get("result")):
            call.outcome = "open"
        owner.items.append(call)
        step = max(self._steps.get(owner.position, -1), 0)
        span = event.get("agent_span_id")
        if type(span) is str:
            nested = self._agents[span]
            nested.caller = owner.position
            nested.caller_step = step
        inner = dicts_of(place, event.get("events"), "events of a tool")
        if inner:
            # Older logs hold the events of an agent inside of the call.
            nested = self._begin_nested(f"of call {call.call_id} {len(self.nested)}")
            nested.caller = owner.position
            nested.caller_step = step
            for item in inner:
                self._add(item, nested)

    def _add_effect(self, event: JsonObject, owner: ImportedEpisode) -> None:
        rest = self._messages.resolved(self._account.take(event, "event sandbox", SANDBOX)) or {}
        value = {key: rest.pop(key) for key in ("result", "output") if key in rest}
        owner.items.append(
            Effect(
                name=f"sandbox {event.get('action')}",
                arguments=rest,
                value=value,
                time_ns=self._account.time(event.get("timestamp")),
            )
        )

    def add_rest(self, sample: JsonObject) -> None:
        """Add the messages of the last state that no request or answer has."""
        last = dicts_of(self._place, sample.get("messages"), "messages")
        self._episode.items += [Message(value=value) for value in self._messages.unsaid(last)]
        output = sample.get("output")
        if output is not None and output != self._last_output:
            values = {"output": self._messages.resolved(output)}
            self._episode.items.append(Note(values=values))


def _is_pending(event: JsonObject, result: Value) -> bool:
    """Return whether an event has not ended; one that has a result or an error has."""
    ended = (event.get("completed"), event.get("error"), result or None)
    return event.get("pending") is True and ended == (None, None, None)


def _add_ending(
    sample: JsonObject, place: Place, account: Account, episode: ImportedEpisode
) -> None:
    """Add how a sample ended: by a limit, by an error, or by itself."""
    phase: Literal["loop"] = "loop"
    for record in dicts_of(place, sample.get("error_retries"), "error_retries"):
        rest = account.take(record, "error retry", ERROR) or {}
        episode.items.append(_fault(record, place, extra={**rest, "is_retried": True}))
    error = place.optional(dict, sample.get("error"), "error", {})
    if error:
        rest = account.take(error, "error", ERROR) or {}
        fault = _fault(error, place, extra=rest or None)
        fault.phase = phase
        episode.items.append(fault)
        episode.ending = "error"
    if sample.get("limit") is not None:
        limit = place.expect(dict, sample["limit"], "limit")
        account.keep("limit", len(limit))
        episode.ending = "error" if error else "truncated"
        episode.stop_reason = f"limit: {limit.get('type')}"
        episode.items.append(Note(values={"limit": limit}))
    elif not error and (sample.get("completed_at") is not None or sample.get("scores")):
        episode.ending = "terminated"


def _fault(record: JsonObject, place: Place, extra: JsonObject | None) -> Fault:
    message = place.optional(str, record.get("message"), "error.message", "")
    error_class = _ERROR_CLASS.match(message)
    return Fault(
        error_type="" if error_class is None else error_class[1],
        message=message,
        traceback=place.optional(str, record.get("traceback"), "error.traceback", ""),
        extra=extra,
    )
