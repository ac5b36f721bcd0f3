"""Advantages from a corpus alone: SQL compares each step with the other episodes of its group.

These are the estimates that train agents on groups of episodes. GRPO and RLOO give each step the
return of its episode, compared with the group. GiGPO adds a comparison with the other visits of the
step's state. RTMC compares the visits of the state with the same action to all visits of the state.
No rollouts are run. Forks are left out, because their first steps are not fresh rollouts.

The numbers have no intervals: intervals from the spread over episodes held the exact advantage in
57 to 90 % of cases, and not in 95 %.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, Unpack

from trajrec.conditions import bracketed
from trajrec.options import check_options
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.table import CreditTable
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import Action

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

Method = Literal["grpo", "rloo", "gigpo", "rtmc"]
METHODS: tuple[Method, ...] = ("grpo", "rloo", "gigpo", "rtmc")

# Added to a standard deviation before it divides: in a group whose returns are all equal the
# advantages are then 0, and not NaN.
EPSILON = 1e-6

_STATE_METHODS = ("gigpo", "rtmc")

# A task begins in a state of its own, or in one that its world draws. An episode without a task
# whose first state is unknown is of no group: nothing says that another began as it did.
_SAME_START = (
    "env_id, task, CASE WHEN task IS NULL THEN coalesce(CAST(reset_key AS VARCHAR), episode_id) END"
)

MEASURES = {
    "return": "total_reward",
    "outcome": "CASE outcome WHEN 'success' THEN 1.0 WHEN 'failure' THEN 0.0 END",
}


class GroupOptions(TypedDict, total=False):
    """Keywords of `group_advantages`.

    Attributes:
        by: Columns of the table `episodes`, as SQL: episodes with equal values are one group. By
            default those with the same env_id and task, and without a task the same state after
            the reset; an episode without a task and such a state is a group of its own.
        measure: "return", the default; or "outcome": 1 for success and 0 for failure, and episodes
            without an outcome are left out.
        gamma: Discount per step, dimensionless, in (0, 1]; 1 by default.
        weight: Weight of the comparison with the state's other visits in "gigpo"; 1 by default.
        prior: Number of visits with the state's mean that "rtmc" adds to the visits of each action;
            1 by default.
    """

    by: str
    measure: Literal["return", "outcome"]
    gamma: float
    weight: float
    prior: float


# Whoever did nothing, or met an outage, is no other try of the policy.
_IS_TRY = "n_steps > 0 AND coalesce(fault NOT IN ('infra', 'env'), true)"

# returns: an episode a row. statistics: a group a row. visits: a step a row, with the state before
# it and the return from it on.
_COMMON = """
WITH returns AS (
  SELECT episode_id, log, number, md5(CAST(row({by}) AS VARCHAR)) AS group_id, reset_key,
    CAST({measure} AS DOUBLE) AS total
  FROM episodes
  WHERE ending NOT IN ('running', 'interrupted')
    AND {measure} IS NOT NULL AND {where} AND {of_agent} AND {is_try}
), statistics AS (
  SELECT group_id, count(*) AS k, avg(total) AS mean, coalesce(stddev_samp(total), 0) AS std
  FROM returns GROUP BY group_id
), visits AS (
  SELECT r.*, t.step, t.action, CAST(t.action AS VARCHAR) AS action_text,
    CASE WHEN t.step = 0 THEN r.reset_key
      WHEN lag(t.step) OVER w = t.step - 1 THEN lag(t.state_key) OVER w END AS state,
    {to_go} AS to_go
  FROM returns r JOIN steps t USING (episode_id)
  WINDOW w AS (PARTITION BY t.episode_id ORDER BY t.step)
)
"""

_CHECKED = """
SELECT count(DISTINCT episode_id), any_value(episode_id)
FROM episodes JOIN steps USING (episode_id)
WHERE state_check IS NOT NULL AND ending NOT IN ('running', 'interrupted') AND {where}
"""

_RETURN_TO_GO = (
    "sum(coalesce(t.reward, 0) * pow({gamma}, t.step)) "
    "OVER (PARTITION BY t.episode_id ORDER BY t.step "
    "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) / pow({gamma}, t.step)"
)

_EPISODE_QUERY = """
SELECT v.episode_id, v.step, v.action, {value} AS value, g.k AS n
FROM visits v JOIN statistics g USING (group_id)
ORDER BY v.log, v.number, v.step
"""

_EPISODE_QUERIES = {
    "grpo": _EPISODE_QUERY.format(value=f"(v.total - g.mean) / (g.std + {EPSILON})"),
    "rloo": _EPISODE_QUERY.format(
        value="CASE WHEN g.k > 1 THEN g.k / (g.k - 1) * (v.total - g.mean) ELSE 0 END"
    ),
}

# states: the visits of a state in a group, by m different episodes. The visits of one episode alone
# are compared with nothing.
_GIGPO_QUERY = """
, states AS (
  SELECT group_id, state, count(DISTINCT episode_id) AS m, avg(to_go) AS mean
  FROM visits WHERE state IS NOT NULL GROUP BY ALL
)
SELECT v.episode_id, v.step, v.action,
  (v.total - g.mean) / (g.std + {epsilon})
    + {weight} * CASE WHEN s.m > 1 THEN v.to_go - s.mean ELSE 0 END AS value,
  CASE WHEN v.state IS NULL THEN 0 ELSE s.m END AS n
