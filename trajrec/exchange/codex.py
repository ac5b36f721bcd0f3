"""Sessions of Codex: lines of JSON with the items of the Responses API.

Items of the model up to the next input are one turn. Sessions hold personal data, so secrets are
removed from them by default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.reading import (
    Place,
    parse_arguments,
    parse_json,
    texts_by_key,
)
from trajrec.exchange.records import Call, ImportedEpisode, Item, Message, Note, Outcome, Turn
from trajrec.types import JsonObject, Value

LINE = frozenset(("timestamp", "type", "payload"))
CALL = frozenset(("type", "call_id", "name", "arguments", "input", "action"))
OUTPUT = frozenset(("type", "call_id", "output"))
ITEM = frozenset(("type",))

ITEMS = frozenset(
    (
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "local_shell_call",
        "web_search_call",
    )
)
CALLS = frozenset(("function_call", "custom_tool_call", "local_shell_call", "web_search_call"))
OUTPUTS = frozenset(("function_call_output", "custom_tool_call_output"))


def _matches(candidate: Candidate) -> bool:
    first = candidate.first_record
    if first.get("type") == "session_meta" and type(first.get("payload")) is dict:
        return True
    # Older sessions hold bare items behind a line of their own.
    lines = candidate.records(5)
    is_old = "timestamp" in first and "id" in first and "instructions" in first
    return is_old and any(line.get("type") in ITEMS for line in lines[1:])


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    reader = _SessionReader(Place(candidate.path), account)
    for position, record in records_of(candidate, account, "a record"):
        with account.attempt(position):
            reader.add(record, Place(candidate.path, position))
    yield reader.finish()


class _SessionReader:
    def __init__(self, place: Place, account: Account) -> None:
        self._place = place
        self._account = account
        self._items: list[Item] = []
        self._turn: Turn | None = None
        self._last_turn: Turn | None = None
        self._waiting: dict[str, list[Call]] = defaultdict(list)
        self._parameters: JsonObject = {}
        self._meta: JsonObject = {}
        self._total: Value = None
        self._times: list[int] = []
        self._goal: Value = None
        self._begins_anew = False
        self._stop_reason = ""

    def add(self, record: JsonObject, place: Place) -> None:
        """Add a line."""
        time_ns = self._account.time(record.get("timestamp"))
        self._times += [time_ns] if time_ns else []
        kind = record.get("type")
        payload = record.get("payload")
        if payload is None and kind in ITEMS:
            self._add_item(record, time_ns, place, None)
            return
        fields = texts_by_key(payload)
        if kind == "response_item" and fields.get("type") in ITEMS:
            rest = self._account.take(record, "line", LINE)
            self._add_item(fields, time_ns, place, rest)
            return
        self._account.take(record, "line", LINE)
        if kind == "session_meta" or (not self._meta and "instructions" in record):
            self._meta = fields or record
        elif kind == "turn_context":
            known = ("model", "effort", "approval_policy", "sandbox_policy", "summary")
            self._parameters = {name: fields[name] for name in known if name in fields}
        elif kind == "compacted":
            self._begins_anew = True
            self._turn = None
            text = fields.get("message")
            self._items.append(Message(value={"role": "user", "content": text}, time_ns=time_ns))
        elif kind == "event_msg":
            self._add_event(fields)
        # Everything is kept as it stands: only its use differs.
        self._items.append(Note(values=record))

    def _add_event(self, event: JsonObject) -> None:
        kind = event.get("type")
        if kind == "token_count":
            info = texts_by_key(event.get("info"))
            total = info.get("total_token_usage")
            if total is not None and total == self._total:
                # The limits of the account have changed: the counts are those of an earlier answer.
                return
            self._total = total or self._total
            usage = texts_by_key(info.get("last_token_usage"))
            turn = self._last_turn
            if usage and turn is not None and turn.answer.get("usage") is None:
                turn.answer["usage"] = _usage(usage)
        elif kind == "turn_aborted":
            reason = event.get("reason")
            self._stop_reason = reason if type(reason) is str else "turn_aborted"

    def _add_item(
        self, item: JsonObject, time_ns: int, place: Place, rest: JsonObject | None
    ) -> None:
        kind = item.get("type")
        is_input = kind in OUTPUTS or (kind == "message" and item.get("role") != "assistant")
        if is_input:
            self._turn = None
        if kind in OUTPUTS:
            self._add_output(item, time_ns, place, rest)
            return
        placed = CALL if kind in CALLS else frozenset(item)
        item_rest = self._account.take(item, f"item {kind}", placed)
        if kind in CALLS:
            # Before anything of the item is kept.
            place.optional(str, item.get("call_id"), "call_id", "")
        if is_input:
            if self._goal is None and item.get("role") == "user":
                self._goal = item.get("content")
            value = {name: field for name, field in item.items() if name != "type"}
            self._items.append(Message(value=value, time_ns=time_ns, extra=rest))
            return
        turn = self._add_said(item, time_ns)
        if rest is not None:
            turn.extra = turn.extra or {}
            turn.extra.setdefault("lines", []).append(rest)
        if kind in CALLS:
            self._add_call(item, time_ns, place, item_rest)

    def _add_said(self, item: JsonObject, time_ns: int) -> Turn:
        """Return the turn of the model with an item added, which may begin it."""
        turn = self._turn
        if turn is None:
            model = self._parameters.get("model")
            turn = self._turn = self._last_turn = Turn(
                message=None,
                said=[],
                model=model if type(model) is str else "",
                parameters=dict(self._parameters) or None,
                answer={"output": [], "model": model},
                begins_anew=self._begins_anew,
            )
            self._begins_anew = False
            self._items.append(turn)
        self._stop_reason = ""
        assert turn.said is not None
        turn.answer["output"].append(item)
        turn.said.append(item)
        if turn.end_ns and turn.end_ns != time_ns:
            turn.extra = turn.extra or {}
            turn.extra.setdefault("earlier_ns", []).append(turn.end_ns)
        turn.end_ns = time_ns or turn.end_ns
        return turn

    def _add_call(
        self, item: JsonObject, time_ns: int, place: Place, rest: JsonObject | None
    ) -> None:
        kind = item.get("type")
        if kind == "custom_tool_call":
            arguments, invalid = {"input": item.get("input")}, ""
        elif kind == "function_call":
            arguments, invalid = parse_arguments(item.get("arguments"))
        else:
            arguments, invalid = texts_by_key(item.get("action")), ""
        name = item.get("name")
        call = Call(
            tool=name if type(name) is str else str(kind).removesuffix("_call"),
            arguments=arguments,
            call_id=place.optional(str, item.get("call_id"), "call_id", ""),
            invalid=invalid,
            start_ns=time_ns,
            outcome=_outcome(item),
            extra=rest,
        )
        self._items.append(call)
        self._waiting[call.call_id].append(call)

    def _add_output(
        self, item: JsonObject, time_ns: int, place: Place, rest: JsonObject | None
    ) -> None:
        item_rest = self._account.take(item, f"item {item.get('type')}", OUTPUT)
        call_id = item.get("call_id")
        output = item.get("output")
        waiting = self._waiting.get(call_id) if type(call_id) is str else None
        if waiting:
            call = waiting.pop(0)
            call.has_result = True
            call.result = output
            call.end_ns = time_ns
            call.outcome = "unknown"
            code = _exit_code(output, place)
            if texts_by_key(output).get("success") is False and code is None:
                call.outcome = "error"
                call.origin = "tool"
                call.error_type = "not successful"
            if code is not None:
                call.outcome = "ok" if code == 0 else "error"
                call.origin = "" if code == 0 else "tool"
                call.error_type = "" if code == 0 else "exit code"
                call.error = "" if code == 0 else f"exit code {code}"
            if item_rest is not None or rest is not None:
                call.result_extra = {**(item_rest or {}), "line": rest}
        else:
            self._account.note("results whose calls are not in the session stay messages")
            item_rest = {**(item_rest or {}), "line": rest} if rest else item_rest
        # The message has all of the item, and the call what stands beside it.
        self._items.append(Message(value=item, time_ns=time_ns, extra=item_rest))

    def finish(self) -> ImportedEpisode:
        """Return the episode."""
        meta = self._meta
        model = self._parameters.get("model")
        interface: JsonObject = {
            "scaffold": {
                name: meta[name]
                for name in ("originator", "cli_version", "source")
                if meta.get(name) is not None
            }
        }
        if model is not None:
            interface["base"] = {"model": model, "provider": meta.get("model_provider")}
        env = {name: meta[name] for name in ("cwd", "git") if meta.get(name) is not None}
        if env:
            interface["env"] = env
        version = meta.get("cli_version")
        return ImportedEpisode(
            position="session",
            version=version if type(version) is str else "",
            goal=self._goal,
            start_ns=min(self._times, default=0),
            end_ns=max(self._times, default=0),
            items=self._items,
            interface=interface,
            stop_reason=self._stop_reason,
            reported=None if self._total is None else {"total_token_usage": self._total},
        )


def _outcome(item: JsonObject) -> Outcome:
    """Return the outcome of a call before its output.

    One without an output was rejected or broken off: nobody says that it failed. A search is made
    by the model's server, which gives no output and says its end.
    """
    status = item.get("status")
    if item.get("type") == "web_search_call" and status in ("completed", "failed"):
        return "ok" if status == "completed" else "error"
    return "open"


def _usage(usage: JsonObject) -> JsonObject:
    """Return the counts of Codex by the names of the Responses API."""
    return {
        **usage,
        "input_tokens_details": {"cached_tokens": usage.get("cached_input_tokens")},
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_output_tokens")},
    }


def _exit_code(output: Value, place: Place) -> int | None:
    """Return the exit code that the output of a shell may hold as JSON text."""
    fields = texts_by_key(output)
    if type(output) is str and output.startswith("{"):
        try:
            fields = texts_by_key(parse_json(output, path=place.path))
        except ImportFileError:
            return None
    code = texts_by_key(fields.get("metadata")).get("exit_code", fields.get("exit_code"))
    return code if type(code) is int else None


FORMAT = Format(
    name="codex",
    title="a session of Codex",
    matches=_matches,
    read=_read,
    is_session=True,
)
