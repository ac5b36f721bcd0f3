"""What environments and agents hand over: buffers that are used again, values of unusual types, differences of types alone."""

from __future__ import annotations

import collections
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.envstate.keyframes import Keyframes
from trajrec.envstate.snapshots import Snapshots
from trajrec.errors import SnapshotError
from trajrec.log.schema import EnvRecord
from trajrec.replay import fork_many, replay_episode
from trajrec.replay.execute.environments import make_env
from trajrec.values import codec
from trajrec.values.diff import is_same


class Walk(gym.Env[Any, Any]):
    """Eight steps; what it shows and pays is for others to say."""

    observation_space = gym.spaces.Box(-9, 9, (1,))
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.shown(), self.paid(action), self.t >= 8, False, self.told()

    def shown(self) -> Any:
        return np.array([self.t], np.float32)

    def paid(self, action: Any) -> Any:
        return float(self.t)

    def told(self) -> Any:
        return {}


def record(folder: Path, env: gym.Env[Any, Any], act: Any = lambda k: k % 3) -> Episode:
    recorder = trajrec.record(env, folder)
    recorder.reset(seed=0)
    for k in range(8):
        recorder.step(act(k))
    recorder.close()
    return next(trajrec.open(folder).episodes())


class Buffers(Walk):
    def __init__(self) -> None:
        self.buffer = np.zeros(2)

    def paid(self, action: Any) -> Any:
        self.buffer[:] = self.t
        return self.buffer


class Ordered(Walk):
    def told(self) -> Any:
        return collections.OrderedDict(place=self.t, long=np.longlong(self.t))


class Objects(Walk):
    observation_space = gym.spaces.Space()  # type: ignore[assignment]

    def shown(self) -> Any:
        return np.array([1.5, "a" * 40, None, self.t], object)


class Durations(Walk):
    def paid(self, action: Any) -> Any:
        return np.timedelta64(self.t, "ms")


class Scales(Walk):
    """Changes the action that it is given."""

    action_space = gym.spaces.Box(-1, 1, (2,))  # type: ignore[assignment]

    def paid(self, action: Any) -> Any:
        action *= 2
        return float(action[0])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", [Buffers, Ordered, Objects, Durations])
def test_an_environment_of_unusual_values_replays_exactly(kind: type[Walk], tmp_path: Path) -> None:
    report = replay_episode(record(tmp_path, kind()), env=kind)
    assert report.grade == "exact", report


def test_an_environment_that_changes_its_actions_replays_exactly_again_and_again(
    tmp_path: Path,
) -> None:
    episode = record(tmp_path, Scales(), lambda k: np.array([k / 8, 0.2], np.float32))
    assert [replay_episode(episode, env=Scales).grade for _ in range(3)] == ["exact"] * 3


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("restore", ["reexecute", "snapshot"])
def test_branches_do_not_share_what_they_are_given(restore: Any, tmp_path: Path) -> None:
    episode = record(tmp_path / "runs", Scales(), lambda k: np.array([k / 8, 0.2], np.float32))
    action = np.array([1.0, 0.0], np.float32)
    found = fork_many(
        episode,
        at=[2],
        actions=[action],
        n_branches=3,
        env=Scales,
        restore=restore,
        folder=tmp_path / "forks",
        max_steps=1,
    )
    assert [branch.total_reward for branch in found] == [2.0] * 3
    assert action.tolist() == [1.0, 0.0]

    def spoils(observation: Any) -> Any:
        observation -= 100.0
        return np.array([0.5, 0.0], np.float32)

    found = fork_many(
        episode,
        at=[2],
        policy=spoils,
        n_branches=2,
        env=Scales,
        restore=restore,
        folder=tmp_path / "spoilt",
        max_steps=1,
    )
    with trajrec.open(tmp_path / "spoilt") as corpus:
        assert [
            forked.observation_values[0].tolist() for forked in corpus.episodes(kind="fork")
        ] == [[2.0]] * 2


