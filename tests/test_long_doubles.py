"""Long doubles: bytes that are no part of their value tell nothing apart."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from compare_readers import compare_log

import trajrec
from trajrec.replay import fork_many, replay_episodes
from trajrec.values.diff import diff
from trajrec.values.digest import array_keys, state_check, state_key
from trajrec.values.shown import short_pair

LENGTH = 20
SIZE = np.dtype(np.longdouble).itemsize

pytestmark = pytest.mark.skipif(
    SIZE == 8 or np.finfo(np.longdouble).nmant != 63,
    reason="on this machine all bytes of a long double are part of its value",
)


def soiled(values: Any) -> Any:
    """Return an array of long doubles with random bytes where no value is."""
    array = np.array(values, np.longdouble)
    parts = array.view(np.uint8).reshape(-1, SIZE)
    parts[:, 10:] = np.random.default_rng().integers(1, 255, (len(parts), SIZE - 10))
    return array


class Soiled(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.longdouble)  # type: ignore[type-var]
    action_space = gym.spaces.Discrete(2)
    place = "whole"

    def look(self) -> Any:
        return soiled([self.t, self.t**0.5, 1 / (1 + self.t)])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {"x": self.look()}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.look(), self.look()[1], self.t >= LENGTH, False, {"x": self.look()}

    def get_state(self) -> Any:
        whole = self.look()
        return whole if self.place == "whole" else {"deep": [whole], "number": whole[1]}

    def set_state(self, state: Any) -> None:
        self.t = int(state[0] if self.place == "whole" else state["deep"][0][0])


class Deep(Soiled):
    place = "deep"


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("keep", ["auto", "keys", "all", "digests"])
@pytest.mark.parametrize("make", [Soiled, Deep])
def test_states_of_long_doubles_are_the_same_again(make: Any, keep: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = trajrec.record(make(), tmp_path, keep_states=keep)
    for seed in range(2):
        env.reset(seed=seed)
        while not env.step(1)[2]:
            pass
    env.close()
    (path,) = tmp_path.glob("*.trj")
    assert compare_log(path).differences == []
    with trajrec.open(tmp_path) as corpus:
        reports = list(replay_episodes(corpus.episodes(), env=make))
        assert [str(report.divergence or report.grade) for report in reports] == ["exact"] * 2
        column = "state_check" if keep == "digests" else "state_key"
        query = f"SELECT count(DISTINCT {column}) FROM steps"
        assert corpus.sql(query).fetchall() == [(LENGTH,)]
        first = next(corpus.episodes())
        whole = first.state(0) if make is Soiled else first.state(0)["deep"][0]
        assert whole.tolist() == [0, 0, 1]
        assert len(fork_many(first, at=[3], policy="random", n_branches=2, env=make)) == 2


def test_digests_and_changes_look_at_values_alone() -> None:
    values = [1.5, -0.0, 7]
    a, b = soiled(values), soiled(values)
    assert a.tobytes() != b.tobytes()
    for digest in (state_check, state_key):
        assert digest(a) == digest(b) == digest(np.array(values, np.longdouble))
        assert digest(a) != digest(soiled([1.5, 0.0, 7]))
    assert array_keys(np.stack([a, b])).tolist() == [state_key(a)] * 2
    assert list(diff(a, b)) == []
    (change,) = diff(a, soiled([1.5, -0.0, 8]))
    assert (change.path, change.after) == ((2,), 8)
    many, other = soiled(np.zeros(2000)), soiled(np.zeros(2000))
    other[1000] = 1
    assert "(1000,)" in short_pair(many, other)[0]
