"""Makes the views of a corpus in DuckDB, those that users see when a query first names them.

DuckDB binds the query of a view when the view is made. For all of them that takes longer than all
the rest of opening a small corpus, and a query needs two or three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

import duckdb

from trajrec.corpus.index.catalog_tables import CATALOG
from trajrec.corpus.index.guard import Guard

SUPERSEDING = ("running", "dropped", "superseded")
"""The tables of the schema "delta" that say which stored rows hold no more."""

BEHIND = (*SUPERSEDING, *CATALOG)
"""The tables that public views read and that are none themselves."""

# Statements and tables that list what there is, and functions that run a text.
_LISTING = re.compile(r"show|describe|summarize|schema|duckdb_|pragma|pg_|sqlite_|query", re.I)

# A table in a query, but for those that only our own queries name, and functions.
_TABLE = re.compile(r"\b(?:from|join)\s+(?!(?:stored|delta|rows)\.)(\w++)(?!\s*\()")
_CTE = re.compile(r"\b(\w+)\s+as\s+(?:(?:not\s+)?materialized\s+)?\(")

_WORD = re.compile(r"\w+")


class ViewMaker:
    """The views of a corpus, by name with their schema.

    Args:
        con: The connection that makes them.
        guard: Is released before a view is made.

    Attributes:
        made: The queries of those that are there.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, guard: Guard) -> None:
        self.made: dict[str, str] = {}
        self._con = con
        self._guard = guard
        # The public ones in the order in which they may refer to each other, by name alone.
        self._public: dict[str, str] = {}
        self._has_all = False

    def make(self, views: Mapping[str, str]) -> None:
        """Make some views, but those that are there already as they are to be."""
        for name, query in views.items():
            if self.made.get(name) != query:
                self._guard.release()
                self._con.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
                self.made[name] = query

    def set_public(self, queries: Mapping[str, str], *, at_once: Set[str]) -> None:
        """Say what the public views are; those that are there already are made anew if need be.

        Args:
            queries: All of them, each behind those that it refers to.
            at_once: The names of those that are made now.
        """
        self._public = dict(queries)
        self._has_all = False
        self._make_public({name for name in queries if f"main.{name}" in self.made} | at_once)

    def make_all(self) -> None:
        """Make all public views."""
        if not self._has_all:
            self._make_public(self._public.keys())

    def make_named(self, query: str) -> None:
        """Make the public views that a query may refer to."""
        if self._has_all:
            return
        words = set(_WORD.findall(query.lower()))
        try:
            names = {name.lower() for name in self._con.get_table_names(query)}
        except duckdb.BinderException:
            # It names none beside a parameter, nor of JOIN ... USING.
            tables = set(_TABLE.findall(query.lower())) - set(_CTE.findall(query.lower()))
            names = tables | (words & self._public.keys())
        except duckdb.Error:
            self.make_all()
            return
        # In place of a view that is there DuckDB names the tables that it reads.
        names -= set(BEHIND) - words
        if _LISTING.search(query) or not names <= self._public.keys():
            # An error for an unknown name proposes others.
            self.make_all()
        elif any(f"main.{name}" not in self.made for name in names):
            self._make_public(names)

    def _make_public(self, names: Set[str]) -> None:
        """Make some public views, and those that they refer to."""
        wanted = set(names)
        for name in reversed(self._public):
            if name in wanted:
                wanted |= self._public.keys() & set(_WORD.findall(self._public[name]))
        self.make({f"main.{n}": query for n, query in self._public.items() if n in wanted})
        self._has_all = all(f"main.{name}" in self.made for name in self._public)
