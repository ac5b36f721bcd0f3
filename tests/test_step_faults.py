"""Whose fault it is if a step raises: an action that is none of the environment's is the agent's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import rows
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

import trajrec

FAULTS = "SELECT ending, fault FROM episodes"


class Refusing(gymnasium.Env[int, Any]):
    """Raises at each step."""

    observation_space = Discrete(2)

    def __init__(self, space: Space[Any] | None) -> None:
        if space is not None:
            self.action_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        raise ValueError("no")


def fault(folder: Path, space: Space[Any] | None, action: Any) -> Any:
    with trajrec.record(Refusing(space), folder) as env:
        env.reset(seed=1)
        with pytest.raises(ValueError, match="no"):
            env.step(action)
    [(ending, fault)] = rows(folder, FAULTS)
    assert ending == "error"
    return fault


BOX = Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (Discrete(3), 2),
        (Discrete(3), np.int64(2)),
        (BOX, np.ones(2, np.float32)),
        (BOX, np.ones(2)),
        (BOX, [0.5, -1]),
        (Dict(a=Discrete(2)), {"a": 1}),
        (Dict(a=BOX), {"a": np.ones(2)}),
        (Tuple([Dict(a=BOX), Discrete(2)]), ({"a": [0.5, -1]}, 1)),
        (None, 2),
    ],
)
def test_an_environment_that_fails_at_its_own_action_is_at_fault(
    tmp_path: Path, space: Space[Any] | None, action: Any
) -> None:
    assert fault(tmp_path, space, action) == "env"


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (Discrete(3), 3),
        (Discrete(3), 1.5),
        (Discrete(3), None),
        (BOX, np.full(2, np.nan, np.float32)),
        (BOX, np.full(2, 1.01)),
        (BOX, np.zeros(3)),
        (BOX, "left"),
        (MultiDiscrete([2, 2]), 1),
        (Dict(a=Discrete(2)), {"b": 1}),
        (Dict(a=Discrete(2)), 1),
        (Dict(a=BOX), {"a": np.full(2, 1.01)}),
        (Tuple([BOX, Discrete(2)]), (np.ones(2),)),
        (Tuple([BOX, Discrete(2)]), (np.ones(2), 2)),
    ],
)
def test_an_action_outside_the_space_is_no_fault_of_the_environment(
    tmp_path: Path, space: Space[Any], action: Any
) -> None:
    assert fault(tmp_path, space, action) is None


def test_an_outage_stays_one_whatever_the_action(tmp_path: Path) -> None:
    class Offline(Refusing):
        def step(self, action: Any) -> Any:
            raise ConnectionError("away")

    with trajrec.record(Offline(Discrete(2)), tmp_path) as env:
        env.reset(seed=1)
        with pytest.raises(ConnectionError):
            env.step(9)
    assert rows(tmp_path, FAULTS) == [("error", "infra")]


def test_a_space_that_fails_too_leaves_the_exception(tmp_path: Path) -> None:
    class Gone(Refusing):
        is_gone = False

        @property
        def action_space(self) -> Space[Any]:  # type: ignore[override]
            if self.is_gone:
                raise RuntimeError("there is no simulator")
            return Discrete(3)

        def step(self, action: Any) -> Any:
            self.is_gone = True
            return super().step(action)

    with trajrec.record(Gone(None), tmp_path) as env:
        env.reset(seed=1)
        with pytest.raises(ValueError, match="no"):
            env.step(1)
    assert rows(tmp_path, FAULTS) == [("error", "env")]


@pytest.mark.parametrize(("action", "expected"), [(4, None), (9, None), (0, "env")])
def test_a_move_that_a_mask_forbids_is_no_fault_of_the_game(
    tmp_path: Path, action: int, expected: str | None
) -> None:
    classic = pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    game = classic.raw_env()
    env = trajrec.record(game, tmp_path)
    env.reset(seed=1)
    env.step(4)
    # The second player's move raises, whatever it is.
    game.board = None
    with pytest.raises((AttributeError, AssertionError)):
        env.step(action)
    env.close()
    assert rows(tmp_path, FAULTS) == [("error", expected)]
