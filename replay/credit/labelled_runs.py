"""The runs of credit that label the steps of an episode, and the shares of their rollouts that were won."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from trajrec.conditions import bracketed
from trajrec.corpus.episode import Episode

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus


class Share(NamedTuple):
    """A number of rollouts, and the share of them that was won or their mean score."""

    n: int
    share: float


class LabelledRun(NamedTuple):
    """A run of credit with rollouts from every step of an episode.

    Attributes:
        run_id: The run.
        policy_id: The policy of its rollouts.
        has_check: Whether a check decided which rollouts were won.
        shares: Step and arm -> the rollouts of this arm.
    """

    run_id: str
    policy_id: str
    has_check: bool
    shares: dict[tuple[int, str], Share]


def latest_runs(corpus: Corpus, where: str) -> dict[str, LabelledRun]:
    """Return the latest run of each episode that has rollouts from every step."""
    query = f"""
    WITH runs AS (
      SELECT c.episode_id, c.run_id, any_value(c.policy_id) AS policy_id, max(c.created_at) AS made
      FROM credit c JOIN all_episodes e USING (episode_id)
      WHERE e.kind <> 'copy' AND c.estimator IN ('advantage', 'value') GROUP BY ALL
      HAVING count(DISTINCT c.step) >= any_value(e.n_steps)
    ), latest AS (
      SELECT * FROM runs
      QUALIFY row_number() OVER (PARTITION BY episode_id ORDER BY made DESC, run_id) = 1
    ), without_return AS (
      SELECT run_id, episode_id, fork_step AS step, count(*) FILTER (
        status NOT IN ('ended', 'cut') OR isnan(episode_return)) AS n
      FROM rollouts WHERE arm = 'value' GROUP BY ALL
    ), checked AS (
      SELECT run_id, episode_id FROM rollouts WHERE score IS NOT NULL
      UNION
      -- A check that gives no verdict leaves more rollouts without a result.
      SELECT run_id, episode_id FROM credit c JOIN without_return w USING (run_id, episode_id, step)
      WHERE c.estimator = 'value' AND c.n_invalid > w.n
    ), results AS (
      SELECT l.episode_id, l.run_id, l.policy_id, r.fork_step, r.arm,
        k.run_id IS NOT NULL AS has_check,
        CASE WHEN k.run_id IS NOT NULL THEN r.score
          WHEN NOT isnan(r.episode_return) THEN CAST(r.episode_return > 0 AS DOUBLE) END AS result
      FROM latest l JOIN rollouts r USING (run_id, episode_id)
        LEFT JOIN checked k USING (run_id, episode_id)
      WHERE r.arm IN ('value', 'action') AND r.status IN ('ended', 'cut')
        AND {is_asked(where, "l")}
    )
    SELECT * EXCLUDE (result), count(result), avg(result) FROM results GROUP BY ALL
    """
    runs: dict[str, LabelledRun] = {}
    for row in corpus.sql(query, sandbox=True).fetchall():
        episode_id, run_id, policy_id, step, arm, has_check, n, share = row
        run = runs.setdefault(episode_id, LabelledRun(run_id, policy_id, has_check, {}))
        if n:
            run.shares[step, arm] = Share(n, share)
    return runs


def shares_after_steps(episode: Episode, run: LabelledRun) -> dict[int, Share] | None:
    """Return the rollouts from after each step that has a text; None if a step has none."""
    steps = range(episode.first_step, episode.end_step)
    shares: dict[int, Share] = {}
    # A step that raised in an environment is no completion, so it has no label.
    for step in steps if episode.is_agent_episode else episode.step_numbers.tolist():
        # A rollout from after a step forced its action, or began in the state that it led to.
        share = run.shares.get((step, "action")) or run.shares.get((step + 1, "value"))
        if share is None and step == episode.end_step - 1:
            # No rollout begins after the last step: the episode's own result stands for them.
            share = _own_share(episode, run)
        if share is None:
            return None
        shares[step] = share
    return shares or None


def _own_share(episode: Episode, run: LabelledRun) -> Share | None:
    """Return the result of an episode itself; None if it is not told as those of rollouts are."""
    if episode.outcome is not None:
        return Share(1, float(episode.outcome == "success"))
    if run.has_check or math.isnan(episode.total_reward):
        return None
    return Share(1, float(episode.total_reward > 0))


def is_asked(where: str, table: str) -> str:
    """Return the condition that a row of a table belongs to an episode that was asked for."""
    return f"{table}.episode_id IN (SELECT episode_id FROM all_episodes WHERE {bracketed(where)})"
