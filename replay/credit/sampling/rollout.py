"""One rollout: its steps while it runs, and its result."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, NamedTuple

from trajrec.replay.forks.noise_watch import NoiseSeen
from trajrec.types import Action
from trajrec.values import codec

Status = Literal["ended", "cut", "unreplayable", "error"]

ForcedActions = tuple[tuple[int, Action], ...]
"""Actions that are taken instead of the policy's: (step, action), ascending by step."""


def digests_from(forced_actions: ForcedActions) -> list[tuple[int, str]]:
    """Return for each forced step a digest of the forced actions from there on.

    Rollouts are merged only if these are equal.
    """
    digests: list[tuple[int, str]] = []
    digest = ""
    for step, action in reversed(forced_actions):
        digest = codec.digest([step, action, digest])
        digests.append((step, digest))
    return digests[::-1]


class Visit(NamedTuple):
    """One step of a rollout, for estimators that pool steps by their state.

    Attributes:
        step: The step.
        state_key: See `Simulator.state_key`.
        action: The action taken.
        reward: The reward.
    """

    step: int
    state_key: Hashable | None
    action: Action
    reward: float


class Rollout(NamedTuple):
    """The result of one rollout.

    Attributes:
        scenario: The scenario of its noise.
        episode_return: The discounted sum of the rewards from its first step on.
        score: The result of the success function at the end; None without one.
        length: Steps to the end.
        status: "ended"; "cut" at the last step that may be taken; "unreplayable" if a tool call
            could not be executed again; "error" if the environment or the agent's loop raised.
        coalesced_at: The step at which it was merged with an earlier rollout of its scenario; -1 if
            it was not.
        error: The exception, if the status is "unreplayable" or "error".
        env_steps: Environment steps taken for it; fewer than `length` if it was merged.
        policy_calls: Actions that the policy chose.
        visits: The steps, if the runner keeps them.
        noise_seen: See `Simulator.noise_seen`.
    """

    scenario: int
    episode_return: float
    score: float | None
    length: int
    status: Status
    coalesced_at: int = -1
    error: str = ""
    env_steps: int = 0
    policy_calls: int = 0
    visits: tuple[Visit, ...] = ()
    noise_seen: NoiseSeen | None = None

    @property
    def is_invalid(self) -> bool:
        """Whether the rollout has no result. It is counted, but never as a failure."""
        return self.status in ("unreplayable", "error")


def have_equal_results(a: Rollout, b: Rollout) -> bool:
    """Return whether two rollouts have the same actions, rewards and end.

    Their states are not compared: some wrappers keep the time in theirs.
    """
    # By bits, since NaN is not equal to itself. A message may name an address.
    encoded_a, encoded_b = (
        codec.encode(
            [
                [[visit.action, visit.reward] for visit in rollout.visits],
                list(rollout._replace(visits=(), noise_seen=None, error="")),
            ],
            opaque=True,
            canonical=True,
        )
        for rollout in (a, b)
    )
    return encoded_a == encoded_b


class Tail(NamedTuple):
    """The rest of a rollout from one of its nodes on."""

    episode_return: float
    score: float | None
    length: int
    status: Status
    error: str = ""


class Path:
    """The steps of a running rollout.

    Attributes:
        merge_scope: The scope in which the rollout may merge with others.
        nodes: The key of each step's node, None if it is unknown.
        rewards: The reward of each step.
        visits: Step, state key and action of each step, if they are kept.
        coalesced_at: The step at which another rollout's rest was taken over, -1 if none was.
        n_calls: Number of the policy's actions.
    """

    def __init__(self, merge_scope: Hashable) -> None:
        self.merge_scope = merge_scope
        self.nodes: list[Hashable | None] = []
        self.rewards: list[float] = []
        self.visits: list[tuple[int, Hashable | None, Action]] = []
        self.coalesced_at = -1
        self.n_calls = 0
