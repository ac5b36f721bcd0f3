"""A rerun in the place of the episode that an agent's program begins by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from trajrec.agents.async_block import AsyncBlock
from trajrec.corpus.episode import Episode
from trajrec.corpus.history import recorded_requests
from trajrec.errors import ReplayError, RerunStopped
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.replay.agents.continued_episode import ContinuedEpisode
from trajrec.replay.agents.live_fork import LiveOptions
from trajrec.replay.agents.tool_answers import ToolAnswers
from trajrec.replay.agents.wire_answers import WireAnswers


class StandingIn(ContinuedEpisode):
    """The base of reruns: answers an agent that begins its own `with trajrec.episode(...)`.

    Args:
        episode: The recorded episode.

    Attributes:
        error: See `trajrec.rerun`.
    """

    _ignore: list[re.Pattern[str]]
    _live_options: LiveOptions

    def __init__(self, episode: Episode) -> None:
        super().__init__(episode)
        self.error: ReplayError | None = None
        self._requests = recorded_requests(episode)
        self._has_stood_in = False

    def stand_in(self, given: Mapping[str, Any]) -> StoodIn | None:
        """Return the block in the place of an episode that the agent begins; None to record it.

        Args:
            given: The arguments of the agent's `trajrec.episode`.

        Raises:
            RerunStopped: The recording does not answer that episode. It is no `Exception`, which
                the agent might catch and go on.
        """
        if self.live is not None:
            # A sub-agent's episode is recorded as usual.
            return None
        reason = self._why_not(given)
        if reason:
            self.error = ReplayError(reason, episode_id=self.episode.id)
            raise RerunStopped(self.error)
        self._has_stood_in = True
        self._live_options = self._live_options.filled(given)
        # The recording was made by the same rules.
        self._compare_by(as_redactor(self._live_options.redact))
        return StoodIn(self)

    def _why_not(self, given: Mapping[str, Any]) -> str:
        """Return why nothing stands in for an episode that the agent begins; "" if the rerun does."""
        if self._has_stood_in:
            return (
                "the agent begins a second episode in its rerun, which this recording does not "
                "answer: its models and tools would be called for real"
            )
        recorded = self.episode.transcript.task
        task = given.get("task", "")
        if task != recorded:
            return (
                f"the agent begins an episode of the task {task!r} in its rerun, and that of the "
                f"recording is {recorded!r}, so its models and tools would be called for real: "
                "give the agent the arguments that it was recorded with"
            )
        return ""

    def _compare_by(self, redactor: Redactor) -> None:
        """Compare requests with the recorded ones by the rules of a redactor."""
        self._redactor = redactor
        self._answers = WireAnswers(self._requests.exchanges, redactor, self._ignore)
        self._tools = ToolAnswers(self._requests.attempts, redactor)


class StoodIn(AsyncBlock):
    """The `with` block of the agent's own episode: its requests go to the rerun, which stays open.

    Args:
        rerun: The rerun.
    """

    def __init__(self, rerun: StandingIn) -> None:
        self._rerun = rerun

    def __enter__(self) -> Any:
        return self._rerun

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rerun, name)
