"""The place in an episode at which a run of an experiment goes live."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from trajrec.agents.context import EpisodeToken, enter_episode
from trajrec.agents.counters import StepCounter
from trajrec.agents.episode import AgentEpisode
from trajrec.corpus.attempts import Attempt, AttemptKey
from trajrec.corpus.episode import Episode
from trajrec.errors import AgentDivergedError, RerunStopped, UnreplayableError
from trajrec.protocols import World
from trajrec.redaction.redactor import Redactor
from trajrec.replay.agents.agent_difference import AgentDifference
from trajrec.replay.agents.answered import Answered
from trajrec.replay.agents.rerun import Rerun
from trajrec.replay.whatif.changes import Arguments
from trajrec.replay.whatif.control import Control
from trajrec.replay.whatif.plan import Plan
from trajrec.types import Value


class GoingLive(Rerun):
    """A rerun that goes on live from one place on; see `WhatIfRun`."""

    def __init__(
        self,
        episode: Episode,
        plan: Plan,
        attempt: Attempt | None,
        *,
        folder: str | Path | None = None,
        world: World | None = None,
        watch: Value = None,
        options: Mapping[str, Any] | None = None,
        allow: Iterable[str] = (),
        ignore: Iterable[Any] = (),
        redact: bool | Redactor = True,
        run_tools: Literal["read", "all"] | None = None,
        held_tools: Collection[str] | None = None,
    ) -> None:
        super().__init__(
            episode,
            folder=folder,
            world=world,
            watch=watch,
            allow=allow,
            ignore=ignore,
            redact=redact,
            run_tools=run_tools,
        )
        if held_tools is not None:
            self._tools = self._tools.of(held_tools)
        self._live_options = dataclasses.replace(
            self._live_options, episode=dict(options or {}), about={"what_if": plan.about()}
        )
        self.plan = plan
        self.attempt = attempt
        self.branch: AgentEpisode | None = None
        self.raised: BaseException | None = None
        self.notes: dict[str, None] = {}
        self._control: Control | None = None
        self._branch_token: EpisodeToken | None = None
        self._withheld: frozenset[AttemptKey] = frozenset()
        self._has_changed_result = False
        self._has_edited = False
        self._n_asked = 0
        # Whether the changed arguments are still to be put into the call as it is made.
        self._has_pending_arguments = plan.is_changed and isinstance(plan.change, Arguments)

    @property
    def id(self) -> str:
        """Id of the live part, also of a control's; before it, of the recorded episode."""
        return super().id if self.branch is None else self.branch.id

    def _note_difference(self, difference: AgentDifference) -> None:
        """Take a difference that the control has found, if it is the first."""
        if self.difference is None:
            self.difference = difference
            self.error = AgentDivergedError(difference, episode_id=self.episode.id)

    def _begins_at_request(self, step: int) -> bool:
        """Return whether a request to a model is the first that must be live."""
        is_at = step >= self.plan.at if self.plan.change.start == "request" else False
        return self.branch is None and (is_at or step > self.plan.at)

    def _begins_at_call(self, step: int) -> bool:
        """Return whether a tool call is the first that must be live."""
        is_at = step >= self.plan.at if self.plan.change.start != "after" else False
        return self.branch is None and (is_at or step > self.plan.at)

    def _begin_branch(self) -> None:
        step = self.plan.at + (self.plan.change.start == "after")
        if self.plan.arm == "control":
            # Its own: each call is counted by this run and by the live episode.
            counter = StepCounter()
            self.branch = self._begin_live(step, counter)
            self.world = self.branch.world
            self._control = Control(
                self.episode, self.branch, counter, self._redactor, self._note_difference
            )
        else:
            self.branch = self._go_live(step)
        # This run stays the current episode: requests are changed, and answered, before the branch
        # sees them.
        self._branch_token = enter_episode(self)

    def _answered(self) -> Answered:
        answered = super()._answered()
        return dataclasses.replace(answered, attempts=answered.attempts - self._withheld)

    def _stopped(self, reason: str) -> RerunStopped:
        """Return the exception that ends the run, whatever the agent catches."""
        error = UnreplayableError(reason, episode_id=self.episode.id)
        self.error = self.error or error
        return RerunStopped(error)
