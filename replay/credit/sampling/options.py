"""Options of rollouts: the keywords that the estimators share, and their checked form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from trajrec.corpus.episode import Episode
from trajrec.options import check_options
from trajrec.replay.credit.sampling.noise import Noise, NoiseMode
from trajrec.replay.credit.sampling.simulator import Resample, Success
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.replay.forks.env_source import EnvSource
from trajrec.replay.forks.options import (
    Backend,
    LogFolder,
    RestoreChoice,
    check_limits,
    check_restore,
    fixed_folder,
)
from trajrec.types import AnyEnv, Value
from trajrec.values.projection import Projection

OnError = Literal["bounds", "lost"]
"""How rollouts without a result count; see `RolloutOptions.on_error`."""


class RolloutOptions(TypedDict, total=False):
    """Keywords of all functions of `trajrec.replay.credit` that run rollouts.

    Attributes:
        noise: "shared", "fresh" or "recorded"; see `Noise`. "shared" by default.
        seed: The noise is derived from this seed: the same seed gives the same numbers. 0 by
            default.
        success: A function of the environment (or world) at the end of a rollout; it returns
            whether the rollout succeeded, or a score. "terminated" and "truncated" count an episode
            that ended so as a success. The estimates are then probabilities of success. By default
            they are expected returns; of a tool world, the result of its `task_solved`.
        gamma: Discount per step, dimensionless, in [0, 1]; 1 by default.
        max_steps: Step of the episode at which rollouts are cut off. Needed if the environment has
            no time limit of its own.
        env: A function that returns the environment or world. By default trajrec makes the one
            that the log names.
        allow: Prefixes of the modules that trajrec may import because a log names them.
        state: The function that captured the episode's states, if the recorder was given one.
        ignore: Paths of values that may differ from the recording on the way to a step, as a
            divergence names them. The estimates are then given the live values. None by default.
        ulps: The largest distance between two floats that counts as equal there, in units in the
            last place; 0 by default.
        projection: The rule for the values that count there. Default: all values count.
        restore: How steps are reached; see `fork_many`. The numbers do not depend on it.
        jobs: Processes that run rollouts at the same time; 1 by default. The numbers do not depend
            on it.
        backend: "local", or "ray" for tasks of a Ray cluster.
        merge_rollouts: Whether rollouts of one scenario that reach the same state are continued as
            one; True by default. The numbers do not depend on it.
        resample_hidden: A function of the environment (or world) in its recorded state before a
            step, and of a generator. It draws the facts that the agent has not seen by then again,
            before each rollout. The estimates are then given the agent's knowledge, not the full
            state. The function itself must draw only facts that agree with the agent's
            observations.
        on_error: How rollouts count that an exception or a tool that cannot be replayed has ended.
            "bounds", the default: their results are unknown, so intervals hold the number whatever
            the results were; returns have no bounds, and then no interval. "lost": as failures, with
            the score 0, or the rewards before. The estimand says which.
        control: Whether controls and repeats run among the rollouts, True by default; see
            `trajrec.replay.credit.sampling.proof`. Without them a run into another environment
            than the recorded one is possible.
        progress: Called with the number of finished rollouts and of requested rollouts.
        folder: The corpus to which the results are appended. "beside", the default, is the folder
            of the episode's log; None stores nothing.
    """

    noise: NoiseMode
    seed: int
    success: Success
    gamma: float
    max_steps: int | None
    env: Callable[[], Value] | None
    allow: Iterable[str]
    state: Callable[[AnyEnv], Value] | None
    ignore: Collection[str]
    ulps: int
    projection: Projection | None
    restore: RestoreChoice
    jobs: int
    backend: Backend
    merge_rollouts: bool
    resample_hidden: Resample | None
    control: bool
    on_error: OnError
    progress: Callable[[int, int], None] | None
    folder: LogFolder


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """The checked options of a run, with defaults; all rollouts of an episode share it.

    Attributes:
        policy: The policy of the rollouts: see `as_policy`.
        noise: The randomness of the rollouts.
        gamma: See `RolloutOptions`.
        max_steps: See `RolloutOptions`.
        success: See `RolloutOptions`; None estimates the return.
        source: Makes the environments or worlds.
        restore: See `RolloutOptions`.
        jobs: See `RolloutOptions`.
        backend: See `RolloutOptions`.
        merge_rollouts: See `RolloutOptions`.
        resample_hidden: See `RolloutOptions`.
        on_error: See `RolloutOptions`.
        control: See `RolloutOptions`.
        progress: See `RolloutOptions`.
        folder: See `RolloutOptions`; absolute, since environments and policies may change the working
            folder.
        keeps_visits: Whether each rollout keeps a record of its steps.
        remarks: What has failed before, for the notes of the table.
    """

    policy: Value
    noise: Noise = field(default_factory=Noise)
    gamma: float = 1.0
    max_steps: int | None = None
    success: Success = None
    source: EnvSource = field(default_factory=EnvSource)
    restore: RestoreChoice = "auto"
    jobs: int = 1
    backend: Backend = "local"
    merge_rollouts: bool = True
    resample_hidden: Resample | None = None
    on_error: OnError = "bounds"
    control: bool = True
    progress: Callable[[int, int], None] | None = None
    folder: Literal["beside"] | Path | None = "beside"
    keeps_visits: bool = False
    remarks: tuple[str, ...] = ()

    @classmethod
    def from_options(
        cls,
        policy: Value,
        options: RolloutOptions,
        *,
        caller: str,
        keeps_visits: bool = False,
    ) -> RolloutConfig:
        """Return the checked options of a call.

        Args:
            policy: The policy of the rollouts.
            options: The keywords of the call.
            caller: Name of the function that was called, for the message of a `TypeError`.
            keeps_visits: See the attributes.

        Raises:
            TypeError: A keyword is not an option, or a value has the wrong type.
            ValueError: A value is not one of the allowed values.
        """
        check_options(caller, options, RolloutOptions)
        noise = Noise(options.get("noise", "shared"), options.get("seed", 0))
        success = options.get("success")
        if isinstance(success, str) and success not in ("terminated", "truncated"):
            raise ValueError(
                f"success must be 'terminated', 'truncated' or a function, got {success!r}"
            )
        resample_hidden = options.get("resample_hidden")
        if resample_hidden is not None:
            if not callable(resample_hidden):
                raise TypeError(f"resample_hidden must be a function, got {resample_hidden!r}")
            if noise.mode == "recorded":
                raise ValueError(
                    "noise must be 'shared' or 'fresh' with resample_hidden, got 'recorded': "
                    "recorded noise repeats the hidden facts"
                )
        on_error = options.get("on_error", "bounds")
        if on_error not in ("bounds", "lost"):
            raise ValueError(f"on_error must be 'bounds' or 'lost', got {on_error!r}")
        check_limits(max_steps=options.get("max_steps"))
        gamma = options.get("gamma", 1.0)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {gamma!r}")
        restore = options.get("restore", "auto")
        check_restore(restore)
        jobs = options.get("jobs", 1)
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs!r}")
        return cls(
            policy=policy,
            noise=noise,
            gamma=gamma,
            max_steps=options.get("max_steps"),
            success=success,
            source=EnvSource(
                options.get("env"),
                allow=tuple(options.get("allow", ())),
                state=options.get("state"),
                tolerance=_tolerance(options),
            ),
            restore=restore,
            jobs=jobs,
            backend=options.get("backend", "local"),
            merge_rollouts=options.get("merge_rollouts", True),
            resample_hidden=resample_hidden,
            control=options.get("control", True),
            on_error=on_error,
            progress=options.get("progress"),
            folder=fixed_folder(options.get("folder", "beside")),
            keeps_visits=keeps_visits,
        )

    def tolerance_note(self) -> str:
        """Return the sentence about ignored differences; "" if none is ignored."""
        tolerance = self.source.tolerance
        if tolerance.is_exact:
            return ""
        rules = [f"floats within {tolerance.ulps} ulp"] if tolerance.ulps else []
        rules += sorted(tolerance.paths)
        rules += [f"projection {tolerance.projection}"] if tolerance.projection else []
        return f"steps were verified but for differences that are ignored: {', '.join(rules)}"

    def last_step(self, episode: Episode) -> int | None:
        """Return the step at which rollouts are cut off; None if there is no such step.

        A tool world ends no episode itself, so its rollouts always have a last step.
        """
        if self.max_steps is None and episode.is_agent_episode:
            # Room for detours, also in episodes of few steps.
            return 2 * episode.end_step + 10
        return self.max_steps


def _tolerance(options: RolloutOptions) -> Tolerance:
    """Return the differences that are ignored.

    Raises:
        ValueError: `ulps` is negative.
        TypeError: `ignore` is one text, and not several.
    """
    ulps = options.get("ulps", 0)
    if ulps < 0:
        raise ValueError(f"ulps must be at least 0, got {ulps!r}")
    ignore = options.get("ignore", ())
    if isinstance(ignore, str):
        raise TypeError(f"ignore must be a list of paths, got {ignore!r}")
    return Tolerance(frozenset(ignore), ulps, options.get("projection"))
