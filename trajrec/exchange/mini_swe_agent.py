"""Trajectories of mini-swe-agent (`.traj.json`): messages with a command each.

The return code of a command stands in the text of the next message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.reading import Place, dicts_of, texts_by_key
from trajrec.exchange.records import Call, Ending, ImportedEpisode, Message, Turn
from trajrec.exchange.times import time_of
from trajrec.types import JsonObject, Value

FILE = frozenset(("trajectory_format", "messages", "info"))
INFO = frozenset(("exit_status", "model_stats", "config", "mini_version"))
COMMAND = re.compile(r"```(?:mswea_bash_command|bash)\s*\n(.*?)\n```", re.DOTALL)
RETURN_CODE = re.compile(r"<returncode>\s*(-?\d{1,9})\s*</returncode>")
VERSION = "mini-swe-agent-"


def _matches(candidate: Candidate) -> bool:
    version = candidate.fields.get("trajectory_format")
    if type(version) is str and version.startswith(VERSION):
        return True
    return candidate.name.endswith(".traj.json") and {"role", "content"} <= (
        candidate.first_record.keys()
    )


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    place = Place(candidate.path)
    fields = candidate.fields
    messages: Value = candidate.document
    rest = None
    if fields:
        rest = account.take(fields, "file", FILE)
        messages = fields.get("messages")
    info = place.optional(dict, fields.get("info"), "info", {})
    info_rest = account.take(info, "info", INFO) if info else None
    extra = dict(rest or {})
    if info_rest is not None:
        extra["info"] = info_rest
    status = place.optional(str, info.get("exit_status"), "exit_status", "")
    interface: JsonObject = {
        "scaffold": {"name": "mini-swe-agent", "version": info.get("mini_version")}
    }
    if info.get("config") is not None:
        interface["env"] = info["config"]
    episode = ImportedEpisode(
        position="trajectory",
        version=str(fields.get("trajectory_format") or "").removeprefix(VERSION),
        task=candidate.name.removesuffix(".traj.json"),
        interface=interface,
        ending=_ending(status),
        stop_reason=status,
        claimed_done=status.lower().startswith("submitted") if status else None,
        reported=texts_by_key(info.get("model_stats")) or None,
        extra=extra or None,
    )
    waiting: list[Call] = []
    for number, message in enumerate(dicts_of(place, messages, "messages")):
        waiting = _add(message, place.at(f"messages[{number}]"), episode, waiting, account)
    yield episode


def _ending(status: str) -> Ending:
    lowered = status.lower()
    if lowered.startswith("submitted"):
        return "terminated"
    return "truncated" if "limit" in lowered else "unknown"


def _add(
    message: JsonObject,
    place: Place,
    episode: ImportedEpisode,
    waiting: list[Call],
    account: Account,
) -> list[Call]:
    """Add a message; return the calls that the next one has the result of."""
    account.take(message, "message", frozenset(message))
    value = {name: item for name, item in message.items() if item is not None}
    value.setdefault("content", None)
    role = place.expect(str, message.get("role"), "role")
    details = texts_by_key(message.get("extra"))
    time_ns = time_of(details.get("timestamp"))
    text = _text_of(message.get("content"))
    if role != "assistant":
        if role in ("user", "tool") and waiting:
            _set_result(waiting[0], text, time_ns)
            waiting = waiting[1:]
        episode.items.append(Message(value=value))
        return waiting
    response = texts_by_key(details.get("response"))
    model = response.get("model")
    episode.items.append(
        Turn(
            message=value,
            model=model if type(model) is str else "",
            answer=response if "choices" in response else None,
            end_ns=time_ns,
        )
    )
    calls = [
        Call(
            tool="bash",
            arguments={"command": command},
            call_id=call_id,
            start_ns=time_ns,
        )
        for command, call_id in _commands(details.get("actions"), text)
    ]
    episode.items += calls
    return calls


def _commands(actions: Value, text: str) -> list[tuple[str, str]]:
    """Return the commands of a turn with their ids: as data, or else those in its text."""
    listed = [texts_by_key(action) for action in actions] if type(actions) is list else []
    commands = [(a.get("command"), a.get("tool_call_id")) for a in listed]
    found = [(c, i if type(i) is str else "") for c, i in commands if type(c) is str]
    return found or [(command, "") for command in COMMAND.findall(text)]


def _set_result(call: Call, text: str, time_ns: int) -> None:
    call.has_result = True
    call.result = text
    call.end_ns = time_ns
    code = RETURN_CODE.search(text)
    if code is None:
        return
    is_ok = int(code[1]) == 0
    call.outcome = "ok" if is_ok else "error"
    if not is_ok:
        call.origin = "tool"
        call.error_type = "return code"
        call.error = f"return code {code[1]}"


def _text_of(content: Value) -> str:
    if type(content) is str:
        return content
    blocks = content if type(content) is list else []
    texts = [texts_by_key(block).get("text") for block in blocks]
    return "\n".join(text for text in texts if type(text) is str)


FORMAT = Format(
    name="mini-swe-agent",
    title="a trajectory of mini-swe-agent",
    matches=_matches,
    read=_read,
)
