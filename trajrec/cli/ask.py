"""The commands `trajrec ls`, `trajrec sql` and `trajrec schema`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.arguments import (
    ALL,
    Commands,
    add_folder,
    add_forks,
    add_json,
    add_prices,
    add_where,
    read_limit,
    read_seconds,
)
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.folder import (
    QUERY_S,
    kind_condition,
    open_corpus,
    reads_folder,
    report_problems,
)
from trajrec.cli.output import print_json, print_table
from trajrec.cli.row_files import write_rows
from trajrec.conditions import bracketed
from trajrec.errors import QueryError
from trajrec.values.shown import counted

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

LISTED = (
    "episode_id",
    "env_id",
    "task",
    "n_steps",
    "total_reward",
    "ending",
    "outcome",
    "n_failures",
    "started_at",
)
"""Columns of `trajrec ls`, the last of which a narrow terminal leaves out first."""

_OWN = frozenset(("env_id", "task", "total_reward"))
"""Columns of environments or of agents alone: a list without a value in one leaves it out."""


SIZE = "log_bytes"
"""Column of `trajrec ls --size`: the size of the log, which may have other episodes too."""

DEFAULT_LIMIT = 50


def add_parser(commands: Commands) -> None:
    """Add the commands."""
    _add_ls(commands)
    _add_sql(commands)
    parser = commands.add("schema", describe, "describe the tables of SQL", "trajrec schema")
    parser.add_argument(
        "dir", nargs="?", type=Path, metavar="DIR", help="a folder, to count its rows"
    )
    add_json(parser)


def _add_ls(commands: Commands) -> None:
    parser = commands.add("ls", list_episodes, "list the episodes of a folder", "trajrec ls runs")
    add_folder(parser)
    add_where(parser)
    add_forks(parser)
    parser.add_argument(
        "--limit",
        type=read_limit,
        metavar="N",
        help=f"episodes to list, or 'all' (default: {DEFAULT_LIMIT}, with --json all)",
    )
    parser.add_argument(
        "--sort",
        choices=(*LISTED, SIZE),
        default="started_at",
        metavar="COLUMN",
        help="column to sort by, the largest and the latest first (default: started_at)",
    )
    parser.add_argument(
        "--size", action="store_true", help="add the bytes of each episode's log, and their sum"
    )
    add_json(parser)


def _add_sql(commands: Commands) -> None:
    parser = commands.add(
        "sql",
        query,
        "query a folder with SQL",
        "trajrec sql runs 'SELECT ending, count(*) FROM episodes GROUP BY 1'",
    )
    add_folder(parser)
    parser.add_argument(
        "query", metavar="QUERY", help="a DuckDB query; `trajrec schema` lists the tables"
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv", "parquet"),
        default="table",
        help="format of the rows (default: table)",
    )
    parser.add_argument(
        "--json",
        action="store_const",
        const="json",
        dest="format",
        help="the same as --format json",
    )
    parser.add_argument(
        "--timeout",
        type=read_seconds,
        default=QUERY_S,
        metavar="SECONDS",
        help="end a query that takes longer (default: %(default)g)",
    )
    parser.add_argument(
        "--memory",
        default="50%",
        metavar="SIZE",
        help="memory that the query may use, e.g. 8GB (default: 50%% of the machine's)",
    )
    add_prices(parser, "for the column cost")
    parser.add_argument(
        "--allow-files",
        action="store_true",
        help="let the query read and write files, as DuckDB does: only if it is your own",
    )


@reads_folder
def list_episodes(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """List the latest rollouts and their number; with --forks, forks and nested episodes too."""
    columns = (*LISTED[:1], "kind", *LISTED[1:]) if arguments.forks else LISTED
    selected = (
        f"(SELECT * FROM all_episodes WHERE {kind_condition(arguments.forks)} "
        f"AND {bracketed(arguments.where)})"
    )
    source = selected
    has_size = arguments.size or arguments.sort == SIZE
    if has_size:
        columns = (*columns[:-1], SIZE, columns[-1])
        source += f" JOIN (SELECT log, size_bytes AS {SIZE} FROM logs) USING (log)"
    limit = arguments.limit or (ALL if arguments.json else DEFAULT_LIMIT)
    rows = corpus.sql(
        f"SELECT {', '.join(columns)} FROM {source} "
        f"ORDER BY {arguments.sort} DESC NULLS LAST, started_at DESC NULLS LAST, log, number DESC "
        f"LIMIT {limit}"
    ).fetchall()
    if arguments.json:
        for row in rows:
            print_json(dict(zip(columns, row, strict=True)))
        return ExitStatus.OK
    # Seconds are enough for a person; --json has the whole time.
    shown = [
        (*row[:-1], None if row[-1] is None else f"{row[-1]:%Y-%m-%d %H:%M:%S}") for row in rows
    ]
    places = [
        place
        for place, name in enumerate(columns)
        if name not in _OWN or not shown or any(row[place] is not None for row in shown)
    ]
    print_table(
        [columns[place] for place in places],
        [tuple(row[place] for place in places) for row in shown],
        is_list=True,
    )
    print(f"\n{_total(corpus, selected, len(rows), has_size=has_size)}")
    return ExitStatus.OK


def _total(corpus: Corpus, selected: str, n_listed: int, *, has_size: bool) -> str:
    """Return the line below a list of episodes."""
    ((n_episodes,),) = corpus.sql(f"SELECT count(*) FROM {selected}").fetchall()
    total = counted(n_episodes, "episode")
    if has_size:
        ((n_logs, n_bytes),) = corpus.sql(
            "SELECT count(*), coalesce(sum(size_bytes), 0) FROM logs "
            f"WHERE log IN (SELECT log FROM {selected})"
        ).fetchall()
        total += f" in {counted(n_logs, 'log')} of {n_bytes} bytes"
    if n_listed < n_episodes:
        verb = "is" if n_listed == 1 else "are"
        total += f"; {n_listed} {verb} listed (--limit all lists all)"
    return total


@reads_folder
def query(arguments: argparse.Namespace, corpus: Corpus) -> ExitStatus:
    """Run a query and print its rows."""
    import duckdb

    relation = corpus.sql(arguments.query)
    try:
        if arguments.format in ("csv", "parquet"):
            write_rows(relation, arguments.format)
            return ExitStatus.OK
        names = relation.columns
        is_json = [str(kind) == "JSON" for kind in relation.types]
        rows = relation.fetchall()
    except duckdb.Error as exc:
        # With --allow-files a query runs only now, and a cast may fail.
        raise QueryError(str(exc).splitlines()[0]) from exc
    if arguments.format == "json":
        for row in rows:
            # DuckDB returns JSON as text; printed as it is, it would be JSON inside JSON.
            values = [
                json.loads(value) if is_text and value is not None else value
                for value, is_text in zip(row, is_json, strict=True)
            ]
            print_json(dict(zip(names, values, strict=True)))
    else:
        print_table(names, rows)
    return ExitStatus.OK


def describe(arguments: argparse.Namespace) -> ExitStatus:
    """Describe the tables and views with their columns."""
    from trajrec.corpus.index.tables import TABLES
    from trajrec.corpus.index.views import EPISODES, VIEWS

    counts: dict[str, int] = {}
    status = ExitStatus.OK
    if arguments.dir is not None:
        with open_corpus(arguments.dir) as corpus:
            for table in TABLES:
                rows = corpus.sql(f"SELECT count(*) FROM {table.name}").fetchall()
                counts[table.name] = rows[0][0]
            status = report_problems(corpus)
    for table in TABLES:
        if arguments.json:
            counted = {"rows": counts[table.name]} if counts else {}
            for name, kind, meaning in table.columns:
                line = {"table": table.name, "column": name, "type": kind, "meaning": meaning}
                print_json(line | counted)
            continue
        n_rows = f", {counts[table.name]} rows" if table.name in counts else ""
        print(f"{table.name}: one row is {table.row}; key ({', '.join(table.key)}){n_rows}")
        for name, kind, meaning in table.columns:
            print(f"    {name:<14} {kind:<10} {meaning}")
        print()
    for view in VIEWS:
        if arguments.json:
            for name, meaning in view.columns:
                print_json({"view": view.name, "column": name, "meaning": meaning})
            continue
        print(f"{view.name} (a view): one row is {view.row}")
        if view.columns == EPISODES.columns:
            # Two views have the columns of `all_episodes`, which are printed above.
            print("    the columns of all_episodes\n")
            continue
        for name, meaning in view.columns:
            print(f"    {name:<20} {meaning}")
        print()
    return status
