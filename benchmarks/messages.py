"""`python -m benchmarks.messages`: the time of a search in the texts of many conversations.

The rows are made in SQL, and not recorded: a search reads nothing but them. The goal is 2 s of wall
time for the conversations of 100,000 episodes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import duckdb

from trajrec.corpus.index.build import create_tables

N_SEARCHES = 5
CHARS_OF_MESSAGE = 400


def make_index(path: Path, n_episodes: int, n_messages: int) -> None:
    """Make an index file with a table of messages of random words."""
    words = CHARS_OF_MESSAGE // 8
    with duckdb.connect(str(path)) as con:
        create_tables(con, "main")
        con.execute(
            "INSERT INTO main.messages BY NAME SELECT 1 AS log_key, 'rollout' AS kind, "
            f"printf('%016x', n // {n_messages}) AS episode_id, n % {n_messages} AS number, "
            "0 AS model_call, 0 AS step, 'user' AS role, 'request' AS origin, '[]' AS call_ids, "
            f"md5(n::VARCHAR) AS digest, {CHARS_OF_MESSAGE} AS n_chars, "
            # Each word is seven letters and digits.
            f"list_aggregate(list_transform(range({words}), lambda k: substr("
            f"md5((n * {words} + k)::VARCHAR), 1, 7)), 'string_agg', ' ') AS text "
            f"FROM range({n_episodes * n_messages}) t(n)"
        )


def main() -> None:
    """Make the index, search, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.messages", description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=10, help="of an episode")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "index.duckdb"
        make_index(path, options.episodes, options.messages)
        with duckdb.connect(str(path), read_only=True) as con:
            for text in ("%no such text%", "%ABC1%", "%a%f9%"):
                times = []
                for _ in range(N_SEARCHES):
                    begin = time.perf_counter()
                    query = "SELECT count(*) FROM messages WHERE text ILIKE ?"
                    (n,) = con.execute(query, [text]).fetchone() or (0,)
                    times.append(time.perf_counter() - begin)
                print(
                    f"ILIKE {text!r}: median {statistics.median(times):.2f} s, "
                    f"least {min(times):.2f} s, {n} of {options.episodes * options.messages} messages"
                )
        print(f"index: {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
