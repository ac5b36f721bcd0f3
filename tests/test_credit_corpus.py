"""Credit from many episodes: pooled, in groups and in hindsight; and its tables in the corpus."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import third_slow

import trajrec
import trajrec.envs
from trajrec.corpus.episode import Episode
from trajrec.envs.solved import NoisyKey
from trajrec.errors import QueryError
from trajrec.replay import credit, fork_many
from trajrec.replay.processes.workers import WorkerPool

assert trajrec.envs
COIN = credit.TabularPolicy([[0.5, 0.5]], state=lambda observation: 0)


def record(
    folder: Path, n: int, env_id: str = "trajrec/NoisyKey-v0", **kwargs: Any
) -> list[Episode]:
    """Record episodes of a policy that takes everything with probability 1/2."""
    env = trajrec.record(gym.make(env_id, **kwargs), folder)
    rng = np.random.default_rng(0)
    for seed in range(n):
        observation, _ = env.reset(seed=seed)
        is_over = False
        while not is_over:
            observation, _, terminated, truncated, _ = env.step(COIN.act(observation, rng))
            is_over = terminated or truncated
    env.close()
    return list(trajrec.open(folder).episodes(order_by="number"))


def true_advantages(episode: Episode, env: NoisyKey) -> list[float]:
    """Return the exact advantage of each step."""
    pairs = zip(episode.observation_values, episode.actions, strict=False)
    return [
        env.advantage(step, bool(observation[1]), int(action))
        for step, (observation, action) in enumerate(pairs)
    ]


def flat(tables: list[credit.CreditTable], estimator: str) -> Any:
    return np.array([row.value for table in tables for row in table.of(estimator)])


@pytest.mark.slow
def test_pooled_advantages_correlate_with_the_exact_ones(tmp_path: Path) -> None:
    episodes = record(tmp_path, 12, size=6)
    tables = credit.pooled_advantages(episodes, COIN, n_rollouts=8)
    env = NoisyKey(size=6)
    true = np.concatenate([true_advantages(episode, env) for episode in episodes])
    assert np.corrcoef(flat(tables, "pooled"), true)[0, 1] > 0.98
    rows = [row for table in tables for row in table.of("pooled")]
    covered = [row.ci_low <= t <= row.ci_high for row, t in zip(rows, true, strict=True)]
    assert np.mean(covered) > 0.8
    assert {row.ci_method for row in rows} == {"clustered-t"}


@pytest.mark.slow
def test_pooling_gives_the_same_numbers_in_two_processes(tmp_path: Path) -> None:
    episodes = record(tmp_path, 4, size=4)
    one, two = (
        credit.pooled_advantages(episodes, COIN, n_rollouts=4, jobs=jobs) for jobs in (1, 2)
    )
    assert flat(one, "pooled").tolist() == flat(two, "pooled").tolist()


@pytest.mark.slow
def test_workers_stay_for_all_rounds_and_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WorkerPool[Any, Any]] = []
    start = WorkerPool._start_worker

    def noted(pool: WorkerPool[Any, Any]) -> None:
        started.append(pool)
        start(pool)

    monkeypatch.setattr(WorkerPool, "_start_worker", noted)
    episodes = record(tmp_path, 3, size=4)
    budget = credit.Budget(env_steps=3000)
    credit.pooled_advantages(episodes, COIN, n_rollouts=16, jobs=2, budget=budget)
    assert len(started) == 2
    assert not started[0]._workers


@pytest.mark.slow
def test_pooling_refuses_shared_noise_and_unreadable_states(tmp_path: Path) -> None:
    episodes = record(tmp_path, 2, size=3)
    with pytest.raises(ValueError, match="noise must be 'fresh' for pooled rollouts"):
        credit.pooled_advantages(episodes, COIN, noise="shared")

    class Hidden(gym.Wrapper[Any, Any, Any, Any]):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.secret = object()

    with pytest.raises(ValueError, match=r"use estimate\(\)"):
        credit.pooled_advantages(
            episodes, COIN, env=lambda: Hidden(gym.make("trajrec/NoisyKey-v0", size=3))
        )


class Jammed(gym.Wrapper[Any, Any, Any, Any]):
    """A NoisyKey whose door raises for an agent with the key, or for all."""

    def __init__(self, loses_all: bool = False) -> None:
        super().__init__(NoisyKey(size=3))
        self.loses_all = loses_all

    def step(self, action: Any) -> Any:
        step, has_key = self.unwrapped.get_state()  # type: ignore[attr-defined]
        if step == 3 and (has_key or self.loses_all):
            raise OSError("jammed")
        return super().step(action)


@third_slow("credit")
@pytest.mark.parametrize("restore", ["snapshot", pytest.param("os_fork", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loses_all", [False, True])
def test_pooling_has_a_row_for_a_step_without_results(
    loses_all: bool, restore: Any, tmp_path: Path
) -> None:
    episode = next(episode for episode in record(tmp_path, 4, size=3) if episode.actions[0] == 1)
    make = functools.partial(Jammed, loses_all)
    (table,) = credit.pooled_advantages(
        [episode], COIN, n_rollouts=16, env=make, restore=restore, control=False
    )
    assert [row.step for row in table.of("value")] == [0, 1, 2, 3]
    unknown = [row.step for row in table.of("value") if np.isnan(row.value)]
    assert unknown == ([0, 1, 2, 3] if loses_all else [1, 2, 3])
    assert all(
        (row.n, row.n_invalid, row.ci_high) == (0, 8, np.inf)
        for row in table
        if row.step in unknown
    )
    assert all(np.isnan(row.value) for row in table.of("pooled")[1:])
    assert "OSError: jammed" in "".join(table.notes)


def test_rollouts_without_results_give_no_estimate(tmp_path: Path) -> None:
    episode = next(episode for episode in record(tmp_path, 4, size=3) if episode.actions[0] == 1)
    table = credit.estimate(episode, COIN, n_rollouts=8, env=Jammed, control=False)
    assert [np.isnan(row.value) for row in table.of("value")] == [False, True, True, True]
    assert all(np.isnan(row.value) for row in table.of("advantage"))
    assert table.split is None
    for table in (
        credit.shapley_values(episode, COIN, n_permutations=2, env=Jammed, control=False),
        credit.counterfactual(episode, COIN, 2, n_rollouts=4, env=Jammed, control=False),
    ):
        assert all(np.isnan(row.value) and row.ci_method == "none" for row in table)
        assert "have no result" in "".join(table.notes)
    decision = credit.decisive_step(
        episode,
        COIN,
        n_rollouts=4,
        max_rollouts=4,
        env=functools.partial(Jammed, True),
        control=False,
    )
    assert decision.step is None


@pytest.mark.slow
def test_a_budget_stops_pooling_after_a_round_of_all_episodes(tmp_path: Path) -> None:
    episodes = record(tmp_path, 3, size=3)
    whole = credit.pooled_advantages(episodes, COIN, n_rollouts=2)
    short = credit.pooled_advantages(
        episodes, COIN, n_rollouts=32, budget=credit.Budget(env_steps=1)
    )
    assert [row.value for table in short for row in table] == [
        row.value for table in whole for row in table
    ]
    assert all(table.notes[0].endswith("2 of 32 rollouts a step") for table in short)
    enough = credit.pooled_advantages(
        episodes, COIN, n_rollouts=32, budget=credit.Budget(env_steps=10**6)
    )
    unlimited = credit.pooled_advantages(episodes, COIN, n_rollouts=32)
    assert flat(enough, "pooled") == pytest.approx(flat(unlimited, "pooled"))
    assert [table.notes for table in enough] == [()] * 3


def test_pooling_frees_the_visits_of_an_episode_early(tmp_path: Path) -> None:
    # Number of actions alive after each action was made.
    counts: list[int] = []
    n_dead = 0

    class Action(int):
        def __del__(self) -> None:
            nonlocal n_dead
            n_dead += 1

    def take(observation: Any, rng: np.random.Generator) -> int:
        counts.append(len(counts) + 1 - n_dead)
        return Action(rng.integers(2))

    credit.pooled_advantages(record(tmp_path, 8, size=3), take, n_rollouts=4)
    assert max(counts) < len(counts) / 3


@pytest.mark.slow
def test_group_advantages_follow_their_formulas(tmp_path: Path) -> None:
    episodes = record(tmp_path, 8, size=4)
    returns = np.array([episode.total_reward for episode in episodes])
    fork_many(episodes[0], at=[0], policy=lambda observation: 1, n_branches=4)
    with trajrec.open(tmp_path) as corpus:
        grpo, rloo, gigpo, rtmc = (
            credit.group_advantages(corpus, method) for method in ("grpo", "rloo", "gigpo", "rtmc")
        )
    # Forks are left out.
    assert [table.episode_id for table in grpo] == [episode.id for episode in episodes]
    expected = (returns - returns.mean()) / (returns.std(ddof=1) + 1e-6)
    assert [table[2].value for table in grpo] == pytest.approx(expected.tolist())
    assert [table[0].value for table in rloo] == pytest.approx(
        (8 / 7 * (returns - returns.mean())).tolist()
    )
    # All episodes begin in one state, so GiGPO adds the return less the mean return.
    assert [table[0].value for table in gigpo] == pytest.approx(
        (expected + returns - returns.mean()).tolist()
    )
    first = np.array([int(episode.actions[0]) for episode in episodes])
    for action in (0, 1):
        chosen = returns[first == action]
        q = (chosen.sum() + returns.mean()) / (len(chosen) + 1)
        values = [table[0].value for table, a in zip(rtmc, first, strict=True) if a == action]
        assert values == pytest.approx([q - returns.mean()] * len(chosen))
    assert all(row.ci_low <= row.value <= row.ci_high for table in rtmc for row in table)


@pytest.mark.slow
def test_a_state_of_one_episode_alone_has_no_comparison(tmp_path: Path) -> None:
    episodes = record(tmp_path, 1, size=4)
    with trajrec.open(tmp_path) as corpus:
        (table,) = credit.group_advantages(corpus, "gigpo")
        assert [row.value for row in table] == pytest.approx([0.0] * episodes[0].n_steps)
        assert all(np.isinf(row.ci_high) for row in credit.group_advantages(corpus, "grpo")[0])
        assert credit.group_advantages(corpus, "grpo", where="false") == []
        with pytest.raises(QueryError):
            credit.group_advantages(corpus, "grpo", by="no_such_column")
        with pytest.raises(ValueError, match="method must be"):
            credit.group_advantages(corpus, "other")  # type: ignore[arg-type]


# HCA sees only half of the difference: it cannot count returns that never followed an action.
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("method", "expected"),
    [("hca", 1.25), pytest.param("cocoa", 2.5, marks=pytest.mark.slow), ("rudder", 2.5)],
)
def test_hindsight_credit_of_the_key_is_near_its_worth(
    method: Any, expected: float, tmp_path: Path
) -> None:
    episodes = record(tmp_path, 400, size=3, apple=0.5)
    tables = credit.hindsight_credit(episodes, COIN, method)
    picked, left = (
        [t[0].value for t, e in zip(tables, episodes, strict=True) if int(e.actions[0]) == action]
        for action in (1, 0)
    )
    assert picked[0] - left[0] == pytest.approx(expected, abs=0.5)
    assert all(table[0].ci_low <= table[0].value <= table[0].ci_high for table in tables)


def test_hindsight_needs_probabilities_and_two_episodes(tmp_path: Path) -> None:
    episodes = record(tmp_path, 2, size=3)
    with pytest.raises(ValueError, match="must have dist"):
        credit.hindsight_credit(episodes, lambda observation: 1)
    with pytest.raises(ValueError, match="at least 2"):
        credit.hindsight_credit(episodes[:1], COIN)
    never = credit.TabularPolicy(np.ones((1, 1)), state=lambda _: 0)
    with pytest.raises(ValueError, match="1 probabilities, and none of the recorded action 1"):
        credit.hindsight_credit(episodes, never)


class FromTwo(gym.Env[Any, Any]):
    """Its actions are 2 and 3."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(2, start=2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        return 0, float(action == 3), True, False, {}


