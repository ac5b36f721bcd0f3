"""Credit from the corpus alone: what a step is worth by comparison with other episodes that were given the same, in SQL.

No rollouts are run. The estimates are those by which agents are trained on groups of episodes: GRPO and RLOO give each step its
episode's return against the group's; GiGPO adds what came of the same state in the group; RTMC compares what came of the same
action in the same state. Forks are left out: they are no fresh rollouts.
"""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any, Literal

from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.table import CreditTable
from trajrec.statistics.quantiles import CONFIDENCE, t_quantile

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

Method = Literal["grpo", "rloo", "gigpo", "rtmc"]
METHODS: tuple[Method, ...] = ("grpo", "rloo", "gigpo", "rtmc")
EPSILON = 1e-6

# Episodes with what they came to, e; their groups, g; their steps with the state before and the return from there on, s.
_COMMON = """
WITH e AS (
  SELECT episode_id, log, number, n_steps, md5(CAST(row({by}) AS VARCHAR)) AS gid, reset_digest,
    CAST({measure} AS DOUBLE) AS r
  FROM episodes WHERE parent_id IS NULL AND ending NOT IN ('running', 'interrupted') AND {measure} IS NOT NULL AND ({where})
), g AS (
  SELECT gid, count(*) AS k, avg(r) AS mean, coalesce(stddev_samp(r), 0) AS std FROM e GROUP BY gid
), s AS (
  SELECT e.*, t.step, t.action, CAST(t.action AS VARCHAR) AS act,
    coalesce(lag(t.state_digest) OVER w, e.reset_digest) AS state,
    {to_go} AS togo
  FROM e JOIN steps t USING (episode_id)
  WINDOW w AS (PARTITION BY t.episode_id ORDER BY t.step)
)
"""

_RETURN_TO_GO = (
    "sum(coalesce(t.reward, 0) * pow({gamma}, t.step)) OVER (PARTITION BY t.episode_id ORDER BY t.step "
    "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) / pow({gamma}, t.step)"
)

# A group's mean is not known exactly: its standard error is what the interval is made of.
_EPISODE = """
SELECT s.episode_id, s.step, s.action, {value} AS value, g.std / sqrt(g.k) {scale} AS se, g.k AS n
FROM s JOIN g USING (gid) ORDER BY s.log, s.number, s.step
"""

# What came of the same state in the group: visits c, by episode; of one episode alone nothing can be said.
_ANCHOR = """
, c AS (
  SELECT gid, state, count(DISTINCT episode_id) AS m, avg(togo) AS mean, coalesce(stddev_samp(togo), 0) AS std
  FROM s WHERE state IS NOT NULL GROUP BY ALL
)
SELECT s.episode_id, s.step, s.action,
  (s.r - g.mean) / (g.std + {eps}) + {weight} * CASE WHEN c.m > 1 THEN s.togo - c.mean ELSE 0 END AS value,
  sqrt(pow(g.std / sqrt(g.k) / (g.std + {eps}), 2) + CASE WHEN c.m > 1 THEN pow({weight} * c.std, 2) / c.m ELSE 0 END) AS se,
  coalesce(c.m, 1) AS n
FROM s JOIN g USING (gid) LEFT JOIN c ON c.gid = s.gid AND c.state = s.state
ORDER BY s.log, s.number, s.step
"""

# Q - V by state and action, towards V where there are few visits; the error goes by episode: visits of one are one sample.
_ACTIONS = """
, p AS (SELECT gid, state, act, episode_id, sum(togo) AS x, count(*) AS n FROM s WHERE state IS NOT NULL GROUP BY ALL
), v AS (SELECT gid, state, sum(x) / sum(n) AS v, sum(n) AS n FROM p GROUP BY ALL
), q AS (
  SELECT gid, state, act, sum(p.x) / sum(p.n) AS q, sum(p.n) AS n, count(*) AS m FROM p GROUP BY ALL
), pe AS (SELECT gid, state, episode_id, sum(x) AS x, sum(n) AS n FROM p GROUP BY ALL
), d AS (
  SELECT q.gid, q.state, q.act, sum(pow(coalesce((p.x - q.q * p.n) / q.n, 0) - (pe.x - v.v * pe.n) / v.n, 2)) AS square,
    count(*) AS m
  FROM q JOIN pe USING (gid, state) JOIN v USING (gid, state)
  LEFT JOIN p ON p.gid = q.gid AND p.state = q.state AND p.act = q.act AND p.episode_id = pe.episode_id
  GROUP BY ALL
)
SELECT s.episode_id, s.step, s.action, (q.n * q.q + {prior} * v.v) / (q.n + {prior}) - v.v AS value,
  sqrt(d.square * d.m / nullif(d.m - 1, 0)) AS se, q.m AS n
FROM s LEFT JOIN q USING (gid, state, act) LEFT JOIN v USING (gid, state) LEFT JOIN d USING (gid, state, act)
ORDER BY s.log, s.number, s.step
"""


