"""What shared scenarios save against fresh noise, P10, and what scans cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from benchmarks.credit.coupling import Coupled
from benchmarks.credit.faults import faulty, max_drop
from benchmarks.credit.tabular import failed
from benchmarks.credit.truths import Criterion, Truth, at_least, at_most, record, states, toy
from trajrec.errors import MissingPackageError
from trajrec.replay.credit import estimate

# Environment, epsilon, arguments; fewer steps, lower variance of A, correlation with the true A: as reached before.
SCANS: tuple[tuple[str, float, dict[str, Any], float, float, float], ...] = (
    ("FrozenLake-v1", 0.1, {}, 8.8, 15.6, 0.598),
    ("FrozenLake-v1", 0.3, {}, 5.7, 4.5, 0.595),
    ("FrozenLake-v1", 0.3, {"is_slippery": False}, 2.6, 2.3, 0.958),
    ("FrozenLake8x8-v1", 0.1, {}, 12.4, 25.9, 0.453),
    ("Taxi-v4", 0.2, {}, 4.7, 6.9, 0.924),
)


N = 16
"""Rollouts of each arm."""


class _Compared(NamedTuple):
    """Shared scenarios against fresh noise on the episodes of one corpus, and what the exact variances make of it: `exactly` of
    `lower`, `r_exactly` of `r_shared`; NaN where there are too many pairs of states."""

    fewer: float
    lower: float
    exactly: float
    r_fresh: float
    r_shared: float
    r_exactly: float


def scenarios(cases: int = 300, corpora: int = 6, repeats: int = 3) -> list[Criterion]:
    """Scan failed episodes (of Taxi all) in shared and in fresh noise: steps, variance over roots, correlation.

    What counts is the mean over corpora; its standard error says how far that is known.
    """
    found = []
    for env_id, epsilon, kwargs, fewer, lower, r in SCANS:
        make, truth = toy(env_id, epsilon, **kwargs)
        pairs = None if env_id == "Taxi-v4" else Coupled(make(), truth.policy, len(truth.actions))
        each = [
            _compare(make, truth, pairs, cases, seed, repeats) for seed in range(1, corpora + 1)
        ]
        name = f"{env_id} {'not slippery ' if kwargs else ''}eps {epsilon:g}"
        found.append(_reached(f"{name}: fewer env steps", [one.fewer for one in each], fewer))
        found.append(
            _reached(f"{name}: variance of A, fresh / shared", [one.lower for one in each], lower)
        )
        if pairs is not None:
            off = np.array([one.lower - one.exactly for one in each])
            exactly = float(np.mean([one.exactly for one in each]))
            what = (
                f"{name}: off what these episodes give exactly, {exactly:.3g}, in standard errors"
            )
            found.append(at_most(what, abs(off.mean()) / (off.std(ddof=1) / len(off) ** 0.5), 3.0))
        fresh, exactly = (
            float(np.mean(r_))
            for r_ in zip(*((one.r_fresh, one.r_exactly) for one in each), strict=True)
        )
        expected = "" if pairs is None else f"; of the exact variances {exactly:.3f}"
        what = f"{name}: correlation with the true A (fresh {fresh:.3f}{expected})"
        found.append(_reached(what, [one.r_shared for one in each], r))
    return found + chains()


def _compare(
    make: Any, truth: Truth, pairs: Coupled | None, cases: int, seed: int, repeats: int
) -> _Compared:
    recorded = record(make, truth.policy, max(8, cases // 4), seed=seed)
    episodes = failed(recorded, cases) if pairs is not None else recorded[: max(2, cases // 20)]
    places = [
        (k, s, int(a))
        for e in episodes
        for k, (s, a) in enumerate(zip(states(e), e.actions, strict=False))
    ]
    true = [truth.advantage(*place) for place in places]
    steps, variance, r = {}, {}, {}
    for noise in ("shared", "fresh"):
        tables = [
            [_scan(e, truth, noise, 1000 * seed + k) for k, e in enumerate(episodes)]
            for seed in range(repeats)
        ]
        runs = np.array(
            [[row.value for table in run for row in table.of("advantage")] for run in tables]
        )
        steps[noise] = sum(table.env_steps for run in tables for table in run)
        variance[noise] = float(runs.var(axis=0, ddof=1).sum())
        r[noise] = float(np.mean([np.corrcoef(run, true)[0, 1] for run in runs]))
    exact = np.array(
        [(np.nan, np.nan) if pairs is None else pairs.variances(*place) for place in places]
    ).mean(axis=0)
    spread = float(np.var(true))
    return _Compared(
        steps["fresh"] / steps["shared"],
        variance["fresh"] / variance["shared"],
        float(exact[0] / exact[1]),
        r["fresh"],
        r["shared"],
        float(np.sqrt(spread / (spread + exact[1] / N))),
    )


def _reached(what: str, values: Sequence[float], bar: float) -> Criterion:
    """Return a criterion for the mean of some corpora."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return at_least(f"{what} (standard error {error:.2g})", float(np.mean(values)), bar)


