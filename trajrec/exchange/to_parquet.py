"""Exports the tables of a corpus as Parquet, a folder for each table, as Hugging Face reads them.

The rows of episodes are partitioned by the environment and the day of their episode, in folders
that pyarrow, pandas, Polars and DuckDB know: `steps/env=CartPole-v1/day=2026-11-27/`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import duckdb

from trajrec.conditions import bracketed
from trajrec.corpus.corpus import Corpus
from trajrec.corpus.exports import exporting
from trajrec.corpus.index.import_tables import IMPORTS
from trajrec.corpus.index.label_tables import REMOVALS
from trajrec.corpus.index.table import Table
from trajrec.corpus.index.tables import ALL_EPISODES, LOGS, TABLES
from trajrec.corpus.lineage import LINEAGE_NAME, lineage, write_lineage
from trajrec.errors import CorpusError
from trajrec.exchange.account import Account
from trajrec.exchange.export_reports import ExportReport
from trajrec.exchange.parquet_readme import TableFolder, readme
from trajrec.types import Value
from trajrec.values.database import connect
from trajrec.values.parquet_columns import plain_column

# The environment and the day of an episode. No table has columns of these names.
_PARTITION = ["env", "day"]

_KINDS = {"episodes": "rollout", "forks": "fork", "nested": "nested"}
"""Folder -> the kind of its episodes. A rate over the folder `episodes` counts fresh rollouts
alone, as one over the SQL view of that name does."""

_OF_LOGS = (LOGS, IMPORTS, REMOVALS)
"""Tables whose rows belong to no single episode of the corpus."""


class _Part(NamedTuple):
    """A folder of the export: the rows of a table that a condition selects."""

    folder: str
    table: Table
    condition: str


class _Selection(NamedTuple):
    """The selected episodes; None for all of them, with what belongs to none."""

    ids: list[Value] | None

    @property
    def condition(self) -> str:
        """SQL for the rows of these episodes."""
        return "true" if self.ids is None else "episode_id IN (SELECT unnest($ids))"

    @property
    def params(self) -> dict[str, Value]:
        """The parameters of a query with that condition."""
        return {} if self.ids is None else {"ids": self.ids}


def export_parquet(
    corpus: Corpus, output: str | Path, where: str = "true", *, overwrite: bool = False
) -> ExportReport:
    """Write the tables of a corpus as Parquet (zstd), a folder for each table that has rows.

    Args:
        corpus: The corpus, opened without a sandbox, which could write no files.
        output: A new folder. It appears when it is whole, with a README.md that describes its
            columns, and a `lineage.json`.
        where: A SQL condition on the columns of `all_episodes`.
        overwrite: Whether the folder of any export is replaced, and not only of the same call.

    Returns:
        The number of the episodes, and the account: a field is a cell, and unknown if it is NULL.
        What the logs have and the tables lack is counted as dropped.

    Raises:
        CorpusError: No episode is selected, the folder exists, or it cannot be written.

    >>> export_parquet(corpus, "tables", "outcome = 'success'").n_episodes
    2
    """
    path = Path(output)
    report = ExportReport()
    folders: list[TableFolder] = []
    digest = hashlib.blake2b(digest_size=16)
    command = {"kind": "parquet", "where": where}
    with exporting(corpus.path, path, command, overwrite=overwrite) as temporary:
        selection = _select(corpus, where)
        temporary.mkdir(parents=True)
        try:
            for part in _parts(selection):
                _write(corpus, temporary, part, selection)
                of_table = _count(temporary, part, report.account)
                if of_table is not None:
                    folders.append(of_table)
                    digest.update(f"{part.folder} {of_table.digest}\n".encode())
        except duckdb.PermissionException as exc:
            raise CorpusError(
                f"{corpus.path}: was opened with a sandbox, from which no file is written; open it "
                "without one"
            ) from exc
        except duckdb.Error as exc:
            raise CorpusError(f"{path}: cannot be written: {str(exc).splitlines()[0]}") from exc
        report.n_episodes = sum(of.n_rows for of in folders if of.folder in _KINDS)
        if not report.n_episodes:
            raise CorpusError(f"{corpus.path}: no episode is selected by {where!r}")
        _count_left(corpus, selection, report.account)
        origin = lineage(where, digest.hexdigest(), report.n_episodes)
        tables = {of.folder: {"rows": of.n_rows, "digest": of.digest} for of in folders}
        facts = {**origin, "tables": tables, "report": report.account.as_dict()}
        write_lineage(temporary / LINEAGE_NAME, facts)
        (temporary / "README.md").write_text(readme(folders, origin), encoding="utf-8")
    return report


def _select(corpus: Corpus, where: str) -> _Selection:
    """Return the selected episodes of all kinds."""
    if where == "true":
        return _Selection(None)
    # The condition may be somebody else's: it runs in the sandbox, and no query that writes has it.
    query = f"SELECT DISTINCT episode_id FROM all_episodes WHERE {bracketed(where)} ORDER BY 1"
    return _Selection([row[0] for row in corpus.sql(query, sandbox=True).fetchall()])


def _parts(selection: _Selection) -> list[_Part]:
    """Return the folders, in the order in which they are described."""
    selected = selection.condition
    parts = [
        _Part(folder, ALL_EPISODES, f"kind = '{kind}' AND {selected}")
        for folder, kind in _KINDS.items()
    ]
    for table in TABLES:
        if table in (LOGS, IMPORTS) and selection.ids is not None:
            parts.append(
                _Part(table.name, table, f"log IN (SELECT log FROM all_episodes WHERE {selected})")
            )
        elif table is not ALL_EPISODES:
            parts.append(_Part(table.name, table, "true" if table is LOGS else selected))
    return parts


def _write(corpus: Corpus, output: Path, part: _Part, selection: _Selection) -> None:
    """Write the rows of a table, if it has any."""
    table = part.table
    values = [f"{plain_column(name, kind)[0]} AS {name}" for name, kind, _ in table.columns]
    columns = ", ".join(values)
    source = f"(SELECT * FROM {table.name} WHERE {part.condition})"
    params = selection.params if "$ids" in source else None
    if not corpus.sql(f"SELECT 1 FROM {source} LIMIT 1", params=params).fetchall():
        return
    folder = output / part.folder
    if table in _OF_LOGS:
        folder.mkdir()
        rows = corpus.sql(f"SELECT {columns} FROM {source}", params=params)
        rows.write_parquet(str(folder / "data_0.parquet"), compression="zstd")
        return
    places = (
        "SELECT episode_id AS place_of, any_value(env_id) AS env_id_of, "
        "any_value(started_at)::DATE AS day_of FROM all_episodes WHERE kind <> 'copy' GROUP BY 1"
    )
    rows = corpus.sql(
        # Not NULL: pyarrow reads no folders of which all stand for NULL.
        f"SELECT {columns}, coalesce(env_id_of, 'none') AS env, "
        f"coalesce(day_of::VARCHAR, 'unknown') AS day FROM {source} "
        f"LEFT JOIN ({places}) ON place_of = episode_id",
        params=params,
    )
    rows.write_parquet(str(folder), compression="zstd", partition_by=_PARTITION)


def _count(output: Path, part: _Part, account: Account) -> TableFolder | None:
    """Read a written folder back, and count its cells; None if the table has no rows."""
    folder = output / part.folder
    if not folder.exists():
        return None
    names = part.table.names
    # Read from the files, so that the digest is one of the rows that anybody can read. Rows have
    # no order, and each is there once.
    counts = ", ".join(f"count({name})" for name in names)
    with connect(autoinstall_known_extensions=False) as con:
        row = con.execute(
            f"SELECT count(*), bit_xor(md5_number(to_json(t)::VARCHAR)), {counts} "
            f"FROM read_parquet('{_pattern(folder)}', hive_partitioning = false) t"
        ).fetchone()
    n_rows, rows_digest, *n_known = row or (0, 0)
    account.records[part.folder] += n_rows
    account.found += n_rows * len(names)
    account.placed += sum(n_known)
    account.unknown += n_rows * len(names) - sum(n_known)
    return TableFolder(part.folder, part.table, n_rows, f"{rows_digest:032x}")


def _pattern(folder: Path) -> str:
    """Return the pattern of the files of a folder, as a literal of SQL without its quotes."""
    text = "".join(f"[{c}]" if c in "*?[" else c for c in str(folder))
    return f"{text}/**/*.parquet".replace("'", "''")


def _count_left(corpus: Corpus, selection: _Selection, account: Account) -> None:
    """Count as dropped what the logs of the selected episodes have, and the tables lack."""
    of_env = (
        "SELECT episode_id FROM all_episodes JOIN logs USING (log) WHERE kind <> 'copy' "
        f"AND header->>'$.class_name' <> '' AND {selection.condition}"
    )
    reasons = {
        "an observation of an environment; `trajrec export DIR transitions` writes them, and "
        "corpus.agent_transitions() has those of several agents": (
            # One of each step that it took, and that of the reset.
            f"WITH ids AS ({of_env}) SELECT count(*) + (SELECT count(*) FROM steps "
            "WHERE episode_id IN (FROM ids)) FROM ids"
        ),
        "the text of a message behind its first 4,000 characters; `trajrec export DIR messages` "
        "writes it whole": f"SELECT count(*) FROM messages WHERE n_chars > length(text) "
        f"AND {selection.condition}",
        "an episode of a copied log, which is there once": (
            f"SELECT count(*) FROM all_episodes WHERE kind = 'copy' AND {selection.condition}"
        ),
    }
    for reason, query in reasons.items():
        params = selection.params or None
        ((n,),) = corpus.sql(query, params=params).fetchall()
        if n:
            account.drop(reason, int(n))
    account.note(
        "large arrays, whole states, keyframes and the bytes of HTTP exchanges stay in the logs"
    )
