"""Snapshots of attributes that a copy may change: memory order, views, records and cycles."""

from __future__ import annotations

import collections
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from trajrec.envstate.snapshots import Snapshots
from trajrec.errors import SnapshotError


class Bare(gym.Env[Any, Any]):
    """Has only the attributes that a test gives it."""


def env_with(**attributes: Any) -> Any:
    env = Bare()
    vars(env).update(attributes)
    return env


def test_restored_arrays_keep_their_memory_order_and_flags() -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 50)).astype(np.float32)
    constant = np.ones(3)
    constant.flags.writeable = False
    env = env_with(numbers=np.asfortranarray(numbers), constant=constant)
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    total = env.numbers.sum()
    snapshots.restore(snapshot)
    assert env.numbers.flags.f_contiguous
    # The rows are added in another order if the array is stored by rows.
    assert env.numbers.sum() == total
    assert not env.constant.flags.writeable


def test_read_only_view_of_another_attribute_has_no_snapshot() -> None:
    grid = np.zeros(3)
    view = grid.view()
    view.flags.writeable = False
    with pytest.raises(SnapshotError, match="shares its memory with another one"):
        Snapshots(env_with(grid=grid, view=view)).take()
    # Neither of two such views can change the other one.
    other = np.broadcast_to(grid, (2, 3))
    assert Snapshots(env_with(view=view, other=other)).take().restore_method == "snapshot"


def test_records_and_objects_in_fields_do_not_share_their_state() -> None:
    fields = np.zeros(1, [("x", object)])
    fields["x"][0] = [0]
    env = env_with(fields=fields)
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    env.fields["x"][0][0] = 7
    snapshots.restore(snapshot)
    assert env.fields["x"][0] == [0]
    record = np.zeros(1, [("x", float)])[0]
    with pytest.raises(SnapshotError, match=r"attribute record \(void\)"):
        Snapshots(env_with(record=record)).take()


def test_dicts_that_refer_to_each_other_are_restored() -> None:
    root: dict[str, Any] = {"n": 0, "children": []}
    root["children"].append({"parent": root})
    env = env_with(root=root)
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    env.root["n"] = 7
    snapshots.restore(snapshot)
    assert env.root["n"] == 0
    assert env.root["children"][0]["parent"] is env.root


def test_a_window_of_steps_is_no_canvas() -> None:
    env = CartPoleEnv()
    vars(env).update(clock=3, window=collections.deque([1], maxlen=2))
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    for _ in range(2):
        vars(env)["clock"] += 1
        env.__dict__["window"].append(7)
        snapshots.restore(snapshot)
        assert (vars(env)["clock"], *vars(env)["window"]) == (3, 1)
