"""Rollouts graded by one named check, in cells of one task each.

The tables are read with one GROUP BY, so that a million episodes become a few thousand rows.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from trajrec.analysis.source import Source, fetch, metadata_column, quoted
from trajrec.conditions import bracketed
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import Value


class CheckName(NamedTuple):
    """A check by name.

    Attributes:
        check_id: The verifier; None stands for the primary check of each episode.
        version: Its version; None stands for the verdict that was given when the episode ended.
    """

    check_id: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        if self.check_id is None:
            return "primary check"
        return self.check_id if self.version is None else f"{self.check_id}@{self.version}"

    @property
    def condition(self) -> str:
        """SQL for the rows of `checks` that may grade an episode."""
        if self.check_id is None:
            return "is_primary AND phase <> 'post-hoc'"
        if self.version is None:
            return f"check_id = {quoted(self.check_id)} AND phase <> 'post-hoc'"
        return f"check_id = {quoted(self.check_id)} AND version = {quoted(self.version)}"


def read_check(text: str | None) -> CheckName:
    """Read the name of a check.

    Args:
        text: "reached@1" for version 1, whenever it ran; "reached" for the verdict that was given
            when the episode ended; None for the primary check.

    >>> read_check("reached@1"), str(read_check("reached"))
    (CheckName(check_id='reached', version='1'), 'reached')
    """
    if text is None:
        return CheckName()
    check_id, _, version = text.rpartition("@")
    return CheckName(check_id, version) if check_id else CheckName(text)


def find_check(text: str | None, *sources: Source) -> CheckName:
    """Read the name of a check of which some corpus has a verdict; see `read_check`.

    Raises:
        ValueError: No corpus has one. The message names the checks that there are.
    """
    name = read_check(text)
    query = f"SELECT 1 FROM checks WHERE {name.condition} LIMIT 1"
    if text is None or any(source.sql(query).fetchall() for source in sources):
        return name
    query = "SELECT DISTINCT check_id || '@' || version FROM checks"
    names = sorted({row[0] for source in sources for row in source.sql(query).fetchall()})
    raise ValueError(f"no episode has the check {text!r}; checks: {', '.join(names) or 'none'}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Rollouts of one task that agree in everything that is observed of their interface.

    Attributes:
        unit: The task; None if the episode has none.
        is_derived: Whether the task is derived from the environment and the state after the reset.
        family: The cluster that the task belongs to; None without one.
        interface_id: Digest of the declared interface; None if unknown.
        facets: Observed parts of the interface, by name.
        reason: Why they have no result; None if they are graded.
        n: Rollouts.
        total: Sum of their results.
        deviations: Sum of the squared differences from their mean.
        is_binary: Whether each result is 0 or 1.
        lowest: Their least result; None without one.
        highest: Their greatest result.
        n_truncated: Rollouts that were cut off, e.g. by a spent budget.
        first_at: Start of the first rollout; None if unknown.
        last_at: Start of the last one.
    """

    unit: str | None
    is_derived: bool
    family: str | None
    interface_id: str | None
    facets: dict[str, str | None]
    reason: str | None
    n: int
    total: float
    deviations: float
    is_binary: bool
    lowest: float | None
    highest: float | None
    n_truncated: int
    first_at: datetime.datetime | None
    last_at: datetime.datetime | None

    @property
    def check_name(self) -> str | None:
        """The check that graded them, with its version."""
        check_id = self.facets["check_id"]
        return None if check_id is None else f"{check_id}@{self.facets['version']}"

    @property
    def n_graded(self) -> int:
        """Rollouts with a result."""
        return self.n if self.reason is None else 0


FACETS = (
    "check_id",
    "version",
    "check_code",
    "env_id",
    "state_adapter",
    "tools_digest",
    "offered_digest",
    "system_digest",
    "task_revision",
    "goal_digest",
)
"""Observed parts of an interface that are read with the rollouts."""

# Those of them that are columns of `episodes`, and not of `checks`.
_OF_EPISODES = FACETS[3:]


