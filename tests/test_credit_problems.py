"""Estimators of credit against problems with exact answers; `benchmarks.credit` has the criteria.

The problems have fixed seeds, so a slow test is the same at each run. The coverage of intervals has
drawn seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from tiers import Share, spread, suite

from trajrec.replay import credit

pytestmark = pytest.mark.sources


def assert_all_hold(criteria: Iterable[Any]) -> None:
    """Check that each criterion of a problem holds; name those that do not."""
    checked = list(criteria)
    assert len(checked) >= 2
    assert [str(criterion) for criterion in checked if not criterion.holds] == []


@pytest.mark.slow
@suite("credit", fixed=100, drawn=400, whole=1000)
def test_values_on_slippery_ice_match_dynamic_programming(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p1(share.size))


@suite("credit", fixed=0, drawn=120, whole=400)
def test_nothing_on_firm_ice_is_luck(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p2(share.size))


@suite("credit", fixed=0, drawn=120, whole=600)
def test_shared_noise_lowers_the_variance_in_taxi(share: Share) -> None:
    from benchmarks.credit import tabular

    assert_all_hold(tabular.p3(share.size))


@suite("credit", fixed=0, drawn=240, whole=500)
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


@pytest.mark.slow
@suite("credit", fixed=1000, drawn=3000, whole=20_000)
def test_a_key_is_worth_two_and_a_half(share: Share) -> None:
    from benchmarks.credit import games

    assert_all_hold(games.p5(share.size))


@suite("credit", fixed=0, drawn=24, whole=150)
def test_the_searches_find_the_fault_in_a_chain(share: Share) -> None:
    from benchmarks.credit import faults

    assert_all_hold(faults.p6(share.size, longest=256 if share.is_whole else 64))


@pytest.mark.parametrize("rule", spread("credit", ["pivot", "and", "or"], drawn=1))
def test_shapley_values_of_switches_match_enumeration(rule: str) -> None:
    from benchmarks.credit import games

    assert_all_hold(games.p7(150, rules=[rule]))


def test_the_bank_blames_the_choice_with_its_probability() -> None:
    from benchmarks.credit import tools

    assert_all_hold(tools.bank())


@suite("credit", fixed=0, drawn=12, whole=50)
def test_one_fault_in_a_task_of_the_shop_is_named(share: Share) -> None:
    from benchmarks.credit import tools

    assert_all_hold(tools.shop(share.size))


@suite("credit", fixed=100, drawn=300, whole=5000)
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
