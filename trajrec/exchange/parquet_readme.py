"""The README.md of exported tables: front matter of Hugging Face, and the meaning of each column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from trajrec.corpus.index.table import Table
from trajrec.types import JsonObject
from trajrec.values.parquet_columns import plain_column


class TableFolder(NamedTuple):
    """A folder of exported rows.

    Attributes:
        folder: Its name.
        table: The table that the rows are of.
        n_rows: Their number.
        digest: Their digest, which does not depend on their order.
    """

    folder: str
    table: Table
    n_rows: int
    digest: str


def readme(folders: Sequence[TableFolder], origin: JsonObject) -> str:
    """Return README.md.

    Args:
        folders: The folders, the first of which `datasets` loads if no name is given.
        origin: The lineage of the rows.
    """
    blocks = [
        _front_matter(folders),
        "# Tables of recorded trajectories",
        f"Written by {origin['writer']}: {origin['n_episodes']} episodes that satisfy the "
        f"condition below. `lineage.json` has the digests of the rows.",
        f"```sql\n{origin['where']}\n```",
        "Each folder is a table; a table without rows has none. Files of rows of episodes lie in "
        "`env=.../day=.../`, by the environment and the day (UTC) of their episode, `none` and "
        "`unknown` if it has none; these two are columns too in readers that know such folders. "
        "JSON is text, and NULL stands for an unknown value. `episodes` has fresh rollouts, "
        "`forks` and `nested` the other kinds; in other tables the column `kind` tells it. Without "
        "the type of pyarrow, pandas rounds keys of 64 bits that may be NULL.",
        "```python\n"
        'pandas.read_parquet("steps", dtype_backend="pyarrow")\n'
        'polars.read_parquet("steps/**/*.parquet", hive_partitioning=True)\n'
        "duckdb.sql(\"FROM read_parquet('steps/**/*.parquet', hive_partitioning = true)\")\n"
        'datasets.load_dataset(".", "steps")\n```',
        *(_section(folder) for folder in folders),
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(folders: Sequence[TableFolder]) -> str:
    """Return the YAML of Hugging Face; each value is JSON, which YAML includes."""
    lines = ["---", 'tags: ["agents", "trajectories", "trajrec"]', "configs:"]
    for number, of in enumerate(folders):
        lines.append(f"- config_name: {json.dumps(of.folder)}")
        lines.append(f"  data_files: {json.dumps(f'{of.folder}/**/*.parquet')}")
        if number == 0:
            lines.append("  default: true")
    return "\n".join([*lines, "---"])


def _section(of: TableFolder) -> str:
    """Return the description of a table."""
    lines = [
        f"## {of.folder}",
        "",
        f"A row is {of.table.row}; key ({', '.join(of.table.key)}); {of.n_rows} rows.",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
    ]
    for name, kind, meaning in of.table.columns:
        shown = "JSON, as text" if kind == "JSON" else plain_column(name, kind)[1]
        lines.append(f"| `{name}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)
