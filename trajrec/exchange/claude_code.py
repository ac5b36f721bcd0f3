"""Sessions of Claude Code: lines of JSON that form a tree, and those of its sub-agents.

One message of the model may lie in several lines with other lines between them. A prompt that was
edited starts a branch: the conversation is the path to the last line, and the other branches are
forks of it. Sessions hold personal data, so secrets are removed from them by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format, records_of
from trajrec.exchange.claude_records import SessionReader
from trajrec.exchange.reading import Place, object_lines, object_parts
from trajrec.exchange.records import ImportedEpisode
from trajrec.types import JsonObject


def _is_session(record: JsonObject) -> bool:
    """Return whether a record is of a session: most, but not all, have an id and a parent."""
    if "projectHash" in record:
        return False
    if type(record.get("sessionId")) is not str:
        return False
    return "uuid" in record or record.get("type") in ("queue-operation", "summary", "mode")


def _matches(candidate: Candidate) -> bool:
    if candidate.is_folder or not candidate.is_json:
        return False
    if type(candidate.fields.get("loglines")) is list:
        return True
    return any(map(_is_session, candidate.records(5)))


def _subagents(path: Path) -> list[Path]:
    folder = path.with_suffix("") / "subagents"
    return sorted(folder.rglob("agent-*.jsonl")) if folder.is_dir() else []


def _files(candidate: Candidate) -> list[Path]:
    return [candidate.path, *_subagents(candidate.path)]


def _read(candidate: Candidate, account: Account) -> Iterator[ImportedEpisode]:
    path = candidate.path
    place = Place(path)
    lines = candidate.fields.get("loglines")
    parts = object_parts(place, lines, "loglines", account)
    if lines is None:
        parts = records_of(candidate, account, "a record")
    reader = SessionReader([record for _, record in parts], place, account, "session")
    yield from reader.episodes()
    for other in _subagents(path):
        position = other.relative_to(path.with_suffix("")).as_posix()
        lines_of_agent = object_lines(other, account, f"a record of {position}")
        records = [record for _, record in lines_of_agent]
        of_agent = SessionReader(records, Place(other), account, position)
        for episode in of_agent.episodes():
            if episode.fork is None and episode.caller is None:
                episode.caller = "session"
                agent = other.stem.removeprefix("agent-")
                episode.caller_step = reader.steps_of_agents.get(agent, -1)
            yield episode


FORMAT = Format(
    name="claude-code",
    title="a session of Claude Code",
    matches=_matches,
    read=_read,
    files=_files,
    is_session=True,
)
