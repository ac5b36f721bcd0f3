"""`python -m benchmarks.corpus_page`: the parts of the viewer's page of a large corpus.

A thousand episodes of an agent are recorded and indexed; their rows are then written again under
other ids until there are as many as asked for, since recording them would take minutes. A tenth of
them was replayed. The goal is 0.3 s of CPU time for the facets and histograms of a million episodes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

import trajrec
from benchmarks import scratch_folder
from trajrec.corpus.corpus import Corpus
from trajrec.corpus.index.file import INDEX_NAME, update_index
from trajrec.recording.event_log import close_logs
from trajrec.view.corpus_view import CorpusView, read_corpus

N_RECORDED = 1_000
N_CALLS = 4
N_TIMES = 5
TOOLS = ("cancel", "list", "look", "read", "refund", "search", "write")
ADDRESSES: dict[str, list[tuple[str, str]]] = {
    "first page": [],
    "one outcome": [("outcome", "failure")],
    "one task": [("task", "task-7")],
    "one tool": [("tool", "refund")],
    "tool and error": [("tool", "refund"), ("error_type", "builtins.LookupError")],
    "least failures": [("n_failures_min", "1")],
}
"""Name -> parameters of the address."""


def record(folder: Path) -> None:
    """Record short episodes: 50 tasks, 3 interfaces, 7 tools, 2 kinds of errors."""
    rng = random.Random(0)

    def act(order: int) -> int:
        if order % 7 == 0:
            raise LookupError(f"no order {order}")
        if order % 11 == 0:
            raise ValueError(f"no such order: {order}")
        return order

    def is_right(_: object) -> bool:
        return rng.random() < 0.6

    for number in range(N_RECORDED):
        interface = {"model": f"m-{number % 3}"}
        with trajrec.episode(folder, task=f"task-{number % 50}", interface=interface) as ep:
            for _ in range(N_CALLS):
                call = ep.tool(act, name=rng.choice(TOOLS), access="read")
                try:
                    call(order=rng.randrange(1, 60))
                except (LookupError, ValueError):
                    continue
            ep.check(is_right)
    close_logs()


def multiply(folder: Path, n_episodes: int) -> None:
    """Write the rows of the episodes again, under other ids and numbers."""
    n_copies = n_episodes // N_RECORDED - 1
    with duckdb.connect(str(folder / INDEX_NAME)) as con:
        new_id = "substr(md5(episode_id || i), 1, 16) AS episode_id"
        for table in ("all_episodes", "attempts", "failures", "checks", "steps"):
            changes = [new_id]
            if table == "all_episodes":
                changes.append(f"(number + (i + 1) * {N_RECORDED})::BIGINT AS number")
            con.execute(
                f"INSERT INTO {table} SELECT t.* REPLACE ({', '.join(changes)}) "
                f"FROM range({n_copies}) r(i), {table} t ORDER BY i, t.rowid"
            )
        con.execute(
            "INSERT INTO replays BY NAME SELECT log_key, kind, episode_id, 'a' AS run_id, "
            "started_at AS replayed_at, CASE WHEN number % 50 = 0 THEN 'diverged' ELSE 'exact' END "
            "AS grade FROM all_episodes WHERE number % 10 = 0"
        )


def read_sides(view: CorpusView) -> tuple[object, object]:
    """Read the facets and histograms of a page."""
    return view.facets, view.histograms


def cpu_ms(act: Callable[[], object]) -> float:
    """Return the CPU time of an action in milliseconds."""
    begin = time.process_time()
    act()
    return (time.process_time() - begin) * 1e3


def measure(corpus: Corpus, items: list[tuple[str, str]]) -> tuple[float, float]:
    """Return the CPU times of a table and of what stands beside it."""
    tables = []
    sides = []
    for _ in range(N_TIMES):
        begin = time.process_time()
        view = read_corpus(corpus, items)
        tables.append((time.process_time() - begin) * 1e3)
        sides.append(cpu_ms(lambda: read_sides(view)))  # noqa: B023
    return statistics.median(tables), statistics.median(sides)


def main() -> None:
    """Make the corpus, read its page under some filters, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus_page", description=__doc__)
    parser.add_argument("--episodes", type=int, default=1_000_000)
    n_episodes = parser.parse_args().episodes
    folder = scratch_folder()
    record(folder)
    update_index(folder)
    multiply(folder, n_episodes)
    with trajrec.open(folder) as corpus:
        ((n_indexed,),) = corpus.sql("SELECT count(*) FROM episodes").fetchall()
        print(f"{n_indexed} episodes, {N_CALLS} calls each; CPU time (goal of the facets: 300 ms)")
        for name, items in ADDRESSES.items():
            table_ms, sides_ms = measure(corpus, items)
            print(f"{name:15} table {table_ms:5.0f} ms, facets and histograms {sides_ms:5.0f} ms")


if __name__ == "__main__":
    main()
