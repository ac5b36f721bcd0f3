"""Replay: an episode is exact, or the first difference is named with its cause."""

from __future__ import annotations

import collections
import contextlib
import datetime
import enum
import math
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from conftest import Scripted, record, run
from tiers import spread, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.errors import DivergenceError, EnvMissingError, EnvRefusedError
from trajrec.log.reader import LogReader
from trajrec.log.schema import EnvRecord
from trajrec.replay import (
    check_determinism,
    fork,
    fork_many,
    replay_episode,
    replay_episodes,
)
from trajrec.replay.execute.environments import make_env
from trajrec.replay.execute.report import Divergence, ulp_distance
from trajrec.replay.replayer import Replayer

ENVIRONMENTS = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "FrozenLake-v1",
    "Taxi-v4",
    "Blackjack-v1",
    "CliffWalking-v1",
    "LunarLander-v3",
    "MiniGrid-DoorKey-8x8-v0",
    "ALE/Breakout-v5",
    "Hopper-v5",
    "trajrec/KeyDoor-v0",
    "trajrec/Shop-v0",
]

RECORD = """
import sys, gymnasium as gym, trajrec, trajrec.envs
if sys.argv[1].startswith("ALE"): import ale_py
if sys.argv[1].startswith("MiniGrid"): import minigrid
limits = {"max_episode_steps": 300} if sys.argv[1] == "CliffWalking-v1" else {}
# Random texts, as the actions of the shop are here, may look like secrets.
env = trajrec.record(gym.make(sys.argv[1], **limits), sys.argv[2], redact=False)
env.action_space.seed(0)
for k in range(int(sys.argv[3])):
    env.reset(seed=0 if k == 0 else None)
    done = False
    while not done:
        result = env.step(env.action_space.sample())
        done = result[2] or result[3]
env.close()
"""


def record_elsewhere(env_id: str, folder: Path, n_episodes: int) -> None:
    """Record in another process, seeded once."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RECORD, env_id, str(folder), str(n_episodes)],
        capture_output=True,
        text=True,
    )
    if "DependencyNotInstalled" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr


def replay_shuffled(folder: Path) -> list[str]:
    with trajrec.open(folder) as corpus:
        episodes = list(corpus.episodes())
        random.Random(0).shuffle(episodes)
        return [report.grade for report in replay_episodes(episodes)]


@pytest.mark.slow
@pytest.mark.parametrize("env_id", spread("replay", ENVIRONMENTS, fixed=["CartPole-v1"], drawn=3))
def test_run_seeded_once_replays_elsewhere_in_any_order(env_id: str, tmp_path: Path) -> None:
    record_elsewhere(env_id, tmp_path, 4)
    assert replay_shuffled(tmp_path) == ["exact"] * 4


@pytest.mark.parametrize(
    "env_id", spread("replay", ENVIRONMENTS, drawn=1, costly=["ALE/Breakout-v5"])
)
def test_hundred_episodes_replay_elsewhere_in_any_order(env_id: str, tmp_path: Path) -> None:
    record_elsewhere(env_id, tmp_path, 100)
    assert replay_shuffled(tmp_path) == ["exact"] * 100


@pytest.mark.slow
def test_each_episode_replays_without_those_before(tmp_path: Path) -> None:
    record_elsewhere("FrozenLake-v1", tmp_path, 5)
    with trajrec.open(tmp_path) as corpus:
        for episode in corpus.episodes(order_by="number DESC"):
            report = replay_episode(episode)
            assert (report.grade, report.divergence, report.n_steps) == (
                "exact",
                None,
                episode.n_steps,
            )
            report.raise_if_diverged()


class Counter(gym.Env[Any, Any]):
    """Counts; `twist` changes what it does at one step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, twist: Any = None) -> None:
        self.twist = twist
        self.k = 0
        self.total = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        self.total = 0.0
        return np.zeros(3), {}

    def step(self, action: Any) -> Any:
        gain = 0.1
        info: dict[str, Any] = {"k": self.k}
        reward = 1.0
        terminated = self.k == 29
        if self.twist is not None and self.k == 17:
            gain, reward, terminated, info = self.twist(gain, reward, terminated, info)
        self.total += gain * (1 + action) + 0.01 * self.np_random.random()
        self.k += 1
        return np.array([self.k, self.total, 0.0]), reward, terminated, False, info

    def get_state(self) -> dict[str, Any]:
        return {"k": self.k, "total": self.total}

    def set_state(self, state: dict[str, Any]) -> None:
        self.k = state["k"]
        self.total = state["total"]


