"""What the exports of a corpus have written: each may replace its own work, and nothing else unasked.

The folder `.trajrec/exports` of the corpus has a file for each place that was exported to, with a
digest of the command, and of what it wrote there. So an export that was killed can be run again as
it was, and one that somebody has edited since is never replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from trajrec.corpus.lineage import lineage_beside
from trajrec.corpus.scratch import replacing
from trajrec.errors import CorpusError
from trajrec.log.folder import INDEX_FOLDER
from trajrec.types import JsonObject

_LINEAGE_FILES = {"lineage.json": "writer", "data/metadata.json": "trajrec"}
"""The files by which the folder of an export is known, each with a key that it has."""


@contextlib.contextmanager
def exporting(corpus: Path, path: Path, command: JsonObject, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path beside a path, for an export that takes its place if no error comes.

    Args:
        corpus: The folder of the corpus.
        path: The file or folder of the export.
        command: What the export writes: its kind, its condition and its options, as JSON.
        overwrite: Whether it may replace any file, or any folder that an export has written, and
            not only what the same command wrote there.

    Raises:
        CorpusError: Something else is there, or the export cannot be written.
    """
    place = _Place(corpus, path, command)
    place.require_free(overwrite=overwrite)
    with replacing(path, replaces_folder=True) as temporary:
        yield temporary
        # Again: an export takes its time, in which others may have written there.
        own = place.require_free(overwrite=overwrite)
        # First, so that no moment has an export that nobody remembers.
        place.remember({_digest(temporary), own})
        # A file without lineage is what an export leaves that is killed before it writes its own:
        # never a file with the lineage of the one before.
        lineage_beside(path).unlink(missing_ok=True)


class _Place:
    """A file or folder that a command exports to, and what the corpus remembers of it."""

    def __init__(self, corpus: Path, path: Path, command: JsonObject) -> None:
        self._path = path
        # A copy of the corpus, whose memory is a copy too, is another corpus.
        facts = json.dumps([os.path.realpath(corpus), command], sort_keys=True)
        self._command = hashlib.sha256(facts.encode()).hexdigest()
        name = hashlib.sha256(os.fsencode(os.path.realpath(path.parent) + os.sep + path.name))
        self._memory = corpus / INDEX_FOLDER / "exports" / f"{name.hexdigest()}.json"

    def require_free(self, *, overwrite: bool) -> str:
        """Refuse to take the place of what is there, unless the same command wrote it.

        Returns:
            The digest of what the command wrote there; "" if it wrote nothing that is there still.

        Raises:
            CorpusError: Something else is there, which may not be replaced.
        """
        path = self._path
        # An empty file holds nothing: it is one of `mktemp`.
        is_empty = path.is_file() and not path.stat().st_size
        own = self._own_digest()
        if own or is_empty or not os.path.lexists(path):
            return own
        if not overwrite:
            raise CorpusError(
                f"{path}: exists; name a new one, or pass overwrite=True (--overwrite)"
            )
        if path.is_dir() and not _is_export(path):
            raise CorpusError(f"{path}: no export has written this folder, so none replaces it")
        return ""

    def remember(self, written: set[str]) -> None:
        """Remember the digests of what the command wrote before, and of what now takes its place.

        A corpus that cannot be written remembers nothing: its exports replace nothing unasked.
        """
        facts = {"command": self._command, "written": sorted(written - {""})}
        with contextlib.suppress(OSError, CorpusError):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._memory) as file:
                file.write_text(json.dumps(facts) + "\n")

    def _own_digest(self) -> str:
        """Return the digest of what is there, if it is as the same command wrote it; else ""."""
        try:
            facts = json.loads(self._memory.read_bytes())
        except (OSError, ValueError):
            return ""
        if not isinstance(facts, dict) or facts.get("command") != self._command:
            return ""
        if self._path.is_symlink() or not self._path.exists():
            return ""
        digest = _digest(self._path)
        return digest if digest in facts.get("written", ()) else ""


def _digest(path: Path) -> str:
    """Return the digest of a file, or of the names and contents in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        digest.update(os.fsencode(file.relative_to(path)) + b"\0")
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        else:
            digest.update(b"%o" % file.lstat().st_mode)
    return digest.hexdigest()


def _is_export(folder: Path) -> bool:
    """Return whether a folder is one that an export has written."""
    for name, key in _LINEAGE_FILES.items():
        try:
            facts = json.loads((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and key in facts:
            return True
    return False