@pytest.mark.slow
def test_a_reward_that_is_used_again_is_recorded_of_each_step_of_a_branch(tmp_path: Path) -> None:
    episode = record(tmp_path / "runs", Buffers())
    fork_many(episode, at=[2], actions=[0, 1, 2], env=Buffers, folder=tmp_path / "forks")
    with trajrec.open(tmp_path / "forks") as corpus:
        assert [reward.tolist() for reward in next(corpus.episodes(kind="fork")).reward_values] == [
            [3, 3],
            [4, 4],
            [5, 5],
        ]


class Direction(enum.IntEnum):
    LEFT = 0
    RIGHT = 1
    UP = 2


class Directed(Walk):
    def paid(self, action: Any) -> Any:
        return float(action)


@pytest.mark.parametrize("resync", [False, True])
def test_actions_that_are_members_of_an_enum_are_given_again(resync: bool, tmp_path: Path) -> None:
    episode = record(tmp_path, Directed(), lambda k: Direction(k % 3))
    assert replay_episode(episode, env=Directed, resync=resync).grade == "exact"
    (branch,) = fork_many(
        episode, at=[4], actions=[Direction.UP], env=Directed, folder=None, max_steps=1
    )
    assert branch.total_reward == 2.0


class Big(Walk):
    """Frames of the other byte order, whose dtype is another object each time."""

    observation_space = gym.spaces.Box(-9, 99, (64, 64), np.float64)
    lag = 0

    def shown(self) -> Any:
        return np.full((64, 64), self.t - (self.lag if self.t > 3 else 0)).astype(
            np.dtype(">f8").newbyteorder().newbyteorder()
        )


class Lagging(Big):
    lag = 2


def test_frames_are_compared_with_those_of_their_own_step(tmp_path: Path) -> None:
    episode = record(tmp_path, Big())
    assert replay_episode(episode, env=Big).grade == "exact"
    report = replay_episode(episode, env=Lagging, explain=False)
    assert report.divergence is not None
    assert report.divergence.step == 3


class Stateful(Walk):
    drift = 0

    def get_state(self) -> Any:
        return {"t": self.t, "hidden": self.drift if 3 <= self.t <= 5 else 0}

    def set_state(self, state: Any) -> None:
        self.t = state["t"]


class Drifting(Stateful):
    drift = 1


@pytest.mark.parametrize("resync", [False, True])
def test_with_a_tolerance_states_that_are_digests_alone_are_not_taken_for_the_same(
    resync: bool, tmp_path: Path
) -> None:
    with trajrec.record(Stateful(), tmp_path, keep_states="digests") as env:
        env.reset(seed=0)
        for k in range(8):
            env.step(k % 3)
    episode = next(trajrec.open(tmp_path).episodes())
    assert replay_episode(episode, env=Drifting, explain=False).grade == "diverged"
    report = replay_episode(episode, env=Drifting, ulps=1, resync=resync)
    assert report.grade == "state"
    assert "states of which only digests are stored" in report.notes[-1]
    assert replay_episode(episode, env=Stateful, ulps=1, resync=resync).grade == "exact"


def test_a_log_makes_no_wrapper_that_writes_files(tmp_path: Path) -> None:
    kwargs = codec.encode({"render_mode": "rgb_array"})
    video = (
        "gymnasium.wrappers.rendering.RecordVideo",
        codec.encode({"video_folder": str(tmp_path / "videos")}),
    )
    record_ = EnvRecord(
        env_id="CartPole-v1",
        entry_point="",
        kwargs_data=kwargs,
        max_episode_steps=500,
        spec_fields={},
        wrappers=[video],
        class_name="x",
        recreatable="",
        observation_space="",
        action_space="",
    )
    make_env(record_, episode_id="x").close()
    assert not (tmp_path / "videos").exists()


