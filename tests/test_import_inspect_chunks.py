"""Logs of Inspect whose samples are in chunks, and samples that a person has invalidated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from imported import column, imported, one, write_json
from test_import_inspect import log, model_event, sample, tool_event, write_eval

from trajrec.corpus.corpus import Corpus

ADD = {"id": "c1", "function": "add", "arguments": {"x": 1}}
SYSTEM = {"id": "m0", "role": "system", "content": "Be kind."}
USER = {"id": "m1", "role": "user", "content": "attachment://0"}
ANSWER = {"id": "m2", "role": "assistant", "content": "Done."}
TEXT = "How many are there? " * 9


def whole() -> dict[str, Any]:
    """Return a sample without chunks."""
    return sample(
        model_event("", calls=[ADD], input_refs=[[0, 2]], uuid="e0"),
        tool_event("c1", uuid="e1"),
        model_event("Done.", input_refs=[[0, 2]], uuid="e2"),
        messages=[SYSTEM, USER, ANSWER],
        metadata={"level": 3},
        events_data={"messages": [SYSTEM, USER], "calls": []},
        attachments={"0": TEXT},
        scores={"match": {"value": "C"}},
    )


def in_chunks() -> dict[str, Any]:
    """Return the members of a log that has the sample in chunks of two values."""
    inner = whole()
    events = inner.pop("events")
    metadata = inner.pop("metadata")
    for name in ("messages", "events_data", "attachments"):
        del inner[name]
    folder = "samples/a_epoch_1"
    head = log()
    del head["samples"]
    return {
        "header.json": head,
        f"{folder}/sample.json": {**inner, "message_refs": [[0, 3]]},
        f"{folder}/metadata.json": metadata,
        f"{folder}/skeleton.json": {"spans": []},
        f"{folder}/messages/0.json": [SYSTEM, USER],
        f"{folder}/messages/2.json": [ANSWER],
        f"{folder}/events/stats.json": {"chunks": []},
        f"{folder}/events/uuids.json": ["e0", "e1", "e2"],
        f"{folder}/events/0.json": events[:2],
        f"{folder}/events/2.json": events[2:],
        f"{folder}/attachments/0.json": [TEXT],
    }


def story(corpus: Corpus) -> list[Any]:
    """Return all that tells of the episodes of a corpus, but the file that they come from."""
    own = {"episode_id", "source", "log", "interface_id"}
    found = []
    for table in ("episodes", "model_calls", "attempts", "messages", "checks"):
        names = sorted(set(corpus.sql(f"SELECT * FROM {table}").columns) - own)
        found.append(corpus.sql(f"SELECT {', '.join(names)} FROM {table}").fetchall())
    return found


def test_a_sample_in_chunks_is_the_whole_sample(tmp_path: Path) -> None:
    with imported(write_json(tmp_path / "a.json", log(whole())), tmp_path / "1") as corpus:
        expected = story(corpus)
        assert column(corpus, "SELECT text FROM messages WHERE role = 'user'")[0] == TEXT
    with imported(write_eval(tmp_path / "b.eval", in_chunks()), tmp_path / "2") as corpus:
        assert story(corpus) == expected
        assert one(corpus, "SELECT extra->>'$.metadata.level' FROM episodes") == "3"


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("messages/0.json", "a chunk is missing: messages 0 to 2"),
        ("messages/2.json", "message_refs names messages [0, 3] of 2"),
        ("events/2.json", "a chunk is missing: it has 2 events of 3"),
        ("events/0.json", "a chunk is missing: events 0 to 2"),
    ],
)
def test_a_sample_that_has_lost_a_chunk_is_left_out(
    member: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = in_chunks()
    del members[f"samples/a_epoch_1/{member}"]
    other = whole() | {"id": "b"}
    members["samples/b_epoch_1.json"] = other
    with imported(write_eval(tmp_path / "a.eval", members), tmp_path / "runs") as corpus:
        assert column(corpus, "SELECT task FROM episodes") == ["t/b"]
        assert reason in one(corpus, "SELECT report::VARCHAR FROM imports")


@pytest.mark.parametrize("is_invalid", [False, True])
def test_a_sample_that_was_invalidated_is_marked(is_invalid: bool, tmp_path: Path) -> None:
    told = {"author": "ann", "reason": "the sandbox was broken"} if is_invalid else None
    path = write_json(tmp_path / "a.json", log(whole() | {"invalidation": told}))
    with imported(path, tmp_path / "runs") as corpus:
        query = "SELECT metadata->>'$.invalidated', extra->>'$.invalidation.reason' FROM episodes"
        reason = "the sandbox was broken"
        assert corpus.sql(query).fetchall() == [("true", reason) if is_invalid else (None, None)]
        notes = one(corpus, "SELECT report->>'$.notes' FROM imports")
        assert ("samples that a person has invalidated" in notes) is is_invalid
