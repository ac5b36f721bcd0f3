"""Faults that were planted in episodes whose exact losses are known: is the decisive step right?

Three families of environments (chains, lakes, random decision processes) and two worlds of agents
(the bank, the shop), each with one fault, with two faults, and with faults that the policy may
repair. The right answer is that of `decisive_step` with the exact losses: the earliest step whose
loss is at least a third of the largest. Episodes that were lost by luck alone must stay undecided.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

import trajrec
from benchmarks import scratch_folder
from benchmarks.credit.processes import (
    STATES,
    ProcessEnv,
    ProcessPolicy,
    draw_process,
    truth_of_process,
)
from benchmarks.credit.tools import QUEUE, PlanPolicy, bank_episode, gambler, spoiled
from benchmarks.credit.truths import (
    Criterion,
    Truth,
    at_least,
    at_most,
    best_q,
    model_of,
    states,
    truth_of,
)
from trajrec.corpus.episode import Episode
from trajrec.envs import Shop
from trajrec.envs.shop_tasks import Call
from trajrec.envs.solved import SPOIL, WORK, FaultChain, RepairingPolicy
from trajrec.replay.credit import Budget, Decision, TabularPolicy, decisive_step
from trajrec.statistics.intervals import wilson
from trajrec.types import AnyEnv, FloatArray, Value

SHARE = 1 / 3
"""The share of the largest loss that `decisive_step` asks of the step that it names."""

LEAST_RIGHT = 0.97
"""Bar for the share of decisions that are right."""

MOST_DECIDED = 0.02
"""Bar for the share of episodes lost by luck alone that are decided."""

UNCLEAR = (0.25, 0.42)
"""Shares of the largest loss that are too near to it: an episode with such a step is left out."""

LUCK = "luck alone"
"""The family of episodes that no fault has lost."""

BUDGET = Budget(env_steps=100_000)

LIMIT = 60
"""Steps of an episode on a lake."""


class Planted(NamedTuple):
    """An episode with exact losses.

    Attributes:
        episode: The episode.
        policy: The policy that its actions are compared with.
        losses: V - Q of each recorded action, (T,) float64.
        make: Makes the environment; None for a world.
    """

    episode: Episode
    policy: Value
    losses: FloatArray
    make: Callable[[], AnyEnv] | None = None

    @property
    def answer(self) -> int | None:
        """The right step; None if it hangs on a loss near the share, or if there is no loss."""
        largest = float(self.losses.max())
        if largest < 1e-9:
            return None
        shares = self.losses / largest
        if np.any((shares > UNCLEAR[0]) & (shares < UNCLEAR[1])):
            return None
        return int(np.flatnonzero(shares >= SHARE)[0])

    def decide(self, seed: int) -> Decision:
        """Search for the decisive step."""
        options: dict[str, Any] = {} if self.make is None else {"env": self.make}
        return decisive_step(
            self.episode, self.policy, seed=seed, budget=BUDGET, folder=None, **options
        )


def chains(rng: np.random.Generator, *, n_faults: int, rate: float) -> Iterator[Planted]:
    """Yield, without end, chains of 16 to 63 steps; the policy repairs a fault at a rate per step."""
    policy = RepairingPolicy(rate)
    while True:
        size = int(rng.integers(16, 64))
        faults = rng.choice(size, n_faults, replace=False)
        env = trajrec.record(gym.make("trajrec/FaultChain-v0", size=size), scratch_folder())
        env.reset(seed=0)
        for step in range(size):
            env.step(SPOIL if step in faults else WORK)
        env.close()
        value = functools.partial(FaultChain(size=size).repairing_value, rate=rate)
        is_spoilt = [bool(np.any(faults < step)) for step in range(size + 1)]
        losses = [
            value(step, is_spoilt[step]) - value(step + 1, is_spoilt[step + 1])
            for step in range(size)
        ]
        yield Planted(_only(env), policy, np.array(losses))


def lakes(
    rng: np.random.Generator, *, n_faults: int, is_slippery: bool = True, epsilon: float
) -> Iterator[Planted]:
    """Yield, without end, lost episodes on lakes of random maps, with faults at random steps."""
    while True:
        desc = generate_random_map(4, seed=int(rng.integers(1 << 30)))
        make = functools.partial(
            gym.make,
            "FrozenLake-v1",
            desc=desc,
            is_slippery=is_slippery,
            max_episode_steps=LIMIT,
        )
        model = model_of(make())
        truth = truth_of(model, TabularPolicy.greedy(best_q(model), epsilon), LIMIT)
        # With some luck an episode ends before its fault, or is won in spite of it.
        for _ in range(20):
            faults = set(rng.choice(12, n_faults, replace=False).tolist())
            episode, n_planted = _play(make(), truth, faults, rng, lambda state: state)
            if n_planted == n_faults and sum(episode.rewards) == 0.0:
                yield Planted(episode, truth.policy, _losses(truth, episode, 0), make)
                break


def processes(rng: np.random.Generator, *, n_faults: int) -> Iterator[Planted]:
    """Yield, without end, lost episodes of random processes that end at their first reward."""
    make = functools.partial(ProcessEnv, "goal")
    while True:
        number = int(rng.integers(1 << 30))
        truth = truth_of_process(draw_process("goal", number))
        faults = set(rng.choice(15, n_faults, replace=False).tolist())
        env = make()
        episode, n_planted = _play(env, truth, faults, rng, lambda seen: seen % STATES, number)
        if n_planted == n_faults and sum(episode.rewards) == 0.0:
            losses = _losses(truth, episode, STATES * number)
            yield Planted(episode, ProcessPolicy("goal"), losses, make)


def _play(
    env: AnyEnv,
    truth: Truth,
    faults: set[int],
    rng: np.random.Generator,
    state_of: Callable[[Value], int],
    seed: int | None = None,
) -> tuple[Episode, int]:
    """Record an episode of a policy that takes the worst action at some steps.

    Returns:
        The episode, and how many of the faults it reached.
    """
    wrapped = trajrec.record(env, scratch_folder())
    observation, _ = wrapped.reset(seed=int(rng.integers(1 << 30)) if seed is None else seed)
    step = 0
    is_over = False
    while not is_over:
        action = truth.policy.act(observation, rng)
        if step in faults:
            action = int(np.argmin(truth.actions[step, state_of(observation)]))
        observation, _, terminated, truncated, _ = wrapped.step(action)
        is_over = terminated or truncated
        step += 1
    wrapped.close()
    return _only(wrapped), sum(fault < step for fault in faults)


def _losses(truth: Truth, episode: Episode, first: int) -> FloatArray:
    """Return V - Q of each action; observations are numbers of states, counted from `first`."""
    pairs = zip(states(episode), episode.actions, strict=False)
    return np.array(
        [-truth.advantage(k, state - first, int(action)) for k, (state, action) in enumerate(pairs)]
    )


def _only(env: Value) -> Episode:
    return next(trajrec.open(env.path.parent).episodes())


def shops(rng: np.random.Generator, *, n_faults: int, rate: float) -> Iterator[Planted]:
    """Yield, without end, the shop's longest task with spoilt calls; each alone loses it."""
    seed = int(rng.integers(1 << 20))
    while True:
        seed += 1
        plan = _plan(seed)
        writes = [k for k, (name, _) in enumerate(plan) if not name.startswith(("get", "read"))]
        bad = {int(k): spoiled(plan[k], rng) for k in rng.choice(writes, n_faults, replace=False)}
        if all(_is_lost(seed, plan, {fault: call}) for fault, call in bad.items()):
            folder = scratch_folder()
            shop = Shop(seed=seed)
            with trajrec.episode(folder, task="queue", world=shop, options={"task": QUEUE}) as ep:
                _make_calls(ep.call, plan, bad)
                ep.stop("done", claimed_done=True)
            trajrec.close_logs()
            episode = next(trajrec.open(folder).episodes())
            yield Planted(episode, PlanPolicy(plan, rate), _plan_losses(len(plan), set(bad), rate))


