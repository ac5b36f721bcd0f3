"""Write a release: tables, logs, the card in three forms, and the digests of all files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb

from trajrec.analysis.card import About, Card, make_card
from trajrec.analysis.card_text import TableFile, readme
from trajrec.analysis.comparison import Comparison
from trajrec.analysis.croissant import croissant, lacking
from trajrec.analysis.source import Source, fetch, quoted
from trajrec.errors import CorpusError
from trajrec.values.parquet_columns import plain_column

TABLES = (
    "episodes",
    "forks",
    "steps",
    "agent_rewards",
    "checks",
    "failures",
    "attempts",
    "model_calls",
    "messages",
    "state_changes",
    "side_effects",
    "credit",
    "rollouts",
    "replays",
    "labels",
    "bands",
    "interfaces",
    "lineage_edges",
    "verifier_health",
    "logs",
)
"""Tables of a release; those without rows are left out."""

OF_EPISODES = frozenset(TABLES) - {
    "bands",
    "interfaces",
    "lineage_edges",
    "verifier_health",
    "logs",
}
"""Tables that are divided by the split of their episodes."""

UNSPLIT = "unsplit"
"""Name of the split of rows that belong to none."""

LONGEST_SPLIT = 100
"""Characters of the name of a split, which is that of a file."""


class Parquet(Protocol):
    """Rows that can be written as Parquet: a relation of DuckDB."""

    columns: list[str]
    types: list[Any]

    def write_parquet(self, file_name: str, *, compression: str | None = None) -> None:
        """Write the rows to a file."""
        ...


class Release(NamedTuple):
    """A release that was written.

    Attributes:
        folder: Where it lies.
        card: The content of card.json.
        tables: The files of its tables.
        lacking: Properties that Croissant requires and that were not given.
    """

    folder: Path
    card: Card
    tables: tuple[TableFile, ...]
    lacking: tuple[str, ...]

    def __repr__(self) -> str:
        n = self.card["counts"]["episodes"]
        return f"<Release {self.folder}: {n} episodes, {len(self.tables)} tables>"


def write_release(
    source: Source,
    folder: Path,
    about: About,
    *,
    tables: Sequence[str] | None,
    comparisons: Sequence[Comparison],
    allows_private: bool,
) -> Release:
    """Write a release into a new folder.

    Raises:
        ValueError: The folder exists and is not empty, a table is unknown, an episode is marked as
            private, or the declared lineage has a cycle.
        CorpusError: A log is being written, or the folder cannot be written; it is empty then.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: not empty; a release is written into a new folder")
    if unknown := set(tables or ()) - set(TABLES):
        raise ValueError(f"tables must be among {', '.join(TABLES)}, got {sorted(unknown)[0]!r}")
    _require_public(source, allows_private=allows_private)
    card = make_card(source, about, comparisons)
    splits = _splits(source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write_files(source, folder, card, splits, tables)
    except BaseException as exc:
        # A release without its digests is none, and none is written into a folder with files.
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(exc, (OSError, duckdb.IOException)):
            raise
        reason = getattr(exc, "strerror", None) or str(exc).partition("\n")[0]
        raise CorpusError(f"{folder}: the release cannot be written: {reason}") from exc


def _write_files(
    source: Source,
    folder: Path,
    card: Card,
    splits: dict[str | None, str],
    tables: Sequence[str] | None,
) -> Release:
    written = [
        file
        for name in TABLES
        if tables is None or name in tables
        for file in _write_table(source, folder, name, splits)
    ]
    _copy_logs(source, folder)
    card["files"] = [{"table": t.table, "split": t.split, "rows": t.n_rows} for t in written]
    card["splits_renamed"] = {
        str(split): name for split, name in splits.items() if split not in (None, name)
    }
    _write(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False, default=str))
    _write(folder / "README.md", readme(card, written))
    digests = {table.path: sha256(folder / table.path) for table in written}
    description = croissant(card, written, digests)
    _write(folder / "croissant.json", json.dumps(description, indent=1, ensure_ascii=False))
    # Last, so that it has the digest of every other file.
    _write_digests(folder)
    return Release(folder, card, tuple(written), tuple(lacking(description)))


