"""Shapley values of steps, or of segments of steps: each one's fair share of an outcome that several brought about together.

The game: v(S) is what comes of it when the steps in S keep their recorded action and the policy draws the others anew. Leaving
one out blames both of two steps that were each needed, and neither of two that would each have done; a Shapley value shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.advantage import recorded_actions
from trajrec.replay.credit.results.estimates import Arm, Budget, CreditTable, Estimate, Meter
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler, SampleRequest
from trajrec.statistics import intervals


def shapley_values(
    episode: Episode,
    policy: Any,
    *,
    segments: Sequence[Iterable[int]] | None = None,
    n_permutations: int = 64,
    budget: Budget | None = None,
    **how: Unpack[RolloutOptions],
) -> CreditTable:
    """Estimate the Shapley value of each step, or of each segment, by random orders and their reverses.

    Args:
        episode: From `Corpus.episode`.
        policy: See `scan`.
        segments: Steps that are held or drawn together; by default each step is one. Steps in none keep their recorded action.
        n_permutations: Pairs of orders; each takes 2 (segments + 1) rollouts of the whole episode, fewer where they meet.
        budget: What it may take.
        how: See `RolloutOptions`.

    Returns:
        A row for each segment, at its first step. The values sum to v(all) - v(none), but for what chance leaves.

    Source:
        Castro, Gomez & Tejada, Comput. Oper. Res. 36 (2009); antithetic orders: Mitchell et al., JMLR 23 (2022).
    """
    if n_permutations < 2:
        raise ValueError(f"n_permutations must be at least 2, got {n_permutations!r}")
    steps = range(episode.first_step, episode.n_steps)
    groups: list[tuple[int, ...]] = (
        [(step,) for step in steps]
        if segments is None
        else [tuple(segment) for segment in segments]
    )
    for group in groups:
        if not group or any(step not in steps for step in group):
            raise IndexError(
                f"a segment must have steps of the episode, {steps.start} to {steps.stop - 1}, got {group}"
            )
    with Sampler(
        episode, RolloutConfig.from_options(policy, how, caller="shapley_values")
    ) as prober:
        return _Game(prober, groups).play(n_permutations, Meter(budget), how)


class _Game:
    """The hold-or-redraw game of one episode."""

    def __init__(self, prober: Sampler, groups: list[tuple[int, ...]]) -> None:
        self._prober, self._groups, self._episode = prober, groups, prober.episode
        self._actions = recorded_actions(self._episode)
        self._free = set(range(self._episode.first_step, self._episode.n_steps)) - {
            s for group in groups for s in group
        }
        self._by_score = prober.by_score

    def play(self, n_permutations: int, meter: Meter, how: RolloutOptions) -> CreditTable:
        n, seed = len(self._groups), self._prober.setting.noise.seed
        rng = np.random.default_rng([seed, 5])
        pairs: list[list[float]] = []  # of each pair of orders, the mean marginal of each group
        kept: list[tuple[int, str, Sequence[Rollout]]] = []
        n_invalid = 0
        for part in meter.rounds(
            n_permutations, "pairs of orders", always=True
        ):  # the scripts of all orders are large
            orders = []
            for _ in part:
                order = rng.permutation(n).tolist()
                orders += [order, order[::-1]]
            probes = [
                probe
                for k, order in enumerate(orders, 2 * part.start)
                for probe in self._probes(order, k)
            ]
            rollouts = self._prober.run(probes)
            for found in rollouts:
                meter.add(found)
                kept.append((self._episode.first_step, "held", found))
            values = np.array(
                [Arm.of(found, by_score=self._by_score).values[0] for found in rollouts]
            ).reshape(-1, n + 1)
            for k in range(0, len(orders), 2):
                marginals = np.zeros(n)
                for order, row in zip(orders[k : k + 2], values[k : k + 2], strict=True):
                    marginals[order] += np.diff(row) / 2
                if np.isnan(marginals).any():
                    n_invalid += 1
                else:
                    pairs.append(marginals.tolist())
        notes = list(meter.notes)
        if n_invalid:
            notes.append(
                f"{n_invalid} pairs of orders had a rollout that came to nothing, and count for nothing"
            )
        rows = self._rows(np.array(pairs).reshape(-1, n), kept)
        return make_table(self._prober, rows, kept, how, notes=notes)

    def _probes(self, order: list[int], number: int) -> list[SampleRequest]:
        """Return the rollouts of one order: none held, then one group more each time; all in one scenario."""
        scenarios = self._prober.setting.noise.scenarios(1, f"shapley/{number}", number)
        held: set[int] = set(self._free)
        probes = []
        for group in (None, *order):
            held |= set() if group is None else set(self._groups[group])
            script = tuple(
                (step, self._actions[step]) for step in sorted(held) if step in self._actions
            )
            probes.append(SampleRequest(self._episode.first_step, scenarios, script))
        return probes

    def _rows(self, pairs: Any, kept: list[tuple[int, str, Sequence[Rollout]]]) -> list[Estimate]:
        total = sum(r.env_steps for _, _, found in kept for r in found) // max(1, len(self._groups))
        calls = sum(r.policy_calls for _, _, found in kept for r in found) // max(
            1, len(self._groups)
        )
        scale = max(0.5 if self._by_score else 0.0, intervals.standard_deviation(pairs))
        rows = []
        for column, group in enumerate(self._groups):
            found = intervals.augmented_t(pairs[:, column], scale)._replace(
                method="augmented-t over antithetic pairs"
            )
            what = (
                f"Shapley value of step {group[0]}"
                if len(group) == 1
                else f"Shapley value of steps {group[0]} to {group[-1]}"
            )
            rows.append(
                Estimate(
                    group[0],
                    *(found if len(pairs) else intervals.UNKNOWN),
                    len(pairs),
                    int(np.count_nonzero(pairs[:, column])),
                    "shapley",
                    what,
                    self._prober.noise,
                    total,
                    calls,
                    action=self._actions.get(group[0]) if len(group) == 1 else None,
                )
            )
        return rows
