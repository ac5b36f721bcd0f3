"""Continues a rerun live: a fork of the recorded episode, with the real model, tools and world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trajrec.agents.counters import ForkOrigin, StepCounter
from trajrec.agents.episode import AgentEpisode
from trajrec.corpus.episode import Episode
from trajrec.errors import ReplayError
from trajrec.log.schema import Fork
from trajrec.protocols import Access, World
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.replay.agents.answered import Answered
from trajrec.replay.agents.watched_state import restore_watched
from trajrec.replay.agents.world_replay import bring_world
from trajrec.replay.execute.secrets import redacted_error
from trajrec.replay.execute.worlds import check_world_options, make_world
from trajrec.types import JsonObject, Value
from trajrec.values import codec


@dataclass(frozen=True, kw_only=True)
class FunctionTool:
    """A tool that is a function, with the arguments of `AgentEpisode.tool`."""

    function: Callable[..., Value]
    name: str
    schema: JsonObject | None = None
    access: Access = "unknown"


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """Options of a live continuation.

    Attributes:
        folder: The corpus in which it is recorded.
        world: The world; None makes the one that the log names.
        allow: Module prefixes that may be imported because the log names them.
        redact: Whether to keep secrets out of the new log, or the `Redactor` that does so.
        watch: The watched objects, as `trajrec.episode` takes them. They are put into the recorded
            state.
        episode: Further arguments of `trajrec.episode`.
        about: Further entries of the fork's record.
    """

    folder: Path
    world: World | None = None
    allow: tuple[str, ...] = field(default=())
    redact: bool | Redactor = True
    watch: Value = None
    episode: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Value] = field(default_factory=dict)

    def filled(self, given: Mapping[str, Any]) -> LiveOptions:
        """Return the options with those that the agent's own `trajrec.episode` was given.

        Args:
            given: Its arguments. What the options name themselves stays.
        """
        return replace(
            self,
            world=given.get("world") if self.world is None else self.world,
            watch=given.get("watch") if self.watch is None else self.watch,
            redact=given.get("redact", True) if self.redact is True else self.redact,
        )


class LiveEpisode(AgentEpisode):
    """The live part of another episode. Nothing stands in for it.

    Attributes:
        is_live_part: Whether the other episode takes its requests; see `open_episodes`.
    """

    is_live_part = True


def continue_live(
    episode: Episode,
    step: int,
    *,
    steps: StepCounter,
    answered: Answered,
    functions: Sequence[FunctionTool],
    goal: Value,
    options: LiveOptions,
) -> AgentEpisode:
    """Return an episode, already begun, that continues another one live.

    Args:
        episode: The recorded episode.
        step: The step at which the agent differs.
        steps: The count of the rerun, which goes on; brought to the step if it is before it.
        answered: The requests that the recording has answered.
        functions: The tools that are functions.
        goal: The agent's goal.
        options: The folder, the world and the allowed modules.

    Raises:
        DivergenceError: The world does not reach the recorded state: a call differs.
        RedactedError: A secret was redacted in an action or state before the step.
        ReplayError: The log has lost the beginning of the episode.
    """
    task = episode.transcript.task_start
    start = episode.start
    if task is None or start is None:
        raise ReplayError(
            "the log has lost the beginning of this episode, so it cannot be continued; "
            "use on_difference='stop'",
            episode_id=episode.id,
        )
    if episode.redacted_step is not None and episode.redacted_step < step:
        raise redacted_error(episode, f"the episode cannot be continued at step {step}")
    world = options.world
    if world is None and task.world:
        world = make_world(episode, options.allow)
    if world is not None:
        check_world_options(episode, world, options.allow)

    def prepare(fork_world: World | None) -> None:
        if fork_world is not None:
            bring_world(episode, fork_world, answered)
        if options.watch is not None:
            restore_watched(episode, options.watch, answered)

    # A fork that makes no call ends at its first step, not before it.
    steps.step = max(steps.step, step - 1)
    # A change of an experiment is a text or value of the user's, so it may hold a secret.
    about = as_redactor(options.redact).plain(dict(options.about))
    metadata = {
        **about,
        "attempts": sorted(map(list, answered.attempts)),
        "models": answered.n_models,
        "effects": answered.n_side_effects,
        "exchanges": list(answered.exchanges or ()),
    }
    fork = Fork(
        episode=0,
        parent_id=episode.id,
        step=step,
        kind="agent",
        metadata_data=codec.encode(metadata),
    )
    value = episode.transcript.value
    live = LiveEpisode(
        options.folder,
        task=task.task,
        task_revision=task.task_revision,
        goal=goal,
        world=world,
        interface=value(task.interface_data),
        metadata=_metadata(value(task.metadata_data), about),
        deterministic=task.held_seed is not None,
        redact=options.redact,
        watch=options.watch,
        **options.episode,
    )
    live.continue_from(ForkOrigin(fork, start, steps, prepare))
    # Begun here, and ended by the rerun: the agent holds the rerun, not this episode.
    live.__enter__()
    for tool in functions:
        live.tool(tool.function, name=tool.name, schema=tool.schema, access=tool.access)
    return live


def _metadata(recorded: Value, about: Mapping[str, Value]) -> Value:
    """Return the recorded metadata with an entry for an experiment, so that SQL can select it."""
    return {**(recorded or {}), **about} if about else recorded
