"""What `trajrec.record` puts around a PettingZoo environment. Imported only where there is one: PettingZoo is there then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pettingzoo.utils.wrappers import BaseParallelWrapper, BaseWrapper

from trajrec.envstate.pettingzoo import ParallelView
from trajrec.recording.recorder import Recorder

_OWN = frozenset(("env", "recorder"))


class _Recorded:
    """What both have.

    Everything that is not recorded goes to the environment as it is, also what is set: so a loop finds there what it finds
    without trajrec, and what an environment allows before a reset or after an end it still does.
    """

    env: Any
    recorder: Recorder

    def __getattr__(self, name: str) -> Any:
        if name in _OWN or name.startswith(
            "__"
        ):  # not there yet, or nothing that another object can do in its place
            raise AttributeError(name)
        return getattr(self.env, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.env, name, value)

    def __str__(self) -> str:
        return str(self.env)

    @property
    def path(self) -> Path:
        """The log file."""
        return self.recorder.path

    @property
    def episode_id(self) -> str | None:
        """Id of the current or last episode; None before the first reset."""
        return self.recorder.episode_id

    @property
    def num_agents(self) -> int:
        """See PettingZoo."""
        return int(self.env.num_agents)

    @property
    def max_num_agents(self) -> int:
        """See PettingZoo."""
        return int(self.env.max_num_agents)

    def flush(self) -> None:
        """Hand everything recorded so far to the operating system now."""
        self.recorder.flush()

    def close(self) -> None:
        """Write everything and seal the log, then close the environment. Twice is harmless."""
        self.recorder.close()


class AECRecorder(_Recorded, BaseWrapper):  # type: ignore[misc]
    """Records every episode of an AEC environment; a PettingZoo wrapper.

    Args:
        recorder: Records the joint view of it, see `trajrec.envstate.pettingzoo.AECView`.

    Attributes:
        env: The environment.
        recorder: The recorder.
        path: The log file.
        episode_id: The id of the current or last episode, None before the first reset.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        super().__init__(recorder.env.env)  # type: ignore[attr-defined]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Reset the environment and begin a new episode; one that was in its middle is recorded as abandoned."""
        self.recorder.reset(seed=seed, options=options)

    def step(self, action: Any) -> None:
        """Step the environment and record what came of it. An exception of the environment is recorded, then re-raised."""
        if self.recorder.is_open:
            self.recorder.step(action)
        else:
            self.env.step(action)

    def last(self, observe: bool = True) -> Any:
        """See PettingZoo."""
        return self.env.last(observe)

    def agent_iter(self, max_iter: int = 2**63) -> Any:
        """See PettingZoo."""
        return self.env.agent_iter(max_iter)


class ParallelRecorder(_Recorded, BaseParallelWrapper):  # type: ignore[misc]
    """Records every episode of a parallel environment; a PettingZoo wrapper.

    Args:
        recorder: Records the joint view of it, see `trajrec.envstate.pettingzoo.ParallelView`.

    Attributes:
        env: The environment.
        recorder: The recorder.
        path: The log file.
        episode_id: The id of the current or last episode, None before the first reset.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        recorder.env.keeps = True  # type: ignore[attr-defined]
        super().__init__(recorder.env.env)  # type: ignore[attr-defined]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment and begin a new episode; one that was in its middle is recorded as abandoned."""
        self.recorder.reset(seed=seed, options=options)
        return self._returned()

    def step(self, actions: dict[Any, Any]) -> Any:
        """Step the environment and record what came of it. An exception of the environment is recorded, then re-raised."""
        if not self.recorder.is_open:
            return self.env.step(actions)
        self.recorder.step(actions)
        return self._returned()

    def _returned(self) -> Any:
        """Return what the environment returned, and keep none of it: some frames lock what they are a view of."""
        view: ParallelView = self.recorder.env  # type: ignore[assignment]
        returned, view.returned = view.returned, None
        return returned
