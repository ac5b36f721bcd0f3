"""`state_changes` has the changes of whole states, also those that the index holds as numbers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.corpus.index.environments import MAX_CHANGES
from trajrec.corpus.index.numeric_changes import NUMERIC_CHANGES, changes_query
from trajrec.values.diff import diff
from trajrec.values.json import to_json, to_keys, to_pointer

Make = Callable[[random.Random], Any]


def real(rng: random.Random) -> float:
    """Return a float of any size, or one of those that are easily lost."""
    odd = [0.0, -0.0, 1e16, 1e-6, 9.99e-6, 1e21, 1e22, -1e-5, 2.0**53, 5e-324, 1.0]
    if rng.random() < 0.3:
        return rng.choice(odd)
    return rng.uniform(-1, 1) * 10.0 ** rng.randint(-25, 25)


def some_odd(rng: random.Random) -> float:
    return rng.choice([math.nan, math.inf, real(rng)]) if rng.random() < 0.01 else real(rng)


STATES: dict[str, Make] = {
    "array": lambda rng: np.array([real(rng) for _ in range(4)]),
    "float32": lambda rng: np.array([real(rng) % 1e30 for _ in range(6)], "f").reshape(2, 3),
    "bytes": lambda rng: np.array([rng.randrange(256) for _ in range(5)], "u1"),
    "flags": lambda rng: np.array([rng.random() < 0.5 for _ in range(3)]),
    "large": lambda rng: np.array([rng.randrange(9) for _ in range(70)], "i4"),
    "empty": lambda rng: np.zeros((0, 3)),
    "int": lambda rng: rng.choice([0, 1, -7, 10**15]),
    "huge": lambda rng: rng.choice([2**53 + 1, 2**62, 3]),
    "bool": lambda rng: rng.random() < 0.5,
    "float": real,
    "numpy": lambda rng: np.float32(rng.random()),
    "list": lambda rng: [real(rng) for _ in range(4)],
    "lists": lambda rng: [real(rng) for _ in range(rng.choice([3, 3, 3, 4]))],
    "mixed": lambda rng: [real(rng), rng.randrange(3)],
    "odd": lambda rng: [some_odd(rng) for _ in range(4)],
    "dict": lambda rng: {
        "x": real(rng),
        "n": rng.randrange(3),
        "on": True,
        "a'b/~": (1, real(rng)),
    },
    "keys": lambda rng: {"": real(rng), "ü": real(rng), 7: 1.5},
    "text": lambda rng: {"x": real(rng), "mode": rng.choice("ab")},
    "still": lambda rng: {"x": 1.5, "name": "rod"},
}


class Whole(gym.Env[Any, Any]):
    """An environment with random states."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, make: Make, seed: int) -> None:
        self.rng = random.Random(seed)
        self.make = make
        self.state = make(self.rng)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.state = self.make(self.rng)
        return 0, {}

    def step(self, action: int) -> Any:
        if self.rng.random() < 0.8:
            self.state = self.make(self.rng)
        if self.rng.random() < 0.01:
            raise ValueError("failed")
        return 0, 0.0, self.rng.random() < 0.01, False, {}


def record(folder: Path, make: Make, n_steps: int) -> None:
    options: dict[str, Any] = {"keep_states": "all", "state": lambda env: env.unwrapped.state}
    env = trajrec.record(Whole(make, 1), folder, **options)
    is_over = True
    for _ in range(n_steps):
        if is_over:
            env.reset()
        try:
            is_over = env.step(0)[2]
        except ValueError:
            is_over = False
    env.close()


ORIGIN = ("observed",)


def expected_rows(corpus: trajrec.Corpus) -> list[tuple[Any, ...]]:
    """Return the rows of `state_changes` from the states of each episode, one after another."""
    rows = []
    for episode in corpus.episodes():
        for row, step in enumerate(episode.step_numbers.tolist()):
            for change in diff(episode.states[row], episode.states[row + 1])[:MAX_CHANGES]:
                before, after = to_json(change.before), to_json(change.after)
                path, keys = to_pointer(change.path), to_keys(change.path)
                rows.append(
                    (
                        episode.id,
                        "rollout",
                        step,
                        None,
                        None,
                        "agent",
                        "",
                        path,
                        keys,
                        before,
                        after,
                        *ORIGIN,
                    )
                )
    return sorted(rows, key=repr)


@mostly_deep("index", drawn=6)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", STATES)
def test_changes_are_those_between_the_recorded_states(tmp_path: Path, name: str) -> None:
    # Several chunks, so that the first state of a chunk is compared with the last one before it.
    record(tmp_path, STATES[name], 4_000 if name in ("array", "list", "dict") else 600)
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT * FROM state_changes").fetchall()
        if name != "lists":
            assert sorted(rows, key=repr) == expected_rows(corpus)
            return
        # A list of another length has items that are missing before or after.
        assert {row[:8] for row in rows} == {row[:8] for row in expected_rows(corpus)}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", ["array", "list", "dict", "int"])
def test_states_of_plain_numbers_are_stored_as_numbers(tmp_path: Path, name: str) -> None:
    record(tmp_path, STATES[name], 300)
    with trajrec.open(tmp_path) as corpus:
        counts = "SELECT count(*) FROM stored.state_changes UNION ALL SELECT count(*) FROM stored."
        (n_rows,), (n_numbers,) = corpus._index.rows(counts + NUMERIC_CHANGES.name)
    assert n_rows < 0.1 * n_numbers


@pytest.mark.slow
@third_slow("index")
def test_state_keys_by_column_are_those_of_each_state(tmp_path: Path) -> None:
    for name, make in STATES.items():
        folder = tmp_path / name
        record(folder, make, 60)
        with trajrec.open(folder) as corpus:
            keys = dict(
                corpus.sql("SELECT (episode_id, step)::VARCHAR, state_key FROM steps").fetchall()
            )
            for episode in corpus.episodes():
                for row, step in enumerate(episode.step_numbers.tolist()):
                    state = episode.states[row + 1]
                    assert keys[f"({episode.id}, {step})"] == trajrec.values.digest.state_key(state)


def test_numbers_have_the_texts_of_msgspec() -> None:
    import duckdb

    rng = np.random.default_rng(0)
    numbers = rng.normal(size=20_000) * 10.0 ** rng.integers(-30, 30, 20_000)
    numbers = np.concatenate([numbers, 10.0 ** np.arange(-25, 25), -(10.0 ** np.arange(-25, 25))])
    form = json.dumps([{"path": "", "keys": "[]", "type": "float"}])
    with duckdb.connect() as con:
        con.register("numbers", {"x": numbers})
        con.execute(
            "CREATE TABLE t AS SELECT '' AS episode_id, '' AS kind, 0 AS step, "
            f"1::UBIGINT AS changed, '{form}' AS form, [x] AS before, [x] AS after FROM numbers"
        )
        texts = con.execute(f"SELECT before FROM ({changes_query('t')})").fetchall()
    assert [text for (text,) in texts] == [
        msgspec.json.encode(x).decode() for x in numbers.tolist()
    ]
