"""A table of visits: what followed each action in each state, over many rollouts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.sampling.rollout import Rollout, Visit
from trajrec.statistics.intervals import UNKNOWN, Interval
from trajrec.statistics.quantiles import CONFIDENCE, t_quantile
from trajrec.types import Action, FloatArray, IntArray
from trajrec.values import codec

METHOD = "clustered-t"

# Measured on lakes and taxis near their time limit: less does not cover.
FLOOR_WEIGHT = 16.0

# Weights below this are rounding: two terms of opposite sign cancelled.
MIN_WEIGHT = 1e-12


class VisitRow(NamedTuple):
    """One visit of a state.

    Attributes:
        state: Number of the state.
        action: Number of the action.
        reward: The reward of the step.
        next_state: Number of the next state; -1 if the rollout ended.
        episode_return: The return from the visit on.
        rollout: Number of the rollout.
        is_on_policy: Whether the policy chose the action.
    """

    state: int
    action: int
    reward: float
    next_state: int
    episode_return: float
    rollout: int
    is_on_policy: bool


class ErrorPart(NamedTuple):
    """A term's contribution to the error of an estimate.

    Attributes:
        deviations: The contribution of each visit, (n,) float64.
        rollouts: The rollout of each visit, (n,) int64; visits of one rollout are not independent.
        floor: Variance to add because the visits are few.
    """

    deviations: FloatArray
    rollouts: IntArray
    floor: float


class PooledEstimate(NamedTuple):
    """A pooled number.

    Attributes:
        interval: The number with its interval.
        n: Number of rollouts that visited the state.
    """

    interval: Interval
    n: int

    def without_interval(self, method: str) -> PooledEstimate:
        """Return the number without its interval."""
        bare = Interval(self.interval.value, float("-inf"), float("inf"), method)
        return PooledEstimate(bare, self.n)


NO_VISITS = PooledEstimate(UNKNOWN._replace(method=METHOD), 0)


class VisitTable:
    """Visits by state and action, and the pooled values computed from them.

    Args:
        by_step: Whether visits at different steps are different states.
        gamma: Discount per step.
        by_score: Whether results are scores.

    Attributes:
        has_intervals: Whether the numbers have intervals. Without the step, visits of a state have
            different values, so an interval would hold none of them.
    """

    def __init__(self, *, by_step: bool, gamma: float, by_score: bool) -> None:
        self._by_step = by_step
        self.has_intervals = by_step
        self._by_score = by_score
        # A score is paid at the end, so its values are not discounted on the way.
        self._gamma = gamma
        self._step_gamma = 1.0 if by_score else gamma
        self._states: dict[Hashable, int] = {}
        self._action_numbers: dict[Hashable, int] = {}
        self._rows: list[VisitRow] = []
        self._n_rollouts = 0
        self._value_cache: dict[int, PooledEstimate] = {}
        self._advantage_cache: dict[tuple[int, int], PooledEstimate] = {}

    def state_key(self, visit: Visit) -> Hashable:
        """Return the key by which visits of the same state are recognised.

        Raises:
            ValueError: The environment's state cannot be read.
        """
        if visit.state_key is None:
            raise ValueError(
                "visits cannot be pooled: the environment's state cannot be read; use estimate()"
            )
        # Without the step, the counters of wrappers are left out too: they count the steps.
        return (visit.step, visit.state_key) if self._by_step else visit.state_key[-1]  # type: ignore[index]

    def add(self, rollout: Rollout, *, is_forced: bool) -> None:
        """Add the visits of a rollout, unless its check gave no verdict.

        Args:
            rollout: The rollout.
            is_forced: Whether its first action was forced, so that this visit is not on policy.
        """
        if self._by_score and rollout.score is None and not rollout.is_invalid:
            return
        total = (rollout.score or 0.0) if self._by_score else 0.0
        next_state = -1
        for k, visit in reversed(list(enumerate(rollout.visits))):
            if self._by_score:
                # The check pays the whole score at the last visit.
                reward = total if next_state < 0 else 0.0
            else:
                reward = visit.reward
                total = reward + self._gamma * total
            state = self._states.setdefault(self.state_key(visit), len(self._states))
            action = self._action_numbers.setdefault(
                action_key(visit.action), len(self._action_numbers)
            )
            is_on_policy = not (is_forced and k == 0)
            self._rows.append(
                VisitRow(
                    state=state,
                    action=action,
                    reward=reward,
                    next_state=next_state,
                    episode_return=total,
                    rollout=self._n_rollouts,
                    is_on_policy=is_on_policy,
                )
            )
            next_state = state
        self._n_rollouts += 1

    def close(self) -> None:
        """Sort the visits by state, before the first estimate."""
        if not self._rows:
            # No rollout has a result, so no state can be looked up.
            return
        columns = [np.array(column) for column in zip(*self._rows, strict=True)]
        # The arrays hold the same data in a tenth of the memory.
        self._rows.clear()
        states, self._actions, self._rewards, self._next, self._returns, self._rollout = columns[:6]
        is_on_policy = columns[6]
        order = states.argsort(kind="stable")
        bounds = np.searchsorted(states[order], np.arange(len(self._states) + 1))
        self._visits = [order[bounds[k] : bounds[k + 1]] for k in range(len(self._states))]
        self._on_policy = [visits[is_on_policy[visits]] for visits in self._visits]
        means = [
            self._returns[visits].mean() if len(visits) else np.nan for visits in self._on_policy
        ]
        # Index -1 is the last element: the value after the end.
        self._values = np.array([*means, 0.0])
        # A few visits that agree say little about their spread, so it is taken from all states.
        self._value_spread = _spread(self._returns, states)
        targets = self._rewards + self._step_gamma * self._values[self._next]
        pairs = states * len(self._action_numbers) + self._actions
        self._step_spread = _spread(targets, pairs)

    def value(self, key: Hashable | None) -> PooledEstimate:
        """Return V(s): the mean return of all visits on policy."""
        state = self._states.get(key)
        if state is None or not len(self._on_policy[state]):
            return NO_VISITS
        if state not in self._value_cache:
            parts = [self._value_part(state, 1.0)]
            self._value_cache[state] = self._estimate(float(self._values[state]), parts)
        return self._value_cache[state]

    def advantage(self, key: Hashable | None, action: Action) -> PooledEstimate:
        """Return Q(s, a) - V(s).

        Both are means of the reward plus the pooled value of the next state, which varies less than
        the return. If two actions lead to the same state, the error of its value cancels.
        """
        state = self._states.get(key)
        number = self._action_numbers.get(action_key(action), -1)
        if state is None:
            return NO_VISITS
        if (state, number) not in self._advantage_cache:
            visits = self._visits[state]
            of_action = visits[self._actions[visits] == number]
            on_policy = self._on_policy[state]
            if not len(of_action) or not len(on_policy):
                return NO_VISITS
            self._advantage_cache[state, number] = self._difference(of_action, on_policy)
        return self._advantage_cache[state, number]

    def _difference(self, of_action: IntArray, on_policy: IntArray) -> PooledEstimate:
        """Return the difference of the means of two sets of visits of one state."""
        q, q_part, q_weights = self._one_step(of_action, 1.0)
        v, v_part, v_weights = self._one_step(on_policy, -1.0)
        next_states = {**q_weights, **v_weights}
        weights = {k: q_weights.get(k, 0.0) + v_weights.get(k, 0.0) for k in next_states}
        value_parts = [self._value_part(k, w) for k, w in weights.items() if abs(w) > MIN_WEIGHT]
        return self._estimate(q - v, [q_part, v_part, *value_parts])

    def _one_step(self, visits: IntArray, sign: float) -> tuple[float, ErrorPart, dict[int, float]]:
        """Return the mean of reward plus next value over visits.

        Returns:
            The mean, its own error, and the weight in it of each next state's value.
        """
        next_states = self._next[visits]
        targets = self._rewards[visits] + self._step_gamma * self._values[next_states]
        mean = float(targets.mean())
        states, counts = np.unique(next_states[next_states >= 0], return_counts=True)
        weights = {
            state: sign * self._step_gamma * count / len(visits)
            for state, count in zip(states.tolist(), counts.tolist(), strict=True)
        }
        floor = _floor(self._step_spread, len(visits))
        deviations = sign * (targets - mean) / len(visits)
        return mean, ErrorPart(deviations, self._rollout[visits], floor), weights

    def _value_part(self, state: int, weight: float) -> ErrorPart:
        """Return the error of a state's value, which counts with a weight."""
        visits = self._on_policy[state]
        floor = _floor(weight * self._value_spread, len(visits))
        deviations = weight * (self._returns[visits] - self._values[state]) / len(visits)
        return ErrorPart(deviations, self._rollout[visits], floor)

    def _estimate(self, value: float, parts: Sequence[ErrorPart]) -> PooledEstimate:
        """Return a number with its interval from the error parts, clustered by rollout."""
        n = len(np.unique(parts[0].rollouts))
        if not self.has_intervals:
            return PooledEstimate(Interval(value, 0.0, 0.0, ""), n).without_interval("none")
        if n < 2:
            return PooledEstimate(Interval(value, float("-inf"), float("inf"), METHOD), n)
        clusters = np.concatenate([part.rollouts for part in parts])
        deviations = np.concatenate([part.deviations for part in parts])
        sums = np.bincount(clusters, deviations, self._n_rollouts)
        variance = float((sums**2).sum()) * n / (n - 1) + sum(part.floor for part in parts)
        half = t_quantile(CONFIDENCE, n - 1) * float(np.sqrt(variance))
        return PooledEstimate(Interval(value, value - half, value + half, METHOD), n)


