"""Write the rows of a query as CSV or Parquet to stdout."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.cli.interrupts import interrupted_by_signals
from trajrec.types import Value
from trajrec.values.formulas import FORMULA, guarded

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation


class _Rows:
    """The rows of a relation for another instance of DuckDB, which takes no foreign relations."""

    def __init__(self, relation: DuckDBPyRelation) -> None:
        self._relation = relation

    def __arrow_c_stream__(self, requested_schema: Value = None) -> Value:
        return self._relation.__arrow_c_stream__(requested_schema)


def write_rows(relation: DuckDBPyRelation, kind: str) -> None:
    """Write rows to stdout.

    CSV puts an apostrophe before texts that a spreadsheet would run as a formula; Parquet and JSON
    have the texts as they are.

    Raises:
        ValueError: Parquet is to be written to a terminal.
    """
    from trajrec.values.database import connect

    if kind == "parquet" and sys.stdout.isatty():
        raise ValueError("--format parquet must go to a file, e.g. > steps.parquet")
    # The instance of the query may not write files.
    con = connect()
    con.execute("SET TimeZone = 'UTC'")
    con.register("stream", _Rows(relation))
    con.execute("CREATE TABLE result AS FROM stream")
    columns = [row[0] for row in con.execute("DESCRIBE result").fetchall()]
    shown = []
    for column, name, type_ in zip(columns, relation.columns, relation.types, strict=True):
        value = _quote(column)
        is_text = type_.id in ("varchar", "enum") or str(type_) == "JSON"
        if kind == "csv" and is_text:
            value = f"{value}::VARCHAR"
            is_formula = f"regexp_matches({value}, '{FORMULA}')"
            value = f"CASE WHEN {is_formula} THEN chr(39) || {value} ELSE {value} END"
        elif str(type_) == "JSON":
            # Arrow has it as text.
            value = f"{value}::JSON"
        # Names may be recorded texts: those of a PIVOT are.
        shown_name = str(guarded(name)) if kind == "csv" else name
        shown.append(f"{value} AS {_quote(shown_name)}")
    with interrupted_by_signals(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows"
        con.execute(
            f"COPY (SELECT {', '.join(shown)} FROM result) "
            f"TO '{_escaped(str(file))}' (FORMAT {kind})"
        )
        sys.stdout.flush()
        if sys.stdout.isatty():
            with file.open(encoding="utf-8") as lines:
                sys.stdout.writelines(lines)
            return
        with file.open("rb") as data:
            while part := data.read(1 << 20):
                sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    con.close()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _escaped(text: str) -> str:
    return text.replace("'", "''")
