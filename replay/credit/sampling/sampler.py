"""The sampler: runs the rollouts that an estimator requests, here or in other processes.

The results depend neither on the process of a rollout nor on how its step was reached.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace

from trajrec.corpus.episode import Episode
from trajrec.corpus.refs import EpisodeLoader, refs_with_ancestors
from trajrec.errors import ReplayError
from trajrec.replay.credit.sampling.allowance import Allowance, BudgetSpent
from trajrec.replay.credit.sampling.conditions import (
    as_number,
    check_agent_options,
    check_rewards,
    endless_step,
    has_workers,
    is_seeded,
    share_requests,
)
from trajrec.replay.credit.sampling.fork_task import RolloutResult, is_determined, rollout_job
from trajrec.replay.credit.sampling.noise import NoiseMode, reseed_policy
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.policy_memory import RecordedMemories
from trajrec.replay.credit.sampling.policy_state import check_memory, outer_generators
from trajrec.replay.credit.sampling.policy_trial import RolloutTrial, check_actions_apart
from trajrec.replay.credit.sampling.proof import Proof
from trajrec.replay.credit.sampling.repeating import rerun_here, rerun_in_server
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.replay.credit.sampling.reward_table import pays_once
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.runner import RolloutRunner
from trajrec.replay.credit.sampling.setup import action_space_of, make_runner
from trajrec.replay.credit.sampling.share_pool import Share, SharePool, ShareResult
from trajrec.replay.credit.sampling.simulator import Simulator
from trajrec.replay.execute.reach import check_step
from trajrec.replay.forks.control import (
    CONTROL_STEPS,
    Control,
    ControlledTask,
    check_lost,
    with_controls,
)
from trajrec.replay.forks.dispatch import check_portable, run_job
from trajrec.replay.forks.fork_job import BranchLost
from trajrec.replay.forks.options import RestoreChoice
from trajrec.replay.forks.policies import as_policy
from trajrec.replay.forks.walker import cheapest_method
from trajrec.replay.processes.workers import WorkerDied
from trajrec.statistics.intervals import is_binary
from trajrec.types import FloatArray


class Sampler:
    """Runs rollouts of one episode. A context manager, which closes the environments.

    Args:
        episode: The episode.
        config: The options of the rollouts.
        pool: Workers that several samplers share; by default they are of its own.

    Attributes:
        episode: The episode.
        config: The options of the rollouts.
        restore_method: How steps are reached; the option itself until rollouts have run.
        allowance: The cost that the rollouts may still have.
        proof: The controls and repeats among the rollouts.
        is_determined: Whether a scenario determines the result of a rollout. If it does not, some
            randomness cannot be seeded, and the noise is fresh whatever was requested.

    Raises:
        ValueError: The options do not fit the episode.
    """

    def __init__(
        self, episode: Episode, config: RolloutConfig, pool: SharePool | None = None
    ) -> None:
        if episode.is_agent_episode:
            check_agent_options(config)
        # The callback stays here: other processes receive the options, and cannot call it.
        self._progress = config.progress
        self._n_run = 0
        self._n_requested = 0
        self.episode = episode
        self.config = replace(config, progress=None, policy=check_memory(config.policy))
        if not self.by_score:
            check_rewards(episode)
        self.restore_method: RestoreChoice = config.restore
        self.allowance = Allowance(
            endless_step=endless_step(episode, config), episode_id=episode.id
        )
        self.is_determined = is_seeded(config.policy, episode)
        self.proof = Proof(episode, is_on=config.control)
        self._runner: RolloutRunner | None = None
        self._pool = pool
        self._owns_pool = pool is None
        self._was_tested = False
        self._pays_once: bool | None = None
        self._memory_before = RecordedMemories(episode).before

    @property
    def noise(self) -> NoiseMode:
        """The noise of the rollouts; "fresh" if some randomness cannot be seeded."""
        return self.config.noise.mode if self.is_determined else "fresh"

    @property
    def is_paired(self) -> bool:
        """Whether rollouts of two arms in one scenario have common random numbers."""
        return self.noise != "fresh"

    @property
    def by_score(self) -> bool:
        """Whether a rollout counts by the result of its success function, not by its return."""
        return self.config.success is not None or self.episode.is_agent_episode

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close_control()
        finally:
            if self._pool is not None and self._owns_pool:
                self._pool.close()
                self._pool = None
            if self._runner is not None:
                # In reverse: the first one knows the states of the generators before all.
                for simulator in reversed(self._runner.simulators):
                    simulator.close()
                self._runner = None

    def run(self, requests: Sequence[SampleRequest]) -> list[list[Rollout]]:
        """Return the rollouts of each request, in the order of its scenarios.

        Raises:
            DivergenceError: The environment does not reach the recorded state of a step, so there
                is nothing to estimate.
        """
        config = self.config
        for request in requests:
            check_step(self.episode, request.step)
        for policy in {id(request.policy): request.policy for request in requests}.values():
            check_actions_apart(policy, self.episode)
        # The share of a process may be empty; it must not make an environment for nothing.
        if not any(request.scenarios for request in requests):
            return [[] for _ in requests]
        self._n_requested = self._n_run + sum(len(request.scenarios) for request in requests)
        if self.restore_method == "auto" and not self.episode.is_agent_episode:
            self.restore_method = cheapest_method(
                self.episode,
                functools.partial(config.source.make_handle, self.episode),
                sorted({request.step for request in requests}),
                n_branches=max(len(request.scenarios) for request in requests),
                jobs=config.jobs,
            )
        if self.restore_method == "os_fork":
            rollouts = self._run_in_forks(requests)
        elif has_workers(config):
            rollouts = self._run_in_workers(requests)
        else:
            rollouts = self._run_in_process(requests)
        for request, of_request in zip(requests, rollouts, strict=True):
            self.proof.note(request, of_request)
        return rollouts

    def prove(self) -> None:
        """Run the last control, and some of the rollouts a second time.

        Raises:
            ControlError: The rollouts so far are void.
        """
        self.close_control()
        reruns = self.proof.take_reruns()
        # Without randomness that can be seeded, or with the answers of models, no two are equal.
        if not reruns or not self.is_determined:
            return
        rerun = rerun_in_server if self.restore_method == "os_fork" else rerun_here
        arguments = self.episode, self.config, reruns, self._memory_before, self.allowance
        for first, second in rerun(*arguments):
            self.proof.check_rerun(first, second, self.restore_method)

    def close_control(self) -> None:
        """Run a control after the last rollouts of this process."""
        if self._runner is not None and self.proof.is_open:
            self._control(self._runner.simulators[-1])

    def _control(self, simulator: Simulator) -> None:
        control = simulator.control(min(CONTROL_STEPS, self.allowance.spare))
        if control is not None:
            self.allowance.add_check(control.n_steps)
            self.proof.add_control(control)
            if control.changed and self._runner is not None and self._runner.stop_merging():
                self.proof.refuse_merging(control)

    def has_shares(self, results: Sequence[FloatArray]) -> bool:
        """Return whether results are 0 or 1, as far as is known, so that means are shares.

        Returns that are all 0 do not show that no other return is possible. Then only the
        environment's own table of rewards does.

        Args:
            results: The results of each arm, (n,) float64 each; none is NaN.
        """
        if self.by_score:
            return all(is_binary(values) for values in results)
        seen = {*(float(r) for values in results for r in values), self.episode.total_reward}
        seen |= {as_number(reward) for reward in self.episode.reward_values}
        if seen == {0.0, 1.0}:
            return True
        if not seen <= {0.0, 1.0}:
            return False
        if self._pays_once is None:
            handle = self.config.source.make_handle(self.episode)
            self._pays_once = pays_once(handle.env)
            handle.env.close()
        return self._pays_once

    def score_at(self, step: int) -> float:
        """Return the result of the success function in the recorded state before a step.

        Returns:
            1.0 for success, 0.0 for failure, or the function's score; NaN without a result.
        """
        success = self.config.success
        if isinstance(success, str):
            return float(self.episode.end is not None and getattr(self.episode.end, success))
        if self._runner is None:
            # A forked process would end with its rollout; the score is needed in this process.
            method = "reexecute" if self.restore_method == "os_fork" else self.restore_method
            self._runner = make_runner(self.episode, self.config, restore=method, n_slots=1)
        simulator = self._runner.simulators[0]
        simulator.goto(step)
        score = simulator.score()
        return float("nan") if score is None else score

    def _run_in_process(self, requests: Sequence[SampleRequest]) -> list[list[Rollout]]:
        if self._runner is None:
            self._runner = make_runner(
                self.episode,
                self.config,
                restore=self.restore_method,
                n_slots=max(len(request.scenarios) for request in requests),
            )
        runner = self._runner
        runner.allowance = self.allowance
        rollouts: list[list[Rollout]] = [[] for _ in requests]
        last_step = -1
        # By step, so that the walk goes forwards.
        for number in sorted(range(len(requests)), key=lambda k: requests[k].step):
            request = requests[number]
            if not request.scenarios:
                continue  # another process has all of them
            if request.step != last_step:
                runner.goto(request.step, self._memory_before(request.step, runner.policy))
                last_step = request.step
                if self.proof.is_due:
                    self._control(runner.simulators[0])
                self._test_noise(runner, request.scenarios[0])
            first_policy = None
            if request.policy is not None:
                first_policy = as_policy(request.policy, action_space_of(runner.simulators[0]))
            rollouts[number] = runner.run(request.scenarios, request.forced_actions, first_policy)
            self._report_progress(len(rollouts[number]))
        self.restore_method = runner.simulators[0].restore_method
        return rollouts

    def _test_noise(self, runner: RolloutRunner, scenario: int) -> None:
        """Run the first rollout twice, to see whether its scenario determines it.

        Raises:
            ValueError: The policy's actions depend on its earlier rollouts.
        """
        if not self._was_tested:
            self._was_tested = True
            # In fresh noise too: repeats of undetermined rollouts prove nothing.
            trial = RolloutTrial(runner, self.episode, self.config.policy, scenario)
            self.is_determined = trial.run(self.allowance, is_seeded=self.is_determined)
        if not self.is_determined:
            runner.stop_merging()

    def _run_in_workers(self, requests: Sequence[SampleRequest]) -> list[list[Rollout]]:
        """Share the scenarios among processes: only rollouts of one scenario can be merged."""
        if self._pool is None:
            self._pool = share_pool(self.config)
        refs = refs_with_ancestors(self.episode)
        shares = [
            Share(
                refs,
                self._n_run + number,
                share,
                self.restore_method,
                # A worker tests only its own first rollout; an earlier result holds for all.
                self.config.merge_rollouts and self.is_determined,
                self.allowance.rest(self.config.jobs),
            )
            for number, share in enumerate(share_requests(requests, self.config))
        ]
        by_scenario: list[dict[int, Rollout]] = [{} for _ in requests]
        with contextlib.closing(self._pool.map(shares)) as results:
            for rollouts in map(self._take_share, results):
                for collected, of_share in zip(by_scenario, rollouts, strict=True):
                    collected.update({rollout.scenario: rollout for rollout in of_share})
        return [
            [collected[scenario] for scenario in request.scenarios]
            for request, collected in zip(requests, by_scenario, strict=True)
        ]

    def _take_share(self, result: ShareResult | WorkerDied) -> list[list[Rollout]]:
        """Add up the facts of a share, and return its rollouts."""
        if isinstance(result, WorkerDied):
            raise ReplayError(f"rollouts were lost: {result.why}", episode_id=self.episode.id)
        self.restore_method = result.restore
        self.allowance.add_other(result.cost)
        self.proof.add_other(result.controls)
        if result.rollouts is None:
            raise BudgetSpent
        self.is_determined = self.is_determined and result.is_determined
        self._report_progress(sum(map(len, result.rollouts)))
        return result.rollouts

    def _run_in_forks(self, requests: Sequence[SampleRequest]) -> list[list[Rollout]]:
        """Fork a process for each rollout: the environment cannot be restored."""
        config = self.config
        check_portable(options=config)
        job, task = rollout_job(
            self.episode,
            config,
            requests,
            memory_before=self._memory_before,
            allowance=self.allowance,
            restore="os_fork",
        )
        if not self._was_tested:
            self._was_tested = True
            check_actions_apart(config.policy, self.episode)
            if not is_determined(job, task):
                # Forked processes have copies of generators that cannot be seeded, so all rollouts
                # would see the same draws. Re-executed rollouts draw anew.
                self.restore_method = "reexecute"
                self.is_determined = False
                return self.run(requests)
        rollouts: list[list[Rollout]] = [[] for _ in requests]
        if self.proof.is_due:
            branches = with_controls(job.branches, forks=True)
            job = replace(job, task=ControlledTask(task), branches=branches)
        for result in run_job(job, 1):
            if isinstance(result, Control):
                self.allowance.add_check(result.n_steps)
                self.proof.add_control(result)
                continue
            if isinstance(result, BranchLost):
                check_lost(result, self.episode, "os_fork")
            self._report_progress(1)
            number, scenario_number = task.positions[result.step][result.index]
            if isinstance(result, BranchLost):
                scenario = requests[number].scenarios[scenario_number]
                rollout = Rollout(scenario, 0.0, None, 0, "error", error=result.reason)
            else:
                assert isinstance(result, RolloutResult)
                if result.rollout is None:
                    raise BudgetSpent
                rollout = result.rollout
                self.allowance.check(rollout.env_steps, rollout.policy_calls)
                self.allowance.add(rollout.env_steps, rollout.policy_calls)
            rollouts[number].append(rollout)
        return rollouts

    def _report_progress(self, n_rollouts: int) -> None:
        self._n_run += n_rollouts
        if self._progress is not None:
            self._progress(self._n_run, self._n_requested)


def share_pool(config: RolloutConfig) -> SharePool:
    """Return the workers of a run, which start with its first rollouts."""
    check_portable(options=config)
    policy = check_memory(config.policy)
    alone = replace(config, jobs=1, backend="local", progress=None, policy=policy)
    work = functools.partial(_run_share, EpisodeLoader(), alone)
    return SharePool(work, config.jobs, config.backend)


def _run_share(loader: EpisodeLoader, config: RolloutConfig, share: Share) -> ShareResult:
    reseed_policy(outer_generators(config.policy), config.noise.seed, share.number)
    config = replace(config, restore=share.restore, merge_rollouts=share.merge_rollouts)
    with Sampler(loader.read(share.refs), config) as sampler:
        sampler.allowance = share.allowance
        rollouts = None
        # A worker that raised no `Exception` would count as died.
        with contextlib.suppress(BudgetSpent):
            rollouts = sampler.run(share.requests)
            sampler.close_control()
        facts = sampler.restore_method, sampler.is_determined
        return ShareResult(rollouts, *facts, share.allowance, sampler.proof.controls)
