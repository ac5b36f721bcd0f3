"""The gain of shared scenarios over fresh noise, P10, and the cost of estimates.

Shared scenarios are compared with fresh noise on the same episodes: environment steps, variance of
the advantages, and correlation with the exact advantages. The gain is also compared with its exact
value, if there are few enough pairs of states.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from benchmarks.credit.coupling import Coupled
from benchmarks.credit.faults import faulty, max_drop
from benchmarks.credit.tabular import failed
from benchmarks.credit.truths import (
    Criterion,
    Truth,
    at_least,
    at_most,
    record,
    states,
    toy,
    true_advantages,
)
from trajrec.corpus.episode import Episode
from trajrec.errors import MissingPackageError
from trajrec.replay.credit import CreditTable, RolloutOptions, estimate
from trajrec.replay.credit.sampling.noise import NoiseMode
from trajrec.types import AnyEnv, JsonObject, Observation


class Case(NamedTuple):
    """An environment with an epsilon-greedy policy, and the bars of its figures.

    Attributes:
        env_id: The environment.
        epsilon: Chance of a random action.
        kwargs: Arguments of the environment.
        fewer_steps: Environment steps with fresh noise, beside those in shared scenarios.
        lower_variance: Variance of the advantages, likewise.
        correlation: Correlation of the advantages in shared scenarios with the exact ones.
    """

    env_id: str
    epsilon: float
    kwargs: JsonObject
    fewer_steps: float
    lower_variance: float
    correlation: float


# The bars are the figures that an earlier implementation reached.
CASES = (
    Case(
        env_id="FrozenLake-v1",
        epsilon=0.1,
        kwargs={},
        fewer_steps=8.8,
        lower_variance=15.6,
        correlation=0.598,
    ),
    Case(
        env_id="FrozenLake-v1",
        epsilon=0.3,
        kwargs={},
        fewer_steps=5.7,
        lower_variance=4.5,
        correlation=0.595,
    ),
    Case(
        env_id="FrozenLake-v1",
        epsilon=0.3,
        kwargs={"is_slippery": False},
        fewer_steps=2.6,
        lower_variance=2.3,
        correlation=0.958,
    ),
    Case(
        env_id="FrozenLake8x8-v1",
        epsilon=0.1,
        kwargs={},
        fewer_steps=12.4,
        lower_variance=25.9,
        correlation=0.453,
    ),
    Case(
        env_id="Taxi-v4",
        epsilon=0.2,
        kwargs={},
        fewer_steps=4.7,
        lower_variance=6.9,
        correlation=0.924,
    ),
)

N_ROLLOUTS = 16


class Gains(NamedTuple):
    """Shared scenarios beside fresh noise, on the episodes of one corpus.

    Attributes:
        fewer_steps: Ratio of the environment steps, fresh / shared.
        lower_variance: Ratio of the variances of the advantages, fresh / shared.
        exact_lower_variance: Its exact value; NaN if there are too many pairs of states.
        fresh_correlation: Correlation with the exact advantages, fresh noise.
        shared_correlation: Correlation with the exact advantages, shared scenarios.
        exact_correlation: The correlation that the exact variance gives; NaN likewise.
    """

    fewer_steps: float
    lower_variance: float
    exact_lower_variance: float
    fresh_correlation: float
    shared_correlation: float
    exact_correlation: float


class Repeats(NamedTuple):
    """Repeated estimates of the same episodes with one kind of noise."""

    env_steps: int
    variance: float
    correlation: float


def scenarios(n_cases: int = 300, n_corpora: int = 6, n_repeats: int = 3) -> list[Criterion]:
    """Return the gains on failed episodes (Taxi: on all), as means over corpora.

    Each mean has a standard error, because the gain of one corpus varies.
    """
    criteria = []
    for case in CASES:
        make, truth = toy(case.env_id, case.epsilon, **case.kwargs)
        coupled = None
        # Taxi has 500 states, so 250,000 pairs at each of 200 steps.
        if case.env_id != "Taxi-v4":
            coupled = Coupled(make(), truth.policy, len(truth.actions))
        gains = []
        for seed in range(1, n_corpora + 1):
            recorded = record(make, truth.policy, max(8, n_cases // 4), seed=seed)
            episodes = failed(recorded, n_cases)
            if coupled is None:
                episodes = recorded[: max(2, n_cases // 20)]
            gains.append(_gains(truth, coupled, episodes, n_repeats))
        criteria += _gain_criteria(case, gains)
    return criteria + chains()


def _gain_criteria(case: Case, gains: Sequence[Gains]) -> list[Criterion]:
    slippery = "" if case.kwargs.get("is_slippery", True) else "not slippery "
    name = f"{case.env_id} {slippery}eps {case.epsilon:g}"
    fresh = float(np.mean([one.fresh_correlation for one in gains]))
    criteria = [
        _mean_criterion(
            f"{name}: fewer env steps", [one.fewer_steps for one in gains], case.fewer_steps
        ),
        _mean_criterion(
            f"{name}: variance of A, fresh / shared",
            [one.lower_variance for one in gains],
            case.lower_variance,
        ),
    ]
    expected = ""
    if not np.isnan(gains[0].exact_lower_variance):
        errors = np.array([one.lower_variance - one.exact_lower_variance for one in gains])
        exact_ratio = float(np.mean([one.exact_lower_variance for one in gains]))
        distance = abs(errors.mean()) / (errors.std(ddof=1) / len(errors) ** 0.5)
        criteria.append(
            at_most(
                f"{name}: distance from the exact ratio of these episodes, {exact_ratio:.3g}, in "
                "standard errors",
                distance,
                3.0,
            )
        )
        exact_correlation = float(np.mean([one.exact_correlation for one in gains]))
        expected = f"; of the exact variances {exact_correlation:.3f}"
    criteria.append(
        _mean_criterion(
            f"{name}: correlation with the exact A (fresh {fresh:.3f}{expected})",
            [one.shared_correlation for one in gains],
            case.correlation,
        )
    )
    return criteria


def _mean_criterion(name: str, values: Sequence[float], bar: float) -> Criterion:
    """Return a criterion for the mean over corpora."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return at_least(f"{name} (standard error {error:.2g})", float(np.mean(values)), bar)


