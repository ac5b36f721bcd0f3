"""Noise that no scenario sets is set after all, or told of: no number passes it over."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from outer_envs import LENGTH, Game
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.envstate.contents import parts_of
from trajrec.envstate.hidden_generators import hidden_generators
from trajrec.envstate.outer_state import OuterState
from trajrec.envstate.unset_noise import has_known_noise, held_key
from trajrec.replay import credit
from trajrec.replay.forks.noise_watch import NoiseWatch, UnsetNoise


def record(env: Any, folder: Path) -> Any:
    recorded = trajrec.record(env, folder)
    recorded.reset(seed=5)
    over = False
    while not over:
        *_, terminated, truncated, _ = recorded.step(recorded.action_space.start)
        over = terminated or truncated
    recorded.close()
    return next(trajrec.open(folder).episodes())


def any_action(observation: Any, rng: np.random.Generator) -> int:
    return int(rng.integers(2))


def draws(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield rng.random()


async def coroutine(rng: np.random.Generator) -> None:
    await Draws(rng)


class Draws:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __await__(self) -> Iterator[float]:
        yield from draws(self.rng)


class Coins(Game):
    """Pays 1 with a chance of one half; `draw` draws."""

    draw: Callable[[], float]

    def pay(self, action: int) -> float:
        return float(self.draw() < 0.5)


class InGenerator(Coins):
    def begin(self, seed: int | None) -> None:
        self.numbers = draws(np.random.default_rng(seed))
        self.draw = functools.partial(next, self.numbers)


class InCoroutine(Coins):
    def begin(self, seed: int | None) -> None:
        self.task = coroutine(np.random.default_rng(seed))
        self.draw = functools.partial(self.task.send, None)


class InIterator(Coins):
    def begin(self, seed: int | None) -> None:
        self.numbers = map(abs, draws(np.random.default_rng(seed)))
        self.draw = self.numbers.__next__


class InPartial(Coins):
    def begin(self, seed: int | None) -> None:
        self.draw = functools.partial(np.random.Generator.random, np.random.default_rng(seed))


class InBits(Coins):
    """Has a bit generator without a `Generator` around it."""

    def begin(self, seed: int | None) -> None:
        self.bits = np.random.PCG64(seed)

    def pay(self, action: int) -> float:
        return float(self.bits.random_raw() >> 63)


class InPrivateSlot(Coins):
    class Dice:
        __slots__ = ("__rng",)

        def __init__(self, seed: int | None) -> None:
            self.__rng = np.random.default_rng(seed)

        def roll(self) -> float:
            return float(self.__rng.random())

    def begin(self, seed: int | None) -> None:
        self.dice = self.Dice(seed)

    def pay(self, action: int) -> float:
        return float(self.dice.roll() < 0.5)


class InTorch(Coins):
    def begin(self, seed: int | None) -> None:
        import torch

        self.generator = torch.Generator()
        self.generator.manual_seed(seed or 0)

    def pay(self, action: int) -> float:
        import torch

        return float(torch.randint(2, (1,), generator=self.generator))


class SeedsTorch(Coins):
    def begin(self, seed: int | None) -> None:
        torch = pytest.importorskip("torch")
        torch.manual_seed(seed or 0)

    def pay(self, action: int) -> float:
        import torch

        return float(torch.randint(2, (1,)))


FOUND = [InGenerator, InCoroutine, InIterator, InPartial, InBits, InPrivateSlot]


@mostly_deep("credit", drawn=4)
@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("restore", ["auto", pytest.param("os_fork", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [*FOUND, InTorch, SeedsTorch])
def test_a_generator_in_an_odd_place_follows_the_scenario(
    kind: Any, restore: Any, tmp_path: Path
) -> None:
    if "Torch" in kind.__name__:
        pytest.importorskip("torch")
    episode = record(kind(), tmp_path)
    options: Any = {"env": kind, "folder": None, "n_rollouts": 64, "restore": restore}
    table = credit.estimate(episode, any_action, estimator="value", steps=[4], **options)
    (value,) = table
    assert value.ci_low < 4.0 < value.ci_high
    assert value.ci_high - value.ci_low < 1.5
    assert not table.notes
    effect = credit.counterfactual(episode, any_action, 4, action=1, **options).of("effect")[0]
    assert effect.ci_low <= 0.0 <= effect.ci_high


class OwnGenerator(Coins):
    """Computes its numbers itself."""

    def begin(self, seed: int | None) -> None:
        self.x = seed or 0

    def pay(self, action: int) -> float:
        self.x = (self.x * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        return float(self.x >> 63)


class DrawsAtReset(Coins):
    def begin(self, seed: int | None) -> None:
        self.drawn = self.np_random.integers(2, size=LENGTH + 1)

    def pay(self, action: int) -> float:
        return float(self.drawn[self.n])


class MakesGenerators(Coins):
    """Makes a generator for each step, from the seed of the reset."""

    def begin(self, seed: int | None) -> None:
        self.seed = seed

    def pay(self, action: int) -> float:
        return float(np.random.default_rng([self.seed or 0, self.n]).integers(2))


@mostly_deep("credit", drawn=3)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "more", [{}, {"jobs": 2}, {"restore": "os_fork"}, {"noise": "fresh"}], ids=str
)
@pytest.mark.parametrize("kind", [OwnGenerator, DrawsAtReset, MakesGenerators])
def test_noise_of_an_environments_own_is_noted(kind: Any, more: Any, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    options: Any = {"env": kind, "folder": None, "n_rollouts": 8, "steps": [4], **more}
    table = credit.estimate(episode, any_action, **options)
    assert any("no step drew from a generator that was seeded" in n for n in table.notes)
    recorded = credit.estimate(episode, any_action, **{**options, "noise": "recorded"})
    assert not any("no step drew" in note for note in recorded.notes)


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CartPole-v1"])
def test_known_environments_need_no_note(env_id: str, tmp_path: Path) -> None:
    episode = record(gym.make(env_id), tmp_path)
    table = credit.estimate(episode, any_action, n_rollouts=4, steps=[0], folder=None)
    assert not any("no step drew" in note for note in table.notes)


def test_rare_draws_are_seen(tmp_path: Path) -> None:
    class DrawsLast(Coins):
        def begin(self, seed: int | None) -> None:
            pass

        def pay(self, action: int) -> float:
            return float(self.np_random.integers(2)) if self.n == LENGTH else 0.0

    episode = record(DrawsLast(), tmp_path)
    options: Any = {"env": DrawsLast, "folder": None, "n_rollouts": 8, "steps": [0]}
    assert not any("drew" in note for note in credit.estimate(episode, any_action, **options).notes)


class SeedsEachStep(Coins):
    def begin(self, seed: int | None) -> None:
        self.seed = seed or 0

    def pay(self, action: int) -> float:
        random.seed(self.seed * 1000 + self.n)
        return float(random.getrandbits(1))


@third_slow("credit")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "more", [{"noise": "fresh"}, {"noise": "shared"}, {"restore": "os_fork"}, {"jobs": 2}], ids=str
)
def test_a_generator_that_each_step_seeds_is_named(more: Any, tmp_path: Path) -> None:
    episode = record(SeedsEachStep(), tmp_path)
    options: Any = {"env": SeedsEachStep, "n_rollouts": 8, "steps": [4], "folder": None, **more}
    table = credit.estimate(episode, any_action, **options)
    assert any("draws from generators that its own steps seed" in note for note in table.notes)


class OnLander(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of one's own around objects of SWIG, whose classes have no module."""


