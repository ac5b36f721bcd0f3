"""P1 to P4, P8 and P9: values and advantages by rollouts, compared with dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.credit.truths import (
    Criterion,
    Truth,
    at_least,
    at_most,
    is_covered,
    record,
    states,
    toy,
    true_advantages,
    true_values,
)
from trajrec.corpus.episode import Episode
from trajrec.replay.credit import CreditTable, Estimate, estimate
from trajrec.types import AnyEnv, FloatArray, Value


class Compared(NamedTuple):
    """Estimates of one episode, and the exact value of each."""

    rows: list[Estimate]
    exact: list[float]

    @property
    def errors(self) -> list[float]:
        """The error of each estimate."""
        return [row.value - exact for row, exact in zip(self.rows, self.exact, strict=True)]


def covers(rows: Sequence[Estimate], exact: Sequence[float]) -> float:
    """Return the share of intervals that hold the exact value."""
    return float(np.mean([is_covered(row, value) for row, value in zip(rows, exact, strict=True)]))


def coverage(compared: Sequence[Compared]) -> float:
    """Return the share of all intervals that hold the exact value."""
    rows = [row for one in compared for row in one.rows]
    return covers(rows, [exact for one in compared for exact in one.exact])


def clustered_bias(errors: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean error and its standard error.

    The errors of one episode are not independent: its rollouts share scenarios.
    """
    sums = np.array([sum(of_episode) for of_episode in errors])
    counts = np.array([len(of_episode) for of_episode in errors])
    bias = sums.sum() / counts.sum()
    residuals = sums - bias * counts
    n = len(errors)
    variance = float((residuals**2).sum()) * n / (n - 1)
    return float(bias), math.sqrt(variance) / float(counts.sum())


def compare_values(truth: Truth, episode: Episode, rows: Sequence[Estimate]) -> Compared:
    """Return estimates of V with the exact values."""
    exact = true_values(truth, episode)
    return Compared(list(rows), [exact[row.step] for row in rows])


def compare_advantages(truth: Truth, episode: Episode, rows: Sequence[Estimate]) -> Compared:
    """Return estimates of A with the exact advantages."""
    exact = true_advantages(truth, episode)
    return Compared(list(rows), [exact[row.step] for row in rows])


def value_criteria(
    name: str, truth: Truth, episodes: list[Episode], n_rollouts: int
) -> list[Criterion]:
    """Estimate V of all steps with fresh noise, and compare it with the exact values."""
    compared = []
    for k, episode in enumerate(episodes):
        table = estimate(
            episode,
            truth.policy,
            estimator="value",
            n_rollouts=n_rollouts,
            noise="fresh",
            seed=k,
        )
        compared.append(compare_values(truth, episode, table.of("value")))
    exact = np.concatenate([np.array(one.exact) for one in compared])
    errors = np.concatenate([np.array(one.errors) for one in compared])
    rmse = math.sqrt(float(np.mean(errors**2)))
    # A return is 0 or 1, so its variance is V (1 - V).
    expected_rmse = math.sqrt(float(np.mean(exact * (1 - exact))) / n_rollouts)
    rmse_error = abs(rmse / expected_rmse - 1) if expected_rmse else 0.0
    bias, error = clustered_bias([one.errors for one in compared])
    # Without luck every error is 0, and so is the standard error.
    distance = abs(bias) / error if error else 0.0
    method = compared[0].rows[0].ci_method
    return [
        at_least(f"{name}: cases", len(exact), 0),
        at_least(f"{name}: {method} covers V", coverage(compared), 0.93),
        at_most(f"{name}: RMSE beside theory, relative", rmse_error, 0.10),
        at_most(f"{name}: |bias| in standard errors, by episode", distance, 3.0),
    ]


def failed(episodes: list[Episode], n_steps: int) -> list[Episode]:
    """Return failed episodes, until they have a number of steps."""
    return _until([e for e in episodes if e.total_reward <= 0], n_steps)


def _until(episodes: list[Episode], n_steps: int) -> list[Episode]:
    """Return the first episodes, until they have a number of steps."""
    chosen: list[Episode] = []
    n_chosen = 0
    for episode in episodes:
        if n_chosen < n_steps:
            chosen.append(episode)
            n_chosen += episode.n_steps
    return chosen


