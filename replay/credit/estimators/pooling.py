"""Pooled estimates: where states come again, every visit of every rollout says something of all steps taken there.

With the same rollouts that a scan takes, the error is a fraction: in a tabular world each state is visited by most of them.
Intervals go by rollout: visits of one rollout are no independent samples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.advantage import lost_note, recorded_actions
from trajrec.replay.credit.results.estimates import Arm, Budget, CreditTable, Estimate, Meter
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler, SampleRequest
from trajrec.statistics.quantiles import CONFIDENCE, t_quantile
from trajrec.types import FloatArray
from trajrec.values import codec


def pooled_advantages(
    episodes: Iterable[Episode],
    policy: Any,
    *,
    n_rollouts: int = 16,
    by: Literal["state", "state and step"] = "state",
    budget: Budget | None = None,
    **how: Unpack[RolloutOptions],
) -> list[CreditTable]:
    """Estimate the advantages of all steps of some episodes from one table of what came of each action in each state.

    Args:
        episodes: Of one environment.
        policy: See `scan`.
        n_rollouts: Rollouts at each step: half of them take the recorded action first, half leave it to the policy.
        by: What makes two visits the same: the environment's state without the time, or with the step. Without it values are
            averaged over the steps that are left: right where limits on time hardly matter, and wrong near them.
        budget: What it may take for all episodes together; it ends after a round of 8 rollouts at each of their steps.
        how: See `RolloutOptions`.

    Returns:
        A table for each episode, with rows "value", V(s), and "pooled", Q(s, a) - V(s).

    Raises:
        ValueError: The environment's state cannot be told: it is not known when it comes again. Or it is an agent's world.
    """
    if n_rollouts < 2:
        raise ValueError(f"n_rollouts must be at least 2, got {n_rollouts!r}")
    if how.get("noise", "fresh") != "fresh":
        raise ValueError(
            "visits of rollouts that share their noise say the same: pooled rollouts have noise='fresh'"
        )
    if how.get("resample_hidden") is not None:
        raise ValueError(
            "visits are pooled by the whole state, and not by what the agent knows of it: take scan() instead"
        )
    setting = RolloutConfig.from_options(
        policy, {**how, "noise": "fresh"}, caller="pooled_advantages", keeps_visits=True
    )
    meter, table = Meter(budget), _Table(by, setting.gamma, by_score=setting.success is not None)
    pools = [_Pool(episode, number, setting) for number, episode in enumerate(episodes)]
    for part in meter.rounds(n_rollouts, "rollouts a step"):
        for pool in pools:
            meter.add(pool.fill(table, part))
    table.close()
    return [pool.credit(table, how, meter.notes) for pool in pools]


class _Pool:
    """What one episode adds to the table: rollouts from each of its steps."""

    def __init__(self, episode: Episode, number: int, setting: RolloutConfig) -> None:
        if episode.is_agent_episode:
            raise ValueError(
                f"episode {episode.id} is an agent's: states of worlds are not pooled, take scan() instead"
            )
        self._prober, self._number = Sampler(episode, setting), number
        self._actions = sorted(recorded_actions(episode).items())
        self._rollouts: dict[tuple[int, str], list[Rollout]] = {}
        self._places: dict[int, Hashable] = {}

    def fill(self, table: _Table, part: range) -> list[Rollout]:
        """Run a round of rollouts at each step, half of them with the recorded action; return them, without their visits."""
        scenarios = self._prober.setting.noise.scenarios
        n, first, probes = len(part) // 2, part.start // 2, {}
        for step, action in self._actions:
            place = f"{self._number}/{step}"
            others = scenarios(len(part) - n, f"{place}/value", part.start - first)
            probes[step, "value"] = SampleRequest(step, others)
            probes[step, "action"] = SampleRequest(
                step, scenarios(n, f"{place}/action", first), ((step, action),)
            )
        added = []
        with self._prober as prober:
            found = prober.run(list(probes.values()))
        for (step, kind), some in zip(probes, found, strict=True):
            for rollout in some:
                table.add(rollout, is_forced=kind == "action")
                if (
                    rollout.visits
                ):  # of one that raised at once, or was cut there, it is not known where it began
                    self._places.setdefault(step, table.place(rollout.visits[0]))
                # The table has what was seen: kept as well, the visits of a whole corpus would be held twice.
                added.append(rollout._replace(visits=()))
                self._rollouts.setdefault((step, kind), []).append(added[-1])
        return added

    def credit(self, table: _Table, how: RolloutOptions, notes: Sequence[str]) -> CreditTable:
        """Return the rows of the episode, and keep them."""
        rows = []
        arms = {
            key: Arm.of(some, by_score=self._prober.by_score)
            for key, some in self._rollouts.items()
        }
        for step, action in self._actions:
            own, place = arms[step, "value"], self._places.get(step)
            cost = own.env_steps, own.policy_calls, own.n_invalid
            value, ci_low, ci_high, n = table.value(place)
            rows.append(
                Estimate(
                    step,
                    value,
                    ci_low,
                    ci_high,
                    "clustered-t",
                    n,
                    None,
                    "value",
                    "V(s), over all visits",
                    "fresh",
                    *cost,
                )
            )
            value, ci_low, ci_high, n = table.advantage(place, action)
            what = "Q(s, action) - V(s), over all visits"
            rows.append(
                Estimate(
                    step,
                    value,
                    ci_low,
                    ci_high,
                    "clustered-t",
                    n,
                    None,
                    "pooled",
                    what,
                    "fresh",
                    *cost,
                    action=action,
                )
            )
        kept = [(step, kind, some) for (step, kind), some in self._rollouts.items()]
        return make_table(
            self._prober, rows, kept, how, notes=[*notes, *lost_note(list(arms.values()))]
        )


class _Table:
    """What came of each action in each state: visits with what they paid, where they led, what was returned, by rollout."""

    def __init__(self, by: str, gamma: float, *, by_score: bool) -> None:
        self._by_step, self._gamma, self._by_score = by == "state and step", gamma, by_score
        self._places: dict[Hashable, int] = {}
        self._names: dict[Hashable, int] = {}
        # Place, action, reward, next place (-1: over), return, rollout, whether it was on policy.
        self._rows: list[tuple[int, int, float, int, float, int, bool]] = []
        self._n_rollouts = 0
        self._known: dict[Hashable, tuple[float, float, float, int]] = {}

    def place(self, visit: Any) -> Hashable:
        """Return what makes a visit the same as another.

        Raises:
            ValueError: The state cannot be told.
        """
        if visit.key is None:
            raise ValueError(
                "the environment's state cannot be told, so visits cannot be pooled: take scan() instead"
            )
        # Where time does not count, neither do the wrappers' counts of it.
        return (visit.step, visit.key) if self._by_step else visit.key[-1]

    def add(self, rollout: Rollout, *, is_forced: bool) -> None:
        """Take a rollout in, unless it came to nothing; of one whose first action was forced, that visit says nothing of the
        policy."""
        if rollout.is_lost or (self._by_score and rollout.score is None):
            return
        total, after = (rollout.score or 0.0) if self._by_score else 0.0, -1
        for k, visit in reversed(list(enumerate(rollout.visits))):
            # A check pays at the end what the rewards would along the way.
            reward = visit.reward if not self._by_score else total if after < 0 else 0.0
            total = total if self._by_score else reward + self._gamma * total
            place = self._places.setdefault(self.place(visit), len(self._places))
            name = self._names.setdefault(action_key(visit.action), len(self._names))
            self._rows.append(
                (place, name, reward, after, total, self._n_rollouts, not (is_forced and k == 0))
            )
            after = place
        self._n_rollouts += 1

    def close(self) -> None:
        """Lay the visits out by place."""
        if not self._rows:
            return  # no rollout came to anything: there is no place to be asked for
        columns = list(zip(*self._rows, strict=True))
        self._rows.clear()
        places = np.array(columns[0])
        order = places.argsort(kind="stable")
        bounds = np.searchsorted(places[order], np.arange(len(self._places) + 1))
        self._at = [order[bounds[k] : bounds[k + 1]] for k in range(len(self._places))]
        self._actions, self._rewards, self._after = (np.array(column) for column in columns[1:4])
        self._returns, self._clusters, on_policy = (np.array(column) for column in columns[4:])
        self._on_policy = [at[on_policy[at]] for at in self._at]
        means = [self._returns[at].mean() if len(at) else np.nan for at in self._on_policy]
        self._values = np.array([*means, 0.0])  # the last is what comes after the end
        # What one visit may differ by from another of its kind: where few were made, and all agreed, it is taken from here.
        self._spread_of_value = _spread(self._returns, places)
        targets = (
            self._rewards + (1.0 if self._by_score else self._gamma) * self._values[self._after]
        )
        self._spread_of_step = _spread(targets, places * len(self._names) + self._actions)

    def value(self, place: Hashable | None) -> tuple[float, float, float, int]:
        """Return V of a place with its interval, and how many rollouts came through it: the mean of what they returned."""
        known = self._known.get(place)
        if known is None:
            here = self._places.get(place)
            if here is None or not len(self._on_policy[here]):
                return NOTHING
            known = self._known[place] = self._interval(
                float(self._values[here]), [self._of_value(here, 1.0)]
            )
        return known

    def advantage(self, place: Hashable | None, action: Any) -> tuple[float, float, float, int]:
        """Return Q - V of an action at a place, likewise.

        Both are means of what was paid and of the pooled value of where that led, which varies less than what was returned in
        the end; and where two actions lead to the same place, its value's error is in both alike.
        """
        here, name = self._places.get(place), self._names.get(action_key(action), -1)
        if here is None:
            return NOTHING
        known = self._known.get((here, name))
        if known is None:
            at, on_policy = (
                self._at[here][self._actions[self._at[here]] == name],
                self._on_policy[here],
            )
            if not len(at) or not len(on_policy):
                return NOTHING
            q, of_action, led = self._one_step(at, 1.0)
            v, of_policy, led_too = self._one_step(on_policy, -1.0)
            weights = {k: led.get(k, 0.0) + led_too.get(k, 0.0) for k in {**led, **led_too}}
            parts = [
                of_action,
                of_policy,
                *(self._of_value(k, w) for k, w in weights.items() if abs(w) > 1e-12),
            ]
            known = self._known[here, name] = self._interval(q - v, parts)
        return known

    def _one_step(self, at: Any, sign: float) -> tuple[float, Part, dict[int, float]]:
        """Return the mean of reward and next value over some visits; what each adds to its error, with its rollout; and how
        much the value of each place that they led to counts in it."""
        after, gamma = self._after[at], 1.0 if self._by_score else self._gamma
        targets = self._rewards[at] + gamma * self._values[after]
        mean = float(targets.mean())
        led = dict(
            zip(
                *(column.tolist() for column in np.unique(after[after >= 0], return_counts=True)),
                strict=True,
            )
        )
        weights = {place: sign * gamma * count / len(at) for place, count in led.items()}
        floor = 2 * (self._spread_of_step / (len(at) + 2)) ** 2
        return mean, (sign * (targets - mean) / len(at), self._clusters[at], floor), weights

    def _of_value(self, place: int, weight: float) -> Part:
        """Return what each visit adds to the error of a place's value, and its rollout."""
        at = self._on_policy[place]
        floor = 2 * (weight * self._spread_of_value / (len(at) + 2)) ** 2
        return (
            weight * (self._returns[at] - self._values[place]) / len(at),
            self._clusters[at],
            floor,
        )

    def _interval(self, value: float, parts: list[Part]) -> tuple[float, float, float, int]:
        clusters = np.concatenate([part[1] for part in parts])
        sums: Any = np.bincount(
            clusters, np.concatenate([part[0] for part in parts]), self._n_rollouts
        )
        n = len(np.unique(parts[0][1]))
        if n < 2:
            return value, float("-inf"), float("inf"), n
        variance = float((sums**2).sum()) * n / (n - 1) + sum(part[2] for part in parts)
        half = t_quantile(CONFIDENCE, n - 1) * float(np.sqrt(variance))
        return value, value - half, value + half, n