class TwoNoises(Coins):
    """Draws from its generator in each step, and in late ones from one that these steps seed."""

    def begin(self, seed: int | None) -> None:
        self.late = np.random.default_rng(seed)

    def pay(self, action: int) -> float:
        reward = int(self.np_random.integers(2))
        if self.n > 2:
            self.late.bit_generator.state = np.random.PCG64(self.n).state
            reward += int(self.late.integers(3))
        return float(reward)


@pytest.mark.slow
def test_a_generator_that_late_steps_seed_is_named(tmp_path: Path) -> None:
    episode = record(TwoNoises(), tmp_path)
    table = credit.estimate(
        episode, any_action, env=TwoNoises, n_rollouts=4, steps=[1], folder=None
    )
    assert any("generators that its own steps seed" in note for note in table.notes)


def test_what_a_run_shows_is_told_of_that_run_alone() -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    generator = env.unwrapped.np_random
    watch = NoiseWatch(lambda: [generator.bit_generator.state])
    unset = UnsetNoise()
    # A simulator seeds scenario 0 without a step, to look whether the state depends on it.
    for runs in ((0, 1), (1,)):
        for run in runs:
            generator.bit_generator.state = np.random.PCG64(run).state
            watch.before(env, run, 3)
        generator.random()
        watch.after()
        unset.add(watch.end_run())
    assert unset.found is None


