"""`python -m benchmarks.long`: an episode of a million steps: memory while recording, time to show and to fork step 900,000."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import gymnasium as gym

import trajrec
from trajrec.replay import fork

N_STEPS, STEP = 1_000_000, 900_000


def resident_mb() -> float:
    """Return the memory of this process that lies in RAM, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    """Record, show, fork; print each figure beside the one to reach."""
    with tempfile.TemporaryDirectory() as folder:
        env = trajrec.record(gym.make("Pendulum-v1", max_episode_steps=10**9), folder)
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(100):
            env.step(env.action_space.sample())
        start = resident_mb()
        most = 0.0
        for k in range(100, N_STEPS):
            env.step(env.action_space.sample())
            if k % 50_000 == 0:
                most = max(most, resident_mb() - start)
        most = max(most, resident_mb() - start)
        env.close()
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(f"recorded: +{most:.1f} MB of memory (to reach: 16), {size / N_STEPS:.1f} B/step")
        with trajrec.open(folder) as corpus:
            episode = next(corpus.episodes())
            begin = time.perf_counter()
            step = episode.step_at(STEP)
            print(f"step {step.step} read in {time.perf_counter() - begin:.3f} s (to reach: 0.2)")
            begin = time.perf_counter()
            with fork(episode, at=STEP, folder=None) as world:
                print(f"fork there in {time.perf_counter() - begin:.2f} s (to reach: 1)")
                world.step(env.action_space.sample())


if __name__ == "__main__":
    main()
