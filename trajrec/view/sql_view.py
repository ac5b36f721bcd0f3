"""The SQL box: somebody's query in the sandbox, its rows as a table, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import TABLES
from trajrec.corpus.index.views import VIEWS, View
from trajrec.corpus.sandbox import Sandbox
from trajrec.errors import QueryError
from trajrec.types import Value
from trajrec.values.formulas import guarded
from trajrec.values.json import to_json_value
from trajrec.view.text import cell

SANDBOX = Sandbox(seconds=10.0, memory="1 GiB")
"""Limits of a query that an address holds: a page that takes longer is given up anyway."""

MAX_ROWS = 1_000
"""Rows that the page shows."""

MAX_FILE_ROWS = 100_000
"""Rows of a file of CSV or JSON. A longer one would be cut, and would not say so."""

MAX_PAGE = 500_000
"""Characters of all cells of the page."""

MAX_SIZE = 50_000_000
"""Characters of all texts that are read of a result."""

MAX_QUERY = 20_000
"""Characters of a query: it stands in an address."""

_CELL = 200

EXAMPLES = (
    "SELECT env_id, outcome, count(*) AS n FROM episodes GROUP BY ALL ORDER BY n DESC",
    "SELECT episode_id, step, tool, message FROM attempts WHERE outcome = 'error' LIMIT 100",
    "SELECT episode_id, n_steps, total_reward FROM episodes ORDER BY n_steps DESC LIMIT 20",
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: Its text; None for NULL.
        episode_id: The episode that it leads to; None if it leads nowhere.
        step: The step of that episode; None for none.
    """

    text: str | None
    episode_id: str | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class SqlView:
    """The answer to a query.

    Attributes:
        error: Why there is none; "" without an error.
        has_more: Whether there are more rows than are shown.
    """

    query: str
    error: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    has_more: bool
    seconds: float

    @property
    def tables(self) -> list[tuple[str, str, str]]:
        """Each table and view: its name, the meaning of a row, and its columns."""
        items: list[Table | View] = [*TABLES, *VIEWS]
        return [
            (item.name, item.row, ", ".join(column[0] for column in item.columns)) for item in items
        ]

    @property
    def limits(self) -> str:
        """What ends a query, in words."""
        return f"is stopped after {SANDBOX.seconds:g} s or at {SANDBOX.memory} of memory"

    def command(self, folder: str) -> str:
        """Return the command that runs the query in a terminal, without these limits."""
        return shlex.join(["trajrec", "sql", folder, self.query])

    @property
    def examples(self) -> Sequence[str]:
        """Queries to begin with."""
        return EXAMPLES


def run_query(corpus: Corpus, query: str) -> SqlView:
    """Run a query in the sandbox, and return its first rows.

    Args:
        corpus: The corpus, opened with the limits of a sandbox.
        query: One SELECT; "" for none yet.
    """
    start = time.perf_counter()
    columns: list[str] = []
    rows: list[list[Cell]] = []
    error = ""
    has_more = False
    try:
        columns, found = _fetch(corpus, query, MAX_ROWS + 1, n_part=50) if query else ([], [])
        size = 0
        for row in found[:MAX_ROWS]:
            rows.append(_row(columns, row))
            size += sum(len(item.text or "") for item in rows[-1])
            if size > MAX_PAGE:
                break
        # Of a result that is too large to be read whole, the rest is not even counted.
        has_more = len(found) > len(rows) or _size(found) >= MAX_SIZE
    except QueryError as exc:
        error = str(exc)
    return SqlView(
        query=query[:MAX_QUERY],
        error=error,
        columns=columns,
        rows=rows,
        has_more=has_more,
        seconds=time.perf_counter() - start,
    )


def csv_of(corpus: Corpus, query: str) -> str:
    """Return the rows of a query as CSV, with a line of names; NULL is an empty cell.

    An apostrophe stands before texts that a spreadsheet would run as formulas.

    Raises:
        QueryError: The query is refused, or it has too many rows for a file.
    """
    columns, rows = _whole(corpus, query)
    file = io.StringIO()
    writer = csv.writer(file)
    for row in (columns, *rows):
        writer.writerow(map(guarded, row))
    return file.getvalue()


def json_of(corpus: Corpus, query: str) -> str:
    """Return the rows of a query as a JSON array of objects.

    Raises:
        QueryError: The query is refused, two columns have one name, or it has too many rows.
    """
    columns, rows = _whole(corpus, query)
    if len(set(columns)) < len(columns):
        raise QueryError("two columns have one name, which an object of JSON cannot hold")
    records = [dict(zip(columns, map(_plain, row), strict=True)) for row in rows]
    return json.dumps(records, ensure_ascii=True)


def _whole(corpus: Corpus, query: str) -> tuple[list[str], list[tuple[Value, ...]]]:
    columns, rows = _fetch(corpus, query, MAX_FILE_ROWS + 1, n_part=5_000)
    if len(rows) > MAX_FILE_ROWS:
        raise QueryError(
            f"the query has more than {MAX_FILE_ROWS:,} rows: `trajrec sql` writes them"
        )
    if _size(rows) >= MAX_SIZE:
        raise QueryError(
            f"the result has more than {MAX_SIZE:,} characters: `trajrec sql` writes it"
        )
    return columns, rows


def _fetch(
    corpus: Corpus, query: str, n: int, *, n_part: int
) -> tuple[list[str], list[tuple[Value, ...]]]:
    if len(query) > MAX_QUERY:
        raise QueryError(f"a query has at most {MAX_QUERY:,} characters here")
    relation = corpus.sql(query, sandbox=True)
    rows: list[tuple[Value, ...]] = []
    size = 0
    try:
        # In parts, because the values of a few rows can be larger than all memory.
        while len(rows) < n and size < MAX_SIZE:
            part = relation.limit(min(n_part, n - len(rows)), offset=len(rows)).fetchall()
            size += _size(part)
            rows += part
            if len(part) < n_part:
                break
        return relation.columns, rows
    except (duckdb.Error, ValueError, OverflowError) as exc:
        # E.g. a date that Python has no place for.
        raise QueryError(f"a value of the result cannot be shown: {exc}") from exc


def _size(rows: Sequence[Sequence[Value]]) -> int:
    return sum(len(value) for row in rows for value in row if isinstance(value, str))


def _row(columns: Sequence[str], row: Sequence[Value]) -> list[Cell]:
    steps = [value for name, value in zip(columns, row, strict=True) if name == "step"]
    step = steps[0] if steps and isinstance(steps[0], int) and steps[0] >= 0 else None
    cells = []
    for name, value in zip(columns, row, strict=True):
        text = None if value is None else cell(str(value), _CELL)
        is_id = name == "episode_id" and isinstance(value, str) and 0 < len(value) <= 16
        cells.append(
            Cell(text=text, episode_id=value if is_id else None, step=step if is_id else None)
        )
    return cells


def _plain(value: Value) -> Value:
    """Return a value as JSON has it; one that JSON has no form for as its text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, dict, list)):
        try:
            plain = to_json_value(value)
            json.dumps(plain, allow_nan=False)
        except (TypeError, ValueError):
            return str(value)
        return plain
    return str(value)
