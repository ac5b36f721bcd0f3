"""`python -m benchmarks.replay`: what a batch replay costs, against stepping the bare environment with the same actions."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym

import trajrec
from benchmarks.scenarios import SCENARIOS, loop
from trajrec.replay import replay_episodes
from trajrec.replay.environments import make_by_id

REPEATS = 9


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
    """Record; step bare and replay, episode by episode in turn; print the median of the ratios."""
    for name, make, policy, n_steps, target in CASES:
        with tempfile.TemporaryDirectory() as folder:
            env = trajrec.record(make(), folder)
            loop(env, policy(env), n_steps)
            env.close()
            with trajrec.open(folder) as corpus:
                actions = [episode.actions for episode in corpus.episodes()]
                found = [pair for _ in range(REPEATS) for pair in _pairs(make, corpus, actions)]
        bare, ours = (statistics.median(times) * 1e6 for times in zip(*found, strict=True))
        ratio = statistics.median(ours / bare for bare, ours in found)
        goal = "" if target != target else f" (to reach: {target})"
        print(f"{name}: bare {bare:.2f}, replayed {ours:.2f} us/step: {ratio:.2f}x{goal}", flush=True)


def _pairs(make: Callable[[], Any], corpus: Any, actions: list[list[object]]) -> Iterator[tuple[float, float]]:
    """Yield the CPU time a step of each episode, in seconds: of stepping the environment, and of replaying it with reading it.

    A machine that others use is slower now and then: what is compared lies some milliseconds apart. What it takes to open the
    corpus and to make an environment falls on the first episode alone, and so does not show in a median.
    """
    env = make()
    reports = replay_episodes(corpus.episodes())
    for k, taken in enumerate(actions):
        begin = time.process_time()
        env.reset(seed=0 if k == 0 else None)
        for action in taken:
            env.step(action)
        bare = time.process_time() - begin
        begin = time.process_time()
        report = next(reports)
        ours = time.process_time() - begin
        assert report.grade == "exact", report
        yield bare / len(taken), ours / len(taken)
    env.close()


if __name__ == "__main__":
    main()
