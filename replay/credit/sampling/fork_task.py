"""Run one rollout in a forked process, for environments that cannot be restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from trajrec.corpus.episode import Episode
from trajrec.corpus.refs import refs_with_ancestors
from trajrec.envstate.outer_state import OuterState
from trajrec.replay.credit.sampling.allowance import Allowance, BudgetSpent
from trajrec.replay.credit.sampling.env_simulator import (
    OneShotSimulator,
    RecordedNoise,
    has_own_state,
)
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.rollout import Rollout, have_equal_results
from trajrec.replay.credit.sampling.runner import RolloutRunner
from trajrec.replay.credit.sampling.setup import noise_of_episode
from trajrec.replay.forks.branch import BranchPoint
from trajrec.replay.forks.dispatch import run_job
from trajrec.replay.forks.fork_job import ForkJob
from trajrec.replay.forks.options import RestoreMethod
from trajrec.replay.forks.policies import Policy, as_policy
from trajrec.types import Value

MemoryBefore = Callable[[int, Policy | None], Value]
"""Returns the snapshot of a policy's memory before a step."""


@dataclass(frozen=True)
class RolloutResult:
    """The rollout of one branch.

    Attributes:
        step: The step at which the branch starts.
        index: Number of the branch among those at its step.
        rollout: The rollout; None if the budget broke it off.
    """

    step: int
    index: int
    rollout: Rollout | None


@dataclass(frozen=True, kw_only=True)
class RolloutTask:
    """The task of a fork server: run the rollout that belongs to a branch.

    Attributes:
        config: The options of the rollouts.
        requests: The requests.
        positions: Step -> (number of the request, number of its scenario), by branch.
        memories: Step -> the snapshot of the policy's memory.
        recorded: The recorded noise; empty for every other mode.
        allowance: The cost that a rollout may have.
    """

    config: RolloutConfig
    requests: list[SampleRequest]
    positions: dict[int, list[tuple[int, int]]]
    memories: dict[int, Value]
    recorded: RecordedNoise
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def branches(self) -> tuple[tuple[int, int], ...]:
        """(step, number) of each branch, ascending."""
        return tuple(
            (step, index)
            for step in sorted(self.positions)
            for index in range(len(self.positions[step]))
        )

    def run(self, point: BranchPoint) -> RolloutResult:
        """Run the rollout of a branch."""
        config = self.config
        request_number, scenario_number = self.positions[point.step][point.index]
        request = self.requests[request_number]
        simulator = OneShotSimulator(
            point,
            noise=config.noise,
            success=config.success,
            recorded=self.recorded,
            own_state=config.keeps_visits,
        )
        runner = RolloutRunner(
            [simulator],
            as_policy(config.policy, simulator.action_space),
            config.noise,
            gamma=config.gamma,
            max_steps=config.last_step(point.episode),
            merge_rollouts=False,  # there is one rollout
            keeps_visits=config.keeps_visits,
            resample_hidden=config.resample_hidden,
        )
        runner.goto(point.step, self.memories.get(point.step))
        first_policy = None
        if request.policy is not None:
            first_policy = as_policy(request.policy, simulator.action_space)
        scenario = request.scenarios[scenario_number]
        runner.allowance = self.allowance.rest()
        without = simulator.generator_ids()
        is_pooled = config.keeps_visits and not has_own_state(point.handle)
        outer = OuterState.of_env(point.handle.env, without) if is_pooled else None
        try:
            (rollout,) = runner.run([scenario], request.forced_actions, first_policy)
        except BudgetSpent:
            return RolloutResult(point.step, point.index, None)
        if outer is not None and outer.changed(OuterState.of_env(point.handle.env, without)):
            # The keys lack a part of the state: visits must not be pooled by them.
            visits = tuple(visit._replace(state_key=None) for visit in rollout.visits)
            rollout = rollout._replace(visits=visits)
        return RolloutResult(point.step, point.index, rollout)


def rollout_job(
    episode: Episode,
    config: RolloutConfig,
    requests: Sequence[SampleRequest],
    *,
    memory_before: MemoryBefore,
    allowance: Allowance,
    restore: RestoreMethod,
) -> tuple[ForkJob, RolloutTask]:
    """Return the job of a fork server that runs the rollouts of requests, and its task.

    Args:
        episode: The episode.
        config: The options of the rollouts.
        requests: The requests.
        memory_before: Returns the snapshot of a policy's memory before a step.
        allowance: The cost that the rollouts may have.
        restore: "os_fork", or "reexecute" for a server that runs the rollouts itself.
    """
    positions: dict[int, list[tuple[int, int]]] = {}
    for number in sorted(range(len(requests)), key=lambda k: requests[k].step):
        request = requests[number]
        for scenario_number in range(len(request.scenarios)):
            positions.setdefault(request.step, []).append((number, scenario_number))
    policy = config.policy if hasattr(config.policy, "snapshot") else None
    task = RolloutTask(
        config=config,
        requests=list(requests),
        positions=positions,
        memories={step: memory_before(step, policy) for step in positions},
        recorded=noise_of_episode(episode, config),
        allowance=allowance,
    )
    job = ForkJob(
        refs=refs_with_ancestors(episode),
        source=config.source,
        branches=task.branches,
        task=task,
        restore=restore,
        jobs=max(1, config.jobs) if restore == "os_fork" else 1,
    )
    return job, task


def is_determined(job: ForkJob, task: RolloutTask) -> bool:
    """Return whether the first rollout of a job, run twice in one process, gives equal results."""
    step, index = job.branches[0]
    twice = replace(
        task,
        config=replace(task.config, keeps_visits=True),
        positions={step: [task.positions[step][index]] * 2},
    )
    job = replace(job, branches=twice.branches, task=twice, restore="reexecute")
    first, second = run_job(job, 1)
    if not (isinstance(first, RolloutResult) and isinstance(second, RolloutResult)):
        return True  # a process that died shows nothing about the noise
    if first.rollout is None or second.rollout is None:
        return True
    return have_equal_results(first.rollout, second.rollout)
