"""Hindsight: credit from recorded episodes and action probabilities, without rollouts.

The methods count visits in tables, so they need states that occur in several episodes. States are
told apart by their keys of 64 bits, or by their observations if a log has no keys (see
`keep_states`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.visits import action_key, recorded_keys
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.table import CreditTable
from trajrec.replay.forks.policies import policy_id
from trajrec.types import FloatArray, IntArray, Value

Method = Literal["hca", "cocoa", "rudder"]

# Returns that differ by rounding are the same return.
RETURN_DECIMALS = 9

# The first action of a Discrete space that does not begin at 0, as Gymnasium and Minari write it.
_OTHER_START = re.compile(r"""start["']?[=:]\s*(-?[1-9]\d*)""")


def hindsight_credit(
    episodes: Sequence[Episode], policy: Value, method: Method = "cocoa"
) -> list[CreditTable]:
    """Estimate the credit of steps from the rewards that followed them.

    Experimental: the numbers are signals for training, and have no intervals. Intervals by a
    bootstrap over episodes held the exact credit in 57 to 90 % of cases.

    Args:
        episodes: Episodes of one environment, recorded with this policy.
        policy: A policy with `dist(observation)`: the probabilities of its actions, (A,) float64.
        method: The estimate.
            - "cocoa": The step's reward less the mean reward in its state, plus the sum over later
              rewards of (p(a | s, u) / pi(a | s) - 1) r. The outcome u of a reward r is its size,
              and the state and the action that it was paid for.
            - "hca": E[(1 - pi(a | s) / h(a | s, Z)) Z | s, a], with the return Z from
              the step on.
            - "rudder": The expected return after the step less the expected return
              before it, each the mean return of the episodes through a state and action.

    Returns:
        A table for each episode.

    Raises:
        ValueError: The method is unknown, the policy has no probability of a recorded action,
            actions are no numbers from 0 on, or there are fewer than two episodes.

    Source:
        HCA: Harutyunyan et al., arXiv 1912.02503. COCOA: Meulemans et al., arXiv 2306.16803.
        RUDDER: Arjona-Medina et al., arXiv 1806.07857.
    """
    if method not in ("hca", "cocoa", "rudder"):
        raise ValueError(f"method must be 'hca', 'cocoa' or 'rudder', got {method!r}")
    n = len(episodes)
    if n < 2:
        raise ValueError(
            f"hindsight compares episodes with each other: at least 2 are needed, got {n}"
        )
    for episode in episodes:
        _require_actions_from_0(episode)
    counts = _VisitCounts(episodes, policy)
    by_method: dict[Method, Callable[[], FloatArray]] = {
        "hca": counts.hca,
        "cocoa": counts.cocoa,
        "rudder": counts.rudder,
    }
    values = by_method[method]()
    tables = []
    row = 0
    for episode in episodes:
        estimates = []
        for step, action in zip(episode.step_numbers.tolist(), episode.actions, strict=True):
            estimate = Estimate(
                step=step,
                value=float(values[row]),
                ci_low=-math.inf,
                ci_high=math.inf,
                ci_method="none",
                n=n,
                n_discordant=None,
                estimator=method,
                estimand=f"{method.upper()} credit, from {n} episodes",
                action=action,
            )
            estimates.append(estimate)
            row += 1
        table = CreditTable(
            run_id="", episode_id=episode.id, policy_id=policy_id(policy), estimates=estimates
        )
        tables.append(table)
    return tables


