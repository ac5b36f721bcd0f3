"""Recorders for PettingZoo environments; `trajrec.record` returns one.

This module imports PettingZoo, so only code that has such an environment may import it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pettingzoo.utils.wrappers import BaseParallelWrapper, BaseWrapper

from trajrec.envstate.pettingzoo import ParallelView, PettingZooEnv
from trajrec.recording.recorder import Recorder
from trajrec.recording.unrecorded_copies import CopiedUnrecorded
from trajrec.types import Action, Value

_OWN_ATTRIBUTES = frozenset(("env", "recorder", "_unseen"))


class _RecordedEnv(CopiedUnrecorded):
    """The part that both recorders share.

    Attributes that are read or set here are those of the environment, as with PettingZoo's own
    wrappers, so a loop finds the same values with and without trajrec. Calls that are not recorded
    go to the environment too: it decides what it allows before a reset and after an end.
    """

    recorder: Recorder

    def __getattr__(self, name: str) -> Any:
        # The own attributes are missing while the object is made or unpickled. A special method
        # of `env` would act on `env` instead of this object.
        if name in _OWN_ATTRIBUTES or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def __setattr__(self, name: str, value: Value) -> None:
        if name in _OWN_ATTRIBUTES:
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

    # The next two are defined by PettingZoo's base classes, so `__getattr__` does not see them.
    @property
    def num_agents(self) -> int:
        """Number of players that are left."""
        return int(self.env.num_agents)

    @property
    def max_num_agents(self) -> int:
        """Number of possible players."""
        return int(self.env.max_num_agents)

    def annotate(self, **values: Value) -> None:
        """Add named values to the last step; see `Recorder.annotate`."""
        self.recorder.annotate(**values)

    def flush(self) -> None:
        """Hand everything recorded so far to the operating system now."""
        self.recorder.flush()

    def close(self) -> None:
        """Seal the log, then close the environment, each time as without a recorder."""
        self.recorder.close()


class AECRecorder(_RecordedEnv, BaseWrapper):  # type: ignore[misc]
    """Records every episode of an AEC environment; a PettingZoo wrapper.

    Args:
        recorder: Records the environment as `trajrec.envstate.pettingzoo.AECView` shows it.

    Attributes:
        env: The environment.
        recorder: The recorder.
        path: The log file.
        episode_id: The id of the current or last episode, None before the first reset.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        # The recorded look of the player in turn, which the loop has not yet asked for. It is
        # handed out once: a look may draw a random number, and without a recorder the loop's own
        # would be the first one.
        self._unseen: dict[str, Value] | None = None
        super().__init__(cast(PettingZooEnv, recorder.env).env)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Reset the environment and begin an episode; an unfinished one counts as abandoned."""
        self._unseen = None
        self._unseen, _ = self.recorder.reset(seed=seed, options=options)

    def step(self, action: Action) -> None:
        """Step the environment and record the step; an exception is recorded, then raised again."""
        self._unseen = None
        if self.recorder.is_open:
            self._unseen, *_ = self.recorder.step(action)
        else:
            self.env.step(action)

    def last(self, observe: bool = True) -> Any:
        """Return the observation, reward, flags and info of the player in turn."""
        unseen = self._unseen
        if not observe or unseen is None or unseen["agent"] != self.env.agent_selection:
            return self.env.last(observe)
        self._unseen = None
        _, *others = self.env.last(False)
        return (unseen["observation"], *others)

    def observe(self, agent: Any) -> Any:
        """Return the observation of a player."""
        unseen = self._unseen
        if unseen is None or unseen["agent"] != agent:
            return self.env.observe(agent)
        self._unseen = None
        return unseen["observation"]

    # The default is PettingZoo's own: in effect no limit.
    def agent_iter(self, max_iter: int = 2**63) -> Any:
        """Yield the player in turn until none is left, at most `max_iter` times."""
        return self.env.agent_iter(max_iter)


class ParallelRecorder(_RecordedEnv, BaseParallelWrapper):  # type: ignore[misc]
    """Records every episode of a parallel environment; a PettingZoo wrapper.

    Args:
        recorder: Records the environment as `trajrec.envstate.pettingzoo.ParallelView` shows it.

    Attributes:
        env: The environment.
        recorder: The recorder.
        path: The log file.
        episode_id: The id of the current or last episode, None before the first reset.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        view = cast(ParallelView, recorder.env)
        view.holds_returned = True
        super().__init__(view.env)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment and begin an episode; an unfinished one counts as abandoned."""
        self.recorder.reset(seed=seed, options=options)
        return self._take_returned()

    def step(self, actions: dict[Any, Action]) -> Any:
        """Step the environment and record the step; an exception is recorded, then raised again."""
        if not self.recorder.is_open:
            return self.env.step(actions)
        self.recorder.step(actions)
        return self._take_returned()

    def _take_returned(self) -> Any:
        """Return the environment's own return value, and release it.

        A reference that stays behind would matter: an observation that is a view of a pygame
        surface keeps the surface locked.
        """
        view = cast(ParallelView, self.recorder.env)
        returned = view.returned
        view.returned = None
        return returned