def _require_public(source: Source, *, allows_private: bool) -> None:
    """Refuse episodes that their metadata marks as private.

    Raises:
        ValueError: There are some.
    """
    rows = fetch(
        source,
        "SELECT json_extract_string(metadata, '$.privacy') AS privacy, count(*) AS n "
        "FROM all_episodes GROUP BY 1 HAVING privacy IS NOT NULL AND privacy <> 'public' "
        "ORDER BY 1",
    )
    if rows and not allows_private:
        named = ", ".join(f"{row['n']} episodes as {row['privacy']!r}" for row in rows)
        raise ValueError(
            f"the metadata marks {named} (key privacy); leave them out, or allow it "
            "(--allow-private)"
        )


def _splits(source: Source) -> dict[str | None, str]:
    """Return the split of episodes -> its name for Hugging Face, which takes no dash.

    Raises:
        ValueError: Two splits would have one name, or one is no name of a file.
    """
    rows = source.sql(
        "SELECT DISTINCT json_extract_string(metadata, '$.split') AS s FROM all_episodes ORDER BY 1"
    ).fetchall()
    names = {row[0]: UNSPLIT if row[0] is None else re.sub(r"\W", "_", row[0]) for row in rows}
    for split in names:
        if split is not None and not 0 < len(split) <= LONGEST_SPLIT:
            raise ValueError(
                f"the name of a split must have 1 to {LONGEST_SPLIT} characters, got {split[:99]!r}"
            )
    # Some file systems know no case: the files of one split would take the place of the other's.
    files = [name.casefold() for name in names.values()]
    if len(set(files)) < len(files):
        alike = [s for s, name in names.items() if files.count(name.casefold()) > 1]
        raise ValueError(
            f"the splits {', '.join(map(repr, alike))} would have the same file: its name has "
            "letters, digits and _, in any case; rename one of them in the metadata"
        )
    return names


def _write_table(
    source: Source, folder: Path, name: str, splits: dict[str | None, str]
) -> list[TableFile]:
    """Write the rows of a table, one file for each split that has some."""
    parts: dict[str, str] = {UNSPLIT: "true"}
    if name in OF_EPISODES:
        of_split = (
            "SELECT episode_id FROM all_episodes WHERE json_extract_string(metadata, '$.split')"
        )
        parts = {
            label: f"episode_id IN ({of_split} IS NOT DISTINCT FROM "
            f"{'NULL' if split is None else quoted(split)})"
            for split, label in splits.items()
        }
    files = []
    for label, condition in parts.items():
        ((n_rows,),) = source.sql(f"SELECT count(*) FROM {name} WHERE {condition}").fetchall()
        if n_rows:
            path = folder / "tables" / name / f"{label}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            kinds = _write_rows(source, name, condition, path)
            relative = path.relative_to(folder).as_posix()
            files.append(TableFile(name, label, relative, n_rows, kinds))
    return files


def _write_rows(
    source: Source, name: str, condition: str, path: Path
) -> tuple[tuple[str, str], ...]:
    """Write rows as Parquet; return the names and types of the columns."""
    described = source.sql(f"SELECT column_name, column_type FROM (DESCRIBE {name})").fetchall()
    columns = []
    kinds = []
    for column, kind in described:
        value, plain_kind = plain_column(column, kind)
        columns.append(f'{value} AS "{column}"')
        kinds.append((column, plain_kind))
    rows: Any = source.sql(f"SELECT {', '.join(columns)} FROM {name} WHERE {condition}")
    relation: Parquet = rows
    relation.write_parquet(str(path), compression="zstd")
    return tuple(kinds)


def _copy_logs(source: Source, folder: Path) -> None:
    """Copy the original logs that can be read, in their folders."""
    rows = source.sql("SELECT log FROM logs WHERE is_original AND problem IS NULL ORDER BY log")
    for (log,) in rows.fetchall():
        target = folder / "logs" / log
        target.parent.mkdir(parents=True, exist_ok=True)
        source.copy_log(log, target)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_digests(folder: Path) -> None:
    """Write SHA256SUMS as `sha256sum -c` reads it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}" for path in paths]
    _write(folder / "SHA256SUMS", "\n".join(lines) + "\n")
