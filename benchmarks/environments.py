"""`python -m benchmarks.environments [OUT.md]`: 28 environments, each recorded, replayed in another process, and forked at each
method that it grants; a table of what holds and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import trajrec
from trajrec.replay import check_determinism, fork_many
from trajrec.replay.execute.factories import make_by_id
from trajrec.values.diff import is_same

ENVIRONMENTS = {
    "classic control": ("CartPole-v1", "MountainCar-v0", "Pendulum-v1", "Acrobot-v1"),
    "toy text": ("Blackjack-v1", "FrozenLake-v1", "CliffWalkingSlippery-v1", "Taxi-v4"),
    "Box2D": ("LunarLander-v3", "BipedalWalker-v3", "BipedalWalkerHardcore-v3", "CarRacing-v3"),
    "MuJoCo": (
        "Hopper-v5",
        "HalfCheetah-v5",
        "Swimmer-v5",
        "Pusher-v5",
        "InvertedDoublePendulum-v5",
        "Ant-v5",
        "Humanoid-v5",
    ),
    "ALE": (
        "ALE/Breakout-v5",
        "ALE/Pong-v5",
        "ALE/MontezumaRevenge-v5",
        "ale_py:BreakoutNoFrameskip-v4",
        "ale_py:Breakout-v4",
    ),
    "MiniGrid": (
        "MiniGrid-DoorKey-8x8-v0",
        "MiniGrid-Dynamic-Obstacles-8x8-v0",
        "MiniGrid-MultiRoom-N4-S5-v0",
        "BabyAI-GoToLocal-v0",
    ),
}
EPISODES, STEPS, FORKS, CONTINUED = 20, 400, 5, 200
SHORT = {"CarRacing-v3": (20, 60)}

REPLAY = """
import collections, sys, trajrec
with trajrec.open(sys.argv[1]) as corpus:
    print(dict(collections.Counter(r.grade for r in trajrec.replay.replay_episodes(corpus.episodes(kind='all')))))
"""
METHODS = ("reexecute", "snapshot", "pickle", "os_fork")


def main() -> None:
    """Print the table, and write it where the command says."""
    lines = [
        "| environment | replayed | "
        + " | ".join(METHODS)
        + " | step, µs | reset, µs | take, µs | restore, µs | fork, µs |",
        "|---|---|" + "---|" * (len(METHODS) + 5),
    ]
    for names in ENVIRONMENTS.values():
        for env_id in names:
            lines.append(_line(env_id))
            print(lines[-1], flush=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text("\n".join(lines) + "\n")


def _line(env_id: str) -> str:
    n_episodes, n_steps = SHORT.get(env_id, (EPISODES, STEPS))
    report = check_determinism(env_id, n_steps=min(300, n_steps))
    with tempfile.TemporaryDirectory() as folder:
        _record(env_id, Path(folder), n_episodes, n_steps)
        done = subprocess.run(
            [sys.executable, "-c", REPLAY, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "7"},
        )
        grades = (
            done.stdout.strip().splitlines()[-1]
            if done.stdout
            else done.stderr.strip().splitlines()[-1]
        )
        with trajrec.open(folder) as corpus:
            marks = {name: _mark(corpus, name, report.restore[name].is_granted) for name in METHODS}
    cheap = next(
        (
            report.restore[name]
            for name in ("snapshot", "pickle")
            if report.restore[name].is_granted
        ),
        None,
    )
    process = report.restore["os_fork"].take_us
    costs = [
        f"{report.step_us:.0f}",
        f"{report.reset_us:.0f}",
        "" if cheap is None else f"{cheap.take_us:.0f}",
        "" if cheap is None else f"{cheap.restore_us:.0f}",
        "" if process is None else f"{process:.0f}",
    ]
    return (
        f"| {env_id} | {grades.strip('{}').replace(chr(39), '')} | "
        + " | ".join([*marks.values(), *costs])
        + " |"
    )


def _record(env_id: str, folder: Path, n_episodes: int, n_steps: int) -> None:
    env = trajrec.record(make_by_id(env_id), folder)
    env.action_space.seed(0)
    for k in range(n_episodes):
        env.reset(seed=0 if k == 0 else None)
        for _ in range(n_steps):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
    env.close()


def _mark(corpus: Any, method: str, is_granted: bool) -> str:
    """Fork at random steps and take the recorded actions: the same for up to 200 further steps, or "no"."""
    if not is_granted:
        return "no"
    draw, n_same, n_forks = np.random.default_rng(0), 0, 0
    for episode in list(corpus.episodes(order_by="n_steps DESC"))[:1]:
        for step in sorted({int(k) for k in draw.integers(0, episode.n_steps, FORKS)}):
            actions = episode.actions[step : step + CONTINUED]
            (branch,) = fork_many(
                episode, at=[step], actions=actions, restore=method, noise="recorded"
            )
            child = corpus.episode(branch.episode_id)
            n_forks += 1
            n = len(actions)
            n_same += (
                is_same(child.observation_values, episode.observation_values[step : step + n + 1])
                and is_same(child.reward_values, episode.reward_values[step : step + n])
                and is_same(child.infos, episode.infos[step : step + n])
            )
    return f"{n_same}/{n_forks}"


if __name__ == "__main__":
    main()
