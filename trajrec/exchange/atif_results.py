"""Writes the tool calls of a step, and their results, as ATIF has them."""

from __future__ import annotations

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.call_contents import plain
from trajrec.corpus.episode import Episode
from trajrec.exchange.account import Account
from trajrec.exchange.atif import BY_POSITION
from trajrec.exchange.atif_fields import OURS, add_ours, content_of_value, restore
from trajrec.exchange.chat import json_text
from trajrec.exchange.conversation import LoggedMessage, LoggedTurn, has_places, leftovers
from trajrec.exchange.episode_facts import facts_of_call
from trajrec.exchange.reading import parse_arguments
from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import as_dict, dicts_in

_RESULT = ("subagent_trajectory_ref", "extra")


class Results:
    """Adds tool calls and results to one step.

    Args:
        account: Counts what is written.
        step: The step; None before the first.
    """

    def __init__(self, account: Account, step: JsonObject | None = None) -> None:
        self._account = account
        self._step = {} if step is None else step
        self._written: list[JsonObject] = []
        # The results that no message has told yet, by the ids of their calls.
        self._waiting: list[tuple[str, JsonObject]] = []

    def add_calls(self, turn: LoggedTurn, episode: Episode) -> None:
        """Add the calls of a turn: those that were tried, and those that the model asked for."""
        calls: list[JsonObject] = []
        asked = dicts_in((turn.message or {}).get("tool_calls"))
        for number, attempts in enumerate(turn.calls):
            last = attempts[-1]
            call_id = last.start.call_id or f"call_{turn.step}_{number}"
            if not last.start.call_id:
                self._account.note("calls without an id were given one")
            record: JsonObject = {
                "tool_call_id": call_id,
                "function_name": last.tool,
                "arguments": as_dict(plain(last.arguments)),
            }
            ours = facts_of_call(attempts)
            restore(record, leftovers(episode, last.start.extra_data) or {}, ("extra",), ours)
            add_ours(record, ours)
            calls.append(record)
            self._add_result(call_id, last, episode)
            _strike(asked, last)
        calls += [self._asked(call, turn, number) for number, call in enumerate(asked)]
        if calls:
            self._step["tool_calls"] = calls
            self._account.keep("call", len(calls))

    def _asked(self, call: JsonObject, turn: LoggedTurn, number: int) -> JsonObject:
        """Return a call that the model asked for and nobody tried, as far as is known."""
        function = as_dict(call.get("function"))
        arguments, invalid = parse_arguments(function.get("arguments"))
        record: JsonObject = {
            "tool_call_id": call.get("id") or f"asked_{turn.step}_{number}",
            "function_name": str(function.get("name") or ""),
            "arguments": arguments,
        }
        add_ours(record, {"not_recorded": True, **({"invalid": invalid} if invalid else {})})
        return record

    def _add_result(self, call_id: str, attempt: Attempt, episode: Episode) -> None:
        end = attempt.end
        if end is None:
            return
        left = leftovers(episode, end.extra_data)
        ours: JsonObject = {}
        if attempt.outcome not in ("unknown", "ok"):
            ours = {
                "outcome": attempt.outcome,
                "error_type": end.error_type,
                "message": end.message,
                "origin": end.origin,
            }
            ours = {name: value for name, value in ours.items() if value}
        record: JsonObject = {"source_call_id": call_id}
        if end.result_data is not None:
            # A document may have a result without content; a tool that returns None says so.
            if attempt.result is not None or not has_places(episode):
                record["content"] = content_of_value(attempt.result, ours)
        elif not ours and left is None:
            return
        elif end.message:
            record["content"] = end.message
        if left is not None and left.items() >= BY_POSITION.items():
            del record["source_call_id"]
            left = {name: value for name, value in left.items() if name not in BY_POSITION}
        restore(record, left or {}, _RESULT, ours)
        add_ours(record, ours)
        self._waiting.append((attempt.start.call_id, record))

    def add_message(self, item: LoggedMessage) -> None:
        """Add a result as a message tells it, at its place among the others."""
        call_id = item.value.get("tool_call_id")
        place = next((p for p in self._waiting if p[0] == call_id), None)
        content = item.value.get("content")
        if place is not None:
            self._waiting.remove(place)
            record = place[1]
            if content is not None and content_of_value(content, {}) != record.get("content"):
                # The program told the model something else than the tool returned.
                extra = record.setdefault("extra", {})
                extra.setdefault(OURS, {})["told"] = content
            self._add(record)
            return
        record = {}
        ours: JsonObject = {}
        if content is not None:
            record["content"] = content_of_value(content, ours)
        if isinstance(call_id, str):
            calls = self._step.get("tool_calls")
            ids = [call.get("tool_call_id") for call in dicts_in(calls)]
            holder = record if calls is None or call_id in ids else ours
            holder["source_call_id"] = call_id
        if item.original is not None:
            ours["message"] = plain(item.original)
        restore(record, item.extra or {}, _RESULT, ours)
        add_ours(record, ours)
        self._add(record)

    def close(self) -> None:
        """Add the results that no message has told."""
        for _, record in self._waiting:
            self._add(record)
        self._waiting = []

    def _add(self, record: JsonObject) -> None:
        observation = self._step.setdefault("observation", {"results": []})
        observation.setdefault("results", []).append(record)
        self._account.keep("result")


def _strike(asked: list[JsonObject], attempt: Attempt) -> None:
    """Remove a call that was tried from those that the model asked for."""
    call_id = attempt.start.call_id
    for call in asked:
        function = as_dict(call.get("function"))
        is_same = function.get("name") == attempt.tool and _same(
            function.get("arguments"), attempt.arguments
        )
        if (call.get("id") == call_id) if call_id else is_same:
            asked.remove(call)
            return


def _same(text: Value, arguments: JsonObject) -> bool:
    return bool(parse_arguments(text)[0] == plain(arguments)) or text == json_text(plain(arguments))
