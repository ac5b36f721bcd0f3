"""Conditions that select runs: none may look at the outcomes that are compared.

With no true difference, the tasks that one run always failed "gain" ten points in another run, and
those that it always passed lose ten. So a condition may read only columns that are fixed before an
episode ends, and of subqueries only those over such columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from trajrec.analysis.source import Source
from trajrec.conditions import bracketed
from trajrec.run_interface import FIELDS
from trajrec.types import Value

FIXED_COLUMNS = frozenset(
    (
        "episode_id",
        "kind",
        "env_id",
        "task",
        "task_revision",
        "metadata",
        "goal_digest",
        "tools_digest",
        "offered_digest",
        "system_digest",
        "prompt_digest",
        "started_at",
        "seed",
        "seed_origin",
        "options",
        "parent_id",
        "fork_step",
        "caller_id",
        "caller_step",
        "state_adapter",
        "reset_key",
        "interface",
        "interface_id",
        "log",
        "number",
        "log_id",
        "header",
        *FIELDS,
        *(f"{field}_digest" for field in FIELDS),
        *(f"{field}_state" for field in FIELDS),
    )
)
"""Columns that are known before an episode ends, of the tables below."""

FIXED_TABLES = frozenset(("episodes", "all_episodes", "interfaces", "logs"))
"""Tables that a subquery of a condition may read."""


SELECT_BY_FIXED = "select by columns that are fixed before an episode ends, such as task"

LITERALS = frozenset(("true", "false", "null"))

TRUTHS = frozenset(("BOOLEAN", '"NULL"', "TINYINT", "INTEGER", "BIGINT", "UTINYINT", "UINTEGER"))
"""Types that DuckDB takes for a condition: a whole number is true unless it is 0."""


def outcome_columns(source: Source, condition: str) -> list[str]:
    """Return the names in a condition that may depend on outcomes, in order; [] if none does.

    Args:
        source: A corpus, whose DuckDB parses the condition. The condition is not run.
        condition: A SQL condition on the columns of `all_episodes`.

    Raises:
        QueryError: DuckDB cannot parse the condition, or a column or table does not exist.
        ValueError: The condition is neither true nor false, such as a bare column of texts.
    """
    text = f"SELECT 1 FROM episodes WHERE {bracketed(condition)}"
    if condition.strip() == "true":
        return []
    ((parsed,),) = source.sql("SELECT json_serialize_sql(?::VARCHAR)", params=[text]).fetchall()
    tree = json.loads(parsed)
    if tree.get("error"):
        # DuckDB's own message is clearer, and this statement raises it.
        source.sql(text, sandbox=True).fetchall()
        raise ValueError(f"the condition cannot be read: {condition}")
    own = {row[0] for row in source.sql("SELECT column_name FROM (DESCRIBE episodes)").fetchall()}
    _check_type(source, condition, own)
    names = list(dict.fromkeys(_suspects(tree)))
    # An alias must not lend its name to a column of the same name.
    aliases = {alias.lower() for alias in _aliases(tree)} - own
    return [name for name in names if name.lower() not in aliases]


def _check_type(source: Source, condition: str, own: set[str]) -> None:
    """Refuse a condition that DuckDB cannot bind, and one that is neither true nor false.

    A name that does not exist is a slip of the pen, and must not be taken for an outcome.
    """
    name = condition.strip()
    if name.isidentifier() and name.lower() not in own and name.lower() not in LITERALS:
        raise ValueError(
            f"{name!r} is no column of episodes; select a run by its name with "
            f"\"metadata->>'$.run' = '{name}'\""
        )
    # DESCRIBE binds the condition, and does not run it.
    described = f"DESCRIBE SELECT {bracketed(condition)} AS condition FROM episodes"
    query = f"SELECT column_type FROM ({described})"
    ((column_type,),) = source.sql(query, sandbox=True).fetchall()
    if column_type not in TRUTHS:
        raise ValueError(
            f"a condition must be true or false of each episode, and {condition!r} is "
            f"{column_type}; compare it with a value, e.g. task = 'refund-1'"
        )


def _suspects(node: Value) -> Iterator[str]:
    """Yield columns and tables that are not known to be fixed before the end."""
    if isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            name = str(node["column_names"][-1])
            if name.lower() not in FIXED_COLUMNS:
                yield name
        if node.get("class") == "STAR":
            yield "*"
        if node.get("class") == "POSITIONAL_REFERENCE":
            yield f"#{node['index']}"
        # Names that a subquery gives to columns by their place, and those that a join compares.
        yield from node.get("column_name_alias") or ()
        yield from (
            name for name in node.get("using_columns") or () if name.lower() not in FIXED_COLUMNS
        )
        if node.get("ref_type") == "NATURAL":
            yield "NATURAL JOIN"
        if node.get("type") == "BASE_TABLE" and str(node["table_name"]).lower() not in FIXED_TABLES:
            yield str(node["table_name"])
        if node.get("type") == "TABLE_FUNCTION":
            yield "a table function"
        children: Iterator[Value] = iter(node.values())
    elif isinstance(node, list):
        children = iter(node)
    else:
        return
    for child in children:
        yield from _suspects(child)


def _aliases(node: Value) -> Iterator[str]:
    """Yield the parameters of lambdas and the names that subqueries give to tables and columns."""
    if isinstance(node, dict):
        alias = node.get("alias")
        if isinstance(alias, str) and alias and node.get("class") != "COLUMN_REF":
            # The columns inside of the named expression are judged themselves.
            yield alias
        for child in node.values():
            yield from _aliases(child)
    elif isinstance(node, list):
        for child in node:
            yield from _aliases(child)
