"""Record episodes and replay a sample of them meanwhile, in another process."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

from trajrec.corpus.refs import EpisodeLoader, EpisodeRef
from trajrec.log.annotations import PostHocCheck
from trajrec.log.schema import episode_id
from trajrec.recording.event_log import open_event_log
from trajrec.recording.options import RecordOptions
from trajrec.recording.recorder import Recorder
from trajrec.replay.execute.report import ReplayReport
from trajrec.replay.execute.trust import module_prefixes
from trajrec.replay.processes.child import readable
from trajrec.replay.processes.pickles import by_value
from trajrec.replay.processes.workers import Worker
from trajrec.replay.replayer import Replayer
from trajrec.types import AnyEnv, Info, Observation, Value
from trajrec.values import codec
from trajrec.version import __version__

CHECK_ID = "trajrec/replay"

# The longest wait for open replays when the recorder is closed: a training run must end although
# the environment of a replay hangs.
WAIT_S = 60.0


class AuditedRecorder(Recorder):
    """A recorder that replays a sample of its episodes in another process.

    The result of each replay is appended as the post-hoc check "trajrec/replay" of the episode, in
    a log of its own. An episode that diverged or was refused also causes a warning. `close` waits
    up to a minute for the open replays.

    Args:
        env: The environment. A replay makes another one from the log.
        folder: The corpus.
        audit: The share of episodes to replay, in (0, 1].
        allow: Module prefixes that may be imported because the log names them.
        **options: See `RecordOptions`.

    Attributes:
        audits: The reports of the replays up to now.

    Raises:
        ValueError: `audit` is outside (0, 1], or `keep_last` is given too.
    """

    def __init__(
        self,
        env: AnyEnv,
        folder: str | Path,
        *,
        audit: float,
        allow: Iterable[str] = (),
        **options: Unpack[RecordOptions],
    ) -> None:
        if not 0.0 < audit <= 1.0:
            raise ValueError(f"audit must be in (0, 1], got {audit!r}")
        if options.get("keep_last") is not None:
            raise ValueError("keep_last deletes logs that an audit may still read: leave one out")
        super().__init__(env, folder, **options)
        self.audits: list[ReplayReport] = []
        self._share = audit
        # Seeded by the log's id: each recorder of a run draws other episodes.
        self._draw = random.Random(self._writer.header.log_id)
        self._last_drawn = -1
        self._auditor = _Auditor(module_prefixes(allow))
        self._worker: Worker | None = None
        self._has_warned = False
        self._owner = os.getpid()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Value] | None = None
    ) -> tuple[Observation, Info]:
        """Reset the environment, and perhaps have the episode before replayed."""
        self._leave_to_parent()
        number = self._episodes.last_recorded
        returned = super().reset(seed=seed, options=options)
        self._sample(number)
        self._collect(0.0)
        return returned

    def close(self) -> None:
        """Close the recorder and the environment; wait for the open replays."""
        self._leave_to_parent()
        was_open = not self._writer.is_closed
        super().close()
        if was_open:
            self._sample(self._episodes.last_recorded)
        deadline = time.monotonic() + WAIT_S
        while self._worker is not None and self._worker.numbers and time.monotonic() < deadline:
            self._collect(deadline - time.monotonic())
        if self._worker is not None:
            n_lost = len(self._worker.numbers)
            self._worker.close()
            self._worker = None
            if n_lost:
                warnings.warn(
                    f"{n_lost} episodes were not audited: their replays had not ended after "
                    f"{WAIT_S:g} s; replay them with trajrec replay",
                    stacklevel=2,
                )

    def _leave_to_parent(self) -> None:
        """In a forked process, replay nothing: the episodes and the other process are its parent's."""
        if self._owner == os.getpid():
            return
        self._share = 0.0
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _sample(self, number: int) -> None:
        """Draw whether an ended episode is replayed, and have it replayed; each is drawn once."""
        if number <= self._last_drawn:
            return
        self._last_drawn = number
        if self._draw.random() >= self._share:
            return
        if self._worker is None:
            self._worker = Worker(by_value(self._auditor))
        log_id = self._writer.header.log_id
        ref = EpisodeRef(episode_id(log_id, number), self.path.absolute(), number)
        self._worker.give(number, (ref,))

    def _collect(self, wait_s: float) -> None:
        """Note the reports that have arrived; wait at most `wait_s` seconds for the first."""
        worker = self._worker
        if worker is None or not worker.numbers:
            return
        if os.name == "posix" and not readable([worker.out.fileno()], wait_s):
            return
        if os.name != "posix" and not wait_s:
            # Pipes cannot be polled there: all reports are collected at the end.
            return
        reports, is_alive = worker.results()
        for _, report in reports:
            self._note(report)
        if not is_alive:
            n_lost = len(worker.numbers)
            warnings.warn(
                f"the process that replays episodes ended {worker.close()}; "
                f"{n_lost} episodes were not audited",
                stacklevel=3,
            )
            self._worker = None

    def _note(self, report: ReplayReport | Exception) -> None:
        """Append a report to the corpus, and warn if the episode does not replay."""
        if isinstance(report, Exception):
            # Once: the same reason applies to each episode of this environment.
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(f"episodes cannot be audited: {report}", stacklevel=4)
            return
        self.audits.append(report)
        is_same = report.grade in ("exact", "state")
        # A secret was redacted, or a step not recorded: the replay says nothing about the rest.
        is_judged = report.grade not in ("observed-only", "partial")
        log = open_event_log(self.path.parent, self._writer.on_full, "process")
        log.add(
            PostHocCheck(
                episode=-1,
                target=report.episode_id,
                step=report.n_steps,
                time_ns=time.time_ns(),
                check_id=CHECK_ID,
                version=__version__,
                family="environmental",
                status="ok" if is_judged else "not_evaluated",
                verdict=is_same if is_judged else None,
                score=None,
                evidence_data=codec.encode({"grade": report.grade, "report": str(report)}),
                code_digest=None,
                state_digest=None,
            )
        )
        if is_judged and not is_same:
            warnings.warn(f"this episode does not replay: {report}", stacklevel=4)


class _Auditor:
    """The function of the other process."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        self._allow = allow

    def __call__(self, refs: tuple[EpisodeRef, ...]) -> ReplayReport:
        with Replayer(allow=self._allow) as replayer:
            return replayer.replay(EpisodeLoader().read(refs))
