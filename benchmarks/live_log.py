"""`python -m benchmarks.live_log`: the cost of what is new in a corpus that is open.

CPU time until a query sees one new episode of 20 calls in a log that is being written, and that of
opening a small corpus, as medians, each compared with its goal.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trajrec
from benchmarks.agent_index import Shop, has_orders, record_calls
from trajrec.recording.event_log import close_logs

N_TIMES = 15
QUERY = "SELECT count(*) FROM episodes"


def record_one(folder: Path, rng: random.Random) -> None:
    """Record an episode of 20 calls."""
    shop = Shop(rng)
    with trajrec.episode(folder, watch={"orders": shop.orders}, task="new") as ep:
        ep.tool(shop.look, access="read")
        for k in range(20):
            try:
                ep.call("look", order=f"O{k}", fields=["status"])
            except Exception:
                continue
        ep.check(has_orders)


def cpu_ms(act: Callable[[], object]) -> float:
    """Return the CPU time of an action in milliseconds."""
    begin = time.process_time()
    act()
    return (time.process_time() - begin) * 1e3


def main() -> None:
    """Record, query, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_log", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    n_calls = parser.parse_args().calls
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_calls(folder / "small", 200)
        trajrec.open(folder / "small").close()
        opened = [cpu_ms(lambda: trajrec.open(folder / "small").close()) for _ in range(N_TIMES)]
        # Sealed: the live log then has its own.
        record_calls(folder / "live", n_calls)
        with trajrec.open(folder / "live") as corpus:
            seen = []
            for _ in range(N_TIMES):
                record_one(folder / "live", rng)
                seen.append(cpu_ms(lambda: corpus.sql(QUERY).fetchall()))
            ((n_episodes,),) = corpus.sql(QUERY).fetchall()
        close_logs()
    print(f"{n_episodes} episodes")
    print(f"one new episode is seen after {statistics.median(seen):.1f} ms CPU (goal: 15)")
    print(f"a small corpus is opened in {statistics.median(opened):.1f} ms CPU")


if __name__ == "__main__":
    main()
