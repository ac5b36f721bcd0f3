"""Systems that lack some of POSIX: importing, recording and reading work there too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
sys.modules["fcntl"] = None
for name in {missing!r}:
    delattr(os, name)

import gymnasium as gym
import trajrec
from trajrec.envs import Shop

env = trajrec.record(gym.make("CartPole-v1"), "runs", checks=[lambda env: True])
env.reset(seed=0)
is_over = False
n_steps = 0
while not is_over:
    _, _, terminated, truncated, _ = env.step(n_steps // 2 % 2)
    n_steps += 1
    is_over = terminated or truncated
env.reset(seed=1)
env.step(0)
with trajrec.episode("runs", world=Shop(seed=7), task="shop") as ep:
    ep.call("list_stock")
with trajrec.open("runs") as corpus:
    query = "SELECT n_steps, coalesce(task, 'cartpole') FROM episodes ORDER BY ALL"
    assert corpus.sql(query).fetchall() == [(1, "cartpole"), (1, "shop"), (n_steps, "cartpole")]
env.close()
trajrec.close_logs()
with trajrec.open("runs") as corpus:
    assert corpus.sql(query).fetchall() == [(1, "cartpole"), (1, "shop"), (n_steps, "cartpole")]
    assert corpus.problems() == []
    from trajrec.replay import replay_episode
    for episode in corpus.episodes("env_id IS NOT NULL"):
        assert replay_episode(episode).grade == "exact"
assert sorted(path.rpartition(".")[2] for path in os.listdir("runs")) == ["trajrec", "trj", "trj"]
"""

OF_PROCESSES = ["fork", "register_at_fork"]
OF_FILES = ["posix_fallocate", "pread", "pwrite", "fdatasync", "O_NONBLOCK", "O_CLOEXEC"]


def run(missing: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(missing=missing)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_recording_works_without_locks_and_forks(tmp_path: Path) -> None:
    run(OF_PROCESSES, tmp_path)


@pytest.mark.slow
def test_recording_works_without_posix_functions_of_files(tmp_path: Path) -> None:
    run([*OF_PROCESSES, *OF_FILES], tmp_path)
