"""`python -m benchmarks.long`: an episode of a million steps.

Prints the memory while recording, and the time to read and to fork step 900,000, each beside its
goal.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import gymnasium as gym

import trajrec
from trajrec.replay import fork

# Reading the memory 20 times costs nothing beside a million steps.
MEASURE_EVERY = 50_000
# After these steps the environment and the recorder have made their buffers, so further growth is
# the cost of a long episode.
WARM_UP_STEPS = 100


def resident_mb() -> float:
    """Return the memory of this process that lies in RAM, in MB."""
    n_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return n_pages * 4096 / 1e6


def main() -> None:
    """Record, read, fork, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    n_steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        env = trajrec.record(gym.make("Pendulum-v1", max_episode_steps=10**9), folder)
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(WARM_UP_STEPS):
            env.step(env.action_space.sample())
        first_mb = resident_mb()
        peak_mb = 0.0
        for k in range(WARM_UP_STEPS, n_steps):
            env.step(env.action_space.sample())
            if k % MEASURE_EVERY == 0:
                peak_mb = max(peak_mb, resident_mb() - first_mb)
        peak_mb = max(peak_mb, resident_mb() - first_mb)
        env.close()
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(f"recorded: +{peak_mb:.1f} MB of memory (goal: 16), {size / n_steps:.1f} B/step")
        with trajrec.open(folder) as corpus:
            episode = next(corpus.episodes())
            late_step = n_steps * 9 // 10
            begin = time.perf_counter()
            step = episode.step_at(late_step)
            print(f"step {step.step} read in {time.perf_counter() - begin:.3f} s (goal: 0.2)")
            begin = time.perf_counter()
            with fork(episode, at=late_step, folder=None) as branch:
                print(f"forked at it in {time.perf_counter() - begin:.2f} s (goal: 1)")
                branch.step(env.action_space.sample())


if __name__ == "__main__":
    main()
