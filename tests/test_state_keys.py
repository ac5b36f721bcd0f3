"""Keys of states: 64 bits that tell states apart, beside checks of 24 bits that do not."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tiers import examples

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.errors import StateUnknownError
from trajrec.log.compaction import compact
from trajrec.replay import credit, fork_many, replay_episode
from trajrec.replay.credit.estimators.visits import recorded_keys
from trajrec.replay.credit.sampling.state_key import StateKey
from trajrec.replay.differences import first_difference
from trajrec.replay.execute.handle import EnvHandle
from trajrec.values import codec
from trajrec.values.digest import (
    CHECK_BYTES,
    KEY_BYTES,
    pack_digests,
    state_check,
    state_key,
    unpack_digests,
)


@functools.cache
def colliding() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return two different states with the same check of 24 bits."""
    rng = np.random.default_rng(0)
    states: dict[int, np.ndarray[Any, Any]] = {}
    while True:
        state = rng.normal(size=2)
        other = states.setdefault(state_check(state), state)
        if other is not state:
            return other, state


class Twins(gym.Env[Any, Any]):
    """Action 1 leads to a state that pays 1, action 0 to its twin with the same check.

    The seed decides between the twins for the state after the reset.
    """

    observation_space = gym.spaces.Discrete(9)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        self.twin = (seed or 0) % 2
        return 0, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        reward = float(self.twin) if self.t > 1 else 0.0
        self.twin = int(action)
        return 0, reward, self.t >= 4, False, {}


def twin(env: Any) -> np.ndarray[Any, Any]:
    bare = env.unwrapped
    return colliding()[bare.twin != (isinstance(bare, Swapped) and bare.t == 2)]


class Swapped(Twins):
    """Is in the other twin after its second step."""


def record(folder: Path, keep_states: Any, n: int = 6) -> list[Episode]:
    with trajrec.record(Twins(), folder, state=twin, keep_states=keep_states) as env:
        for seed in range(n):
            env.reset(seed=seed)
            for t in range(4):
                # Another sequence of actions in each episode.
                env.step(seed >> t & 1)
    return list(trajrec.open(folder).episodes(order_by="number"))


def test_two_states_may_have_one_check_and_never_one_key() -> None:
    a, b = colliding()
    assert state_check(a) == state_check(b)
    assert state_key(a) != state_key(b)


