"""Probes: rollouts that are wanted, at which steps and in which scenarios; run here, by other processes, or as Ray tasks.

What comes back does not depend on where they ran, nor on how steps were reached.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.errors import ReplayError
from trajrec.replay.credit.sampling.context import Recording
from trajrec.replay.credit.sampling.noise import Noise
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.rollout import Rollout, RolloutRunner, Script, came_out_alike
from trajrec.replay.credit.sampling.simulator import (
    EnvSimulator,
    OneShotSimulator,
    RecordedNoise,
    Simulator,
    recorded_noise,
)
from trajrec.replay.credit.sampling.tool_world import WorldSimulator
from trajrec.replay.execute.reach import EnvHandle, check_step
from trajrec.replay.forks.dispatch import check_portable, results
from trajrec.replay.forks.fork_server import BranchLost, ForkJob
from trajrec.replay.forks.options import RestoreMethod
from trajrec.replay.forks.policies import Policy, as_policy
from trajrec.replay.forks.walker import cheapest_method
from trajrec.replay.processes.refs import EpisodeLoader, refs_with_ancestors
from trajrec.replay.processes.workers import WorkerDied, map_ordered

LANES = 32
"""Environments that a policy which is asked in batches has at most."""


class SampleRequest(NamedTuple):
    """Rollouts from one step.

    Attributes:
        step: Where they begin.
        scenarios: Whose noise they are under.
        script: Actions that are taken instead of the policy's, by step.
        policy: Acts at the first step in the other's place.
    """

    step: int
    scenarios: Sequence[int]
    script: Script = ()
    policy: Any = None


class Sampler:
    """Runs probes of one episode, and counts what they cost. A context manager.

    Args:
        episode: The episode.
        setting: What they share.

    Attributes:
        restore_method: How steps are reached; the option until the first rollout has run.
        is_determined: Whether a scenario determines what happens: where it does not, there is randomness that no scenario
            can be given, and the noise is fresh whatever was asked for.
    """

    def __init__(self, episode: Episode, setting: RolloutConfig) -> None:
        if episode.is_agent_episode and setting.noise.mode == "recorded":
            raise ValueError(
                "an agent's world has no recorded noise: take noise='shared' or 'fresh'"
            )
        if (
            episode.is_agent_episode
            and isinstance(setting.policy, str)
            and setting.policy == "random"
        ):
            raise ValueError(
                "an agent's world has no action space to draw from: give a function of a Context"
            )
        # Who is told of progress is here: no other process has them.
        self._progress, self._n_run, self._n_asked = setting.progress, 0, 0
        self.episode, self.setting = episode, replace(setting, progress=None)
        if not self.by_score and episode.agent_rewards:
            raise ValueError(
                f"each agent of episode {episode.id} has a reward of its own: say with success= what winning is"
            )
        self.restore_method: Any = setting.restore
        is_seeded = getattr(setting.policy, "is_seeded", True)
        self.is_determined = (
            not (episode.is_agent_episode and Recording(episode).has_told)
            if is_seeded is None
            else is_seeded
        )
        self._roller: RolloutRunner | None = None
        self._has_run = False
        self._memories: list[Any] | None = None

    @property
    def noise(self) -> str:
        """The noise that rollouts were really under."""
        return self.setting.noise.mode if self.is_determined else "fresh"

    @property
    def is_paired(self) -> bool:
        """Whether rollouts of two arms in one scenario have their noise in common."""
        return self.noise != "fresh"

    @property
    def by_score(self) -> bool:
        """Whether rollouts are worth what a check says of their end, rather than their return."""
        return self.setting.success is not None or self.episode.is_agent_episode

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._roller is not None:
            for ground in self._roller.grounds:
                ground.close()
            self._roller = None

    def run(self, probes: Sequence[SampleRequest]) -> list[list[Rollout]]:
        """Return the rollouts of each probe, by scenario as they were asked for.

        Raises:
            DivergenceError: The environment is not in the recorded state at a step: there is no credit to be had.
        """
        setting = self.setting
        for probe in probes:
            check_step(self.episode, probe.step)
        if not any(probe.scenarios for probe in probes):
            return [[] for _ in probes]
        self._n_asked = self._n_run + sum(len(probe.scenarios) for probe in probes)
        is_apart = setting.jobs > 1 or setting.backend == "ray"
        if self.restore_method == "auto" and not self.episode.is_agent_episode:
            steps = sorted({probe.step for probe in probes})
            n = max(len(probe.scenarios) for probe in probes)
            self.restore_method = cheapest_method(
                self.episode, lambda: setting.make_handle(self.episode), steps, n, setting.jobs
            )
        if self.restore_method == "os_fork":
            if self.episode.is_agent_episode:
                raise ValueError(
                    "restore must be 'auto', 'snapshot' or 'reexecute' for an agent's world, got 'os_fork'"
                )
            return self._in_forks(probes)
        return self._in_workers(probes) if is_apart else self._in_process(probes)

    def _tell(self, n: int) -> None:
        """Tell of so many more rollouts."""
        self._n_run += n
        if self._progress is not None:
            self._progress(self._n_run, self._n_asked)

    def score_at(self, step: int) -> float:
        """Return what the check says of the recorded state before a step; NaN where it says nothing."""
        if isinstance(self.setting.success, str):
            return float(
                self.episode.end is not None and getattr(self.episode.end, self.setting.success)
            )
        ground = self._grounds()[0]
        ground.go(step)
        score = ground.score()
        return float("nan") if score is None else score

    def _grounds(self) -> list[Simulator]:
        if self._roller is None:
            self._roller = make_roller(
                self.episode,
                self.setting,
                "reexecute" if self.restore_method == "os_fork" else self.restore_method,
                (),
            )
        return self._roller.grounds

    def _in_process(self, probes: Sequence[SampleRequest]) -> list[list[Rollout]]:
        roller = self._roller
        if roller is None:
            roller = self._roller = make_roller(
                self.episode, self.setting, self.restore_method, probes
            )
        found: list[list[Rollout]] = [[] for _ in probes]
        at = -1
        for place in sorted(range(len(probes)), key=lambda k: probes[k].step):
            probe = probes[place]
            if not probe.scenarios:
                continue  # another process has them
            if probe.step != at:
                roller.go(probe.step, self._memory(roller.policy, probe.step))
                is_first = at < 0 and not self._has_run
                at = probe.step
                if is_first and self.setting.noise.mode != "fresh":
                    self._has_run = True
                    self.is_determined = self.is_determined and roller.is_determined(
                        probe.scenarios[0]
                    )
                if not self.is_determined:
                    roller.forget()
            first = (
                None if probe.policy is None else as_policy(probe.policy, _space(roller.grounds[0]))
            )
            found[place] = roller.run(probe.scenarios, probe.script, first)
            self._tell(len(found[place]))
        self.restore_method = roller.grounds[0].restore_method
        return found

    def _in_workers(self, probes: Sequence[SampleRequest]) -> list[list[Rollout]]:
        """Share the scenarios out: those of one meet only each other."""
        setting = self.setting
        check_portable(setting=setting)
        n = setting.jobs
        shares = []
        for k in range(n):
            mine = [
                [u for i, u in enumerate(p.scenarios) if _owner(setting.noise, u, i, n) == k]
                for p in probes
            ]
            shares.append(
                [p._replace(scenarios=tuple(own)) for p, own in zip(probes, mine, strict=True)]
            )
        inner = replace(
            setting,
            jobs=1,
            backend="local",
            restore=self.restore_method,
            merge_rollouts=setting.merge_rollouts and self.is_determined,
        )
        work = functools.partial(
            _run_share, EpisodeLoader(), refs_with_ancestors(self.episode), inner
        )
        if setting.backend == "ray":
            from trajrec.replay.processes.ray import map_on_ray

            answers = map_on_ray(work, shares, n)
        else:
            answers = map_ordered(work, shares, n)
        merged: list[dict[int, Rollout]] = [{} for _ in probes]
        for answer in answers:
            if isinstance(answer, WorkerDied):
                raise ReplayError(f"rollouts were lost: {answer.why}", episode_id=self.episode.id)
            found, self.restore_method, is_determined = answer
            self.is_determined = self.is_determined and is_determined
            self._tell(sum(map(len, found)))
            for mine_, rollouts in zip(merged, found, strict=True):
                mine_.update({rollout.scenario: rollout for rollout in rollouts})
        return [
            [rollouts[u] for u in p.scenarios] for p, rollouts in zip(probes, merged, strict=True)
        ]

    def _in_forks(self, probes: Sequence[SampleRequest]) -> list[list[Rollout]]:
        """Fork a process for each rollout: the environment cannot be put back."""
        setting = self.setting
        check_portable(setting=setting)
        order = sorted(range(len(probes)), key=lambda k: probes[k].step)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for place in order:
            for which in range(len(probes[place].scenarios)):
                wanted.setdefault(probes[place].step, []).append((place, which))
        pairs = tuple(
            (step, index) for step in sorted(wanted) for index in range(len(wanted[step]))
        )
        memories = {step: self._memory(_policy_of(setting), step) for step in wanted}
        errand = _Errand(setting, list(probes), wanted, memories, _recorded(self.episode, setting))
        job = ForkJob(
            refs_with_ancestors(self.episode),
            setting.make,
            setting.allow,
            setting.state,
            pairs,
            errand,
            "os_fork",
            max(1, setting.jobs),
        )
        if not self._has_run:
            self._has_run = True
            if not _is_determined(job, errand):
                # What is drawn beside the generators that are keyed, forked processes have copies of: all would see one future.
                self.restore_method = "reexecute"
                self.is_determined = self.is_determined and setting.noise.mode == "fresh"
                return self.run(probes)
        found: list[list[Rollout]] = [[] for _ in probes]
        for result in results(job, 1):
            self._tell(1)
            place, which = wanted[result.step][result.index]
            if isinstance(result, BranchLost):
                scenario = probes[place].scenarios[which]
                found[place].append(Rollout(scenario, 0.0, None, 0, "error", -1, result.why))
                continue
            assert isinstance(result, _Rolled)
            found[place].append(result.rollout)
        return found

    def _memory(self, policy: Policy | None, step: int) -> Any:
        """Return what a policy remembers before a step, having been told of all before it."""
        remembering: Any = policy
        if policy is None or not hasattr(policy, "snapshot") or self.episode.is_agent_episode:
            return None  # an agent's context has all that there was
        if self._memories is None:
            remembering.reset()
            self._memories = [remembering.snapshot()]
            observations = self.episode.observation_values
            for observation, action in zip(observations, self.episode.actions, strict=False):
                remembering.observe(observation, action)
                self._memories.append(remembering.snapshot())
        return self._memories[step - self.episode.first_step]


def make_roller(
    episode: Episode, setting: RolloutConfig, restore: Any, probes: Sequence[SampleRequest]
) -> RolloutRunner:
    """Return a roller for an episode, with as many grounds as its policy is asked for at once."""
    recorded = _recorded(episode, setting)
    first = _ground(episode, setting, restore, recorded)
    policy = as_policy(setting.policy, _space(first))
    grounds = [first]
    if hasattr(policy, "act_batch") and not hasattr(policy, "snapshot"):
        n = min(LANES, max((len(probe.scenarios) for probe in probes), default=1))
        grounds += [_ground(episode, setting, restore, recorded) for _ in range(n - 1)]
    return RolloutRunner(
        grounds,
        policy,
        setting.noise,
        gamma=setting.gamma,
        max_steps=setting.last_step(episode),
        merge_rollouts=setting.merge_rollouts,
        keeps_visits=setting.keeps_visits,
        resample_hidden=setting.resample_hidden,
    )


def _ground(
    episode: Episode, setting: RolloutConfig, restore: Any, recorded: RecordedNoise
) -> Simulator:
    if episode.is_agent_episode:
        by_history = not hasattr(setting.policy, "memory")
        return WorldSimulator(
            episode,
            lambda: setting.make_world(episode),
            setting.noise,
            setting.success,
            by_history=by_history,
            is_prefix=restore == "reexecute",
        )
    return EnvSimulator(
        episode,
        lambda: setting.make_handle(episode),
        restore,
        setting.noise,
        setting.success,
        recorded,
    )


def _recorded(episode: Episode, setting: RolloutConfig) -> RecordedNoise:
    has_noise = setting.noise.mode == "recorded" and not episode.is_agent_episode
    return recorded_noise(episode, lambda: setting.make_handle(episode)) if has_noise else {}


def _space(ground: Any) -> Any:
    return getattr(ground, "action_space", None)


def _policy_of(setting: RolloutConfig) -> Policy | None:
    return setting.policy if hasattr(setting.policy, "snapshot") else None


def _owner(noise: Noise, scenario: int, place: int, n: int) -> int:
    return place % n if noise.mode == "fresh" else scenario % n


def _run_share(
    places: EpisodeLoader, lineage_: Any, setting: RolloutConfig, probes: list[SampleRequest]
) -> tuple[list[list[Rollout]], str, bool]:
    with Sampler(places.read(lineage_), setting) as prober:
        return prober.run(probes), prober.restore_method, prober.is_determined


def _is_determined(job: ForkJob, errand: _Errand) -> bool:
    """Say whether the first rollout of a job comes out the same twice, run in one process one after the other."""
    step, index = job.branches[0]
    twice = replace(
        errand,
        setting=replace(errand.setting, keeps_visits=True),
        wanted={step: [errand.wanted[step][index]] * 2},
    )
    first, second = results(
        replace(job, branches=((step, 0), (step, 1)), errand=twice, restore="reexecute"), 1
    )
    if not (isinstance(first, _Rolled) and isinstance(second, _Rolled)):
        return True  # a process that dies says nothing of that
    return came_out_alike(first.rollout, second.rollout)


@dataclass(frozen=True)
class _Rolled:
    """What one rollout in a process of its own came to."""

    step: int
    index: int
    rollout: Rollout


@dataclass(frozen=True)
class _Errand:
    """One rollout, in a process that was forked where it begins."""

    setting: RolloutConfig
    probes: list[SampleRequest]
    wanted: dict[int, list[tuple[int, int]]]
    memories: dict[int, Any]
    recorded: RecordedNoise

    def run(
        self,
        stage: EnvHandle,
        episode: Episode,
        step: int,
        index: int,
        observation: Any,
        restore: RestoreMethod,
    ) -> _Rolled:
        place, which = self.wanted[step][index]
        probe, setting = self.probes[place], self.setting
        ground = OneShotSimulator(
            episode, stage, setting.noise, setting.success, self.recorded, observation, restore
        )
        policy = as_policy(setting.policy, ground.action_space)
        roller = RolloutRunner(
            [ground],
            policy,
            setting.noise,
            gamma=setting.gamma,
            max_steps=setting.last_step(episode),
            merge_rollouts=False,
            keeps_visits=setting.keeps_visits,
            resample_hidden=setting.resample_hidden,
        )
        roller.go(step, self.memories.get(step))
        first = None if probe.policy is None else as_policy(probe.policy, ground.action_space)
        (rollout,) = roller.run([probe.scenarios[which]], probe.script, first)
        return _Rolled(step, index, rollout)
