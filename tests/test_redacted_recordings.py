"""Recordings with secrets in them: no byte of a log has one, and a replay says what it cannot prove."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from conftest import only
from planted import KINDS, Planted, plant
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.errors import EncodeError, RedactedError
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import close_logs
from trajrec.redaction.redactor import Redactor
from trajrec.replay.execute.report import ReplayReport
from trajrec.types import JsonObject
from trajrec.values import codec

KEY = "sk-proj-" + "Ab3dEfGh" * 4


class Desk(gym.Env[str, str]):
    """An environment of texts: it repeats each action, and remembers all of them."""

    observation_space = gym.spaces.Text(2000)
    action_space = gym.spaces.Text(2000)

    def __init__(self, api_key: str = "", note: str = "") -> None:
        self.api_key = api_key
        self.note = note
        self.log: list[str] = []

    def get_state(self) -> JsonObject:
        return {"log": list(self.log), "note": self.note}

    def set_state(self, state: JsonObject) -> None:
        self.log = list(state["log"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.log = []
        return "ready", {"note": self.note, "token": (options or {}).get("token")}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.log.append("" if "forget" in action else action)
        if "raise" in action:
            raise ValueError(f"refused: {action}")
        return f"you said {action}", 1.0, False, False, {"error": None, "echo": action}


def record(folder: Path, actions: list[str], **options: Any) -> None:
    """Record one episode of a desk."""
    kwargs = options.pop("kwargs", {})
    with trajrec.record(Desk(**kwargs), folder, **options) as env:
        env.reset(seed=0)
        for action in actions:
            env.step(action)


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


def test_no_place_of_an_environments_log_has_a_secret(tmp_path: Path) -> None:
    text = f"the key is {KEY}"

    def check(_: Any) -> Any:
        return trajrec.Verdict(True, evidence={"seen": text})

    def broken(_: Any) -> Any:
        raise ValueError(text)

    class Ending(Desk):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            obs, reward, _, _, info = super().step(action)
            return obs, reward, len(self.log) == 3, False, info

    env = trajrec.record(
        Ending(note=text),
        tmp_path,
        checks=[check, broken],
        interface={"base": {"api_key": "lamp-post"}},
    )
    env.reset(seed=0, options={"token": "an-opaque-lamp-post"})
    for k in range(3):
        env.step(f"{k} {text}")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=KEY):
        env.step(f"raise {text}")
    env.close()
    assert KEY.encode() not in content(tmp_path)
    assert b"lamp-post" not in content(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("keep_states", ["auto", "all", "digests"])
def test_each_kind_of_secret_is_redacted_in_steps(tmp_path: Path, keep_states: Any) -> None:
    planted = [plant(kind, keep_states) for kind in KINDS]
    record(tmp_path, [f"use {p.text} now" for p in planted], keep_states=keep_states)
    raw = content(tmp_path)
    assert not [p for p in planted if p.secret.encode() in raw]
    episode = only(tmp_path)
    redactor = Redactor()
    assert episode.actions == [redactor.text(f"use {p.text} now") for p in planted]
    assert episode.observation_values[1:] == [
        f"you said {redactor.text(f'use {p.text} now')}" for p in planted
    ]


class Counter(gym.Env[Any, int]):
    """An environment whose observations and infos are given, step by step."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, observations: list[Any], infos: list[dict[str, Any]]) -> None:
        self.rows = list(zip(observations, infos, strict=True))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        return self.rows[0][0], {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n += 1
        obs, info = self.rows[self.n]
        return obs, 1.0, False, False, info


LATER: dict[str, tuple[Any, Any]] = {
    "None": ({"error": None}, {"error": KEY}),
    "a number": ({"error": 0}, {"error": KEY}),
    "a list of numbers": ({"log": [1, 2]}, {"log": [1, KEY]}),
    "an empty list": ({"log": []}, {"log": [KEY]}),
    "an empty text": ({"error": ""}, {"error": KEY}),
    "a nested number": ({"a": {"b": 1.5}}, {"a": {"b": KEY}}),
    "another key": ({"a": 1}, {"b": KEY}),
    "an object": ({"a": object()}, {"a": [object(), KEY]}),
    "bytes": ({"a": 1}, {"a": KEY.encode()}),
    "an array of texts": ({"a": np.zeros(2)}, {"a": np.array([KEY, "b"])}),
}


@mostly_deep("agents", drawn=6)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("field", ["info", "obs"])
def test_a_text_that_comes_after_other_values_is_redacted(
    tmp_path: Path, field: str, later: str
) -> None:
    first, second = LATER[later]
    if field == "obs" and later == "an object":
        pytest.skip("an observation must be storable")
    values = [first, first, second, first, second, *[second] * 20]
    nothing: list[dict[str, Any]] = [{} for _ in values]
    rows = (values, nothing) if field == "obs" else ([0] * len(values), values)
    with trajrec.record(Counter(*rows), tmp_path) as env:
        env.reset(seed=0)
        for _ in values[1:]:
            env.step(1)
    raw = content(tmp_path)
    assert KEY.encode() not in raw
    assert KEY.encode("utf-32-le") not in raw
    episode = only(tmp_path)
    stored = episode.infos if field == "info" else episode.observation_values[1:]
    redactor = Redactor()
    assert [repr(value) for value in stored] == [
        repr(redactor.plain(value)) for value in values[1:]
    ]


def test_an_observation_that_cannot_be_stored_is_refused_with_a_secret_too(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": KEY, "b": object()}]
    with trajrec.record(Counter(rows, [{}, {}]), tmp_path) as env:
        env.reset(seed=0)
        with pytest.raises(EncodeError, match=r"obs\['b'\]"):
            env.step(1)
    assert KEY.encode() not in content(tmp_path)


def test_values_of_the_environment_itself_stay_as_they_are(tmp_path: Path) -> None:
    info = {"text": KEY, "list": [KEY]}
    with trajrec.record(Counter([KEY, KEY], [{}, info]), tmp_path) as env:
        obs, _ = env.reset(seed=0)
        assert obs == KEY
        obs, _, _, _, got = env.step(1)
        assert obs == KEY
        assert got is info
        assert info == {"text": KEY, "list": [KEY]}


def test_without_redaction_texts_are_stored_as_they_are(tmp_path: Path) -> None:
    record(tmp_path, [f"login {KEY}"], redact=False, kwargs={"note": KEY})
    episode = only(tmp_path)
    assert episode.actions == [f"login {KEY}"]
    assert episode.infos == [{"error": None, "echo": f"login {KEY}"}]
    assert episode.redacted_step is None
    assert replay(episode, note=KEY).grade == "exact"


def test_a_users_redactor_is_used(tmp_path: Path) -> None:
    redactor = Redactor({}, rules={"door code": r"door \d+"})
    record(tmp_path, ["open door 17"], redact=redactor)
    episode = only(tmp_path)
    assert episode.actions[0].startswith("open [redacted door code ")


def test_an_environment_with_secret_arguments_is_not_made_again(tmp_path: Path) -> None:
    gym.register("Desk-v0", Desk)
    try:
        with trajrec.record(gym.make("Desk-v0", api_key=KEY), tmp_path) as env:
            env.reset(seed=0)
            env.step("look")
        assert KEY.encode() not in content(tmp_path)
        episode = only(tmp_path)
        assert "have secrets" in episode.header.env.recreatable
        assert trajrec.replay.replay_episode(
            episode, env=lambda: gym.make("Desk-v0", api_key=KEY)
        ).grade in ("exact", "state")
    finally:
        gym.registry.pop("Desk-v0")


# Replay


def replay(episode: Any, **options: Any) -> ReplayReport:
    """Replay an episode of a desk."""
    note = options.pop("note", "")
    return trajrec.replay.replay_episode(episode, env=lambda: Desk(note=note), **options)


def test_a_redacted_action_ends_the_replay_and_says_so(tmp_path: Path) -> None:
    record(tmp_path, ["look", f"login forget {KEY}", "go", "stop"])
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT redacted_step, n_steps FROM episodes").fetchall() == [(1, 4)]
        (episode,) = corpus.episodes()
        assert (episode.redacted_step, episode.redacted_action_step) == (1, 1)
        report = replay(episode)
        assert (report.grade, report.n_steps, report.divergence) == ("observed-only", 1, None)
        assert "the action of step 1 had a secret" in str(report)
        # The steps before it are compared as ever.
        with trajrec.replay.fork(episode, at=1, env=Desk()) as env:
            env.step("another way")
        with pytest.raises(RedactedError, match="step 2 cannot be reached") as caught:
            trajrec.replay.fork(episode, at=2, env=Desk())
        assert caught.value.step == 1
        with pytest.raises(RedactedError):
            trajrec.replay.fork_many(episode, at=3, n_branches=2, policy="random", env=Desk)
        assert trajrec.replay.replay_episode(episode, env=Desk, first=3).grade == "refused"


def test_a_redacted_action_is_not_executed_with_resync(tmp_path: Path) -> None:
    record(tmp_path, ["look", f"login forget {KEY}", "go", "stop"], keep_states="all")
    report = replay(only(tmp_path), resync=True)
    assert (report.grade, report.n_steps, report.divergence) == ("observed-only", 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("keep_states", ["all", "digests"])
def test_resync_compares_secrets_by_kind_and_restores_none(
    tmp_path: Path, keep_states: Any
) -> None:
    note = f"ask {KEY}"
    record(tmp_path, ["look", "go"], keep_states=keep_states, kwargs={"note": note})
    episode = only(tmp_path)
    report = replay(episode, note=note, resync=True)
    assert (report.grade, report.n_steps) == ("observed-only", 2), report

    class Deaf(Desk):
        def step(self, action: str) -> Any:
            return ("what?", *super().step(action)[1:])

    report = trajrec.replay.replay_episode(
        episode, env=lambda: Deaf(note=f"{note} {KEY}"), resync=True, explain=False
    )
    assert report.grade == "diverged"
    assert "had a secret, which the log does not have" in report.notes[-1]
    assert KEY not in str(report)


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("keep_states", ["all", "digests"])
def test_a_redacted_state_is_compared_by_its_kind(tmp_path: Path, keep_states: Any) -> None:
    record(tmp_path, ["look", "go"], keep_states=keep_states, kwargs={"note": f"ask {KEY}"})
    episode = only(tmp_path)
    assert episode.redacted_step == -1
    assert episode.redacted_action_step is None
    report = replay(episode, note=f"ask {KEY}")
    assert (report.grade, report.n_steps) == ("observed-only", 2)
    with pytest.raises(RedactedError):
        trajrec.replay.fork(episode, at=1, env=Desk(note=f"ask {KEY}"))
    different = replay(episode, note="ask nobody")
    assert different.grade == "diverged"
    assert different.divergence is not None
    assert different.divergence.field in ("info/note", "state/note", "state")


@pytest.mark.slow
@third_slow("agents")
def test_redacted_observations_are_compared_redacted(tmp_path: Path) -> None:
    class Speaker(Desk):
        def get_state(self) -> JsonObject:
            return {"n": len(self.log)}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            self.log.append(action)
            return f"{self.note} {action}", 1.0, False, False, {"note": self.note}

    with trajrec.record(Speaker(note=f"the key is {KEY}"), tmp_path) as env:
        env.reset(seed=0)
        env.step("a")
        env.step("b")
    episode = only(tmp_path)
    assert episode.redacted_step is None

    def report(note: str) -> ReplayReport:
        return trajrec.replay.replay_episode(episode, env=lambda: Speaker(note=note))

    assert report(f"the key is {KEY}").grade == "exact"
    # Another secret of the same kind is another secret.
    assert report(f"the key is {KEY}x").grade == "state"
    assert report("the key is here").grade == "diverged"
    with trajrec.replay.fork(episode, at=1, env=Speaker(note=f"the key is {KEY}")) as env:
        env.step("c")


def test_secret_options_leave_nothing_to_replay(tmp_path: Path) -> None:
    with trajrec.record(Desk(), tmp_path) as env:
        env.reset(seed=0, options={"token": KEY})
        env.step("look")
    episode = only(tmp_path)
    report = replay(episode)
    assert (report.grade, report.n_steps) == ("observed-only", 0)
    with pytest.raises(RedactedError):
        trajrec.replay.fork(episode, at=0, env=Desk())


ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[2])
from test_redacted_recordings import *
record(Path(sys.argv[1]), ["look", "go"], kwargs={"note": "ask " + KEY})
"""


@pytest.mark.slow
def test_digests_of_another_process_make_no_difference(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path), here], check=True)
    report = replay(only(tmp_path), note=f"ask {KEY}")
    assert (report.grade, report.divergence) == ("observed-only", None)
    assert "compared by their kind" in str(report)


@pytest.mark.slow
def test_replays_take_the_redactor_of_the_recording(tmp_path: Path) -> None:
    redactor = Redactor({}, rules={"door code": r"door \d+"})
    with trajrec.record(Counter(["a", "door 17"], [{}, {}]), tmp_path, redact=redactor) as env:
        env.reset(seed=0)
        env.step(1)
    episode = only(tmp_path)

    def report(**options: Any) -> ReplayReport:
        env = Counter(["a", "door 17"], [{}, {}])
        return trajrec.replay.replay_episode(episode, env=env, **options)

    assert report().grade == "diverged"
    assert report(redact=redactor).grade == "exact"
    assert pickle.loads(pickle.dumps(redactor)).text("door 17") == redactor.text("door 17")


# Agents


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("api", ["aec", "parallel"])
def test_infos_of_several_agents_are_redacted(tmp_path: Path, api: str) -> None:
    pytest.importorskip("pettingzoo")
    from pettingzoo.utils.env import ParallelEnv

    class Pair(ParallelEnv):  # type: ignore[misc]
        metadata = {"name": "pair"}  # noqa: RUF012
        render_mode = None
        possible_agents = ["a", "b"]  # noqa: RUF012

        def observation_space(self, agent: str) -> Any:
            return gym.spaces.Text(100)

        def action_space(self, agent: str) -> Any:
            return gym.spaces.Text(100)

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            self.agents = list(self.possible_agents)
            return dict.fromkeys(self.agents, "ready"), {a: {"token": KEY} for a in self.agents}

        def step(self, actions: dict[str, str]) -> Any:
            ones = dict.fromkeys(self.agents, 1.0)
            no = dict.fromkeys(self.agents, False)
            return actions, ones, no, no, {a: {"said": actions[a]} for a in self.agents}

    env: Any = Pair()
    if api == "aec":
        from pettingzoo.utils.conversions import parallel_to_aec

        env = parallel_to_aec(env)
    with_secret = f"login {KEY}"
    recorded = trajrec.record(env, tmp_path)
    recorded.reset(seed=0)
    for _ in range(3):
        if api == "aec":
            for agent in recorded.agent_iter(2):
                recorded.last()
                recorded.step(with_secret if agent == "a" else "look")
        else:
            recorded.step({"a": with_secret, "b": "look"})
    recorded.close()
    assert KEY.encode() not in content(tmp_path)
    assert only(tmp_path).redacted_step == 0


def test_planted_secrets_are_texts_of_their_kinds() -> None:
    for kind in KINDS:
        planted = plant(kind)
        assert isinstance(planted, Planted)
        assert planted.secret in planted.text
        assert plant(kind, 1).secret != planted.secret
        assert codec.decode(codec.encode(planted.text)) == planted.text
