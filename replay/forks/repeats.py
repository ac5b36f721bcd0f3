"""Repeats: some branches are run twice, in other circumstances, and must be equal bit for bit.

The second run has another environment, reaches its step by re-execution where the first did not,
and comes in another order. A difference shows that a branch depends on what ran before it.
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
    """

    def __init__(self, branches: Sequence[tuple[int, int]]) -> None:
        n_chosen = min(len(branches), max(FEWEST, int(SHARE * len(branches))))
        # Spread over all: the last branches come after the most others.
        self._chosen = {branches[-1 - k * len(branches) // n_chosen] for k in range(n_chosen)}
        self.n = 0
        self.n_steps = 0
        self._digests: dict[tuple[int, int], _Digests] = {}

    def note(self, trace: BranchTrace) -> None:
        """Keep the digests of the first run of a branch, if it is run twice."""
        if (trace.step, trace.index) in self._chosen:
            self._digests[trace.step, trace.index] = _digests(trace)

    @property
    def left(self) -> list[tuple[int, int]]:
        """The chosen branches that have a first run, in reverse order."""
        return sorted(self._digests, reverse=True)

    def check(self, traces: Iterable[BranchTrace], episode_id: str, restore: str) -> None:
        """Compare second runs with the first ones.

        Raises:
            ControlError: They took the same actions, and have other results.
        """
        for trace in traces:
            first = self._digests[trace.step, trace.index]
            second = _digests(trace)
            if second.actions != first.actions:
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
