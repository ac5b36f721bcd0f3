"""Long episodes: a late step is reached from a keyframe, and the steps after it are the same."""

from __future__ import annotations

import dataclasses
import enum
import functools
import random
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from tiers import Share, spread, suite

import trajrec
from trajrec.envstate.keyframes import EARLY_STEPS, Keyframes
from trajrec.errors import SnapshotError
from trajrec.recording.keyframe_schedule import KEYFRAME_STEPS
from trajrec.replay import fork, replay_episode
from trajrec.values import codec
from trajrec.values.diff import is_same

ENVS: dict[str, Any] = {
    "Pendulum-v1": {},
    "FrozenLake-v1": {},
    "Hopper-v5": {"terminate_when_unhealthy": False},
    "ALE/Pong-v5": {},
}


class Counted(gym.Wrapper[Any, Any, Any, Any]):
    """Counts its steps, and resets its environment itself, so that an episode never ends."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.seen: list[int] = []
        # No keyframe has this attribute.
        self._metadata = {"n_steps": 0}

    def step(self, action: Any) -> Any:
        self._metadata["n_steps"] += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation, _ = self.env.reset()
        return observation, reward, False, False, info


def make(env_id: str, **kwargs: Any) -> Any:
    import ale_py  # noqa: F401

    return Counted(
        gym.make(
            env_id,
            max_episode_steps=10**9,
            disable_env_checker=True,
            **ENVS.get(env_id, {}),
            **kwargs,
        )
    )


def record(folder: Path, env: Any, n_steps: int) -> Any:
    env = trajrec.record(env, folder)
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(n_steps):
        env.step(env.action_space.sample())
    env.close()
    return next(trajrec.open(folder).episodes())


@pytest.mark.slow
@pytest.mark.parametrize(
    "env_id",
    spread("environments", list(ENVS), fixed=["Pendulum-v1"], drawn=1, costly=["ALE/Pong-v5"]),
)
def test_late_step_is_reached_from_a_keyframe(tmp_path: Path, env_id: str) -> None:
    episode = record(tmp_path, make(env_id), 2 * KEYFRAME_STEPS + 6000)
    steps = [keyframe.step for keyframe in episode.keyframes]
    assert len(steps) == 2
    assert steps[0] >= KEYFRAME_STEPS
    assert steps[1] - steps[0] >= KEYFRAME_STEPS
    step = steps[1] + 1000
    env = make(env_id)
    with fork(episode, at=step, env=env) as world:
        # The early steps, from the keyframe to the step, a control of 200 steps, and again.
        assert env.metadata["n_steps"] == 2 * (EARLY_STEPS + 1000) + 200
        for action in episode.actions[step : step + 500]:
            world.step(action)
        child_id = world.episode_id
    with trajrec.open(tmp_path) as corpus:
        child = corpus.episode(child_id)
        assert is_same(child.observation_values, episode.observation_values[step : step + 501])
        assert is_same(child.reward_values, episode.reward_values[step : step + 500])
    assert replay_episode(episode, env=make(env_id)).grade == "exact"


@pytest.mark.slow
def test_environment_of_objects_is_recorded_without_keyframes(
    tmp_path: Path,
) -> None:
    class Objects(Counted):
        def reset(self, **kwargs: Any) -> Any:
            self.thing = Thing()
            return self.env.reset(**kwargs)

    env = Objects(make("Pendulum-v1"))
    env.reset(seed=0)
    with pytest.raises(SnapshotError, match=r"attribute thing \(Thing\) is no plain data"):
        Keyframes(env).take()
    episode = record(tmp_path, env, KEYFRAME_STEPS + 5000)
    assert (episode.keyframes, episode.n_steps) == ([], KEYFRAME_STEPS + 5000)


class Thing:
    """No plain data."""


@pytest.mark.slow
def test_wrong_keyframe_is_noticed_and_not_used(tmp_path: Path) -> None:
    episode = record(tmp_path, make("Pendulum-v1"), KEYFRAME_STEPS + 4500)
    import msgspec

    from trajrec.values import codec

    state = codec.decode(episode.keyframes[0].data)
    for _, values in state["layers"]:
        if "state" in values:
            values["state"][1] = np.array([0.5, 0.5])
    episode.keyframes[0] = msgspec.structs.replace(episode.keyframes[0], data=codec.encode(state))
    with fork(episode, at=KEYFRAME_STEPS + 4200, env=make("Pendulum-v1")) as world:
        assert is_same(world.observation, episode.observation_values[KEYFRAME_STEPS + 4200])


@suite("replay", fixed=0, drawn=100_000, whole=1_000_000)
def test_late_steps_of_a_long_episode_are_shown_and_forked_at_once(
    share: Share, tmp_path: Path
) -> None:
    episode = record(tmp_path, make("Pendulum-v1"), share.size)
    late = share.size * 9 // 10
    # The time of the processor: other tests run beside this one.
    begin = time.process_time()
    step = episode.step_at(late)
    shown = time.process_time() - begin
    assert is_same(step.observation, episode.observation_at(late + 1))
    begin = time.process_time()
    with fork(episode, at=late, env=make("Pendulum-v1"), folder=None):
        forked = time.process_time() - begin
    # Guards: far more than the benchmarks say, and far less than all steps take.
    assert shown < 2
    assert forked < 5


def test_keyframe_of_checking_wrappers_fits_an_environment_without_them() -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    env.step(1)
    state = codec.decode(Keyframes(env).take())
    state["layers"].insert(1, ["OrderEnforcing", {"_has_reset": ["value", True]}])
    bare = gym.make(
        dataclasses.replace(gym.spec("CartPole-v1"), order_enforce=False), disable_env_checker=True
    )
    bare.reset(seed=1)
    Keyframes(bare).put(codec.encode(state))
    assert is_same(bare.step(0), env.step(0))


def test_keyframe_of_a_generator_that_is_made_later_is_refused() -> None:
    class Late(gym.Env[Any, Any]):
        """Makes its generator in its first step."""

        observation_space = action_space = gym.spaces.Discrete(5)
        noise: Any = None

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.noise = None
            return 0, {}

        def step(self, action: Any) -> Any:
            if self.noise is None:
                self.noise = np.random.default_rng(7)
            return int(self.noise.integers(5)), 0.0, False, False, {}

    env = Late()
    env.reset(seed=0)
    env.step(0)
    data = Keyframes(env).take()
    env.reset(seed=0)
    # A replay and a fork take all steps then.
    with pytest.raises(SnapshotError, match="attribute noise is None, and the keyframe has"):
        Keyframes(env).put(data)


class Bare(gym.Env[Any, Any]):
    """Has only the attribute that a test gives it."""


class Opponent:
    """Counts its moves."""

    def __init__(self) -> None:
        self.n_moves = 0

    def __call__(self) -> int:
        self.n_moves += 1
        return self.n_moves


class Phase(enum.Enum):
    PLAY = 1
    OVER = 2


class Level(enum.IntEnum):
    EASY = 1
    HARD = 2


@pytest.mark.parametrize(
    "value",
    [
        Opponent(),
        np.zeros(1, [("x", float)])[0],
        np.asfortranarray(np.zeros((2, 2))),
        Phase.OVER,
        [Phase.OVER],
        Level.HARD,
    ],
    ids=["callable object", "record", "memory order", "enum", "list of enums", "enum of numbers"],
)
def test_attribute_that_a_log_cannot_give_back_has_no_keyframe(value: Any) -> None:
    env = Bare()
    vars(env)["attribute"] = value
    with pytest.raises(SnapshotError, match=r"attribute attribute .* is no plain data"):
        Keyframes(env).take()


@pytest.mark.parametrize("second", [lambda one: one, lambda one: [one]])
def test_an_array_that_two_attributes_hold_has_no_keyframe(second: Any) -> None:
    env = Bare()
    array = np.zeros(3)
    vars(env).update(first=array, second=second(array))
    with pytest.raises(SnapshotError, match="two attributes or items are the same ndarray"):
        Keyframes(env).take()
    # No one can change it.
    array.flags.writeable = False
    Keyframes(env).take()


def test_keyframe_without_an_enum_of_the_environment_is_refused() -> None:
    data = Keyframes(Bare()).take()
    env = Bare()
    vars(env)["attribute"] = Phase.PLAY
    with pytest.raises(SnapshotError, match="does not have the attribute attribute"):
        Keyframes(env).put(data)


class Late(gym.Env[Any, Any]):
    """Shows its state only if it is asked to."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.begin()
        return 0, {}

    def step(self, action: Any) -> Any:
        n = self.count()
        return 0, float(n if action else 0), False, False, {}

    def begin(self) -> None:
        raise NotImplementedError

    def count(self) -> int:
        raise NotImplementedError


