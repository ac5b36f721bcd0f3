"""The schedule by which a recorder takes keyframes of long episodes."""

from __future__ import annotations

from trajrec.envstate.keyframes import EARLY_STEPS, Keyframes
from trajrec.envstate.outer_state import OuterState
from trajrec.types import AnyEnv

KEYFRAME_STEPS = 8192
"""The least number of steps between keyframes; shorter episodes have none. Without a keyframe,
8,192 steps are re-executed in 0.05 s (CartPole) to 2 s (Humanoid)."""

NEVER = 1 << 62
"""A step that no episode reaches."""


class KeyframeSchedule:
    """Takes keyframes of one environment, if it holds only plain data.

    No keyframe has the variables of modules, classes and closures. If steps change one, a keyframe
    would lead to a state that never was, so none is taken any more. Replays and forks look at the
    first `EARLY_STEPS` steps.

    Args:
        env: The environment, with its wrappers.

    Attributes:
        due_step: `take` has something to do from this step of the episode on.
    """

    def __init__(self, env: AnyEnv) -> None:
        self.due_step = EARLY_STEPS
        self._env = env
        self._begin = 0
        # The variables outside of the environment, early in the episode.
        self._outer: OuterState | None = None
        # Made late: most episodes are short.
        self._keyframes: Keyframes | None = None

    def begin_episode(self, n_steps: int) -> None:
        """Begin an episode that has `n_steps` steps already, if it is a fork."""
        if self.due_step != NEVER:
            self._begin = n_steps
            self.due_step = n_steps + EARLY_STEPS
            self._outer = None

    def take(self, n_steps: int) -> bytes | None:
        """Return a keyframe after `n_steps` steps, or None if none can be taken now."""
        try:
            outer = OuterState.of_env(self._env)
            if self._outer is None:
                self._outer = outer
                self.due_step = self._begin + KEYFRAME_STEPS
                return None
            if self._outer.changed(outer):
                self.due_step = NEVER
            if n_steps < self.due_step:
                return None
            if self._keyframes is None:
                self._keyframes = Keyframes(self._env)
            self.due_step = n_steps + KEYFRAME_STEPS
            return self._keyframes.take()
        except LookupError:
            # The last action of an ALE game cannot be found out now. The next try may succeed.
            return None
        except Exception:
            # An attribute may raise anything. Nothing that is recorded depends on keyframes.
            self.due_step = NEVER
            return None
