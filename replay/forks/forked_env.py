"""The environment that `trajrec.replay.fork` returns."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium

from trajrec.corpus.episode import Episode
from trajrec.errors import EnvContractError
from trajrec.recording.recorder import Recorder
from trajrec.replay.forks.noise_watch import NoiseWatch, unset_notes
from trajrec.types import Action, AnyEnv, Info, Observation, Value


class ForkedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A live environment in the recorded state before a step of an episode.

    A context manager: leaving it closes the environment and seals the branch's log.

    Args:
        env: The environment in that state, wrapped by a recorder if the branch is recorded.
        parent: See the attributes.
        at: See the attributes.
        observation: See the attributes.
        info: See the attributes.
        watch: Looks at the generators that fresh noise has seeded; None if nothing is to be seen.

    Attributes:
        parent: The episode that was forked.
        at: The step.
        observation: The last observation before the step, as recorded.
        info: The info of that observation.
    """

    def __init__(
        self,
        env: AnyEnv,
        *,
        parent: Episode,
        at: int,
        observation: Observation,
        info: Info,
        watch: NoiseWatch | None = None,
    ) -> None:
        super().__init__(env)
        self.parent = parent
        self.at = at
        self.observation = observation
        self.info = info
        self._watch = watch

    def __enter__(self) -> ForkedEnv:
        return self

    # Literal[False] tells type checkers that exceptions in the block are not swallowed.
    def __exit__(self, *exc: object) -> Literal[False]:
        self.close()
        return False

    @property
    def episode_id(self) -> str | None:
        """Id of the recorded branch; None if the branch is not recorded."""
        return self.env.episode_id if isinstance(self.env, Recorder) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on noise that `noise="fresh"` does not set, as far as the steps so far show."""
        return () if self._watch is None else unset_notes(self._watch.unset, "branch")

    def step(self, action: Action) -> tuple[Observation, Any, bool, bool, Info]:
        """Take a step, which is recorded if the branch is.

        Raises:
            EnvContractError: The parent was over at this step.
        """
        parent = self.parent
        if self.at == parent.end_step and parent.ending in ("terminated", "truncated"):
            raise EnvContractError(
                f"episode {parent.id} was over after step {self.at - 1} ({parent.ending}): "
                f"no step can be taken at step {self.at}"
            )
        result = super().step(action)
        if self._watch is not None:
            self._watch.after()
        return result

    def annotate(self, **values: Value) -> None:
        """Add named values to the last step of a recorded branch; see `Recorder.annotate`."""
        if isinstance(self.env, Recorder):
            self.env.annotate(**values)

    def reset(self, **_: object) -> tuple[Observation, Info]:
        """Refuse to reset: a fork has no beginning of its own.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"the fork of episode {self.parent.id} at step {self.at} cannot be reset: "
            "make another fork"
        )
