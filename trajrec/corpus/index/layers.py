"""The SQL over the layers of an index: the file, what this process read besides, and journals.

In DuckDB, the database "stored" has the tables of the file, the schema "delta" those in memory, and
"tail" those of journals. The views in "rows" have the rows of all three that hold. They name logs
by key; the views in "main", which users see, name them by path.
"""

from __future__ import annotations

from dataclasses import dataclass

from trajrec.corpus.index.agent_tables import MODEL_CALLS
from trajrec.corpus.index.credit_tables import ANNOTATIONS
from trajrec.corpus.index.numeric_changes import NUMERIC_CHANGES, changes_query
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import ALL_EPISODES, CHECKS, LOGS, OF_EPISODES, STATE_CHANGES


@dataclass
class Layers:
    """Which layers have rows.

    Attributes:
        has_file: Whether the index file is attached.
        has_delta: Whether this process has read logs that the file lacks.
        has_tail: Whether journals have rows.
        cost: SQL for the cost of a model call whose answer gives none.
    """

    has_file: bool
    has_delta: bool
    has_tail: bool = False
    cost: str = "NULL"

    @property
    def files(self) -> str:
        """The table of files."""
        return "delta.files" if self.has_delta else "stored.files"

    @property
    def has_one(self) -> bool:
        """Whether all rows are in one layer."""
        return self.has_file and not self.has_delta and not self.has_tail

    def source(self, name: str) -> str:
        """Return the table or view with the rows of a table that hold."""
        # A view over a view takes twice as long to make, at each opening.
        return f"stored.{name}" if self.has_one else f"rows.{name}"

    def contents(self) -> str:
        """Return a query of the contents that hold."""
        if not self.has_delta:
            return "SELECT * FROM stored.contents"
        if not self.has_file:
            return "SELECT * FROM delta.contents"
        return (
            "SELECT * FROM stored.contents WHERE log_key NOT IN (FROM delta.dropped) "
            "AND log_key NOT IN (SELECT log_key FROM delta.contents) "
            "UNION ALL SELECT * FROM delta.contents"
        )

    def rows(self, table: Table) -> str:
        """Return a query of the rows of a table that hold."""
        rows = f"SELECT * FROM stored.{table.name}"
        if not self.has_delta:
            pass
        elif self.has_file:
            rows = f"{self._held(table)} UNION ALL SELECT * FROM delta.{table.name}"
        else:
            rows = f"SELECT * FROM delta.{table.name}"
        return self._with_tail(table, rows) if self.has_tail else rows

    def _held(self, table: Table) -> str:
        """Return a query of the stored rows that still hold."""
        stored = f"SELECT * FROM stored.{table.name} WHERE log_key NOT IN (FROM delta.dropped)"
        if table is ALL_EPISODES:
            return f"SELECT * FROM ({stored}) ANTI JOIN delta.all_episodes USING (log_key, number)"
        if table in ANNOTATIONS:
            return stored
        return f"{stored} AND {_is_latest(table, 'delta')}"

    def _with_tail(self, table: Table, rows: str) -> str:
        """Return a query of rows that adds those of journals, and leaves out those they replace."""
        if table is ALL_EPISODES:
            rows = f"SELECT * FROM ({rows}) ANTI JOIN tail.all_episodes USING (log_key, number)"
        elif table not in ANNOTATIONS:
            rows = f"SELECT * FROM ({rows}) WHERE {_is_latest(table, 'tail')}"
        return f"{rows} UNION ALL SELECT * FROM tail.{table.name}"

    def public(self, table: Table, *, lacks_kinds: bool) -> str:
        """Return the query of a table as users see it.

        Args:
            table: The table.
            lacks_kinds: Whether rows are in other logs than their episodes, and lack their kind.
        """
        if table is LOGS:
            return self._logs()
        if table is ALL_EPISODES:
            return self._episodes()
        columns = {name: f"r.{name}" for name in table.names}
        source = f"{self.source(table.name)} r"
        if table is MODEL_CALLS and self.cost != "NULL":
            columns["cost"] = f"coalesce(r.cost, {self.cost}) AS cost"
        if table.has_log:
            columns["log"] = "f.log"
            source += f" JOIN {self.files} f ON f.log_key = r.log_key AND f.is_original"
        if lacks_kinds:
            columns["kind"] = "coalesce(r.kind, e.kind) AS kind"
            source += (
                " LEFT JOIN (SELECT episode_id, kind FROM main.all_episodes WHERE kind <> 'copy') e"
                " ON e.episode_id = r.episode_id"
            )
        query = f"SELECT {', '.join(columns.values())} FROM {source}"
        if table is STATE_CHANGES:
            query += f" UNION ALL {changes_query(self.source(NUMERIC_CHANGES.name))}"
        return query

    def _episodes(self) -> str:
        """Return a query of episodes, once for each file that has them, each with an ending."""
        columns = {name: f"r.{name}" for name in ALL_EPISODES.names}
        columns["log"] = "f.log"
        columns["kind"] = "CASE WHEN f.is_original THEN r.kind ELSE 'copy' END AS kind"
        columns["ending"] = (
            "coalesce(r.ending, CASE WHEN r.log_key IN (FROM delta.running) THEN 'running' "
            "ELSE 'interrupted' END) AS ending"
        )
        source = f"{self.source('all_episodes')} r JOIN {self.files} f ON f.log_key = r.log_key"
        return f"SELECT {', '.join(columns.values())} FROM {source}"

    def _logs(self) -> str:
        """Return a query of files with their contents."""
        of_file = ("log", "size_bytes", "mtime_ns")
        columns = {name: f"{'f' if name in of_file else 'c'}.{name}" for name in LOGS.names}
        columns |= {
            "is_original": "f.is_original AND NOT coalesce(c.is_copy, false) AS is_original",
            "n_frames": "coalesce(c.n_frames, 0) AS n_frames",
            "is_sealed": "coalesce(c.is_sealed, false) AS is_sealed",
            "damage": "c.damage::JSON AS damage",
            "problem": "coalesce(f.problem, c.problem) AS problem",
            "header": "c.header::JSON AS header",
        }
        source = f"{self.files} f LEFT JOIN {self.source('contents')} c ON c.log_key = f.log_key"
        return f"SELECT {', '.join(columns.values())} FROM {source}"


def _is_latest(table: Table, schema: str) -> str:
    """Return the condition that no episode of a layer above replaces a row."""
    if table not in OF_EPISODES:
        return "true"
    is_latest = f"episode_id NOT IN (FROM {schema}.superseded)"
    return f"({is_latest} OR phase = 'post-hoc')" if table is CHECKS else is_latest
