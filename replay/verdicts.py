"""Appends the verdicts of replays to a corpus, as rows of the table `replays`."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from trajrec.log.annotations import ReplayVerdict
from trajrec.log.bounds import MAX_COUNT
from trajrec.recording.event_log import EventLog
from trajrec.recording.provenance import describe_runtime
from trajrec.redaction.redactor import Redactor
from trajrec.replay.execute.report import ReplayReport
from trajrec.types import Value
from trajrec.values.diff import MISSING

RECORDED = "recorded"
"""The column `against` of a replay in the environment or world that the log names."""

# Of larger values the text around their difference is kept: a frame would be stored twice.
_MAX_VALUE_BYTES = 1024


def may_keep(folder: Path) -> bool:
    """Return whether a folder can be written, and this process does not run in CI.

    In CI the folder is thrown away, or is a part of the repository.
    """
    return os.access(folder, os.W_OK) and not os.environ.get("CI")


class VerdictLog:
    """Appends the verdicts of one run to a folder. No log is made for no verdicts.

    Args:
        folder: The corpus.
        against: The environment or world that episodes are replayed in.
    """

    def __init__(self, folder: Path, against: str = RECORDED) -> None:
        self._folder = folder
        self._against = against
        self._run_id = secrets.token_hex(8)
        # A replay may show secrets that the recording did not have.
        self._redactor = Redactor()
        self._log: EventLog | None = None
        self._versions_data: bytes | None = None

    def add(self, report: ReplayReport) -> None:
        """Append a verdict.

        Raises:
            LogWriteError: The folder cannot be written.
        """
        if self._versions_data is None:
            # Not before: the first replay imports the packages of its environment.
            self._versions_data = self._redactor.encode(describe_runtime())[0]
        text = self._redactor.text
        divergence = report.divergence
        expected_data = None
        actual_data = None
        ulps = 0
        if divergence is not None:
            expected_data, actual_data = self._values(report)
            ulps = min(divergence.ulps or 0, MAX_COUNT)
        if self._log is None:
            # Not that of this process's agents, which they go on with.
            self._log = EventLog(self._folder, "raise", "process")
        self._log.add(
            ReplayVerdict(
                episode=-1,
                target=report.episode_id,
                run_id=self._run_id,
                time_ns=time.time_ns(),
                against=text(self._against),
                grade=report.grade,
                n_steps=report.n_steps,
                step=None if divergence is None else divergence.step,
                field="" if divergence is None else text(divergence.field),
                expected_data=expected_data,
                actual_data=actual_data,
                cause="" if divergence is None else text(divergence.cause),
                ulps=ulps,
                compared=list(report.compared),
                notes=[text(remark) for remark in report.remarks],
                versions_data=self._versions_data,
            )
        )

    def close(self) -> None:
        """Seal the log, if there is one; a second call does nothing.

        Raises:
            LogWriteError: The folder cannot be written.
        """
        if self._log is not None:
            self._log.writer.close()

    def _values(self, report: ReplayReport) -> tuple[bytes | None, bytes | None]:
        """Return the two values of a divergence, encoded; of large ones, their short texts.

        None stands for a value that one side lacks.
        """
        assert report.divergence is not None
        values: list[Value] = [report.divergence.expected, report.divergence.actual]
        encoded = [
            None if value is MISSING else self._redactor.encode(value)[0] for value in values
        ]
        if any(data is not None and len(data) > _MAX_VALUE_BYTES for data in encoded):
            shown = report.divergence.shown_values()
            encoded = [self._redactor.encode(text)[0] for text in shown]
        return encoded[0], encoded[1]