def _plan(seed: int) -> list[Call]:
    """Return the calls that solve the shop's longest task."""
    shop = Shop(seed=seed)
    shop.reset(options={"task": QUEUE})
    # Without `finish`: the episode ends by itself.
    return shop.ground_truth_calls()[:-1]


def _is_lost(seed: int, plan: Sequence[Call], bad: dict[int, Call]) -> bool:
    shop = Shop(seed=seed)
    shop.reset(options={"task": QUEUE})
    _make_calls(lambda name, **arguments: getattr(shop, name)(**arguments), plan, bad)
    return not shop.task_solved()


def _make_calls(make: Callable[..., Value], plan: Sequence[Call], bad: dict[int, Call]) -> None:
    for step, call in enumerate(plan):
        name, arguments = bad.get(step, call)
        # The shop refuses most of the bad ones.
        with contextlib.suppress(Exception):
            make(name, **arguments)


def _plan_losses(size: int, faults: set[int], rate: float) -> FloatArray:
    """Return the loss of each call of a plan, for a policy that repairs at a rate per step."""

    @functools.cache
    def value(position: int, n_missing: int) -> float:
        if not n_missing:
            return 1.0
        # When the plan is done, a step without a repair is the last one.
        after = value(position + 1, n_missing) if position < size else 0.0
        return rate * value(position, n_missing - 1) + (1 - rate) * after

    losses = []
    n_missing = 0
    for step in range(size):
        before = value(step, n_missing)
        n_missing += step in faults
        losses.append(before - value(step + 1, n_missing))
    return np.array(losses)


def banks() -> Iterator[Planted]:
    """Yield, without end, the bank, in which the choice of the amount loses half."""
    while True:
        yield Planted(bank_episode(), gambler, np.array([0.0, 0.5, 0.0]))


