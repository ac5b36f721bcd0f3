"""Environments, a world and policies whose state lies in variables outside of their objects."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from trajrec.protocols import Tool

LENGTH = 12

_rng: Any = None
_draws: Iterator[float] = iter(())
_count = 0
_coin = 0
_seen: set[int] = set()


class Game(gym.Env[int, int]):
    """Lasts 12 steps; `begin` runs in the reset, and `pay` returns the reward of a step."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Discrete(LENGTH + 1)
        self.action_space = gym.spaces.Discrete(2)
        self.n = 0

    def begin(self, seed: int | None) -> None:
        raise NotImplementedError

    def pay(self, action: int) -> float:
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        self.begin(seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.n += 1
        return self.n, float(self.pay(int(action))), self.n == LENGTH, False, {}


class GlobalGenerator(Game):
    """Pays 1 with a chance of one half, whatever the action: so do the next five."""

    def begin(self, seed: int | None) -> None:
        global _rng
        _rng = np.random.default_rng(seed)

    def pay(self, action: int) -> float:
        return _rng.random() < 0.5


class ClassGenerator(Game):
    rng: Any = None

    def begin(self, seed: int | None) -> None:
        type(self).rng = random.Random(seed)

    def pay(self, action: int) -> float:
        return self.rng.random() < 0.5


def _closure() -> tuple[Callable[[int | None], None], Callable[[], float]]:
    held: list[Any] = [None]

    def begin(seed: int | None) -> None:
        held[0] = np.random.default_rng(seed)

    return begin, lambda: held[0].random()


_begin, _draw = _closure()


class ClosureGenerator(Game):
    def begin(self, seed: int | None) -> None:
        _begin(seed)

    def pay(self, action: int) -> float:
        return _draw() < 0.5


class DrawnIterator(Game):
    def begin(self, seed: int | None) -> None:
        global _draws
        rng = np.random.default_rng(seed)
        _draws = (rng.random() for _ in itertools.count())

    def pay(self, action: int) -> float:
        return next(_draws) < 0.5


class SeedsRandom(Game):
    def begin(self, seed: int | None) -> None:
        random.seed(seed)

    def pay(self, action: int) -> float:
        return random.random() < 0.5


class SeedsNumpy(Game):
    def begin(self, seed: int | None) -> None:
        np.random.seed(seed)

    def pay(self, action: int) -> float:
        return np.random.random() < 0.5


class ImportsRandom(Game):
    """Imports its generator where it needs it."""

    def begin(self, seed: int | None) -> None:
        import random as dice

        dice.seed(seed)

    def pay(self, action: int) -> float:
        from random import random as roll

        return roll() < 0.5


class HoldsRandom(Game):
    """Holds the module in the place of a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.dice: Any = random

    def begin(self, seed: int | None) -> None:
        self.dice.seed(seed)

    def pay(self, action: int) -> float:
        return self.dice.random() < 0.5


class HoldsNumpy(HoldsRandom):
    def __init__(self, dice: Any = np.random) -> None:
        super().__init__()
        self.dice = dice


GENERATORS = [
    GlobalGenerator,
    ClassGenerator,
    ClosureGenerator,
    DrawnIterator,
    SeedsRandom,
    SeedsNumpy,
    ImportsRandom,
    HoldsRandom,
    HoldsNumpy,
]


class GlobalCount(Game):
    """Pays at the end if the number of ones is divisible by three."""

    def begin(self, seed: int | None) -> None:
        global _count
        _count = 0

    def pay(self, action: int) -> float:
        global _count
        _count += action
        return self.n == LENGTH and _count % 3 == 0


class GlobalSet(Game):
    """Pays at the end for each step with a one."""

    def begin(self, seed: int | None) -> None:
        _seen.clear()

    def pay(self, action: int) -> float:
        if action:
            _seen.add(self.n)
        return len(_seen) if self.n == LENGTH else 0.0


class GlobalCoin(Game):
    """The reset draws a coin, a one turns it with a chance of a tenth, and it is paid at the end."""

    def begin(self, seed: int | None) -> None:
        global _coin
        _coin = int(self.np_random.integers(2))

    def pay(self, action: int) -> float:
        global _coin
        if action and self.np_random.random() < 0.1:
            _coin = 1 - _coin
        return _coin if self.n == LENGTH else 0.0


def counted(action: int, total: list[int] = [0]) -> int:  # noqa: B006
    total[0] += action
    counted.calls = getattr(counted, "calls", 0) + 1  # type: ignore[attr-defined]
    return total[0]


class DefaultValue(GlobalCount):
    """The same as `GlobalCount`, in the default value of a function."""

    def begin(self, seed: int | None) -> None:
        counted.__defaults__[0][0] = 0  # type: ignore[index]

    def pay(self, action: int) -> float:
        return counted(action) % 3 == 0 and self.n == LENGTH


class ImportedCount(Game):
    """Pays as `GlobalCount` does; its module is imported where it is needed."""

    def begin(self, seed: int | None) -> None:
        import outer_module

        outer_module.count = 0

    def pay(self, action: int) -> float:
        import outer_module as elsewhere

        elsewhere.count += action
        return self.n == LENGTH and elsewhere.count % 3 == 0


VARIABLES = [GlobalCount, GlobalSet, GlobalCoin, DefaultValue, ImportedCount]


_stock: dict[str, int] = {}


class GlobalShop:
    """A world whose stock lies in a module: its own state has the money alone."""

    def __init__(self) -> None:
        self.money = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        self.money = 0
        _stock.clear()
        _stock["apple"] = 2
        return "sell apples"

    def tools(self) -> list[Tool]:
        return [Tool.with_args("sell", "write", "Sell an apple."), Tool.with_args("wait", "read")]

    def call(self, tool: str, arguments: Any) -> str:
        if tool == "sell" and _stock["apple"]:
            _stock["apple"] -= 1
            self.money += 1
        return "done"

    def get_state(self) -> int:
        return self.money

    def set_state(self, state: int) -> None:
        self.money = state

    def task_solved(self) -> bool:
        return self.money == 2


_turn = 0
_turns: dict[str, int] = {}
_first: list[int] = []
_cycle = itertools.cycle([0, 1])


def alternates(observation: int) -> int:
    """Take 0 and 1 in turn, by a module global."""
    global _turn
    _turn += 1
    return _turn % 2


def alternates_by_dict(observation: int, rng: Any) -> int:
    _turns["n"] = _turns.get("n", 0) + 1
    return _turns["n"] % 2


def alternates_by_default(observation: int, turn: list[int] = [0]) -> int:  # noqa: B006
    turn[0] += 1
    return turn[0] % 2


def alternates_by_cycle(observation: int) -> int:
    return next(_cycle)


def every_third(observation: int) -> int:
    global _turn
    _turn += 1
    return int(_turn % 3 == 0)


def remembers_the_first(observation: int) -> int:
    if not _first:
        _first.append(observation)
    return (_first[0] + observation) % 2


class Alternates:
    """Takes 0 and 1 in turn, by an attribute of its class."""

    n = 0

    def act(self, observation: int, rng: Any) -> int:
        Alternates.n += 1
        return Alternates.n % 2


def counts(observation: int) -> int:
    """Count its calls in a module, and take 1 in any case."""
    _turns["calls"] = _turns.get("calls", 0) + 1
    return 1


REMEMBERING = [
    alternates,
    alternates_by_dict,
    alternates_by_default,
    alternates_by_cycle,
    every_third,
    remembers_the_first,
    Alternates(),
]