numbers = npst.arrays(
    st.sampled_from([np.int8, np.int64, np.uint8, np.float32, np.float64, ">f8", "M8[s]", "?"]),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


@examples(
    "log",
    numbers | st.integers() | st.text(max_size=3) | st.dictionaries(st.text(max_size=2), numbers),
    fixed=100,
    drawn=500,
    whole=20_000,
)
def test_a_key_is_the_start_of_the_digest_of_the_encoding(state: Any) -> None:
    assert f"{state_key(state):016x}" == codec.digest(state)[:16]
    if isinstance(state, np.ndarray) and state.ndim:
        assert state_key(state[::-1]) == state_key(state[::-1].copy())


def test_keys_tell_dtypes_and_shapes_apart() -> None:
    zeros = [np.zeros(4), np.zeros((2, 2)), np.zeros(8, np.float32), np.zeros(4, np.int64)]
    assert len({state_check(state) for state in zeros}) == 1
    assert len({state_key(state) for state in zeros}) == len(zeros)


@pytest.mark.parametrize(("n_bytes", "top"), [(CHECK_BYTES, 2**24), (KEY_BYTES, 2**64)])
def test_packed_digests_come_back(n_bytes: Any, top: int) -> None:
    digests = [0, 1, 255, top // 3, top - 1]
    rows = pack_digests(digests, n_bytes)
    assert (rows.shape, rows.dtype) == ((5, n_bytes), np.uint8)
    assert unpack_digests(rows).tolist() == digests
    assert unpack_digests(pack_digests([], n_bytes)).tolist() == []
    with pytest.raises(ValueError, match="3 or 8 bytes"):
        unpack_digests(np.zeros((2, 5), np.uint8))


@pytest.mark.slow
def test_sql_has_keys_of_all_states_or_of_none(tmp_path: Path) -> None:
    counts = {}
    for keep_states in ("auto", "keys", "all", "digests"):
        record(tmp_path / keep_states, keep_states)
        with trajrec.open(tmp_path / keep_states) as corpus:
            counts[keep_states] = corpus.sql(
                "SELECT count(*), count(state_key), count(DISTINCT state_key), count(state_check), "
                "count(DISTINCT state_check) FROM steps"
            ).fetchall()[0]
            # Reset states are stored whole, so their keys are known in any case.
            assert corpus.sql("SELECT count(DISTINCT reset_key) FROM episodes").fetchall() == [(2,)]
    # A state that a function returns is stored whole by default.
    assert counts["auto"] == counts["keys"] == counts["all"] == (24, 24, 2, 0, 0)
    assert counts["digests"] == (24, 0, 0, 24, 1)


def record_pendulum(folder: Path, keep_states: Any) -> Episode:
    with trajrec.record(gym.make("Pendulum-v1"), folder, keep_states=keep_states) as env:
        env.reset(seed=1)
        for k in range(200):
            env.step(np.array([k / 100 - 1], np.float32))
    (episode,) = trajrec.open(folder).episodes()
    return episode


@pytest.mark.slow
def test_keys_of_large_states_are_stored_in_place_of_checks(tmp_path: Path) -> None:
    checked = record_pendulum(tmp_path / "auto", "auto")
    keyed = record_pendulum(tmp_path / "keys", "keys")
    whole = record_pendulum(tmp_path / "all", "all")
    assert [episode.header.state.keep for episode in (checked, keyed, whole)] == [
        "digest",
        "key",
        "every",
    ]
    assert checked.state_keys is None
    assert keyed.state_keys is not None
    assert whole.state_keys is not None
    assert keyed.state_keys.tolist() == whole.state_keys.tolist()
    assert keyed.state_digests.tolist() == keyed.state_keys.tolist()  # type: ignore[union-attr]
    # As few states are whole as with checks.
    assert keyed.states.keys() == checked.states.keys()
    for episode in (checked, keyed, whole):
        assert replay_episode(episode).grade == "exact"
    assert first_difference(checked, keyed) == first_difference(keyed, whole) == []
    with pytest.raises(StateUnknownError, match="only the digest of this state is stored"):
        keyed.state(3)
    compact(keyed.path)
    (compacted,) = trajrec.open(tmp_path / "keys").episodes()
    assert compacted.state_keys.tolist() == whole.state_keys.tolist()  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_check_may_miss_a_state_that_is_seen_whole(tmp_path: Path) -> None:
    checked = record(tmp_path / "digests", "digests", 1)[0]
    whole = record(tmp_path / "keys", "keys", 1)[0]
    options: dict[str, Any] = {"state": twin, "explain": False}
    for episode in (checked, whole):
        assert replay_episode(episode, env=Twins, **options).grade == "exact"
    assert replay_episode(checked, env=Swapped, **options).grade == "exact"
    report = replay_episode(whole, env=Swapped, **options)
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.field) == (1, "state/0")


class Nudged(PendulumEnv):
    """Its state differs by one unit in the last place, after some steps, which no one observes."""

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.state[0] > 3:
            self.state[0] = np.nextafter(self.state[0], 9)
        return result


@pytest.mark.slow
def test_a_replay_compares_by_the_digests_of_its_log(tmp_path: Path) -> None:
    for keep_states, n_digits in (("auto", 6), ("keys", 16)):
        episode = record_pendulum(tmp_path / keep_states, keep_states)
        for resync in (False, True):
            report = replay_episode(episode, env=Nudged, explain=False, resync=resync)
            assert report.divergence is not None
            assert report.divergence.field == "state"
            assert len(report.divergence.expected) == len("digest ") + n_digits


@pytest.mark.slow
def test_groups_of_states_are_refused_without_keys(tmp_path: Path) -> None:
    record(tmp_path / "digests", "digests")
    record(tmp_path / "keys", "keys")
    with trajrec.open(tmp_path / "digests") as corpus:
        for method in ("gigpo", "rtmc"):
            with pytest.raises(ValueError, match=r"6 episodes .* keep_states='keys'"):
                credit.group_advantages(corpus, method)
        assert len(credit.group_advantages(corpus, "grpo")) == 6
        assert credit.group_advantages(corpus, "rtmc", where="false") == []
    with trajrec.open(tmp_path / "keys") as corpus:
        tables = {table.episode_id: table for table in credit.group_advantages(corpus, "rtmc")}
        worth = {
            (episode.id, step): episode.states[step]
            for episode in corpus.episodes()
            for step in range(4)
        }
    assert {len(table) for table in tables.values()} == {4}
    assert len({state.tobytes() for state in worth.values()}) == 2


@pytest.mark.slow
def test_the_command_line_says_how_to_get_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, "digests")
    assert main(["credit", str(tmp_path), "--group"]) == 2
    assert "keep_states='keys'" in capsys.readouterr().err
    assert main(["credit", str(tmp_path), "--group", "rloo"]) == 0