TWISTS: dict[str, tuple[Any, str]] = {
    "a constant": (lambda g, r, t, i: (0.2, r, t, i), "observation/1"),
    "a constant, by little": (lambda g, r, t, i: (0.1 * (1 + 1e-14), r, t, i), "observation/1"),
    "the reward": (lambda g, r, t, i: (g, 2.0, t, i), "reward"),
    "the reward's type": (lambda g, r, t, i: (g, 1, t, i), "reward"),
    "the end": (lambda g, r, t, i: (g, r, True, i), "terminated"),
    "the info": (lambda g, r, t, i: (g, r, t, {"k": 18}), "info/k"),
    "an info's key": (lambda g, r, t, i: (g, r, t, {**i, "new": 1}), "info/new"),
}


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize(("twist", "field"), TWISTS.values(), ids=TWISTS.keys())
def test_change_at_step_17_is_reported_there(twist: Any, field: str, tmp_path: Path) -> None:
    record(Counter(), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        episode = next(corpus.episodes())
        assert replay_episode(episode, env=Counter()).grade == "exact"
        report = replay_episode(episode, env=Counter(twist))
        assert report.grade == "diverged"
        assert report.divergence is not None
        assert (report.divergence.step, report.divergence.field) == (17, field)
        with pytest.raises(DivergenceError, match="step 17") as caught:
            report.raise_if_diverged()
        assert (caught.value.step, caught.value.field) == (17, field)


@pytest.mark.slow
def test_change_of_only_the_state_is_reported(tmp_path: Path) -> None:
    class Hidden(Counter):
        def __init__(self, wrong: bool = False) -> None:
            super().__init__()
            self.wrong = wrong

        def get_state(self) -> dict[str, Any]:
            return {**super().get_state(), "secret": 1 if self.wrong and self.k == 18 else 0}

    record(Hidden(), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        divergence = replay_episode(next(corpus.episodes()), env=Hidden(True)).divergence
        assert divergence is not None
        assert (divergence.step, divergence.field, divergence.expected, divergence.actual) == (
            17,
            "state/secret",
            0,
            1,
        )


@pytest.mark.slow
def test_new_or_missing_exception_is_a_divergence(
    tmp_path: Path,
) -> None:
    def at(raises: bool) -> Any:
        def step(k: int) -> Any:
            if k == 3 and raises:
                raise KeyError("lost")
            return np.zeros(2), 1.0, k == 6, False, {}

        return step

    def play(raises: bool, folder: Path) -> Any:
        env = trajrec.record(Scripted(at(raises)), folder)
        env.reset(seed=0)
        for k in range(7):
            try:
                env.step(k)
            except KeyError:
                continue
        env.close()
        with trajrec.open(folder) as corpus:
            episode = next(corpus.episodes())
            return replay_episode(episode, env=Scripted(at(True))), replay_episode(
                episode, env=Scripted(at(False))
            )

    same, missing = play(True, tmp_path / "a")
    assert same.grade == "exact"
    assert missing.divergence is not None
    assert (missing.divergence.step, missing.divergence.field) == (3, "failure")
    unexpected, same = play(False, tmp_path / "b")
    assert same.grade == "exact"
    assert unexpected.divergence is not None
    assert (unexpected.divergence.step, unexpected.divergence.field) == (3, "failure")


class Leaky(Counter):
    """Depends on something that no log restores."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        observation[2] = self.source()
        return (observation, *rest)


COUNT = [0]


def count() -> int:
    COUNT[0] += 1
    return COUNT[0]


LEAKS: dict[str, tuple[Any, str]] = {
    "time": (lambda: time.time(), "clock"),
    "datetime": (lambda: datetime.datetime.now().timestamp(), "clock"),
    "random": (random.random, "global random"),
    "numpy.random": (lambda: np.random.random(), "global random"),
    "a counter": (count, "unknown"),
}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(("source", "cause"), LEAKS.values(), ids=LEAKS.keys())
def test_hidden_dependence_is_reported_with_its_cause(
    source: Any, cause: str, tmp_path: Path
) -> None:
    class Indirect(Leaky):
        def __init__(self) -> None:
            super().__init__(source)

    record(Indirect(), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        report = replay_episode(next(corpus.episodes()), env=Indirect())
        assert report.divergence is not None
        assert (report.divergence.step, report.divergence.field) == (0, "observation/2")
        assert report.divergence.cause.startswith(cause)


@pytest.mark.slow
def test_changed_environment_is_not_called_random(
    tmp_path: Path,
) -> None:
    record(Counter(), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        report = replay_episode(
            next(corpus.episodes()), env=Counter(lambda g, r, t, i: (0.2, r, t, i))
        )
        assert report.divergence is not None
        assert report.divergence.cause.startswith("the environment repeats itself")


def test_unfinished_episodes_replay_up_to_their_last_step(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    for k in range(4):
        env.step(k % 2)
    env.reset()
    env.step(0)
    env.flush()
    data = env.path.read_bytes()
    env.close()
    env.path.write_bytes(data)
    with trajrec.open(tmp_path) as corpus:
        results = [
            (e.ending, r.grade, r.n_steps) for e in corpus.episodes() for r in [replay_episode(e)]
        ]
    assert results == [("abandoned", "exact", 4), ("interrupted", "exact", 1)]


def test_steps_that_raise_again_are_counted(tmp_path: Path) -> None:
    def step(k: int) -> Any:
        if k in (1, 4):
            raise KeyError("lost")
        return np.zeros(2), 1.0, k == 6, False, {}

    env = trajrec.record(Scripted(step), tmp_path)
    env.reset(seed=0)
    for action in range(7):
        with contextlib.suppress(KeyError):
            env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        report = replay_episode(episode, env=Scripted(step))
    assert (report.grade, report.n_steps, episode.n_steps) == ("exact", 7, 7)


class SelfReferring(Scripted):
    """Gives infos that hold themselves, also at the reset."""

    def __init__(self) -> None:
        super().__init__(lambda k: (np.zeros(2, np.float32), 1.0, k == 40, False, self.info(k)))

    def info(self, k: int) -> dict[str, Any]:
        info: dict[str, Any] = {"k": k, "fields": np.zeros(1, [("x", object)])}
        info["self"] = info
        return info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, _ = super().reset(seed=seed, options=options)
        return observation, self.info(-1)


@pytest.mark.slow
def test_infos_that_cannot_be_stored_are_replayed(tmp_path: Path) -> None:
    record(SelfReferring(), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        for options in ({}, {"resync": True}):
            report = replay_episode(episode, env=SelfReferring(), **options)
            assert (report.grade, report.n_steps) == ("exact", 41)
        branches = fork_many(episode, at=[3, 7], actions=[1, 2], env=SelfReferring)
        assert [branch.n_steps for branch in branches] == [2, 2]
    assert check_determinism(SelfReferring, n_steps=60).grade == "exact"


@pytest.mark.parametrize("info", [None, collections.OrderedDict(), collections.Counter()])
def test_empty_infos_of_any_kind_are_the_same(tmp_path: Path, info: Any) -> None:
    def step(k: int) -> Any:
        return np.zeros(2), 1.0, k == 3, False, info

    record(Scripted(step), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        for resync in (False, True):
            assert replay_episode(episode, env=Scripted(step), resync=resync).grade == "exact"


def test_episode_with_a_gap_is_graded_partial(
    tmp_path: Path,
) -> None:
    env = trajrec.record(gym.make("Acrobot-v1"), tmp_path)
    env.reset(seed=0)
    for k in range(60):
        env.step(k % 3)
        if k % 10 == 9:
            env.flush()
    env.close()
    with LogReader(env.path) as reader:
        lost = reader.frames[3]
    data = bytearray(env.path.read_bytes())
    data[lost.offset + 40] ^= 0xFF
    env.path.write_bytes(data)
    with trajrec.open(tmp_path) as corpus:
        report = replay_episode(next(corpus.episodes()))
    assert report.grade == "partial"
    assert report.n_steps == 20
    assert "lost steps 20 to 29" in report.notes[-1]


def test_flags_and_sums_of_lost_steps_are_unknown(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    is_over = False
    n_steps = 0
    while not is_over:
        *_, is_over, _, _ = env.step(0)
        n_steps += 1
        if n_steps == 5:
            env.flush()
    env.close()
    with LogReader(env.path) as reader:
        lost = reader.frames[2]
    data = bytearray(env.path.read_bytes())
    # Its columns, which lie behind its events.
    data[lost.offset + lost.size - 16] ^= 0xFF
    env.path.write_bytes(data)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert (episode.ending, episode.missing_steps) == ("terminated", [(5, n_steps)])
        # A sum of the rewards that are left would pass for a bad episode.
        query = "SELECT missing_steps, total_reward FROM episodes"
        assert corpus.sql(query).fetchall() == [(n_steps - 5, None)]
        assert math.isnan(episode.total_reward)
        report = replay_episode(episode)
    assert (report.grade, report.n_steps) == ("partial", 5), report


def test_wrappers_and_arguments_are_made_again(tmp_path: Path) -> None:
    cartpole = gym.wrappers.FrameStackObservation(
        gym.wrappers.TimeAwareObservation(gym.make("CartPole-v1")), 3
    )
    record(
        gym.make("FrozenLake-v1", map_name="8x8", is_slippery=True, max_episode_steps=30),
        tmp_path,
        5,
    )
    record(gym.wrappers.NormalizeReward(cartpole), tmp_path, 1)
    assert replay_shuffled(tmp_path) == ["exact"] * 6


class Halves(gym.RewardWrapper[Any, Any]):
    """Divides rewards, and does not say by what."""

    def __init__(self, env: Any, divisor: float = 2.0) -> None:
        super().__init__(env)
        self.divisor = divisor

    def reward(self, reward: Any) -> float:
        return float(reward) / self.divisor


class Divides(Halves, gym.utils.RecordConstructorArgs):
    """Divides rewards, and keeps its arguments."""

    def __init__(self, env: Any, divisor: float = 2.0) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, divisor=divisor)
        super().__init__(env, divisor)


def test_warning_of_a_wrapper_names_the_class_that_tells_its_arguments(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"gymnasium\.utils\.RecordConstructorArgs"):
        trajrec.record(Halves(gym.make("CartPole-v1"), 3.0), tmp_path / "untold").close()
    record(Divides(gym.make("CartPole-v1"), 3.0), tmp_path / "told", 2)
    with trajrec.open(tmp_path / "told") as corpus:
        reports = list(replay_episodes(corpus.episodes(), allow=[__name__]))
    assert [report.grade for report in reports] == ["exact", "exact"]


def test_measured_seconds_are_ignored_and_noted(tmp_path: Path) -> None:
    record(gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1")), tmp_path, 8)
    with trajrec.open(tmp_path) as corpus:
        lenient = list(replay_episodes(corpus.episodes()))
        strict = list(replay_episodes(corpus.episodes(), ignore=(), explain=False))
    # Now and then one takes the same microseconds.
    assert "state" in {report.grade for report in lenient} <= {"state", "exact"}
    assert {report.notes for report in lenient if report.grade == "state"} == {
        ("not the same, and ignored: info/episode/t",)
    }
    assert (
        "info/episode/t"
        in {report.divergence and report.divergence.field for report in strict}
        <= {None, "info/episode/t"}
    )


class Carries(gym.Env[Any, Any]):
    """Counts its episodes: what it shows depends on those before."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.n_episodes = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n_episodes += 1
        return self.n_episodes, {}

    def step(self, action: Any) -> Any:
        return self.n_episodes, 0.0, True, False, {}


def test_state_carried_between_episodes_is_noted(tmp_path: Path) -> None:
    gym.register("Carries-v0", f"{__name__}:Carries")
    try:
        for _ in range(2):
            record(gym.make("Carries-v0", disable_env_checker=True), tmp_path, 1)
        with trajrec.open(tmp_path) as corpus:
            first, second = replay_episodes(corpus.episodes(), allow=[__name__])
    finally:
        gym.registry.pop("Carries-v0")
    assert (first.grade, second.grade) == ("exact", "exact")
    assert "only on a fresh environment: it carries state over between episodes" in second.notes


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("pattern", [[1, 1, 1], [3, 1, 2], [5, 5]])
def test_batch_gives_the_reports_of_single_replays(tmp_path: Path, pattern: list[int]) -> None:
    gym.register("Carries-v0", f"{__name__}:Carries")
    try:
        for n in pattern:  # a log each, on an environment of its own
            record(gym.make("Carries-v0", disable_env_checker=True), tmp_path, n)
        with trajrec.open(tmp_path) as corpus:
            together = list(replay_episodes(corpus.episodes(), allow=[__name__]))
            with Replayer(allow=[__name__]) as replayer:
                alone = [replayer.replay(episode) for episode in corpus.episodes()]
    finally:
        gym.registry.pop("Carries-v0")
    assert together == alone
    assert {report.grade for report in together} == {"exact"}
    assert any("it carries state over" in note for report in together for note in report.notes)


class Tiring(gym.Env[Any, Any]):
    """Does nothing more in its second episode but raise."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.n_episodes = self.n = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n_episodes = self.n_episodes + 1
        self.n = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        if self.n_episodes > 1:
            raise RuntimeError("tired")
        self.n += 1
        return self.n, 0.0, self.n == 6, False, {}


@pytest.mark.slow
def test_exception_on_the_way_to_a_step_diverges(
    tmp_path: Path,
) -> None:
    record(Tiring(), tmp_path, 1)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        branches = fork_many(
            episode, at=[2, 4], actions=episode.actions[4:], restore="reexecute", env=Tiring
        )
        assert [branch.terminated for branch in branches] == [False, True]
        reports = list(replay_episodes(corpus.episodes(kind="all"), env=Tiring))
        assert [report.grade for report in reports] == ["exact"] * 3
        env = Tiring()
        env.reset()
        with pytest.raises(
            DivergenceError, match=r"after step 0, failure: .* now '.*RuntimeError: tired'"
        ):
            fork(episode, at=2, env=env)
        (report,) = replay_episodes(
            corpus.episodes("fork_step = 4", kind="fork"), env=env, explain=False
        )
        assert str(report.divergence).startswith("step 0, failure: ")


def by_agent(rewards: Any) -> Any:
    return Scripted(
        lambda k: (np.zeros(2), rewards[k] if k >= 0 else {}, k == len(rewards) - 1, False, {})
    )


def test_no_agent_has_a_sum_of_the_rewards_that_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = trajrec.record(by_agent([{"a": 1.0, "b": 0.5}] * 9), tmp_path)
    env.reset(seed=0)
    for k in range(9):
        env.step(0)
        if k in (2, 5):
            env.flush()
    env.close()
    with LogReader(env.path) as reader:
        lost = reader.frames[2]
    data = bytearray(env.path.read_bytes())
    data[lost.offset + lost.size // 2] ^= 0xFF
    env.path.write_bytes(data)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert episode.missing_steps == [(3, 6)]
        assert episode.rewards_by_agent.keys() == {"a", "b"}
        assert all(map(math.isnan, episode.rewards_by_agent.values()))
        assert main(["show", str(tmp_path), episode.id]) == 3
    assert 'rewards_by_agent  {"a":null,"b":null}' in capsys.readouterr().out


def test_rewards_by_agent_are_compared_by_type(tmp_path: Path) -> None:
    rewards = [{"a": 1, "b": 0.5}, {"a": 1, "b": -0.0}, {"b": np.float32(2.0)}]
    record(by_agent(rewards), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert (str(episode.total_reward), episode.rewards_by_agent) == (
            "nan",
            {"a": 2.0, "b": 2.5},
        )
        assert replay_episode(episode, env=by_agent(rewards)).grade == "exact"
        for step, agent, other in ((0, "a", True), (1, "b", 0.0), (2, "b", 2.0)):
            changed = [
                {**recorded, agent: other} if k == step else recorded
                for k, recorded in enumerate(rewards)
            ]
            divergence = replay_episode(episode, env=by_agent(changed), explain=False).divergence
            assert divergence is not None
            assert (divergence.step, divergence.field) == (step, f"reward/{agent}")


class Level(enum.IntEnum):
    LOW = 1


@third_slow("replay")
@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("where", ["reward", "info/x"])
@pytest.mark.parametrize(
    ("recorded", "now"),
    [
        (0.0, -0.0),
        (np.float64(0.0), np.float64(-0.0)),
        (1.0, np.float64(1.0)),
        (np.float64(2.0), 2.0),
        (np.float32(2.0), np.float64(2.0)),
        (1, True),
        (1, 1.0),
        (np.int64(3), 3),
        (1, Level.LOW),
        (Level.LOW, 1),
        (float("nan"), -float("nan")),
        (2**70, 2**70 + 1),
        ("\udc80", "\udc81"),
    ],
    ids=ascii,
)
def test_number_of_another_type_or_bits_differs(
    tmp_path: Path, recorded: Any, now: Any, where: str
) -> None:
    def make(middle: Any) -> Any:
        values = [recorded, middle, recorded]
        if where == "reward":
            return Scripted(
                lambda k: (np.zeros(2), values[max(k, 0)], k == 2, False, {"x": 1, "y": 0.5})
            )
        return Scripted(
            lambda k: (np.zeros(2), 1.0, k == 2, False, {"x": values[max(k, 0)], "y": 0.5})
        )

    record(make(recorded), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert replay_episode(episode, env=make(recorded)).grade == "exact"
        divergence = replay_episode(episode, env=make(now), explain=False).divergence
        assert divergence is not None
        assert (divergence.step, divergence.field) == (1, where)


def pole(env: Any) -> Any:
    return env.unwrapped.state


def test_state_of_a_function_is_compared_with_that_function(
    tmp_path: Path,
) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, state=pole)
    env.reset(seed=1)
    env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        (note,) = replay_episode(episode).notes
        assert (
            note
            == f"state not compared: give state=, the function that it was recorded with ({__name__}:pole)"
        )
        assert "state" in replay_episode(episode, state=pole).compared


def test_only_a_small_distance_of_floats_is_shown() -> None:
    def text(expected: float, actual: float) -> str:
        return str(
            Divergence(
                step=3,
                field="reward",
                expected=expected,
                actual=actual,
                ulps=ulp_distance(expected, actual),
            )
        )

    assert text(1.0, 1.0 + 2**-52).endswith("replayed 1.0000000000000002 (1 ulp apart)")
    assert text(0.0, 1.0).endswith("recorded 0.0, replayed 1.0")


def names(entry_point: str, env_id: str = "os:system") -> EnvRecord:
    return EnvRecord(
        env_id=env_id,
        entry_point=entry_point,
        kwargs_data=b"",
        max_episode_steps=None,
        spec_fields={},
        wrappers=[],
        class_name="posix.system",
    )


@pytest.mark.parametrize(
    ("entry_point", "env_id"),
    [
        ("os:system", "Evil-v0"),
        ("os:system", "os:system"),
        ("", "subprocess:Popen-v0"),
        ("nowhere_at_all:Env", "X-v0"),
    ],
)
def test_module_that_is_not_allowed_is_not_imported(entry_point: str, env_id: str) -> None:
    with pytest.raises(EnvRefusedError, match="unless you allow it: pass --allow"):
        make_env(names(entry_point, env_id), episode_id="x")
    assert "nowhere_at_all" not in sys.modules


@pytest.mark.slow
def test_command_line_imports_no_module_that_a_log_names(tmp_path: Path) -> None:
    (tmp_path / "evil_package.py").write_text("open('imported', 'w').close()\n")
    path = record(gym.make("CartPole-v1"), tmp_path / "runs")
    forge(path, env_id="Evil-v0", entry_point="evil_package:Env")
    done = subprocess.run(
        [sys.executable, "-m", "trajrec", "replay", "runs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4, done.stderr
    assert "--allow evil_package" in done.stdout
    assert not (tmp_path / "imported").exists()


def forge(path: Path, **changes: str) -> None:
    """Write a log again with another environment in its header, and without a footer."""
    from trajrec.log import frames
    from trajrec.log.columns import Packer

    with LogReader(path) as reader:
        header = msgspec.structs.replace(
            reader.header, env=msgspec.structs.replace(reader.header.env, **changes)
        )
        raw = msgspec.msgpack.encode(header)
        log_id = bytes.fromhex(header.log_id)
        meta = Packer().compress(raw)
        parts = [
            frames.signature(log_id),
            *frames.pack_frame(frames.HEADER, 0, log_id=log_id, meta=meta, meta_raw=len(raw)),
        ]
        parts += [reader.slice(f.offset, f.end) for f in reader.frames[1:]]
    path.write_bytes(b"".join(parts))


def test_allowed_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_envs_package.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control.cartpole import CartPoleEnv\n"
        "gym.register('Mine-v0', entry_point='my_envs_package:CartPoleEnv', max_episode_steps=500)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = record(gym.make("CartPole-v1"), tmp_path / "runs")
    forge(path, env_id="Mine-v0", entry_point="my_envs_package:CartPoleEnv")
    with trajrec.open(tmp_path / "runs") as corpus:
        episode = next(corpus.episodes())
        assert [r.grade for r in replay_episodes([episode])] == ["refused"]
        assert replay_episode(episode, allow=("my_envs_package",)).grade == "exact"
    gym.registry.pop("Mine-v0")


def test_missing_package_is_named() -> None:
    with pytest.raises(EnvMissingError, match="not installed"):
        make_env(
            names("missing_package.envs:Env", "Missing-v0"),
            episode_id="x",
            allow=("missing_package",),
        )


def test_unmakeable_environment_replays_on_a_given_one(
    tmp_path: Path,
) -> None:
    record(Counter(), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        episode = next(corpus.episodes())
        with pytest.raises(EnvMissingError, match="give a function that makes it"):
            replay_episode(episode)
        assert run(Counter()) == 30
        assert replay_episode(episode, env=Counter()).grade == "exact"
