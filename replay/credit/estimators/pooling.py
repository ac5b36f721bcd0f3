"""Pooled advantages: every visit of a state counts for all steps that were taken in that state."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal, Unpack

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.recorded import recorded_actions
from trajrec.replay.credit.estimators.visits import PooledEstimate, VisitTable
from trajrec.replay.credit.results.budget import Budget, BudgetSpent, Meter
from trajrec.replay.credit.results.estimates import LOST, Arm, Estimate
from trajrec.replay.credit.results.remarks import invalid_note
from trajrec.replay.credit.results.store import make_table
from trajrec.replay.credit.results.table import ArmRollouts, CreditTable
from trajrec.replay.credit.sampling.conditions import has_workers
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.proof import run_proved
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler, share_pool
from trajrec.replay.credit.sampling.share_pool import SharePool
from trajrec.types import Action, Value

BY_STATE_NOTE = (
    "experimental: values are averaged over the number of steps left, so they have no intervals; "
    "by='state and step' has intervals"
)


def pooled_advantages(
    episodes: Iterable[Episode],
    policy: Value,
    *,
    n_rollouts: int = 16,
    by: Literal["state", "state and step"] = "state and step",
    budget: Budget | None = None,
    **options: Unpack[RolloutOptions],
) -> list[CreditTable]:
    """Estimate the advantages of all steps of several episodes from one table of visits.

    Args:
        episodes: Episodes of one environment.
        policy: See `estimate`.
        n_rollouts: Rollouts from each step, at least 2. Half of them take the recorded action
            first, half leave it to the policy.
        by: Which visits count as the same: those of the same state at the same step, or those of
            the same state. Without the step there are more visits, but values are averaged over the
            number of steps left, which is wrong close to a time limit. These numbers are
            experimental and have no intervals.
        budget: Limits for all episodes together, checked after each round of 8 rollouts a step.
        options: See `RolloutOptions`. Noise is always fresh.

    Returns:
        A table for each episode, with rows "value", V(s), and "pooled", Q(s, a) - V(s).

    Raises:
        ValueError: The environment's state cannot be read, so visits of one state cannot be
            recognised; or an episode is an agent's.
    """
    if n_rollouts < 2:
        raise ValueError(f"n_rollouts must be at least 2, got {n_rollouts!r}")
    if options.get("noise", "fresh") != "fresh":
        raise ValueError(
            f"noise must be 'fresh' for pooled rollouts, got {options['noise']!r}: visits under "
            "shared noise repeat each other"
        )
    if options.get("resample_hidden") is not None:
        raise ValueError(
            "resample_hidden is not possible here: visits are pooled by the whole state, not by "
            "the agent's knowledge; use estimate()"
        )
    config = RolloutConfig.from_options(
        policy, {**options, "noise": "fresh"}, caller="pooled_advantages", keeps_visits=True
    )
    episodes = list(episodes)
    by_step = by == "state and step"

    def run(config: RolloutConfig) -> list[CreditTable]:
        return _run(episodes, config, n_rollouts, Meter(budget), by_step=by_step)

    return run_proved(config, run)


def _run(
    episodes: Sequence[Episode],
    config: RolloutConfig,
    n_rollouts: int,
    meter: Meter,
    *,
    by_step: bool,
) -> list[CreditTable]:
    table = VisitTable(
        by_step=by_step,
        gamma=config.gamma,
        by_score=config.success is not None,
    )
    with contextlib.ExitStack() as stack:
        workers = None
        if has_workers(config):
            workers = stack.enter_context(contextlib.closing(share_pool(config)))
        pools = [_Pool(episode, k, config, workers) for k, episode in enumerate(episodes)]
        _sample(pools, table, meter, n_rollouts)
    table.close()
    # All of them, before the first table is stored.
    for pool in pools:
        pool.prove()
    return [pool.make_table(table, meter.notes) for pool in pools]


def _sample(pools: Sequence[_Pool], table: VisitTable, meter: Meter, n_rollouts: int) -> None:
    """Run the rounds of all episodes, and add their visits to the table."""
    for part in meter.rounds(n_rollouts, "rollouts a step"):
        # Visits cannot be taken back, so a round that the budget may break off is added when it is
        # whole. Without a budget the visits of an episode are freed early.
        waiting: list[tuple[_Pool, _Samples]] = []
        try:
            for pool in pools:
                waiting.append((pool, pool.sample(meter, part)))
                if not meter.is_limited:
                    pool.add(table, waiting.pop()[1])
        except BudgetSpent:
            meter.break_off()
            continue
        for pool, samples in waiting:
            pool.add(table, samples)


_Samples = dict[tuple[int, str], list[Rollout]]
"""Rollouts by (step, arm)."""


class _Pool:
    """The rollouts from the steps of one episode."""

    def __init__(
        self, episode: Episode, number: int, config: RolloutConfig, workers: SharePool | None
    ) -> None:
        if episode.is_agent_episode:
            raise ValueError(
                f"episode {episode.id} is an agent's: states of worlds are not pooled; "
                "use estimate()"
            )
        self._sampler = Sampler(episode, config, workers)
        self._number = number
        self._actions = sorted(recorded_actions(episode).items())
        self._rollouts: dict[tuple[int, str], list[Rollout]] = {}
        self._keys: dict[int, Hashable] = {}

    def sample(self, meter: Meter, part: range) -> _Samples:
        """Run a round of rollouts at each step."""
        scenarios = self._sampler.config.noise.scenarios
        n_forced = len(part) // 2
        first_forced = part.start // 2
        requests: dict[tuple[int, str], SampleRequest] = {}
        for step, action in self._actions:
            name = f"{self._number}/{step}"
            free = scenarios(len(part) - n_forced, f"{name}/value", part.start - first_forced)
            forced = scenarios(n_forced, f"{name}/action", first_forced)
            requests[step, "value"] = SampleRequest(step, free)
            requests[step, "action"] = SampleRequest(step, forced, ((step, action),))
        with self._sampler as sampler:
            samples = meter.run(sampler, list(requests.values()))
        return dict(zip(requests, samples, strict=True))

    def add(self, table: VisitTable, samples: _Samples) -> None:
        """Add the visits of a round to the table."""
        counts_lost = self._sampler.config.on_error == "lost"
        for (step, kind), rollouts in samples.items():
            for rollout in rollouts:
                if counts_lost or not rollout.is_invalid:
                    table.add(rollout, is_forced=kind == "action")
                # A rollout that raised at once, or was cut at its first step, has no visits.
                if rollout.visits:
                    self._keys.setdefault(step, table.state_key(rollout.visits[0]))
                # The table holds the visits; a second copy would double the memory of a corpus.
                added = rollout._replace(visits=())
                self._rollouts.setdefault((step, kind), []).append(added)

    def prove(self) -> None:
        """Run a part of the rollouts a second time.

        Raises:
            ControlError: The rollouts are void.
        """
        self._sampler.prove()

    def make_table(self, table: VisitTable, notes: Sequence[str]) -> CreditTable:
        """Return the rows of the episode, and store the run."""
        arms = {key: Arm.of(rollouts, self._sampler) for key, rollouts in self._rollouts.items()}
        is_lost = any(arm.n_unknown for arm in arms.values())
        rows = []
        for step, action in self._actions:
            own = arms[step, "value"]
            key = self._keys.get(step)
            pooled = table.value(key), table.advantage(key, action)
            if is_lost:
                # A lost rollout would have visited states of other steps too.
                pooled = pooled[0].without_interval(LOST), pooled[1].without_interval(LOST)
            rows.append(_row(step, own, pooled[0], "value", "V(s), over all visits"))
            estimand = "Q(s, action) - V(s), over all visits"
            rows.append(_row(step, own, pooled[1], "pooled", estimand, action))
        return make_table(
            self._sampler,
            rows,
            [
                ArmRollouts(step, kind, rollouts)
                for (step, kind), rollouts in self._rollouts.items()
            ],
            notes=[
                *notes,
                *invalid_note(list(arms.values()), self._sampler.config.on_error),
                *([] if table.has_intervals else [BY_STATE_NOTE]),
            ],
        )


def _row(
    step: int,
    own: Arm,
    pooled: PooledEstimate,
    estimator: str,
    estimand: str,
    action: Action = None,
) -> Estimate:
    """Return a row; its cost is that of the step's own rollouts."""
    return Estimate(
        step=step,
        value=pooled.interval.value,
        ci_low=pooled.interval.ci_low,
        ci_high=pooled.interval.ci_high,
        ci_method=pooled.interval.method,
        n=pooled.n,
        n_discordant=None,
        estimator=estimator,
        estimand=estimand,
        noise="fresh",
        env_steps=own.env_steps,
        policy_calls=own.policy_calls,
        n_invalid=own.n_invalid,
        action=action,
    )
