"""`python -m benchmarks.replay`: the cost of replaying, against stepping the bare environment.

Both take the same actions. The replay also reads the log and compares every step. Prints the CPU
time of each, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym

import trajrec
from benchmarks.scenarios import SCENARIOS, Policy, loop, random_policy
from trajrec.replay.execute.factories import make_by_id
from trajrec.replay.replayer import Replayer
from trajrec.types import Action, AnyEnv

N_PASSES = 7

# Episodes that are stepped, and then replayed, before the next ones. A machine that others use is
# slower for seconds at a time: whole passes one after the other gave ratios from 1.07 to 1.39
# within an hour, while two blocks of a few milliseconds are slowed alike.
BLOCK = 8


class Case(NamedTuple):
    """An environment with a policy, a number of steps, and the goal of the ratio (or None)."""

    name: str
    make: Callable[[], AnyEnv]
    policy: Callable[[AnyEnv], Policy]
    n_steps: int
    goal: float | None


class Pass(NamedTuple):
    """CPU times a step, in us."""

    bare_us: float
    replay_us: float


LONG_HOPPER = functools.partial(gym.make, "Hopper-v5", terminate_when_unhealthy=False)
SHORT_HOPPER = functools.partial(gym.make, "Hopper-v5")
BREAKOUT = functools.partial(make_by_id, "ALE/Breakout-v5")
LAKE = functools.partial(gym.make, "FrozenLake-v1")
TAXI = functools.partial(gym.make, "Taxi-v4")
PENDULUM = functools.partial(gym.make, "Pendulum-v1")
MINIGRID = functools.partial(make_by_id, "MiniGrid-Empty-8x8-v0")
HUMANOID = functools.partial(gym.make, "Humanoid-v5")
LONG_POLE = SCENARIOS[0]
SHORT_POLE = SCENARIOS[1]
CASES = (
    Case(LONG_POLE.name, LONG_POLE.make, LONG_POLE.policy, 60_000, 1.2),
    Case(SHORT_POLE.name, SHORT_POLE.make, SHORT_POLE.policy, 20_000, None),
    Case("Hopper, 1000-step episodes", LONG_HOPPER, random_policy, 32_000, 1.1),
    Case("Hopper, ~23-step episodes", SHORT_HOPPER, random_policy, 3_000, None),
    Case("ALE Breakout RGB", BREAKOUT, random_policy, 8_000, 1.2),
    Case("FrozenLake, ~8-step episodes", LAKE, random_policy, 10_000, None),
    Case("Taxi, 200-step episodes", TAXI, random_policy, 30_000, None),
    Case("Pendulum, 200-step episodes", PENDULUM, random_policy, 30_000, 1.4),
    Case("MiniGrid Empty-8x8, 256-step episodes", MINIGRID, random_policy, 16_000, 1.4),
    Case("Humanoid, ~23-step episodes", HUMANOID, random_policy, 2_000, 1.4),
)


def main() -> None:
    """Print the times and ratios of each case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--passes", type=int, default=N_PASSES)
    parser.add_argument("--case", type=int, nargs="*", default=list(range(len(CASES))))
    arguments = parser.parse_args()
    for index in arguments.case:
        _print_case(CASES[index], arguments.passes)


def _print_case(case: Case, n_passes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = trajrec.record(case.make(), folder)
        loop(env, case.policy(env), case.n_steps)
        env.close()
        with trajrec.open(folder) as corpus:
            actions = [episode.actions for episode in corpus.episodes()]
            passes = [_measure_pass(case.make, corpus, actions) for _ in range(n_passes)]
    bare_us = statistics.median(one.bare_us for one in passes)
    replay_us = statistics.median(one.replay_us for one in passes)
    ratio = statistics.median(one.replay_us / one.bare_us for one in passes)
    goal = "" if case.goal is None else f" (goal: {case.goal})"
    print(
        f"{case.name}: bare {bare_us:.2f}, replayed {replay_us:.2f} us/step: {ratio:.2f}x{goal}",
        flush=True,
    )


def _measure_pass(
    make: Callable[[], AnyEnv], corpus: trajrec.Corpus, actions: list[list[Action]]
) -> Pass:
    """Step and replay all episodes once, block by block.

    The first block is not counted: during it the corpus is opened and the environment is made.
    """
    env = make()
    episodes = corpus.episodes()
    bare_s = 0.0
    replay_s = 0.0
    n_steps = 0
    with Replayer() as replayer:
        for first in range(0, len(actions), BLOCK):
            block = actions[first : first + BLOCK]
            begin = time.process_time()
            for episode_actions in block:
                env.reset(seed=0 if episode_actions is actions[0] else None)
                for action in episode_actions:
                    env.step(action)
            middle = time.process_time()
            recorded = itertools.islice(episodes, len(block))
            grades = [report.grade for report in replayer.replay_all(recorded)]
            end = time.process_time()
            assert grades == ["exact"] * len(block), grades
            if first:
                bare_s += middle - begin
                replay_s += end - middle
                n_steps += sum(map(len, block))
    env.close()
    return Pass(bare_s / n_steps * 1e6, replay_s / n_steps * 1e6)


if __name__ == "__main__":
    main()