FROM visits v JOIN statistics g USING (group_id)
LEFT JOIN states s ON s.group_id = v.group_id AND s.state = v.state
ORDER BY v.log, v.number, v.step
"""

# Q(s, a) - V(s), drawn towards 0 if there are few visits.
_RTMC_QUERY = """
, pairs_of_episode AS (
  SELECT group_id, state, action_text, episode_id, sum(to_go) AS x, count(*) AS n
  FROM visits WHERE state IS NOT NULL GROUP BY ALL
), states AS (
  SELECT group_id, state, sum(x) / sum(n) AS v, sum(n) AS n FROM pairs_of_episode GROUP BY ALL
), pairs AS (
  SELECT group_id, state, action_text, sum(p.x) / sum(p.n) AS q, sum(p.n) AS n, count(*) AS m
  FROM pairs_of_episode p GROUP BY ALL
)
SELECT v.episode_id, v.step, v.action,
  (q.n * q.q + {prior} * s.v) / (q.n + {prior}) - s.v AS value,
  q.m AS n
FROM visits v
LEFT JOIN pairs q USING (group_id, state, action_text)
LEFT JOIN states s USING (group_id, state)
ORDER BY v.log, v.number, v.step
"""


_MIXED = """
SELECT count(*) FROM (
  SELECT 1 FROM episodes
  WHERE ending NOT IN ('running', 'interrupted') AND {measure} IS NOT NULL AND {where} AND {of_agent}
    AND {is_try}
  GROUP BY md5(CAST(row({by}) AS VARCHAR))
  -- Not by an arrow, for which the query would be run in a process of its own.
  HAVING count(DISTINCT CAST(json_extract(interface, '$.base') AS VARCHAR)) > 1
)
"""


class StepRow(NamedTuple):
    """A row of a query's result.

    Attributes:
        episode_id: The episode.
        step: The step.
        action: Its action as JSON.
        value: The advantage; None if the state before the step is unknown.
        n: Number of episodes that are compared; None or 0 if the state is unknown.
    """

    episode_id: str
    step: int
    action: Action
    value: float | None
    n: int | None


def group_advantages(
    corpus: Corpus,
    method: Method = "rtmc",
    *,
    where: str = "true",
    **options: Unpack[GroupOptions],
) -> list[CreditTable]:
    """Estimate advantages by comparing the episodes of a group with each other.

    Experimental: the numbers are signals for training, and have no intervals. They compare
    episodes, so they are no unbiased estimates of an action's advantage.

    "gigpo" and "rtmc" tell states apart by their keys of 64 bits (`state_key` of the table `steps`).

    Args:
        corpus: The corpus; see `trajrec.open`.
        method: The estimate.
            - "grpo": (R - mean) / (std + 1e-6), with the mean and the standard deviation of the
              group's returns.
            - "rloo": K / (K - 1) (R - mean), with K episodes in the group.
            - "gigpo": The value of "grpo", plus `weight` times the difference between the return
              from the step on and the mean of the group's returns from the same state. The
              difference is 0 if no other episode visited the state.
            - "rtmc": Q - V: the mean return from the state on with the same action, less the mean
              with any action. The first mean counts `prior` more visits with the second one's
              value, so that an action with few visits has an advantage close to 0.
        where: Selects episodes: a SQL condition on the table `episodes`. Probes of checks are left
            out: they are nobody's attempts. So are episodes that have not ended, that have no
            step, and those that a fault of the environment or infrastructure ended.

    Returns:
        A table for each episode, in the order of logs. A step without an estimate has the value
        NaN, and its table has a note. So has that of an episode alone in its group.

    Raises:
        QueryError: `by` or `where` is not valid SQL.
        TypeError: An option is unknown.
        ValueError: The method, the measure or gamma is not allowed; or the method compares the
            visits of states, and a log has checks of states and no keys.

    Source:
        GRPO: Shao et al., arXiv 2402.03300. RLOO: Ahmadian et al., arXiv 2402.14740. GiGPO: Feng et
        al., arXiv 2505.10978. RTMC: arXiv 2604.11037.
    """
    check_options("group_advantages", options, GroupOptions)
    measure = options.get("measure", "return")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if measure not in MEASURES:
        raise ValueError(f"measure must be 'return' or 'outcome', got {measure!r}")
    if method in _STATE_METHODS:
        _check_keys(corpus, where, method)
    query = _visits(where, options) + _comparison(method, options)
    rows: dict[str, list[Estimate]] = {}
    for values in corpus.sql(query, sandbox=True).fetchall():
        row = StepRow(*values)
        rows.setdefault(row.episode_id, []).append(_estimate(row, method, measure))
    return [
        CreditTable(
            run_id="",
            episode_id=episode_id,
            policy_id="corpus",
            estimates=estimates,
            notes=_notes(method, estimates),
        )
        for episode_id, estimates in rows.items()
    ]


def count_mixed_groups(corpus: Corpus, where: str, **options: Unpack[GroupOptions]) -> int:
    """Return the number of groups whose episodes ran with several base models."""
    query = _MIXED.format(
        by=options.get("by", _SAME_START),
        measure=MEASURES[options.get("measure", "return")],
        where=bracketed(where),
        of_agent=IS_OF_AGENT,
        is_try=_IS_TRY,
    )
    ((n_groups,),) = corpus.sql(query, sandbox=True).fetchall()
    return int(n_groups)


def _visits(where: str, options: GroupOptions) -> str:
    """Return the SQL of the tables that all methods compare."""
    gamma = options.get("gamma", 1.0)
    if not 0.0 < gamma <= 1.0:
        raise ValueError(f"gamma must be in (0, 1], got {gamma!r}")
    measure = options.get("measure", "return")
    # An outcome is known at the end only, so it is the same from every step on.
    to_go = _RETURN_TO_GO.format(gamma=float(gamma)) if measure == "return" else "r.total"
    by = options.get("by", _SAME_START)
    return _COMMON.format(
        by=by,
        where=bracketed(where),
        of_agent=IS_OF_AGENT,
        is_try=_IS_TRY,
        measure=MEASURES[measure],
        to_go=to_go,
    )


def _check_keys(corpus: Corpus, where: str, method: Method) -> None:
    """Refuse a comparison of states whose logs tell them apart by checks of 24 bits alone.

    Raises:
        ValueError: An episode has such a log.
    """
    query = _CHECKED.format(where=bracketed(where))
    n_episodes, example = corpus.sql(query, sandbox=True).fetchall()[0]
    if n_episodes:
        raise ValueError(
            f"method must not be {method!r} here: it compares the visits of a state, and the logs "
            f"of {n_episodes} episodes ({example}, ...) have checks of 24 bits, which two states "
            "may share. Record with keep_states='keys' (or 'all'), or use 'grpo' or 'rloo'"
        )


def _comparison(method: Method, options: GroupOptions) -> str:
    """Return the SQL of a method's rows."""
    if method == "gigpo":
        weight = float(options.get("weight", 1.0))
        return _GIGPO_QUERY.format(epsilon=EPSILON, weight=weight)
    if method == "rtmc":
        return _RTMC_QUERY.format(prior=float(options.get("prior", 1.0)))
    return _EPISODE_QUERIES[method]


