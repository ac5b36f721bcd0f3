"""The imports that a corpus has: which files need not be read again, and which have grown."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from trajrec.errors import CorpusError, ImportFileError, QueryError
from trajrec.exchange.candidates import Candidate, SourceFile, has_grown
from trajrec.log.folder import has_logs


class KnownImport(NamedTuple):
    """An import that the corpus has.

    Attributes:
        sha256: The digest of the file.
        log: The log that holds its episodes, relative to the corpus.
        files: The files that it consisted of.
    """

    sha256: str
    log: str
    files: list[SourceFile]


class KnownImports:
    """The imports of a corpus.

    Args:
        folder: The corpus, which need not exist.

    Raises:
        ImportFileError: The corpus cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: set[tuple[str, str]] = set()
        self._by_path: dict[tuple[str, str], list[KnownImport]] = defaultdict(list)
        self._removed: set[str] = set()
        if folder.is_dir() and has_logs(folder):
            self._read()

    def _read(self) -> None:
        # Late: DuckDB is not needed for a new corpus.
        from trajrec.corpus.corpus import open as open_corpus

        # Logs that hold more than one import are left as they are.
        query = (
            "SELECT file, format, sha256, log, report->'$.files', "
            "count(*) OVER (PARTITION BY log) FROM imports"
        )
        try:
            with open_corpus(self._folder) as corpus:
                rows = corpus.sql(query).fetchall()
                removed = corpus.sql(
                    "SELECT DISTINCT log_id FROM removals WHERE log_id NOT IN "
                    "(SELECT log_id FROM logs)"
                ).fetchall()
        except (CorpusError, QueryError) as exc:
            raise ImportFileError(f"the corpus cannot be read: {exc}", path=self._folder) from exc
        self._removed = {row[0] for row in removed}
        for path, format_name, sha256, log, files, n_imports in rows:
            self._digests.add((sha256, format_name))
            if files is not None and n_imports == 1:
                known = KnownImport(sha256, log, _files(files))
                self._by_path[path, format_name].append(known)

    def has(self, sha256: str, format_name: str) -> bool:
        """Return whether a file was imported."""
        return (sha256, format_name) in self._digests

    def is_removed(self, log_id: str) -> bool:
        """Return whether all episodes of an import were removed from the corpus."""
        return log_id in self._removed

    def add(self, sha256: str, format_name: str) -> None:
        """Note that a file was imported."""
        self._digests.add((sha256, format_name))

    def earlier_states(
        self, candidate: Candidate, format_name: str, sha256: str
    ) -> list[KnownImport]:
        """Return the imports of a file as it was before it grew."""
        known = self._by_path.get((str(candidate.path.resolve()), format_name), [])
        return [
            earlier
            for earlier in known
            if earlier.sha256 != sha256 and has_grown(candidate, earlier.files)
        ]

    def has_other_contents(self, candidate: Candidate, format_name: str) -> bool:
        """Return whether the file at this path was imported, whatever it held."""
        return (str(candidate.path.resolve()), format_name) in self._by_path

    def remove(self, imports: list[KnownImport]) -> None:
        """Delete the logs of imports that a later one replaces: it has all that they have."""
        for known in imports:
            with contextlib.suppress(OSError):
                (self._folder / known.log).unlink()


def _files(text: str) -> list[SourceFile]:
    items = json.loads(text)
    return [SourceFile(item["name"], item["size"], item["sha256"]) for item in items]
