"""The table of imports."""

from __future__ import annotations

from trajrec.corpus.index.table import Table

IMPORTS = Table(
    "imports",
    "a file of another tool that was imported, with what it held; its episodes are in the same log",
    ("sha256", "format"),
    (
        ("file", "VARCHAR", "path of the file, or of the folder, when it was imported"),
        ("sha256", "VARCHAR", "digest of its bytes"),
        ("format", "VARCHAR", "name of its format: atif, harbor, inspect, claude-code, ..."),
        ("version", "VARCHAR", "version of the format that it states; NULL if none"),
        ("importer", "VARCHAR", "program that imported it, with its version"),
        ("n_episodes", "BIGINT", "episodes in it"),
        ("n_steps", "BIGINT", "their steps"),
        ("n_calls", "BIGINT", "their calls of tools"),
        ("found", "BIGINT", "fields of its records; the sum of the next four"),
        ("kept", "BIGINT", "fields that have a place of their own"),
        ("unknown", "BIGINT", "fields that are null"),
        ("extra", "BIGINT", "fields that are kept in columns `extra`"),
        ("dropped", "BIGINT", "fields that were not kept; `report` has the reasons"),
        ("n_redacted", "BIGINT", "values from which secrets were removed"),
        ("report", "JSON", "the whole account: extra fields, reasons, records, notes"),
        ("imported_at", "TIMESTAMP", "time of the import, UTC"),
        ("log", "VARCHAR", "log that holds its episodes"),
    ),
)