def _notes(method: Method, rows: list[Estimate]) -> tuple[str, ...]:
    n_unknown = sum(math.isnan(row.value) for row in rows)
    if n_unknown:
        return (
            f"{n_unknown} of {len(rows)} steps have no estimate: {method} compares the visits of a "
            "state, and the states before these steps were not recorded; grpo and rloo need no "
            "states",
        )
    n_blind = sum(row.n == 0 for row in rows) if method == "gigpo" else 0
    if n_blind:
        return (
            f"{n_blind} of {len(rows)} steps have the advantage of grpo alone: the states before "
            "these steps were not recorded, so their visits cannot be compared",
        )
    # Of GRPO and RLOO, n is the size of the group.
    if method not in _STATE_METHODS and rows[0].n == 1:
        return (
            "alone in its group, so that it is compared with nothing and its advantages are 0; "
            "without a task a group is of one recorded first state",
        )
    return ()


def _estimate(row: StepRow, method: Method, measure: str) -> Estimate:
    value = math.nan if row.value is None else row.value
    n = 0 if row.n is None or row.value is None else row.n
    return Estimate(
        step=row.step,
        value=value,
        ci_low=-math.inf,
        ci_high=math.inf,
        ci_method="none",
        n=n,
        n_discordant=None,
        estimator=method,
        estimand=f"{method.upper()} advantage, by {measure}",
        action=row.action,
    )
