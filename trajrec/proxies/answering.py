"""Answers a command's requests from a recording."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from trajrec.agents.episode import AgentEpisode
from trajrec.errors import AgentDivergedError, RerunStopped
from trajrec.wire.exchange import Exchange, HttpRequest, is_model_call


class AnsweringEpisode(Protocol):
    """An episode that answers requests, such as `trajrec.rerun`.

    Attributes:
        live: The episode that goes on live; None as long as the recording answers.
    """

    live: AgentEpisode | None

    @property
    def id(self) -> str:
        """Id of the episode."""
        ...

    def begin_exchange(self, request: HttpRequest) -> Exchange | None:
        """Take a request."""
        ...


class RerunAnswers:
    """Answers a command's requests from a recording, or sends them once it goes on live.

    Args:
        rerun: The rerun.
        on_miss: Called at a request that the recording does not have.

    Attributes:
        n_answered: Requests that were answered.
        n_refused: Requests that were no model calls, which a recording does not have.
    """

    def __init__(self, rerun: AnsweringEpisode, on_miss: Callable[[], object]) -> None:
        self._rerun = rerun
        self._on_miss = on_miss
        self._lock = threading.RLock()
        self.n_answered = 0
        self.n_refused = 0

    def begin(self, request: HttpRequest, mark: str) -> Exchange | None:
        """Take a request; see `trajrec.proxies.reports.Begin`."""
        with self._lock:
            if not is_model_call(request.method, request.url):
                self.n_refused += self._rerun.live is None
                return None
            try:
                exchange = self._rerun.begin_exchange(request)
            except RerunStopped:
                self._on_miss()
                raise
            except Exception as exc:
                # The fork could not be begun. No request may leave instead.
                self._on_miss()
                raise RerunStopped(AgentDivergedError(exc, episode_id=self._rerun.id)) from exc
            self.n_answered += exchange is not None and exchange.answer is not None
            return exchange
