"""The failures of a corpus: which tool fails most, of what, and whether it was overcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from trajrec.corpus.corpus import Corpus
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import Value
from trajrec.view.svg import share_path

MAX_TOOLS = 50
"""Tools that the page lists."""

MAX_GROUPS = 100
"""Groups of like failures that the page lists."""

N_EXAMPLES = 5
"""Episodes that stand for a group."""

_PLACES = {
    "reset": "the reset of the environment",
    "step": "a step of the environment",
    "state": "reading the state",
    "check": "a check",
    "model": "a model call",
    "loop": "the agent's own code",
}

# The probes of the checks are few: to leave them out takes less time than to join all episodes.
_OF_AGENT = f"""
    kind = 'rollout'
    AND episode_id NOT IN (SELECT episode_id FROM episodes WHERE NOT {IS_OF_AGENT})
"""

# The parts of a value of JSON, whatever the order of keys: of two texts of one length that differ.
_PARTS = "(SELECT list_sort(list([fullkey, type, atom::VARCHAR])) FROM json_tree({of}.arguments))"
_IS_SAME = f"""won.arguments::VARCHAR = lost.arguments::VARCHAR
    OR length(won.arguments::VARCHAR) = length(lost.arguments::VARCHAR)
    AND {_PARTS.format(of="won")} = {_PARTS.format(of="lost")}"""

# Fresh rollouts alone, as in the table of episodes. A failed attempt is overcome with the same
# arguments if the attempt that succeeded had them.
_FAILURES = f"""
WITH found AS (
    SELECT f.episode_id, f.step, f.call, f.attempt, f.phase, f.recovered_at,
        CASE WHEN f.phase = 'call' THEN coalesce(f.action->>'tool', '') ELSE '' END AS tool,
        coalesce(f.error_type, '') AS error,
        regexp_replace(split_part(coalesce(f.message, ''), chr(10), 1)[:200], '[0-9]+', '#', 'g')
            AS message
    FROM failures f WHERE {_OF_AGENT} AND ({{where}})
), repeats AS (
    SELECT f.episode_id, f.step, f.call, f.attempt,
        bool_or({_IS_SAME}) AS is_same
    FROM found f JOIN attempts lost USING (episode_id, step, call, attempt)
        JOIN attempts won ON won.episode_id = f.episode_id AND won.step = f.recovered_at
            AND won.tool = lost.tool AND won.outcome = 'ok'
    WHERE f.phase = 'call' AND f.recovered_at IS NOT NULL GROUP BY ALL
), all_found AS (
    SELECT found.*, repeats.is_same FROM found
        LEFT JOIN repeats USING (episode_id, step, call, attempt)
)
"""

_COUNTS = """count(*) AS n, count(DISTINCT episode_id) AS n_episodes,
    count(recovered_at) AS n_overcome, count(*) FILTER (is_same AND recovered_at IS NOT NULL)"""

_TOOLS = f"""
SELECT phase, tool, {_COUNTS} AS n_same, count(*) OVER () AS n_all FROM all_found
GROUP BY phase, tool ORDER BY n DESC, phase, tool LIMIT {MAX_TOOLS}
"""

_GROUPS = f"""
, of_episodes AS (
    SELECT phase, tool, error, message, episode_id, {_COUNTS} AS n_same, min(step) AS step
    FROM all_found GROUP BY phase, tool, error, message, episode_id
)
SELECT phase, tool, error, message, sum(n)::BIGINT AS n, count(*) AS n_episodes,
    sum(n_overcome)::BIGINT, sum(n_same)::BIGINT,
    list([episode_id, step::VARCHAR] ORDER BY n DESC, episode_id)[:{N_EXAMPLES}],
    count(*) OVER () AS n_all
