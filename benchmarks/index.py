"""`python -m benchmarks.index`: the cost of indexing a million CartPole steps, and of a query.

The figures are compared with their goals, and the size of the index with the number of steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import gymnasium as gym

import trajrec
from benchmarks.scenarios import SCENARIOS, loop
from trajrec.corpus.index.file import INDEX_NAME, update_index

QUERY = "SELECT env_id, count(*), avg(total_reward) FROM episodes GROUP BY 1"
N_REBUILDS = 3
N_QUERIES = 9


def main() -> None:
    """Record, index, query, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    n_steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Long and short episodes: an episode costs more rows than a step.
        for scenario in SCENARIOS[:2]:
            env = trajrec.record(gym.make("CartPole-v1"), folder)
            loop(env, scenario.policy(env), n_steps // 2)
            env.close()
        rebuild_s = []
        for _ in range(N_REBUILDS):
            begin = time.process_time()
            update_index(folder, rebuild=True)
            rebuild_s.append(time.process_time() - begin)
        begin = time.process_time()
        update_index(folder)
        update_s = time.process_time() - begin
        with trajrec.open(folder) as corpus:
            count = "SELECT count(*), (SELECT count(*) FROM steps) FROM episodes"
            ((n_episodes, n_indexed),) = corpus.sql(count).fetchall()
            query_ms = []
            for _ in range(N_QUERIES):
                begin = time.perf_counter()
                corpus.sql(QUERY).fetchall()
                query_ms.append((time.perf_counter() - begin) * 1e3)
        size = (folder / INDEX_NAME).stat().st_size
    print(f"{n_episodes} episodes, {n_indexed} steps")
    print(
        f"index from nothing: {statistics.median(rebuild_s):.2f} s CPU (goal: 2 s a million steps)"
    )
    print(
        f"index when nothing is new: {update_s * 1e3:.0f} ms CPU; "
        f"{size / n_indexed:.1f} bytes a step"
    )
    print(
        f"mean reward by environment: {statistics.median(query_ms):.1f} ms wall, "
        "refresh included (goal: 50 ms)"
    )


if __name__ == "__main__":
    main()
