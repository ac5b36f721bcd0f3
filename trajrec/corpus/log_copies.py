"""Copies of logs, for a release."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from trajrec.errors import CorpusError
from trajrec.log.identity import read_identity
from trajrec.log.journal import journal_path
from trajrec.log.locks import is_being_written
from trajrec.log.remote import open_source

_PART = 1 << 24
"""Bytes that are read at once."""


class LogCopies:
    """Copies the logs of a corpus.

    Attributes:
        path: The folder.
    """

    path: Path

    def copy_log(self, log: str, target: Path) -> None:
        """Copy a log whole: also one in an object storage, and the journal of a killed writer.

        Args:
            log: The log, relative to the folder.
            target: The new file, in a folder that exists.

        Raises:
            CorpusError: The log is being written.
            LogError: The log cannot be read.
        """
        path = self.path / log
        if is_being_written(path):
            raise CorpusError(
                f"{path}: is being written: close its recorder first (trajrec.close_logs())"
            )
        with contextlib.closing(open_source(path)) as source, target.open("wb") as file:
            for start in range(0, source.size, _PART):
                file.write(source.range(start, min(start + _PART, source.size)))
        journal = journal_path(path)
        # A sealed log has all that a journal may have left.
        if journal.exists() and not read_identity(path).seal:
            shutil.copyfile(journal, journal_path(target))
