"""How rollouts are run: what all functions of this package take, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from trajrec.corpus.episode import Episode
from trajrec.protocols import World
from trajrec.replay.credit.sampling.noise import Mode, Noise
from trajrec.replay.credit.sampling.simulator import Check, Resample
from trajrec.replay.execute.environments import env_by, make_env, make_world, world_by
from trajrec.replay.execute.reach import EnvHandle, env_handle
from trajrec.replay.forks.options import RestoreChoice, check_restore


class RolloutOptions(TypedDict, total=False):
    """What all functions of this package that run rollouts take, by keyword.

    Attributes:
        noise: "shared", "fresh" or "recorded": see `Noise`. By default shared.
        root: What the noise is derived from: the same root gives the same numbers. By default 0.
        check: Says of the environment, or world, at the end of a rollout whether it was won: what is estimated is then the
            probability of that. "terminated" and "truncated" say that the episode ended so. By default it is the return; of an
            agent's world its `task_solved`.
        gamma: Discount per step; by default 1.
        max_steps: The step of the episode at which rollouts are cut; needed where the environment sets no limit itself.
        env: Makes the environment or world; by default the one that the log names is made.
        allow: Module prefixes that may be imported because the log names them.
        state: The function that the episode's states were captured with, where the recorder was given one.
        restore: How steps are reached; see `fork_many`. The numbers do not depend on it.
        jobs: Processes; by default 1. The numbers do not depend on them.
        backend: "local", or "ray".
        memo: Whether rollouts that meet go on as one; by default they do. The numbers do not depend on it.
        resample_hidden: A function of the environment, or world, as it was recorded at a step, and a generator: draws anew what
            the agent has not seen by then, before each rollout from there. Values are then those of what it knows, and not of
            the whole state; that what is drawn goes with what was seen is the function's to see to.
        progress: Called with (rollouts run, rollouts asked for so far) as they come in; from other processes, as each is done.
        folder: Where what is found is appended to the corpus; "beside", the default, is the folder of the episode's log,
            None keeps it nowhere.
    """

    noise: Mode
    root: int
    check: Check
    gamma: float
    max_steps: int | None
    env: Callable[[], Any] | None
    allow: Iterable[str]
    state: Callable[[Any], Any] | None
    restore: RestoreChoice
    jobs: int
    backend: Literal["local", "ray"]
    memo: bool
    resample_hidden: Resample | None
    progress: Callable[[int, int], None] | None
    folder: str | Path | None


@dataclass(frozen=True)
class RolloutConfig:
    """What all rollouts of an episode share.

    Attributes:
        policy: What acts: see `as_policy`.
        noise: What it is put under.
        gamma: Discount per step.
        max_steps: The step of the episode at which rollouts are cut; None where its own limit ends it.
        check: Says at the end whether it was won; None takes the return.
        make: Makes the environment or world; None makes the one that the log names.
        allow: Module prefixes that may be imported because the log names them.
        state: The function that states were captured with; None takes an adapter.
        restore: How steps are reached.
        jobs: Processes.
        backend: "local", or "ray".
        memo: Whether rollouts that meet go on as one.
        resample_hidden: Draws anew what the agent has not seen, before each rollout; None leaves it as it was recorded.
        progress: Told how many rollouts there are of how many.
        keeps_visits: Whether rollouts keep each of their steps.
    """

    policy: Any
    noise: Noise = field(default_factory=Noise)
    gamma: float = 1.0
    max_steps: int | None = None
    check: Check = None
    make: Callable[[], Any] | None = None
    allow: tuple[str, ...] = ()
    state: Callable[[Any], Any] | None = None
    restore: RestoreChoice = "auto"
    jobs: int = 1
    backend: Literal["local", "ray"] = "local"
    memo: bool = True
    resample_hidden: Resample | None = None
    progress: Callable[[int, int], None] | None = None
    keeps_visits: bool = False

    def stage(self, episode: Episode) -> EnvHandle:
        """Make a stage for an episode."""
        record = episode.header.env
        env = (
            env_by(self.make, record)
            if self.make is not None
            else make_env(record, episode_id=episode.id, allow=self.allow)
        )
        return env_handle(env, episode, self.state)

    def world(self, episode: Episode) -> World:
        """Make a world for an agent's episode."""
        return world_by(self.make) if self.make is not None else make_world(episode, self.allow)

    def last_step(self, episode: Episode) -> int | None:
        """Return the step at which rollouts are cut: an agent's world ends nothing itself."""
        return (
            2 * episode.n_steps + 10
            if self.max_steps is None and episode.is_agent_episode
            else self.max_steps
        )

    @classmethod
    def of(cls, policy: Any, how: RolloutOptions, *, keeps_visits: bool = False) -> RolloutConfig:
        """Return the setting that a caller asks for.

        Raises:
            TypeError: There is no such keyword.
            ValueError: A value is none of those that it may be.
        """
        given: dict[str, Any] = dict(how)
        unknown = sorted(given.keys() - RolloutOptions.__annotations__.keys())
        if unknown:
            raise TypeError(
                f"no such keyword: {', '.join(unknown)}; there are {', '.join(RolloutOptions.__annotations__)}"
            )
        noise = Noise(given.pop("noise", "shared"), given.pop("root", 0))
        given.pop("folder", None)
        given["allow"] = tuple(given.get("allow", ()))
        if "env" in given:
            given["make"] = given.pop("env")
        check = given.get("check")
        if isinstance(check, str) and check not in ("terminated", "truncated"):
            raise ValueError(
                f"check must be 'terminated', 'truncated' or a function, got {check!r}"
            )
        if given.get("resample_hidden") is not None:
            if not callable(given["resample_hidden"]):
                raise TypeError(
                    f"resample_hidden must be a function, got {given['resample_hidden']!r}"
                )
            if noise.mode == "recorded":
                raise ValueError(
                    "recorded noise is what happened, hidden or not: resample_hidden takes 'shared' or 'fresh'"
                )
        check_restore(given.get("restore", "auto"))
        if given.get("jobs", 1) < 1:
            raise ValueError(f"jobs must be at least 1, got {given['jobs']!r}")
        return cls(policy, noise, keeps_visits=keeps_visits, **given)
