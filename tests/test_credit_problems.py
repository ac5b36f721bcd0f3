"""Estimators of credit against problems with exact answers; `benchmarks.credit` has the criteria.

The problems have fixed seeds, so a slow test is the same at each run. The coverage of intervals has
drawn seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from tiers import Share, deep, suite, third_slow

from trajrec.replay import credit

pytestmark = pytest.mark.sources


def assert_all_hold(criteria: Iterable[Any]) -> None:
    """Check that each criterion of a problem holds; name those that do not."""
    checked = list(criteria)
    assert len(checked) >= 2
    assert [str(criterion) for criterion in checked if not criterion.holds] == []


@suite("credit", fixed=0, drawn=400, whole=1000)
def test_values_on_slippery_ice_match_dynamic_programming(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p1(share.size))


@suite("credit", fixed=0, drawn=120, whole=400)
def test_nothing_on_firm_ice_is_luck(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p2(share.size))


@suite("credit", fixed=0, drawn=60, whole=600)
def test_shared_noise_lowers_the_variance_in_taxi(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p3(share.size))


@suite("credit", fixed=0, drawn=100, whole=500)
def test_values_of_cut_rollouts_match_the_cut(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p4(share.size))


@suite("credit", fixed=0, drawn=300, whole=1200)
def test_recorded_noise_gives_counterfactual_values(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p8(share.size))


@suite("credit", fixed=100, drawn=400, whole=3000)
def test_skill_and_luck_add_up_to_the_return(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p9(share.size))


@suite("credit", fixed=0, drawn=1500, whole=20_000)
def test_a_key_is_worth_two_and_a_half(share: Share) -> None:
    from benchmarks.credit import games

    assert_all_hold(games.p5(share.size))


@suite("credit", fixed=0, drawn=6, whole=150)
def test_the_searches_find_the_fault_in_a_chain(share: Share) -> None:
    from benchmarks.credit import faults

    assert_all_hold(faults.p6(share.size, longest=256 if share.is_whole else 64))


@deep("credit")
def test_the_decisive_step_of_planted_faults_is_named() -> None:
    from benchmarks.credit.planted import planted

    assert_all_hold(planted())


@pytest.mark.slow
@third_slow("credit")
def test_shapley_values_of_a_switch_match_enumeration() -> None:
    from benchmarks.credit import games

    assert_all_hold(games.p7(40, rules=["pivot"]))


@deep("credit")
def test_shapley_values_of_each_rule_match_enumeration() -> None:
    from benchmarks.credit import games

    assert_all_hold(games.p7(150))


def test_the_bank_blames_the_choice_with_its_probability() -> None:
    from benchmarks.credit import tools

    assert_all_hold(tools.bank())


@suite("credit", fixed=0, drawn=3, whole=50)
def test_one_fault_in_a_task_of_the_shop_is_named(share: Share) -> None:
    from benchmarks.credit import tools

    assert_all_hold(tools.shop(share.size))


@suite("credit", fixed=0, drawn=8, whole=24)
def test_pooled_intervals_cover_near_a_time_limit(share: Share) -> None:
    import functools

    import gymnasium as gym

    from benchmarks.credit.truths import best_q, is_covered, model_of, record, states, truth_of

    limit = 20
    make: Any = functools.partial(gym.make, "FrozenLake-v1", max_episode_steps=limit)
    model = model_of(make())
    policy = credit.TabularPolicy.greedy(best_q(model), 0.3)
    truth = truth_of(model, policy, limit)
    covered = []
    for k in range(share.size):
        episodes = record(make, policy, 6, seed=share.seed + k)
        tables = credit.pooled_advantages(episodes, policy, env=make, seed=k, folder=None)
        for episode, table in zip(episodes, tables, strict=True):
            visited = states(episode)
            covered += [
                is_covered(row, float(truth.values[row.step, visited[row.step]]))
                for row in table.of("value")
            ]
    # The rows of a run share its rollouts, so the margin is wide: of 24 runs the worst covered 88 %,
    # and all of them 95 %.
    assert sum(covered) / len(covered) >= 0.88


@suite("credit", fixed=0, drawn=20, whole=300)
def test_no_cell_of_random_processes_covers_too_little(share: Share) -> None:
    from benchmarks.credit.coverage import coverage

    sizes = (8, 16, 64) if share.is_whole else (8,)
    criteria = list(
        coverage(share.size, sizes=sizes, seed=share.seed % 10_000, families=("gauss", "rare"))
    )
    if share.is_whole:
        assert_all_hold(criteria)
    # 320 intervals, eight of an episode each, tell a cell of 0.80 from one of 0.95.
    assert all(criterion.measured >= 0.88 for criterion in criteria)


@suite("credit", fixed=50, drawn=300, whole=5000)
def test_intervals_of_values_cover_the_truth(share: Share) -> None:
    from benchmarks.credit.tabular import covers, failed
    from benchmarks.credit.truths import record, states, toy

    make, truth = toy("FrozenLake-v1", 0.1)
    recorded = record(make, truth.policy, max(20, share.size // 4), seed=share.seed)
    rows: list[Any] = []
    truths: list[float] = []
    for k, episode in enumerate(failed(recorded, share.size)):
        table = credit.estimate(
            episode,
            truth.policy,
            estimator="value",
            n_rollouts=16,
            noise="fresh",
            seed=share.seed + k,
        )
        values = table.of("value")
        rows += values
        truths += [
            float(truth.values[row.step, state])
            for row, state in zip(values, states(episode), strict=False)
        ]
    assert len(rows) >= share.size
    # The bar of the benchmark, less five standard errors: the seed is another at each run.
    margin = 5 * math.sqrt(0.93 * 0.07 / len(rows))
    assert covers(rows, truths) >= 0.93 - margin
