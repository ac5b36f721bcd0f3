"""The analyses on tables of a million episodes with two million checks and a million replays.

The tables have the columns of a corpus, and lie in a file of DuckDB as those of an index do.
"""

from __future__ import annotations

import datetime
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from benchmarks import scratch_folder
from trajrec.analysis.analyses import Analyses
from trajrec.analysis.card import About, make_card
from trajrec.analysis.cross_grading import Run, Verifier, cross_grade
from trajrec.analysis.source import Rows
from trajrec.corpus.index.tables import TABLES
from trajrec.corpus.index.views import VIEWS
from trajrec.types import Value

N_EPISODES = 1_000_000
N_TASKS = 2_000
MOST_CPU_S = 1.0
# A card holds ten analyses.
MOST_CPU_OF_CARD_S = 4.0
MOST_MB = 600
# DuckDB's own memory; what Python and its modules take comes on top.
DUCKDB_MEMORY = "400MB"

_EPISODE = {
    "episode_id": "printf('%016x', i)",
    "kind": "'rollout'",
    "env_id": "'counter'",
    "task": f"'task-' || (i % {N_TASKS})",
    "metadata": "('{\"run\": \"' || (CASE WHEN i // 2000 % 2 = 0 THEN 'a' ELSE 'b' END) || '\"}')::JSON",
    "outcome": "CASE WHEN hash(i) % 100 < 40 + i // 2000 % 2 * 5 THEN 'success' ELSE 'failure' END",
    "ending": "'terminated'",
    "fault": "CASE WHEN i % 50 = 0 THEN 'infra' END",
    "started_at": "TIMESTAMP '2026-01-01' + INTERVAL (i) SECOND",
    "n_steps": "5",
    "interface_id": "'i' || (i // 2000 % 2)",
    "log": "'log-' || (i // 10000)",
    "number": "i % 10000",
}
_INTERFACE = (
    """('{"verifier": {"id": "reached"}, "base": {"model": "m"}, "budget": {"steps": 5}, """
    """"scaffold": {"prompt": "' || (i // 2000 % 2) || '"}, "env": {"id": "x"}, """
    """"optimizer": {"missing": "not_applicable"}, "lineage": {"missing": "not_applicable"}, """
    """"sampling": {"temperature": 0}, "eval_protocol": {"trials": 250}}')::JSON"""
)
_CHECK = {
    "episode_id": f"printf('%016x', i % {N_EPISODES})",
    "kind": "'rollout'",
    "step": "5",
    "check_id": "'reached'",
    "version": f"CASE WHEN i < {N_EPISODES} THEN '1' ELSE '2' END",
    "phase": f"CASE WHEN i < {N_EPISODES} THEN 'terminal' ELSE 'post-hoc' END",
    "status": "'ok'",
    "verdict": f"hash(i % {N_EPISODES}) % 100 < 40 + i // 2000 % 2 * 5",
    "code_digest": "'c1'",
    "state_digest": "'s' || (i % 5000)",
    "is_primary": f"i < {N_EPISODES}",
    "checked_at": "TIMESTAMP '2026-01-01' + INTERVAL (i) SECOND",
    "log": "'log-' || (i // 10000)",
}
_REPLAY = {
    "run_id": "'run-' || (i // 100000)",
    "episode_id": "printf('%016x', i)",
    "kind": "'rollout'",
    "against": "'recorded'",
    "grade": "CASE WHEN i % 100 = 0 THEN 'diverged' WHEN i % 33 = 0 THEN 'refused' ELSE 'exact' END",
    "n_steps": "5",
    "cause": "CASE WHEN i % 100 = 0 THEN 'clock' END",
    "replayed_at": "TIMESTAMP '2026-02-01' + INTERVAL (i) SECOND",
    "log": "'replays'",
}


