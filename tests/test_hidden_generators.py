"""Generators are found wherever they lie: branches and rollouts draw numbers of their own."""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import third_slow

import trajrec
from trajrec.envstate.contents import attributes_of
from trajrec.envstate.generators import nested_generators
from trajrec.envstate.hidden_generators import hidden_generators
from trajrec.envstate.reseeding import EVERYWHERE, reseed, reseed_fresh
from trajrec.replay import credit, fork_many, replay_episode


class Box:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


class Slots:
    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = inside


class Drawing(Box):
    def __call__(self) -> float:
        return float(self.inside.random())


def deep(rng: Any) -> Any:
    for _ in range(8):
        rng = Box(rng)
    return rng


def in_lists(rng: Any) -> Any:
    return [[{"a": [deque([Box(rng)])]}]] * 2


def in_a_long_list(rng: Any) -> Any:
    return [*range(100), Box(rng)]


def in_a_callable(rng: Any) -> Any:
    return Drawing(rng)


def in_slots(rng: Any) -> Any:
    return Slots(Slots(rng))


def in_an_array(rng: Any) -> Any:
    return np.array([Box(rng), None], object)


HOLDERS = [Box, deep, in_lists, in_a_long_list, in_a_callable, in_slots, in_an_array]


class Holder(gym.Env[int, int]):
    """Pays a random number at each of 10 steps, from a generator that it holds somewhere."""

    def __init__(self, hold: Callable[[Any], Any]) -> None:
        self.observation_space = gym.spaces.Discrete(11)
        self.action_space = gym.spaces.Discrete(2)
        self.hold = hold
        self.n = 0
        self.held: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        self.held = self.hold(np.random.default_rng(seed))
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        (rng,) = hidden_generators([self], {id(self), id(self.np_random)})
        self.n += 1
        return self.n, float(rng.random()), self.n == 10, False, {}


def record(hold: Any, folder: Path) -> Any:
    env = trajrec.record(Holder(hold), folder)
    env.reset(seed=1)
    for _ in range(10):
        env.step(0)
    env.close()
    return next(trajrec.open(folder).episodes())


@third_slow("credit")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("hold", HOLDERS)
def test_branches_draw_numbers_of_their_own(hold: Any, tmp_path: Path) -> None:
    episode = record(hold, tmp_path)
    make = lambda: Holder(hold)  # noqa: E731
    branches = fork_many(episode, at=[5], actions=[0] * 5, n_branches=4, env=make)
    assert len({branch.total_reward for branch in branches}) == 4
    with trajrec.open(tmp_path) as corpus:
        for branch in branches:
            child = corpus.episode(branch.episode_id or "")
            assert child.fork.noise.endswith(EVERYWHERE)
            assert replay_episode(child, env=make).grade == "exact"


@third_slow("credit")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("restore", ["auto", "reexecute"])
@pytest.mark.parametrize("hold", HOLDERS)
def test_rollouts_draw_numbers_of_their_own(hold: Any, restore: Any, tmp_path: Path) -> None:
    table = credit.estimate(
        record(hold, tmp_path),
        lambda observation: 0,
        estimator="value",
        steps=[5],
        n_rollouts=64,
        env=lambda: Holder(hold),
        restore=restore,
        folder=None,
    )
    (row,) = table
    assert len({rollout.episode_return for rollout in table.arms[0].rollouts}) == 64
    # Five numbers of mean 1/2.
    assert row.ci_low < 2.5 < row.ci_high
    assert row.ci_high - row.ci_low < 1.0


def test_a_key_without_the_mark_seeds_as_before() -> None:
    env = Holder(deep)
    env.reset(seed=1)
    (rng,) = hidden_generators([env], {id(env), id(env.np_random)})
    before = rng.bit_generator.state
    assert reseed(env, "key") == 1
    assert rng.bit_generator.state == before
    assert reseed(env, "key" + EVERYWHERE) == 2
    assert rng.bit_generator.state != before
    own = env.np_random.bit_generator.state
    assert reseed(env, "key") == 1
    assert env.np_random.bit_generator.state == own
    plain = gym.make("CartPole-v1")
    plain.reset(seed=1)
    assert reseed_fresh(plain, "key").key == "key"


class Answering:
    """Has an attribute of every name, as a native library has functions."""

    __slots__ = ("rng",)

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: None


def test_an_object_that_answers_for_any_name_has_its_slots_alone() -> None:
    value = Answering()
    assert attributes_of(value) == []
    value.rng = np.random.default_rng(1)
    assert [name for name, _ in attributes_of(value)] == ["rng"]
    assert list(hidden_generators([value], set())) == [value.rng]


class Documented:  # it has no text, which would be in the way of the slot
    __slots__ = ("__doc__", "value")


Undocumented = type("Undocumented", (Documented,), {"__slots__": ()})


def test_no_code_of_a_module_in_an_attribute_runs() -> None:
    class Deprecated:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"{name} was read")

    module = types.ModuleType("library")
    module.old = Deprecated()  # type: ignore[attr-defined]
    module.rng = random.Random(0)  # type: ignore[attr-defined]
    found = list(nested_generators(Box([module]), set()))
    assert found == [(("inside", 0, "rng"), module.rng)]


def test_a_slot_without_a_value_is_no_attribute() -> None:
    item = Undocumented()
    item.value = 3
    assert attributes_of(item) == [("value", 3)]
