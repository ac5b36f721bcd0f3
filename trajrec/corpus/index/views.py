"""Views over the tables: kinds of episodes, interfaces, calls, latest credit and replays, branches."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from trajrec.analysis import bands, lineage, rollouts, verifier_health
from trajrec.corpus.index.credit_tables import CREDIT
from trajrec.corpus.index.label_tables import LABELS
from trajrec.corpus.index.replay_tables import REPLAYS
from trajrec.corpus.index.tables import ALL_EPISODES
from trajrec.run_interface import FIELDS

EpisodeKind: TypeAlias = Literal["rollout", "fork", "nested", "copy"]
EPISODE_KINDS: tuple[EpisodeKind, ...] = ("rollout", "fork", "nested", "copy")


# A part that is marked as missing, at any depth; inside of a text its quotes would be escaped.
_MISSING_INSIDE = r'\{\s*"missing"\s*:\s*"(unknown|redacted|not_captured)"\s*\}'


class View(NamedTuple):
    """A view: the meaning of a row, its columns as (name, meaning), and its query."""

    name: str
    row: str
    columns: tuple[tuple[str, str], ...]
    query: str


def _interface_query(interfaces: str) -> str:
    """Return a query of each field of some interfaces, with its state and its digest.

    One query inside of another: an expression that columns repeat would be bound for each of them,
    at each opening of a corpus.
    """
    values = [f"json_extract(interface, '$.{name}') AS {name}" for name in FIELDS]
    reasons = [f"json_extract_string({name}, '$.missing') AS {name}_reason" for name in FIELDS]
    states = [
        f"CASE WHEN {name} IS NULL THEN 'unknown' "
        f"WHEN {name}_reason = 'not_applicable' THEN 'not_applicable' "
        f"WHEN {name}_reason IS NOT NULL THEN 'unknown' "
        f"WHEN regexp_matches({name}::VARCHAR, '{_MISSING_INSIDE}') THEN 'partial' "
        f"ELSE 'known' END AS {name}_state"
        for name in FIELDS
    ]
    # No digest without the whole value, so that unknown never equals unknown.
    columns = [
        f"{name}, {name}_state, CASE WHEN {name}_state IN ('unknown', 'partial') THEN NULL "
        f"ELSE md5({name}::VARCHAR) END AS {name}_digest"
        for name in FIELDS
    ]
    query = interfaces
    for level in (values, reasons, states):
        query = f"SELECT *, {', '.join(level)} FROM ({query})"
    return f"SELECT interface_id, n_episodes, {', '.join(columns)} FROM ({query})"


_EPISODE_COLUMNS = tuple((name, meaning) for name, _, meaning in ALL_EPISODES.columns)

EPISODES = View(
    "episodes",
    "a fresh rollout: no fork, not begun inside another episode, no copy",
    _EPISODE_COLUMNS,
    "SELECT * FROM all_episodes WHERE kind = 'rollout'",
)
FORKS = View(
    "forks",
    "an episode that was forked from another one",
    _EPISODE_COLUMNS,
    "SELECT * FROM all_episodes WHERE kind = 'fork'",
)
INTERFACES = View(
    "interfaces",
    "an interface that episodes ran under",
    (
        ("interface_id", "its digest"),
        ("n_episodes", "fresh rollouts that ran under it"),
        *((name, "as it was given") for name in FIELDS),
        *(
            (f"{name}_state", "known, not_applicable, partial (a part is missing) or unknown")
            for name in FIELDS
        ),
        *(
            (f"{name}_digest", f"digest of {name}; NULL if it, or a part of it, is unknown")
            for name in FIELDS
        ),
    ),
    # The fields are read from one text of each interface, and not from that of each episode.
    _interface_query(
        "SELECT interface_id, count(*) FILTER (kind = 'rollout') AS n_episodes, "
        "any_value(interface) AS interface "
        "FROM all_episodes WHERE interface_id IS NOT NULL GROUP BY 1"
    ),
)
CALLS = View(
    "calls",
    "a tool call with all its attempts",
    (
        ("episode_id", "its episode"),
        ("kind", "kind of its episode: rollout, fork or nested"),
        ("step", "its step"),
        ("call", "number of the call in its step, from 0"),
        ("tool", "the tool"),
        ("n_attempts", "attempts, at least 1"),
        ("outcome", "of the last attempt: ok, error, timeout, cancelled, open"),
        ("arguments", "of the last attempt"),
        ("result", "of the last attempt"),
        ("latency_ms", "of all attempts together"),
        ("is_retry", "whether the agent repeats a call that failed"),
    ),
    "SELECT episode_id, kind, step, call, any_value(tool) AS tool, count(*) AS n_attempts, "
    "arg_max(outcome, attempt) AS outcome, arg_max(arguments, attempt) AS arguments, "
    "arg_max_null(result, attempt) AS result, sum(latency_ms) AS latency_ms, "
    "bool_or(attempt = 0 AND retry_by IS NOT NULL) AS is_retry FROM attempts GROUP BY ALL",
)
# Runs append and replace nothing, so an older estimate stays beside a newer one.
LATEST_CREDIT = View(
    "latest_credit",
    "the latest estimate of a step, for each estimand, policy and noise",
    tuple((name, meaning) for name, _, meaning in CREDIT.columns),
    "SELECT * FROM credit QUALIFY row_number() OVER (PARTITION BY episode_id, step, estimator, "
    "estimand, policy_id, noise ORDER BY created_at DESC, run_id) = 1",
)
LATEST_LABELS = View(
    "latest_labels",
    "the latest label of a name, for each episode, step and author",
    tuple((name, meaning) for name, _, meaning in LABELS.columns),
    "SELECT * FROM labels QUALIFY row_number() OVER (PARTITION BY episode_id, step, name, given_by, "
    "author ORDER BY labelled_at DESC, log DESC) = 1",
)
LATEST_REPLAY = View(
    "latest_replay",
    "the latest verdict of a replay, for each episode and environment that it was replayed in",
    tuple((name, meaning) for name, _, meaning in REPLAYS.columns),
    "SELECT * FROM replays QUALIFY row_number() OVER (PARTITION BY episode_id, against "
    "ORDER BY replayed_at DESC, run_id) = 1",
)
# Recursive, because the parent of a fork may be a fork itself. Each ancestor is taken once (UNION):
# a hostile log may name a descendant as its parent.
BRANCHES = View(
    "branches",
    "a fork, with the episode that all its ancestors go back to",
    (
        ("episode_id", "the branch"),
        ("kind", "fork"),
        ("parent_id", "episode that it was forked from"),
        ("root_id", "episode at the root: the ancestor that is no fork; NULL if there is none"),
        ("depth", "forks between the root and the branch, at least 1"),
        ("fork_step", "step at which it was forked from its parent"),
        ("n_steps", "its own steps"),
        ("end_step", "number of its last step plus 1"),
        ("total_reward", "sum of the rewards of its own steps"),
        ("ending", "terminated, truncated, abandoned, error, running or interrupted"),
        ("outcome", "success or failure by its primary check"),
    ),
    "WITH RECURSIVE up AS (SELECT episode_id, parent_id AS ancestor FROM forks "
    "UNION SELECT up.episode_id, e.parent_id FROM up JOIN forks e ON e.episode_id = up.ancestor) "
    "SELECT b.episode_id, b.kind, b.parent_id, "
    "max(up.ancestor) FILTER (up.ancestor NOT IN (SELECT episode_id FROM forks)) AS root_id, "
    "count(*) AS depth, b.fork_step, b.n_steps, b.end_step, b.total_reward, b.ending, b.outcome "
    "FROM up JOIN forks b USING (episode_id) GROUP BY ALL",
)
BANDS = View(
    "bands",
    "how often a task is solved under one interface, by the primary check (fresh rollouts alone)",
    bands.COLUMNS,
    bands.bands_query(rollouts.rollout_rows("true", rollouts.CheckName(), has_doubles=True)),
)
LINEAGE_EDGES = View(
    "lineage_edges",
    "a derivation that a fresh rollout declares: `parents` in its metadata, lineage or labels",
    lineage.COLUMNS,
    lineage.EDGES_QUERY,
)
VERIFIER_HEALTH = View(
    "verifier_health",
    "a version of a check, with its verdicts on probes (metadata `probe`) and on repeated states",
    verifier_health.COLUMNS,
    verifier_health.HEALTH_QUERY,
)
# In an order in which each view stands behind the views that it reads.
VIEWS = (
    EPISODES,
    FORKS,
    INTERFACES,
    CALLS,
    LATEST_CREDIT,
    LATEST_LABELS,
    LATEST_REPLAY,
    BRANCHES,
    BANDS,
    LINEAGE_EDGES,
    VERIFIER_HEALTH,
)
