"""States of environments that are stored whole: each is read alone, and verified."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Scripted

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.corpus.lone_episode import read_episode
from trajrec.errors import StateUnknownError
from trajrec.log.rows import ColumnRows
from trajrec.values.diff import is_same

N_STEPS = 300
RAISES = 7


class Yard(Scripted):
    """An environment whose state has records, lists that change their length, and an array."""

    def __init__(self, raises: int = -1) -> None:
        super().__init__(lambda k: (np.zeros(2, np.float32), 1.0, False, False, {}))
        self.raises = raises
        self.state: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.state = {"rows": {f"r{k}": {"n": 0} for k in range(20)}, "list": [], "map": np.eye(9)}
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self.state["rows"][f"r{self.k % 20}"]["n"] = self.k
        self.state["list"] = list(range(self.k % 5))
        self.state["map"][self.k % 9, 0] = self.k
        if self.k == self.raises:
            self.k += 1
            raise RuntimeError("a fault of the yard")
        return super().step(action)

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = copy.deepcopy(state)


def record(folder: Path, env: Yard, keep: Any) -> tuple[Episode, list[Any]]:
    """Record an episode, and return it with the states before each step and the last one."""
    recorder = trajrec.record(env, folder, keep_states=keep)
    recorder.reset(seed=0)
    truth = [copy.deepcopy(env.state)]
    for k in range(N_STEPS):
        if k == env.raises:
            with pytest.raises(RuntimeError, match="fault"):
                recorder.step(0)
        else:
            recorder.step(0)
        truth.append(copy.deepcopy(env.state))
    recorder.close()
    return read_episode(recorder.path, 0), truth


def test_whole_states_are_read_in_any_order(tmp_path: Path) -> None:
    episode, truth = record(tmp_path, Yard(), "all")
    order = random.Random(0).choices(range(N_STEPS + 1), k=100)
    for step in [N_STEPS, *order, *range(N_STEPS + 1)]:
        assert is_same(episode.state(step), truth[step]), step


def test_one_whole_state_is_decoded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episode, truth = record(tmp_path, Yard(), "all")
    decoded: list[int] = []
    values = ColumnRows.values

    def counted(self: ColumnRows, start: int = 0, stop: int | None = None) -> list[Any]:
        decoded.append((self.n if stop is None else stop) - start)
        return values(self, start, stop)

    monkeypatch.setattr(ColumnRows, "values", counted)
    assert is_same(episode.state(200), truth[200])
    assert decoded
    assert max(decoded) == 1


def test_a_whole_state_belongs_to_its_reader(tmp_path: Path) -> None:
    episode, truth = record(tmp_path, Yard(), "all")
    episode.state(50)["rows"].clear()
    assert is_same(episode.state(50), truth[50])


def test_the_state_after_a_step_that_raised_is_unknown(tmp_path: Path) -> None:
    episode, truth = record(tmp_path, Yard(raises=RAISES), "all")
    for step in (0, RAISES, RAISES + 2, N_STEPS):
        assert is_same(episode.state(step), truth[step]), step
    with pytest.raises(StateUnknownError, match=f"step {RAISES} raised an exception"):
        episode.state(RAISES + 1)


def test_states_that_are_digested_only_name_those_that_are_stored(tmp_path: Path) -> None:
    episode, _ = record(tmp_path, Yard(), "digests")
    with pytest.raises(StateUnknownError, match=r"stored at rows \[0"):
        episode.state(3)


def test_a_whole_state_is_compared_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, truth = record(tmp_path, Yard(), "digests")
    assert is_same(episode.state(0), truth[0])
    values = ColumnRows.values

    def other(self: ColumnRows, start: int = 0, stop: int | None = None) -> list[Any]:
        return [
            [*value, 1] if type(value) is list else value for value in values(self, start, stop)
        ]

    monkeypatch.setattr(ColumnRows, "values", other)
    with pytest.raises(StateUnknownError, match="has another digest than the recorded one"):
        read_episode(episode.path, 0).state(0)
