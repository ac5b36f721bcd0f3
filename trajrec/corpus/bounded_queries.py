"""Tells queries whose values are no larger than those of the tables.

DuckDB looks at its limits of memory and time between batches of rows. A single value that a
function makes may exceed them: `repeat('x', 2000000000)`. A query that has only the syntax and the
functions below makes no such value, however often they are nested or repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeAlias

import duckdb

Node: TypeAlias = dict[str, object]
"""A part of a query, as DuckDB's `json_serialize_sql` writes it."""

_NODES = {
    "SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE",
    "EMPTY", "BASE_TABLE", "JOIN", "SUBQUERY", "EXPRESSION_LIST", "SHOW_REF",
    "ORDER_MODIFIER", "LIMIT_MODIFIER", "DISTINCT_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
}  # fmt: skip

_EXPRESSIONS = {
    "BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION",
    "OPERATOR", "PARAMETER", "STAR", "SUBQUERY", "TYPE", "WINDOW",
}  # fmt: skip

_OPERATORS = {
    "ARRAY_EXTRACT", "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_COALESCE", "OPERATOR_IS_NOT_NULL",
    "OPERATOR_IS_NULL", "OPERATOR_NOT", "OPERATOR_NULLIF", "OPERATOR_TRY", "STRUCT_EXTRACT",
}  # fmt: skip

# No type that another spelling of makes longer again and again, such as BIT and BLOB.
_TYPES = {
    "BIGINT", "BOOL", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "INT",
    "INTEGER", "INTERVAL", "JSON", "NUMERIC", "REAL", "SMALLINT", "STRING", "TEXT", "TIME",
    "TIMESTAMP WITH TIME ZONE", "TIMESTAMP", "TIMESTAMPTZ", "TINYINT", "UBIGINT", "UINTEGER",
    "USMALLINT", "UTINYINT", "VARCHAR",
}  # fmt: skip

_FUNCTIONS = {
    "%", "*", "+", "-", "/", "//", "abs", "array_contains", "array_length", "avg", "bool_and",
    "bool_or", "ceil", "ceiling", "contains", "corr", "count", "count_if", "count_star", "day",
    "dense_rank", "ends_with", "epoch", "epoch_ms", "epoch_us", "exp", "first_value", "floor",
    "greatest", "hour", "ifnull", "isfinite", "isinf", "isnan", "json_array_length",
    "json_type", "json_valid", "lag", "last_value", "lead", "least", "len", "length",
    "list_contains", "ln", "log", "lower", "make_date", "make_timestamp", "md5", "minute", "month",
    "now", "ntile", "nullif", "percent_rank", "pow", "power", "prefix", "rank", "round",
    "row_number", "second", "sign", "sqrt", "starts_with", "stddev", "stddev_pop",
    "stddev_samp", "strlen", "strpos", "suffix", "sum", "to_days", "to_hours",
    "to_milliseconds", "to_minutes", "to_seconds", "to_weeks", "trunc", "typeof", "unnest",
    "upper", "var_pop", "var_samp", "variance", "year",
}  # fmt: skip

# With a second argument these return a list of as many values.
_OF_ONE = {"any_value", "first", "last", "max", "min"}
_OF_TWO = {"arg_max", "arg_min", "date_diff", "date_part", "date_trunc", "max_by", "min_by"}

_PATTERNS = {"~~", "!~~", "~~*", "!~~*"}
_PATHS = {"->", "->>", "json_extract", "json_extract_string"}
_CUTS = {"left", "right", "substr", "substring"}

# A value and itself are twice as long, so a few of these are harmless, and many of them are not.
_JOINS = {"||", "row"}
_MAX_JOINS = 6

_MAX_DIGITS = 38
"""Digits of an INTEGER: a longer number is a BIGNUM, which grows."""


def has_bounded_values(cursor: duckdb.DuckDBPyConnection, query: str) -> bool:
    """Return whether a query makes only values that are no larger than those of the tables.

    Args:
        cursor: A connection that parses the query.
        query: One statement; one that DuckDB rejects counts as bounded.
    """
    # All of it: a connection with an unfinished result runs no other query.
    ((text,),) = cursor.execute("SELECT json_serialize_sql($1)", [query]).fetchall()
    try:
        tree = json.loads(text)
    except RecursionError:
        return False
    if tree.get("error"):
        # EXPLAIN: it computes what is constant.
        return bool(tree.get("error_type") == "parser")
    nodes = list(_nodes(tree["statements"]))
    n_joins = sum(map(_joins, nodes))
    if n_joins and any(node.get("type") == "RECURSIVE_CTE_NODE" for node in nodes):
        return False
    return n_joins <= _MAX_JOINS and all(map(_is_bounded, nodes))


