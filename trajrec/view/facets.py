"""The facets of a corpus: how many episodes have each value, and how its numbers are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trajrec.corpus.corpus import Corpus
from trajrec.types import Value
from trajrec.view.corpus_query import COLUMNS, FACETS, NUMBERS, CorpusQuery, inner_table
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

# Read once for all facets: the views behind it take longer to plan than to scan.
_SHOWN = f"""
WITH shown AS MATERIALIZED (
    SELECT episode_id, {", ".join((*COLUMNS, *NUMBERS))}, replay FROM {EPISODES}
    WHERE {{kinds}}
)
"""

# Values of one facet with their episodes, the most frequent first.
_VALUES = """
SELECT '{facet}' AS facet, value, n, n_won, n_failed, count(*) OVER () AS n_values FROM (
    SELECT {value}::VARCHAR AS value, count(*) AS n,
        count(*) FILTER (outcome = 'success') AS n_won,
        count(*) FILTER (outcome = 'failure') AS n_failed
    FROM {source} WHERE {where} GROUP BY 1
) ORDER BY n DESC, value NULLS LAST LIMIT {limit}
"""

# The same for a facet that an episode may have several values of. Each episode is a number of which
# each bit stands for a value, so that it is one row: pairs of episode and value take twice as long.
_MANY_VALUES = """
SELECT '{facet}' AS facet, value, n, n_won, n_failed, count(*) OVER () AS n_values FROM (
    WITH masks AS (
        SELECT episode_id, bit_or(1::UBIGINT << (list_position({names}, {column}) - 1)::UBIGINT)
            AS mask
        FROM {table} WHERE {column} IS NOT NULL{selected} GROUP BY 1
    ), together AS (
        SELECT coalesce(masks.mask, 0::UBIGINT) AS mask, count(*) AS n,
            count(*) FILTER (outcome = 'success') AS n_won,
            count(*) FILTER (outcome = 'failure') AS n_failed
        FROM shown e LEFT JOIN masks USING (episode_id) WHERE {where} GROUP BY 1
    ), bits AS (
        SELECT unnest({names})::VARCHAR AS value, unnest(range(len({names})))::UBIGINT AS bit
    )
    SELECT value, sum(n)::BIGINT AS n, sum(n_won)::BIGINT AS n_won, sum(n_failed)::BIGINT AS n_failed
    FROM together JOIN bits ON mask & (1::UBIGINT << bit) <> 0 GROUP BY 1
    UNION ALL SELECT NULL, n, n_won, n_failed FROM together WHERE mask = 0
) ORDER BY n DESC, value NULLS LAST LIMIT {limit}
"""

# Fewer rows to group, if the filters leave a small part of the episodes; else it costs more.
_SELECTED = " AND episode_id IN (SELECT episode_id FROM shown WHERE {where})"

SMALL_PART = 4
"""Filters leave a small part of the episodes if they leave one of so many, or fewer."""

MAX_BITS = 60
"""Values of a column that `_MANY_VALUES` takes; with more, `_VALUES` counts pairs."""

# Each bar has the least and the greatest value in it, so that its link selects these alone.
_BARS = """
SELECT '{name}' AS name, bar, count(*) AS n, min(x) AS low, max(x) AS high FROM (
    SELECT {name}::DOUBLE AS x, min(x) OVER () AS first, max(x) OVER () - first AS span,
        CASE WHEN {gap} = 1 THEN least({bars}, span + 1) ELSE {bars} END AS n_bars,
        CASE WHEN span <= 0 THEN 0 ELSE least(floor((x - first) / (span + {gap}) * n_bars),
            n_bars - 1) END::INT AS bar
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


def read_facets(corpus: Corpus, query: CorpusQuery, *, n_selected: int) -> list[Facet]:
    """Return the facets that some episode has a value of.

    Args:
        corpus: The corpus.
        query: The filters.
        n_selected: Episodes that all filters leave.
    """
    params: dict[str, Value] = {}
    ((n_all,),) = corpus.sql("SELECT count(*) FROM all_episodes").fetchall()
    is_small = n_selected * SMALL_PART <= n_all
    parts = [
        f"({_values_sql(corpus, facet, query, params, is_small=is_small)})" for facet in FACETS
    ]
    rows = corpus.sql(
        _SHOWN.format(kinds=query.kinds) + " UNION ALL ".join(parts), params=params or None
    ).fetchall()
    by_facet: dict[str, list[tuple[Value, ...]]] = {}
    for row in rows:
        by_facet.setdefault(row[0], []).append(row[1:])
    facets = [_facet(name, by_facet.get(name, []), query) for name in FACETS]
    return [
        facet
        for facet in facets
        if any(value.text is not None or value.is_selected for value in facet.values)
    ]


def _values_sql(
    corpus: Corpus, facet: str, query: CorpusQuery, params: dict[str, Value], *, is_small: bool
) -> str:
    # Of its own values, each is counted as if it were the only one selected.
    where = query.without(facet).within_kinds(params)
    source = "shown e"
    limit = MAX_ALL_VALUES if query.one("all") == facet else MAX_VALUES
    value = f"e.{facet}" if facet in (*COLUMNS, "replay") else f"inside.{facet}"
    inner = inner_table(facet)
    if inner is not None:
        table, column = inner
        names_query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL LIMIT ?"
        names = [row[0] for row in corpus.sql(names_query, params=[MAX_BITS + 1]).fetchall()]
        if 0 < len(names) <= MAX_BITS:
            params[f"names_of_{facet}"] = names
            return _MANY_VALUES.format(
                facet=facet,
                names=f"$names_of_{facet}",
                table=table,
                column=column,
                selected=_SELECTED.format(where=where) if is_small else "",
                where=where,
                limit=limit,
            )
        source += (
            f" LEFT JOIN (SELECT DISTINCT episode_id, {column} FROM {table}"
            f" WHERE {column} IS NOT NULL) inside USING (episode_id)"
        )
    return _VALUES.format(facet=facet, value=value, source=source, where=where, limit=limit)


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
    params: dict[str, Value] = {}
    parts = []
    for name in NUMBERS:
        where = query.without_limits(name).within_kinds(params)
        # Whole numbers: the last bar is as wide as the others.
        gap = int(name in WHOLE)
        parts.append(_BARS.format(name=name, source="shown", where=where, gap=gap, bars=N_BARS))
    rows = corpus.sql(
        _SHOWN.format(kinds=query.kinds) + " UNION ALL ".join(parts), params=params or None
    ).fetchall()
    found = [
        _histogram(name, [row[1:] for row in rows if row[0] == name], query) for name in NUMBERS
    ]
    return [item for item in found if len(item.bars) > 1 or item.is_limited]


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
