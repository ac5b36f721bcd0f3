"""Coverage of the intervals of value, advantage and luck, by kind of return and number of rollouts.

`python -m benchmarks.credit coverage` prints a line for each cell: the share of intervals that hold
the exact number, their mean width beside the normal interval with the measured mean square error,
and the share of numbers without an interval. An interval that is missing is neither counted as
right nor as wrong.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from benchmarks.credit.processes import (
    STATES,
    Kind,
    ProcessEnv,
    ProcessPolicy,
    draw_process,
    truth_of_process,
)
from benchmarks.credit.truths import (
    Criterion,
    Truth,
    at_least,
    best_q,
    is_covered,
    model_of,
    record,
    states,
    toy,
    truth_of,
)
from trajrec.corpus.episode import Episode
from trajrec.replay.credit import Estimate, TabularPolicy, estimate
from trajrec.statistics.quantiles import normal_quantile
from trajrec.types import AnyEnv, FloatArray, Value

ESTIMATORS = ("value", "advantage", "luck")

LEAST_COVERAGE = 0.93

# Steps of each episode that are estimated: with 300 episodes, 2,400 intervals.
STEPS_OF_AN_EPISODE = 8

KINDS: tuple[Kind, ...] = ("binary", "goal", "ties", "gauss", "rare", "delay")


class Case(NamedTuple):
    """An episode with exact answers.

    Attributes:
        episode: The episode.
        make: Makes its environment.
        truth: The exact values.
        states: The number of the state before each step, and at the end.
        options: Further options of `estimate`.
    """

    episode: Episode
    make: Callable[[], AnyEnv]
    truth: Truth
    states: list[int]
    options: dict[str, Value]


class Row(NamedTuple):
    """An estimate and the exact number."""

    estimate: Estimate
    exact: float


def process_cases(kind: Kind, n: int, seed: int) -> Iterator[Case]:
    """Yield an episode of each of n random processes."""
    make = functools.partial(ProcessEnv, kind)
    for episode in record(make, ProcessPolicy(kind), n, seed=seed):
        assert episode.start is not None
        assert episode.start.seed is not None
        truth = truth_of_process(draw_process(kind, episode.start.seed))
        numbers = [observation % STATES for observation in states(episode)]
        yield Case(episode, make, truth, numbers, {})


def cliff_cases(n: int, seed: int) -> Iterator[Case]:
    """Yield episodes of the slippery cliff, cut at step 40."""
    limit = 40
    make, truth = toy("CliffWalkingSlippery-v1", 0.3, limit)
    for episode in record(make, truth.policy, n, seed=seed, max_steps=limit):
        yield Case(episode, make, truth, states(episode), {"max_steps": limit})


def taxi_cases(n: int, seed: int) -> Iterator[Case]:
    """Yield episodes of Taxi in rain, whose passenger may change their mind once."""
    make, truth, n_states = fickle_taxi(0.1)
    for episode in record(make, truth.policy, n, seed=seed):
        flags = _fickle_flags(episode, make())
        pairs = zip(states(episode), flags, strict=True)
        numbers = [state + n_states * flag for state, flag in pairs]
        yield Case(episode, make, truth, numbers, {})


def fickle_taxi(epsilon: float) -> tuple[Callable[[], AnyEnv], Truth, int]:
    """Return a maker of Taxi, rainy and fickle, its exact values, and the number of its states.

    The states of the values are doubled: in the second half the passenger will still change their
    mind, at the first move after they were picked up.
    """
    make = functools.partial(gym.make, "Taxi-v4", is_rainy=True, fickle_passenger=True)
    env: Value = make()
    model = model_of(env)
    policy = TabularPolicy.greedy(best_q(model), epsilon)
    n_states = len(model.rewards)
    bare = env.unwrapped
    transitions = np.zeros((2 * n_states, model.rewards.shape[1], 2 * n_states))
    transitions[:n_states, :, :n_states] = model.transitions
    for state in range(n_states):
        row, column, passenger, destination = bare.decode(state)
        for action in range(model.rewards.shape[1]):
            for after in np.flatnonzero(model.transitions[state, action]):
                chance = model.transitions[state, action, after]
                new_row, new_column, new_passenger, _ = bare.decode(int(after))
                has_moved = (new_row, new_column) != (row, column)
                if passenger != 4 or not has_moved:
                    transitions[n_states + state, action, n_states + after] += chance
                    continue
                others = [k for k in range(4) if k != destination]
                for other in others:
                    changed = bare.encode(new_row, new_column, new_passenger, other)
                    transitions[n_states + state, action, changed] += chance / len(others)
    table = np.array([policy.dist(state) for state in range(n_states)])
    doubled = TabularPolicy(np.vstack([table, table]))
    rewards = np.vstack([model.rewards, model.rewards])
    assert env.spec is not None
    truth = truth_of(model._replace(transitions=transitions, rewards=rewards), doubled, 200)
    truth.policy = policy
    return make, truth, n_states


def _fickle_flags(episode: Episode, env: AnyEnv) -> list[int]:
    """Return whether the passenger will still change their mind, before each step and at the end."""
    assert episode.start is not None
    env.reset(seed=episode.start.seed)
    bare: Value = env.unwrapped
    flags = [int(bare.fickle_step)]
    for action in episode.actions:
        env.step(action)
        flags.append(int(bare.fickle_step))
    return flags


def rows_of(case: Case, *, n_rollouts: int, noise: str, seed: int) -> list[Row]:
    """Return the estimates of some steps of an episode, each with the exact number."""
    episode = case.episode
    rng = np.random.default_rng(seed)
    n_steps = min(STEPS_OF_AN_EPISODE, episode.n_steps)
    steps = sorted(rng.choice(episode.n_steps, n_steps, replace=False).tolist())
    table = estimate(
        episode,
        case.truth.policy,
        n_rollouts=n_rollouts,
        steps=steps,
        noise=noise,  # type: ignore[arg-type]
        seed=seed,
        env=case.make,
        folder=None,
        **case.options,
    )
    return [Row(row, _exact(case, row)) for row in table if row.estimator in ESTIMATORS]


def _exact(case: Case, row: Estimate) -> float:
    step = row.step
    state = case.states[step]
    values = case.truth.values
    action_value = float(case.truth.actions[step, state, int(case.episode.actions[step])])
    if row.estimator == "value":
        return float(values[step, state])
    if row.estimator == "advantage":
        return action_value - float(values[step, state])
    is_over = step + 1 == case.episode.n_steps and case.episode.ending == "terminated"
    after = 0.0 if is_over else float(values[step + 1, case.states[step + 1]])
    return float(case.episode.rewards[step]) + after - action_value


def cell_criteria(name: str, rows: Sequence[Row]) -> Iterator[Criterion]:
    """Yield the criteria of a cell, by estimator."""
    by_estimator: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_estimator[row.estimate.estimator].append(row)
    for estimator, cell in by_estimator.items():
        known = [row for row in cell if math.isfinite(row.estimate.ci_low)]
        refused = 1 - len(known) / len(cell)
        if not known:
            yield at_least(f"{name}: {estimator}: all {len(cell)} refused", refused, 0.0)
            continue
        covered = float(np.mean([is_covered(row.estimate, row.exact) for row in known]))
        width = float(np.mean([row.estimate.ci_high - row.estimate.ci_low for row in known]))
        errors: FloatArray = np.array([row.estimate.value - row.exact for row in known])
        normal = 2 * normal_quantile(0.95) * math.sqrt(float(np.mean(errors**2)))
        ratio = width / normal if normal else 1.0
        yield at_least(
            f"{name}: {estimator}: width {ratio:.2f}, refused {refused:.3f}, of {len(cell)}: covers",
            covered,
            LEAST_COVERAGE,
        )


def coverage(
    n_episodes: int = 300,
    *,
    sizes: Sequence[int] = (8, 16, 64),
    families: Sequence[str] = (*KINDS, "cliff", "taxi"),
    noises: Sequence[str] = ("fresh", "shared"),
    seed: int = 0,
) -> Iterator[Criterion]:
    """Yield the coverage of each cell. All of it takes hours.

    Args:
        n_episodes: Episodes of each cell, with 8 steps each.
        sizes: Rollouts of an arm.
        families: Kinds of processes, "cliff" and "taxi".
        noises: Modes of the noise.
        seed: Seed of episodes and noise.
    """
    makers: dict[str, Value] = {"cliff": cliff_cases, "taxi": taxi_cases}
    makers |= {kind: functools.partial(process_cases, kind) for kind in KINDS}
    for family in families:
        cases = list(makers[family](n_episodes, seed))
        for n_rollouts in sizes:
            for noise in noises:
                rows = [
                    row
                    for k, case in enumerate(cases)
                    for row in rows_of(case, n_rollouts=n_rollouts, noise=noise, seed=seed + k)
                ]
                yield from cell_criteria(f"{family}, n={n_rollouts}, {noise}", rows)
