"""The episodes that a condition selects, log by log, as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trajrec.errors import CorpusError
from trajrec.log.identity import identity_of
from trajrec.log.row_reader import RowReader
from trajrec.types import Array, IntArray


@dataclass(frozen=True, kw_only=True)
class LogSelection:
    """The selected episodes of one log, in ascending order of their numbers.

    Attributes:
        path: The log.
        seal: Its seal or the first digits of it; None if it is not sealed.
        first_frame: The first frame with a part of one of the episodes.
        last_frame: The last one.
        numbers: Their numbers in the log, (E,) int64.
        codes: Their numbers in the whole selection, (E,) int64.
        first_steps: The number of the first step of each, (E,) int64.
        end_steps: The number of the last step of each plus one, (E,) int64.
        terminated: The flag of the last step of each, (E,) bool.
        truncated: The flag of the last step of each, (E,) bool.
        failed: Number of an episode -> its steps that raised, and so have no row.
    """

    path: Path
    seal: str | None
    first_frame: int
    last_frame: int
    numbers: IntArray
    codes: IntArray
    first_steps: IntArray
    end_steps: IntArray
    terminated: Array
    truncated: Array
    failed: Mapping[int, frozenset[int]]

    def open(self) -> RowReader:
        """Open the log.

        Raises:
            LogError: It cannot be read.
            CorpusError: Another log is in its place now.
        """
        reader = RowReader(self.path)
        identity = identity_of(reader)
        # A log that was written when it was selected may be sealed by now: its frames stay where
        # they are, until it is rewritten.
        is_same = not identity.generation
        if self.seal is not None:
            is_same = identity.seal.startswith(self.seal)
        if not is_same:
            reader.close()
            raise CorpusError(
                f"{self.path}: another log is in this place now; select the episodes again"
            )
        return reader


@dataclass(frozen=True)
class Selection:
    """The episodes that a condition selects.

    Attributes:
        folder: The corpus.
        ids: The id of each episode, in the order of logs and numbers.
        logs: Their logs.
    """

    folder: Path
    ids: tuple[str, ...]
    logs: tuple[LogSelection, ...]

    def digest(self) -> str:
        """Return a digest of the selected episodes, in their order, and of their logs' contents.

        The order counts: the numbers of episodes, and the codes of texts, follow from it.
        """
        parts = hashlib.blake2b(digest_size=16)
        for log in self.logs:
            ids = ",".join(self.ids[code] for code in log.codes.tolist())
            # A log that is not sealed grows, and its episodes with it.
            content = log.seal or f"{log.last_frame} {log.end_steps.tolist()}"
            parts.update(f"{ids} {content} ".encode())
            parts.update(log.terminated.tobytes() + log.truncated.tobytes())
        return parts.hexdigest()
