"""Bands: how often each task is solved under one interface, with dates.

A band is relative to everything that may change it: base, sampling, check, scaffold, environment
and budget. If one of them is unknown, rollouts under different conditions may be mixed, so there is
no rate.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from trajrec.analysis.conditions import SELECT_BY_FIXED, outcome_columns
from trajrec.analysis.planned import is_balanced
from trajrec.analysis.rollouts import find_check, rollout_rows
from trajrec.analysis.source import Source, fetch, quoted
from trajrec.conditions import bracketed

Band = Literal["always_fail", "always_pass", "active", "unmeasured"]

KEYS = ("base", "sampling", "scaffold", "env", "budget")
"""Fields of the interface that a band is relative to, besides the check."""

ACTIVE = (0.05, 0.95)
"""Rates between which a task is active: it can still teach something."""

_Z = 1.959964

COLUMNS = (
    ("task", "the task, or environment and state after the reset if it has no name"),
    ("check_name", "check that grades it, with its version"),
    ("check_code", "digest of the check's source; NULL if unknown"),
    *((f"{name}_digest", f"digest of {name}; NULL if it, or a part, is unknown") for name in KEYS),
    ("unknown", "list of the parts above that are unknown; then there is no rate"),
    ("n", "graded rollouts"),
    ("n_passed", "those that passed"),
    ("rate", "their share"),
    ("ci_low", "lower end of its 95 % interval (Wilson)"),
    ("ci_high", "upper end"),
    ("band", "as seen: always_fail, always_pass, active, or unmeasured"),
    ("band_sure", "as the whole interval shows: below 0.05, above 0.95 or between; else NULL"),
    ("excluded", "rollouts without a verdict, by reason"),
    ("first_at", "start of the first rollout; NULL if unknown"),
    ("last_at", "start of the last rollout"),
)


def bands_query(rows: str, min_n: int = 1) -> str:
    """Return a query of bands.

    Args:
        rows: A query of rollouts: see `trajrec.analysis.rollouts.rollout_rows`.
        min_n: Fewest graded rollouts of a band.
    """
    digests = ", ".join(f"{name}_digest" for name in KEYS)
    unknown = " || ".join(
        [
            *(
                f"CASE WHEN {name}_digest IS NULL THEN [{quoted(name)}] ELSE [] END"
                for name in KEYS
            ),
            "CASE WHEN check_name IS NULL THEN ['check'] ELSE [] END",
        ]
    )
    low, high = ACTIVE
    square = _Z * _Z
    # A rollout without a verdict may have no row of the check; it belongs to that of its task.
    # Name and code together: the code of one check is not that of another, whose code is unknown.
    check = "{'name': check_name, 'code': check_code}"
    checks = f"""CASE WHEN check_name IS NULL
        THEN max({check}) FILTER (check_name IS NOT NULL) OVER (PARTITION BY unit, interface_id)
        ELSE {check} END"""
    return f"""
        WITH counts AS (
            SELECT unit, interface_id, check_id || '@' || version AS check_name, check_code,
                reason, count(y) AS n,
                coalesce(sum(y), 0)::BIGINT AS n_passed, count(*) AS n_all,
                min(started_at) AS first_at, max(started_at) AS last_at
            FROM ({rows}) WHERE unit IS NOT NULL GROUP BY ALL
        ), complete AS (
            SELECT * REPLACE (graded.name AS check_name, graded.code AS check_code)
            FROM (SELECT *, {checks} AS graded FROM counts)
        ), by_reason AS (
            SELECT unit, check_name, check_code, {digests}, reason, sum(n) AS n,
                sum(n_passed) AS n_passed, sum(n_all) AS n_all,
                min(first_at) AS first_at, max(last_at) AS last_at
            FROM complete LEFT JOIN interfaces USING (interface_id) GROUP BY ALL
        ), tasks AS (
            SELECT unit AS task, check_name, check_code, {digests}, {unknown} AS unknown,
                sum(n)::BIGINT AS n, sum(n_passed)::BIGINT AS n_passed,
                coalesce(map(list(reason) FILTER (reason IS NOT NULL),
                    list(n_all::BIGINT) FILTER (reason IS NOT NULL)), MAP {{}}) AS excluded,
                min(first_at) AS first_at, max(last_at) AS last_at
            FROM by_reason GROUP BY ALL
        ), rates AS (
            SELECT *, n >= {max(1, min_n)} AND len(unknown) = 0 AS is_measured,
                n_passed / nullif(n, 0) AS share,
                (share + {square / 2} / n) / (1 + {square} / n) AS middle,
                {_Z} / (1 + {square} / n) * sqrt(share * (1 - share) / n + {square / 4} / (n * n))
                    AS half
            FROM tasks
        )
        SELECT task, check_name, check_code, {digests}, unknown,
            n, n_passed, CASE WHEN is_measured THEN share END AS rate,
            CASE WHEN is_measured THEN greatest(0, least(share, middle - half)) END AS ci_low,
            CASE WHEN is_measured THEN least(1, greatest(share, middle + half)) END AS ci_high,
            CASE WHEN NOT is_measured THEN 'unmeasured' WHEN n_passed = 0 THEN 'always_fail'
                WHEN n_passed = n THEN 'always_pass' ELSE 'active' END AS band,
            CASE WHEN ci_low > {low} AND ci_high < {high} THEN 'active'
                WHEN ci_high < {low} THEN 'always_fail'
                WHEN ci_low > {high} THEN 'always_pass' END AS band_sure,
            excluded, first_at, last_at
        FROM rates"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskBand:
    """The band of one task under one interface.

    Attributes:
        task: The task.
        check: The check that grades it, with its version; None if no rollout was graded.
        unknown: Parts of the interface that are unknown.
        digests: Digests of the known ones, by name.
        n: Graded rollouts.
        n_passed: Those that passed.
        rate: Their share; None if it is unmeasured.
        ci_low: Lower end of the 95 % interval.
        ci_high: Upper end.
        band: As seen.
        band_sure: As the whole interval shows; None if it does not.
        excluded: Rollouts without a verdict, by reason.
        first_at: Start of the first rollout, UTC; None if unknown.
        last_at: Start of the last rollout.
    """

    task: str
    check: str | None
    unknown: tuple[str, ...]
    digests: dict[str, str | None]
    n: int
    n_passed: int
    rate: float | None
    ci_low: float | None
    ci_high: float | None
    band: Band
    band_sure: Band | None
    excluded: dict[str, int]
    first_at: datetime.datetime | None
    last_at: datetime.datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return the band as plain data, which JSON can hold."""
        record = dataclasses.asdict(self)
        for name in ("first_at", "last_at"):
            record[name] = None if record[name] is None else record[name].isoformat()
        return record


class Bands(Sequence[TaskBand]):
    """The bands of a corpus, by task.

    Attributes:
        before: Only rollouts that began before this time were used; None if all were.
        note: What the rates rest on, if tasks have different numbers of rollouts; else "".
    """

    def __init__(self, rows: Sequence[TaskBand], before: datetime.datetime | None) -> None:
        self._rows = tuple(rows)
        self.before = before
        self.note = _note(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[TaskBand]:
        return iter(self._rows)

    def __repr__(self) -> str:
        counts = Counter(row.band for row in self._rows)
        shown = ", ".join(f"{counts[band]} {band}" for band in get_args(Band))
        return f"<Bands: {len(self)} rows, {shown}>"

    def tasks(self, band: str) -> list[str]:
        """Return the tasks of a band, as it was seen, sorted."""
        return sorted({row.task for row in self._rows if row.band == band})


def _interface(row: TaskBand) -> tuple[str | None, ...]:
    return row.check, *row.digests.values()


def _note(rows: Sequence[TaskBand]) -> str:
    """Return a note if tasks under one interface have different numbers of rollouts."""
    counts: dict[tuple[str | None, ...], list[tuple[int, int]]] = {}
    with_rates = {_interface(row) for row in rows if row.rate is not None}
    for row in rows:
        if _interface(row) in with_rates:
            counts.setdefault(_interface(row), []).append((row.n, sum(row.excluded.values())))
    if all(is_balanced(of_tasks) for of_tasks in counts.values()):
        return ""
    return (
        "tasks have different numbers of rollouts: if a task's rollouts went on until one passed, "
        "or ended with the first that did, its rate and interval are wrong"
    )


def read_bands(
    source: Source,
    where: str,
    *,
    check: str | None,
    min_n: int,
    before: datetime.datetime | None,
) -> Bands:
    """Return the bands of the fresh rollouts that a condition selects.

    Raises:
        QueryError: DuckDB rejects the condition.
        ValueError: The condition selects by outcomes.
    """
    if names := outcome_columns(source, where):
        raise ValueError(
            f"the rollouts of a band are selected by outcomes ({', '.join(names)}): {SELECT_BY_FIXED}"
        )
    condition = where
    if before is not None:
        if before.tzinfo is not None:
            before = before.astimezone(datetime.UTC).replace(tzinfo=None)
        condition = f"{bracketed(where)} AND started_at < TIMESTAMP {quoted(before.isoformat(' '))}"
    name = find_check(check, source)
    rows = rollout_rows(condition, name, has_doubles=True)
    query = f"{bands_query(rows, min_n)} ORDER BY ALL"
    found = fetch(source, query, is_ours=where == "true")
    return Bands([_band(row) for row in found], before)


def _band(row: dict[str, Any]) -> TaskBand:
    return TaskBand(
        task=row["task"],
        check=row["check_name"],
        unknown=tuple(row["unknown"]),
        digests={name: row[f"{name}_digest"] for name in KEYS},
        n=row["n"],
        n_passed=row["n_passed"],
        rate=row["rate"],
        ci_low=row["ci_low"],
        ci_high=row["ci_high"],
        band=row["band"],
        band_sure=row["band_sure"],
        excluded=dict(row["excluded"]),
        first_at=row["first_at"],
        last_at=row["last_at"],
    )
