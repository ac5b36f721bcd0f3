"""State outside of the process is found before forks share it, or where few branches show it."""

from __future__ import annotations

import builtins
import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import pytest
from hidden_state import LENGTH, Hidden, InChild, after, truth

import trajrec
from trajrec.errors import ControlError
from trajrec.replay import credit, fork_many
from trajrec.replay.credit.sampling.proof import Proof
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.forks.branch import BranchTrace
from trajrec.replay.forks.outside import Holdings, shared_since, watched
from trajrec.replay.forks.repeats import Repeats

SEED = 7


class InMapping(Hidden):
    """The number lies in anonymous memory that forked processes share."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = mmap.mmap(-1, 8)

    def put(self, x: int) -> None:
        self.memory[:8] = struct.pack("q", x)

    def push(self, action: int) -> int:
        self.put(after(int(struct.unpack("q", self.memory[:8])[0]), action))
        return int(struct.unpack("q", self.memory[:8])[0])


class InOpenFile(Hidden):
    """The number lies in a file that stays open."""

    def __init__(self) -> None:
        super().__init__()
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def put(self, x: int) -> None:
        self.file.seek(0)
        self.file.write(struct.pack("q", x))

    def push(self, action: int) -> int:
        self.file.seek(0)
        self.put(after(int(struct.unpack("q", self.file.read(8))[0]), action))
        self.file.seek(0)
        return int(struct.unpack("q", self.file.read(8))[0])

    def close(self) -> None:
        self.file.close()


class InCArray(Hidden):
    """The number lies in an array of ctypes, whose class cannot be unpickled."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = (ctypes.c_uint64 * 1)()

    def put(self, x: int) -> None:
        self.cells[0] = x

    def push(self, action: int) -> int:
        self.cells[0] = after(self.cells[0], action)
        return int(self.cells[0])


class InView(Hidden):
    """The number is seen through a view of memory, whose pickle is a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = bytearray(8)
        self.view = memoryview(self.cell)

    def put(self, x: int) -> None:
        self.view[:] = struct.pack("q", x)

    def push(self, action: int) -> int:
        self.put(after(int(struct.unpack("q", self.cell)[0]), action))
        return int(struct.unpack("q", self.cell)[0])


def record(env: Any, folder: Path, n_steps: int = LENGTH) -> Any:
    env = trajrec.record(env, folder)
    env.reset(seed=SEED)
    for k in range(n_steps):
        env.step(k % 5)
    env.close()
    return next(trajrec.open(folder).episodes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tie"),
    [
        (InChild, "it has the child process"),
        (InMapping, "it shares memory with other processes"),
        (InOpenFile, "open for writing, which forked processes would share"),
    ],
)
def test_forked_processes_are_refused_what_they_would_share(
    kind: Any, tie: str, tmp_path: Path
) -> None:
    episode = record(kind(), tmp_path)
    # No control would see it: at the last step nothing is left that could differ.
    options: Any = {"at": LENGTH - 1, "actions": [1], "env": kind, "folder": None}
    with pytest.raises(ControlError, match="os_fork' is not right for this environment") as info:
        fork_many(episode, restore="os_fork", **options)
    assert tie in str(info.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [InCArray, InView, InMapping, InOpenFile])
def test_objects_that_cannot_be_restored_are_reached_otherwise(kind: Any, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    branches = fork_many(episode, at=[3, 20], policy="random", n_branches=3, env=kind)
    with trajrec.open(tmp_path) as corpus:
        for branch in branches:
            start = [k % 5 for k in range(branch.step)]
            expected = truth(SEED, [*start, *branch.actions])
            seen = list(corpus.episode(branch.episode_id or "").observation_values)
            assert seen == expected[branch.step :]


class Rarely(gym.Env[int, int]):
    """Counts actions in a file, and pays the count at the end in one of twelve episodes."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Discrete(1)
        self.action_space = gym.spaces.Discrete(5)
        self.path = tempfile.mkdtemp() + "/count"
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        self._write(1)
        return 0, {}

    def step(self, action: int) -> Any:
        self.n += 1
        count = self._read()
        count = (count + (self.np_random.random() < 0.3) * int(action)) % 7
        self._write(count)
        is_over = self.n == 12
        is_paid = is_over and self.np_random.random() < 0.08
        return 0, float(count) if is_paid else 0.0, is_over, False, {}

    def _write(self, count: int) -> None:
        with open(self.path, "w") as file:
            file.write(str(count))

    def _read(self) -> int:
        with open(self.path) as file:
            return int(file.read())


@pytest.mark.slow
def test_numbers_are_right_if_the_state_rarely_shows(tmp_path: Path) -> None:
    episode = record(Rarely(), tmp_path, 12)
    policy = lambda observation, rng: int(rng.integers(5))  # noqa: E731
    options: Any = {"n_rollouts": 16, "steps": [0, 6], "env": Rarely, "folder": None}
    right = credit.estimate(episode, policy, restore="reexecute", merge_rollouts=False, **options)
    table = credit.estimate(episode, policy, **options)
    assert [row.value for row in table] == [row.value for row in right]
    # The control arm: snapshots do not restore the file.
    wrong = credit.estimate(episode, policy, restore="snapshot", control=False, **options)
    assert [row.value for row in wrong] != [row.value for row in right]


