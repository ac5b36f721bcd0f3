"""Event streams of OpenHands, version 0: an array of actions and observations, or benchmark output.

An observation names the action that caused it. Actions of one answer of the model are one turn.
"""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.reading import (
    Place,
    dicts_of,
    parse_arguments,
    text_of,
    texts_by_key,
)
from trajrec.exchange.records import (
    Call,
    Change,
    ImportedEpisode,
    Item,
    Message,
    Note,
    Turn,
    Verdict,
)
from trajrec.types import JsonObject, Value

ACTION = frozenset(("id", "timestamp", "source", "action", "args", "tool_call_metadata"))
OBSERVATION = frozenset(
    ("id", "timestamp", "source", "observation", "content", "cause", "tool_call_metadata")
)
EDIT = ("old_content", "new_content")
LINE = frozenset(("instance_id", "history", "test_result"))


def _is_event(record: JsonObject) -> bool:
    # Those of the SDK have objects in these places.
    is_named = str in (type(record.get("action")), type(record.get("observation")))
    return {"id", "source"} <= record.keys() and is_named


def _is_line(record: JsonObject) -> bool:
    return {"instance_id", "history"} <= record.keys() and type(record["history"]) is list


def _matches(candidate: Candidate) -> bool:
    if _is_line(candidate.first_record) and "metadata" in candidate.first_record:
        return True
    # A single event, as the files of a store hold, is no stream of them.
    return _is_event(candidate.first_record) and not candidate.fields


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    if _is_event(candidate.first_record):
        place = Place(candidate.path)
        events = [event for _, event in records_of(candidate, account, "an event")]
        yield _EventReader(place, account).read(events, "events")
        return

    def read(position: str, record: JsonObject) -> Iterator[ImportedEpisode]:
        place = Place(candidate.path, position)
        rest = account.take(record, "line", LINE)
        events = dicts_of(place, record.get("history"), "history")
        episode = _EventReader(place, account).read(events, position)
        episode.task = text_of(record.get("instance_id"))
        episode.extra = rest
        _add_verdict(record.get("test_result"), episode)
        yield episode

    yield from account.whole_parts(records_of(candidate, account, "a record"), read)


def _add_verdict(result: Value, episode: ImportedEpisode) -> None:
    """Add the verdict of a benchmark, if its report is there."""
    if result is None:
        return
    fields = texts_by_key(result)
    resolved = texts_by_key(fields.get("report")).get("resolved", fields.get("resolved"))
    is_judged = type(resolved) is bool
    episode.items.append(
        Verdict(
            check_id="resolved",
            family="programmatic",
            status="ok" if is_judged else "not_evaluated",
            verdict=resolved if is_judged else None,
            evidence=result,
            is_primary=True,
        )
    )