class Answered(NamedTuple):
    """What counts of a `Decision`, which may take a megabyte, and the right answer.

    Attributes:
        answer: The right step; -1 of an episode that was lost by luck alone.
    """

    step: int | None
    likeliest: int | None
    confidence: float | None
    answer: int


class Tally:
    """Counts decisions, and compares their probabilities with how often they were right."""

    def __init__(self) -> None:
        self.n_decided = 0
        self.n_right = 0
        self._stated: list[float] = []
        self._hits: list[bool] = []

    def add(self, answered: Answered) -> None:
        """Count a decision."""
        if answered.step is not None:
            self.n_decided += 1
            self.n_right += answered.step == answered.answer
        if answered.confidence is not None:
            self._stated.append(answered.confidence)
            self._hits.append(answered.likeliest == answered.answer)

    @property
    def share(self) -> float:
        """The share of right answers of those decided."""
        return self.n_right / self.n_decided if self.n_decided else 1.0

    def deciles(self) -> Iterator[Criterion]:
        """Yield whether the interval of each decile's share of hits holds the mean probability."""
        stated = np.array(self._stated)
        hits = np.array(self._hits, float)
        order = np.argsort(stated, kind="stable")
        for part in np.array_split(order, 10):
            if not len(part):
                continue
            mean = float(stated[part].mean())
            interval = wilson(hits[part], 0.99)
            yield Criterion(
                f"{len(part)} decisions with a mean probability of {mean:.3f}: right",
                interval.value,
                f"its 99 % interval, [{interval.ci_low:.3f}, {interval.ci_high:.3f}], holds it",
                interval.ci_low <= mean <= interval.ci_high,
            )


def families(seed: int) -> dict[str, Iterator[Planted]]:
    """Return the cases of each family, without end."""
    numbers = itertools.count()

    def rng() -> np.random.Generator:
        return np.random.default_rng([seed, next(numbers)])

    return {
        "chain, final fault": chains(rng(), n_faults=1, rate=0.0),
        "chain, two faults": chains(rng(), n_faults=2, rate=0.05),
        "chain, recoverable": chains(rng(), n_faults=1, rate=0.02),
        "firm lake, one fault": lakes(rng(), n_faults=1, is_slippery=False, epsilon=0.02),
        "slippery lake, two faults": lakes(rng(), n_faults=2, epsilon=0.05),
        "slippery lake, recoverable": lakes(rng(), n_faults=1, epsilon=0.05),
        "process, one fault": processes(rng(), n_faults=1),
        "process, two faults": processes(rng(), n_faults=2),
        "shop, final fault": shops(rng(), n_faults=1, rate=0.0),
        "shop, two faults": shops(rng(), n_faults=2, rate=0.05),
        "shop, recoverable": shops(rng(), n_faults=1, rate=0.1),
        "bank": banks(),
    }


def _answered(name: str, n: int, seed: int) -> list[Answered]:
    """Search the cases of a family; `LUCK` is that of episodes that were lost by luck alone."""
    if name == LUCK:
        cases = lakes(np.random.default_rng([seed, 1000]), n_faults=0, epsilon=0.0)
    else:
        cases = (case for case in families(seed)[name] if case.answer is not None)
    found = []
    for k, case in enumerate(itertools.islice(cases, n)):
        assert (case.answer is None) == (name == LUCK), "the policy's own actions lose nothing"
        decision = case.decide(seed + k)
        answer = -1 if case.answer is None else case.answer
        found.append(Answered(decision.step, decision.likeliest, decision.confidence, answer))
    return found


def planted(
    n: int = 125, n_luck: int = 300, *, seed: int = 0, jobs: int = 2
) -> Iterator[Criterion]:
    """Yield how many decisions are right: 1,500 cases by default.

    Args:
        n: Cases of each family.
        n_luck: Episodes that were lost by luck alone.
        seed: Seed of the cases and of the searches.
        jobs: Processes, which share the families.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        running = {name: pool.submit(_answered, name, n, seed) for name in families(seed)}
        lucky = pool.submit(_answered, LUCK, n_luck, seed)
        yield from _judged({name: one.result() for name, one in running.items()}, n)
        n_decided = sum(one.step is not None for one in lucky.result())
    most = math.ceil(MOST_DECIDED * n_luck)
    yield at_most(f"planted: decided, of {n_luck} lost by luck alone", n_decided, most)


def _judged(answered: dict[str, list[Answered]], n: int) -> Iterator[Criterion]:
    """Yield how many decisions of each family are right, and whether the probabilities hold."""
    all_cases = Tally()
    for name, cases in answered.items():
        tally = Tally()
        for case in cases:
            tally.add(case)
            all_cases.add(case)
        # The bar is that of all families: one alone is small.
        yield at_least(f"{name}: right, of {tally.n_decided} decided of {n}", tally.share, 0.0)
    name = f"planted: right, of {all_cases.n_decided} decided"
    yield at_least(name, all_cases.share, LEAST_RIGHT)
    yield from all_cases.deciles()
