"""A recorder that has a sample of its episodes replayed in another process while it goes on, and says what does not hold."""

from __future__ import annotations

import os
import random
import select
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Unpack

import cloudpickle

from trajrec.log.events import PostHocCheck
from trajrec.log.schema import episode_id
from trajrec.recording.event_log import open_event_log
from trajrec.recording.options import RecordOptions
from trajrec.recording.recorder import Recorder
from trajrec.replay.execute.report import ReplayReport
from trajrec.replay.processes.refs import EpisodeLoader, EpisodeRef
from trajrec.replay.processes.workers import Worker
from trajrec.replay.replayer import Replayer
from trajrec.values import codec
from trajrec.version import __version__

CHECK_ID = "trajrec/replay"
WAIT_S = 60.0


class AuditedRecorder(Recorder):
    """See `Recorder`.

    What a replay finds is appended as a post-hoc check of the episode, "trajrec/replay", in a log of its own; what diverged is
    a warning too. Episodes that are still being replayed at `close` are waited for, up to a minute.

    Args:
        env: The environment; it must be one that can be made from its log.
        folder: The corpus.
        audit: The share of episodes to replay, in (0, 1].
        allow: Module prefixes that may be imported because the log names them.
        options: See `Recorder`.

    Attributes:
        audits: Reports of the replays, so far.
    """

    def __init__(
        self,
        env: Any,
        folder: str | Path,
        *,
        audit: float,
        allow: Iterable[str] = (),
        **options: Unpack[RecordOptions],
    ) -> None:
        if not 0.0 < audit <= 1.0:
            raise ValueError(f"audit must be in (0, 1], got {audit!r}")
        super().__init__(env, folder, **options)
        self.audits: list[ReplayReport] = []
        self._share, self._draw = audit, random.Random(self._log_id)
        self._auditor = _Auditor(tuple(allow))
        self._worker: Worker | None = None
        self._has_warned = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See `Recorder`."""
        found = super().reset(seed=seed, options=options)
        if self._episode:
            self._sample(self._episode - 1)
        self._collect(0.0)
        return found

    def close(self) -> None:
        """See `Recorder`."""
        was_open = not self._writer.is_closed
        super().close()
        if was_open and self._episode >= 0:
            self._sample(self._episode)
        deadline = time.monotonic() + WAIT_S
        while self._worker is not None and self._worker.given and time.monotonic() < deadline:
            self._collect(deadline - time.monotonic())
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _sample(self, number: int) -> None:
        """Have an ended episode replayed, by chance."""
        if self._draw.random() >= self._share:
            return
        if not self._writer.is_closed:
            self.flush()
        if self._worker is None:
            self._worker = Worker(cloudpickle.dumps(self._auditor))
        self._worker.give(
            number, (EpisodeRef(episode_id(self._log_id, number), self.path.absolute(), number),)
        )

    def _collect(self, wait_s: float) -> None:
        """Take in what was found, waiting for it as long as it may."""
        worker = self._worker
        if worker is None or not worker.given:
            return
        if os.name == "posix" and not select.select([worker.out], [], [], wait_s)[0]:
            return
        if os.name != "posix" and not wait_s:
            return  # pipes cannot be asked there: what was found is taken in at the end
        found, is_alive = worker.results()
        for _, report in found:
            self._note(report)
        if not is_alive:
            lost = len(worker.given)
            warnings.warn(
                f"the process that replays episodes ended {worker.close()}; {lost} were not audited",
                stacklevel=3,
            )
            self._worker = None

    def _note(self, report: ReplayReport | Exception) -> None:
        if isinstance(report, Exception):
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(f"episodes cannot be audited: {report}", stacklevel=4)
            return
        self.audits.append(report)
        holds = report.grade in ("exact", "state")
        evidence = codec.encode({"grade": report.grade, "report": str(report)})
        sink = open_event_log(self.path.parent, "raise", "process")
        sink.add(
            PostHocCheck(
                episode=-1,
                target=report.episode_id,
                step=report.n_steps,
                time_ns=time.time_ns(),
                check_id=CHECK_ID,
                version=__version__,
                family="environmental",
                status="ok",
                verdict=holds,
                score=None,
                evidence_data=evidence,
                code_digest=None,
                state_digest=None,
            )
        )
        if not holds:
            warnings.warn(f"this episode does not replay: {report}", stacklevel=4)


class _Auditor:
    """What the other process does with an episode."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        self._allow = allow

    def __call__(self, place: tuple[EpisodeRef, ...]) -> ReplayReport:
        with Replayer(allow=self._allow) as replayer:
            return replayer.replay(EpisodeLoader().read(place))