FROM of_episodes GROUP BY phase, tool, error, message
ORDER BY n DESC, phase, tool, error, message LIMIT {MAX_GROUPS}
"""

_ATTEMPTS = f"""
SELECT tool, count(*), count(*) FILTER (outcome IN ('open', 'unknown')) FROM attempts
WHERE {_OF_AGENT} GROUP BY 1
"""


@dataclass(frozen=True, kw_only=True)
class FailureCount:
    """Failures that have something in common.

    Attributes:
        phase: The phase that they happened in, "call" for calls of tools.
        tool: The tool; "" if they were no calls, or if it is not known.
        n: Failures.
        n_episodes: Episodes that have one.
        n_overcome: Failures that a later attempt overcame.
        n_same: Those that it overcame with the same arguments.
    """

    phase: str
    tool: str
    n: int
    n_episodes: int
    n_overcome: int
    n_same: int

    @property
    def place(self) -> str:
        """The place of the failures, in words."""
        return _place(self.phase, self.tool)

    @property
    def address(self) -> str:
        """The page with these failures alone."""
        return "/failures?" + urlencode({"phase": self.phase, "tool": self.tool}, errors="replace")

    @property
    def overcome(self) -> str:
        """How many were overcome, in words."""
        if not self.n_overcome:
            return "0"
        if self.phase != "call":
            return f"{self.n_overcome:,}"
        n_other = self.n_overcome - self.n_same
        return f"{self.n_overcome:,} ({self.n_same:,} same, {n_other:,} other arguments)"


@dataclass(frozen=True, kw_only=True)
class ToolFailures(FailureCount):
    """The failures of a tool, or of a phase without tools.

    Attributes:
        n_attempts: Attempts at calls of the tool; None if these are no calls.
        n_unknown: Attempts of which it is not known whether they failed.
        path: A bar as long as the failures are many.
    """

    n_attempts: int | None
    n_unknown: int
    path: str


@dataclass(frozen=True, kw_only=True)
class FailureGroup(FailureCount):
    """Failures of one place with one error, and one message but for its numbers.

    Attributes:
        examples: Episode and step of the first such failure, in the episodes that have most of
            them; the step is None if it is not known.
    """

    error: str
    message: str
    examples: Sequence[tuple[str, int | None]]


@dataclass(frozen=True, kw_only=True)
class FailuresView:
    """The failures of a corpus.

    Attributes:
        tools: The places, those with most failures first.
        n_tools: All of them.
        groups: Like failures of the chosen place, or of all, the most frequent first.
        n_groups: All of them.
        chosen: The place that the groups are limited to, in words; "" for all.
    """

    tools: Sequence[ToolFailures]
    n_tools: int
    groups: Sequence[FailureGroup]
    n_groups: int
    chosen: str

    @property
    def most(self) -> ToolFailures | None:
        """The tool with most failures; None if no call failed."""
        return next((tool for tool in self.tools if tool.phase == "call"), None)


def read_failures(corpus: Corpus, *, phase: str | None, tool: str | None) -> FailuresView:
    """Return the failures of the fresh rollouts of a corpus.

    Args:
        corpus: The corpus.
        phase: Limits the groups to a phase; None for all.
        tool: Limits them to a tool; None for all.
    """
    attempts = {row[0]: row[1:] for row in corpus.sql(_ATTEMPTS).fetchall()}
    rows = corpus.sql(_FAILURES.format(where="true") + _TOOLS).fetchall()
    most = max((row[2] for row in rows), default=1)
    tools = [
        ToolFailures(
            **_counts(row[:6]),
            n_attempts=attempts.get(row[1], (None, 0))[0] if row[0] == "call" else None,
            n_unknown=attempts.get(row[1], (None, 0))[1] if row[0] == "call" else 0,
            path=share_path(0, row[2], most),
        )
        for row in rows
    ]
    conditions = ["true"]
    params: list[Value] = []
    if phase is not None:
        conditions.append("f.phase = ?")
        params.append(phase)
    # The address of a call of an unknown tool has an empty one; so has that of another phase.
    if tool or (tool is not None and phase == "call"):
        conditions.append("f.phase = 'call' AND coalesce(f.action->>'tool', '') = ?")
        params.append(tool)
    query = _FAILURES.format(where=" AND ".join(conditions)) + _GROUPS
    found = corpus.sql(query, params=params or None).fetchall()
    return FailuresView(
        tools=tools,
        n_tools=rows[0][6] if rows else 0,
        groups=[_group(row) for row in found],
        n_groups=found[0][9] if found else 0,
        chosen=tool or ("" if phase is None else _place(phase, tool)),
    )


def _place(phase: str, tool: str | None) -> str:
    if phase == "call" and tool is not None:
        return tool or "a call of an unknown tool"
    return _PLACES.get(phase, phase)


def _group(row: Sequence[Value]) -> FailureGroup:
    return FailureGroup(
        **_counts((*row[:2], *row[4:8])),
        error=row[2],
        message=row[3],
        examples=[(item, None if step is None else int(step)) for item, step in row[8]],
    )


def _counts(row: Sequence[Value]) -> dict[str, Value]:
    names = ("phase", "tool", "n", "n_episodes", "n_overcome", "n_same")
    return dict(zip(names, row, strict=True))
