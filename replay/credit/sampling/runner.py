"""Run rollouts: a policy continues from a step, in given scenarios.

In one scenario the state, the step and the policy's memory determine everything that follows.
Rollouts that reach the same node are therefore merged: the second takes over the rest of the first.
The results are equal, bit for bit, to those of rollouts that are not merged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence

from trajrec.errors import AgentDivergedError, UnreplayableError
from trajrec.recording.error_text import message_of
from trajrec.replay.credit.sampling.allowance import Allowance
from trajrec.replay.credit.sampling.noise import Noise, PolicyNoise
from trajrec.replay.credit.sampling.policy_memory import PolicyMemory
from trajrec.replay.credit.sampling.policy_state import own_generators
from trajrec.replay.credit.sampling.rollout import (
    ForcedActions,
    Path,
    Rollout,
    Tail,
    Visit,
    digests_from,
)
from trajrec.replay.credit.sampling.simulator import Resample, Simulator
from trajrec.replay.forks.policies import Policy
from trajrec.types import Action, Observation
from trajrec.values import codec

ActionRequest = tuple[int, Observation, Policy | None]
"""A rollout's request for an action: step, observation, and the policy if not the main one."""

RolloutSteps = Generator[ActionRequest, Action, Rollout]


class _RunningRollout:
    """A rollout that waits for an action, in `_run_batched`."""

    def __init__(self, position: int, steps: RolloutSteps, request: ActionRequest) -> None:
        self.position = position
        self.steps = steps
        self.request = request


