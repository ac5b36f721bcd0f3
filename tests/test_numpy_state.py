"""The state of `numpy.random` is the same after a block with seeded randomness."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trajrec.agents.freeze import seeded_globals
from trajrec.agents.numpy_state import TwisterState, take_numpy_state

DRAWS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: np.random.random(3),
    # One of two normal draws is kept for the next call.
    lambda: np.random.standard_normal(1),
    lambda: np.random.standard_normal(2),
    lambda: np.random.random(624 * 3),
    lambda: np.random.bytes(5),
]


def state() -> list[Any]:
    name, key, *rest = np.random.get_state()
    return [name, key.tolist(), *rest]  # type: ignore[union-attr]


@pytest.mark.parametrize("before", range(len(DRAWS)))
@pytest.mark.parametrize("within", range(len(DRAWS)))
def test_a_block_leaves_the_state_as_it_was(before: int, within: int) -> None:
    np.random.seed(7)
    DRAWS[before]()
    expected = state()
    drawn = []
    for _ in range(2):
        with seeded_globals(3):
            drawn.append(repr(DRAWS[within]()))
        assert state()[:4] == expected[:4]
        assert not expected[3] or state()[4] == expected[4]
    np.random.seed(3)
    assert drawn == [repr(DRAWS[within]())] * 2
    assert isinstance(take_numpy_state(), TwisterState)
    np.random.seed(0)


def test_another_generator_is_restored_too() -> None:
    program = """
import numpy as np
from trajrec.agents.freeze import seeded_globals
np.random.set_bit_generator(np.random.MT19937(5))
np.random.standard_normal()
before = np.random.get_state(legacy=False)
with seeded_globals(1):
    np.random.random()
after = np.random.get_state(legacy=False)
assert repr(before) == repr(after), (before, after)
assert (before["state"]["key"] == after["state"]["key"]).all()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
