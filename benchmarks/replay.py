"""`python -m benchmarks.replay`: what a batch replay costs, against stepping the bare environment with the same actions."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym

import trajrec
from benchmarks.scenarios import SCENARIOS, loop
from trajrec.replay import replay_episodes
from trajrec.replay.environments import make_by_id

REPEATS = 25


def _random(env: Any) -> Callable[[Any], Any]:
    env.action_space.seed(0)
    return lambda _: env.action_space.sample()


LONG_HOPPER = functools.partial(gym.make, "Hopper-v5", terminate_when_unhealthy=False)
CASES: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any], int, float], ...] = (
    (SCENARIOS[0].name, SCENARIOS[0].make, SCENARIOS[0].policy, 60_000, 1.2),
    (SCENARIOS[1].name, SCENARIOS[1].make, SCENARIOS[1].policy, 20_000, float("nan")),
    ("Hopper, 1000-step episodes", LONG_HOPPER, _random, 5_000, 1.1),
    ("Hopper, ~23-step episodes", functools.partial(gym.make, "Hopper-v5"), _random, 3_000, float("nan")),
    ("ALE Breakout RGB", functools.partial(make_by_id, "ALE/Breakout-v5"), _random, 1_500, 1.2),
)
"""Name, environment, policy, steps, and the ratio to reach."""


def main() -> None:
    """Record, step bare, replay, interleaved; print the ratio of the medians."""
    for name, make, policy, n_steps, target in CASES:
        with tempfile.TemporaryDirectory() as folder:
            env = trajrec.record(make(), folder)
            loop(env, policy(env), n_steps)
            env.close()
            bare_s, ours_s = [], []
            with trajrec.open(folder) as corpus:
                actions = [episode.actions for episode in corpus.episodes()]
                for _ in range(REPEATS):
                    bare_s.append(_bare(make, actions))
                    begin = time.process_time()
                    grades = {report.grade for report in replay_episodes(corpus.episodes())}
                    ours_s.append(time.process_time() - begin)
                    assert grades == {"exact"}, grades
        bare, ours, n = statistics.median(bare_s), statistics.median(ours_s), sum(map(len, actions))
        goal = "" if target != target else f" (to reach: {target})"
        print(f"{name}: bare {bare / n * 1e6:.2f}, replayed {ours / n * 1e6:.2f} us/step: {ours / bare:.2f}x{goal}", flush=True)


def _bare(make: Callable[[], Any], actions: list[list[object]]) -> float:
    """Return the CPU time of making the environment and stepping it, in seconds."""
    begin = time.process_time()
    env = make()
    for k, episode in enumerate(actions):
        env.reset(seed=0 if k == 0 else None)
        for action in episode:
            env.step(action)
    env.close()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
