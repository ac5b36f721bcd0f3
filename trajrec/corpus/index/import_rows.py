"""Rows of the table `imports`."""

from __future__ import annotations

from trajrec.corpus.index.cells import stored_json, to_timestamp
from trajrec.corpus.index.rows import Row, Time
from trajrec.log.annotations import ImportRecord
from trajrec.values import codec


class ImportRow(Row, kw_only=True):
    """A row of `imports`."""

    file: str
    sha256: str
    format: str
    version: str | None
    importer: str
    n_episodes: int
    n_steps: int | None
    n_calls: int | None
    found: int | None
    kept: int | None
    unknown: int | None
    extra: int | None
    dropped: int | None
    n_redacted: int | None
    report: str | None
    imported_at: Time | None


def import_row(event: ImportRecord) -> ImportRow:
    """Return the row of an import."""
    report = codec.decode_map(event.report_data)
    counts = {
        name: value if type(value := report.get(name)) is int else None
        for name in ("n_steps", "n_calls", "found", "unknown", "extra", "dropped", "n_redacted")
    }
    placed = report.get("placed")
    return ImportRow(
        file=event.source,
        sha256=event.sha256,
        format=event.format,
        version=event.format_version or None,
        importer=event.importer,
        n_episodes=len(event.targets),
        kept=placed if type(placed) is int else None,
        report=stored_json(event.report_data),
        imported_at=to_timestamp(event.time_ns),
        **counts,
    )
