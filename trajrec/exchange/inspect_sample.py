"""A sample of Inspect: its events, or its messages if it has no events."""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.inspect_conversation import read_conversation, set_result
from trajrec.exchange.inspect_endings import add_ending
from trajrec.exchange.inspect_messages import SampleMessages, odd_stores
from trajrec.exchange.inspect_scores import verdicts_of
from trajrec.exchange.reading import Place, dicts_of, parse_arguments, texts_by_key
from trajrec.exchange.records import (
    Call,
    Change,
    Effect,
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
EVENT = frozenset(("event",))
CHANGES = frozenset(("event", "changes"))
SANDBOX = frozenset(("event", "timestamp", "action"))


def read_sample(
    sample: JsonObject, place: Place, position: str, account: Account
) -> Iterator[ImportedEpisode]:
    """Yield the episode of a sample, and those of the agents that it called as tools."""
    rest = account.take(sample, "sample", SAMPLE) or {}
    rest |= odd_stores(sample)
    messages = SampleMessages(sample, place)
    goal, ids = _goal_and_ids(messages.resolved(sample.get("input")))
    if ids:
        rest["ids of the input"] = ids
    episode = ImportedEpisode(
        position=position,
        goal=goal,
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
    add_ending(sample, events, place, account, episode)
    rest |= messages.unreferred()
    if messages.rewritten:
        rest["rewritten messages"] = messages.rewritten
    episode.extra = rest or None
    yield episode
    yield from reader.nested


def _goal_and_ids(value: Value) -> tuple[Value, list[Value]]:
    """Return an input without the ids of its messages, and the ids: each run draws new ones."""
    if type(value) is not list or not all(type(message) is dict for message in value):
        return value, []
    ids = [message["id"] for message in value if message.get("id") is not None]
    return [{name: message[name] for name in message if name != "id"} for message in value], ids


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
        # The spans of scorers; in older logs, the step of the scorer that runs now.
        self._scorers: set[str] = set()
        self._scoring = ""
        self._n_scorings = 0
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
                if event.get("type") == "scorer":
                    self._scorers.add(event["id"])
        # The span of an agent that is called as a tool; its events come behind the call's.
        for event in events:
            span = event.get("agent_span_id")
            if event.get("event") == "tool" and type(span) is str:
                self._begin_nested(span)
        for event in events:
            self._follow_steps(event)
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
        """Return the episode of an event: that of the innermost agent whose span it is in.

        The calls of a scorer, such as those of a judge, are of an episode of their own: the agent
        has neither made nor seen them.
        """
        is_call = event.get("event") in ("model", "tool")
        span = event.get("span_id")
        seen = set()
        while type(span) is str and span not in seen:
            if span in self._agents:
                return self._agents[span]
            if is_call and span in self._scorers:
                return self._begin_scorer(span)
            seen.add(span)
            span = self._spans.get(span)
        if is_call and self._scoring:
            return self._agents.get(self._scoring) or self._begin_scorer(self._scoring)
        return self._episode

    def _begin_scorer(self, span: str) -> ImportedEpisode:
        nested = self._begin_nested(span)
        nested.caller_step = self._steps.get(self._episode.position, -1)
        return nested

    def _follow_steps(self, event: JsonObject) -> None:
        """Follow the steps of an older log, which has no spans."""
        if event.get("event") == "step" and event.get("type") == "scorer":
            self._n_scorings += 1
            is_begin = event.get("action") == "begin"
            self._scoring = f"of scorer {self._n_scorings}" if is_begin else ""

    def _add(self, event: JsonObject, owner: ImportedEpisode) -> None:
        kind = event.get("event")
        if kind == "model":
            self._flush_notes(owner)
            owner.items.append(self._turn(event, owner))
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

    def _turn(self, event: JsonObject, owner: ImportedEpisode) -> Turn:
        place = self._place
        messages = self._messages
        rest = self._account.take(event, "event model", MODEL)
        request = messages.request(event)
        output = place.optional(dict, event.get("output"), "output", {})
        if owner is self._episode:
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
        if error is not None and answer is not None and not _says_anything(answer["choices"]):
            # Inspect writes an empty message in place of no answer.
            answer = None
        if (is_open or answer is None) and output:
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


def _says_anything(choices: list[Value]) -> bool:
    """Return whether a message of an answer has a content or a call."""
    said = (texts_by_key(texts_by_key(choice).get("message")) for choice in choices)
    return any(message.get("content") or message.get("tool_calls") for message in said)


def _is_pending(event: JsonObject, result: Value) -> bool:
    """Return whether an event has not ended; one that has a result or an error has."""
    ended = (event.get("completed"), event.get("error"), result or None)
    return event.get("pending") is True and ended == (None, None, None)
