"""Recordings with secrets in them: no byte of a log has one, and a replay says what it cannot prove."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import only
from planted import KINDS, Planted, plant

import trajrec
from trajrec.errors import RedactedError
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import close_logs
from trajrec.types import JsonObject
from trajrec.values import codec

KEY = "sk-proj-" + "Ab3dEfGh" * 4


def content(folder: Path) -> bytes:
    """Return all bytes of the logs of a folder, with the decompressed ones of their records."""
    raw = b""
    for path in folder.glob("*.trj"):
        raw += path.read_bytes()
        with LogReader(path) as reader:
            raw += msgspec.msgpack.encode(reader.header)
            for chunk in reader.chunks():
                raw += msgspec.msgpack.encode(chunk.record)
                raw += b"".join(map(pickle.dumps, chunk.columns()))
                for event in chunk.record.events:
                    for field in msgspec.structs.astuple(event):
                        raw += field if isinstance(field, bytes) else repr(field).encode()
    with trajrec.open(folder) as corpus:
        for table in ("all_episodes", "steps", "failures", "checks", "state_changes", "attempts"):
            raw += repr(corpus.sql(f"SELECT * FROM {table}").fetchall()).encode()
        for episode in corpus.episodes(kind="all"):
            raw += repr([*episode.steps()]).encode()
    return raw


# Agents


def test_watched_files_and_rows_are_redacted_by_name_and_content(tmp_path: Path) -> None:
    planted = plant("github")
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / ".env").write_text(f"DB_PASSWORD=hunter2\nKEY={planted.text}\n")
    (folder / f"{planted.secret}.txt").write_text("named")
    (folder / "token").write_text("an-opaque-lamp-post\n")
    (folder / "data.bin").write_bytes(b"\xff\x00" + KEY.encode())
    database = sqlite3.connect(tmp_path / "shop.db")
    database.execute("CREATE TABLE users (name TEXT PRIMARY KEY, password TEXT, note TEXT)")
    database.execute("CREATE TABLE secrets (id INTEGER PRIMARY KEY, content TEXT)")
    database.execute("INSERT INTO users VALUES ('bob', 'lamp-post', ?)", (f"has {KEY}",))
    database.execute("INSERT INTO secrets VALUES (1, 'lamp-post')")
    database.commit()
    runs = tmp_path / "runs"
    with trajrec.episode(runs, watch={"files": folder, "rows": tmp_path / "shop.db"}) as ep:

        @ep.tool
        def change() -> str:
            (folder / "sub" / "new.txt").write_text(f"password: {plant('stripe').secret}")
            (folder / f"{planted.secret}.txt").unlink()
            database.execute("UPDATE users SET password = 'other-lamp-post'")
            database.commit()
            return "done"

        change()
    close_logs()
    raw = content(runs)
    for secret in (planted.secret, KEY, "hunter2", "lamp-post", plant("stripe").secret):
        assert secret.encode() not in raw, secret
    episode = only(runs)
    assert episode.redacted_step == -1
    state = episode.transcript.initial_state
    assert state["rows"]["sqlite_schema"]["secrets"].startswith("CREATE TABLE secrets")
    assert state["files"]["token"]["mode"] in ("644", "664")
    assert state["files"][".env"]["text"].startswith("DB_PASSWORD=[redacted ")
    with trajrec.open(runs) as corpus:
        assert corpus.sql("SELECT redacted_step FROM episodes").fetchall() == [(-1,)]


class Safe:
    """A world with a door, which a code opens."""

    seed = 0

    def __init__(self, code: str = KEY) -> None:
        self.code = code

    @property
    def kwargs(self) -> JsonObject:
        return {"code": self.code}

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> str:
        self.is_open = False
        self.n = 0
        return "closed"

    def get_state(self) -> JsonObject:
        return {"is_open": self.is_open, "n": self.n}

    def tools(self) -> list[trajrec.Tool]:
        return [trajrec.Tool("open"), trajrec.Tool("look"), trajrec.Tool("show")]

    def call(self, tool: str, arguments: JsonObject) -> Any:
        self.n += 1
        if tool == "open":
            self.is_open = arguments["code"] == self.code
            return {"is_open": self.is_open}
        return {"code": self.code} if tool == "show" else {"n": self.n}


def play(folder: Path, calls: list[tuple[str, JsonObject]]) -> Any:
    """Record an agent's calls in a safe; return the episode."""
    with trajrec.episode(folder, world=Safe()) as ep:
        for tool, arguments in calls:
            ep.call(tool, **arguments)
    close_logs()
    return only(folder)


def test_a_call_with_a_redacted_argument_is_not_made_again(tmp_path: Path) -> None:
    episode = play(tmp_path, [("look", {}), ("open", {"code": KEY}), ("look", {})])
    assert (episode.redacted_step, episode.redacted_action_step) == (1, 1)
    report = trajrec.replay.replay_episode(episode, world=Safe)
    assert (report.grade, report.n_steps, report.divergence) == ("observed-only", 1, None)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT redacted_step FROM episodes").fetchall() == [(1,)]
    # The agent has the code itself, so a rerun compares all of it.
    with trajrec.rerun(episode) as ep:
        assert ep.call("look") == {"n": 1}
        assert ep.call("open", code=KEY) == {"is_open": True}
        assert ep.call("look") == {"n": 3}
    with trajrec.rerun(episode, on_difference="live", world=Safe()) as ep:
        ep.call("look")
        ep.call("open", code=KEY)
        with pytest.raises(RedactedError, match="continued at step 2"):
            ep.call("show")


def test_a_redacted_result_is_compared_redacted(tmp_path: Path) -> None:
    episode = play(tmp_path, [("show", {}), ("look", {})])
    assert episode.redacted_step is None
    assert trajrec.replay.replay_episode(episode, world=Safe).grade == "exact"
    other = trajrec.replay.replay_episode(episode, world=lambda: Safe(KEY + "x"))
    assert other.grade == "state"
    none = trajrec.replay.replay_episode(episode, world=lambda: Safe("none"))
    assert none.grade == "diverged"


def test_the_start_of_a_traceback_hides_no_secret_from_the_cut(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("x" * 19_990 + " " + KEY + " " + "y" * 19_960)

    with trajrec.episode(tmp_path) as ep:
        ep.tool(fail, name="fail")
        with pytest.raises(ValueError, match="y"):
            ep.call("fail")
    close_logs()
    raw = content(tmp_path)
    for size in range(12, len(KEY)):
        assert KEY[-size:].encode() not in raw


def test_planted_secrets_are_texts_of_their_kinds() -> None:
    for kind in KINDS:
        planted = plant(kind)
        assert isinstance(planted, Planted)
        assert planted.secret in planted.text
        assert plant(kind, 1).secret != planted.secret
        assert codec.decode(codec.encode(planted.text)) == planted.text
