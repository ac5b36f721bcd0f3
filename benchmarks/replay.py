"""`python -m benchmarks.replay`: what a batch replay costs, against stepping the bare environment with the same actions."""

from __future__ import annotations

import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym

import trajrec
from benchmarks.scenarios import SCENARIOS, loop
from trajrec.replay.execute.factories import make_by_id
from trajrec.replay.replayer import Replayer

REPEATS = 7

TURN = 8
"""Episodes that are stepped, and then replayed, before the next."""


def _random(env: Any) -> Callable[[Any], Any]:
    env.action_space.seed(0)
    return lambda _: env.action_space.sample()


LONG_HOPPER = functools.partial(gym.make, "Hopper-v5", terminate_when_unhealthy=False)
CASES: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any], int, float], ...] = (
    (SCENARIOS[0].name, SCENARIOS[0].make, SCENARIOS[0].policy, 60_000, 1.2),
    (SCENARIOS[1].name, SCENARIOS[1].make, SCENARIOS[1].policy, 20_000, float("nan")),
    ("Hopper, 1000-step episodes", LONG_HOPPER, _random, 32_000, 1.1),
    (
        "Hopper, ~23-step episodes",
        functools.partial(gym.make, "Hopper-v5"),
        _random,
        3_000,
        float("nan"),
    ),
    ("ALE Breakout RGB", functools.partial(make_by_id, "ALE/Breakout-v5"), _random, 8_000, 1.2),
)
"""Name, environment, policy, steps, and the ratio to reach."""


def main() -> None:
    """Record; step bare and replay in turn, a few episodes at a time; print the medians of the passes, and of their ratios."""
    for name, make, policy, n_steps, target in CASES:
        with tempfile.TemporaryDirectory() as folder:
            env = trajrec.record(make(), folder)
            loop(env, policy(env), n_steps)
            env.close()
            with trajrec.open(folder) as corpus:
                actions = [episode.actions for episode in corpus.episodes()]
                passes = [_pass(make, corpus, actions) for _ in range(REPEATS)]
        bare, ours = (statistics.median(times) * 1e6 for times in zip(*passes, strict=True))
        ratio = statistics.median(ours / bare for bare, ours in passes)
        goal = "" if target != target else f" (to reach: {target})"
        print(
            f"{name}: bare {bare:.2f}, replayed {ours:.2f} us/step: {ratio:.2f}x{goal}", flush=True
        )


def _pass(make: Callable[[], Any], corpus: Any, actions: list[list[object]]) -> tuple[float, float]:
    """Return the CPU time a step, in seconds: of stepping the environment, and of replaying it with reading and comparing.

    A machine that others use is slower now and then: some episodes are stepped, then the same are replayed, so that what is
    compared lies some milliseconds apart. The first of them are not counted: with them the corpus is opened and the environment
    made.
    """
    env, episodes = make(), corpus.episodes()
    times, n_steps = [0.0, 0.0], 0
    with Replayer() as replayer:
        for first in range(0, len(actions), TURN):
            some = actions[first : first + TURN]
            begin = time.process_time()
            for taken in some:
                env.reset(seed=0 if taken is actions[0] else None)
                for action in taken:
                    env.step(action)
            middle = time.process_time()
            grades = [
                report.grade
                for report in replayer.replay_all(itertools.islice(episodes, len(some)))
            ]
            end = time.process_time()
            assert grades == ["exact"] * len(some), grades
            if first:
                times[0] += middle - begin
                times[1] += end - middle
                n_steps += sum(map(len, some))
    env.close()
    return times[0] / n_steps, times[1] / n_steps


if __name__ == "__main__":
    main()
