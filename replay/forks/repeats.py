"""Repeats: some branches are run twice, in other circumstances, and must be equal bit for bit.

Half of them are spread over all branches, the others have an end or rewards that few branches have:
state that is wrong may show in few branches only. The second run has another environment, reaches
its step by re-execution where the first did not, and comes in another order. A difference shows
that a branch depends on what ran before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trajrec.errors import ControlError
from trajrec.replay.forks.branch import BranchTrace
from trajrec.replay.forks.control import SHARE
from trajrec.values import codec

FEWEST = 2
"""Repeats of a call, if it has so many branches."""

COURSES_PER_REPEAT = 8
"""Different courses that are remembered for each repeat: the digests of a branch cost time."""


class _Course(NamedTuple):
    """Branches with the same rewards and the same end.

    Attributes:
        first: (step, number) of the first of them.
        n_steps: Its steps.
        n_branches: How many there are.
    """

    first: tuple[int, int]
    n_steps: int
    n_branches: int


class _Digests(NamedTuple):
    """Digests of a branch: a policy that draws by itself gives other actions, which proves nothing.

    Attributes:
        actions: Of its actions.
        whole: Of its actions, observations, rewards, states and its end.
    """

    actions: str
    whole: str


class Repeats:
    """Which branches of a call are run twice, and the digests of their first runs.

    Args:
        branches: (step, number) of each branch.

    Attributes:
        n: Branches whose second run was equal.
        n_steps: Steps of these.
        n_other: Branches whose second run took other actions, which proves nothing.
    """

    def __init__(self, branches: Sequence[tuple[int, int]]) -> None:
        n_chosen = min(len(branches), max(FEWEST, int(SHARE * len(branches))))
        # Spread over all: the last branches come after the most others.
        self._spread = [branches[-1 - k * len(branches) // n_chosen] for k in range(n_chosen)]
        self._chosen = set(self._spread)
        self._n_repeats = n_chosen
        # Rewards and end -> the first branch with these, its length, and how many have them.
        self._by_course: dict[str, _Course] = {}
        self._n_noted = 0
        self._n_noted_steps = 0
        self._n_courses = n_chosen * COURSES_PER_REPEAT
        self.n = 0
        self.n_steps = 0
        self.n_other = 0
        self._digests: dict[tuple[int, int], _Digests] = {}

    def note(self, trace: BranchTrace) -> None:
        """Keep the digests of the first run of a branch, if it may be run twice."""
        branch = trace.step, trace.index
        self._n_noted += 1
        self._n_noted_steps += len(trace.rewards)
        course = _course(trace)
        known = self._by_course.get(course)
        is_first = known is None and len(self._by_course) < self._n_courses
        if known is not None:
            self._by_course[course] = known._replace(n_branches=known.n_branches + 1)
        elif is_first:
            self._by_course[course] = _Course(branch, len(trace.rewards), 1)
        if is_first or branch in self._chosen:
            self._digests[branch] = _digests(trace)

    @property
    def left(self) -> list[tuple[int, int]]:
        """The branches to run again, in reverse order."""
        spread = [branch for branch in self._spread if branch in self._digests]
        chosen = dict.fromkeys(spread[: (self._n_repeats + 1) // 2])
        n_rare = self._n_repeats - len(chosen)
        # Repeats are a share of the steps: rare branches take no more than as many others would.
        n_left = n_rare * self._n_noted_steps / max(1, self._n_noted)
        for course in sorted(self._by_course.values(), key=lambda course: course.n_branches):
            if len(chosen) < self._n_repeats and (course.n_steps <= n_left or n_rare == 1):
                chosen[course.first] = None
                n_left -= course.n_steps
        for branch in spread:
            if len(chosen) < self._n_repeats:
                chosen[branch] = None
        return sorted(chosen, reverse=True)

    def check(self, traces: Iterable[BranchTrace], episode_id: str, restore: str) -> None:
        """Compare second runs with the first ones.

        Raises:
            ControlError: They took the same actions, and have other results.
        """
        for trace in traces:
            first = self._digests[trace.step, trace.index]
            second = _digests(trace)
            if second.actions != first.actions:
                self.n_other += 1
                continue
            if second.whole != first.whole:
                raise ControlError(
                    f"restore={restore!r} is not right for this environment: branch "
                    f"{trace.index} from step {trace.step}, run twice with the same actions, has "
                    "two different results",
                    episode_id=episode_id,
                    restore=restore,
                    start=trace.step,
                )
            self.n += 1
            self.n_steps += len(trace.rewards)


def _course(trace: BranchTrace) -> str:
    """Return a digest of the rewards and the end of a branch."""
    end = [trace.terminated, trace.truncated, trace.failure is not None]
    return codec.digest(codec.encode([trace.rewards, end], opaque=True))


def _digests(trace: BranchTrace) -> _Digests:
    results = [
        trace.observations,
        trace.rewards,
        trace.states,
        trace.terminated,
        trace.truncated,
        "" if trace.failure is None else codec.type_name(trace.failure),
    ]
    actions = codec.digest(codec.encode(trace.actions, opaque=True))
    return _Digests(actions, codec.digest([actions, codec.encode(results, opaque=True)]))
