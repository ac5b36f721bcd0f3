"""Golden logs of the present format, each with its expected values: see tests/golden/make.py."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Unpack
from unittest import mock

import golden_records
import gymnasium as gym
import numpy as np
import slow_reader

import trajrec
from trajrec import envs
from trajrec.corpus.recheck import recheck
from trajrec.log.compaction import compact
from trajrec.log.folder import INDEX_FOLDER
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.log.writer import LogWriter
from trajrec.recording import error_text, event_log, log_series, provenance
from trajrec.recording.options import RecordOptions
from trajrec.replay import credit, fork_many
from trajrec.types import AnyEnv

SAMPLES = Path(__file__).resolve().parent.parent / "sample_trajectories" / "make.py"

TABLES = (
    "all_episodes",
    "steps",
    "attempts",
    "model_calls",
    "side_effects",
    "state_changes",
    "failures",
    "checks",
    "credit",
    "rollouts",
    "agent_rewards",
)


def load_samples() -> Any:
    """Return the module that makes the sample logs."""
    spec = importlib.util.spec_from_file_location("samples", SAMPLES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


samples = load_samples()


@trajrec.verifier(id="paid", version="1")
def paid(world: Any) -> bool:
    return bool(world["paid"])


@trajrec.verifier(id="later", version="2")
def later(world: Any) -> float:
    return 0.5


class Odd(gym.Env[Any, Any]):
    """Texts and arrays as observations, infos of several kinds, and a step that fails."""

    observation_space = gym.spaces.Dict({"a": gym.spaces.Box(0, 1, (2,)), "t": gym.spaces.Text(9)})
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        return {"a": np.zeros(2, np.float32), "t": "start"}, {"seen": {1, 2}}

    def step(self, action: int) -> Any:
        self.k += 1
        if self.k == 3:
            raise TimeoutError("late")
        obs = {"a": np.full(2, self.k, np.float32), "t": "t" * self.k}
        odd: list[dict[Any, Any]] = [{}, {"n": 2**70, "x": 1 + 2j}, {7: "seven"}, {"a": {}}]
        info = odd[self.k % 4]
        return obs, np.float32(self.k), self.k == 6, False, info


class Pixels(gym.Env[Any, Any]):
    """Stacks of four frames, of which one dot changes at each step."""

    observation_space = gym.spaces.Box(0, 255, (4, 40, 40), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.frames = [self.np_random.integers(0, 255, (40, 40), dtype=np.uint8)] * 4
        return np.stack(self.frames), {}

    def step(self, action: int) -> Any:
        frame = self.frames[-1].copy()
        frame[tuple(self.np_random.integers(40, size=2))] ^= 1
        self.frames = [*self.frames[1:], frame]
        return np.stack(self.frames), 1.0, False, False, {}


@contextlib.contextmanager
def anonymous() -> Iterator[None]:
    """Leave this machine out of the logs."""
    with contextlib.ExitStack() as patches:
        runtime = {"describe_runtime": lambda: samples.RUNTIME, "hostname": lambda: "golden"}
        patches.enter_context(mock.patch.multiple(provenance, **runtime))
        patches.enter_context(
            mock.patch.object(error_text, "format_traceback", samples.error_without_frames)
        )
        yield


def make_environments(folder: Path) -> None:
    """Make logs of environments."""
    lake = samples.play(folder, "lake", gym.make("FrozenLake-v1"), lambda k: k % 4, 2)
    lake.close()
    pend = gym.make("Pendulum-v1", max_episode_steps=15)
    samples.play(
        folder,
        "pend",
        pend,
        lambda k: np.array([np.sin(k)], np.float32),
        2,
        keep_states="digests",
        interface={"policy": "sine", "version": 3},
    ).close()
    make_car(folder)
    samples.play(folder, "odd", Odd(), lambda k: k % 3, 1).close()
    pixels = gym.wrappers.TimeLimit(Pixels(), 12)
    samples.play(folder, "pixels", pixels, lambda k: 0, 1).close()
    keydoor = gym.make("trajrec/KeyDoor-v0")
    samples.play(folder, "keydoor", keydoor, lambda k: samples.WITH_KEY[k], 1).close()


def make_car(folder: Path) -> None:
    """Make a log with keys of states."""
    car = gym.make("MountainCar-v0", max_episode_steps=15)
    samples.play(folder, "car", car, lambda k: k % 3, 2, keep_states="keys").close()


def make_game(folder: Path) -> None:
    """Make the log of a game of two players."""
    with warnings.catch_warnings():
        # It is imported by its old name.
        warnings.simplefilter("ignore")
        from pettingzoo.classic import tictactoe_v3

    env = trajrec.record(tictactoe_v3.env(), folder)
    env.reset(seed=0)
    for move in (0, 1, 2, 3, 4, 5, 6):
        if not env.terminations[env.agent_selection]:
            env.step(move)
    env.close()


def make_agent(folder: Path) -> None:
    """Make the log of an agent that buys fruit, and of another one that it asks."""
    world: dict[str, Any] = {"stock": {"pear": 3, "fig": 0}, "paid": False, "tags": ["a", "b"]}
    n_calls = 0

    def buy(item: str, count: int = 1) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise TimeoutError("busy")
        if world["stock"].get(item, 0) < count:
            raise KeyError(item)
        world["stock"][item] -= count
        return {"left": world["stock"][item], "note": "x" * 400}

    def pay(cents: int) -> bool:
        world["paid"] = True
        world["tags"].append(str(cents))
        return True

    def look() -> Any:
        return dict(world)

    def chat(messages: list[Any], temperature: float = 0.5) -> Any:
        return {"content": "buy " + messages[-1]["content"], "usage": {"input": 3, "output": 2}}

    def stream(messages: list[Any]) -> Any:
        return iter(["bu", "y"])

    messages: list[Any] = [{"role": "system", "content": "s" * 300}]
    with trajrec.episode(
        folder,
        task="fruit",
        goal="buy a pear",
        watch=world,
        interface={"model": "m"},
        metadata={"run": "a"},
    ) as ep:
        ep.tool(buy)
        ep.tool(pay, access="write")
        ep.tool(look, access="read")
        messages.append({"role": "user", "content": "pear"})
        answer = ep.model(chat, messages=list(messages))
        messages.append({"role": "assistant", "content": answer["content"]})
        ep.call("buy", item="pear")
        for attempt in ep.attempts(2):
            with attempt:
                ep.call("buy", item="pear", count=1)
        with contextlib.suppress(KeyError):
            ep.call("buy", item="fig")
        with contextlib.suppress(Exception):
            ep.call("steal", item="fig")
        messages.append({"role": "user", "content": "more"})
        list(ep.model(stream, messages=list(messages)))
        ep.call("pay", cents=250)
        ep.call("look")
        ep.side_effect("clock", lambda: 12.5)
        ep.check(paid)
        with trajrec.episode(folder, task="sub") as sub:
            sub.tool(look, access="read")
            sub.call("look")
        ep.stop("done", claimed_done=True)
    trajrec.close_logs()


def make_keys(folder: Path) -> None:
    """Make the log of an agent whose world has keys that only compare equal, or have equal texts."""
    people: dict[Any, Any] = {7: "ann", "7": "bob", "a/b": {"": [1, [2.0], True]}, None: b"x"}
    odd: dict[str, Any] = {"tags": {1, 2}, "at": (0, 0), "board": np.zeros((2, 2))}

    def move(step: int) -> None:
        changes: list[Any] = [
            lambda: people.update({8: "carl", "~2": None}),
            lambda: people["a/b"][""].__delitem__(slice(1, None)),
            lambda: people.__delitem__(7),
            lambda: (people.update({1: 1}), odd["tags"].add(3)),
            lambda: (people.__delitem__(1), people.update({True: 1})),
            lambda: (people["a/b"][""].insert(0, {"new": 0}), odd.update(at=(0, 1))),
            lambda: odd["board"].__setitem__((1, 0), 2.5),
        ]
        changes[step]()

    with trajrec.episode(folder, task="keys", watch={"people": people, "odd": odd}) as ep:
        ep.tool(move)
        for step in range(7):
            ep.call("move", step=step)
    trajrec.close_logs()


def make_branches(folder: Path) -> None:
    """Make forks of an episode, credit of one of its steps, and checks that were made later."""
    with trajrec.open(folder) as corpus:
        lake = next(iter(corpus.episodes("env_id = 'FrozenLake-v1'", order_by="number")))
        fork_many(lake, at=1, actions=[2], n_branches=2, seed=1)
        fork_many(lake, at=1, policy=choose, n_branches=1, restore="reexecute", seed=2)
        credit.counterfactual(lake, choose_randomly, 1, action=1, n_rollouts=4, seed=1)
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        for _ in recheck(corpus, later):
            pass
    trajrec.close_logs()


def choose(observation: Any) -> int:
    return 1


def choose_randomly(observation: Any, rng: np.random.Generator) -> int:
    return int(rng.integers(4))


def rename(folder: Path, name: str) -> None:
    """Give the logs that are named after their ids a name, in the order of their making."""
    logs = [path for path in folder.rglob("*.trj") if len(path.stem) == 32]
    for number, path in enumerate(sorted(logs, key=lambda path: path.stat().st_mtime_ns), 1):
        path.rename(folder / (f"{name}-{number}.trj" if len(logs) > 1 else f"{name}.trj"))


def make_rewritten(folder: Path) -> None:
    """Make a log that was compacted, and one that was recovered."""
    with tempfile.TemporaryDirectory() as other:
        make_agent(Path(other))
        (path,) = Path(other).glob("*.trj")
        compact(path)
        shutil.copy(path, folder / "compacted.trj")
    keydoor = gym.make("trajrec/KeyDoor-v0")
    samples.play(folder, "recovered", keydoor, lambda k: samples.WITH_KEY[k], 2).close()
    path = folder / "recovered.trj"
    with LogReader(path) as reader:
        unsealed = reader.slice(0, reader.frames[-1].end)
    path.write_bytes(unsealed)
    recover(path)


def write_values(folder: Path) -> None:
    """Write the expected values of each log."""
    for path in folder.rglob("*.trj"):
        lines = slow_reader.lines(slow_reader.expected(path))
        path.with_suffix(".json").write_text("\n".join(lines) + "\n")


def write_rows(folder: Path) -> None:
    """Write the rows of all logs of a folder."""
    with tempfile.TemporaryDirectory() as other:
        logs = shutil.copytree(folder, Path(other) / "logs")
        with trajrec.open(logs) as corpus:
            tables = {name: rows_of(corpus, name) for name in TABLES}
    (folder / "rows.json").write_text(json.dumps(tables, indent=0) + "\n")


def rows_of(corpus: trajrec.Corpus, table: str) -> dict[str, Any]:
    """Return columns and rows of a table, as texts in an order of their own."""
    result = corpus.sql(f"SELECT * FROM {table}")
    rows = [[None if value is None else str(value) for value in row] for row in result.fetchall()]
    return {"columns": result.columns, "rows": sorted(rows, key=repr)}


class Live:
    """Makes logs as a killed writer leaves them, each with its journal.

    Args:
        folder: Gets the logs.
        work: Gets the logs that are written on.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder = folder
        self.work = work

    def keep(self, log: Path, name: str) -> None:
        """Copy a log and its journal."""
        for path, suffix in ((log, ".trj"), (journal_path(log), ".trj.journal")):
            shutil.copy(path, self.folder / f"{name}{suffix}")

    def play(
        self,
        name: str,
        env: AnyEnv,
        n_steps: int,
        policy: Callable[[int], Any] = lambda k: k % 2,
        **options: Unpack[RecordOptions],
    ) -> None:
        """Record an environment; a part of its steps is in the log, the rest in the journal."""
        recording = samples.play(self.work, name, env, policy, 1, **options)
        recording.flush()
        recording.reset(seed=1)
        for k in range(n_steps):
            with contextlib.suppress(TimeoutError):
                recording.step(policy(k))
        self.keep(recording.path, name)
        recording.close()

    def call(self, name: str) -> None:
        """Record an agent that is killed while it reads an answer."""
        world: dict[str, Any] = {"n": 0}

        def add(n: int) -> dict[str, Any]:
            world["n"] += n
            return {"n": world["n"], "note": "x" * 20 * n}

        def stream(messages: list[Any]) -> Iterator[str]:
            return (f"piece {k} " + "word " * 20 for k in range(30))

        with trajrec.episode(self.work, task="sum", watch=world) as ep:
            ep.tool(add, access="write")
            for n in range(40):
                ep.call("add", n=n)
            answer = ep.model(stream, messages=[{"role": "user", "content": "count"}])
            for _ in range(20):
                next(answer)
            self.keep(ep.path, name)
            list(answer)
        trajrec.close_logs()