UNLIKE: tuple[tuple[Any, Any], ...] = (
    (complex(0.0, 0.0), complex(-0.0, 0.0)),
    ({1, 2}, {1.0, 2}),
    (frozenset([True]), frozenset([1])),
    ({1: "a"}, {True: "a"}),
    ({1: "a"}, {1.0: "a"}),
    (np.array(["x" * 30], np.dtypes.StringDType()), np.array(["y" * 30], np.dtypes.StringDType())),
    (np.array([1, "a"], object), np.array([True, "a"], object)),
)


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_values_that_python_takes_for_equal_differ_by_type_and_bits(one: Any, other: Any) -> None:
    assert not is_same(one, other)
    assert is_same(one, one)


class Window(Walk):
    """Has an attribute that is named as what others draw on."""

    def __init__(self) -> None:
        self.window: list[int] = []

    def reset(self, **kwargs: Any) -> Any:
        self.window.clear()
        return super().reset(**kwargs)

    def paid(self, action: Any) -> Any:
        self.window.append(action)
        return float(sum(self.window))


class Carries(gym.Wrapper[Any, Any, Any, Any]):
    """Pays by all steps that it ever took."""

    n = 0

    def step(self, action: Any) -> Any:
        self.n += 1
        obs, _, *rest = self.env.step(action)
        return obs, float(self.n), *rest


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("restore", ["snapshot", "reexecute", "os_fork", "auto"])
def test_branches_come_to_the_same_however_a_step_is_reached(restore: Any, tmp_path: Path) -> None:
    episode = record(tmp_path, Window(), lambda k: 1)
    found = fork_many(
        episode,
        at=[1, 5],
        policy=lambda observation: 2,
        n_branches=2,
        env=Window,
        restore=restore,
        folder=None,
    )
    assert [branch.total_reward for branch in found] == [3.0 + 5 + 7 + 9 + 11 + 13 + 15] * 2 + [
        7.0 + 9 + 11
    ] * 2


def carries() -> Any:
    return Carries(gym.make("CartPole-v1"))


def test_a_fork_stands_where_it_was_also_when_a_wrapper_carries_something_over(
    tmp_path: Path,
) -> None:
    with trajrec.record(carries(), tmp_path) as env:
        for seed in range(3):
            env.reset(seed=seed)
            for k in range(8):
                env.step(k % 2)
    for episode in trajrec.open(tmp_path).episodes(order_by="number"):
        for at in (0, 3):
            (branch,) = fork_many(
                episode, at=[at], actions=episode.actions[at:], env=carries, folder=None
            )
            assert branch.total_reward == sum(episode.rewards[at:])