@pytest.mark.slow
def test_default_groups_tell_twin_reset_states_apart(tmp_path: Path) -> None:
    for keep_states in ("digests", "keys"):
        episodes = record(tmp_path / keep_states, keep_states)
        with trajrec.open(tmp_path / keep_states) as corpus:
            tables = credit.group_advantages(corpus, "rloo")
        for table in tables:
            seed = next(e.start.seed for e in episodes if e.id == table.episode_id)  # type: ignore[union-attr]
            assert table[0].n == 3, (keep_states, seed)


@pytest.mark.slow
def test_hindsight_tells_twins_apart(tmp_path: Path) -> None:
    keyed = record(tmp_path / "keys", "keys")
    assert len({key for keys in recorded_keys(keyed) for key in keys}) == 2
    checked = record(tmp_path / "digests", "digests")
    # By what was observed, not by checks.
    observed = {codec.encode(episode.observation_values[0]) for episode in checked}
    assert {key for keys in recorded_keys(checked) for key in keys} == observed
    assert all(isinstance(key, bytes) for keys in recorded_keys([*keyed, *checked]) for key in keys)


@pytest.mark.slow
def test_a_branch_does_not_rejoin_at_a_twin(tmp_path: Path) -> None:
    for keep_states, expected in (("digests", [None, None]), ("keys", [None, 2])):
        episode = record(tmp_path / keep_states, keep_states, 1)[0]
        branches = [
            fork_many(
                episode, at=[2], actions=[action], env=Twins, state=twin, folder=None, max_steps=1
            )[0]
            for action in (1, 0)
        ]
        assert [branch.rejoined_at for branch in branches] == expected


class Signs(Twins):
    """Actions lead to values that Python takes for equal."""

    values: tuple[Any, ...] = (0.0, -0.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.value: Any = self.values[0]
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.value = self.values[int(action)]
        self.twin = 0
        obs, _, *rest = super().step(0)
        return obs, float(repr(self.value) == repr(self.values[1])), *rest


@pytest.mark.parametrize("values", [(0.0, -0.0), (1, True), (1, 1.0), ((0.0, 1), (0.0, True))])
def test_rollouts_are_not_merged_at_values_that_are_only_equal(
    values: tuple[Any, ...],
) -> None:
    class Env(Signs):
        pass

    Env.values = values
    env = Env()
    keys = []
    for action in (0, 1, 0):
        env.reset(seed=0)
        env.step(action)
        keys.append(StateKey(EnvHandle(env, None, None), {id(env.np_random)}, own_state=False)())
    assert keys[0] == keys[2] != keys[1]
