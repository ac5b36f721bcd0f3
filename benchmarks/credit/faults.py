"""P6: one fault in a chain that the policy may repair. Which search finds the fault?

The searches of `decisive_step` are compared with OmegaPRM's bisection ("bisect"), and with the
largest difference of neighbouring values ("max-drop"). A search must also know when it is unsure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import gymnasium as gym
import numpy as np

import trajrec
from benchmarks import scratch_folder
from benchmarks.credit.searches import bisect_success
from benchmarks.credit.truths import Criterion, at_least, at_most
from trajrec.corpus.episode import Episode
from trajrec.envs.solved import SPOIL, WORK, RepairingPolicy
from trajrec.replay.credit import Decision, decisive_step, estimate
from trajrec.types import Value

SearchMethod = Literal["drop", "bayes", "bisect"]


class Case(NamedTuple):
    """An episode, and the step of its fault."""

    episode: Episode
    fault: int


class Searched(NamedTuple):
    """The decisions of a search, and whether the likeliest step of each is the fault."""

    decisions: list[Decision]
    hits: list[bool]

    @property
    def share(self) -> float:
        """The share of hits."""
        return float(np.mean(self.hits))


def faulty(size: int, n: int, seed: int = 0) -> list[Case]:
    """Record n chains of `size` steps with one fault each, at a random step."""
    env = trajrec.record(gym.make("trajrec/FaultChain-v0", size=size), scratch_folder())
    faults = np.random.default_rng(seed).integers(size, size=n)
    for fault in faults:
        env.reset(seed=0)
        for step in range(size):
            env.step(SPOIL if step == fault else WORK)
    env.close()
    episodes = trajrec.open(env.path.parent).episodes(order_by="number")
    return [Case(episode, int(fault)) for episode, fault in zip(episodes, faults, strict=True)]


def search(
    cases: Sequence[Case], rate: float, *, method: SearchMethod, n_rollouts: int
) -> Searched:
    """Search for the fault of each case, with a policy that repairs it at a rate per step."""
    policy = RepairingPolicy(rate)
    find: Value = bisect_success
    if method != "bisect":
        find = partial(decisive_step, method=method)
    decisions = [
        find(case.episode, policy, seed=k, n_rollouts=n_rollouts) for k, case in enumerate(cases)
    ]
    hits = [
        decision.likeliest == case.fault for decision, case in zip(decisions, cases, strict=True)
    ]
    return Searched(decisions, hits)


def max_drop(cases: Sequence[Case], rate: float, n_rollouts: int) -> tuple[float, float]:
    """Take the step with the smallest difference V(k + 1) - V(k) in shared scenarios as the fault.

    Returns:
        The share of hits, and the environment's steps an episode.
    """
    policy = RepairingPolicy(rate)
    hits = []
    env_steps = 0
    for k, case in enumerate(cases):
        table = estimate(case.episode, policy, estimator="delta", n_rollouts=n_rollouts, seed=k)
        deltas = [row.value for row in table.of("delta")]
        hits.append(int(np.argmin(deltas)) == case.fault)
        env_steps += table.env_steps
    return float(np.mean(hits)), env_steps / len(cases)


def calibration(name: str, searched: Searched) -> Criterion:
    """Return how many decisions are right of those that claim a confidence of at least 0.95."""
    sure = [
        hit
        for hit, decision in zip(searched.hits, searched.decisions, strict=True)
        if decision.step is not None
        and decision.confidence is not None
        and decision.confidence >= 0.95
    ]
    share = float(np.mean(sure)) if sure else 1.0
    return at_least(
        f"{name}: right, of the {len(sure)} of {len(searched.hits)} that claim 0.95", share, 0.90
    )


def p6(n: int = 600, *, longest: int = 256) -> Iterator[Criterion]:
    """Yield the hits by method, repair rate and length. All of it takes an hour.

    Args:
        n: Number of chains; a third of it for the chains of 256 steps.
        longest: Length of the longest chains: 16, 64 or 256.
    """
    n_long = max(8, n // 3)
    for size in (16, 64, 256):
        if size <= longest:
            yield from _final_faults(faulty(size, n if size < 256 else n_long), size)
    yield from _repairable_faults(faulty(64, n), n_long)
    if longest >= 256:
        cases = faulty(256, n_long)
        for method in ("bayes", "drop"):
            searched = search(cases, 0.01, method=method, n_rollouts=32)
            decided = float(np.mean([d.step is not None for d in searched.decisions]))
            yield at_least(f"P6 rate 0.01, T=256: {method} decides", decided, 0.0)
            yield calibration(f"P6 rate 0.01, T=256: {method}", searched)


def _final_faults(cases: Sequence[Case], size: int) -> Iterator[Criterion]:
    """Yield the criteria of faults that nothing repairs: bisection finds them."""
    searched = search(cases, 0.0, method="bisect", n_rollouts=8)
    yield at_least(f"P6 rate 0, T={size}: bisect finds the fault", searched.share, 0.99)
    # 8 rollouts for each halving, and 8 for each of the two arms that confirm the step.
    n_allowed = 8 * int(np.ceil(np.log2(size))) + 2 * 8
    n_most = max(decision.n_rollouts for decision in searched.decisions)
    yield at_most(f"P6 rate 0, T={size}: rollouts", n_most, n_allowed)


def _repairable_faults(cases: Sequence[Case], n_bisected: int) -> Iterator[Criterion]:
    """Yield the criteria of faults that are repaired at a rate of 1 % a step: bisection fails."""
    name = "P6 rate 0.01, T=64"
    searched = search(cases, 0.01, method="bayes", n_rollouts=32)
    yield at_least(f"{name}: bayes finds the fault", searched.share, 0.93)
    yield calibration(f"{name}: bayes", searched)
    share, env_steps = max_drop(cases, 0.01, 8)
    yield at_least(f"{name}: shared max-drop, N=8, finds the fault", share, 0.92)
    yield at_most(f"{name}: shared max-drop, env steps an episode", env_steps, 2 * 786)
    searched = search(cases[:n_bisected], 0.01, method="bisect", n_rollouts=8)
    yield at_most(f"{name}: bisect finds the fault", searched.share, 0.3)
    searched = search(cases, 0.01, method="drop", n_rollouts=32)
    yield at_least(f"{name}: drop finds the fault", searched.share, 0.93)
    yield calibration(f"{name}: drop", searched)