class InClass(Late):
    total = 0

    def begin(self) -> None:
        type(self).total = 0

    def count(self) -> int:
        type(self).total += 1
        return self.total


class EarlyInClass(Late):
    """Changes a variable of its class once, early in the episode."""

    level = 0

    def begin(self) -> None:
        type(self).level = 0
        self.n = 0

    def count(self) -> int:
        self.n += 1
        if self.n == 100:
            type(self).level = 7
        return self.level


class InClosure(Late):
    def begin(self) -> None:
        n = 0

        def move() -> int:
            nonlocal n
            n += 1
            return n

        self.move = move

    def count(self) -> int:
        return self.move()


class InRandom(Late):
    def begin(self) -> None:
        random.seed(1)

    def count(self) -> int:
        return random.getrandbits(30)


class InPartial(Late):
    def begin(self) -> None:
        self.moves = [0]
        self.move = functools.partial(sum, self.moves)

    def count(self) -> int:
        self.moves[0] += 1
        return self.move()


class InCanvas(CartPoleEnv):
    def reset(self, **options: Any) -> Any:
        self.clock = 0
        self.window = [0]
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.clock += 1
        self.window[0] += 1
        return self.state, float(self.clock * self.window[0] if action else 0), False, False, {}


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("cls", [InClass, EarlyInClass, InClosure, InRandom, InPartial, InCanvas])
def test_a_late_fork_has_state_outside_of_attributes(tmp_path: Path, cls: Any) -> None:
    with trajrec.record(cls(), tmp_path, factory=cls) as env:
        env.reset(seed=1)
        for _ in range(KEYFRAME_STEPS + 2500):
            env.step(0)
        expected = env.step(1)[1]
    with trajrec.open(tmp_path) as corpus:
        episode = next(corpus.episodes())
    with fork(episode, at=KEYFRAME_STEPS + 2500, env=cls, folder=None) as world:
        assert world.step(1)[1] == expected


def test_a_method_of_a_generator_that_no_attribute_holds_has_no_keyframe() -> None:
    env = Bare()
    vars(env)["rng"] = np.random.default_rng(1)
    vars(env)["draw"] = env.rng.random
    Keyframes(env).take()
    vars(env)["draw"] = np.random.default_rng(1).random
    with pytest.raises(SnapshotError, match="attribute draw holds a value that no attribute has"):
        Keyframes(env).take()