def group_advantages(
    corpus: Corpus,
    method: Method = "rtmc",
    *,
    by: str = "env_id, task, reset_digest",
    where: str = "true",
    measure: Literal["return", "outcome"] = "return",
    gamma: float = 1.0,
    weight: float = 1.0,
    prior: float = 1.0,
) -> list[CreditTable]:
    """Estimate the credit of steps from the episodes of a corpus, compared with others of their group.

    States are told apart by their digests, of 24 bits: fit for groups of some thousand states.

    Args:
        corpus: From `trajrec.open`.
        method: "grpo": (R - mean) / (std + 1e-6) of the group. "rloo": K / (K - 1) (R - mean). "gigpo": GRPO's, and `weight`
            times the return from a step on against that of the group from the same state; 0 where no other episode was
            there. "rtmc": Q - V, the mean returns from a state on, with the same action and with any.
        by: What a group has in common, as SQL on the table `episodes`.
        where: Which episodes, as a condition on it.
        measure: "return", or "outcome": 1 for success, 0 for failure, and episodes without a verdict are left out.
        gamma: Discount per step, in (0, 1].
        weight: See `method`.
        prior: Visits of the state's mean that "rtmc" adds to each action's.

    Returns:
        A table for each episode, in the order of logs. A step of which nothing can be said has the value NaN, and the table
        a note.

    Raises:
        QueryError: `by` or `where` is wrong.
        ValueError: An argument is none of those that it may be.

    Source:
        GRPO: Shao et al., arXiv 2402.03300; RLOO: Ahmadian et al., arXiv 2402.14740; GiGPO: Feng et al., arXiv 2505.10978;
        RTMC: arXiv 2604.11037.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0.0 < gamma <= 1.0:
        raise ValueError(f"gamma must be in (0, 1], got {gamma!r}")
    if measure not in ("return", "outcome"):
        raise ValueError(f"measure must be 'return' or 'outcome', got {measure!r}")
    value = (
        "total_reward"
        if measure == "return"
        else "CASE outcome WHEN 'success' THEN 1.0 WHEN 'failure' THEN 0.0 END"
    )
    # What only the end says is the same from every step on.
    to_go = _RETURN_TO_GO.format(gamma=float(gamma)) if measure == "return" else "e.r"
    common = _COMMON.format(by=by, where=where, measure=value, to_go=to_go)
    body = {
        "grpo": _EPISODE.format(
            value=f"(s.r - g.mean) / (g.std + {EPSILON})", scale=f"/ (g.std + {EPSILON})"
        ),
        "rloo": _EPISODE.format(
            value="CASE WHEN g.k > 1 THEN g.k / (g.k - 1) * (s.r - g.mean) ELSE 0 END",
            scale="* g.k / greatest(g.k - 1, 1)",
        ),
        "gigpo": _ANCHOR.format(eps=EPSILON, weight=float(weight)),
        "rtmc": _ACTIONS.format(prior=float(prior)),
    }[method]
    found: dict[str, list[Estimate]] = {}
    for episode_id, step, action, estimate, se, n in corpus.sql(common + body).fetchall():
        found.setdefault(episode_id, []).append(
            _estimate(method, measure, step, action, estimate, se, n)
        )
    return [
        CreditTable(
            run_id="",
            episode_id=episode_id,
            policy_id="corpus",
            estimates=rows,
            notes=_notes(method, rows),
        )
        for episode_id, rows in found.items()
    ]


def _notes(method: str, rows: list[Estimate]) -> tuple[str, ...]:
    unknown = sum(isnan(row.value) for row in rows)
    if not unknown:
        return ()
    what = f"of {unknown} of {len(rows)} steps nothing is known: {method} compares what came of the same state"
    return (f"{what}, and the states before them were not recorded; grpo and rloo need none",)


def _estimate(
    method: str,
    measure: str,
    step: int,
    action: Any,
    value: float | None,
    se: float | None,
    n: int | None,
) -> Estimate:
    if value is None:
        value, se, n = float("nan"), None, 0
    half = float("inf") if se is None or n is None or n < 2 else t_quantile(CONFIDENCE, n - 1) * se
    what = f"{method.upper()} advantage, by {measure}"
    return Estimate(
        step=step,
        value=value,
        ci_low=value - half,
        ci_high=value + half,
        ci_method="t over episodes",
        n=n or 0,
        n_discordant=None,
        estimator=method,
        estimand=what,
        action=action,
    )
