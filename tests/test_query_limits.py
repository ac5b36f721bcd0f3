"""Queries of somebody else end at their limits, also within one value that a function makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import gymnasium as gym
import pytest
from tiers import third_slow

import trajrec
from trajrec.cli import experiments
from trajrec.cli.main import main
from trajrec.corpus.bounded_queries import has_bounded_values
from trajrec.corpus.query_process import QueryProcess
from trajrec.corpus.sandbox import Sandbox
from trajrec.errors import QueryError

BOUNDED = [
    "SELECT 1",
    "FROM steps",
    "SELECT count(*), sum(n_steps) / 2 FROM episodes WHERE n_steps > 3 AND env_id LIKE 'Cart%'",
    "SELECT * FROM episodes WHERE metadata->>'$.run' = 'a' ORDER BY n_steps DESC LIMIT 3",
    "SELECT CASE WHEN outcome IS NULL THEN 'none' ELSE lower(outcome) END FROM episodes",
    "SELECT e.* EXCLUDE (log) FROM episodes e JOIN steps USING (episode_id) GROUP BY ALL",
    "WITH x AS (SELECT 1 a) SELECT max(a) OVER (ORDER BY a) FROM x UNION ALL SELECT 2",
    "SELECT count(*) FILTER (WHERE total_reward::BIGINT IN (1, 2)) FROM episodes",
    "WITH RECURSIVE x AS (SELECT 1 a UNION ALL SELECT a + 1 FROM x) SELECT max(a) FROM x",
    "SELECT task || ' by ' || env_id FROM episodes WHERE started_at > now() - INTERVAL 1 DAY",
    "SELECT arg_max(episode_id, n_steps) FROM episodes",
    "DESCRIBE steps",
    "SELECT no such syntax",
]

UNBOUNDED = [
    "SELECT repeat('x', 2000000000)",
    "SELECT lpad('x', 2000000000)",
    "SELECT * FROM range(1000000000)",
    "SELECT len(range(1000000000))",
    "SELECT list(step) FROM steps",
    "SELECT string_agg(episode_id) FROM steps",
    "SELECT median(a.step) FROM steps a, steps b, steps c",
    "SELECT max(step, 1000000000) FROM steps",
    "SELECT sum(step ORDER BY step) FROM steps",
    "SELECT episode_id::BIT FROM steps",
    "SELECT 'a'::BLOB",
    "SELECT [1, 2]",
    "SELECT {'a': 1}",
    "SELECT 999999999999999999999999999999999999999",
    "SELECT episode_id LIKE '%a%b%c' FROM steps",
    "SELECT episode_id LIKE env_id FROM episodes",
    "SELECT j->'$**.a' FROM (SELECT '{}'::JSON j)",
    "SELECT replace(episode_id, 'a', 'aaaaaaaa') FROM steps",
    "SELECT * FROM steps TABLESAMPLE 10 ROWS",
    "SUMMARIZE steps",
    "EXPLAIN SELECT 1",
    "WITH RECURSIVE x AS (SELECT 'a' a UNION ALL SELECT a || a FROM x) SELECT max(len(a)) FROM x",
    "WITH RECURSIVE x AS (SELECT before a FROM steps UNION ALL SELECT a + a FROM x) FROM x",
    "SELECT " + "a||".join("a" * 10) + " FROM (SELECT 'a' a)",
    "SELECT printf('%d', 1)",
    "SELECT date_part(['year'], DATE '2020-01-01')",
]


@pytest.mark.parametrize("query", BOUNDED)
def test_usual_queries_make_no_large_value(query: str) -> None:
    assert has_bounded_values(duckdb.connect(), query)


def test_queries_of_commands_need_no_process_of_their_own() -> None:
    queries = [value for value in vars(experiments).values() if "SELECT " in str(value)]
    assert len(queries) >= 3
    for query in queries:
        assert has_bounded_values(duckdb.connect(), query)


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("query", UNBOUNDED)
def test_queries_that_may_make_large_values_are_told(query: str) -> None:
    assert not has_bounded_values(duckdb.connect(), query)


def test_a_deep_query_is_told_too() -> None:
    deep = "SELECT " + "(" * 300 + "1" + ")" * 300
    assert has_bounded_values(duckdb.connect(), deep)
    assert not has_bounded_values(duckdb.connect(), deep.replace("1", "repeat('x', 2)"))


def fill(folder: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    env.reset(seed=0)
    for k in range(4):
        env.step(k % 2)
    env.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    fill(folder)
    return folder


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the results of processes are written to."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def process(runs: Path) -> Iterator[QueryProcess]:
    process = QueryProcess(runs, scan="changed", sandbox=Sandbox(60, "500MB"), cost="NULL")
    yield process
    process.close()


LARGE = [
    "SELECT repeat('x', 2000000000)",
    "SELECT len(range(1000000000))",
    "WITH RECURSIVE x AS (SELECT repeat('a', 10) a, 1 n UNION ALL SELECT a || a, n + 1 FROM x "
    "WHERE n < 40) SELECT max(length(a)) FROM x",
    "SELECT median(a) FROM range(1000000000) t(a)",
    "SELECT string_agg(a::VARCHAR, ',') FROM range(1000000000) t(a)",
]


@pytest.mark.slow
@third_slow("index")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to such a limit")
def test_one_value_does_not_exceed_the_memory(runs: Path) -> None:
    with trajrec.open(runs, sandbox=Sandbox(seconds=60, memory="500MB")) as corpus:
        for query in LARGE:
            start = time.monotonic()
            with pytest.raises(QueryError, match="needs more memory than 500MB"):
                corpus.sql(query)
            assert time.monotonic() - start < 20
        assert corpus.sql("SELECT repeat('x', 3)").fetchall() == [("xxx",)]


# The peak is that of all children of a process, so one asks the queries that has no others.
PEAK = """
import json, resource, sys
import trajrec
from trajrec.corpus.sandbox import Sandbox
with trajrec.open(sys.argv[1], sandbox=Sandbox(seconds=60, memory="500MB")) as corpus:
    for query in json.loads(sys.argv[2]):
        try:
            corpus.sql(query)
        except trajrec.errors.QueryError:
            continue
        sys.exit(f"not refused: {query}")
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@third_slow("index")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to such a limit")
def test_refused_values_were_never_in_memory(runs: Path) -> None:
    command = [sys.executable, "-c", PEAK, str(runs), json.dumps(LARGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_500_000  # kB


@pytest.mark.slow
@third_slow("index")
def test_one_value_does_not_exceed_the_time(runs: Path, results: Path) -> None:
    with trajrec.open(runs, sandbox=Sandbox(seconds=0.5, memory="8GB")) as corpus:
        start = time.monotonic()
        with pytest.raises(QueryError, match=r"took longer than 0\.5 s and was stopped"):
            corpus.sql("SELECT length(repeat('x', 4000000000)), sum(a) FROM range(1000000000) t(a)")
        assert time.monotonic() - start < 20
        assert corpus.sql("SELECT repeat('x', 3)").fetchall() == [("xxx",)]
    assert not list(results.iterdir())


@pytest.mark.slow
def test_a_process_is_warm_and_sees_new_logs(tmp_path: Path, results: Path) -> None:
    fill(tmp_path / "runs")
    with trajrec.open(tmp_path / "runs", sandbox=Sandbox()) as corpus:
        query = "SELECT list(step ORDER BY step) AS steps, ? AS x FROM steps"
        first = corpus.sql(query, params=["'"])
        child = corpus._index._process._child
        fill(tmp_path / "runs")
        assert corpus.sql(query, params=["b"]).fetchall() == [([0, 0, 1, 1, 2, 2, 3, 3], "b")]
        assert corpus._index._process._child is child
        # The rows of the first are still as they were, and so is what is derived from them.
        assert first.columns == ["steps", "x"]
        assert first.limit(1).fetchall() == first.fetchall() == [([0, 1, 2, 3], "'")]
        process = child._process
    assert process.returncode is not None
    assert not list(results.iterdir())


TYPES = (
    "SELECT 1::HUGEINT AS a, [1, NULL] AS b, {'k': INTERVAL 3 MONTH} AS c, 'NaN'::DOUBLE AS d, "
    "'{}'::JSON AS e, '101'::BIT AS f, MAP {'a': 1} AS g, TIMETZ '10:00:00+02' AS h, "
    '1.5::DECIMAL(5, 2) AS i, TIMESTAMP_NS \'2020-01-01 00:00:00.123456789\' AS j, NULL AS "a""\'", '
    "TIMESTAMPTZ '2020-01-01 00:00:00+00' AS l, 'ab'::BLOB AS m, DATE 'infinity'::VARCHAR AS n, "
    "'é\U0001f600' AS o, 1::UHUGEINT AS p, -0.0::DOUBLE AS q, [[''], NULL] AS r"
)


@pytest.mark.slow
def test_rows_of_a_process_are_those_of_duckdb(process: QueryProcess) -> None:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    expected = con.sql(TYPES)
    found = process.sql(TYPES, None)
    assert found.columns == expected.columns
    assert repr(found.fetchall()) == repr(expected.fetchall())
    kinds = {str(kind) for pair in zip(found.types, expected.types, strict=True) if len(set(pair)) > 1
             for kind in pair}  # fmt: skip
    assert not kinds - {'"NULL"', "INTEGER"}
    assert process.sql("SELECT 1 AS a, 2 AS a FROM range(0)", None).fetchall() == []


@pytest.mark.slow
def test_a_process_refuses_what_reads_files_or_changes(process: QueryProcess, runs: Path) -> None:
    for query in (
        "SELECT * FROM read_text('/etc/passwd')",
        f"SELECT * FROM read_blob('{runs}/.trajrec/index.duckdb')",
        "SELECT * FROM glob('/*')",
        "SELECT getenv('HOME')",
        "SELECT 1; SELECT 2",
        "EXPLAIN ANALYZE DELETE FROM delta.running",
    ):
        with pytest.raises(QueryError):
            process.sql(query, None)
    assert process.sql("SELECT count(*) FROM steps", None).fetchall() == [(4,)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_process_outlives_the_one_that_asks(runs: Path, results: Path) -> None:
    code = (
        "import os, signal, sys, threading, trajrec\n"
        "from trajrec.corpus.sandbox import Sandbox\n"
        "corpus = trajrec.open(sys.argv[1], sandbox=Sandbox())\n"
        "corpus.sql(\"SELECT repeat('x', 3)\")\n"
        "print(corpus._index._process._child._process.pid, flush=True)\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        'corpus.sql("SELECT sum(a) FROM range(1000000000000) t(a)")\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(runs)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(results)},
    )
    process_id = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            # Its results may be large, or secret.
            assert not list(results.iterdir())
            return
        time.sleep(0.05)
    pytest.fail("the process of the query goes on")


@pytest.mark.slow
@third_slow("index")
def test_the_command_line_ends_at_the_memory(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT repeat('x', 2000000000)"
    assert main(["sql", str(runs), query, "--memory", "500MB", "--timeout", "20"]) == 2
    assert "needs more memory than 500MB" in capsys.readouterr().err
    condition = "length(repeat('x', 2000000000)) > 0"
    with (
        trajrec.open(runs, sandbox=Sandbox(20, "500MB")) as corpus,
        pytest.raises(QueryError, match="needs more memory"),
    ):
        list(corpus.episodes(condition))
    assert main(["sql", str(runs), "SELECT list(step) FROM steps", "--format", "csv"]) == 0


def test_a_process_that_cannot_start_is_told(
    runs: Path, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    with trajrec.open(runs, sandbox=Sandbox()) as corpus:
        monkeypatch.setattr(sys, "executable", str(runs / "no-python"))
        with pytest.raises(QueryError, match="no process for the query could be started"):
            corpus.sql("SELECT [1]")
        assert corpus.sql("SELECT 1").fetchall() == [(1,)]
    assert not list(results.iterdir())