def p1(n_cases: int = 1000) -> list[Criterion]:
    """Values on slippery ice, along failed episodes."""
    make, truth = toy("FrozenLake-v1", 0.1)
    episodes = failed(record(make, truth.policy, n_cases // 5), n_cases)
    return value_criteria("P1 slippery", truth, episodes, 16)


def p2(n_cases: int = 400) -> list[Criterion]:
    """Values, advantages and luck on firm ice: there is no luck."""
    make, truth = toy("FrozenLake-v1", 0.3, is_slippery=False)
    episodes = failed(record(make, truth.policy, n_cases // 3 + 40, seed=2), n_cases)
    criteria = value_criteria("P2 deterministic", truth, episodes, 16)
    compared = []
    luck = []
    differences = []
    for k, episode in enumerate(episodes):
        shared = estimate(episode, truth.policy, n_rollouts=64, seed=k)
        fresh = estimate(
            episode, truth.policy, n_rollouts=64, seed=k, noise="fresh", estimator="value"
        )
        compared.append(compare_advantages(truth, episode, shared.of("advantage")))
        luck += [abs(row.value) for row in shared.of("luck")]
        differences += [a.value - b.value for a, b in zip(fresh, shared.of("value"), strict=True)]
    difference = abs(float(np.mean(differences)))
    return [
        *criteria,
        at_least("P2 deterministic: bonett-price covers A", coverage(compared), 0.93),
        at_most("P2 deterministic: largest luck", max(luck), 0.0),
        at_most("P2 deterministic: mean of fresh - shared V", difference, 0.02),
    ]


def p3(n_cases: int = 600) -> list[Criterion]:
    """Values and advantages of Taxi, in units of return."""
    make, truth = toy("Taxi-v4", 0.2)
    episodes = _until(record(make, truth.policy, n_cases // 12 + 2, seed=3), n_cases)
    values = []
    shared_advantages = []
    fresh_advantages = []
    for k, episode in enumerate(episodes):
        shared = estimate(episode, truth.policy, n_rollouts=64, seed=k)
        fresh = estimate(episode, truth.policy, n_rollouts=64, seed=k, noise="fresh")
        values.append(compare_values(truth, episode, fresh.of("value")))
        shared_advantages.append(compare_advantages(truth, episode, shared.of("advantage")))
        fresh_advantages.append(compare_advantages(truth, episode, fresh.of("advantage")))
    ratio = _mean_square(fresh_advantages) / _mean_square(shared_advantages)
    return [
        at_least("P3 Taxi: cases", sum(len(one.rows) for one in values), 0),
        at_least("P3 Taxi: augmented t covers V at n=64", coverage(values), 0.92),
        at_least("P3 Taxi: augmented t covers A at n=64", coverage(shared_advantages), 0.90),
        at_least("P3 Taxi: variance of A, fresh / shared", ratio, 3.0),
    ]


def _mean_square(compared: Sequence[Compared]) -> float:
    return float(np.mean([error**2 for one in compared for error in one.errors]))


def p4(n_cases: int = 500) -> list[Criterion]:
    """Values of CliffWalking, which has no time limit: rollouts are cut, and so is the truth."""
    limit = 60
    criteria = []
    for is_slippery in (False, True):
        make, truth = toy("CliffWalking-v1", 0.3, limit, is_slippery=is_slippery)
        n_episodes = max(4, n_cases // limit)
        episodes = record(make, truth.policy, n_episodes, seed=4, max_steps=limit)
        compared = []
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
            compared.append(compare_values(truth, episode, table))
        bias, error = clustered_bias([one.errors for one in compared])
        name = "P4 CliffWalking" + (" slippery" if is_slippery else "")
        distance = abs(bias) / error
        criteria += [
            at_least(f"{name}: augmented t covers V at n=64", coverage(compared), 0.92),
            at_most(f"{name}: |bias| in standard errors, by episode", distance, 3.0),
        ]
    return criteria


def p8(n_cases: int = 1200) -> list[Criterion]:
    """Values with the environment's recorded noise: the result of other actions, given the past."""
    make, truth = toy("FrozenLake-v1", 0.1)
    episodes = failed(record(make, truth.policy, n_cases // 5, seed=8), n_cases)
    compared = []
    interventional = []
    for k, episode in enumerate(episodes):
        exact = recorded_noise_values(episode, make(), truth)
        rows: list[Estimate] = []
        # A seed for each step: with one seed, all steps of an episode would share the policy's
        # noise, and a bias would be hard to tell from it.
        for step in range(episode.n_steps):
            rows += estimate(
                episode,
                truth.policy,
                estimator="value",
                n_rollouts=16,
                noise="recorded",
                seed=1000 * k + step,
                steps=[step],
            )
        visited = states(episode)
        values = [float(exact[row.step, visited[row.step]]) for row in rows]
        compared.append(Compared(rows, values))
        interventional += compare_values(truth, episode, rows).exact
    counterfactual = [value for one in compared for value in one.exact]
    errors = [error for one in compared for error in one.errors]
    shift = float(np.mean(counterfactual) - np.mean(interventional))
    name = "P8 recorded noise"
    return [
        at_least(f"{name}: cases", len(errors), 0),
        at_least(f"{name}: Wilson covers the counterfactual V", coverage(compared), 0.93),
        at_most(f"{name}: |bias|", abs(float(np.mean(errors))), 0.01),
        at_most(f"{name}: mean counterfactual - interventional V, on failed episodes", shift, 0.0),
    ]


def recorded_noise_values(episode: Episode, env: AnyEnv, truth: Truth) -> FloatArray:
    """Return V, (n_steps + 1, S) float64, if the environment draws again as it was recorded."""
    table: Value = env.unwrapped.P  # type: ignore[attr-defined]
    probabilities = np.array([truth.policy.dist(state) for state in range(len(table))])
    uniforms = _recorded_uniforms(episode, env)
    values = truth.values.copy()
    for step in reversed(range(len(uniforms))):
        for state in range(len(table)):
            value = 0.0
            for action, probability in enumerate(probabilities[state]):
                outcomes = table[state][action]
                cumulated = np.cumsum([outcome[0] for outcome in outcomes])
                # The environment's own rule for an outcome.
                chosen = outcomes[int(np.argmax(cumulated > uniforms[step]))]
                _, next_state, reward, is_over = chosen
                rest = 0.0 if is_over else values[step + 1, next_state]
                value += probability * (reward + rest)
            values[step, state] = value
    return values


def _recorded_uniforms(episode: Episode, env: AnyEnv) -> list[float]:
    """Return the number that the environment drew at each step."""
    env.reset(seed=episode.start.seed)  # type: ignore[union-attr]
    uniforms = []
    for action in episode.actions:
        own = env.unwrapped.np_random.bit_generator
        # A copy, so that the environment's own generator is not advanced.
        copy = type(own)()
        copy.state = own.state
        uniforms.append(np.random.Generator(copy).random())
        env.step(action)
    return uniforms


def p9(n_episodes: int = 3000) -> list[Criterion]:
    """R - V(s0) is the sum of skill and luck, with exact values and with estimates."""
    make, truth = toy("FrozenLake-v1", 0.3)
    episodes = record(make, truth.policy, n_episodes, seed=9)
    exact_error = max(_exact_split_error(truth, episode) for episode in episodes)
    estimated_error = max(
        _split_error(estimate(episode, truth.policy, n_rollouts=8, seed=k))
        for k, episode in enumerate(episodes[: n_episodes // 100])
    )
    return [
        at_most(
            f"P9 identity with exact values, {n_episodes} episodes: largest error",
            exact_error,
            1e-9,
        ),
        at_most("P9 identity with shared estimates: largest error", estimated_error, 1e-9),
    ]


def _exact_split_error(truth: Truth, episode: Episode) -> float:
    visited = states(episode)
    skill = sum(true_advantages(truth, episode))
    luck = 0.0
    for step, action in enumerate(episode.actions):
        is_last = step + 1 == episode.n_steps
        rest = 0.0 if is_last else truth.values[step + 1, visited[step + 1]]
        expected = truth.actions[step, visited[step], int(action)]
        luck += float(episode.rewards[step]) + rest - expected
    return abs(episode.total_reward - float(truth.values[0, visited[0]]) - skill - luck)


def _split_error(table: CreditTable) -> float:
    assert table.split is not None
    return abs(table.split.error)
