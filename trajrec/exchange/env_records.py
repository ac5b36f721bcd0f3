"""Episodes of environments as other tools recorded them, before one writer logs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from trajrec.log.schema import EnvRecord
from trajrec.types import Action, Info, JsonObject, Observation, Value


class EnvStep(NamedTuple):
    """A step of an environment.

    Attributes:
        values: Named values of the step: flags that the log has no place for; {} if there are none.
    """

    action: Action
    observation: Observation
    reward: Value
    info: Info
    values: JsonObject


class EnvEpisode(msgspec.Struct, kw_only=True):
    """An episode of an environment.

    Attributes:
        position: Its place in the files, e.g. "episode 3".
        observation: The observation of the reset.
        info: The info of the reset.
        steps: The steps, which are read as they are needed.
        n_steps: Their number.
        terminated: Whether the environment ended the episode with its last step.
        truncated: Whether a limit did. If neither did, its ending is unknown.
        extra: Facts that have no place of their own.
    """

    position: str
    seed: int | None
    options: JsonObject | None
    observation: Observation
    info: Info
    steps: Iterator[EnvStep]
    n_steps: int
    terminated: bool
    truncated: bool
    extra: JsonObject | None = None


class EnvRecordings(NamedTuple):
    """The recordings of one environment.

    Attributes:
        env: The environment.
        version: The version of the format, "" if unknown.
        episodes: The episodes, which are read as they are needed.
    """

    env: EnvRecord
    version: str
    episodes: Iterator[EnvEpisode]
