"""A table of the index, as its declaration."""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """A table: the meaning of a row, its key, and its columns as (name, type, meaning)."""

    name: str
    row: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]

    @property
    def ddl(self) -> str:
        """The columns as SQL."""
        return ", ".join(f"{name} {sql_type}" for name, sql_type, _ in self.columns)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [name for name, _, _ in self.columns]


EPISODE_ID = ("episode_id", "VARCHAR", "its episode")
KIND = ("kind", "VARCHAR", "kind of its episode: rollout, fork or nested")