Part = tuple[FloatArray, Any, float]
"""Of a mean: what each visit adds to its error, the visits' rollouts, and what to add to the variance for how few there are."""


def _spread(values: FloatArray, groups: Any) -> float:
    """Return the standard deviation of values about the mean of their group."""
    names, index = np.unique(groups, return_inverse=True)
    counts = np.bincount(index)
    means = np.bincount(index, values, len(names)) / counts
    return float(np.sqrt(np.mean((values - means[index]) ** 2)))


NOTHING = float("nan"), float("-inf"), float("inf"), 0


def action_key(action: Any) -> Hashable:
    """Return an action as something hashable; equal numbers of different types are the same action."""
    if isinstance(action, (int, np.integer)):
        return int(action)
    return codec.encode(action, canonical=True)


def recorded_keys(episodes: Sequence[Episode]) -> list[list[Hashable]]:
    """Return for each episode what its states before each step are told apart by: their digests, else the observations."""
    found: list[list[Hashable]] = []
    for episode in episodes:
        digests = episode.state_digests
        if digests is not None and len(digests) == len(episode.step_numbers) + 1:
            found.append([int(digest) for digest in digests[:-1]])
        else:
            found.append(
                [
                    codec.encode(obs, canonical=True)
                    for obs in episode.observation_values[: len(episode.actions)]
                ]
            )
    return found
