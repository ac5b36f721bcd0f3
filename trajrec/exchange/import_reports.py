"""The results of imports, file by file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.types import JsonObject

Status = Literal["imported", "known", "skipped", "failed"]
"""The result for one file: it was imported; it had been imported before; it is of no format that is
imported; or it is damaged, so that nothing of it was imported."""


class FileReport(msgspec.Struct, kw_only=True):
    """The result for one file, or for one folder that is a trajectory.

    Attributes:
        path: The file.
        status: "imported", "known", "skipped" or "failed"; see `Status`.
        format: The name of its format, "" if it is of none.
        version: The version of the format that it states, "" if none.
        sha256: The digest of its bytes, "" if it was skipped.
        reason: Why it was skipped or failed; "" otherwise.
        episodes: The ids of its episodes.
        n_steps: Their steps.
        n_calls: Their calls of tools.
        n_redacted: The values from which secrets were removed.
        account: What it held, and what became of it.
        log: The log that holds it; None if there is none.
    """

    path: Path
    status: Status
    format: str = ""
    version: str = ""
    sha256: str = ""
    reason: str = ""
    episodes: list[str] = msgspec.field(default_factory=list)
    n_steps: int = 0
    n_calls: int = 0
    n_redacted: int = 0
    account: Account = msgspec.field(default_factory=Account)
    log: Path | None = None

    def as_dict(self) -> JsonObject:
        """Return the result as plain data."""
        return {
            "path": str(self.path),
            "status": self.status,
            "format": self.format or None,
            "version": self.version or None,
            "sha256": self.sha256 or None,
            "reason": self.reason or None,
            "episodes": list(self.episodes),
            "n_steps": self.n_steps,
            "n_calls": self.n_calls,
            "n_redacted": self.n_redacted,
            **self.account.as_dict(),
            "log": None if self.log is None else str(self.log),
        }


class ImportReport(msgspec.Struct, kw_only=True):
    """The result of an import.

    Attributes:
        files: The result for each file, in the order in which they were read.
    """

    files: list[FileReport] = msgspec.field(default_factory=list)

    def of_status(self, status: Status) -> list[FileReport]:
        """Return the results of one status."""
        return [file for file in self.files if file.status == status]

    @property
    def episodes(self) -> list[str]:
        """The ids of the imported episodes."""
        return [episode for file in self.files for episode in file.episodes]

    def raise_if_failed(self) -> None:
        """Raise the first failure, if there is one.

        Raises:
            ImportFileError: A file is damaged.
        """
        for file in self.of_status("failed"):
            raise ImportFileError(file.reason, path=file.path)
