"""The table of a corpus's episodes, as its address asks for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlencode

import numpy as np

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.problems import Problem
from trajrec.statistics.intervals import Interval, wilson
from trajrec.task_options import IS_OF_AGENT, PROBE
from trajrec.types import Value
from trajrec.view.corpus_query import CorpusQuery
from trajrec.view.facets import Facet, Histogram, read_facets, read_histograms, source_of

PAGE_ROWS = 100

TITLES = {
    "episode_id": "episode",
    "env_id": "environment or world",
    "n_steps": "steps",
    "total_reward": "reward",
    "n_failures": "failures",
    "started_at": "started (UTC)",
    "interface_id": "interface",
    "stop_reason": "reason to stop",
    "error_type": "error in a step or call",
    "tool": "tool called",
}
"""Column or facet -> what the page calls it, if that is another word."""

_ROWS = """
WITH page AS (
    SELECT episode_id, kind, env_id, task, n_steps, total_reward, outcome, ending, n_failures,
        parent_id, fork_step, started_at, {probe} AS probe
    FROM {source} WHERE {where} ORDER BY {sort} {dir} NULLS LAST, episode_id
    LIMIT {limit} OFFSET {offset}
), verdicts AS (
    SELECT episode_id, arg_max(step, coalesce(replayed_at, '-infinity'::TIMESTAMP)) AS step,
        arg_max(grade, coalesce(replayed_at, '-infinity'::TIMESTAMP)) AS grade
    FROM latest_replay WHERE episode_id IN (SELECT episode_id FROM page) GROUP BY 1
), branches AS (
    SELECT parent_id, count(*) AS n FROM forks
    WHERE parent_id IN (SELECT episode_id FROM page) GROUP BY 1
), estimated AS (
    SELECT episode_id, count(DISTINCT step) AS n FROM credit
    WHERE episode_id IN (SELECT episode_id FROM page) GROUP BY 1
)
SELECT page.*, verdicts.grade, verdicts.step, coalesce(branches.n, 0), coalesce(estimated.n, 0)
FROM page LEFT JOIN verdicts USING (episode_id)
    LEFT JOIN branches ON branches.parent_id = page.episode_id
    LEFT JOIN estimated USING (episode_id)
ORDER BY {sort} {dir} NULLS LAST, page.episode_id
"""

_COUNTS = """
SELECT {of_agent}, kind = 'rollout', count(*), coalesce(sum(n_steps), 0)::BIGINT,
    count(*) FILTER (outcome = 'success'), count(*) FILTER (outcome = 'failure'),
    coalesce(sum(n_failures), 0)::BIGINT