def _gains(
    truth: Truth, coupled: Coupled | None, episodes: Sequence[Episode], n_repeats: int
) -> Gains:
    advantages = np.concatenate([true_advantages(truth, episode) for episode in episodes])
    shared = _repeat(truth, episodes, "shared", n_repeats, advantages)
    fresh = _repeat(truth, episodes, "fresh", n_repeats, advantages)
    exact_fresh = np.nan
    exact_shared = np.nan
    if coupled is not None:
        variances = [
            coupled.variances(step, state, int(action))
            for episode in episodes
            for step, (state, action) in enumerate(
                zip(states(episode), episode.actions, strict=False)
            )
        ]
        exact_fresh = float(np.mean([one.fresh for one in variances]))
        exact_shared = float(np.mean([one.shared for one in variances]))
    spread = float(np.var(advantages))
    return Gains(
        fewer_steps=fresh.env_steps / shared.env_steps,
        lower_variance=fresh.variance / shared.variance,
        exact_lower_variance=exact_fresh / exact_shared,
        fresh_correlation=fresh.correlation,
        shared_correlation=shared.correlation,
        # The variance of the truth, in all variance of the estimates.
        exact_correlation=float(np.sqrt(spread / (spread + exact_shared / N_ROLLOUTS))),
    )


def _repeat(
    truth: Truth,
    episodes: Sequence[Episode],
    noise: NoiseMode,
    n_repeats: int,
    advantages: np.ndarray,
) -> Repeats:
    """Estimate the advantages of all steps several times, each time with other seeds."""
    env_steps = 0
    runs = []
    for repeat in range(n_repeats):
        values = []
        for k, episode in enumerate(episodes):
            table = _estimate(episode, truth, noise, seed=1000 * repeat + k)
            env_steps += table.env_steps
            values += [row.value for row in table.of("advantage")]
        runs.append(values)
    variance = float(np.var(runs, axis=0, ddof=1).sum())
    correlation = float(np.mean([np.corrcoef(values, advantages)[0, 1] for values in runs]))
    return Repeats(env_steps, variance, correlation)


def _estimate(episode: Episode, truth: Truth, noise: NoiseMode, seed: int) -> CreditTable:
    return estimate(
        episode, truth.policy, n_rollouts=N_ROLLOUTS, noise=noise, seed=seed, folder=None
    )


