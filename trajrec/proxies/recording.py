"""The episodes of a command's model calls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from trajrec.agents.captured_episode import CapturedEpisode
from trajrec.agents.routing import Router
from trajrec.protocols import Verdict, Verifier
from trajrec.proxies.mcp_sessions import McpRecording
from trajrec.recording.event_log import close_logs
from trajrec.types import Value
from trajrec.verifiers import identify
from trajrec.wire.exchange import Exchange, HttpRequest, is_model_call, plain_url

COMMAND_TOOL = "trajrec capture"
"""The tool call that a command with watched state is recorded as: the state changes during it."""

STATUS_REASON = "exit status "
"""Before the command's exit status, in the reason for the end of its one episode."""


class CommandRecording:
    """Records the model calls of a command: each conversation is an episode, or all are one.

    Args:
        folder: The corpus.
        options: The options of the episodes; see `trajrec.episode`.
        is_one_episode: Whether all calls belong to one episode, which begins before the command.
        verifiers: They judge that episode when the command has ended: they are called with the
            watched state as `options` has it, or without one with the exit status. The first one
            decides the outcome.

    Attributes:
        mcp: Records the command's MCP servers, if all calls belong to one episode; else None.
        n_attempts: The HTTP requests to models.
        n_others: Other requests, such as for the list of models. They are not recorded.
        first_other: The first of these, without its query.
        n_faults: The requests to models that were not recorded.
        first_fault: The first reason for which a request was not recorded; "" if there was none.
        verdicts: Id of a verifier -> its verdict, which is empty if it raised.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Value],
        *,
        is_one_episode: bool,
        verifiers: Sequence[Verifier] = (),
    ) -> None:
        self._folder = folder
        self._options = dict(options)
        self._is_one_episode = is_one_episode
        self._is_watching = is_one_episode and "watch" in options
        self._verifiers = verifiers
        self._episodes: list[CapturedEpisode] = []
        self._router = Router()
        self._lock = threading.Lock()
        self.mcp: McpRecording | None = None
        self.n_attempts = 0
        self.n_others = 0
        self.first_other = ""
        self.n_faults = 0
        self.first_fault = ""
        self.verdicts: dict[str, Verdict] = {}

    def __enter__(self) -> Self:
        if self._is_one_episode:
            self.mcp = McpRecording(self._new_episode().__enter__())
        else:
            self._router.start(self._new_episode)
        return self

    def run(self, arguments: Sequence[str], run: Callable[[], int]) -> int:
        """Run the command, and record the changes that it makes to the watched state.

        Args:
            arguments: The program and its arguments.
            run: Runs it, and returns its exit status.

        Returns:
            The exit status.
        """
        if not self._is_watching:
            return run()
        asked = {"command": list(arguments)}
        return int(self._episodes[0].execute(COMMAND_TOOL, asked, run=run))

    def end(self, status: int) -> None:
        """Judge the one episode of the command, and end the episodes.

        Args:
            status: The command's exit status.
        """
        if self.mcp is not None:
            self.mcp.close_all()
        if self._is_one_episode:
            episode = self._episodes[0]
            judged = self._options["watch"] if self._is_watching else status
            for verifier in self._verifiers:
                self.verdicts[identify(verifier).id] = episode.check(verifier, judged)
            episode.end(f"{STATUS_REASON}{status}", is_known=not status)
        else:
            self._router.stop(f"{STATUS_REASON}{status}" if status else "")
        close_logs()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        close_logs()

    @property
    def first_id(self) -> str:
        """Id of the first episode."""
        return self._episodes[0].id

    @property
    def n_episodes(self) -> int:
        """Number of episodes: the one of all calls, or else those with a model call."""
        if self._is_one_episode:
            return len(self._episodes)
        return sum(n_calls > 0 for n_calls in self._calls())

    @property
    def n_model_calls(self) -> int:
        """Number of model calls. A repeated attempt is not another call."""
        return sum(self._calls())

    def _calls(self) -> Iterator[int]:
        """Yield the number of model calls of each episode."""
        for episode in self._episodes:
            # One whose log could not be made has not begun.
            with contextlib.suppress(ValueError):
                yield episode.exchange_memory.n_calls

    def begin(self, request: HttpRequest, mark: str) -> Exchange | None:
        """Record a request; see `trajrec.proxies.reports.Begin`."""
        if not is_model_call(request.method, request.url):
            with self._lock:
                self.n_others += 1
                self.first_other = self.first_other or f"{request.method} {plain_url(request.url)}"
            return None
        with self._lock:
            self.n_attempts += 1
        try:
            if self._is_one_episode:
                return self._episodes[0].begin_exchange(request)
            if mark:
                return self._router.begin_marked(request, mark)
            return self._router.begin(request)
        except Exception as exc:
            # The command goes on without a record of this call, and is told at its end.
            with self._lock:
                self.n_faults += 1
                self.first_fault = self.first_fault or f"{type(exc).__name__}: {exc}"
            return None

    def _new_episode(self) -> CapturedEpisode:
        episode = CapturedEpisode(self._folder, **self._options)
        self._episodes.append(episode)
        return episode
