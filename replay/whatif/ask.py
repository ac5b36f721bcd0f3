"""`trajrec.replay.what_if`: change one step of an agent's episode, and see whether it wins."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.corpus.prices import Prices
from trajrec.errors import ReplayError, RestoreError
from trajrec.log.remote import local_folder
from trajrec.protocols import Verifier, World
from trajrec.redaction.redactor import Redactor
from trajrec.replay.agents.recorded_answers import check_unchanged
from trajrec.replay.agents.wire_answers import patterns_of
from trajrec.replay.execute.secrets import redacted_error
from trajrec.replay.execute.trust import module_prefixes
from trajrec.replay.whatif.budget import Budget
from trajrec.replay.whatif.changes import Change
from trajrec.replay.whatif.experiment import N_CONTROLS, Experiment
from trajrec.replay.whatif.plan import Plan, Stub, changed_attempt
from trajrec.replay.whatif.programs import Agent, run_function, takes_episode
from trajrec.replay.whatif.result import WhatIfResult
from trajrec.replay.whatif.stand_in import RunOptions, StandIn
from trajrec.replay.whatif.unwatched import unwatched_effects
from trajrec.types import Value
from trajrec.verifiers import identify

RunTools: TypeAlias = Literal["read", "all", "external"]


def what_if(
    episode: Episode,
    *,
    at: int,
    agent: Agent,
    change: Change | None = None,
    call: int | None = None,
    n: int = 8,
    success: Verifier | str | None = None,
    folder: str | Path | None = None,
    world: World | None = None,
    watch: Value = None,
    allow: Iterable[str] = (),
    ignore: Iterable[Any] = (),
    redact: bool | Redactor = True,
    run_tools: RunTools | None = None,
    stubs: Mapping[str, Stub] | None = None,
    accept: bool = False,
    n_controls: int = N_CONTROLS,
    budget: Budget | None = None,
    prices: Prices | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> WhatIfResult:
    """Run an agent from a step of its episode on, with a change and without, and compare.

    The agent's program runs from its beginning. Up to the step it is answered from the recording:
    no model is asked, and no tool runs. There the recorded state is put back and proved, and from
    there on everything is live. Each live part is recorded as a fork.

    Args:
        episode: An agent's episode.
        at: The step.
        agent: The agent's program: a function of the episode; or one without arguments that begins
            its own `with trajrec.episode(...)`, or of which `trajrec.capture` made the episode.
        change: The change, of `trajrec.replay.whatif.changes`. None changes nothing: both arms then
            tell how certain the outcome was.
        call: The number of the call in the step that is changed; None if the step has only one.
        n: Runs of each arm.
        success: The verifier that decides, called with the world, or without one with the watched
            object, or without either with what the agent's function returns; or the id of a check
            that the program runs itself. Default: the primary check.
        folder: The corpus that records the runs. Default: the recording's folder.
        world: The world. Default: the one that the program gives, or that the log names.
        watch: The watched objects. Default: those that the program gives.
        allow: Module prefixes that may be imported because the log names them.
        ignore: Regular expressions. Their matches in texts of requests do not count.
        redact: The `Redactor` of the recording, if it was not the default one.
        run_tools: The tools that may run before the step: "read" or "all", see `trajrec.rerun`.
            "external" lets external tools run after the step.
        stubs: Tool -> a function that stands in for it after the step.
        accept: Whether to go on if a state cannot be put back.
        n_controls: Runs that must do as recorded, with the real tools; at least one.
        budget: Ends the experiment early.
        prices: Prices of models; see `trajrec.open`.
        progress: Called with (runs made, runs to make).

    Returns:
        The result. It has no number, and says why, if a control does not do as recorded.

    Raises:
        IndexError: The episode has no such step.
        ReplayError: The step has no such call, or the episode is not an agent's.
        RestoreError: A state cannot be put back, and `accept` is false.
        TypeError: `allow` or `ignore` is one text, and not several.
    """
    checks = () if success is None or isinstance(success, str) else (success,)
    experiment = plan_experiment(
        episode,
        at=at,
        call=call,
        change=Change() if change is None else change,
        n=n,
        n_controls=n_controls,
        success=identify(checks[0]).id if checks else str(success or ""),
        folder=folder,
        accept=accept,
        budget=budget,
        prices=prices,
        progress=progress,
        runs_external=run_tools == "external",
        stubs=stubs,
    )
    if not accept and world is None and watch is None and takes_episode(agent):
        require_watched(episode)
    options = RunOptions(
        folder=experiment.folder,
        world=world,
        watch=watch,
        checks=checks,
        allow=module_prefixes(allow),
        ignore=tuple(patterns_of(ignore)),
        redact=redact,
        run_tools=None if run_tools == "external" else run_tools,
    )
    return experiment.run(
        lambda plan: run_function(agent, StandIn(episode, plan, experiment.attempt, options))
    )


def plan_experiment(
    episode: Episode,
    *,
    at: int,
    call: int | None,
    change: Change,
    n: int,
    success: str,
    folder: str | Path | None,
    accept: bool,
    n_controls: int = N_CONTROLS,
    budget: Budget | None = None,
    prices: Prices | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    jobs: int = 1,
    stop: Callable[[], object] = lambda: None,
    runs_external: bool = False,
    stubs: Mapping[str, Stub] | None = None,
) -> Experiment:
    """Return an experiment that can be run; see `what_if`.

    Args:
        episode: The recorded episode.
        at: See `what_if`, as for the next six.
        call: The number of the call.
        change: The change.
        n: Runs of each arm.
        success: Id of the check that decides; "" stands for the primary check of each run.
        folder: The corpus that records the runs.
        accept: Whether to go on if a state cannot be put back.
        n_controls: Runs that must do as recorded.
        budget: Ends the experiment early.
        prices: Prices of models.
        progress: Called with (runs made, runs to make).
        jobs: Runs that are made at the same time.
        stop: Stops the runs that are made at the moment.
        runs_external: Whether external tools may run after the step.
        stubs: Tool -> a function that stands in for it.

    Raises:
        ReplayError: The episode is not an agent's, or the step has no such call.
        RestoreError: A state cannot be put back, or would be shared, and nobody has accepted it.
    """
    for name, number in (("n", n), ("n_controls", n_controls)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    attempt = check_step(episode, at, call, change)
    lost = unwatched_effects(episode, at, change)
    if not accept:
        require_restored(episode, lost)
        require_apart(episode, jobs)
    return Experiment(
        episode=episode,
        attempt=attempt,
        plan=Plan(
            experiment=secrets.token_hex(8),
            at=at,
            call=0 if attempt is None else attempt.start.call,
            change=change,
            arm="control",
            number=0,
            success=success,
            runs_external=runs_external,
            stubs=dict(stubs or {}),
        ),
        n=n,
        n_controls=n_controls,
        not_restored=tuple(lost),
        budget=budget or Budget(),
        prices=prices,
        folder=episode.path.parent if folder is None else local_folder(folder),
        progress=progress,
        jobs=jobs,
        stop=stop,
    )


def check_step(episode: Episode, at: int, call: int | None, change: Change) -> Attempt | None:
    """Return the call that is changed, None if none is.

    Raises:
        RedactedError: A secret was redacted in an action or state before the step.
        ReplayError: The episode is not an agent's, was imported, or is still being recorded; or the
            step has no such call.
    """
    if not episode.is_agent_episode:
        raise ReplayError(
            "this is an environment's episode; fork it with trajrec.replay.fork",
            episode_id=episode.id,
        )
    if episode.source is not None:
        raise ReplayError(
            f"it was imported from {episode.source.get('format')}, which holds no requests of a "
            "program: record your program by trajrec.episode or trajrec capture",
            episode_id=episode.id,
        )
    if episode.ending == "running":
        raise ReplayError(
            "it is still being recorded; ask when it has ended", episode_id=episode.id
        )
    check_unchanged(episode)
    if episode.redacted_step is not None and episode.redacted_step < at:
        raise redacted_error(episode, f"step {at} cannot be run again")
    if call is not None and change.start == "request":
        raise ReplayError(
            f"the change {change.name!r} changes no call: leave out call= (--call)",
            episode_id=episode.id,
        )
    return changed_attempt(episode, at, call, change)


def require_restored(episode: Episode, lost: list[str]) -> None:
    """Refuse an experiment in which something cannot be put back.

    Raises:
        RestoreError: Something cannot be put back.
    """
    if not lost:
        return
    unheld = {a.tool: None for a in episode.transcript.attempts if a.is_from_wire}
    advice = ""
    if unheld:
        advice = (
            f". The program calls {', '.join(unheld)} itself: record them by ep.tool, or let them "
            "run again from its beginning, if the state is as it was there: --run-tools all --accept"
        )
    raise RestoreError(
        f"episode {episode.id}: this cannot be put back: {'; '.join(lost)}. Watch the state, "
        f"or accept it: accept=True (--accept){advice}"
    )


def require_watched(episode: Episode) -> None:
    """Refuse a function of an episode that is given no state, if the recording watched one.

    Raises:
        RestoreError: The recording watched a state.
    """
    task = episode.transcript.task_start
    if task is None or task.world or not task.parts:
        return
    parts = ", ".join(f"{name or 'the watched state'} ({kind})" for name, kind, _ in task.parts)
    raise RestoreError(
        f"episode {episode.id} watched {parts}: give it as watch=, so that it is put into its "
        "recorded state; or go on without: accept=True"
    )


# Kinds of watched parts that are shared by all processes.
_SHARED = ("sqlite", "folder")


def require_apart(episode: Episode, jobs: int) -> None:
    """Refuse runs at the same time that would act on one state.

    Raises:
        RestoreError: They would.
    """
    task = episode.transcript.task_start
    parts = [] if task is None else task.parts
    shared = [f"{kind} {name}".strip() for name, kind, _ in parts if kind in _SHARED]
    if jobs > 1 and shared:
        raise RestoreError(
            f"episode {episode.id}: runs at the same time would share {', '.join(shared)}; use "
            "--jobs 1, or --accept if the program makes a copy for itself"
        )
