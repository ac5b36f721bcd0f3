"""Forks: an environment in a recorded state, and branches that are recorded as episodes."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest
from tiers import deep, spread, third_slow

import trajrec
from trajrec.cli import arguments
from trajrec.corpus.history import path_between, preceding_episodes
from trajrec.corpus.refs import refs_with_ancestors
from trajrec.envstate.snapshots import Snapshots
from trajrec.errors import CorpusError, DivergenceError, EnvContractError, SnapshotError
from trajrec.log.schema import RESTORE_WORDS, Fork
from trajrec.recording.opening import open_recorder
from trajrec.recording.options import LogOrigin
from trajrec.replay import fork, fork_many, replay_episode, replay_episodes
from trajrec.replay.forks.options import RESTORE_CHOICES, RestoreMethod
from trajrec.values.diff import is_same

ENVS = [
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "Blackjack-v1",
    "FrozenLake-v1",
    "Taxi-v4",
    "Hopper-v5",
    "Humanoid-v5",
    "LunarLander-v3",
    "MiniGrid-DoorKey-8x8-v0",
    "MiniGrid-Dynamic-Obstacles-8x8-v0",
    "trajrec/KeyDoor-v0",
]
UNCOPYABLE = ("LunarLander-v3",)


def record(
    folder: Path,
    env: Any,
    *,
    n: int = 1,
    seed: int = 3,
    max_steps: int = 80,
    name: str | None = None,
) -> Any:
    """Record episodes of random actions, unseeded after the first; return the corpus."""
    recording = open_recorder(env, folder, LogOrigin(name=name))
    recording.action_space.seed(seed)
    for k in range(n):
        recording.reset(seed=seed if k == 0 else None)
        for _ in range(max_steps):
            *_, terminated, truncated, _ = recording.step(recording.action_space.sample())
            if terminated or truncated:
                break
    recording.close()
    return trajrec.open(folder)


def make(env_id: str) -> Any:
    import minigrid  # noqa: F401

    import trajrec.envs  # noqa: F401

    return gym.make(env_id)


def rows_of(episode: Any, first: int) -> list[Any]:
    """Return the actions, observations, rewards and infos of an episode from a step on."""
    row = first - episode.first_step
    n = len(episode.actions)
    return [
        [a, o, r, i]
        for a, o, r, i in zip(
            episode.actions[row:n],
            episode.observation_values[row + 1 :],
            episode.reward_values[row:n],
            episode.infos[row:n],
            strict=True,
        )
    ]


@pytest.mark.parametrize("env_id", spread("environments", ENVS, drawn=2))
def test_recorded_actions_repeat_the_episode_with_every_restore_method(
    tmp_path: Path, env_id: str
) -> None:
    corpus = record(tmp_path, make(env_id), n=2)
    for episode in list(corpus.episodes()):
        steps = sorted({episode.n_steps // 3, episode.n_steps - 1})
        for step in steps:
            expected = rows_of(episode, step)
            for restore in ("reexecute", "auto", "os_fork"):
                (branch,) = fork_many(
                    episode, at=[step], actions=[row[0] for row in expected], restore=restore
                )
                child = corpus.episode(branch.episode_id)
                assert is_same(rows_of(child, step), expected), (step, restore)
                assert (branch.terminated, branch.truncated) == (
                    episode.end.terminated,
                    episode.end.truncated,
                )
                assert branch.restore != "reexecute" or restore != "auto" or env_id in UNCOPYABLE
                # A check of 24 bits does not tell whether two states are the same.
                assert branch.rejoined_at == (None if child.state_keys is None else step)
    assert {report.grade for report in replay_episodes(corpus.episodes(kind="all"))} == {"exact"}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "freesh"}, "noise must be 'recorded' or 'fresh', got 'freesh'"),
        ({"max_steps": 0}, "max_steps must be above 0, got 0"),
        ({"timeout_s": -1.0}, "timeout_s must be above 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be above 0"),
        ({"memory_mb": 0}, "memory_mb must be above 0"),
    ],
)
def test_options_of_forks_are_checked(options: Any, message: str, tmp_path: Path) -> None:
    with trajrec.record(gym.make("FrozenLake-v1"), tmp_path) as env:
        env.reset(seed=0)
        env.step(0)
    episode = next(trajrec.open(tmp_path).episodes())
    with pytest.raises(ValueError, match=message):
        fork_many(episode, at=0, policy="random", **options)
    if "noise" in options:
        with pytest.raises(ValueError, match=message):
            fork(episode, at=0, **options)


@pytest.mark.parametrize("folder", ["beside", None])
def test_a_fork_at_the_end_shows_it_and_takes_no_step(folder: Any, tmp_path: Path) -> None:
    with trajrec.record(gym.make("FrozenLake-v1", is_slippery=False), tmp_path) as env:
        env.reset(seed=0)
        env.step(1)
        env.step(2)
    episode = next(trajrec.open(tmp_path).episodes())
    with fork(episode, at=2, folder=folder) as world:
        assert world.observation == 5
        with pytest.raises(EnvContractError, match="was over after step 1"):
            world.step(1)


@pytest.mark.slow
def test_a_fork_is_live_and_recorded_as_a_child(tmp_path: Path) -> None:
    corpus = record(tmp_path, gym.make("CartPole-v1"))
    (episode,) = corpus.episodes()
    with fork(episode, at=7) as world:
        assert is_same(world.observation, episode.observation_values[7])
        other = 1 - episode.actions[7]
        observation, *_ = world.step(other)
        assert not is_same(observation, episode.observation_values[8])
        child_id = world.episode_id
        with pytest.raises(ValueError, match="cannot be reset"):
            world.reset()
    child = corpus.episode(child_id)
    assert (child.parent.id, child.first_step, child.end_step, child.ending) == (
        episode.id,
        7,
        8,
        "abandoned",
    )
    assert [row.tolist() for row in child.observations] == [
        episode.observations[7].tolist(),
        observation.tolist(),
    ]
    assert path_between(child, 0, 8) == [*((a, None) for a in episode.actions[:7]), (other, None)]
    assert replay_episode(child).grade == "exact"
    query = (
        "SELECT count(*), count(*) FILTER (kind = 'rollout'), sum(missing_steps) FROM all_episodes"
    )
    assert corpus.sql(query).fetchall() == [(2, 1, 0)]
    assert corpus.sql(
        "SELECT fork_step, n_steps, end_step FROM forks WHERE parent_id IS NOT NULL"
    ).fetchall() == [(7, 1, 8)]
    assert corpus.sql(f"SELECT step FROM steps WHERE episode_id = '{child_id}'").fetchall() == [
        (7,)
    ]
    # A fork of the fork.
    with fork(child, at=8) as world:
        world.step(other)
        grandchild_id = world.episode_id
    grandchild = corpus.episode(grandchild_id)
    assert grandchild.parent.parent.id == episode.id
    assert replay_episode(grandchild).grade == "exact"
    with pytest.raises(IndexError, match=r"step must be in \[7, 8\] for episode .*, got 3"):
        fork(child, at=3)
    from trajrec.corpus.lone_episode import read_episode

    alone = read_episode(child.path, child.number)
    with pytest.raises(CorpusError, match="read it from a corpus"):
        replay_episode(alone)


def wins(env: Any) -> bool:
    return bool(env.unwrapped.state[0] > 0)


class Sloppy:
    """A policy with a generator of its own, which can be seeded."""

    def seed(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)

    def __call__(self, observation: Any) -> int:
        return int(self.draw.integers(2))


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("policy", ["random", Sloppy()], ids=["random", "seeded"])
def test_branches_depend_neither_on_restore_nor_on_jobs(tmp_path: Path, policy: Any) -> None:
    corpus = record(tmp_path / "a", gym.make("CartPole-v1"))
    (episode,) = corpus.episodes()
    all_branches = []
    for k, (restore, jobs) in enumerate(
        (("reexecute", 1), ("snapshot", 1), ("snapshot", 2), ("os_fork", 1), ("os_fork", 3))
    ):
        branches = fork_many(
            episode,
            at=range(0, 12, 4),
            policy=policy,
            n_branches=3,
            jobs=jobs,
            restore=restore,
            checks=[wins],
            folder=tmp_path / str(k),
        )
        assert {branch.restore for branch in branches} == {restore}
        assert [(b.step, b.index) for b in branches] == [
            (s, i) for s in (0, 4, 8) for i in range(3)
        ]
        all_branches.append(
            [(b.actions, b.n_steps, b.total_reward, b.outcome, b.rejoined_at) for b in branches]
        )
        with trajrec.open(tmp_path / str(k)) as children:
            recorded = children.sql(
                "SELECT fork_step, n_steps, total_reward, outcome FROM forks ORDER BY number"
            ).fetchall()
        assert recorded == [(b.step, b.n_steps, b.total_reward, b.outcome) for b in branches]
    assert all(branches == all_branches[0] for branches in all_branches[1:])
    assert len({actions for actions, *_ in all_branches[0]}) > 6
    again = fork_many(episode, at=range(0, 12, 4), policy=policy, n_branches=3, seed=1, folder=None)
    assert [b.actions for b in again] != [actions for actions, *_ in all_branches[0]]
    assert {b.episode_id for b in again} == {None}


@pytest.mark.slow
def test_each_branch_draws_fresh_noise_but_repeats_recorded_noise(tmp_path: Path) -> None:
    corpus = record(tmp_path, gym.make("FrozenLake-v1"))
    (episode,) = corpus.episodes()
    fixed = {"at": [0], "actions": [2, 2, 1, 1, 2, 2, 1, 0, 2, 3], "n_branches": 12}
    fresh = fork_many(episode, noise="fresh", **fixed)
    recorded = fork_many(episode, noise="recorded", **fixed)
    paths = [[int(o) for o in corpus.episode(b.episode_id).observation_values] for b in fresh]
    assert len({tuple(path) for path in paths}) > 4
    assert len({(b.n_steps, b.total_reward) for b in recorded}) == 1
    assert {report.grade for report in replay_episodes(corpus.episodes(kind="all"))} == {"exact"}


class Leaky(gym.Env[Any, Any]):
    """An environment with state outside of it, which no snapshot contains."""

    memory: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Discrete(1000)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        Leaky.memory[:] = [0]
        return 0, {}

    def step(self, action: Any) -> Any:
        Leaky.memory[0] += 1 + int(action)
        return Leaky.memory[0], 0.0, Leaky.memory[0] >= 40, False, {}


@pytest.mark.slow
@third_slow("credit")
def test_a_wrong_snapshot_is_refused_and_auto_avoids_it(tmp_path: Path) -> None:
    (episode,) = record(tmp_path, Leaky()).episodes()
    with pytest.raises(
        SnapshotError,
        match="restore='snapshot' does not work for this environment: restored at step 3, it continued differently",
    ):
        fork_many(episode, at=[3], actions=[0], restore="snapshot", env=Leaky)
    (branch,) = fork_many(episode, at=[3], actions=[0], env=Leaky)
    assert branch.restore == "reexecute"
    (apart,) = fork_many(episode, at=[3], actions=[0], env=Leaky, restore="os_fork")
    assert (apart.actions, apart.total_reward) == (
        branch.actions,
        branch.total_reward,
    )


@pytest.mark.slow
def test_a_changed_environment_is_refused_with_the_difference(tmp_path: Path) -> None:
    (episode,) = record(tmp_path, gym.make("CartPole-v1")).episodes()

    def heavier() -> Any:
        env = gym.make("CartPole-v1")
        env.unwrapped.masscart = 1.5
        env.unwrapped.total_mass = 1.6
        return env

    with pytest.raises(
        DivergenceError, match="not in the recorded state: after step 5, observation/0"
    ):
        fork(episode, at=6, env=heavier())
    for restore in ("snapshot", "os_fork"):
        with pytest.raises(DivergenceError):
            fork_many(episode, at=[2, 6], policy="random", env=heavier, restore=restore)


class Trap(gym.Wrapper[Any, Any, Any, Any]):
    """Ends, hangs or fills the process in which an action is taken."""

    def step(self, action: Any) -> Any:
        if action == 7:
            ctypes.string_at(0)
        if action == 8:
            while True:
                time.sleep(0.01)
        if action == 9:
            self.hoard = [bytearray(1 << 24) for _ in range(1000)]
        if action == 10:
            os._exit(3)
        return self.env.step(action)


class Choice:
    """Takes a deadly action in a third of the branches."""

    def __init__(self, deadly: int) -> None:
        self.deadly = deadly

    def seed(self, seed: int) -> None:
        self.is_deadly = seed % 3 == 0

    def __call__(self, observation: Any) -> int:
        return self.deadly if self.is_deadly else 0


def trapped() -> Any:
    return Trap(gym.make("CartPole-v1"))


def processes_of(folder: Path) -> list[str]:
    """Return the processes that a test with this folder started, and zombies of this process.

    They are found by an environment variable: tests in other processes start servers of the same
    name.
    """
    mark = f"TRAJREC_TEST_FOLDER={folder}".encode()
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                is_marked = mark in (entry / "environ").read_bytes().split(b"\0")
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if is_marked or (state == "Z" and parent == str(os.getpid())):
                processes.append(stat)
    return processes


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
@pytest.mark.parametrize(
    ("deadly", "why"),
    [
        (7, "its process was ended by SIGSEGV"),
        pytest.param(8, "it took longer than timeout_s and was ended", marks=pytest.mark.slow),
        pytest.param(9, "MemoryError", marks=pytest.mark.slow),
        pytest.param(10, "its process ended with status 3 and no result", marks=pytest.mark.slow),
    ],
)
def test_a_branch_that_kills_its_process_spares_the_others(
    tmp_path: Path, deadly: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJREC_TEST_FOLDER", str(tmp_path))
    (episode,) = record(tmp_path, gym.make("CartPole-v1"), name="trap").episodes()
    timeout_s = 1.0 if deadly == 8 else 60.0
    branches = fork_many(
        episode,
        at=[0, 5],
        policy=Choice(deadly),
        n_branches=4,
        jobs=2,
        max_steps=3,
        env=trapped,
        timeout_s=timeout_s,
        memory_mb=512,
    )
    failed = [branch for branch in branches if branch.error]
    assert 0 < len(failed) < 8
    assert all(why in branch.error for branch in failed)
    assert all(branch.n_steps == 3 for branch in branches if not branch.error)
    assert wait_until(lambda: not processes_of(tmp_path)), processes_of(tmp_path)


INTERRUPTED = """
import signal, sys, time, trajrec
from trajrec.replay import fork_many
# A shell that runs the tests in the background makes all their children ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
with trajrec.open(sys.argv[1]) as corpus:
    (episode,) = corpus.episodes()
    print("ready", flush=True)
    fork_many(episode, at=range(8), policy=lambda obs: time.sleep(600), restore="os_fork", jobs=4, folder=None)
