"""The facets of a corpus: how many episodes have each value, and how its numbers are spread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trajrec.corpus.corpus import Corpus
from trajrec.types import Value
from trajrec.view.corpus_query import FACETS, LISTS, NUMBERS, CorpusQuery
from trajrec.view.svg import share_path

MAX_VALUES = 8
"""Values of a facet that the page lists; a link lists more."""

MAX_ALL_VALUES = 200
"""Values that it lists on demand."""

MAX_LINKED = 500
"""Characters of a value that an address can hold."""

WHOLE = ("n_steps", "n_failures")
"""Columns of whole numbers, each of which has a bar of its own if they are few."""

N_BARS = 30
"""Bars of a histogram, at most."""

EPISODES = """(
    SELECT * EXCLUDE (grade), grade AS replay FROM all_episodes LEFT JOIN (
        SELECT episode_id, arg_max(grade, coalesce(replayed_at, '-infinity'::TIMESTAMP)) AS grade
        FROM replays GROUP BY 1
    ) verdicts USING (episode_id)
)"""
"""All episodes, with the grade of their latest replay.

The latest of all is the latest of those in one environment; the view of these costs twice as much.
"""

# One scan for all facets under the same filters. DuckDB groups a column of few values in a hundredth
# of a second for a million rows, but only as the table stores it: not out of a common table.
_COUNTED = """
WITH counted AS MATERIALIZED (
    SELECT grouping_id({columns}) AS facet, {columns}, count(*) AS n,
        count(*) FILTER (outcome = 'success') AS n_won,
        count(*) FILTER (outcome = 'failure') AS n_failed
    FROM {source} WHERE {where} GROUP BY GROUPING SETS ({sets})
)
"""

# Values of one facet with their episodes, the most frequent first.
_VALUES = """
SELECT '{facet}' AS facet, value, n, n_won, n_failed, count(*) OVER () AS n_values FROM ({values})
ORDER BY n DESC, value NULLS LAST LIMIT {limit}
"""

_OWN = "SELECT {column} AS value, n, n_won, n_failed FROM counted WHERE facet = {number}"

# An episode counts once for each of its values.
_LISTED = """
SELECT value, sum(n)::BIGINT AS n, sum(n_won)::BIGINT AS n_won, sum(n_failed)::BIGINT AS n_failed
FROM (
    SELECT unnest(coalesce({column}::VARCHAR[], [NULL])) AS value, n, n_won, n_failed
    FROM counted WHERE facet = {number}
) GROUP BY 1
"""

# Two scans: a window over all rows, for both ends, takes ten times as long.
_ENDS = "min({name}::DOUBLE) FILTER (isfinite({name}::DOUBLE)), max({name}::DOUBLE) FILTER (isfinite({name}::DOUBLE))"

# Each bar has the least and the greatest value in it, so that its link selects these alone.
_BARS = """
SELECT '{name}' AS name, bar, count(*) AS n, min(x) AS low, max(x) AS high FROM (
    SELECT {name}::DOUBLE AS x,
        least(floor((x / 2 - {first}) / {step}), {n_bars} - 1)::INT AS bar
    FROM {source} WHERE {where} AND isfinite({name}::DOUBLE)
) GROUP BY bar
"""


@dataclass(frozen=True, kw_only=True)
class FacetValue:
    """A value of a facet.

    Attributes:
        text: The value; None stands for no value.
        n: Episodes that have it, under all filters but those of this facet.
        n_won: Those that succeeded.
        n_failed: Those that failed.
        address: The page with this value selected, or no longer; None if it is too long for one.
        paths: Class of the style sheet -> path of a bar as wide as the most frequent value's is
            100: of episodes, of successes and of failures.
    """

    text: str | None
    n: int
    n_won: int
    n_failed: int
    is_selected: bool
    address: str | None
    paths: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Facet:
    """A facet with its most frequent values.

    Attributes:
        n_more: Values that are not listed.
        more: The page that lists more of them; None if it is the one shown.
    """

    name: str
    values: Sequence[FacetValue]
    n_more: int
    more: str | None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of a histogram.

    Attributes:
        low: Least value in it.
        high: Greatest value in it.
        n: Episodes.
        left: Its number, from 0.
        height: From 0 to 30.
        address: The page with these episodes alone.
    """

    low: float
    high: float
    n: int
    left: int
    height: float
    address: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How a number is spread over the episodes, under all filters but its own limits.

    Attributes:
        n_bars: Bars of the picture: 30, or one for each whole number if these are fewer.
        bars: Those with episodes in them.
    """

    name: str
    n_bars: int
    bars: Sequence[Bar]
    low: float
    high: float
    is_limited: bool
    free: str


def read_facets(corpus: Corpus, query: CorpusQuery) -> list[Facet]:
    """Return the facets that some episode has a value of."""
    by_facet: dict[str, list[tuple[Value, ...]]] = {}
    # Of its own values, each is counted as if it were the only one selected.
    for others, names in _by_query(FACETS, query.without).items():
        params: dict[str, Value] = {}
        rows = corpus.sql(_facets_sql(names, others, query, params), params=params or None)
        for row in rows.fetchall():
            by_facet.setdefault(row[0], []).append(row[1:])
    facets = [_facet(name, by_facet.get(name, []), query) for name in FACETS]
    return [
        facet
        for facet in facets
        if any(value.text is not None or value.is_selected for value in facet.values)
    ]


def _by_query(
    names: Iterable[str], query_for: Callable[[str], CorpusQuery]
) -> dict[CorpusQuery, list[str]]:
    """Return names by the query that each is counted under: one scan counts those of one."""
    groups: dict[CorpusQuery, list[str]] = {}
    for name in names:
        groups.setdefault(query_for(name), []).append(name)
    return groups


def _facets_sql(
    names: Sequence[str], others: CorpusQuery, query: CorpusQuery, params: dict[str, Value]
) -> str:
    """Return the SQL that counts the values of some facets under the same filters."""
    columns = [LISTS.get(name, name) for name in names]
    counted = _COUNTED.format(
        columns=", ".join(columns),
        sets=", ".join(f"({column})" for column in columns),
        source=source_of(others, *names),
        where=others.where(params),
    )
    parts = []
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        # A bit for each column that the rows are not grouped by, that of the first one foremost.
        number = (1 << len(names)) - 1 - (1 << (len(names) - 1 - place))
        values = (_LISTED if name in LISTS else _OWN).format(column=column, number=number)
        limit = MAX_ALL_VALUES if query.one("all") == name else MAX_VALUES
        parts.append(f"({_VALUES.format(facet=name, values=values, limit=limit)})")
    return counted + " UNION ALL ".join(parts)


def source_of(query: CorpusQuery, *facets: str) -> str:
    """Return the episodes that a query selects from, with verdicts only if it or a facet asks."""
    # Verdicts cost more than all the rest, and people read this as SQL.
    return EPISODES if "replay" in (*query.limited, *facets) else "all_episodes"


def _facet(name: str, rows: Sequence[tuple[Value, ...]], query: CorpusQuery) -> Facet:
    most = max((row[1] for row in rows), default=1)
    values = [_value(name, row, most, query) for row in rows]
    listed = {value.text for value in values}
    # A selected value must stay on the page, so that it can be left again.
    selected: list[str | None] = [*query.all(name), *([None] if query.has(name, None) else [])]
    values += [
        _value(name, (text, 0, 0, 0), most, query) for text in selected if text not in listed
    ]
    n_values = rows[0][4] if rows else 0
    is_all = query.one("all") == name
    return Facet(
        name=name,
        values=values,
        n_more=n_values - len(rows),
        more=None if is_all else query.address(all=name),
    )


def _value(name: str, row: Sequence[Value], most: int, query: CorpusQuery) -> FacetValue:
    text, n, n_won, n_failed = row[:4]
    paths = {
        "all": share_path(0, n, most),
        "ok": share_path(0, n_won, most),
        "failed": share_path(n_won, n_won + n_failed, most),
    }
    return FacetValue(
        text=text,
        n=n,
        n_won=n_won,
        n_failed=n_failed,
        is_selected=query.has(name, text),
        address=query.toggled(name, text) if len(text or "") <= MAX_LINKED else None,
        paths=paths,
    )


def read_histograms(corpus: Corpus, query: CorpusQuery) -> list[Histogram]:
    """Return a histogram of each number that has more than one value."""
    histograms = {}
    for others, names in _by_query(NUMBERS, query.without_limits).items():
        params: dict[str, Value] = {}
        source = source_of(others)
        where = others.where(params)
        ends_query = ", ".join(_ENDS.format(name=name) for name in names)
        (ends,) = corpus.sql(
            f"SELECT {ends_query} FROM {source} WHERE {where}", params=params or None
        ).fetchall()
        parts = [
            _bars_sql(name, *ends[2 * place : 2 * place + 2], source=source, where=where)
            for place, name in enumerate(names)
            if ends[2 * place] is not None
        ]
        rows = (
            corpus.sql(" UNION ALL ".join(parts), params=params or None).fetchall() if parts else []
        )
        for name in names:
            bars = [row[1:] for row in rows if row[0] == name]
            histograms[name] = _histogram(name, bars, query)
    found = [histograms[name] for name in NUMBERS]
    return [item for item in found if len(item.bars) > 1 or item.is_limited]


def _bars_sql(name: str, first: float, last: float, *, source: str, where: str) -> str:
    """Return the SQL of a histogram from the least to the greatest value."""
    # Whole numbers: the last bar is as wide as the others.
    gap = float(name in WHOLE)
    # Halves: the distance of two numbers may be too large for one.
    width = last / 2 - first / 2 + gap / 2
    n_bars = min(N_BARS, last - first + 1) if name in WHOLE else N_BARS
    return _BARS.format(
        name=name,
        # A literal of exactly this double; a decimal would be rounded.
        first=f"{first / 2!r}::DOUBLE",
        # Of few whole numbers exactly a half, so that each is in its own bar.
        step=f"{width / n_bars or 1.0!r}::DOUBLE",
        n_bars=int(n_bars),
        source=source,
        where=where,
    )


def _histogram(name: str, rows: Sequence[Sequence[Value]], query: CorpusQuery) -> Histogram:
    most = max((row[1] for row in rows), default=1)
    bars = [
        Bar(
            low=low,
            high=high,
            n=n,
            left=bar,
            # A bar of one episode must be seen beside one of a million.
            height=max(1.0, round(30 * n / most, 2)),
            address=query.within(name, low, high),
        )
        for bar, n, low, high in sorted(tuple(row) for row in rows)
    ]
    low = min((bar.low for bar in bars), default=0.0)
    high = max((bar.high for bar in bars), default=0.0)
    return Histogram(
        name=name,
        n_bars=min(N_BARS, int(high - low) + 1) if name in WHOLE else N_BARS,
        bars=bars,
        low=low,
        high=high,
        is_limited=bool(query.one(f"{name}_min") or query.one(f"{name}_max")),
        free=query.within(name, None, None),
    )
