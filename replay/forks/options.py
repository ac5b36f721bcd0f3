"""Options of forks: how a step is reached, and the keywords that `fork` and `fork_many` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypedDict, get_args

from trajrec.log.remote import local_folder
from trajrec.protocols import Verifier
from trajrec.types import AnyEnv, Value

RestoreMethod = Literal["reexecute", "snapshot", "pickle", "env_snapshot", "os_fork"]
"""How a step of an episode is reached again; `trajrec.replay.forks.restore` describes each."""

RestoreChoice = RestoreMethod | Literal["auto"]
"""The method that a caller asks for; "auto" takes the cheapest that works."""

RESTORE_CHOICES: tuple[RestoreChoice, ...] = ("auto", *get_args(RestoreMethod))

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
        control: Whether controls run among the branches, True by default: they take the recorded
            actions and must reproduce the recording. The fork records that it had none.
    """

    folder: LogFolder
    allow: Iterable[str]
    state: Callable[[AnyEnv], Value] | None
    noise: ForkNoise | None
    seed: int
    checks: Sequence[Verifier]
    control: bool


def fixed_folder(folder: LogFolder) -> Literal["beside"] | Path | None:
    """Return a folder that is the same one if the working folder changes.

    Raises:
        ValueError: It is an address.
    """
    if folder == "beside":
        return "beside"
    return None if folder is None else local_folder(folder)


def check_noise(noise: str | None) -> None:
    """Check the option `noise`.

    Raises:
        ValueError: It is not one of the choices.
    """
    if noise not in (None, *get_args(ForkNoise)):
        raise ValueError(f"noise must be 'recorded' or 'fresh', got {noise!r}")


def check_limits(**limits: float | None) -> None:
    """Check limits by name; None is no limit.

    Raises:
        ValueError: One of them is not above 0.
    """
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} must be above 0, got {limit!r}")


def check_restore(restore: str) -> None:
    """Check the argument `restore`.

    Raises:
        ValueError: It is not one of the choices.
    """
    if restore not in RESTORE_CHOICES:
        raise ValueError(f"restore must be one of {', '.join(RESTORE_CHOICES)}, got {restore!r}")
