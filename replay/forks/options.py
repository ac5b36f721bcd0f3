"""Options of forks: how a step is reached, and the keywords that `fork` and `fork_many` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypedDict, get_args

from trajrec.protocols import Verifier
from trajrec.types import AnyEnv, Value

Level = Literal["prefix", "native", "pickle", "process", "sandbox"]
LEVELS = ("auto", *get_args(Level))

ForkNoise = Literal["recorded", "fresh"]
"""Randomness of a branch: the recorded generator states, or newly seeded generators."""

Backend = Literal["local", "ray"]
"""Where worker processes run: on this machine, or as tasks of a Ray cluster."""

LogFolder = Literal["beside"] | str | Path | None
"""A folder; "beside" is the folder of the parent's log; None records nothing."""

EnvFactory = Callable[[], AnyEnv]


class ForkOptions(TypedDict, total=False):
    """Keywords that `fork` and `fork_many` share.

    Attributes:
        folder: Folder of the branch's log. "beside", the default, is the folder of the parent's
            log; None records nothing.
        allow: Prefixes of the modules that trajrec may import because a log names them.
        state: The function that captured the episode's states, if the recorder was given one.
        noise: "recorded" continues the environment's generators from their recorded states.
            "fresh" seeds them anew from `seed`. By default "recorded"; "fresh" if there are
            several branches at a step.
        seed: The randomness of the branches is derived from this seed; 0 by default.
        checks: Verifiers of the state in which a branch ends.
    """

    folder: LogFolder
    allow: Iterable[str]
    state: Callable[[AnyEnv], Value] | None
    noise: ForkNoise | None
    seed: int
    checks: Sequence[Verifier]


def check_level(level: str) -> None:
    """Check that there is such a level.

    Raises:
        ValueError: There is not; names those that there are.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
