"""Keys of states that are remembered equal those that are computed anew, whatever changes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import enum
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from tiers import third_slow

from trajrec.replay.credit.sampling.state_key import StateKey
from trajrec.replay.execute.handle import EnvHandle

# NumPy 2.5 warns of arrays that are given another shape or dtype, as programs do.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the (shape|dtype) on a NumPy array")


class Tables(NamedTuple):
    """Arrays and lists that only their own content can change."""

    chances: Any
    names: list[Any]
    nested: tuple[Any, ...]


@dataclasses.dataclass
class Machine:
    """An object that encodes, and can change."""

    heat: float
    parts: list[int]


class Colour(enum.Enum):
    """An enum with a member that can change."""

    RED = [1, 2]  # noqa: RUF012


class Keeper(gym.Env[Any, Any]):
    """Keeps values of every kind in its attributes."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.chances = np.arange(100.0)
        self.small = np.zeros(3)
        self.flags = np.zeros((20, 20), bool)
        self.words = np.array(["a" * 20, "b"] * 10)
        self.objects = np.array([[1], [2]], object)
        self.names = [f"name {k}" for k in range(30)]
        self.stock: dict[Any, Any] = {f"shelf {k}": [k, k / 3, True] for k in range(30)}
        self.data = [b"\0" * 8, *[b"x"] * 20]
        self.tables = Tables(np.ones(50), [1, 2.5, None], ((np.zeros(40),), {"x": [0]}))
        self.arrays = [np.zeros(40), np.ones(40)]
        self.by_name: dict[Any, Any] = {"a": np.zeros(40), "b": [np.zeros(2), {1: 2}]}
        self.numbers = [np.float64(0.5), np.int64(3), *range(20)]
        self.sets = {1, 2, 3}
        self.machine = Machine(1.0, [1, 2])
        self.machines = [Machine(1.0, [1, 2])]
        self.colours = [Colour.RED, *range(20)]
        self.constant = (1, "x", (2.5, None), *range(20))


def _shape(keeper: Keeper) -> None:
    keeper.chances.shape = (10, 10) if keeper.chances.ndim == 1 else (100,)


def _dtype(keeper: Keeper) -> None:
    keeper.tables.chances.dtype = "i8" if keeper.tables.chances.dtype.kind == "f" else "f8"


def _type_of_number(keeper: Keeper) -> None:
    value = keeper.tables.names[0]
    keeper.tables.names[0] = {int: float, float: bool, bool: int}[type(value)](1)


def _twin_of_bytes(keeper: Keeper) -> None:
    # The same bytes as far as a buffer shows them.
    same = (np.float64(0.0), np.int64(0), np.zeros(1), b"\0" * 8)
    keeper.data[0] = random.choice(same)  # type: ignore[call-overload]


def _order(keeper: Keeper) -> None:
    name = next(iter(keeper.stock))
    keeper.stock[name] = keeper.stock.pop(name)


def _cycle(keeper: Keeper) -> None:
    keeper.stock["shelf 2"][2] = not keeper.stock["shelf 2"][2]


CHANGES: list[Callable[[Keeper], Any]] = [
    lambda k: k.chances.__setitem__(3, -k.chances.flat[3]) if k.chances.ndim == 1 else None,
    lambda k: k.chances.fill(random.choice([0.0, -0.0, float("nan")])),
    lambda k: k.small.__setitem__(1, random.random()),
    lambda k: k.flags.__setitem__((2, 3), not k.flags[2, 3]),
    lambda k: k.words.__setitem__(0, random.choice(["a", "c"])),
    lambda k: k.objects[0].append(1),
    lambda k: k.names.append("new"),
    lambda k: k.names.__setitem__(0, random.choice(["x", 1, 1.0, True, None])),
    lambda k: k.stock["shelf 3"].append(2),
    lambda k: k.stock.__setitem__("shelf 9", random.choice([0, -0.0, 0.0, np.float64(0.0)])),
    lambda k: k.stock.__setitem__(random.choice([1, True, 1.0]), 0),
    lambda k: k.stock["shelf 5"].__setitem__(0, np.float64(5)),
    lambda k: k.stock.__setitem__("shelf 6", np.zeros(30)),
    lambda k: k.tables.chances.__setitem__(0, k.tables.chances[0] + 1),
    lambda k: k.tables.nested[0][0].__setitem__(0, 1),
    lambda k: k.tables.nested[1]["x"].append(1),
    lambda k: k.arrays.__setitem__(0, k.arrays[0].copy()),
    lambda k: k.arrays.__setitem__(0, k.arrays[0].astype(random.choice(["f4", "f8"]))),
    lambda k: k.arrays[1].__setitem__(5, random.random()),
    lambda k: k.arrays.reverse(),
    lambda k: k.by_name.__setitem__("a", random.choice([1, np.zeros(40), np.ones(40)])),
    lambda k: k.by_name["b"][0].__setitem__(0, random.random()),
    lambda k: k.by_name["b"][1].__setitem__(1, random.choice([2, 2.0, True])),
    lambda k: k.by_name.__setitem__("c", k.by_name.pop("b")) if "b" in k.by_name else None,
    lambda k: k.by_name.__setitem__("b", k.by_name.pop("c")) if "c" in k.by_name else None,
    lambda k: k.numbers.__setitem__(0, random.choice([0.5, np.float32(0.5), np.float64(0.5)])),
    lambda k: k.sets.add(random.randrange(9)),
    lambda k: setattr(k.machine, "heat", random.choice([1, 1.0, True])),
    lambda k: k.machine.parts.append(1),
    lambda k: k.machines[0].parts.append(1),
    lambda k: Colour.RED.value.append(1),
    lambda k: setattr(k, "constant", copy.copy(k.constant)),
    lambda k: setattr(k, "tables", copy.deepcopy(k.tables)),
    lambda k: k.__dict__.update(copy.deepcopy(k.__dict__)),
    _shape,
    _dtype,
    _type_of_number,
    _twin_of_bytes,
    _order,
    _cycle,
]


def key_of(env: Keeper) -> StateKey:
    return StateKey(EnvHandle(env, None, None), set(), own_state=False)


def apply(change: Callable[[Keeper], Any], keeper: Keeper) -> None:
    # An earlier change may have removed its part.
    with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError, ValueError):
        change(keeper)


@pytest.mark.mostly_slow(6)
@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_a_change_after_many_steps_changes_the_key(number: int) -> None:
    random.seed(number)
    keeper = Keeper()
    remembering = key_of(keeper)
    for _ in range(5):
        assert remembering() == key_of(keeper)()
    for _ in range(4):
        apply(CHANGES[number], keeper)
        for _ in range(3):
            assert remembering() == key_of(keeper)()
    assert remembering() is not None


@third_slow("agents")
@pytest.mark.parametrize(
    "seed",
    [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 100))],
)
def test_remembered_keys_are_those_computed_anew(seed: int) -> None:
    random.seed(seed)
    keeper = Keeper()
    remembering = key_of(keeper)
    snapshot = copy.deepcopy(keeper.__dict__)
    for _ in range(60):
        if random.random() < 0.3:
            apply(random.choice(CHANGES), keeper)
        if random.random() < 0.05:
            # As a rollout begins: with new objects.
            keeper.__dict__.update(copy.deepcopy(snapshot))
        assert remembering() == key_of(keeper)()
    assert remembering() is not None
