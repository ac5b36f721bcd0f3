"""Run rollouts of a run a second time: in another environment, and in another order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.sampling.allowance import Allowance
from trajrec.replay.credit.sampling.fork_task import MemoryBefore, RolloutResult, rollout_job
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.proof import Rerun
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.setup import action_space_of, make_runner
from trajrec.replay.forks.dispatch import run_job
from trajrec.replay.forks.policies import as_policy


def rerun_here(
    episode: Episode,
    config: RolloutConfig,
    reruns: Sequence[Rerun],
    memory_before: MemoryBefore,
    allowance: Allowance,
) -> Iterator[tuple[Rerun, Rollout]]:
    """Yield rollouts with their second runs, as far as the allowance reaches."""
    alone = replace(config, merge_rollouts=False, keeps_visits=False)
    runner = make_runner(episode, alone, restore="reexecute", n_slots=1)
    runner.allowance = Allowance(endless_step=allowance.endless_step, episode_id=episode.id)
    try:
        for rerun in reruns:
            request, first = rerun
            if first.length > allowance.spare:
                continue
            runner.goto(request.step, memory_before(request.step, runner.policy))
            first_policy = None
            if request.policy is not None:
                first_policy = as_policy(request.policy, action_space_of(runner.simulators[0]))
            (second,) = runner.run(request.scenarios, request.forced_actions, first_policy)
            allowance.add_check(second.env_steps, second.policy_calls)
            yield rerun, second
    finally:
        for simulator in runner.simulators:
            simulator.close()


def rerun_in_server(
    episode: Episode,
    config: RolloutConfig,
    reruns: Sequence[Rerun],
    memory_before: MemoryBefore,
    allowance: Allowance,
) -> Iterator[tuple[Rerun, Rollout]]:
    """Yield rollouts with their second runs in another process, which may crash."""
    reruns = [rerun for rerun in reruns if rerun.rollout.length <= allowance.spare]
    job, task = rollout_job(
        episode,
        replace(config, keeps_visits=False),
        [rerun.request for rerun in reruns],
        memory_before=memory_before,
        allowance=Allowance(endless_step=allowance.endless_step, episode_id=episode.id),
        restore="reexecute",
    )
    for result in run_job(job, 1):
        # A process that died shows nothing.
        if isinstance(result, RolloutResult) and result.rollout is not None:
            number, _ = task.positions[result.step][result.index]
            allowance.add_check(result.rollout.env_steps, result.rollout.policy_calls)
            yield reruns[number], result.rollout
