"""The corpus, as analyses see it: a folder whose tables answer SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trajrec.types import Value


class Rows(Protocol):
    """The rows of a query."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows as tuples."""
        ...


class Source(Protocol):
    """A corpus: `trajrec.Corpus`, or any tables of the same shape."""

    path: Path

    def sql(
        self,
        query: str,
        *,
        params: Sequence[Value] | Mapping[str, Value] | None = None,
        sandbox: bool = False,
    ) -> Rows:
        """Return the rows of a query; in a sandbox if it holds somebody else's condition."""
        ...

    def goal_text(self, episode_id: str) -> str | None:
        """Return the goal of an agent's episode as text; None if it is not known."""
        ...

    def copy_log(self, log: str, target: Path) -> None:
        """Copy a log whole, by its path relative to the folder."""
        ...


def fetch(source: Source, query: str, *, is_ours: bool = True) -> list[dict[str, Any]]:
    """Return the rows of a query as dicts.

    Args:
        source: The corpus.
        query: One SELECT.
        is_ours: Whether no condition of a caller stands in it. Another one runs in a sandbox.
    """
    rows = source.sql(query, sandbox=not is_ours)
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]


def quoted(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def metadata_column(key: str) -> str:
    """Return SQL for a key of the metadata.

    Raises:
        ValueError: The key has other characters than letters, digits, `_`, `-` and `.`.
    """
    if not re.fullmatch(r"[\w.-]+", key):
        raise ValueError(f"a key of the metadata must be letters, digits, _, - and ., got {key!r}")
    return f"""json_extract_string(metadata, '$."{key}"')"""