def _scan(episode: Any, truth: Any, noise: Any, seed: int) -> Any:
    return estimate(episode, truth.policy, n_rollouts=N, noise=noise, seed=seed, folder=None)


def chains() -> list[Criterion]:
    """Max-drop on the fault chain with a repair rate of 1 %."""
    found = []
    for size, n, wanted, fewer in ((64, 100, 0.947, 21.0), (256, 50, 0.740, 83.0)):
        share, steps = max_drop(faulty(size, n), 0.01, 8)
        whole = 8 * size * (size + 1) / 2
        found += [
            at_least(f"chain T={size}: shared max-drop, N=8, finds the fault", share, wanted),
            at_least(
                f"chain T={size}: {whole:,.0f} steps without meeting, {steps:,.0f} with, fewer",
                whole / steps,
                fewer,
            ),
        ]
    return found


def p10(n: int = 8) -> list[Criterion]:
    """The same numbers, bit for bit, at every method and for any number of processes."""
    make, truth = toy("FrozenLake-v1", 0.3)
    episode = max(
        record(make, truth.policy, 6, seed=10), key=lambda e: e.n_steps if e.n_steps < 40 else 0
    )
    wanted = None
    differ = []
    ways: Sequence[dict[str, Any]] = (
        {"restore": "snapshot"},
        {"merge_rollouts": False},
        {"restore": "reexecute"},
        {"restore": "os_fork", "jobs": 2},
        {"jobs": 2},
        {"jobs": 2, "backend": "ray"},
    )
    for how in ways:
        try:
            table = estimate(episode, truth.policy, n_rollouts=n, folder=None, **how)
        except MissingPackageError as exc:
            print(f"not compared: {how}: {exc}")
            continue
        numbers = [(e.step, e.estimator, e.value, e.ci_low, e.ci_high) for e in table]
        wanted = wanted or numbers
        if numbers != wanted:
            differ.append(str(how))
    return [at_most(f"P10: ways that give other numbers {differ or ''}", len(differ), 0)]


class Network:
    """A policy of one hidden layer, asked in batches.

    Args:
        size: Units.
    """

    id = "network"

    def __init__(self, size: int = 64) -> None:
        rng = np.random.default_rng(0)
        self.w, self.v = rng.normal(size=(4, size)) * 0.01, np.full(size, 20 / size)
        # Goes where the pole leans and falls to, so that its episodes last.
        self.w[2:] += np.array([[1.0], [0.5]])

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        """Return an action."""
        return self.act_batch([observation], [rng])[0]

    def act_batch(
        self, observations: Sequence[Any], rngs: Sequence[np.random.Generator]
    ) -> list[int]:
        """Return an action for each observation."""
        logits = np.tanh(np.stack(list(observations)) @ self.w) @ self.v
        p = 1 / (1 + np.exp(-4 * logits))
        return [int(rng.random() < share) for rng, share in zip(rngs, p, strict=True)]


def costs() -> list[Criterion]:
    """Full scans of one episode, with two processes."""
    make, truth = toy("FrozenLake8x8-v1", 0.1)
    episodes = record(make, truth.policy, 60, seed=6)
    episode = min(episodes, key=lambda e: abs(e.n_steps - 100))
    start = time.perf_counter()
    table = estimate(episode, truth.policy, n_rollouts=64, jobs=2, folder=None)
    lake = time.perf_counter() - start
    found = [
        at_most(
            f"FrozenLake8x8, {episode.n_steps} steps, n=64, shared, {table.env_steps:,} env steps: s",
            lake,
            15.0,
        )
    ]
    pole = record(lambda: gym.make("CartPole-v1", max_episode_steps=200), Network(), 8)
    longest = max(pole, key=lambda e: e.n_steps)
    start = time.perf_counter()
    table = estimate(longest, Network(), n_rollouts=16, jobs=2, folder=None)
    seconds = time.perf_counter() - start
    what = f"CartPole, {longest.n_steps} steps, n=16, a network, {table.env_steps:,} env steps: s"
    return [*found, at_most(what, seconds, 30.0)]