def graded_rows(check: CheckName, *, has_doubles: bool) -> str:
    """Return a query of the row of `checks` that grades each rollout.

    Args:
        check: The check.
        has_doubles: Whether an episode has several such rows. The verdict of the episode's own end
            counts before those that were added later, and of those the first one.
    """
    # Without their kind: the episodes that they are joined to are rollouts.
    rows = f"FROM checks WHERE {check.condition}"
    query = f"SELECT {_CHECK_COLUMNS} {rows}"
    if not has_doubles:
        return query
    # Few episodes have several verdicts. To order those of all episodes takes three times as long.
    doubles = f"(SELECT episode_id {rows} GROUP BY episode_id HAVING count(*) > 1)"
    return f"""
        {query} AND episode_id NOT IN {doubles}
        UNION ALL (
            {query} AND episode_id IN {doubles}
            QUALIFY row_number() OVER (PARTITION BY episode_id ORDER BY
                (verdict IS NOT NULL OR score IS NOT NULL) DESC, phase <> 'post-hoc' DESC,
                CASE WHEN phase <> 'post-hoc' THEN step END DESC NULLS LAST,
                CASE WHEN phase <> 'post-hoc' THEN -epoch_us(checked_at)
                    ELSE epoch_us(checked_at) END NULLS LAST, version, log) = 1
        )"""


_CHECK_COLUMNS = "episode_id, check_id, version, code_digest, status, verdict, score, state_digest"


def rollout_rows(
    where: str,
    check: CheckName,
    *,
    has_doubles: bool,
    episodes: str = "episodes",
    is_score: bool = False,
    cluster: str | None = None,
) -> str:
    """Return a query of fresh rollouts, each with its task, its result and why it has none.

    Columns besides those of `episodes`: unit, is_derived, family, check_id, version, check_code,
    state_digest, y (the result) and reason (NULL for a graded rollout).

    Args:
        where: A SQL condition on the columns of `episodes`.
        check: The check that grades.
        has_doubles: See `graded_rows`.
        episodes: The table, or a query in parentheses with the same columns and others.
        is_score: Whether the result is the score and not the verdict.
        cluster: Key of the metadata that names the family of a task.
    """
    family = "NULL::VARCHAR" if cluster is None else metadata_column(cluster)
    # NaN is no result.
    result = (
        "CASE WHEN isfinite(c.score) THEN c.score END" if is_score else "c.verdict::INT::DOUBLE"
    )
    # The fault of an episode names the primary check alone; each other check has its own status.
    broken = "c.status = 'error'"
    if check.check_id is None:
        broken = "(c.status = 'error' OR e.fault = 'verifier')"
    unit = "coalesce(e.task, coalesce(e.env_id, '?') || ' from state ' || e.reset_key)"
    return f"""
        SELECT e.*, {unit} AS unit, e.task IS NULL AS is_derived, {family} AS family,
            c.check_id, c.version, c.code_digest AS check_code,
            c.state_digest, {result} AS result,
            CASE WHEN {unit} IS NULL THEN 'no task'
                WHEN e.fault IN ('infra', 'env') THEN e.fault
                WHEN result IS NOT NULL THEN NULL
                WHEN {broken} THEN 'verifier'
                WHEN e.ending IN ('running', 'interrupted') THEN e.ending
                ELSE 'no {"score" if is_score else "verdict"}' END AS reason,
            CASE WHEN reason IS NULL THEN result END AS y
        FROM (SELECT * FROM {episodes} WHERE {bracketed(where)} AND {IS_OF_AGENT}) e
        LEFT JOIN ({graded_rows(check, has_doubles=has_doubles)}) c USING (episode_id)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How rollouts are read.

    Attributes:
        check: The check that grades.
        is_score: Whether the result is the score and not the verdict.
        cluster: Key of the metadata that names the family of a task; None without families.
    """

    check: CheckName
    is_score: bool = False
    cluster: str | None = None

    def rows(self, where: str, *, has_doubles: bool, episodes: str = "episodes") -> str:
        """Return the query of `rollout_rows`."""
        return rollout_rows(
            where,
            self.check,
            has_doubles=has_doubles,
            episodes=episodes,
            is_score=self.is_score,
            cluster=self.cluster,
        )


