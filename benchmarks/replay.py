"""`python -m benchmarks.replay`: what a batch replay costs, against stepping the bare environment with the same actions."""

from __future__ import annotations

import statistics
import tempfile
import time

import gymnasium as gym

import trajrec
from benchmarks.scenarios import SCENARIOS, loop
from trajrec.replay import replay_episodes


def main() -> None:
    """Record, step bare, replay, interleaved; print the ratio."""
    for scenario in SCENARIOS[:2]:
        with tempfile.TemporaryDirectory() as folder:
            env = trajrec.record(scenario.make(), folder)
            loop(env, scenario.policy(env), 20_000)
            env.close()
            bare_s, ours_s = [], []
            with trajrec.open(folder) as corpus:
                actions = [episode.actions for episode in corpus.episodes()]
                for _ in range(7):
                    bare_s.append(_bare(actions))
                    begin = time.process_time()
                    grades = {report.grade for report in replay_episodes(corpus.episodes())}
                    ours_s.append(time.process_time() - begin)
                    assert grades == {"exact"}, grades
        bare, ours = statistics.median(bare_s), statistics.median(ours_s)
        n = sum(map(len, actions))
        print(f"{scenario.name}: bare {bare / n * 1e6:.2f}, replayed {ours / n * 1e6:.2f} us/step: {ours / bare:.2f}x")
    print("to reach: 1.3x")


def _bare(actions: list[list[object]]) -> float:
    env = gym.make("CartPole-v1")
    begin = time.process_time()
    for k, episode in enumerate(actions):
        env.reset(seed=0 if k == 0 else None)
        for action in episode:
            env.step(action)
    return time.process_time() - begin


if __name__ == "__main__":
    main()