class Tables(Analyses):
    """Tables of a corpus in a file of DuckDB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._con = duckdb.connect(str(path), read_only=True)
        self._con.execute(f"SET threads = 2; SET memory_limit = '{DUCKDB_MEMORY}'")

    def sql(
        self,
        query: str,
        *,
        params: Sequence[Value] | Mapping[str, Value] | None = None,
        sandbox: bool = False,
    ) -> Rows:
        """Return the rows of a query."""
        return self._con.cursor().sql(query, params=params)


def make_tables(path: Path) -> None:
    """Write the tables."""
    con = duckdb.connect(str(path))
    for table in TABLES:
        columns = ", ".join(f"{name} {kind}" for name, kind, _ in table.columns)
        con.execute(f"CREATE TABLE {table.name} ({columns})")
    rows = {
        "all_episodes": ({**_EPISODE, "interface": _INTERFACE}, N_EPISODES),
        "checks": (_CHECK, 2 * N_EPISODES),
        "replays": (_REPLAY, N_EPISODES),
    }
    for name, (values, n) in rows.items():
        texts = ", ".join(values.values())
        con.execute(f"INSERT INTO {name} ({', '.join(values)}) SELECT {texts} FROM range({n}) t(i)")
    for view in VIEWS:
        con.execute(f"CREATE VIEW {view.name} AS {view.query}")
    con.close()


A = "metadata->>'$.run' = 'a'"
B = "metadata->>'$.run' = 'b'"

FIRST = Verifier("reached", "1", "c1")
SECOND = Verifier("reached", "2", "c1")
ABOUT = About(name="A million", published=datetime.date(2026, 1, 1))

ANALYSES: dict[str, Callable[[Tables], object]] = {
    "compare": lambda tables: tables.compare(a=A, b=B, check="reached@1"),
    "bands": lambda tables: tables.bands(),
    "bands (view)": lambda tables: tables.sql("SELECT count(*), avg(rate) FROM bands").fetchall(),
    "pass_k": lambda tables: tables.pass_k(4, A),
    "plan": lambda tables: tables.plan(0.05, A),
    "disagreement": lambda tables: tables.disagreement(),
    "support": lambda tables: tables.support(),
    "recovery": lambda tables: tables.recovery(),
    "verifier_health": lambda tables: tables.verifier_health(),
    "overlap": lambda tables: tables.overlap(),
    "factors": lambda tables: tables.factors([A, B]),
    "cross_grade": lambda tables: cross_grade(Run(tables, A), Run(tables, B), FIRST, SECOND),
    "fidelity": lambda tables: tables.fidelity(),
    "card": lambda tables: make_card(tables, ABOUT),
}


def sizes() -> Iterator[tuple[str, bool]]:
    """Yield the CPU time and the memory of each analysis, each in a process of its own."""
    path = scratch_folder() / "tables.duckdb"
    subprocess.run([sys.executable, "-m", "benchmarks.attribution_size", str(path)], check=True)
    for name in ANALYSES:
        command = [sys.executable, "-m", "benchmarks.attribution_size", str(path), name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        cpu_s, size_mb = map(float, done.stdout.split())
        most_s = MOST_CPU_OF_CARD_S if name == "card" else MOST_CPU_S
        yield (
            f"{name:<15} {cpu_s:.2f} s CPU (goal {most_s}), {size_mb:.0f} MB (goal {MOST_MB})",
            cpu_s <= most_s and size_mb <= MOST_MB,
        )


def main(path: str, name: str) -> None:
    """Print the CPU time of an analysis, and the peak of the memory of this process."""
    tables = Tables(Path(path))
    begin = time.process_time()
    ANALYSES[name](tables)
    cpu_s = time.process_time() - begin
    print(cpu_s, peak_mb())


def peak_mb() -> float:
    """Return the peak of the memory of this program."""
    status = Path("/proc/self/status")
    if status.exists():
        # It begins anew with each program; `getrusage` begins with the memory of the parent.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    match sys.argv[1:]:
        case [path]:
            make_tables(Path(path))
        case [path, name]:
            main(path, name)
