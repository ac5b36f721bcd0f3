"""Rollouts: what comes of going on from a step under a policy, in a scenario.

Within one scenario everything is determined by step, state and what the policy remembers: rollouts that meet there go on as
one, and are not run twice. What they come to is the same, bit for bit, as if they were.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from trajrec.errors import AgentDivergedError
from trajrec.replay.credit.sampling.noise import Noise, PolicyNoise
from trajrec.replay.credit.sampling.simulator import Resample, Simulator, UnreplayableError
from trajrec.replay.forks.policies import Policy
from trajrec.values import codec

Status = Literal["ended", "cut", "unreplayable", "error"]
Script = tuple[tuple[int, Any], ...]
"""Actions that are taken instead of the policy's, by step, ascending."""


class Visit(NamedTuple):
    """One step of a rollout, for those who pool: where, what was done, what it paid."""

    step: int
    key: Hashable | None
    action: Any
    reward: float


class Rollout(NamedTuple):
    """What came of one rollout.

    Attributes:
        scenario: Whose noise it was under.
        episode_return: Sum of the rewards from its step on, discounted if that was asked for.
        score: What the check said at the end; None where there is none.
        length: Steps to the end.
        status: "ended"; "cut" at the step that is the last to be taken; "unreplayable" where a branch came to what cannot be
            done again; "error" where the environment raised, or the agent's loop did.
        coalesced_at: Step at which it met a rollout of its scenario and went on as that one; -1 where it met none.
        error: What was raised.
        env_steps: Steps of the environment that were taken for it: fewer than `length` where it met another.
        policy_calls: Actions that the policy was asked for.
        visits: Each step of it, where they are kept.
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

    @property
    def is_lost(self) -> bool:
        """Whether it says nothing: it is counted, and never taken for a failure."""
        return self.status in ("unreplayable", "error")


class _Tail(NamedTuple):
    """What a rollout came to from one of its nodes on."""

    episode_return: float
    score: float | None
    length: int
    status: Status
    error: str = ""


class RolloutRunner:
    """Runs rollouts on grounds; the scenarios are shared out among them, and keep to theirs.

    Args:
        grounds: One, or as many as a policy that is asked in batches is asked for at once.
        policy: What acts.
        noise: What it is put under.
        gamma: Discount per step, in [0, 1].
        max_steps: The step of the episode at which rollouts are cut.
        merge_rollouts: Whether rollouts that meet go on as one.
        keeps_visits: Whether to keep each step of each rollout, which is then run to its end.
        resample_hidden: What is done to a ground before each rollout: what the agent has not seen is drawn anew.
    """

    def __init__(
        self,
        grounds: Sequence[Simulator],
        policy: Policy,
        noise: Noise,
        *,
        gamma: float = 1.0,
        max_steps: int | None = None,
        merge_rollouts: bool = True,
        keeps_visits: bool = False,
        resample_hidden: Resample | None = None,
    ) -> None:
        self.grounds, self.policy, self.noise = list(grounds), policy, noise
        self.gamma, self.max_steps = gamma, max_steps
        self._memo: dict[Hashable, _Tail] | None = (
            {} if merge_rollouts and noise.mode != "fresh" and not keeps_visits else None
        )
        self._policy_noise = [PolicyNoise(noise.seed) for _ in self.grounds]
        self._memory = _Memory(policy)
        self._is_batched = len(self.grounds) > 1
        self._step = -1
        self._start_key: Hashable | None = None
        self._ahead: list[tuple[int, str]] = []
        self._has_moved = [False] * len(self.grounds)
        self._keeps_visits = keeps_visits
        self._resample, self._hidden_noise = resample_hidden, PolicyNoise(noise.seed, "hidden")

    def go(self, step: int, memory: Any = None) -> None:
        """Bring the grounds to a step; rollouts begin there from now on.

        Args:
            step: The step.
            memory: What the policy remembers there.
        """
        for ground in self.grounds:
            ground.go(step)
        self._has_moved = [False] * len(self.grounds)
        self._step = step
        self._memory.begin = memory
        self._start_key = (
            self._key_of_start() if self._memo is not None and self._resample is None else None
        )

    def _key_of_start(self) -> Hashable | None:
        """Return the key of where rollouts begin; None where it is not known, or is another one in each scenario."""
        ground = self.grounds[0]
        keys = []
        for scenario in (0, 1):
            ground.at(scenario, self._step)
            keys.append(ground.key())
        return keys[0] if keys[0] == keys[1] else None

    def run(
        self, scenarios: Iterable[int], script: Script = (), policy: Policy | None = None
    ) -> list[Rollout]:
        """Return a rollout for each scenario.

        Args:
            scenarios: Which.
            script: Actions to take instead of the policy's.
            policy: Acts at the first step in the other's place.
        """
        wanted = list(scenarios)
        self._ahead = _ahead(script) if self._memo is not None else []
        found: list[Rollout | None] = [None] * len(wanted)
        n = len(self.grounds)
        # By scenario, so that a ground has all rollouts that may meet, whatever was asked for before.
        queues = [
            [place for place, scenario in enumerate(wanted) if scenario % n == lane]
            for lane in range(n)
        ]
        if not self._is_batched:
            for place in queues[0]:
                found[place] = self._run_sequential(0, wanted[place], script, policy)
        else:
            self._run_batched(queues, wanted, script, policy, found)
        return [rollout for rollout in found if rollout is not None]

    def _run_sequential(
        self, lane: int, scenario: int, script: Script, first: Policy | None
    ) -> Rollout:
        course = self._rollout(lane, scenario, dict(script), first)
        act, at = self.policy.act, self._policy_noise[lane].at
        try:
            asked = next(course)
            while True:
                step, observation, policy = asked
                generator = at(scenario, step)
                asked = course.send(
                    act(observation, generator)
                    if policy is None
                    else policy.act(observation, generator)
                )
        except StopIteration as stop:
            rollout: Rollout = stop.value
            return rollout

    def _run_batched(
        self,
        queues: list[list[int]],
        wanted: list[int],
        script: Script,
        first: Policy | None,
        found: list[Rollout | None],
    ) -> None:
        """Run one rollout on each ground at a time; ask the policy once a round for all that are alive."""
        act_batch = self.policy.act_batch  # type: ignore[attr-defined]
        courses: dict[int, tuple[int, Any]] = {}
        asked: dict[int, Any] = {}

        def advance(lane: int, course: Any, place: int, action: Any) -> bool:
            try:
                asked[lane] = next(course) if action is _NOTHING else course.send(action)
                courses[lane] = place, course
                return True
            except StopIteration as stop:
                found[place] = stop.value
                courses.pop(lane, None)
                asked.pop(lane, None)
                return False

        def begin(lane: int) -> None:
            while queues[lane]:
                place = queues[lane].pop(0)
                course = self._rollout(lane, wanted[place], dict(script), first)
                if advance(lane, course, place, _NOTHING):
                    return

        for lane in range(len(queues)):
            begin(lane)
        while courses:
            lanes = sorted(courses)
            rngs = [
                self._policy_noise[lane].at(wanted[courses[lane][0]], asked[lane][0])
                for lane in lanes
            ]
            alike = [k for k, lane in enumerate(lanes) if asked[lane][2] is None]
            actions: dict[int, Any] = {}
            if alike:
                answers = act_batch([asked[lanes[k]][1] for k in alike], [rngs[k] for k in alike])
                actions = dict(zip(alike, answers, strict=True))
            for k, lane in enumerate(lanes):
                place, course = courses[lane]
                action = actions[k] if k in actions else asked[lane][2].act(asked[lane][1], rngs[k])
                if not advance(lane, course, place, action):
                    begin(lane)

    def _rollout(
        self, lane: int, scenario: int, script: Mapping[int, Any], first: Policy | None
    ) -> Generator[tuple[int, Any, Policy | None], Any, Rollout]:
        """Run one rollout: yields (step, observation, policy) where it wants an action, returns what came of it."""
        ground = self.grounds[lane]
        if first is None and not script and self._start_key is not None and self._memo:
            self._memory.put()
            known = self._memo.get(
                (scenario, self._step, self._start_key, self._memory.key(ground.observation), "")
            )
            if (
                known is not None
            ):  # it was come through here before: the ground need not be put back for it
                return Rollout(scenario, *known[:4], self._step, known.error)
        if self._has_moved[lane]:
            ground.go_back()
        self._has_moved[lane] = True
        memory = self._memory
        memory.put()
        if first is not None and hasattr(first, "reset"):
            first.reset()
        start = step = self._step
        met: Hashable = scenario
        if self._resample is not None:
            ground.resample(self._resample, self._hidden_noise.at(scenario, 0))
            met = (
                scenario,
                start,
            )  # what is drawn anew at another step may be something else, out of sight of the state
        observation, is_over = ground.observation, False
        memo, ahead, n_passed = self._memo, self._ahead, 0
        visits: list[tuple[int, Hashable | None, Any]] = []
        nodes: list[Hashable | None] = []
        rewards: list[float] = []
        rest: _Tail | None = None
        coalesced_at, n_calls = -1, 0
        while not is_over:
            if self.max_steps is not None and step >= self.max_steps:
                rest = _Tail(0.0, ground.score(), 0, "cut")
                break
            ground.at(scenario, step)
            node: Hashable | None = None
            key = ground.key() if memo is not None or self._keeps_visits else None
            if memo is not None and key is not None and (first is None or step > start):
                while n_passed < len(ahead) and ahead[n_passed][0] < step:
                    n_passed += 1
                left = ahead[n_passed][1] if n_passed < len(ahead) else ""
                node = met, step, key, memory.key(observation), left
                rest = memo.get(node)
                if rest is not None:
                    coalesced_at = step
                    break
            if step in script:
                action = script[step]
                memory.observe(observation, action)
            else:
                is_other = first is not None and step == start
                action = yield step, observation, first if is_other else None
                n_calls += 1
                if is_other:
                    memory.observe(observation, action)
            if self._keeps_visits:
                visits.append((step, key, action))
            try:
                observation, reward, is_over = ground.step(action)
            except UnreplayableError as exc:
                rest = _Tail(0.0, None, 0, "unreplayable", str(exc))
                break
            except AgentDivergedError:
                raise  # it says nothing of what would have come of it
            except Exception as exc:
                rest = _Tail(0.0, None, 0, "error", f"{codec.type_name(exc)}: {exc}")
                break
            nodes.append(node)
            rewards.append(reward)
            step += 1
        if rest is None:
            rest = _Tail(0.0, ground.score(), 0, "ended")
        # From the back, so that the sum is the same float whether or not a part of it was known.
        for node, reward in zip(reversed(nodes), reversed(rewards), strict=True):
            rest = _Tail(
                reward + self.gamma * rest.episode_return,
                rest.score,
                rest.length + 1,
                rest.status,
                rest.error,
            )
            if node is not None and memo is not None and rest.status in ("ended", "cut"):
                memo[node] = rest
        came_to = rest.episode_return, rest.score, rest.length, rest.status
        seen = tuple(Visit(*visit, reward) for visit, reward in zip(visits, rewards, strict=False))
        return Rollout(scenario, *came_to, coalesced_at, rest.error, len(rewards), n_calls, seen)

    def is_determined(self, scenario: int) -> bool:
        """Say whether a scenario determines what happens: a rollout from this step comes out the same twice."""
        memo, keeps_visits = self._memo, self._keeps_visits
        self._memo, self._keeps_visits = None, True
        try:
            first, second = (self.run([scenario])[0] for _ in range(2))
            return came_out_alike(first, second)
        finally:
            self._memo, self._keeps_visits = memo, keeps_visits

    def forget(self) -> None:
        """From now on run each rollout to its end."""
        self._memo = None


def came_out_alike(a: Rollout, b: Rollout) -> bool:
    """Say whether two rollouts did the same, were paid the same and came to the same.

    In which states they were is not compared: wrappers know what time it is.
    """
    did, did_too = (
        [[visit.action, visit.reward] for visit in rollout.visits] for rollout in (a, b)
    )
    is_same = codec.encode(did, opaque=True, canonical=True) == codec.encode(
        did_too, opaque=True, canonical=True
    )
    return is_same and a._replace(visits=()) == b._replace(visits=())


def _ahead(script: Script) -> list[tuple[int, str]]:
    """Return for each step of a script a digest of what it has from there on: two rollouts go on as one only where that is the
    same."""
    found: list[tuple[int, str]] = []
    digest = ""
    for step, action in reversed(script):
        digest = codec.digest([step, action, digest])
        found.append((step, digest))
    return found[::-1]


_NOTHING = object()


class _Memory:
    """What a policy remembers, if it does.

    Attributes:
        begin: What it remembers where rollouts begin.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy: Any = policy
        self._remembers = hasattr(policy, "snapshot") and hasattr(policy, "restore")
        self._of_context = getattr(policy, "memory", None)
        self._key = getattr(policy, "memory_key", None)
        self.begin: Any = None

    def put(self) -> None:
        """Give it what it remembers where rollouts begin."""
        if self._remembers:
            self._policy.restore(self.begin)

    def observe(self, observation: Any, action: Any) -> None:
        """Tell it what was done without asking it."""
        if self._remembers:
            self._policy.observe(observation, action)

    def key(self, observation: Any) -> Hashable:
        """Return what it goes on by beyond the state, hashable: what it remembers, and what an agent has in its context."""
        own: Hashable = None
        if self._remembers:
            own = (
                codec.encode(self._policy.snapshot(), canonical=True)
                if self._key is None
                else self._key(observation)
            )
        if self._of_context is not None:
            return own, self._of_context(observation)
        return own, getattr(observation, "history_key", None)