class RolloutRunner:
    """Runs rollouts on one simulator, or on several at the same time.

    Args:
        simulators: One, or as many as a policy with `act_batch` is asked for in one call. A
            scenario always runs on the same simulator, so that its rollouts can be merged.
        policy: The policy.
        noise: The randomness.
        gamma: Discount per step, in [0, 1].
        max_steps: The step of the episode at which rollouts are cut off.
        merge_rollouts: Whether rollouts that reach the same node are merged.
        keeps_visits: Whether each rollout keeps its steps. Rollouts are not merged then.
        resample_hidden: See `RolloutOptions`.

    Attributes:
        simulators: The simulators.
        policy: The policy.
        allowance: The cost that rollouts may still have.
    """

    def __init__(
        self,
        simulators: Sequence[Simulator],
        policy: Policy,
        noise: Noise,
        *,
        gamma: float = 1.0,
        max_steps: int | None = None,
        merge_rollouts: bool = True,
        keeps_visits: bool = False,
        resample_hidden: Resample | None = None,
    ) -> None:
        self.simulators = list(simulators)
        self.policy = policy
        self.allowance = Allowance()
        self._gamma = gamma
        self._max_steps = max_steps
        self._keeps_visits = keeps_visits
        self._resample_hidden = resample_hidden
        can_merge = merge_rollouts and noise.mode != "fresh" and not keeps_visits
        self._tails: dict[Hashable, Tail] | None = {} if can_merge else None
        self._memory = PolicyMemory(policy)
        own = own_generators(policy)
        self._policy_noise = [PolicyNoise(noise.seed, own=own) for _ in self.simulators]
        self._hidden_noise = PolicyNoise(noise.seed, "hidden")
        self._step = -1
        self._start_key: Hashable | None = None
        self._is_used = [False] * len(self.simulators)
        self._forced_digests: list[tuple[int, str]] = []

    def goto(self, step: int, memory: object = None) -> None:
        """Bring the simulators to a step; rollouts start there from now on.

        Args:
            step: The step.
            memory: The snapshot of the policy's memory at the step.
        """
        for simulator in self.simulators:
            simulator.goto(step)
        self._is_used = [False] * len(self.simulators)
        self._step = step
        self._memory.at_start = memory
        self._start_key = None
        if self._tails is not None and self._resample_hidden is None:
            self._start_key = self._key_at_start()

    def _key_at_start(self) -> Hashable | None:
        """Return the state's key at the start; None if it is unknown or depends on the scenario."""
        simulator = self.simulators[0]
        keys = []
        for scenario in (0, 1):
            simulator.seed(scenario, self._step)
            keys.append(simulator.state_key())
        return keys[0] if keys[0] == keys[1] else None

    def run(
        self,
        scenarios: Iterable[int],
        forced_actions: ForcedActions = (),
        first_policy: Policy | None = None,
    ) -> list[Rollout]:
        """Return a rollout for each scenario.

        Args:
            scenarios: The scenarios.
            forced_actions: Actions that are taken instead of the policy's.
            first_policy: A policy that chooses the first action instead.
        """
        order = list(scenarios)
        self._forced_digests = digests_from(forced_actions) if self._tails is not None else []
        results: list[Rollout | None] = [None] * len(order)
        n_slots = len(self.simulators)
        # By the scenario's number, not by its position: a scenario then has the same simulator in
        # every call, with the generators and states that its earlier rollouts left.
        queues = [
            [position for position, scenario in enumerate(order) if scenario % n_slots == slot]
            for slot in range(n_slots)
        ]
        if n_slots == 1:
            for position in queues[0]:
                steps = self._rollout(0, order[position], dict(forced_actions), first_policy)
                results[position] = self._run_sequential(steps, order[position])
        else:
            self._run_batched(queues, order, forced_actions, first_policy, results=results)
        return [rollout for rollout in results if rollout is not None]

    def _run_sequential(self, steps: RolloutSteps, scenario: int) -> Rollout:
        # Bound methods in local names: this loop runs for each step of each rollout.
        act = self.policy.act
        seed = self._policy_noise[0].seed
        try:
            step, observation, other_policy = next(steps)
            while True:
                rng = seed(scenario, step)
                action = (
                    act(observation, rng)
                    if other_policy is None
                    else other_policy.act(observation, rng)
                )
                step, observation, other_policy = steps.send(action)
        except StopIteration as stop:
            return _result_of(stop)

    def _run_batched(
        self,
        queues: list[list[int]],
        order: list[int],
        forced_actions: ForcedActions,
        first_policy: Policy | None,
        *,
        results: list[Rollout | None],
    ) -> None:
        """Run a rollout on each simulator; ask the policy once for all that wait for an action.

        Args:
            queues: For each slot the positions in `order` that it runs.
            order: The scenarios.
            forced_actions: See `run`.
            first_policy: See `run`.
            results: The list that is filled, by position.
        """
        act_batch = self.policy.act_batch  # type: ignore[attr-defined]
        running: dict[int, _RunningRollout] = {}

        def start_next(slot: int) -> None:
            while queues[slot]:
                position = queues[slot].pop(0)
                steps = self._rollout(slot, order[position], dict(forced_actions), first_policy)
                try:
                    running[slot] = _RunningRollout(position, steps, next(steps))
                    return
                except StopIteration as stop:  # merged at once
                    results[position] = _result_of(stop)

        for slot in range(len(queues)):
            start_next(slot)
        while running:
            slots = sorted(running)
            rngs = {
                slot: self._policy_noise[slot].seed(
                    order[running[slot].position], running[slot].request[0]
                )
                for slot in slots
            }
            asked = [slot for slot in slots if running[slot].request[2] is None]
            actions: dict[int, Action] = {}
            if asked:
                observations = [running[slot].request[1] for slot in asked]
                answers = act_batch(observations, [rngs[slot] for slot in asked])
                actions = dict(zip(asked, answers, strict=True))
            for slot in slots:
                rollout = running[slot]
                _, observation, other_policy = rollout.request
                if other_policy is not None:
                    actions[slot] = other_policy.act(observation, rngs[slot])
                try:
                    rollout.request = rollout.steps.send(actions[slot])
                except StopIteration as stop:
                    results[rollout.position] = _result_of(stop)
                    del running[slot]
                    start_next(slot)

    def _rollout(
        self, slot: int, scenario: int, forced: Mapping[int, Action], first_policy: Policy | None
    ) -> RolloutSteps:
        """Run one rollout: yield a request for each action, return the result."""
        tails = self._tails
        if first_policy is None and not forced and tails and self._start_key is not None:
            known = self._known_tail(scenario, slot, tails)
            if known is not None:
                # An earlier rollout passed here, so the environment need not even be restored.
                return Rollout(scenario, *known[:4], self._step, known.error)
        path = Path(self._begin(slot, scenario, first_policy))
        last = yield from self._follow(path, slot, scenario, forced, first_policy=first_policy)
        tail = self._extend(last, path.nodes, path.rewards)
        return Rollout(
            scenario=scenario,
            episode_return=tail.episode_return,
            score=tail.score,
            length=tail.length,
            status=tail.status,
            coalesced_at=path.coalesced_at,
            error=tail.error,
            env_steps=len(path.rewards),
            policy_calls=path.n_calls,
            # A visit whose step raised has no reward and is left out.
            visits=tuple(
                Visit(*visit, reward)
                for visit, reward in zip(path.visits, path.rewards, strict=False)
            ),
            noise_seen=self.simulators[slot].noise_seen(),
        )

    def _follow(
        self,
        path: Path,
        slot: int,
        scenario: int,
        forced: Mapping[int, Action],
        *,
        first_policy: Policy | None,
    ) -> Generator[ActionRequest, Action, Tail]:
        """Take the steps of a rollout and note them in `path`; return the rest after the last."""
        # Attributes in local variables: the loop runs for each step of each rollout.
        simulator = self.simulators[slot]
        memory = self._memory
        tails = self._tails
        needs_key = tails is not None or self._keeps_visits
        take = self.allowance.take
        start = step = self._step
        observation = simulator.observation
        is_over = False
        while not is_over:
            if self._max_steps is not None and step >= self._max_steps:
                return Tail(0.0, simulator.score(), 0, "cut")
            simulator.seed(scenario, step)
            state_key = simulator.state_key() if needs_key else None
            node: Hashable | None = None
            # Before the first policy's action the rest of the rollout depends on that policy too.
            is_first = first_policy is not None and step == start
            if tails is not None and state_key is not None and not is_first:
                ahead = self._digest_ahead(step)
                node = (path.merge_scope, step, state_key, memory.key(observation), ahead)
                tail = tails.get(node)
                if tail is not None:
                    path.coalesced_at = step
                    return tail
            take(step, step not in forced)
            if step in forced:
                action = forced[step]
                memory.observe(observation, action)
            else:
                action = yield step, observation, first_policy if is_first else None
                path.n_calls += 1
                if is_first:
                    memory.observe(observation, action)
            if self._keeps_visits:
                path.visits.append((step, state_key, action))
            try:
                observation, reward, is_over = simulator.step(action)
            except UnreplayableError as exc:
                return Tail(0.0, None, 0, "unreplayable", exc.what)
            except AgentDivergedError:
                raise  # the agent does not repeat its recorded part: there is nothing to estimate
            except Exception as exc:
                return Tail(0.0, None, 0, "error", f"{codec.type_name(exc)}: {message_of(exc)}")
            path.nodes.append(node)
            path.rewards.append(reward)
            step += 1
        return Tail(0.0, simulator.score(), 0, "ended")

    def _digest_ahead(self, step: int) -> str:
        """Return the digest of the forced actions from a step on, "" if there are none."""
        digests = self._forced_digests
        index = bisect_left(digests, (step, ""))
        return digests[index][1] if index < len(digests) else ""

    def _known_tail(self, scenario: int, slot: int, tails: dict[Hashable, Tail]) -> Tail | None:
        """Return the tail of an earlier rollout from the start; None if there is none."""
        self._memory.restore()
        policy_key = self._memory.key(self.simulators[slot].observation)
        return tails.get((scenario, self._step, self._start_key, policy_key, ""))

    def _begin(self, slot: int, scenario: int, first_policy: Policy | None) -> Hashable:
        """Bring everything to the start of a rollout; return the scope in which it may merge."""
        simulator = self.simulators[slot]
        if self._is_used[slot]:
            simulator.rewind()
        self._is_used[slot] = True
        self._memory.restore()
        if first_policy is not None and hasattr(first_policy, "reset"):
            first_policy.reset()
        if self._resample_hidden is None:
            return scenario
        simulator.resample(self._resample_hidden, self._hidden_noise.seed(scenario, 0))
        # Rollouts from another step may have other hidden facts, which a state key need not show.
        return scenario, self._step

    def _extend(self, tail: Tail, nodes: list[Hashable | None], rewards: list[float]) -> Tail:
        """Return the tail from the first node on; keep the tail of each node for later rollouts.

        The sum is computed from the back. It is then the same float whether or not a part of it was
        taken over from another rollout.
        """
        tails = self._tails
        gamma = self._gamma
        for node, reward in zip(reversed(nodes), reversed(rewards), strict=True):
            tail = Tail(
                reward + gamma * tail.episode_return,
                tail.score,
                tail.length + 1,
                tail.status,
                tail.error,
            )
            if node is not None and tails is not None and tail.status in ("ended", "cut"):
                tails[node] = tail
        return tail

    def run_apart(self, scenario: int) -> Rollout:
        """Run a rollout that is not merged with others, and keep its steps."""
        tails = self._tails
        keeps_visits = self._keeps_visits
        self._tails = None
        self._keeps_visits = True
        try:
            return self.run([scenario])[0]
        finally:
            self._tails = tails
            self._keeps_visits = keeps_visits

    def act_once(self, scenario: int, observation: Observation) -> None:
        """Ask the policy for an action that is not taken."""
        self.policy.act(observation, self._policy_noise[0].seed(scenario, self._step))

    def stop_merging(self) -> bool:
        """Run each rollout to its end from now on; return whether any may have been merged."""
        has_tails = bool(self._tails)
        self._tails = None
        return has_tails


def _result_of(end: StopIteration) -> Rollout:
    """Return the rollout that its steps have ended with.

    Raises:
        RuntimeError: The policy has raised StopIteration itself. That would pass for an end.
    """
    if isinstance(end.value, Rollout):
        return end.value
    raise RuntimeError("the policy raised StopIteration instead of choosing an action") from end
