"""`python -m benchmarks.index`: what indexing a million CartPole steps costs, and what a query on them."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import gymnasium as gym

import trajrec
from benchmarks.scenarios import SCENARIOS, loop
from trajrec.corpus.index.file import update_index

N_STEPS = 1_000_000


def main() -> None:
    """Record, index, ask; print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for scenario in SCENARIOS[:2]:
            env = trajrec.record(gym.make("CartPole-v1"), folder)
            loop(env, scenario.policy(env), N_STEPS // 2)
            env.close()
        costs = []
        for _ in range(3):
            begin = time.process_time()
            update_index(folder, rebuild=True)
            costs.append(time.process_time() - begin)
        begin = time.process_time()
        update_index(folder)
        again = time.process_time() - begin
        with trajrec.open(folder) as corpus:
            n = corpus.sql(
                "SELECT count(*), (SELECT count(*) FROM steps) FROM episodes"
            ).fetchall()[0]
            asked = []
            for _ in range(9):
                begin = time.perf_counter()
                corpus.sql(
                    "SELECT env_id, count(*), avg(total_reward) FROM episodes GROUP BY 1"
                ).fetchall()
                asked.append((time.perf_counter() - begin) * 1e3)
        size = (folder / "index.duckdb").stat().st_size
    print(f"{n[0]} episodes, {n[1]} steps")
    print(
        f"index from nothing: {statistics.median(costs):.2f} s CPU (to reach: 2 s a million steps)"
    )
    print(f"index when nothing is new: {again * 1e3:.0f} ms CPU; {size / n[1]:.1f} bytes a step")
    print(
        f"mean reward by environment: {statistics.median(asked):.1f} ms wall, refresh included (to reach: 50 ms)"
    )


if __name__ == "__main__":
    main()
