"""`python -m benchmarks.environments [OUT.md] [--only TEXT]`: 28 environments.

Each is recorded, replayed in another process, and forked with each method of restoring that it
supports. Prints a Markdown table: grades of the replays, forks that reproduce the recording out of
all forks, and times: CPU times, but for a fork, which is timed by the clock. Forks are compared with
the recorded episode, value by value.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.replay import check_determinism, fork_many
from trajrec.replay.execute.factories import make_by_id
from trajrec.replay.forks.options import RestoreChoice
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

N_EPISODES = 20
N_STEPS = 400
# A step of CarRacing takes milliseconds: its episodes, and steps an episode.
FEWER = {"CarRacing-v3": (20, 60)}
N_FORKS = 5
# A fork is compared with the recording for so many steps.
COMPARED_STEPS = 200

METHODS: tuple[RestoreChoice, ...] = ("reexecute", "snapshot", "pickle", "os_fork")

# Run by a process of its own, with another hash seed: a replay must not depend on either.
REPLAY = """
import collections, sys, trajrec
with trajrec.open(sys.argv[1]) as corpus:
    reports = trajrec.replay.replay_episodes(corpus.episodes())
    print(dict(collections.Counter(report.grade for report in reports)))
"""


def main() -> None:
    """Print the table, and write it to the file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.environments", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="only environments with this text in their id")
    arguments = parser.parse_args()
    # Others may work on the machine. Forks are timed in a process of their own, by the clock.
    time.perf_counter = time.process_time
    times = ("step, µs", "reset, µs", "take, µs", "restore, µs", "fork, µs")
    head = ("environment", "replayed", *METHODS, *times)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    print(*lines, sep="\n", flush=True)
    for env_ids in ENVIRONMENTS.values():
        for env_id in env_ids:
            if arguments.only in env_id:
                lines.append(_line(env_id))
                print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n")


def _line(env_id: str) -> str:
    """Return an environment's line of the table."""
    n_episodes, n_steps = FEWER.get(env_id, (N_EPISODES, N_STEPS))
    report = check_determinism(env_id, n_steps=min(300, n_steps))
    with tempfile.TemporaryDirectory() as folder:
        _record(env_id, Path(folder), n_episodes, n_steps)
        grades = _replay(folder)
        with trajrec.open(folder) as corpus:
            episode = next(corpus.episodes(order_by="n_steps DESC"))
            forks = [
                _fork(corpus, episode, method) if report.restore[method].is_granted else "no"
                for method in METHODS
            ]
    copies = [report.restore[method] for method in ("snapshot", "pickle")]
    copy = next((result for result in copies if result.is_granted), None)
    times = (
        report.step_us,
        report.reset_us,
        None if copy is None else copy.take_us,
        None if copy is None else copy.restore_us,
        report.restore["os_fork"].take_us,
    )
    cells = ["" if time_us is None else f"{time_us:.0f}" for time_us in times]
    return f"| {' | '.join([env_id, grades, *forks, *cells])} |"


def _record(env_id: str, folder: Path, n_episodes: int, n_steps: int) -> None:
    env = trajrec.record(make_by_id(env_id), folder)
    env.action_space.seed(0)
    for k in range(n_episodes):
        # Seeded once, as users do: later episodes need the recorded state of the generator.
        env.reset(seed=0 if k == 0 else None)
        for _ in range(n_steps):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
    env.close()


def _replay(folder: str) -> str:
    """Return the number of replays of each grade, or the last line of an error."""
    completed = subprocess.run(
        [sys.executable, "-c", REPLAY, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    output = completed.stdout or completed.stderr
    return output.strip().splitlines()[-1].strip("{}").replace("'", "")


def _fork(corpus: trajrec.Corpus, episode: Episode, method: RestoreChoice) -> str:
    """Fork at random steps, take the recorded actions; return how many forks are as recorded."""
    rng = np.random.default_rng(0)
    steps = sorted({int(step) for step in rng.integers(0, episode.n_steps, N_FORKS)})
    n_same = 0
    for step in steps:
        actions = episode.actions[step : step + COMPARED_STEPS]
        n = len(actions)
        (branch,) = fork_many(episode, at=[step], actions=actions, restore=method, noise="recorded")
        assert branch.episode_id is not None
        child = corpus.episode(branch.episode_id)
        n_same += (
            is_same(child.observation_values, episode.observation_values[step : step + n + 1])
            and is_same(child.reward_values, episode.reward_values[step : step + n])
            and is_same(child.infos, episode.infos[step : step + n])
        )
    return f"{n_same}/{len(steps)}"


if __name__ == "__main__":
    main()
