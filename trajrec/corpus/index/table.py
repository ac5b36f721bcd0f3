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
    def stored(self) -> dict[str, str]:
        """The columns as they are stored, with their types: a row names its log by a key."""
        columns = {name: sql_type for name, sql_type, _ in self.columns if name != "log"}
        return {"log_key": "INTEGER"} | columns

    @property
    def ddl(self) -> str:
        """The stored columns as SQL."""
        return ", ".join(f"{name} {sql_type}" for name, sql_type in self.stored.items())

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [name for name, _, _ in self.columns]

    @property
    def has_log(self) -> bool:
        """Whether the log of a row is one of the columns."""
        return "log" in self.names


EPISODE_ID = ("episode_id", "VARCHAR", "its episode")
KIND = ("kind", "VARCHAR", "kind of its episode: rollout, fork or nested")