class _EventReader:
    def __init__(self, place: Place, account: Account) -> None:
        self._place = place
        self._account = account
        self._items: list[Item] = []
        self._calls: dict[object, Call] = {}
        self._metadata: dict[object, JsonObject] = {}
        self._responses: dict[str, Turn] = {}
        self._goal: Value = None
        self._model = ""
        self._has_finished = False

    def read(self, events: list[JsonObject], position: str) -> ImportedEpisode:
        """Return the episode of a stream of events."""
        times = [self._account.time(event.get("timestamp")) for event in events]
        known = [time_ns for time_ns in times if time_ns]
        for event, time_ns in zip(events, times, strict=True):
            self._add(event, time_ns)
        interface: JsonObject = {"scaffold": {"name": "OpenHands"}}
        if self._model:
            interface["base"] = {"model": self._model}
        return ImportedEpisode(
            position=position,
            goal=self._goal,
            start_ns=min(known, default=0),
            end_ns=max(known, default=0),
            interface=interface,
            items=self._items,
            ending="terminated" if self._has_finished else "unknown",
            claimed_done=True if self._has_finished else None,
        )

    def _add(self, event: JsonObject, time_ns: int) -> None:
        source = event.get("source")
        action = event.get("action")
        if type(action) is str and source == "agent":
            self._add_action(event, action, time_ns)
        elif action == "message" and source == "user":
            rest = self._account.take(event, "action", ACTION) or {}
            arguments = texts_by_key(event.get("args"))
            content = arguments.get("content")
            others = {k: v for k, v in arguments.items() if k != "content" and v is not None}
            extra = {**rest, "id": event.get("id"), **others}
            if event.get("args") is not None and type(event["args"]) is not dict:
                extra["args"] = event["args"]
            self._goal = self._goal or content
            value = {"role": "user", "content": content}
            self._items.append(Message(value=value, time_ns=time_ns, extra=extra))
        elif self._calls.get(_key(event.get("cause"))) is not None and "observation" in event:
            self._add_observation(event, time_ns)
        else:
            # Of the environment: it is no step of the agent, even if it is called an action.
            self._account.take(event, "event", frozenset(("source",)))
            self._items.append(Note(values=event))

    def _add_action(self, event: JsonObject, action: str, time_ns: int) -> None:
        rest = self._account.take(event, "action", ACTION) or {}
        metadata = self._place.optional(
            dict, event.get("tool_call_metadata"), "tool_call_metadata", {}
        )
        response = texts_by_key(metadata.get("model_response"))
        arguments = self._place.optional(dict, event.get("args"), "args", {})
        turn = self._turn(event, response, arguments, time_ns)
        self._has_finished = action == "finish" or (self._has_finished and action == "message")
        if action == "message" and not metadata:
            turn.extra = {**rest, **(turn.extra or {})}
            return
        name = metadata.get("function_name")
        call_id = metadata.get("tool_call_id")
        asked = _asked(response, call_id)
        given, invalid = parse_arguments(asked) if asked is not None else (arguments, "")
        # The turn has the answer, of which other actions may have another record under the same id.
        others = {k: v for k, v in metadata.items() if k != "model_response" or v != turn.answer}
        extra = {**rest, "id": event.get("id"), "action": action, "tool_call_metadata": others}
        if given is not arguments:
            extra["args"] = arguments
        call = Call(
            tool=name if type(name) is str else action,
            arguments=given,
            call_id=call_id if type(call_id) is str else "",
            invalid=invalid,
            start_ns=time_ns,
            extra={key: value for key, value in extra.items() if value not in (None, {})},
        )
        self._items.append(call)
        self._calls[_key(event.get("id"))] = call
        self._metadata[_key(event.get("id"))] = metadata

    def _turn(
        self, event: JsonObject, response: JsonObject, arguments: JsonObject, time_ns: int
    ) -> Turn:
        """Begin the turn of an action, unless another action of the same answer has; return it."""
        response_id = response.get("id")
        if type(response_id) is str and response_id in self._responses:
            return self._responses[response_id]
        choices = response.get("choices")
        first = texts_by_key(choices[0]) if type(choices) is list and choices else {}
        content = arguments.get("content", arguments.get("thought"))
        message = first.get("message")
        value: JsonObject = {"role": "assistant", "content": content}
        model = response.get("model")
        self._model = model if type(model) is str else self._model
        extra = None
        if not response:
            others = {k: v for k, v in arguments.items() if v is not content and v is not None}
            extra = {"id": event.get("id"), "message": event.get("message"), "args": others}
        turn = Turn(
            message=message if type(message) is dict else value,
            model=model if type(model) is str else "",
            answer=response or None,
            end_ns=time_ns,
            extra=extra,
        )
        self._items.append(turn)
        if type(response_id) is str:
            self._responses[response_id] = turn
        return turn

    def _add_observation(self, event: JsonObject, time_ns: int) -> None:
        rest = self._account.take(event, "observation", OBSERVATION, {"source": "agent"}) or {}
        call = self._calls.pop(_key(event.get("cause")))
        call.has_result = True
        call.result = event.get("content")
        call.end_ns = time_ns
        extras = texts_by_key(event.get("extras"))
        code = texts_by_key(extras.get("metadata")).get("exit_code", extras.get("exit_code"))
        kind = event.get("observation")
        if kind == "user_rejected":
            call.outcome = "error"
            call.origin = "user"
            call.error_type = "rejected"
            call.error = call.result if type(call.result) is str else ""
        elif kind == "error" or (type(code) is int and code > 0):
            call.outcome = "error"
            call.origin = "tool"
            call.error_type = "error" if kind == "error" else "exit code"
            text = event.get("content")
            is_text = kind == "error" and type(text) is str
            call.error = str(text) if is_text else f"exit code {code}"
        elif code == 0 or event.get("success") is True:
            call.outcome = "ok"
        # An exit code of -1 says that the command still runs: nobody knows how it ends.
        metadata = event.get("tool_call_metadata")
        if metadata is not None and metadata != self._metadata[_key(event.get("cause"))]:
            rest["tool_call_metadata"] = metadata
        elif texts_by_key(metadata).get("model_response") is not None:
            self._account.drop("an observation repeats the answer of its action")
        if any(extras.get(name) is not None for name in EDIT):
            path = extras.get("path")
            change = {name: extras.get(name) for name in EDIT}
            self._items.append(Change(part="files", value={"path": path, **change}))
            rest["extras"] = {k: v for k, v in extras.items() if k not in EDIT}
        call.result_extra = {**rest, "id": event.get("id"), "observation": kind}
        value: JsonObject = {"role": "tool", "content": event.get("content")}
        if call.call_id:
            value["tool_call_id"] = call.call_id
        self._items.append(Message(value=value))


def _key(value: Value) -> object:
    return value if type(value) in (int, str) else None


def _asked(response: JsonObject, call_id: Value) -> Value:
    """Return the arguments that the answer of the model gives a call; None if it has none."""
    for choice in response.get("choices") or ():
        message = texts_by_key(texts_by_key(choice).get("message"))
        for call in message.get("tool_calls") or ():
            fields = texts_by_key(call)
            if fields.get("id") == call_id:
                return texts_by_key(fields.get("function")).get("arguments")
    return None


FORMAT = Format(name="openhands", title="events of OpenHands", matches=_matches, read=_read)