@pytest.mark.slow
def test_a_fork_of_a_fork_with_randomness_of_its_own_replays_and_forks(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with trajrec.record(gym.make("FrozenLake-v1"), tmp_path) as env:
        for seed in range(6):
            env.reset(seed=seed)
            while not any(env.step(int(rng.integers(4)))[2:4]):
                pass
    with trajrec.open(tmp_path) as corpus:
        parent = max(corpus.episodes(), key=lambda episode: episode.n_steps)
        fork_many(parent, at=[2], policy="random", n_branches=8, folder=tmp_path)
        children = [child for child in corpus.episodes(kind="fork") if child.end_step > 5][:4]
        for child in children:
            fork_many(child, at=[child.end_step - 2], policy="random", folder=tmp_path)
        grandchildren = [
            e
            for e in corpus.episodes(kind="fork")
            if e.parent is not None and e.parent.fork is not None
        ]
        assert len(grandchildren) == len(children) > 0
        assert {replay_episode(episode).grade for episode in grandchildren} == {"exact"}
        assert (
            fork_many(
                grandchildren[0], at=[grandchildren[0].first_step], policy="random", folder=None
            )[0].error
            == ""
        )


class Board(Walk):
    """Pays by a row, which is a view of the board."""

    def __init__(self) -> None:
        self.board = np.zeros((4, 4))
        self.row = self.board[1]

    def reset(self, **kwargs: Any) -> Any:
        self.board[:] = 0
        return super().reset(**kwargs)

    def paid(self, action: Any) -> Any:
        self.board[1, 1] += action == 2
        return float(self.row.sum())


class Purse:
    def __init__(self) -> None:
        self.gold = 0

    def buy(self) -> None:
        self.gold += 1

    def wait(self) -> None:
        pass


class Shopper(Walk):
    """Acts by methods of what it has."""

    def __init__(self) -> None:
        self.purse = Purse()
        self.does = {0: self.purse.wait, 1: self.purse.wait, 2: self.purse.buy}

    def reset(self, **kwargs: Any) -> Any:
        self.purse.gold = 0
        return super().reset(**kwargs)

    def paid(self, action: Any) -> Any:
        self.does[action]()
        return float(self.purse.gold)


class Shared(Walk):
    """Has a list that an object of its has too."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.purse = Purse()
        self.purse.items = self.items  # type: ignore[attr-defined]
        self.put = self.items.append

    def reset(self, **kwargs: Any) -> Any:
        self.items.clear()
        return super().reset(**kwargs)

    def paid(self, action: Any) -> Any:
        if action == 2:
            self.put(1)
        return float(len(self.purse.items))  # type: ignore[attr-defined]


@mostly_deep("environments", drawn=3)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("restore", ["reexecute", "os_fork", "auto"])
@pytest.mark.parametrize("kind", [Board, Shopper, Shared])
def test_what_attributes_share_is_shared_after_going_back(
    kind: Any, restore: Any, tmp_path: Path
) -> None:
    episode = record(tmp_path, kind(), lambda k: 0)
    found = fork_many(
        episode,
        at=[3],
        actions=[2, 2, 0],
        n_branches=2,
        env=kind,
        restore=restore,
        folder=None,
        max_steps=3,
    )
    assert [branch.total_reward for branch in found] == [5.0, 5.0]


class Unit:
    """A piece of a game, which is hashed by its identity."""

    def __init__(self) -> None:
        self.health = 3


@pytest.mark.parametrize(
    "hold",
    [
        lambda unit: {unit},
        lambda unit: frozenset([unit]),
        lambda unit: {unit: 1},
        lambda unit: {("first", unit): 1},
        lambda unit: [{"all": {frozenset([unit])}}],
    ],
)
def test_objects_in_sets_and_keys_go_back_too(hold: Callable[[Unit], Any]) -> None:
    env: Any = Walk()
    env.reset(seed=0)
    unit = Unit()
    env.units = (hold(unit), [unit])
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    unit.health = 1
    snapshots.restore(snapshot)
    held, [unit] = env.units
    assert unit.health == 3
    # The two still hold one object.
    assert unit in _units_in(held)


def _units_in(value: Any) -> list[Any]:
    if isinstance(value, Unit):
        return [value]
    items = [*value, *value.values()] if isinstance(value, dict) else value
    if isinstance(items, (int, str)):
        return []
    return [unit for item in items for unit in _units_in(item)]


def test_values_in_sets_and_keys_are_copied_as_before() -> None:
    env: Any = Walk()
    env.reset(seed=0)
    env.units = {(1, "a"): {2.5, None}, Path("x"): frozenset([(1, 2)])}
    assert Snapshots(env).take().restore_method == "snapshot"


def test_a_keyframe_is_not_taken_of_what_shares_memory() -> None:
    for kind in (Board, Shared):
        env = kind()
        env.reset(seed=0)
        with pytest.raises(SnapshotError):
            Keyframes(env).take()


class Changing(Walk):
    """Its state is an array first, and then something else."""

    def get_state(self) -> Any:
        return [
            np.zeros(2),
            b"four",
            np.array(["a", "b"]),
            np.float64(3),
            np.zeros(2, [("x", "f4")]),
        ][min(self.t, 4)]

    def set_state(self, state: Any) -> None:
        pass


def test_states_of_changing_types_have_the_digests_that_a_replay_gives_them(tmp_path: Path) -> None:
    with trajrec.record(Changing(), tmp_path, keep_states="digests") as env:
        env.reset(seed=0)
        for k in range(8):
            env.step(k % 3)
    report = replay_episode(next(trajrec.open(tmp_path).episodes()), env=Changing)
    assert report.grade == "exact", report
