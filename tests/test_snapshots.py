"""Snapshots of attributes that a copy may change: memory order, views, records and cycles."""

from __future__ import annotations

import collections
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import trajrec
from trajrec.envstate.keyframes import Keyframes
from trajrec.envstate.snapshots import Snapshots
from trajrec.errors import SnapshotError
from trajrec.replay import check_determinism, fork_many
from trajrec.replay.forks.policies import RandomPolicy


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


NOTHING = object()
GRID = np.zeros(4)
NOISE = np.random.default_rng(1)


class Player:
    """Holds what the test gives it, and is pickled."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Outside(Bare):
    """Uses variables of its module."""

    def see(self) -> Any:
        return NOTHING, GRID, NOISE


def test_a_restored_environment_holds_the_objects_of_its_module() -> None:
    env = Outside()
    vars(env).update(key=NOTHING, grid=GRID, player=Player(key=NOTHING, grid=[GRID], rng=NOISE))
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    drawn = NOISE.random()
    snapshots.restore(snapshot)
    assert env.key is env.player.key is NOTHING
    assert env.grid is env.player.grid[0] is GRID
    assert env.player.rng is NOISE
    assert NOISE.random() == drawn


@pytest.mark.parametrize("nested", [False, True])
def test_a_view_of_an_array_of_the_module_has_no_snapshot(nested: bool) -> None:
    env = Outside()
    vars(env)["view"] = Player(view=GRID[1:]) if nested else GRID[1:]
    with pytest.raises(SnapshotError, match="shares its memory with another one"):
        Snapshots(env).take()


@pytest.mark.parametrize("names", [("data", "view"), ("view", "xdata")])
def test_a_view_of_a_bytearray_has_no_snapshot(names: tuple[str, str]) -> None:
    data = bytearray(8)
    values = {"d": data, "x": data, "v": np.frombuffer(memoryview(data).toreadonly(), np.uint8)}
    env = env_with(**{name: values[name[0]] for name in names})
    with pytest.raises(SnapshotError, match="an array is a view of a bytearray in it"):
        Snapshots(env).take()


def test_a_generator_that_only_its_method_holds_is_restored() -> None:
    env = env_with(draw=np.random.default_rng(1).random, draws=[np.random.RandomState(1).rand])
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    drawn = env.draw(), env.draws[0]()
    for _ in range(2):
        snapshots.restore(snapshot)
        assert (env.draw(), env.draws[0]()) == drawn


class Forgetful:
    """Leaves its count out of its pickle."""

    def __init__(self) -> None:
        self.n = 0

    def __getstate__(self) -> Any:
        return {"n": 0}


class WithForgetful(Bare):
    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.player = Forgetful()
        return 0, {}

    def step(self, action: Any) -> Any:
        self.player.n += 1
        return 0, float(self.player.n if action else 0), False, False, {}


@pytest.mark.slow
def test_a_pickle_that_leaves_something_out_is_not_used(tmp_path: Path) -> None:
    with trajrec.record(WithForgetful(), tmp_path, factory=WithForgetful) as env:
        env.reset(seed=1)
        for _ in range(8):
            env.step(0)
    with trajrec.open(tmp_path) as corpus:
        (branch,) = fork_many(
            next(corpus.episodes()), at=5, actions=[1], env=WithForgetful, control=False
        )
    assert (branch.restore, branch.total_reward) == ("reexecute", 6.0)
    report = check_determinism(WithForgetful, n_steps=40)
    assert report.restore["pickle"].why == (
        "restored after 7 steps, the attribute player of WithForgetful is not as it was"
    )


def test_spaces_in_sequences_and_graphs_are_restored() -> None:
    numbers = gym.spaces.Discrete(1000)
    graphs = gym.spaces.Graph(gym.spaces.Box(0, 1, (2,)), numbers)
    spaces = gym.spaces.Dict(texts=gym.spaces.Sequence(numbers), graphs=graphs)
    spaces.seed(1)
    env = env_with(spaces=spaces)
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    samples = [repr(spaces.sample()) for _ in range(4)]
    snapshots.restore(snapshot)
    assert [repr(spaces.sample()) for _ in range(4)] == samples


def test_the_random_policy_draws_sequences_from_its_generator() -> None:
    space = gym.spaces.Sequence(gym.spaces.Discrete(1000))
    first, second = (RandomPolicy(space).act(0, np.random.default_rng(1)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "generator",
    [
        random.Random(1),
        np.random.RandomState(1),
        np.random.PCG64(1),
        np.random.default_rng(1),
        range(3),
        1j,
        frozenset("ab"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_value_of_a_layer_and_of_an_object_stays_one(generator: Any) -> None:
    env = env_with(rng=generator, player=Player(rng=generator))
    if isinstance(generator, np.random.Generator):
        vars(env)["player"] = Player(rng=generator, bits=generator.bit_generator)
    snapshots = Snapshots(env)
    snapshot = snapshots.take()
    attributes = snapshot.outer.attribute_digests(env)
    snapshots.restore(snapshot)
    assert snapshot.outer.lost(attributes, env) == ""


class InSlot(Bare):
    __slots__ = ("board",)


def test_an_attribute_in_a_slot_of_a_layer_is_not_left_out() -> None:
    env = InSlot()
    env.board = [1]
    for take in (Snapshots(env).take, Keyframes(env).take):
        with pytest.raises(SnapshotError, match="InSlot has the attribute board in a slot"):
            take()