def test_hindsight_refuses_actions_that_begin_elsewhere(tmp_path: Path) -> None:
    with trajrec.record(FromTwo(), tmp_path) as env:
        for action in (2, 3):
            env.reset(seed=0)
            env.step(action)
    # The probabilities of four actions would be read at the wrong places.
    policy = credit.TabularPolicy([[0.1, 0.2, 0.3, 0.4]], state=lambda _: 0)
    with trajrec.open(tmp_path) as corpus:
        episodes = list(corpus.episodes())
        with pytest.raises(ValueError, match=r"from 0 on; .* of Discrete\(2, start=2\)"):
            credit.hindsight_credit(episodes, policy)


@pytest.mark.slow
def test_sql_returns_each_run_of_credit_and_the_latest(tmp_path: Path) -> None:
    (episode,) = record(tmp_path, 1, size=4)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM credit").fetchall() == [(0,)]
        table = credit.estimate(episode, COIN, n_rollouts=8)
        query = (
            "SELECT step, value, ci_low, ci_high FROM credit "
            "WHERE episode_id = ? AND estimator = 'advantage' ORDER BY value LIMIT 5"
        )
        worst = sorted(table.of("advantage"), key=lambda row: row.value)[:5]
        rows = corpus.sql(query, params=[episode.id]).fetchall()
        assert [row[1:] for row in rows] == [(row.value, row.ci_low, row.ci_high) for row in worst]
        credit.estimate(episode, COIN, n_rollouts=16)
        assert corpus.sql("SELECT count(DISTINCT run_id) FROM credit").fetchall() == [(2,)]
        latest = "SELECT DISTINCT n FROM latest_credit WHERE estimator = 'advantage'"
        assert corpus.sql(latest).fetchall() == [(16,)]
        rollouts = (
            "SELECT fork_step, arm, count(*), avg(episode_return) FROM rollouts "
            "WHERE run_id = ? GROUP BY ALL ORDER BY ALL"
        )
        by_arm = corpus.sql(rollouts, params=[table.run_id]).fetchall()
        assert [row[:3] for row in by_arm] == [
            (k, arm, 8) for k in range(5) for arm in ("action", "value")
        ]
        assert by_arm[1][3] == pytest.approx(table.of("value")[0].value)
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(1,)]
    # Opened again, the corpus reads the index file.
    with trajrec.open(tmp_path) as reopened:
        assert reopened.sql("SELECT count(DISTINCT run_id) FROM credit").fetchall() == [(2,)]
    unstored = credit.estimate(episode, COIN, n_rollouts=4, folder=None)
    with trajrec.open(tmp_path) as reopened:
        query = "SELECT count(*) FROM credit WHERE run_id = ?"
        assert reopened.sql(query, params=[unstored.run_id]).fetchall() == [(0,)]


@pytest.mark.slow
def test_branches_name_their_parent_and_root(tmp_path: Path) -> None:
    (episode,) = record(tmp_path, 1, size=6)
    (branch,) = fork_many(episode, at=[2], policy=lambda observation: 1)
    with trajrec.open(tmp_path) as corpus:
        assert branch.episode_id is not None
        (inner,) = fork_many(
            corpus.episode(branch.episode_id), at=[4], policy=lambda observation: 0
        )
        rows = corpus.sql(
            "SELECT episode_id, parent_id, root_id, depth, fork_step FROM branches ORDER BY depth"
        ).fetchall()
    assert rows == [
        (branch.episode_id, episode.id, episode.id, 1, 2),
        (inner.episode_id, branch.episode_id, episode.id, 2, 4),
    ]