"""


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_an_interrupted_or_killed_caller(tmp_path: Path, number: int) -> None:
    record(tmp_path, gym.make("CartPole-v1")).close()
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TRAJREC_TEST_FOLDER": str(tmp_path)},
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        assert wait_until(lambda: len(processes_of(tmp_path)) >= 6), processes_of(tmp_path)
        run.send_signal(number)
        run.wait(60)
        run.communicate()
    assert wait_until(lambda: not processes_of(tmp_path)), processes_of(tmp_path)


def test_wrong_arguments_of_forks_are_refused(tmp_path: Path) -> None:
    corpus = record(tmp_path, gym.make("CartPole-v1"))
    (episode,) = corpus.episodes()
    with pytest.raises(IndexError, match=r"step must be in \[0, "):
        fork_many(episode, at=[10_000], policy="random")
    with pytest.raises(ValueError, match="needs actions, a policy, or both"):
        fork_many(episode, at=[0])
    with pytest.raises(ValueError, match="at least 1"):
        fork_many(episode, at=[0], policy="random", jobs=0)
    with pytest.raises(TypeError, match=r"fork_many\(\) got an unexpected .*'noises'; its options"):
        fork_many(episode, at=[0], actions=[0], noises="fresh")  # type: ignore[call-arg]
    with pytest.raises(
        TypeError, match=r"fork\(\) got an unexpected keyword argument 'n_branches'"
    ):
        fork(episode, at=0, n_branches=2)  # type: ignore[call-arg]
    lock = threading.Lock()
    with pytest.raises(TypeError, match="policy cannot be sent to another process"):
        fork_many(episode, at=[0], policy=lambda _: lock.locked(), restore="os_fork")
    assert fork_many(episode, at=[], policy="random") == []
    with pytest.raises(
        ValueError,
        match="restore must be one of auto, reexecute, snapshot, pickle, env_snapshot, os_fork, got 'foo'",
    ):
        fork_many(episode, at=[0], policy="random", restore="foo")  # type: ignore[arg-type]


@pytest.mark.slow
def test_fork_takes_an_environment_or_a_factory(tmp_path: Path) -> None:
    (episode,) = record(tmp_path, gym.make("CartPole-v1")).episodes()
    action = episode.actions[5]
    observations = []
    for env in (None, make("CartPole-v1"), lambda: make("CartPole-v1")):
        with fork(episode, at=5, env=env, folder=None) as world:
            observations.append(world.step(action)[0])
    assert is_same(observations, [episode.observation_values[6]] * 3)
    with pytest.raises(TypeError, match="a function that makes one, got 3"):
        fork(episode, at=5, env=3, folder=None)  # type: ignore[arg-type]


def draw(observation: Any, rng: np.random.Generator) -> int:
    return int(rng.integers(2))


class Drawing:
    """A policy that acts as `draw` does."""

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return draw(observation, rng)


class Remembering(Drawing):
    """A policy that claims to have a memory."""

    def snapshot(self) -> None: ...

    def observe(self, observation: Any, action: Any) -> None: ...


@pytest.mark.slow
@third_slow("credit")
def test_a_policy_draws_from_its_branchs_generator(tmp_path: Path) -> None:
    (episode,) = record(tmp_path, gym.make("CartPole-v1")).episodes()
    policies: list[Any] = [draw, draw, Drawing()]
    all_branches = [
        fork_many(episode, at=[2, 4], policy=policy, n_branches=2, seed=7, folder=None)
        for policy in policies
    ]
    actions = [[branch.actions for branch in branches] for branches in all_branches]
    assert actions[0] == actions[1] == actions[2]
    assert len(set(actions[0])) == 4
    apart = fork_many(
        episode,
        at=[2, 4],
        policy=Drawing(),
        n_branches=2,
        seed=7,
        restore="reexecute",
        jobs=2,
        folder=None,
    )
    assert [branch.actions for branch in apart] == actions[0]
    with pytest.raises(TypeError, match="policy must be 'random', a function of the observation"):
        fork_many(episode, at=2, policy=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must not have a memory here, got .*Remembering"):
        fork_many(episode, at=2, policy=Remembering())


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("at", [5, np.int64(5)])
def test_at_may_be_one_number(tmp_path: Path, at: int) -> None:
    (episode,) = record(tmp_path, gym.make("CartPole-v1")).episodes()
    (branch,) = fork_many(episode, at=at, actions=[0], folder=None)
    assert (branch.step, branch.n_steps) == (5, 1)


def test_snapshots_include_wrappers_and_the_generators_of_spaces() -> None:
    env = gym.make("CartPole-v1", max_episode_steps=30)
    env = gym.wrappers.FrameStackObservation(
        gym.wrappers.NormalizeObservation(gym.wrappers.RecordEpisodeStatistics(env)), 3
    )
    env.reset(seed=1)
    env.action_space.seed(5)
    for _ in range(9):
        env.step(env.action_space.sample())
    snapshots = Snapshots(env)
    snapshot = snapshots.take()

    def continue_episode() -> list[Any]:
        results: list[Any] = []
        for _ in range(40):
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            info.pop("episode", None)  # it holds the measured duration
            results.append([observation, reward, terminated, truncated, info])
            if terminated or truncated:
                results.append(env.reset()[0])
        return results

    first = continue_episode()
    for _ in range(3):
        snapshots.restore(snapshot)
        assert is_same(continue_episode(), first)


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("game", ["Breakout", "Pong", "MontezumaRevenge"])
def test_a_restored_ale_repeats_the_same_sticky_action(game: str) -> None:
    import ale_py  # noqa: F401

    env = gym.make(f"ALE/{game}-v5")
    env.reset(seed=1)
    snapshots = Snapshots(env)
    for trial in range(25):
        env.action_space.seed(trial)
        env.reset()
        actions = [env.action_space.sample() for _ in range(60)]
        for action in actions[: 20 + trial]:
            env.step(action)
        snapshot = snapshots.take()
        continued = []
        for _ in range(2):
            continued.append([env.step(action)[0].tobytes() for action in actions[20 + trial :]])
            snapshots.restore(snapshot)
        assert continued[0] == continued[1], trial


@pytest.mark.slow
@third_slow("credit")
def test_an_environment_lives_as_long_as_its_last_snapshot() -> None:
    env = make("MiniGrid-DoorKey-8x8-v0")
    env.reset(seed=0)
    snapshot = Snapshots(env).take()
    assert snapshot.restore_method == "pickle"
    world = weakref.ref(env.unwrapped)
    del env
    gc.collect()
    assert world() is not None
    del snapshot
    gc.collect()
    assert world() is None


@pytest.mark.slow
@third_slow("credit")
def test_fresh_ale_branches_differ_and_replay_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ale_py  # noqa: F401

    with record(tmp_path, gym.make("ALE/Breakout-v5", obs_type="ram"), max_steps=30) as corpus:
        episode = next(corpus.episodes())
        for noise, n_futures in (("fresh", 4), ("recorded", 1)):
            branches = fork_many(
                episode, at=[20], actions=[0, 2, 3, 1] * 6, n_branches=4, noise=noise
            )  # type: ignore[arg-type]
            children = [corpus.episode(branch.episode_id) for branch in branches]
            assert len({child.observations.tobytes() for child in children}) == n_futures
            assert [report.grade for report in replay_episodes(children)] == ["exact"] * 4
        monkeypatch.setattr("trajrec.envstate.ale._HAS_RNG", b"\0" * 4)
        refused = list(replay_episodes(corpus.episodes(kind="all")))
        assert sorted(report.grade for report in refused) == ["exact"] * 5 + ["refused"] * 4
        assert "this version of ALE" in "".join(note for report in refused for note in report.notes)


class Carrying(gym.Wrapper[Any, Any, Any, Any]):
    """Counts episodes in a global dict, and adds the count to each observation."""

    def reset(self, **kwargs: Any) -> Any:
        counted[id(self)] = counted.get(id(self), 0) + 1
        obs, info = self.env.reset(**kwargs)
        return obs + np.float32(counted[id(self)]), info

    def step(self, action: Any) -> Any:
        obs, *rest = self.env.step(action)
        return obs + np.float32(counted[id(self)]), *rest


counted: dict[int, int] = {}


def carrying() -> Any:
    counted.clear()
    return Carrying(gym.make("CartPole-v1"))


class Ripening(gym.Env[Any, Any]):
    """Counts episodes, and shows the count only from the eighth step on."""

    observation_space = gym.spaces.Discrete(1000)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.n_episodes = self.n = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n_episodes += 1
        self.n = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.n += 1
        return self.n if self.n < 8 else self.n * self.n_episodes, 0.0, self.n == 12, False, {}


@pytest.mark.slow
def test_logs_store_the_way_of_restoring(tmp_path: Path) -> None:
    assert get_args(RestoreMethod) == RESTORE_WORDS
    assert arguments.RESTORE_CHOICES == RESTORE_CHOICES
    with record(tmp_path, gym.make("CartPole-v1"), n=1) as corpus:
        (episode,) = corpus.episodes()
        for restore in ("reexecute", "snapshot", "os_fork"):
            (branch,) = fork_many(episode, at=2, actions=[0], restore=restore)  # type: ignore[arg-type]
            child = corpus.episode(branch.episode_id or "")
            assert child.fork is not None
            assert branch.restore == child.fork.restore == restore


@third_slow("credit")
@pytest.mark.parametrize("restore", ["reexecute", pytest.param("os_fork", marks=pytest.mark.slow)])
def test_carried_state_that_shows_late_is_noticed(tmp_path: Path, restore: Any) -> None:
    with record(tmp_path, Ripening(), n=3) as corpus:
        for episode in list(corpus.episodes(order_by="number"))[
            :: 1 if restore == "reexecute" else 2
        ]:
            branches = fork_many(
                episode, at=[5, 9], actions=[0] * 7, n_branches=2, restore=restore, env=Ripening
            )
            for branch in branches:
                child = corpus.episode(branch.episode_id or "")
                assert child.observation_values == episode.observation_values[branch.step :], (
                    episode.number,
                    branch,
                )


@deep("environments")
@pytest.mark.slow
def test_objects_with_lossy_pickles_have_no_snapshot() -> None:
    pymunk = pytest.importorskip("pymunk", reason="pymunk is not installed")
    env = gym.make("CartPole-v1")
    env.unwrapped.world = [pymunk.Space()]  # type: ignore[attr-defined]
    with pytest.raises(
        SnapshotError,
        match=r"attribute world \(list\): .*objects of pymunk leave out of their pickles a part",
    ):
        Snapshots(env).take()


SIMULATIONS: dict[int, float] = {}
"""The simulations of a library by their number, as PyBullet keeps them."""


NUMBERS = itertools.count()


class Client:
    """Ends its simulation when it goes."""

    def __init__(self) -> None:
        self.number = next(NUMBERS)
        SIMULATIONS[self.number] = 0.0

    def __del__(self) -> None:
        SIMULATIONS.pop(self.number, None)


class Remaking(Client):
    """A client whose copies begin a simulation of their own."""

    def __getstate__(self) -> float:
        return SIMULATIONS[self.number]

    def __setstate__(self, state: float) -> None:
        self.__init__()  # type: ignore[misc]
        SIMULATIONS[self.number] = state


class Simulated(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, make: type[Client] = Client) -> None:
        self.client = make()

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        SIMULATIONS[self.client.number] = 0.0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        SIMULATIONS[self.client.number] += float(action)
        return np.full(1, SIMULATIONS[self.client.number]), 0.0, False, False, {}


@pytest.mark.slow
def test_a_snapshot_never_ends_what_the_environment_uses(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"attribute client \(Client\): .*has a __del__"):
        Snapshots(Simulated()).take()
    report = trajrec.replay.check_determinism(Simulated, n_steps=30)
    assert report.grade == "exact"
    assert "has a __del__" in report.restore["pickle"].why
    env = trajrec.record(Simulated(), tmp_path)
    env.reset(seed=0)
    for action in (1, 2, 1):
        env.step(action)
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    with fork(episode, at=2, env=Simulated) as world:
        assert world.step(1)[0] == 4.0


@pytest.mark.slow
def test_an_object_that_says_how_it_is_copied_is_copied() -> None:
    env = Simulated(Remaking)
    env.reset(seed=0)
    snapshots = Snapshots(env)
    env.step(1)
    snapshot = snapshots.take()
    env.step(2)
    snapshots.restore(snapshot)
    gc.collect()
    assert env.step(0)[0] == 1.0


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("restore", ["auto", "reexecute", "os_fork"])
def test_carried_state_is_restored_by_replaying_predecessors(tmp_path: Path, restore: Any) -> None:
    corpus = record(tmp_path, carrying(), n=3)
    for episode in list(corpus.episodes(order_by="number")):
        actions = episode.actions[4:]
        branches = fork_many(episode, at=[2, 4], actions=actions, restore=restore, env=carrying)
        child = corpus.episode(branches[1].episode_id)
        assert is_same(child.observation_values, episode.observation_values[4:])


@pytest.mark.slow
def test_a_bipedal_walker_replays_alone_and_says_why(
    tmp_path: Path,
) -> None:
    corpus = record(tmp_path, gym.make("BipedalWalker-v3"), n=4, seed=0, max_steps=400)
    reports = [replay_episode(episode) for episode in corpus.episodes(order_by="number")]
    assert {report.grade for report in reports} == {"exact"}
    assert any(
        "it carries state over between episodes" in note
        for report in reports
        for note in report.notes
    )
    last = next(corpus.episodes(order_by="number DESC"))
    with fork(last, at=last.n_steps // 2) as world:
        assert is_same(world.observation, last.observation_values[last.n_steps // 2])


@pytest.mark.slow
@third_slow("credit")
def test_near_steps_are_reexecuted_and_far_ones_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trajrec.replay.forks import restore

    with record(tmp_path, gym.make("LunarLander-v3"), max_steps=60) as corpus:
        episode = next(corpus.episodes())
        ask: dict[str, Any] = {
            "at": range(0, 60, 10),
            "actions": [1],
            "policy": "random",
            "n_branches": 2,
            "folder": None,
        }
        again = fork_many(episode, restore="reexecute", **ask)
        # As if a fork cost as much as 25 steps, and a server nothing.
        real = restore.cheapest_plan
        monkeypatch.setattr(restore, "SERVER_S", 0.0)
        monkeypatch.setattr(restore, "FORK_S", 25.0)
        monkeypatch.setattr(
            "trajrec.replay.forks.walker.cheapest_plan",
            lambda probe, steps, **options: real(
                probe._replace(step_seconds=1.0), steps, **options
            ),
        )
        mixed = fork_many(episode, **ask)
    assert [branch.restore for branch in mixed] == ["reexecute"] * 6 + ["os_fork"] * 6
    assert [(b.step, b.index, b.total_reward, b.n_steps) for b in mixed] == [
        (b.step, b.index, b.total_reward, b.n_steps) for b in again
    ]


def record_fork_of(folder: Path, name: str, parent: Any, parent_id: str) -> str:
    """Record a fork of one step of an episode of any id; return its own id."""
    recorder = open_recorder(
        make("CartPole-v1"), folder, LogOrigin(name=name, parent=parent.header)
    )
    recorder.env.reset(seed=3)
    forked = Fork(episode=0, parent_id=parent_id, step=1, kind="actions", noise="recorded")
    recorder.begin_fork(forked, parent.start, np.zeros(4, np.float32), task=None)
    recorder.step(0)
    recorder.close()
    assert recorder.episode_id is not None
    return recorder.episode_id


@pytest.mark.slow
def test_the_first_check_decides_a_branch_as_it_does_its_episode(tmp_path: Path) -> None:
    (episode,) = record(tmp_path, gym.make("CartPole-v1")).episodes()

    @trajrec.verifier(id="first", version="1")
    def first(env: Any) -> bool:
        return True

    @trajrec.verifier(id="second", version="1")
    def second(env: Any) -> bool:
        return False

    @trajrec.verifier(id="silent", version="1")
    def silent(env: Any) -> None:
        return None

    for checks, outcome in (
        ([first, second], "success"),
        ([second, first], "failure"),
        (
            [silent, first],
            None,
        ),
    ):
        folder = tmp_path / str(outcome)
        (branch,) = fork_many(episode, at=3, policy="random", checks=checks, folder=folder)
        with trajrec.open(folder) as corpus:
            assert corpus.sql("SELECT outcome FROM forks").fetchall() == [(outcome,)]
        assert branch.outcome == outcome


def test_forks_that_are_each_others_parents_are_refused(tmp_path: Path) -> None:
    parent = next(record(tmp_path / "parent", make("CartPole-v1")).episodes())
    ids = {name: record_fork_of(tmp_path / "ids", name, parent, parent.id) for name in "ab"}
    for name, other in ("ab", "ba"):
        record_fork_of(tmp_path / "circle", name, parent, ids[other])
    with trajrec.open(tmp_path / "circle") as corpus:
        episode = corpus.episode(ids["a"])
        assert [ref.id for ref in refs_with_ancestors(episode)] == [ids["a"], ids["b"]]
        for follow in (
            lambda: list(preceding_episodes(episode)),
            lambda: path_between(episode, 0, 2),
            lambda: fork_many(episode, at=1, actions=[0], folder=None),
            lambda: replay_episode(episode),
        ):
            with pytest.raises(CorpusError, match="which is a fork of it"):
                follow()


class Ageing(gym.Env[Any, Any]):
    """Counts its steps over all episodes, and shows the number if it is asked to."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Discrete(1)

    def __init__(self) -> None:
        self.age = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        self.age += 1
        return 0, float(self.age if action else 0), False, False, {}


def test_a_control_leaves_nothing_behind_in_a_fork(tmp_path: Path) -> None:
    recording = open_recorder(Ageing(), tmp_path, LogOrigin())
    recording.reset(seed=1)
    for _ in range(20):
        recording.step(0)
    recording.close()
    with (
        trajrec.open(tmp_path) as corpus,
        fork(next(corpus.episodes()), at=10, env=Ageing, folder=None) as env,
    ):
        assert env.step(1)[1] == 11