def test_objects_whose_class_has_no_module_are_looked_into(tmp_path: Path) -> None:
    env = OnLander(gym.make("LunarLander-v3"))
    env.reset(seed=1)
    native = env.unwrapped.world.this  # type: ignore[attr-defined]
    assert not hasattr(type(native), "__module__")
    assert parts_of(native) == []
    assert list(hidden_generators([env.unwrapped], set()))
    assert OuterState.of_env(env).digests is not None
    assert not has_known_noise(env)
    assert held_key(env) == ""


class Weather(trajrec.envs.Shop):
    """A world of a user's own, which may draw from anything."""


def doubled(reward: Any) -> Any:
    return 2 * reward


@pytest.mark.parametrize(
    ("make", "is_known"),
    [
        (lambda: gym.make("CartPole-v1"), True),
        (lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("FrozenLake-v1")), True),
        (lambda: gym.wrappers.NormalizeReward(gym.make("Pendulum-v1")), True),
        (lambda: gym.wrappers.TransformReward(gym.make("Pendulum-v1"), doubled), False),
        (lambda: gym.wrappers.TransformReward(gym.make("Pendulum-v1"), functools.partial(doubled)), False),
        (lambda: trajrec.envs.ToolTextEnv(trajrec.envs.Shop(), lambda _: True), True),
        (lambda: trajrec.envs.ToolTextEnv(Weather(), lambda _: True), False),
        (lambda: trajrec.envs.ToolTextEnv(trajrec.envs.GymWorld(Coins()), lambda _: True), False),
    ],
)  # fmt: skip
def test_noise_of_a_users_own_parts_is_unknown(make: Callable[[], Any], is_known: bool) -> None:
    assert has_known_noise(make()) == is_known


@pytest.mark.slow
def test_gymnasiums_own_environments_of_jax_are_watched() -> None:
    pytest.importorskip("jax")
    from gymnasium.envs.functional_jax_env import FunctionalJaxEnv
    from gymnasium.experimental.functional import FuncEnv

    class Coin(FuncEnv[Any, Any, Any, Any, Any, Any, Any]):
        observation_space = action_space = gym.spaces.Discrete(2)

    env = FunctionalJaxEnv(Coin())
    assert not has_known_noise(env)
    assert held_key(env) == "attribute rng of FunctionalJaxEnv"


class Key(SimpleNamespace):
    """What is seen of a key of JAX."""

    __module__ = "jaxlib._jax"


class HoldsKey(Coins):
    """Draws from its generator, and from numbers that a key of JAX gives."""

    def begin(self, seed: int | None) -> None:
        self.inner = {"key": Key(dtype=np.dtype("uint32"), shape=(2,))}

    def pay(self, action: int) -> float:
        return float(self.np_random.integers(2))


def test_a_key_of_jax_is_named(tmp_path: Path) -> None:
    episode = record(HoldsKey(), tmp_path)
    table = credit.estimate(episode, any_action, env=HoldsKey, n_rollouts=8, steps=[4], folder=None)
    assert any(
        "draws from a key of JAX in attribute inner of HoldsKey" in note for note in table.notes
    )
    assert "given the draws from a key of JAX" in next(iter(table)).estimand
