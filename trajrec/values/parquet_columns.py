"""Columns of tables as each reader of Parquet takes them."""

from __future__ import annotations

_PLAIN = frozenset(
    ("VARCHAR", "BOOLEAN", "DOUBLE", "TIMESTAMP", "INTEGER", "UINTEGER", "BIGINT", "UBIGINT")
)


def plain_column(name: str, kind: str) -> tuple[str, str]:
    """Return SQL for the value of a column as a plain type, and that type.

    Lists, maps and JSON are texts of JSON: readers differ in the other forms that they take.

    Args:
        name: The column.
        kind: Its type in DuckDB.
    """
    quoted = '"' + name.replace('"', '""') + '"'
    if kind in _PLAIN:
        return quoted, kind
    if kind == "JSON":
        return f"CAST({quoted} AS VARCHAR)", "VARCHAR"
    return f"CAST(to_json({quoted}) AS VARCHAR)", "VARCHAR"