def test_a_rollout_with_a_rare_result_runs_twice() -> None:
    proof = Proof(SimpleNamespace(id="0" * 16), is_on=True)  # type: ignore[arg-type]
    request = SampleRequest(step=0, scenarios=tuple(range(200)))
    rollouts = [
        Rollout(scenario=k, episode_return=float(k == 77), score=None, length=20, status="ended")
        for k in range(200)
    ]
    proof.note(request, rollouts)
    chosen = {rerun.rollout.scenario for rerun in proof.take_reruns()}
    assert 77 in chosen
    assert len(chosen) >= 2
    assert not proof.take_reruns()


def test_a_branch_with_a_rare_course_runs_twice() -> None:
    branches = [(3, k) for k in range(40)]
    repeats = Repeats(branches)
    for step, index in branches:
        reward = float(index == 17)
        trace = BranchTrace(step=step, index=index, observation=0, restore="reexecute")
        trace.rewards.extend([0.0, reward])
        repeats.note(trace)
    assert len(repeats.left) == 2
    assert (3, 17) in repeats.left


def test_acts_outside_of_the_process_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = builtins.open
    started = subprocess.Popen.__init__
    with watched() as notes:
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").read_text()
        os.close(os.open(tmp_path / "b", os.O_CREAT | os.O_WRONLY))
        with socket.socket() as s:
            assert s.connect_ex(("127.0.0.1", 9)) != 0
        subprocess.run([sys.executable, "-c", ""], check=True)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TRAJREC_TEST_OUTSIDE", "1")
    assert notes == [
        f"it writes to {tmp_path / 'a'}",
        f"it writes to {tmp_path / 'b'}",
        "it connects to ('127.0.0.1', 9)",
        "it starts processes",
        "it changes the working directory",
        "it changes environment variables",
    ]
    assert builtins.open is opened
    assert subprocess.Popen.__init__ is started
    assert "connect" not in vars(socket.socket)
    with watched() as notes:
        (tmp_path / "a").read_text()
    assert not notes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_what_forks_would_share_is_told_from_what_they_would_not(tmp_path: Path) -> None:
    before = Holdings.present()
    ends = os.pipe()
    pair = socket.socketpair()
    with (tmp_path / "a").open("w"), (tmp_path / "a").open():
        assert shared_since(before) == f"it has the file {tmp_path / 'a'} open for writing"
    # A process signals itself through a pipe or a pair of sockets, as an event loop does.
    assert not shared_since(before)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()):
            assert shared_since(before) == "it has a connection"
        os.close(ends[0])
        assert shared_since(before) == "it has a pipe to another process"
        os.close(ends[1])
    for end in pair:
        end.close()
    assert not shared_since(before)


@pytest.mark.slow
def test_a_policy_that_remembers_branches_is_warned_of(tmp_path: Path) -> None:
    class Alternating:
        n = 0

        def act(self, observation: Any, rng: Any) -> int:
            self.n += 1
            return self.n % 2

    episode = record(InCArray(), tmp_path)
    options: Any = {"at": [3, 4], "env": InCArray, "folder": None, "max_steps": 5}
    with pytest.warns(UserWarning, match="took other actions the second time"):
        fork_many(episode, policy=Alternating(), n_branches=3, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fork_many(episode, policy="random", n_branches=3, **options)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc")
def test_own_children_are_no_ties_and_others_are() -> None:
    before = Holdings.present()
    wait = [sys.executable, "-c", "input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(wait, stdin=pipe) as own, subprocess.Popen(wait, stdin=pipe) as engine:
        assert own.stdin is not None
        known = before.with_children([own.pid], [own.stdin.fileno()])
        assert shared_since(known) == f"it has the child process {engine.pid}"
        engine.communicate(b"\n")
        assert not shared_since(known)
        own.communicate(b"\n")


class InChildLater(Hidden):
    """The number moves into a child process at step 20, from which on it cannot be copied."""

    engine: InChild | None = None
    # A restored snapshot drops the engine without closing it.
    started: ClassVar[list[InChild]] = []

    def put(self, x: int) -> None:
        self.close()
        self.x = x

    def push(self, action: int) -> int:
        if self.n < 20:
            self.x = after(self.x, action)
            return self.x
        if self.engine is None:
            self.engine = InChild()
            self.started.append(self.engine)
            self.engine.put(self.x)
        return self.engine.push(action)

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None


@pytest.mark.slow
# In other processes forks of an early step may go on while the server reaches a late one.
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_engine_that_starts_later_is_no_wrong_number(tmp_path: Path, jobs: int) -> None:
    episode = record(InChildLater(), tmp_path)
    options: Any = {"estimator": "value", "steps": [3, 30, 40], "n_rollouts": 2, "jobs": jobs}
    try:
        table = credit.estimate(episode, lambda o: 2, env=InChildLater, **options)
    finally:
        for engine in InChildLater.started:
            engine.close()
    for row in table:
        actions = [k % 5 for k in range(row.step)] + [2] * (LENGTH - row.step)
        assert row.value == sum(x % 7 for x in truth(SEED, actions)[row.step + 1 :])