def read_runs(source: Source, wheres: Sequence[str], reading: Reading) -> list[list[Group]]:
    """Return the rollouts of several runs of one corpus, in groups.

    Args:
        source: The corpus.
        wheres: A SQL condition on the columns of `episodes` for each run.
        reading: How they are read.

    Raises:
        QueryError: DuckDB rejects a condition.
        ValueError: An episode is in several runs.
    """
    is_ours = all(where == "true" for where in wheres)
    runs = [f"coalesce({bracketed(where)}, false)" for where in wheres]
    cases = " ".join(f"WHEN {run} THEN {number}" for number, run in enumerate(runs))
    if len(runs) > 1:
        several = " + ".join(f"{run}::INT" for run in runs)
        cases = f"WHEN {several} > 1 THEN {len(runs)} {cases}"
    ((n_episodes, *n_known),) = source.sql(
        f"SELECT count(*), {', '.join(f'count({name})' for name in _OF_EPISODES)} "
        f"FROM episodes WHERE ({' OR '.join(runs)}) AND {IS_OF_AGENT}",
        sandbox=not is_ours,
    ).fetchall()
    # A column that no episode has would be hashed for each of them.
    empty = {name for name, n in zip(_OF_EPISODES, n_known, strict=True) if not n}
    facets_sql = ", ".join(f"NULL AS {name}" if name in empty else name for name in FACETS)
    # Each condition is evaluated once: those on JSON cost as much as all the rest.
    episodes = f"(SELECT *, CASE {cases} END AS run FROM episodes)"

    def read(has_doubles: bool) -> list[dict[str, Any]]:
        rows = reading.rows("run IS NOT NULL", has_doubles=has_doubles, episodes=episodes)
        extent = "true AS is_binary, NULL AS lowest, NULL AS highest"
        if reading.is_score:
            extent = """
                coalesce(bool_and(y IN (0, 1)), true) AS is_binary,
                min(y) AS lowest, max(y) AS highest"""
        # In order: it decides which task an error names, and how sums of floats round.
        # Not with the sum of the squares: near 1e8 it has no digits left for the differences.
        query = f"""
            SELECT run, unit, is_derived, family, interface_id, reason,
                {facets_sql}, count(*) AS n, coalesce(sum(y), 0) AS total,
                coalesce(var_pop(y) * count(y), 0) AS deviations, {extent},
                count(*) FILTER (ending = 'truncated') AS n_truncated,
                min(started_at) AS first_at, max(started_at) AS last_at
            FROM ({rows}) GROUP BY ALL ORDER BY ALL"""
        return fetch(source, query, is_ours=is_ours)

    found = read(has_doubles=False)
    if sum(row["n"] for row in found) != n_episodes:
        # An episode has several verdicts of the check. To choose one of them costs more.
        found = read(has_doubles=True)
    if n_shared := sum(row["n"] for row in found if row["run"] == len(runs)):
        raise ValueError(
            f"{n_shared} episodes are in both runs; give conditions that exclude each other"
        )
    groups: list[list[Group]] = [[] for _ in wheres]
    for row in found:
        facets = {name: row.pop(name) for name in FACETS}
        groups[row.pop("run")].append(Group(facets=facets, **row))
    return groups


def ids_of(groups: Iterable[Group]) -> set[str | None]:
    """Return the ids of the interfaces of rollouts."""
    return {group.interface_id for group in groups}


def read_first_results(source: Source, where: str, reading: Reading) -> dict[str, float]:
    """Return the result of the first graded rollout of each task."""
    rows = reading.rows(where, has_doubles=True)
    # Times may be unknown; then the number in the log tells the order.
    query = f"""
        SELECT unit, arg_min(y, (coalesce(started_at, make_timestamp(0)), log, number)) AS first
        FROM ({rows}) WHERE y IS NOT NULL GROUP BY unit"""
    found = fetch(source, query, is_ours=where == "true")
    return {row["unit"]: row["first"] for row in found}


def read_interfaces(source: Source, ids: Collection[str | None]) -> dict[str | None, Value]:
    """Return declared interfaces by id; None for an unknown one."""
    interfaces: dict[str | None, Value] = {}
    for interface_id in sorted(filter(None, ids)):
        # One row of each is enough. To read the interfaces of all episodes costs a hundred times
        # as much.
        rows = source.sql(
            "SELECT interface FROM all_episodes WHERE interface_id = ? LIMIT 1",
            params=[interface_id],
        ).fetchall()
        interfaces[interface_id] = json.loads(rows[0][0])
    if None in ids:
        interfaces[None] = None
    return interfaces


def count_excluded(groups: Iterable[Group]) -> Counter[str]:
    """Return the rollouts without a result, by reason."""
    counts: Counter[str] = Counter()
    for group in groups:
        if group.reason is not None:
            counts[group.reason] += group.n
    return counts