def _floor(spread: float, n: int) -> float:
    """Return the variance of a mean of n visits that their own agreement does not take away.

    A few visits that agree say little about the next one, so the usual spread of all states counts
    as `FLOOR_WEIGHT` visits more.
    """
    return spread**2 / n * FLOOR_WEIGHT / (n - 1 + FLOOR_WEIGHT)


def _spread(values: FloatArray, groups: IntArray) -> float:
    """Return the standard deviation of values around the mean of their group."""
    names, index = np.unique(groups, return_inverse=True)
    counts = np.bincount(index)
    means = np.bincount(index, values, len(names)) / counts
    return float(np.sqrt(np.mean((values - means[index]) ** 2)))


def action_key(action: Action) -> Hashable:
    """Return a hashable key of an action; equal integers of different types are the same action."""
    if isinstance(action, (int, np.integer)):
        return int(action)
    return codec.encode(action, canonical=True)


def recorded_keys(episodes: Sequence[Episode]) -> list[list[Hashable]]:
    """Return the key of the state before each step: the state's, or else the observation.

    Observations stand for states if any of the episodes has no keys of states: a log with checks of
    24 bits has none, since two states may have the same check.
    """
    all_keys = [_state_keys(episode) for episode in episodes]
    if None not in all_keys:
        return [keys for keys in all_keys if keys is not None]
    return [
        [
            codec.encode(observation, canonical=True)
            for observation in episode.observation_values[: len(episode.actions)]
        ]
        for episode in episodes
    ]


def _state_keys(episode: Episode) -> list[Hashable] | None:
    keys = episode.state_keys
    if keys is None or len(keys) != len(episode.step_numbers) + 1:
        return None
    before: list[Hashable] = keys[:-1].tolist()
    return before
