"""P6: one fault in a chain that a policy may repair: which search finds it, and whether it knows when it has not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

import trajrec
import trajrec.envs
from benchmarks import scratch_folder
from benchmarks.credit.searches import bisect_success
from benchmarks.credit.truths import Criterion, at_least, at_most
from trajrec.corpus.episode import Episode
from trajrec.envs.solved import SPOIL, WORK, RepairingPolicy
from trajrec.replay.credit import decisive_step, estimate

assert trajrec.envs


def faulty(size: int, n: int, seed: int = 0) -> list[tuple[Episode, int]]:
    """Record n chains of which one action is a fault, at a step drawn at random; return them with that step."""
    env = trajrec.record(gym.make("trajrec/FaultChain-v0", size=size), scratch_folder())
    faults = np.random.default_rng(seed).integers(size, size=n)
    for fault in faults:
        env.reset(seed=0)
        for step in range(size):
            env.step(SPOIL if step == fault else WORK)
    env.close()
    episodes = trajrec.open(env.path.parent).episodes(order_by="number")
    return list(zip(episodes, map(int, faults), strict=True))


def hits(
    cases: list[tuple[Episode, int]], rate: float, **kwargs: Any
) -> tuple[list[bool], list[Any]]:
    """Return whether the likeliest step is the fault, and the decisions."""
    policy = RepairingPolicy(rate)
    method = kwargs.pop("method", "drop")
    # "bisect" is OmegaPRM's search, which trajrec itself does not offer.
    search: Any = bisect_success if method == "bisect" else partial(decisive_step, method=method)
    decisions = [search(episode, policy, seed=k, **kwargs) for k, (episode, _) in enumerate(cases)]
    hit = [d.likeliest == fault for d, (_, fault) in zip(decisions, cases, strict=True)]
    return hit, decisions


def max_drop(cases: list[tuple[Episode, int]], rate: float, n: int) -> tuple[float, float]:
    """Return how often the largest V(k) - V(k + 1) in shared scenarios is the fault's, and the steps taken an episode."""
    policy, hit, steps = RepairingPolicy(rate), [], 0
    for k, (episode, fault) in enumerate(cases):
        table = estimate(episode, policy, estimator="delta", n_rollouts=n, seed=k)
        hit.append(int(np.argmin([row.value for row in table.of("delta")])) == fault)
        steps += table.env_steps
    return float(np.mean(hit)), steps / len(cases)


def calibration(name: str, found: list[Any], hit: list[bool]) -> Criterion:
    """Return how many are right of those that claim a probability of at least 0.95."""
    sure = [
        h
        for h, d in zip(hit, found, strict=True)
        if d.step is not None and d.confidence is not None and d.confidence >= 0.95
    ]
    share = float(np.mean(sure)) if sure else 1.0
    return at_least(f"{name}: of {len(sure)} of {len(hit)} that claim 0.95, right", share, 0.90)


def p6(n: int = 600, *, longest: int = 256) -> Iterator[Criterion]:
    """Exact hits by method, repair rate and length, each as soon as it is known: all of it takes an hour."""
    for size in (size for size in (16, 64, 256) if size <= longest):
        cases = faulty(size, n if size < 256 else max(8, n // 3))
        hit, decisions = hits(cases, 0.0, method="bisect", n_rollouts=8)
        yield at_least(f"P6 rate 0, T={size}: bisect finds the fault", float(np.mean(hit)), 0.99)
        # Of the search, and of both arms that confirm what it found.
        most = 8 * int(np.ceil(np.log2(size))) + 2 * 8
        yield at_most(f"P6 rate 0, T={size}: rollouts", max(d.n_rollouts for d in decisions), most)
    cases = faulty(64, n)
    hit, decisions = hits(cases, 0.01, method="bayes", n_rollouts=32)
    yield at_least("P6 rate 0.01, T=64: bayes finds the fault", float(np.mean(hit)), 0.93)
    yield calibration("P6 rate 0.01, T=64: bayes", decisions, hit)
    share, steps = max_drop(cases, 0.01, 8)
    yield at_least("P6 rate 0.01, T=64: shared max-drop, N=8, finds the fault", share, 0.92)
    yield at_most("P6 rate 0.01, T=64: shared max-drop, env steps an episode", steps, 2 * 786)
    hit, _ = hits(cases[: max(8, n // 3)], 0.01, method="bisect", n_rollouts=8)
    yield at_most("P6 rate 0.01, T=64: bisect fails", float(np.mean(hit)), 0.3)
    hit, decisions = hits(cases, 0.01, method="drop", n_rollouts=32)
    yield at_least("P6 rate 0.01, T=64: drop finds the fault", float(np.mean(hit)), 0.93)
    yield calibration("P6 rate 0.01, T=64: drop", decisions, hit)
    if longest < 256:
        return
    cases = faulty(256, max(8, n // 3))
    for method in ("bayes", "drop"):
        hit, decisions = hits(cases, 0.01, method=method, n_rollouts=32)
        decided = float(np.mean([d.step is not None for d in decisions]))
        yield at_least(f"P6 rate 0.01, T=256: {method} decides", decided, 0.0)
        yield calibration(f"P6 rate 0.01, T=256: {method}", decisions, hit)
