"""P1 to P4, P8 and P9: values and advantages by rollouts, against dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.credit.truths import Criterion, Truth, at_least, at_most, record, states, toy
from trajrec.corpus.episode import Episode
from trajrec.replay.credit import CreditTable, estimate


def covers(rows: Sequence[Any], truths: Sequence[float]) -> float:
    """Return the share of intervals that have the truth in them."""
    return float(
        np.mean(
            [
                row.ci_low - 1e-9 <= truth <= row.ci_high + 1e-9
                for row, truth in zip(rows, truths, strict=True)
            ]
        )
    )


def clustered_bias(errors: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean error and its standard error, by episode."""
    sums, counts = np.array([sum(e) for e in errors]), np.array([len(e) for e in errors])
    bias = sums.sum() / counts.sum()
    residuals = sums - bias * counts
    n = len(errors)
    return float(bias), math.sqrt(float((residuals**2).sum()) * n / (n - 1)) / float(counts.sum())


def value_criteria(
    name: str, truth: Truth, episodes: list[Episode], n: int, seed: int = 0
) -> list[Criterion]:
    """Scan episodes for V with fresh noise and compare with the truth."""
    rows, truths, errors = [], [], []
    for k, episode in enumerate(episodes):
        found = estimate(
            episode, truth.policy, estimator="value", n_rollouts=n, noise="fresh", seed=seed + k
        ).of("value")
        true = [
            float(truth.values[row.step, s]) for row, s in zip(found, states(episode), strict=False)
        ]
        rows += found
        truths += true
        errors.append([row.value - t for row, t in zip(found, true, strict=True)])
    true_array = np.array(truths)
    rmse = math.sqrt(float(np.mean(np.concatenate([np.array(e) for e in errors]) ** 2)))
    theory = math.sqrt(float(np.mean(true_array * (1 - true_array))) / n)
    bias, se = clustered_bias(errors)
    return [
        at_least(f"{name}: cases", len(rows), 0),
        at_least(f"{name}: {rows[0].ci_method} covers V", covers(rows, truths), 0.93),
        at_most(
            f"{name}: RMSE against theory, relative",
            abs(rmse / theory - 1) if theory else 0.0,
            0.10,
        ),
        at_most(f"{name}: |bias| in SE, by episode", abs(bias) / se if se else 0.0, 3.0),
    ]


def failed(episodes: list[Episode], cases: int) -> list[Episode]:
    """Return lost episodes, until they have so many steps."""
    found, n = [], 0
    for episode in episodes:
        if episode.total_reward <= 0 and n < cases:
            found.append(episode)
            n += episode.n_steps
    return found


