"""Hindsight: credit from recorded episodes and the probabilities of their actions, without rollouts.

"hca" weighs a return by how much likelier the action was, given that return, than without knowing it. "cocoa" does so for each
reward, given the outcome that it was for, so that other rewards of the episode are no noise. "rudder" gives each step what it
changes in the return that is to be expected. All three count in tables: states are told apart by their digests.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.visits import action_key, recorded_keys
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.table import CreditTable
from trajrec.replay.forks.policies import policy_id
from trajrec.types import FloatArray

Method = Literal["hca", "cocoa", "rudder"]
RESAMPLES = 200


def hindsight_credit(
    episodes: Sequence[Episode], policy: Any, method: Method = "cocoa", *, seed: int = 0
) -> list[CreditTable]:
    """Estimate the credit of steps by what is known of them afterwards.

    Args:
        episodes: Of one environment and of this policy: their actions are taken to be its own.
        policy: Has `dist(observation)`, the probabilities of its actions, (A,) float64.
        method: "hca": E[(1 - pi(a | s) / h(a | s, Z)) Z | s, a] with the return from the step on, Z. "cocoa": the sum over
            later rewards of (p(a | s, u) / pi(a | s) - 1) r, with the outcome u that a reward is for: its size and the state
            where it was paid; and the step's own reward, less what the policy's actions pay there. "rudder": the expected
            return after the step less that before it, by the mean return of episodes through each state and action.
        seed: Of the bootstrap over episodes that the intervals are from.

    Returns:
        A table for each episode.

    Raises:
        ValueError: The policy does not say its probabilities, or there are fewer than two episodes.

    Source:
        Harutyunyan et al., arXiv 1912.02503; Meulemans et al., arXiv 2306.16803; Arjona-Medina et al., arXiv 1806.07857.
    """
    if method not in ("hca", "cocoa", "rudder"):
        raise ValueError(f"method must be 'hca', 'cocoa' or 'rudder', got {method!r}")
    if len(episodes) < 2:
        raise ValueError(
            f"hindsight compares episodes with each other: at least 2 are needed, got {len(episodes)}"
        )
    steps = _Steps(episodes, policy)
    estimate = {"hca": steps.hca, "cocoa": steps.cocoa, "rudder": steps.rudder}[method]
    n = len(episodes)
    values = estimate(np.ones(n))
    rng = np.random.default_rng(seed)
    samples = np.array(
        [
            estimate(rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64))
            for _ in range(RESAMPLES)
        ]
    )
    lo, hi = np.nanquantile(samples, [0.025, 0.975], axis=0)
    found, at = [], 0
    for episode in episodes:
        rows = []
        for step, action in zip(episode.step_numbers.tolist(), episode.actions, strict=True):
            bounds = min(lo[at], values[at]), max(hi[at], values[at])
            what = f"{method.upper()} credit, from {n} episodes"
            rows.append(
                Estimate(
                    step=step,
                    value=float(values[at]),
                    ci_low=float(bounds[0]),
                    ci_high=float(bounds[1]),
                    ci_method="bootstrap over episodes",
                    n=n,
                    n_discordant=None,
                    estimator=method,
                    estimand=what,
                    action=action,
                )
            )
            at += 1
        found.append(
            CreditTable(
                run_id="", episode_id=episode.id, policy_id=policy_id(policy), estimates=rows
            )
        )
    return found


class _Steps:
    """The steps of all episodes as columns."""

    def __init__(self, episodes: Sequence[Episode], policy: Any) -> None:
        places: dict[Hashable, int] = {}
        pairs: dict[Hashable, int] = {}
        outcomes: dict[Hashable, int] = {}
        columns: list[tuple[int, int, float, float, float, int]] = []
        self._spans: list[tuple[int, int]] = []
        self._outcomes: list[
            int
        ] = []  # of each step, what its reward is for; -1 where it pays nothing
        for number, (episode, keys) in enumerate(
            zip(episodes, recorded_keys(episodes), strict=True)
        ):
            rewards = np.array([float(r) for r in episode.reward_values])
            to_go = rewards[::-1].cumsum()[::-1]
            start = len(columns)
            for k, (key, action, observation) in enumerate(
                zip(keys, episode.actions, episode.observation_values, strict=False)
            ):
                dist = policy.dist(observation) if hasattr(policy, "dist") else None
                if dist is None:
                    raise ValueError(
                        "the policy must have dist(observation), the probabilities of its actions"
                    )
                place = places.setdefault(key, len(places))
                pair = pairs.setdefault((key, action_key(action)), len(pairs))
                columns.append(
                    (
                        place,
                        pair,
                        float(dist[int(action)]),
                        float(to_go[k]),
                        float(rewards[k]),
                        number,
                    )
                )
                known = (key, action_key(action), float(rewards[k]))
                self._outcomes.append(
                    outcomes.setdefault(known, len(outcomes)) if rewards[k] else -1
                )
            self._spans.append((start, len(columns)))
        self._place, self._pair, self._pi, self._to_go, self._reward, self._number = (
            np.array(column) for column in zip(*columns, strict=True)
        )
        self._n_places, self._n_pairs = len(places), len(pairs)
        self._place_of_pair = np.zeros(self._n_pairs, np.int64)
        self._place_of_pair[self._pair] = self._place
        returns, self._return = np.unique(np.round(self._to_go, 9), return_inverse=True)
        self._n_returns = len(returns)

    def _count(self, keys: Any, n: int, weights: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(keys, weights, n), np.float64)

    def hca(self, of_episode: FloatArray) -> FloatArray:
        """Return the credit of every step by return-conditioned hindsight, episodes weighted."""
        w = of_episode[self._number]
        with np.errstate(divide="ignore", invalid="ignore"):
            joint = self._count(
                self._pair * self._n_returns + self._return, self._n_pairs * self._n_returns, w
            )
            there = self._count(
                self._place * self._n_returns + self._return, self._n_places * self._n_returns, w
            )
            h = (
                joint[self._pair * self._n_returns + self._return]
                / there[self._place * self._n_returns + self._return]
            )
            terms = (1 - self._pi / h) * self._to_go
            sums = self._count(self._pair, self._n_pairs, np.where(w > 0, w * terms, 0.0))
            means = sums / self._count(self._pair, self._n_pairs, w)
        return np.asarray(means[self._pair])

    def cocoa(self, of_episode: FloatArray) -> FloatArray:
        """Return the credit of every step by the outcomes that it contributed to, episodes weighted."""
        w = of_episode[self._number]
        n_outcomes = max(self._outcomes, default=-1) + 1
        # How often an outcome followed a visit of a place, and a visit with an action there; and how often each was visited.
        after_place = np.zeros((self._n_places, n_outcomes))
        after_pair = np.zeros((self._n_pairs, n_outcomes))
        sizes = np.zeros(n_outcomes)
        for first, last in self._spans:
            later = np.zeros(n_outcomes)
            for k in range(last - 1, first - 1, -1):
                after_place[self._place[k]] += w[k] * later
                after_pair[self._pair[k]] += w[k] * later
                if self._outcomes[k] >= 0:
                    later[self._outcomes[k]] += 1
                    sizes[self._outcomes[k]] = self._reward[k]
        visits_pair = self._count(self._pair, self._n_pairs, w)
        visits_place = self._count(self._place, self._n_places, w)
        with np.errstate(divide="ignore", invalid="ignore"):
            # p(a | s, u) / pi(a | s) - 1, times how often u follows s: the mean number of u after (s, a) less that after s.
            h = after_pair / after_place[self._place_of_pair]
            weight = h[self._pair] / self._pi[:, None] - 1
            expected = after_place[self._place] / visits_place[self._place][:, None]
            later = np.nansum(
                np.where(expected > 0, weight * expected, 0.0) * sizes[None, :], axis=1
            )
            own = self._count(self._pair, self._n_pairs, w * self._reward) / visits_pair
            there = self._count(self._place, self._n_places, w * self._reward) / visits_place
        found: FloatArray = own[self._pair] - there[self._place] + later
        return found

    def rudder(self, of_episode: FloatArray) -> FloatArray:
        """Return what every step changes in the return that is to be expected, episodes weighted."""
        w = of_episode[self._number]
        totals = np.array(
            [self._to_go[first] if last > first else 0.0 for first, last in self._spans]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            of_pair = self._count(self._pair, self._n_pairs, w * totals[self._number])
            q = (of_pair / self._count(self._pair, self._n_pairs, w))[self._pair]
        before = np.concatenate([[np.nan], q[:-1]])
        firsts = [first for first, last in self._spans if last > first]
        before[firsts] = float((of_episode * totals).sum() / of_episode.sum())
        found: FloatArray = q - before
        return found
