"""Random values, dtypes and spaces for recordings that no person thought of."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import warnings
from typing import Any

import gymnasium as gym
import numpy as np

Rng = np.random.Generator

NUMBERS = ["?", *"bBhHiIlLqQ", "e", "f", "d"]
OTHERS = [">i2", ">u4", ">f4", ">f8", "F", "D", ">c16", "g", "M8[s]", "m8[ms]", "U3", ">U2", "S4"]
RECORD = np.dtype({"names": ["x", "n"], "formats": ["<f4", "i1"], "offsets": [0, 6], "itemsize": 8})


REWARDS = [*NUMBERS, ">f4", "g", "F", "M8[ns]", "m8[ms]", "U3", "S4", RECORD]


class Level(enum.IntEnum):
    LOW = 1


class Points(int):
    """A subclass of a number."""


# NumPy 2.5 warns of times without a unit.
with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    NO_TIME = np.datetime64("NaT")


ODD_REWARDS = [
    10**400,
    -(10**400),
    9 * 10**307,
    1.7e308,
    -1.7e308,
    "1",
    b"1",
    None,
    1j,
    np.complex64(1),
    Points(2),
    Level.LOW,
    np.datetime64(5, "ns"),
    NO_TIME,
    np.timedelta64(5, "s"),
    np.str_("1"),
    np.bytes_(b"1"),
    np.zeros(1, RECORD)[0],
    datetime.datetime(2026, 1, 1),
    decimal.Decimal("0.5"),
    [1.0, 2.0],
    [1.0],
    (1,),
    [[1], 2.0],
    {"a": 1.0},
    {"a": "1"},
    np.array(1.0),
    np.array([2], np.int8),
    np.array([[0.5]]),
    np.zeros((0,)),
    np.ma.masked_array([1.0], mask=[True]),
    np.ma.masked_array([1.0], mask=[False]),
    np.longdouble(1) / 3,
]
"""Rewards that are numbers by no common type, and some that are none."""


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


@dataclasses.dataclass
class Parcel:
    weight: float
    tags: list[str]


Point = collections.namedtuple("Point", ["x", "y"])


class Handle:
    """An object that no log can hold."""

    def __repr__(self) -> str:
        return "<Handle>"


def pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def number(rng: Rng) -> int:
    """Return an int of any size."""
    bits = int(rng.integers(1, 80))
    value = int.from_bytes(rng.bytes(10), "little") >> (80 - bits)
    return value if rng.random() < 0.5 else -value


def real(rng: Rng) -> float:
    special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 5e-324, 1e300]
    return float(rng.normal()) if rng.random() < 0.6 else pick(rng, special)


def text(rng: Rng) -> str:
    letters = pick(rng, ["abc/~ ", "äß€😀", "a\0\n\ud800"])
    return "".join(
        pick(rng, letters) for _ in range(int(rng.integers(0, 40 if rng.random() < 0.1 else 6)))
    )


def array(rng: Rng, dtype: Any = None, shape: Any = None) -> Any:
    """Return an array of random bytes; of times and texts only those that numpy gives out again."""
    if dtype is None:
        dtype = pick(rng, [*NUMBERS, *OTHERS, RECORD])
    dtype = np.dtype(dtype)
    if shape is None:
        shape = tuple(rng.integers(0, 4, int(rng.integers(0, 4))).tolist())
    if dtype.kind in "US":
        letters = [pick(rng, ["", "a", "xyz"]) for _ in range(int(np.prod(shape)))]
        return np.array(letters, dtype).reshape(shape)
    if dtype.kind in "bgfFcD" or dtype.names:
        return np.asarray(rng.integers(0, 9, shape)).astype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(size), dtype).reshape(shape).copy()


def leaf(rng: Rng) -> Any:
    """Return a value without parts."""
    kinds = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: number(rng),
        lambda: real(rng),
        lambda: text(rng),
        lambda: rng.bytes(int(rng.integers(0, 9))),
        lambda: complex(real(rng), real(rng)),
        lambda: bytearray(rng.bytes(3)),
        lambda: array(rng, pick(rng, [*NUMBERS, *OTHERS]), ())[()],
        lambda: array(rng),
        lambda: pick(rng, list(Colour)),
        lambda: decimal.Decimal(number(rng)) / 100,
        lambda: datetime.date(2020, 1, int(rng.integers(1, 29))),
    ]
    return pick(rng, kinds)()


def key(rng: Rng) -> Any:
    kinds = [
        lambda: number(rng),
        lambda: text(rng),
        lambda: rng.random() < 0.5,
        lambda: (1, text(rng)),
    ]
    return pick(rng, kinds)()


def value(rng: Rng, depth: int = 2) -> Any:
    """Return a value of any kind that can be stored."""
    if depth == 0 or rng.random() < 0.5:
        return leaf(rng)
    items = [value(rng, depth - 1) for _ in range(int(rng.integers(0, 5)))]
    kinds = [
        lambda: items,
        lambda: tuple(items),
        lambda: {text(rng): item for item in items},
        lambda: {key(rng): item for item in items},
        lambda: {number(rng) for _ in items},
        lambda: frozenset(text(rng) for _ in items),
        lambda: Parcel(real(rng), [text(rng)]),
        lambda: Point(1, items),
        lambda: np.array([*items, None], object)[:-1],
        lambda: np.array(["a", "bcd"], np.dtypes.StringDType()),
    ]
    return pick(rng, kinds)()


def info(rng: Rng) -> dict[str, Any]:
    """Return an info: mostly of one form, sometimes of another, or with an object."""
    if rng.random() < 0.1:
        return {"handle": Handle(), text(rng): value(rng)}
    return {"n": number(rng) % 9, "x": real(rng), "inner": {"flag": rng.random() < 0.5}}


def space(rng: Rng, depth: int = 2) -> gym.Space[Any]:
    """Return a random space, nested up to a depth."""
    spaces = gym.spaces
    leaves = [
        lambda: box(rng),
        lambda: spaces.Discrete(int(rng.integers(1, 300)), start=int(rng.integers(-5, 5))),
        lambda: spaces.MultiBinary(int(rng.integers(1, 9))),
        lambda: spaces.MultiDiscrete(rng.integers(1, 9, 3)),
        lambda: spaces.Text(5),
        lambda: spaces.Sequence(box(rng)),
        lambda: spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)),
    ]
    if depth == 0 or rng.random() < 0.5:
        return pick(rng, leaves)()
    parts = [space(rng, depth - 1) for _ in range(int(rng.integers(0, 4)))]
    if rng.random() < 0.5:
        return spaces.Tuple(parts)
    return spaces.Dict({f"{text_key(rng)}{k}": part for k, part in enumerate(parts)})


def text_key(rng: Rng) -> str:
    return pick(rng, ["a", "b/c", "ü", "left arm", ""])


def box(rng: Rng) -> gym.spaces.Box:
    dtype = np.dtype(pick(rng, NUMBERS[1:]))
    shape = tuple(rng.integers(0, 5, int(rng.integers(0, 3))).tolist())
    return gym.spaces.Box(0, 100, shape, dtype.type)