def p1(cases: int = 1000) -> list[Criterion]:
    """FrozenLake, slippery, failed episodes."""
    make, truth = toy("FrozenLake-v1", 0.1)
    return value_criteria(
        "P1 slippery", truth, failed(record(make, truth.policy, cases // 5), cases), 16
    )


def p2(cases: int = 400) -> list[Criterion]:
    """FrozenLake, deterministic: there is no luck."""
    make, truth = toy("FrozenLake-v1", 0.3, is_slippery=False)
    episodes = failed(record(make, truth.policy, cases // 3 + 40, seed=2), cases)
    found = value_criteria("P2 deterministic", truth, episodes, 16)
    rows, truths, luck, fresh, shared = [], [], [], [], []
    for k, episode in enumerate(episodes):
        table = estimate(episode, truth.policy, n_rollouts=64, seed=k)
        rows += table.of("advantage")
        truths += [
            truth.advantage(r.step, s, int(r.action))
            for r, s in zip(table.of("advantage"), states(episode), strict=False)
        ]
        luck += [abs(row.value) for row in table.of("luck")]
        shared += [row.value for row in table.of("value")]
        fresh += [
            row.value
            for row in estimate(
                episode, truth.policy, n_rollouts=64, seed=k, noise="fresh", estimator="value"
            )
        ]
    difference = np.array(fresh) - np.array(shared)
    return [
        *found,
        at_least("P2 deterministic: bonett-price covers A", covers(rows, truths), 0.93),
        at_most("P2 deterministic: largest luck", max(luck), 0.0),
        at_most("P2 deterministic: mean of fresh - shared V", abs(float(difference.mean())), 0.02),
    ]


def p3(cases: int = 600) -> list[Criterion]:
    """Taxi, in units of return."""
    make, truth = toy("Taxi-v4", 0.2)
    episodes, n = [], 0
    for episode in record(make, truth.policy, cases // 12 + 2, seed=3):
        if n < cases:
            episodes.append(episode)
            n += episode.n_steps
    v_rows, v_true, a_rows, a_true = [], [], [], []
    shared_sq, fresh_sq = [], []
    for k, episode in enumerate(episodes):
        table = estimate(episode, truth.policy, n_rollouts=64, seed=k)
        other = estimate(episode, truth.policy, n_rollouts=64, seed=k, noise="fresh")
        true_v = [float(truth.values[step, s]) for step, s in enumerate(states(episode)[:-1])]
        true_a = [
            truth.advantage(step, s, int(a))
            for step, (s, a) in enumerate(zip(states(episode), episode.actions, strict=False))
        ]
        v_rows += other.of("value")
        v_true += true_v
        a_rows += table.of("advantage")
        a_true += true_a
        shared_sq += [
            (row.value - t) ** 2 for row, t in zip(table.of("advantage"), true_a, strict=True)
        ]
        fresh_sq += [
            (row.value - t) ** 2 for row, t in zip(other.of("advantage"), true_a, strict=True)
        ]
    return [
        at_least("P3 Taxi: cases", len(v_rows), 0),
        at_least("P3 Taxi: augmented t covers V at n=64", covers(v_rows, v_true), 0.92),
        at_least("P3 Taxi: augmented t covers A at n=64", covers(a_rows, a_true), 0.90),
        at_least(
            "P3 Taxi: variance of A, fresh / shared",
            float(np.mean(fresh_sq) / np.mean(shared_sq)),
            3.0,
        ),
    ]


def p4(cases: int = 500) -> list[Criterion]:
    """CliffWalking, which sets no limit itself: rollouts are cut, and the truth is that of the cut."""
    found = []
    for is_slippery in (False, True):
        limit = 60
        make, truth = toy("CliffWalking-v1", 0.3, limit, is_slippery=is_slippery)
        episodes = record(make, truth.policy, max(4, cases // limit), seed=4, max_steps=limit)
        rows, truths, errors = [], [], []
        for k, episode in enumerate(episodes):
            table = estimate(
                episode,
                truth.policy,
                estimator="value",
                n_rollouts=64,
                noise="fresh",
                seed=k,
                max_steps=limit,
            )
            true = [
                float(truth.values[row.step, s])
                for row, s in zip(table, states(episode), strict=False)
            ]
            rows += list(table)
            truths += true
            errors.append([row.value - t for row, t in zip(table, true, strict=True)])
        bias, se = clustered_bias(errors)
        name = "P4 CliffWalking" + (" slippery" if is_slippery else "")
        found += [
            at_least(f"{name}: augmented t covers V at n=64", covers(rows, truths), 0.92),
            at_most(f"{name}: |bias| in SE, by episode", abs(bias) / se, 3.0),
        ]
    return found


def p8(cases: int = 1200) -> list[Criterion]:
    """The environment's noise as it was recorded: what would have come of other actions, given what happened."""
    make, truth = toy("FrozenLake-v1", 0.1)
    episodes = failed(record(make, truth.policy, cases // 5, seed=8), cases)
    env = make()
    table = env.unwrapped.P
    policy = np.array([truth.policy.dist(s) for s in range(len(table))])
    rows, truths, fresh_truths = [], [], []
    for k, episode in enumerate(episodes):
        counterfactual = frozen_values(episode, make(), table, policy, truth)
        # Steps of one episode with one root have the policy's noise in common: the bias is looked for, so each has its own.
        found = []
        for step in range(episode.n_steps):
            found += estimate(
                episode,
                truth.policy,
                estimator="value",
                n_rollouts=16,
                noise="recorded",
                seed=1000 * k + step,
                steps=[step],
            )
        rows += found
        truths += [
            float(counterfactual[row.step, s])
            for row, s in zip(found, states(episode), strict=False)
        ]
        fresh_truths += [
            float(truth.values[row.step, s]) for row, s in zip(found, states(episode), strict=False)
        ]
    errors = np.array([row.value for row in rows]) - np.array(truths)
    shift = np.array(truths) - np.array(fresh_truths)
    return [
        at_least("P8 recorded noise: cases", len(rows), 0),
        at_least(
            "P8 recorded noise: Wilson covers the counterfactual V", covers(rows, truths), 0.93
        ),
        at_most("P8 recorded noise: |bias|", abs(float(errors.mean())), 0.01),
        at_most(
            "P8 recorded noise: mean counterfactual - interventional V, on failed episodes",
            float(shift.mean()),
            0.0,
        ),
    ]


def frozen_values(episode: Episode, env: Any, table: Any, policy: Any, truth: Truth) -> Any:
    """Return V[t, s] where the environment draws at step t what it drew when the episode was recorded."""
    env.reset(seed=episode.start.seed)  # type: ignore[union-attr]
    draws = []
    for action in episode.actions:
        state = env.unwrapped.np_random.bit_generator.state
        draws.append(np.random.Generator(type(env.unwrapped.np_random.bit_generator)()))
        draws[-1].bit_generator.state = state
        env.step(action)
    values = truth.values.copy()
    for step in reversed(range(len(draws))):
        u = draws[step].random()
        for s in range(len(table)):
            value = 0.0
            for a in range(policy.shape[1]):
                cumulated = np.cumsum([p for p, *_ in table[s][a]])
                _, after, reward, is_over = table[s][a][int(np.argmax(cumulated > u))]
                value += policy[s, a] * (reward + (0.0 if is_over else values[step + 1, after]))
            values[step, s] = value
    return values


def p9(n: int = 3000) -> list[Criterion]:
    """Skill and luck: R - V(s0) is their sum, exactly, with the true values and with estimates that share them."""
    make, truth = toy("FrozenLake-v1", 0.3)
    episodes = record(make, truth.policy, n, seed=9)
    worst = 0.0
    for episode in episodes:
        s = states(episode)
        skill = sum(truth.advantage(k, s[k], int(a)) for k, a in enumerate(episode.actions))
        luck = 0.0
        for k, a in enumerate(episode.actions):
            is_last = k + 1 == episode.n_steps
            after = 0.0 if is_last else truth.values[k + 1, s[k + 1]]
            luck += float(episode.rewards[k]) + after - truth.actions[k, s[k], int(a)]
        worst = max(worst, abs(episode.total_reward - truth.values[0, s[0]] - skill - luck))
    estimated = max(
        _split_error(estimate(episode, truth.policy, n_rollouts=8, seed=k))
        for k, episode in enumerate(episodes[: n // 100])
    )
    return [
        at_most(f"P9 identity with exact values, {n} episodes: largest error", worst, 1e-9),
        at_most("P9 identity with shared estimates: largest error", estimated, 1e-9),
    ]


def _split_error(table: CreditTable) -> float:
    assert table.split is not None
    return abs(table.split.error)