FROM {source} WHERE {is_recorded} AND {where} GROUP BY 1, 2
"""

_TEXT = """
SELECT episode_id, env_id, task, n_steps, total_reward, outcome, ending, n_failures, started_at
FROM {source}
WHERE {where}
ORDER BY {sort} {dir} NULLS LAST, episode_id
"""


@dataclass(frozen=True, kw_only=True)
class CorpusRow:
    """A line of the table.

    Attributes:
        probe: The kind of probe of the checks that it is; None for a rollout of an agent.
        n_credited: Steps that an estimate of credit tells of.
    """

    id: str
    kind: str
    env_id: str | None
    task: str | None
    n_steps: int
    reward: float | None
    outcome: str | None
    ending: str
    n_failures: int
    probe: str | None
    parent_id: str | None
    fork_step: int | None
    started_at: str
    replay: str
    replay_status: str
    n_forks: int
    n_credited: int

    @property
    def env_name(self) -> str:
        """The environment's id, or the name of the world's class without its module."""
        return (self.env_id or "").rpartition(":")[2]


@dataclass(frozen=True, kw_only=True)
class CorpusView:
    """The table, and the facets beside it.

    Attributes:
        query: The filters and the order, as the address has them.
        n_probes: Probes of the checks among the selected episodes, shown or not.
        success: Share of the judged rollouts that succeeded, without forks and probes; None if
            none was judged, or if the filters select by results.
    """

    rows: Sequence[CorpusRow]
    n_episodes: int
    n_steps: int
    n_succeeded: int
    n_failed: int
    n_failures: int
    n_probes: int
    success: Interval | None
    query: CorpusQuery
    problems: Sequence[Problem]
    corpus: Corpus = field(repr=False, compare=False)
    titles: ClassVar[dict[str, str]] = TITLES

    @functools.cached_property
    def facets(self) -> Sequence[Facet]:
        """The facets beside the table, read when they are asked for: they take the longest."""
        return read_facets(self.corpus, self.query)

    @functools.cached_property
    def histograms(self) -> Sequence[Histogram]:
        """The histograms beside the table, read when they are asked for."""
        return read_histograms(self.corpus, self.query)

    @property
    def before(self) -> str | None:
        """The address of the page before this one; None if it is the first."""
        if not self.query.offset:
            return None
        start = max(0, self.query.offset - PAGE_ROWS)
        return self.query.address(offset=str(start) if start else "")

    @property
    def after(self) -> str | None:
        """The address of the next page; None if it is the last."""
        end = self.query.offset + PAGE_ROWS
        return self.query.address(offset=str(end)) if end < self.n_episodes else None

    @property
    def sql_address(self) -> str:
        """The address of the box of SQL with a query of these episodes in it."""
        query = self.query
        sort, is_descending = query.sort
        text = _TEXT.format(
            source=source_of(query),
            where=query.where_text,
            sort=sort,
            dir="DESC" if is_descending else "ASC",
        )
        return "/sql?" + urlencode({"q": text.strip()}, errors="replace")

    @property
    def has_rewards(self) -> bool:
        """Whether a column of rewards has something in it."""
        return self.query.sort[0] == "total_reward" or any(
            row.reward is not None for row in self.rows
        )

    def sorted_by(self, column: str) -> str:
        """Return the address of the table sorted by a column; again, the other way round."""
        sort, is_descending = self.query.sort
        is_ascending = sort == column and not is_descending
        return self.query.address(sort=column, dir="desc" if is_ascending else "asc", offset="")


def read_corpus(corpus: Corpus, items: Iterable[tuple[str, str]]) -> CorpusView:
    """Return the table that an address asks for; parameters that it does not know are ignored.

    Args:
        corpus: The corpus.
        items: The parameters of the address: a facet of `FACETS`, once for each value that is let
            through, NAME_min and NAME_max of `NUMBERS`, `q` (the beginning of an id, or a part of
            a task's name), `forks`, `all`, `sort`, `dir` and `offset`.
    """
    query = CorpusQuery.of(items)
    params: dict[str, Value] = {}
    where = query.where(params)
    counts = _read_counts(corpus, query)
    sort, is_descending = query.sort
    rows_query = _ROWS.format(
        source=source_of(query),
        where=where,
        probe=PROBE,
        sort=sort,
        dir="DESC" if is_descending else "ASC",
        limit=PAGE_ROWS,
        offset=query.offset,
    )
    rows = [_row(row) for row in corpus.sql(rows_query, params=params or None).fetchall()]
    return CorpusView(
        rows=rows,
        **counts,
        query=query,
        problems=[problem for problem in corpus.problems() if not problem.is_tail],
        corpus=corpus,
    )


def _read_counts(corpus: Corpus, query: CorpusQuery) -> dict[str, Any]:
    """Return the numbers of the line above the table."""
    params: dict[str, Value] = {}
    counts_query = _COUNTS.format(
        source=source_of(query),
        is_recorded=query.is_recorded,
        where=query.within_kinds(params),
        of_agent=IS_OF_AGENT,
    )
    groups = corpus.sql(counts_query, params=params or None).fetchall()
    shown = [group for group in groups if group[0] or query.one("probes")]
    judged = [group for group in groups if group[0] and group[1]]
    n_won = sum(group[4] for group in judged)
    n_failed = sum(group[5] for group in judged)
    return {
        "n_episodes": sum(group[2] for group in shown),
        "n_steps": sum(group[3] for group in shown),
        "n_succeeded": sum(group[4] for group in shown),
        "n_failed": sum(group[5] for group in shown),
        "n_failures": sum(group[6] for group in shown),
        "n_probes": sum(group[2] for group in groups if not group[0]),
        "success": None if query.selects_results else share(n_won, n_won + n_failed),
    }


def share(n_won: int, n_judged: int) -> Interval | None:
    """Return a share with its interval of 95 %, by Wilson; None if nothing was judged.

    >>> share(9, 10)
    Interval(value=0.9, ci_low=0.595..., ci_high=0.982..., method='...')
    """
    if not n_judged:
        return None
    return wilson(np.repeat([1.0, 0.0], [n_won, n_judged - n_won]))


def _row(row: Sequence[Value]) -> CorpusRow:
    reward = row[5]
    grade = row[13] or ""
    words = f"diverged at {row[14]}" if grade == "diverged" and row[14] is not None else grade
    statuses = {"": "", "exact": "ok", "state": "ok", "diverged": "failed"}
    return CorpusRow(
        id=row[0],
        kind=row[1],
        env_id=row[2],
        task=row[3],
        n_steps=row[4],
        reward=None if reward is None or math.isnan(reward) else reward,
        outcome=row[6],
        ending=row[7],
        n_failures=row[8],
        parent_id=row[9],
        fork_step=row[10],
        started_at="" if row[11] is None else f"{row[11]:%Y-%m-%d %H:%M:%S}",
        probe=row[12],
        replay=words,
        replay_status=statuses.get(grade, "unknown"),
        n_forks=row[15],
        n_credited=row[16],
    )
