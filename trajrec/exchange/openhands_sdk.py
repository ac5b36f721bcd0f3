"""Events of OpenHands' SDK (version 1): lines of JSON, or `events/` beside `base_state.json`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.reading import (
    Place,
    parse_arguments,
    read_json,
    texts_by_key,
)
from trajrec.exchange.records import Call, ImportedEpisode, Item, Message, Note, Turn
from trajrec.types import JsonObject, Value

ACTION = frozenset(
    ("timestamp", "source", "thought", "tool_name", "tool_call_id", "tool_call", "kind")
)
RESULT = frozenset(("timestamp", "source", "tool_name", "tool_call_id", "observation", "kind"))
MESSAGE = frozenset(("timestamp", "source", "llm_message", "kind"))
STATE = "base_state.json"
KINDS = frozenset(
    (
        "ActionEvent",
        "ObservationEvent",
        "AgentErrorEvent",
        "UserRejectObservation",
        "MessageEvent",
        "SystemPromptEvent",
        "ConversationStateUpdateEvent",
        "PauseEvent",
        "Condensation",
        "CondensationRequest",
    )
)


def _is_event(record: JsonObject) -> bool:
    kind = record.get("kind")
    return type(kind) is str and kind in KINDS and "timestamp" in record


def _events(path: Path) -> list[Path]:
    return sorted((path / "events").glob("event-*.json"))


def _matches(candidate: Candidate) -> bool:
    if candidate.is_folder:
        return (candidate.path / STATE).is_file() and bool(_events(candidate.path))
    # A single event is no conversation, unless it is the first line of one.
    is_alone = bool(candidate.fields) and candidate.path.suffix != ".jsonl"
    return _is_event(candidate.first_record) and not is_alone


def _files(candidate: Candidate) -> list[Path]:
    if not candidate.is_folder:
        return [candidate.path]
    return [candidate.path / STATE, *_events(candidate.path)]


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    path = candidate.path
    reader = _EventReader(account)
    if not candidate.is_folder:
        for position, event in records_of(candidate, account, "an event"):
            with account.attempt(position):
                reader.add(event, Place(path, position))
        yield reader.finish(None)
        return
    state_place = Place(path / STATE)
    state = state_place.expect(dict, read_json(path / STATE), "the file")
    account.take(state, "state", frozenset(state))
    for file in _events(path):
        with account.attempt(file.name):
            place = Place(file, file.name)
            reader.add(place.expect(dict, read_json(file), "the file"), place)
    yield reader.finish(state)


class _EventReader:
    def __init__(self, account: Account) -> None:
        self._account = account
        self._items: list[Item] = []
        self._calls: dict[str, Call] = {}
        self._responses: dict[str, Turn] = {}
        self._times: list[int] = []
        self._goal: Value = None
        self._status = ""

    def add(self, event: JsonObject, place: Place) -> None:
        """Add an event."""
        kind = event.get("kind")
        time_ns = self._account.time(event.get("timestamp"))
        self._times += [time_ns] if time_ns else []
        if kind == "ActionEvent":
            self._add_action(event, place, time_ns)
        elif kind in ("ObservationEvent", "AgentErrorEvent", "UserRejectObservation"):
            self._add_result(event, place, time_ns)
        elif kind == "MessageEvent":
            self._add_message(event, place, time_ns)
        else:
            if event.get("key") == "execution_status" and type(event.get("value")) is str:
                self._status = event["value"]
            self._account.take(event, "event", frozenset(("kind",)))
            self._items.append(Note(values=event))

    def finish(self, state: JsonObject | None) -> ImportedEpisode:
        """Return the episode."""
        interface: JsonObject = {"scaffold": {"name": "OpenHands SDK"}}
        model = texts_by_key(texts_by_key((state or {}).get("agent")).get("llm")).get("model")
        if model is not None:
            interface["base"] = {"model": model}
        return ImportedEpisode(
            position="events",
            goal=self._goal,
            start_ns=min(self._times, default=0),
            end_ns=max(self._times, default=0),
            interface=interface,
            items=self._items,
            stop_reason="" if self._status == "running" else self._status,
            ending="terminated" if self._status == "finished" else "unknown",
            claimed_done=True if self._status == "finished" else None,
            extra=None if state is None else {"base_state": state},
        )

    def _add_action(self, event: JsonObject, place: Place, time_ns: int) -> None:
        # Before anything of the event is kept.
        tool = place.expect(str, event.get("tool_name"), "tool_name")
        call_id = place.optional(str, event.get("tool_call_id"), "tool_call_id", "")
        rest = self._account.take(event, "action", ACTION, {"source": "agent"})
        asked = texts_by_key(event.get("tool_call"))
        response = event.get("llm_response_id")
        turn = self._responses.get(response) if type(response) is str else None
        if turn is None:
            turn = Turn(
                message={"role": "assistant", "content": event.get("thought")},
                end_ns=time_ns,
            )
            self._items.append(turn)
            if type(response) is str:
                self._responses[response] = turn
        elif event.get("thought") not in (None, "", [], texts_by_key(turn.message).get("content")):
            rest = {**(rest or {}), "thought": event["thought"]}
        given = asked.get("arguments")
        arguments, invalid = parse_arguments(event.get("action") if given is None else given)
        # Its id repeats that of the event.
        repeated = {"arguments": asked.get("arguments"), "id": event.get("tool_call_id")}
        others: Value = {
            k: v for k, v in asked.items() if v is not None and (k, v) not in repeated.items()
        }
        if event.get("tool_call") is not None and type(event["tool_call"]) is not dict:
            others = event["tool_call"]
        if others:
            rest = {**(rest or {}), "tool_call": others}
        call = Call(
            tool=tool,
            arguments=arguments,
            call_id=call_id,
            invalid=invalid,
            start_ns=time_ns,
            extra=rest,
        )
        self._items.append(call)
        self._calls[call.call_id] = call

    def _add_result(self, event: JsonObject, place: Place, time_ns: int) -> None:
        is_agents = event.get("kind") == "AgentErrorEvent"
        is_refused = event.get("kind") == "UserRejectObservation"
        source = "agent" if is_agents else "environment"
        rest = self._account.take(event, "result", RESULT, {"source": source})
        call_id = place.optional(str, event.get("tool_call_id"), "tool_call_id", "")
        error = event.get("rejection_reason" if is_refused else "error")
        observation = event.get("observation", error)
        call = self._calls.pop(call_id, None) if call_id else None
        value: JsonObject = {"role": "tool", "content": observation, "tool_call_id": call_id}
        if call is None:
            self._account.note("results whose calls are not in the file stay messages")
            extra = {**(rest or {}), "tool_name": event.get("tool_name")}
            self._items.append(Message(value=value, time_ns=time_ns, extra=extra))
            return
        call.has_result = True
        call.result = observation
        call.end_ns = time_ns
        if event.get("tool_name") not in (None, call.tool):
            rest = {**(rest or {}), "tool_name": event["tool_name"]}
        call.result_extra = rest
        fields = texts_by_key(observation)
        code = texts_by_key(fields.get("metadata")).get("exit_code", fields.get("exit_code"))
        if is_refused:
            call.outcome = "error"
            call.origin = "user"
            call.error_type = "rejected"
            call.error = error if type(error) is str else ""
        elif is_agents or fields.get("is_error") is True or (type(code) is int and code > 0):
            call.outcome = "error"
            call.origin = "agent" if is_agents else "tool"
            call.error_type = "error"
            call.error = error if type(error) is str else ""
        elif fields.get("is_error") is False and code != -1:
            call.outcome = "ok"
        self._items.append(Message(value=value))

    def _add_message(self, event: JsonObject, place: Place, time_ns: int) -> None:
        rest = self._account.take(event, "message", MESSAGE)
        message = place.optional(dict, event.get("llm_message"), "llm_message", {})
        if event.get("source") == "agent":
            value = {**message, "role": "assistant"}
            if message.get("role") not in ("assistant", None):
                value["original_role"] = message["role"]
            value.setdefault("content", None)
            self._items.append(Turn(message=value, end_ns=time_ns, extra=rest))
            return
        role = message.get("role")
        value = dict(message)
        if type(role) is not str:
            value |= {"role": "user", "original_role": role}
        value.setdefault("content", None)
        self._goal = self._goal or value["content"]
        if event.get("source") != "user":
            rest = {**(rest or {}), "source": event.get("source")}
        self._items.append(Message(value=value, time_ns=time_ns, extra=rest))


FORMAT = Format(
    name="openhands-sdk",
    title="events of OpenHands' SDK",
    matches=_matches,
    read=_read,
    files=_files,
)