def make_live(folder: Path) -> None:
    """Make logs with journals, whose halves are small."""
    folder.mkdir(parents=True)
    writer = functools.partial(LogWriter, background=False, half_bytes=1 << 12)
    with (
        tempfile.TemporaryDirectory() as work,
        anonymous(),
        mock.patch.object(log_series, "LogWriter", writer),
        mock.patch.object(event_log, "LogWriter", writer),
        mock.patch.object(event_log, "EVENT_HALF_BYTES", 1 << 12),
    ):
        live = Live(folder, Path(work))
        live.play("live-lake", gym.make("FrozenLake-v1", is_slippery=False), 3, keep_states="all")
        pend = gym.make("Pendulum-v1", max_episode_steps=15)
        live.play(
            "live-pend",
            pend,
            12,
            lambda k: np.array([np.sin(k)], np.float32),
            keep_states="digests",
        )
        live.play(
            "live-car", gym.make("MountainCar-v0", max_episode_steps=90), 80, keep_states="keys"
        )
        live.play("live-odd", Odd(), 5)
        live.play("live-pixels", gym.wrappers.TimeLimit(Pixels(), 12), 12)
        live.call("live-agent")
    write_values(folder)
    write_rows(folder)


def make(folder: Path) -> None:
    """Make all golden logs in a folder, and those with a journal in one beside it."""
    make_live(folder.with_name(f"{folder.name}-journal"))
    envs.__all__  # noqa: B018 - registers trajrec's own environments
    folder.mkdir(parents=True)
    with anonymous():
        samples.make(folder)
        make_environments(folder)
        for name, record in (
            ("game", make_game),
            ("agent", make_agent),
            ("keys", make_keys),
            ("branches", make_branches),
            ("records", golden_records.make_records),
        ):
            record(folder)
            rename(folder, name)
            time.sleep(0.01)
        golden_records.make_unknown(folder)
        golden_records.make_copies(folder)
        make_rewritten(folder)
    shutil.rmtree(folder / INDEX_FOLDER, ignore_errors=True)
    write_values(folder)
    write_rows(folder)