def chains() -> list[Criterion]:
    """Find faults in chains with a repair rate of 1 %, by the largest drop of shared values.

    Shared rollouts that meet in one state are continued once; the steps are compared with those of
    rollouts that never meet.
    """
    criteria = []
    for size, n, least_share, fewer in ((64, 100, 0.947, 21.0), (256, 50, 0.740, 83.0)):
        share, env_steps = max_drop(faulty(size, n), 0.01, 8)
        without_merging = 8 * size * (size + 1) / 2
        name = f"chain T={size}"
        criteria += [
            at_least(f"{name}: shared max-drop, N=8, finds the fault", share, least_share),
            at_least(
                f"{name}: {without_merging:,.0f} steps without merging, {env_steps:,.0f} with it, "
                "ratio",
                without_merging / env_steps,
                fewer,
            ),
        ]
    return criteria


def p10(n_rollouts: int = 8) -> list[Criterion]:
    """Estimate with every way of restoring and with several processes: the numbers are equal."""
    make, truth = toy("FrozenLake-v1", 0.3)
    recorded = record(make, truth.policy, 6, seed=10)
    # Long, but not so long that re-executing takes minutes.
    episode = max(recorded, key=lambda e: e.n_steps if e.n_steps < 40 else 0)
    ways: Sequence[RolloutOptions] = (
        {"restore": "snapshot"},
        {"merge_rollouts": False},
        {"restore": "reexecute"},
        {"restore": "os_fork", "jobs": 2},
        {"jobs": 2},
        {"jobs": 2, "backend": "ray"},
    )
    expected = None
    differing = []
    for way in ways:
        options: RolloutOptions = {**way, "folder": None}
        try:
            table = estimate(episode, truth.policy, n_rollouts=n_rollouts, **options)
        except MissingPackageError as exc:
            print(f"not compared: {options}: {exc}")
            continue
        numbers = [(row.step, row.estimator, row.value, row.ci_low, row.ci_high) for row in table]
        expected = expected or numbers
        if numbers != expected:
            differing.append(str(options))
    return [at_most(f"P10: ways that give other numbers {differing or ''}", len(differing), 0)]


class Network:
    """A policy of one hidden layer that computes the actions of many rollouts at once.

    Args:
        size: Number of hidden units.
    """

    id = "network"

    def __init__(self, size: int = 64) -> None:
        rng = np.random.default_rng(0)
        self.hidden = rng.normal(size=(4, size)) * 0.01
        self.output = np.full(size, 20 / size)
        # Moves to the side to which the pole leans and falls, so that its episodes last.
        self.hidden[2:] += np.array([[1.0], [0.5]])

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return an action."""
        return self.act_batch([observation], [rng])[0]

    def act_batch(
        self, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]
    ) -> list[int]:
        """Return an action for each observation."""
        logits = np.tanh(np.stack(list(observations)) @ self.hidden) @ self.output
        chances = 1 / (1 + np.exp(-4 * logits))
        return [int(rng.random() < chance) for rng, chance in zip(rngs, chances, strict=True)]


def costs() -> list[Criterion]:
    """Measure the time of estimating all steps of an episode, with two processes."""
    make, truth = toy("FrozenLake8x8-v1", 0.1)
    episodes = record(make, truth.policy, 60, seed=6)
    lake = min(episodes, key=lambda episode: abs(episode.n_steps - 100))
    table, lake_s = _timed(lambda: estimate(lake, truth.policy, n_rollouts=64, jobs=2, folder=None))
    lake_name = f"FrozenLake8x8, {lake.n_steps} steps, n=64, shared, {table.env_steps:,} env steps"
    poles = record(_make_pole, Network(), 8)
    pole = max(poles, key=lambda episode: episode.n_steps)
    table, pole_s = _timed(lambda: estimate(pole, Network(), n_rollouts=16, jobs=2, folder=None))
    pole_name = f"CartPole, {pole.n_steps} steps, n=16, a network, {table.env_steps:,} env steps"
    return [at_most(f"{lake_name}: s", lake_s, 15.0), at_most(f"{pole_name}: s", pole_s, 30.0)]


def _make_pole() -> AnyEnv:
    return gym.make("CartPole-v1", max_episode_steps=200)


def _timed(work: Callable[[], CreditTable]) -> tuple[CreditTable, float]:
    """Return the result of some work, and its wall time in seconds."""
    begin = time.perf_counter()
    table = work()
    return table, time.perf_counter() - begin