class _VisitCounts:
    """The steps of all episodes as columns, (n,) each, and the credit that their counts give."""

    def __init__(self, episodes: Sequence[Episode], policy: Value) -> None:
        states = _Numbers()
        pairs = _Numbers()
        outcomes = _Numbers()
        state_column: list[int] = []
        pair_column: list[int] = []
        outcome_column: list[int] = []
        episode_column: list[int] = []
        probabilities: list[float] = []
        returns_to_go: list[float] = []
        rewards: list[float] = []
        # First row of each episode, and the row after its last.
        self._spans: list[tuple[int, int]] = []
        for number, (episode, keys) in enumerate(
            zip(episodes, recorded_keys(episodes), strict=True)
        ):
            first = len(rewards)
            episode_rewards = np.array([float(reward) for reward in episode.reward_values])
            to_go = episode_rewards[::-1].cumsum()[::-1]
            # An episode has one observation more than actions.
            steps = zip(
                keys,
                episode.actions,
                episode.observation_values,
                episode_rewards.tolist(),
                to_go.tolist(),
                strict=False,
            )
            for key, action, observation, reward, return_to_go in steps:
                pair = (key, action_key(action))
                state_column.append(states.number(key))
                pair_column.append(pairs.number(pair))
                # No reward is no outcome, and has no number.
                outcome_column.append(outcomes.number((*pair, reward)) if reward else -1)
                episode_column.append(number)
                probabilities.append(_probability(policy, observation, action))
                returns_to_go.append(return_to_go)
                rewards.append(reward)
            self._spans.append((first, len(rewards)))
        self._state = np.array(state_column)
        self._pair = np.array(pair_column)
        self._outcome = outcome_column
        self._episode = np.array(episode_column)
        self._pi = np.array(probabilities)
        self._to_go = np.array(returns_to_go)
        self._reward = np.array(rewards)
        self._n_states = len(states)
        self._n_pairs = len(pairs)
        self._n_outcomes = len(outcomes)
        self._state_of_pair = np.zeros(self._n_pairs, np.int64)
        self._state_of_pair[self._pair] = self._state
        distinct, self._return = np.unique(
            np.round(self._to_go, RETURN_DECIMALS), return_inverse=True
        )
        self._n_returns = len(distinct)

    def hca(self) -> FloatArray:
        """Return the credit of every step, (n,) float64."""
        # Number of the step's (pair, return) and of its (state, return).
        pair_return = self._pair * self._n_returns + self._return
        state_return = self._state * self._n_returns + self._return
        with np.errstate(divide="ignore", invalid="ignore"):
            of_pair = np.bincount(pair_return, minlength=self._n_pairs * self._n_returns)
            of_state = np.bincount(state_return, minlength=self._n_states * self._n_returns)
            h = of_pair[pair_return] / of_state[state_return]
            terms = (1 - self._pi / h) * self._to_go
            means = self._means(self._pair, terms, self._n_pairs)
        credit: FloatArray = means[self._pair]
        return credit

    def cocoa(self) -> FloatArray:
        """Return the credit of every step, (n,) float64."""
        after_state, after_pair, sizes = self._count_later_outcomes()
        state_visits = np.bincount(self._state, minlength=self._n_states)
        with np.errstate(divide="ignore", invalid="ignore"):
            # p(a | s, u) / pi(a | s) - 1, times the mean number of u after s. The product is the
            # mean number of u after (s, a) less that after s.
            h = after_pair / after_state[self._state_of_pair]
            ratio = h[self._pair] / self._pi[:, None] - 1
            expected = after_state[self._state] / state_visits[self._state][:, None]
            terms = np.where(expected > 0, ratio * expected, 0.0) * sizes[None, :]
            later = np.nansum(terms, axis=1)
            of_action = self._means(self._pair, self._reward, self._n_pairs)
            of_policy = self._means(self._state, self._reward, self._n_states)
        credit: FloatArray = of_action[self._pair] - of_policy[self._state] + later
        return credit

    def _count_later_outcomes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Count the outcomes after each state and after each pair of state and action.

        Returns:
            (states, outcomes) and (pairs, outcomes): how often an outcome followed; and (outcomes,):
            the reward of each outcome.
        """
        after_state = np.zeros((self._n_states, self._n_outcomes))
        after_pair = np.zeros((self._n_pairs, self._n_outcomes))
        sizes = np.zeros(self._n_outcomes)
        for first, end in self._spans:
            later = np.zeros(self._n_outcomes)
            # Backwards, so that `later` has the outcomes after the row.
            for row in range(end - 1, first - 1, -1):
                after_state[self._state[row]] += later
                after_pair[self._pair[row]] += later
                outcome = self._outcome[row]
                if outcome >= 0:
                    later[outcome] += 1
                    sizes[outcome] = self._reward[row]
        return after_state, after_pair, sizes

    def rudder(self) -> FloatArray:
        """Return the credit of every step, (n,) float64."""
        totals = np.array(
            [self._to_go[first] if end > first else 0.0 for first, end in self._spans]
        )
        after = self._means(self._pair, totals[self._episode], self._n_pairs)[self._pair]
        before = np.concatenate([[np.nan], after[:-1]])
        # Before the first step the mean return of all episodes is expected.
        first_rows = [first for first, end in self._spans if end > first]
        before[first_rows] = float(totals.mean())
        credit: FloatArray = after - before
        return credit

    @staticmethod
    def _means(groups: IntArray, values: FloatArray, n_groups: int) -> FloatArray:
        """Return the mean of the values of each group, (n_groups,) float64."""
        counts = np.bincount(groups, minlength=n_groups)
        return np.asarray(np.bincount(groups, values, n_groups) / counts, np.float64)


class _Numbers:
    """Numbers from 0 for keys, in the order in which the keys first occur."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def _require_actions_from_0(episode: Episode) -> None:
    """Check that an action is its place in the policy's probabilities."""
    space = episode.header.env.action_space
    start = _OTHER_START.search(space)
    if start or any(np.ndim(action) for action in episode.actions):
        raise ValueError(
            f"hindsight needs actions that are whole numbers from 0 on; those of episode "
            f"{episode.id} are of {space or 'an unknown space'}"
        )


def _probability(policy: Value, observation: Value, action: Value) -> float:
    dist = policy.dist(observation) if hasattr(policy, "dist") else None
    if dist is None:
        raise ValueError("the policy must have dist(observation), the probabilities of its actions")
    if not 0 <= int(action) < len(dist):
        raise ValueError(
            f"the policy's dist has {len(dist)} probabilities, and none of the recorded action "
            f"{action!r}"
        )
    return float(dist[int(action)])
