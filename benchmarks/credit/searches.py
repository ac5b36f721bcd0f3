"""Searches for the decisive step that trajrec is compared with: OmegaPRM's bisection, and halving.

Both are bisections over steps. They are perfect if a fault is final, and wrong if the agent can
repair the fault: the step from which no rollout succeeds is then later than the fault, or missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.decision import Decision
from trajrec.replay.credit.estimators.decisive import Finding, Search
from trajrec.replay.credit.sampling.options import RolloutConfig, RolloutOptions
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.types import Value


def bisect_success(
    episode: Episode, policy: Value, *, n_rollouts: int = 32, **options: Unpack[RolloutOptions]
) -> Decision:
    """Find the last step from which any rollout succeeds.

    Source:
        Luo et al., OmegaPRM, arXiv 2406.06592.
    """

    def bar(search: Search) -> float:
        return 0.0

    return _bisect(
        episode, policy, method="bisect", bar=bar, n_rollouts=n_rollouts, options=options
    )


def halve_value(
    episode: Episode, policy: Value, *, n_rollouts: int = 32, **options: Unpack[RolloutOptions]
) -> Decision:
    """Find the last step whose value is more than half of the first step's."""

    def bar(search: Search) -> float:
        return float(search.sample_value(search.steps[0], n_rollouts).mean()) / 2

    return _bisect(
        episode, policy, method="halving", bar=bar, n_rollouts=n_rollouts, options=options
    )


def _bisect(
    episode: Episode,
    policy: Value,
    *,
    method: str,
    bar: Callable[[Search], float],
    n_rollouts: int,
    options: RolloutOptions,
) -> Decision:
    config = RolloutConfig.from_options(policy, options, caller=method)
    with Sampler(episode, config) as sampler:
        search = Search(
            sampler,
            n_rollouts=n_rollouts,
            max_rollouts=max(2048, n_rollouts),
            confidence=0.95,
            budget=None,
        )
        search.require_failure(method)
        least = bar(search)
        above = search.steps.start
        below = search.steps.stop
        while below - above > 1:
            middle = (above + below) // 2
            if float(search.sample_value(middle, n_rollouts).mean()) > least:
                above = middle
            else:
                below = middle
        return search.confirm(Finding(above, None, method, "", n_rollouts))