def _nodes(tree: object) -> Iterator[Node]:
    """Yield all objects within a part of a query."""
    parts = [tree]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            yield part
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _joins(node: Node) -> int:
    """Return how often a node joins values, not counting those that are written out."""
    name = node.get("function_name")
    if name == "+":
        # The sum of two lists is a longer list.
        return int(len(_arguments(node)) == 2 and not any(map(_is_number, _arguments(node))))
    if name not in _JOINS:
        return 0
    return max(1, sum(_text(argument) is None for argument in _arguments(node)) - 1)


def _is_bounded(node: Node) -> bool:
    """Return whether a node alone makes no large value."""
    kind = node.get("type")
    name = node.get("class")
    if node.get("sample") is not None or node.get("show_type", "DESCRIBE") != "DESCRIBE":
        return False
    if name is None:
        return kind is None or "kind" in node or kind in _NODES
    if name not in _EXPRESSIONS:
        return False
    match name:
        case "CONSTANT":
            return _is_constant(node)
        case "OPERATOR":
            return kind in _OPERATORS
        case "TYPE":
            return str(node.get("type_name")).upper() in _TYPES
        case "STAR":
            return node.get("expr") is None
        case "FUNCTION" | "WINDOW":
            return _is_function(node)
    return True


def _is_constant(node: Node) -> bool:
    literal = node.get("literal")
    if not isinstance(literal, dict):
        return False
    return literal.get("kind") != "INTEGER" or len(str(literal.get("text"))) <= _MAX_DIGITS


def _is_function(node: Node) -> bool:
    """Return whether a function is one of ours, with arguments for which it is bounded."""
    orders = node.get("order_bys")
    if node.get("arg_orders") or (isinstance(orders, dict) and orders.get("orders")):
        return False
    name = node.get("function_name")
    arguments = _arguments(node)
    if name == "json_serialize_sql":
        # The text of a condition, which is longer as JSON.
        return len(arguments) == 1 and _inner(arguments[0]).get("class") in (
            "CONSTANT",
            "PARAMETER",
        )
    if name in _OF_ONE:
        return len(arguments) == 1
    if name in _OF_TWO:
        return len(arguments) == 2
    if name in _CUTS:
        return True
    if name in _PATTERNS:
        return len(arguments) == 2 and _is_simple_pattern(_text(arguments[1]))
    if name in _PATHS:
        # A path with an asterisk names parts within each other.
        return len(arguments) == 2 and "*" not in (_text(arguments[1]) or "*")
    return name in _FUNCTIONS or name in _JOINS


def _arguments(node: Node) -> list[Node]:
    found = node.get("arguments")
    items = found if isinstance(found, list) else []
    return [item.get("expression", item) for item in items if isinstance(item, dict)]


def _is_number(argument: Node) -> bool:
    """Return whether an argument is a number or an interval, as it is written."""
    if str(argument.get("function_name")).startswith("to_"):
        return True
    kind = argument.get("type_expr")
    if isinstance(kind, dict):
        return str(kind.get("type_name")).upper() not in ("JSON", "STRING", "TEXT", "VARCHAR")
    literal = argument.get("literal")
    return isinstance(literal, dict) and literal.get("kind") in ("INTEGER", "NUMERIC")


def _inner(argument: Node) -> Node:
    """Return what is cast, or an argument that is not cast."""
    child = argument.get("child")
    return child if isinstance(child, dict) else argument


def _text(argument: Node) -> str | None:
    """Return an argument that is written out, None for another one."""
    literal = argument.get("literal")
    return str(literal.get("text")) if isinstance(literal, dict) else None


def _is_simple_pattern(pattern: str | None) -> bool:
    """Return whether a pattern of LIKE has wildcards at its ends alone.

    DuckDB tries each way to divide a text among several of them, and cannot be stopped meanwhile.
    """
    return pattern is not None and "%" not in pattern[1:-1] and "_" not in pattern[1:-1]
