"""Queries change nothing, and those of somebody else read the tables and nothing else."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import numpy as np
import pytest
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.cli.safe_stream import escaped, escaped_json
from trajrec.corpus.index.file import INDEX_NAME
from trajrec.corpus.sandbox import Sandbox
from trajrec.errors import CorpusError, QueryError, UnknownToolError
from trajrec.recording.event_log import close_logs

N_STEPS = 12


def fill(folder: Path, n_episodes: int = 2) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    for seed in range(n_episodes):
        env.reset(seed=seed)
        for k in range(N_STEPS // 2):
            env.step(k % 2)
    env.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    fill(folder)
    (folder / "secret.txt").write_text("a secret file")
    return folder


@pytest.fixture(scope="module")
def corpus(runs: Path) -> Iterator[trajrec.Corpus]:
    with trajrec.open(runs) as corpus:
        yield corpus


CHANGES = [
    "DELETE FROM delta.running",
    "DROP VIEW main.steps",
    "CREATE OR REPLACE VIEW main.steps AS SELECT 1",
    "CREATE TABLE mine AS SELECT 1",
    "UPDATE delta.running SET log = 'x'",
    "INSERT INTO delta.running VALUES ('x')",
    "DETACH stored",
    "SET memory_limit = '1MB'",
    "BEGIN",
    "WITH gone AS (DELETE FROM delta.running RETURNING *) SELECT * FROM gone",
    "SELECT 1; DELETE FROM delta.running",
    "COPY steps TO '{folder}/copied.csv'",
    "EXPORT DATABASE '{folder}/exported'",
    "EXPLAIN ANALYZE DELETE FROM delta.running",
    "UPDATE EXTENSIONS",
    "",
]


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("query", CHANGES)
@pytest.mark.parametrize("sandbox", [False, True])
def test_no_query_changes_anything(
    corpus: trajrec.Corpus, tmp_path: Path, query: str, sandbox: bool
) -> None:
    with pytest.raises((QueryError, duckdb.Error)):
        corpus.sql(query.format(folder=tmp_path), sandbox=sandbox).fetchall()
    assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(N_STEPS,)]
    assert not list(tmp_path.iterdir())


DAMAGE = [
    "DROP VIEW main.steps",
    "CREATE OR REPLACE VIEW main.steps AS SELECT 1 AS step",
    "ALTER VIEW main.steps RENAME TO other",
    "INSERT INTO delta.running VALUES (1)",
    "DROP TABLE delta.dropped",
    "DROP SCHEMA delta CASCADE",
    "CREATE TEMP VIEW steps AS SELECT 1 AS step",
]


def attempt(relation: duckdb.DuckDBPyRelation, statement: str) -> None:
    with contextlib.suppress(duckdb.Error):
        relation.query("v", statement)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_a_relation_runs_breaks_no_later_query(corpus: trajrec.Corpus, damage: str) -> None:
    for ending in ("rollback", "commit"):
        relation = corpus.sql("SELECT * FROM steps").limit(3)
        attempt(relation, ending)
        attempt(relation, damage)
        attempt(relation, "commit")
        relation.close()
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(N_STEPS,)]
        assert len(list(corpus.episodes("n_steps > 0"))) == 2


@pytest.mark.parametrize("setting", ["default_order = 'desc'", "TimeZone = 'Asia/Tokyo'"])
def test_what_a_relation_sets_changes_no_later_query(corpus: trajrec.Corpus, setting: str) -> None:
    query = "SELECT step, '2020-01-01 00:00:00+00'::TIMESTAMPTZ::VARCHAR FROM steps ORDER BY step"
    before = corpus.sql(query).fetchall()
    attempt(corpus.sql("SELECT 1"), f"SET GLOBAL {setting}")
    assert corpus.sql(query).fetchall() == before


@pytest.mark.slow
def test_what_a_relation_runs_breaks_no_later_refresh(tmp_path: Path) -> None:
    fill(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        for k in range(2, 5):
            relation = corpus.sql("SELECT * FROM steps")
            for statement in ("rollback", "DELETE FROM delta.steps", "DELETE FROM delta.episodes"):
                attempt(relation, statement)
            fill(tmp_path)
            assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(k * N_STEPS,)]
            assert len(list(corpus.episodes())) == 2 * k


def test_a_detached_index_is_told(tmp_path: Path) -> None:
    fill(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        relation = corpus.sql("SELECT * FROM steps")
        attempt(relation, "rollback")
        attempt(relation, "DETACH stored")
        for ask in (lambda: corpus.sql("SELECT 1"), lambda: list(corpus.episodes())):
            with pytest.raises(CorpusError, match="has detached the index; open the corpus again"):
                ask()


REACHING = [
    "SELECT * FROM read_text('{folder}/secret.txt')",
    "SELECT * FROM '{folder}/secret.csv'",
    "SELECT * FROM read_csv('{folder}/secret.txt')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sniff_csv('{folder}/secret.txt')",
    "SELECT * FROM parquet_metadata('{folder}/secret.txt')",
    "SELECT getenv('HOME')",
    "SELECT * FROM frame",
    "SELECT * FROM read_csv('https://example.com/x.csv')",
    "SELECT * FROM sqlite_scan('{folder}/x.db', 'x')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "ATTACH '{folder}/other.duckdb' AS other",
    "CALL pragma_version()",
    "PRAGMA database_list",
    "SET enable_external_access = true",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "COPY (SELECT 1) TO '/dev/stdout'",
]


@pytest.mark.parametrize("query", REACHING)
def test_queries_of_somebody_else_reach_nothing(
    corpus: trajrec.Corpus, runs: Path, query: str
) -> None:
    frame = {"a": np.arange(3)}
    with pytest.raises(QueryError):
        corpus.sql(query.format(folder=runs), sandbox=True)
    assert len(frame) == 1


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", [".tmp/secret.txt", "runs/.trajrec/index.duckdb"])
def test_files_of_duckdb_itself_are_closed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "runs")
    assert main(["index", "runs"]) == 0
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "secret.txt").write_text("a secret file")
    with trajrec.open("runs") as corpus:
        for path in (name, tmp_path / name):
            with pytest.raises(QueryError, match="Permission Error"):
                corpus.sql(f"SELECT * FROM read_blob('{path}')", sandbox=True)
        assert corpus.sql("SELECT count(*) FROM steps", sandbox=True).fetchall() == [(N_STEPS,)]


@pytest.mark.slow
@third_slow("index")
def test_a_query_of_somebody_else_ends_at_its_limits(runs: Path) -> None:
    endless = (
        "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x) SELECT max(a) FROM x"
    )
    with trajrec.open(runs, sandbox=Sandbox(seconds=0.5)) as corpus:
        start = time.monotonic()
        with pytest.raises(QueryError, match=r"took longer than 0\.5 s and was stopped"):
            corpus.sql(endless)
        assert time.monotonic() - start < 20
    with trajrec.open(runs, sandbox=Sandbox(memory="200MB")) as corpus:
        with pytest.raises(QueryError, match="needs more memory than 200MB"):
            corpus.sql("SELECT list(a) FROM range(200000000) t(a)")
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(N_STEPS,)]


def test_limits_are_sizes_and_nothing_else(runs: Path) -> None:
    with pytest.raises(ValueError, match="memory must be a size such as '4GB'"):
        trajrec.open(runs, sandbox=Sandbox(memory="1GB'; DROP VIEW steps; --"))


def test_ones_own_query_reads_frames_and_files(corpus: trajrec.Corpus, tmp_path: Path) -> None:
    wanted = {"step": np.array([0, 3])}
    assert len(wanted["step"]) == 2
    found = corpus.sql("SELECT count(*) FROM steps JOIN wanted USING (step)").fetchall()
    assert found == [(4,)]
    file = tmp_path / "steps.parquet"
    corpus.sql("SELECT * FROM steps").write_parquet(str(file))
    assert corpus.sql(f"SELECT count(*) FROM '{file}'").fetchall() == [(N_STEPS,)]
    assert len(corpus.sql("PIVOT steps ON kind USING count(*) GROUP BY step").fetchall()) == 6


@pytest.mark.parametrize("sandbox", [False, True])
def test_parameters_and_explain_work_in_queries(corpus: trajrec.Corpus, sandbox: bool) -> None:
    query = "SELECT count(*) FROM steps WHERE step < $n"
    assert corpus.sql(query, params={"n": 2}, sandbox=sandbox).fetchall() == [(4,)]
    assert corpus.sql("EXPLAIN SELECT 1", sandbox=sandbox).fetchall()
    assert corpus.sql("DESCRIBE steps", sandbox=sandbox).fetchall()


def test_a_result_does_not_depend_on_another_query(tmp_path: Path) -> None:
    fill(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        steps = corpus.sql("SELECT step FROM steps ORDER BY ALL")
        rows = iter(steps.iter_rows())
        first = next(rows)
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(2,)]
        fill(tmp_path)
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(4,)]
        assert len([first, *rows]) == N_STEPS
        assert len(steps.fetchall()) == N_STEPS


def test_a_closed_corpus_leaves_no_open_index(tmp_path: Path) -> None:
    fill(tmp_path)
    corpus = trajrec.open(tmp_path)
    relation = corpus.sql("SELECT * FROM steps")
    list(corpus.episodes("n_steps > 0"))
    corpus.close()
    with pytest.raises(duckdb.Error):
        relation.fetchall()
    duckdb.connect(str(tmp_path / INDEX_NAME)).close()


@pytest.mark.slow
def test_a_corpus_serves_several_threads(tmp_path: Path) -> None:
    fill(tmp_path)
    barrier = threading.Barrier(4)

    def ask(corpus: trajrec.Corpus, k: int) -> int:
        barrier.wait()
        total = 0
        for _ in range(5):
            ((n,),) = corpus.sql("SELECT count(*) FROM steps").fetchall()
            total += n + sum(episode.n_steps for episode in corpus.episodes("n_steps > 1"))
        return total

    with trajrec.open(tmp_path) as corpus, ThreadPoolExecutor(4) as pool:
        totals = [future.result() for future in [pool.submit(ask, corpus, k) for k in range(4)]]
    assert totals == [5 * 2 * N_STEPS] * 4


CONDITIONS = [
    "n_steps > 0) UNION ALL SELECT '../../x.trj', 0, 0, 0 --",
    "false) UNION ALL SELECT '/etc/passwd', 0, 0, 0 FROM (SELECT 1",
    "1 = (SELECT count(*) FROM read_text('/etc/passwd'))",
    "true; DROP VIEW main.steps",
]


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_condition_reaches_no_file(
    corpus: trajrec.Corpus, runs: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(QueryError):
        list(corpus.episodes(where))
    with pytest.raises(QueryError):
        list(corpus.episodes(order_by=f"({where})"))
    assert main(["ls", str(runs), "--where", where]) == 2
    assert "root:" not in capsys.readouterr().out


def test_a_comment_in_a_condition_ends_nothing(corpus: trajrec.Corpus) -> None:
    assert len(list(corpus.episodes("n_steps > 0 -- all of them"))) == 2


def test_our_own_queries_find_views_that_are_not_there_yet(runs: Path) -> None:
    with trajrec.open(runs) as corpus:
        assert "main.latest_credit" not in corpus._index._views.made
        assert (
            corpus._index.rows("SELECT * FROM failures JOIN latest_credit USING (episode_id)") == []
        )


@pytest.mark.slow
@third_slow("index")
def test_views_that_a_query_does_not_name_are_still_there(runs: Path) -> None:
    from trajrec.corpus.index.views import VIEWS

    with trajrec.open(runs, sandbox=Sandbox()) as corpus:
        made = corpus._index._views.made
        assert "main.bands" not in made
        corpus.sql("SELECT * FROM Latest_Credit JOIN main.steps USING (episode_id)")
        assert {"main.latest_credit", "main.credit", "main.steps"} <= made.keys()
    for query in (
        "SELECT table_name FROM information_schema.tables",
        "SELECT name FROM (SHOW ALL TABLES)",
    ):
        with trajrec.open(runs, sandbox=Sandbox()) as corpus:
            names = {row[0] for row in corpus.sql(query).fetchall()}
            assert {view.name for view in VIEWS} <= names
    with trajrec.open(runs, sandbox=Sandbox()) as corpus, pytest.raises(QueryError, match="steps"):
        corpus.sql("SELECT * FROM stepz")
    for view in VIEWS:
        with trajrec.open(runs, sandbox=Sandbox()) as corpus:
            corpus.sql(f"SELECT * FROM {view.name}")


# The command line


@pytest.mark.slow
def test_sql_of_the_command_line_reads_files_only_if_allowed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = f"SELECT content FROM read_text('{runs}/secret.txt')"
    assert main(["sql", str(runs), query]) == 2
    said = capsys.readouterr()
    assert "--allow-files" in said.err
    assert "a secret file" not in said.out
    assert main(["sql", str(runs), query, "--allow-files"]) == 0
    assert "a secret file" in capsys.readouterr().out


@pytest.mark.slow
def test_sql_of_the_command_line_has_limits(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT count(*) FROM range(1000000) a, range(1000000) b"
    assert main(["sql", str(runs), query, "--timeout", "0.3"]) == 2
    assert "took longer than 0.3 s" in capsys.readouterr().err


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]
PLAIN = ["a=1", "1-1", "", "x", '"', "a,b", "line\nbreak"]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_no_formula_in_csv(
    runs: Path, capfdbinary: pytest.CaptureFixture[bytes], text: str
) -> None:
    quoted = text.replace("'", "''")
    query = f"SELECT '{quoted}' AS a, -1 AS b, [-1] AS c, NULL AS d, '{quoted}' AS e"
    assert main(["sql", str(runs), query, "--format", "csv"]) == 0
    rows = list(csv.reader(io.StringIO(capfdbinary.readouterr().out.decode(), newline="")))
    assert rows == [["a", "b", "c", "d", "e"], [f"'{text}", "-1", "[-1]", "", f"'{text}"]]


def test_other_texts_are_the_same_in_csv(
    runs: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    query = "SELECT * FROM (VALUES " + ", ".join(f"('{text}')" for text in PLAIN) + ") t(a)"
    assert main(["sql", str(runs), query, "--format", "csv"]) == 0
    rows = list(csv.reader(io.StringIO(capfdbinary.readouterr().out.decode(), newline="")))
    assert [row[0] if row else "" for row in rows[1:]] == PLAIN


def test_parquet_of_the_command_line_keeps_types(
    runs: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    query = (
        "SELECT '=1' AS a, '{\"x\": 1}'::JSON AS b, [1, 2] AS c, 5::UBIGINT AS d, "
        "TIMESTAMP '2020-01-02 03:04:05.678' AS e, {'k': 1.5::DOUBLE} AS f"
    )
    assert main(["sql", str(runs), query, "--format", "parquet"]) == 0
    file = tmp_path / "rows.parquet"
    file.write_bytes(capfdbinary.readouterr().out)
    expected = duckdb.sql(query)
    found = duckdb.sql(f"SELECT * FROM '{file}'")
    assert found.fetchall() == expected.fetchall()
    assert list(map(str, found.types)) == list(map(str, expected.types))


STEERING = "\x1b]0;owned\x07\x1b[2K\r\x9b31m\u202egnp.exe\u2066\u200f\u2028\U000e0041\x7f\x00"


@pytest.fixture(scope="module")
def steering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose every text steers a terminal."""
    folder = tmp_path_factory.mktemp("steering")
    with trajrec.episode(
        folder, task=f"t{STEERING}", goal=f"g{STEERING}", metadata={f"m{STEERING}": STEERING}
    ) as ep:
        ep.tool(lambda text: text, name=f"n{STEERING}")
        ep.call(f"n{STEERING}", text=STEERING)
        with pytest.raises(UnknownToolError, match="owned"):
            ep.call(f"fail{STEERING}")
        ep.side_effect(f"s{STEERING}", lambda: STEERING)
        ep.model(lambda **_: STEERING, messages=[{"role": "user", "content": STEERING}])
        ep.stop(f"r{STEERING}")
    close_logs()
    return folder


def is_safe(text: str) -> bool:
    return escaped(text) == text


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize(
    "command",
    [
        "ls {folder}",
        "ls {folder} --json",
        "show {folder} {id}",
        "show {folder} {id} --json",
        "show {folder} {id} --step 0",
        "sql {folder} {query}",
        "sql {folder} {query} --json",
        "sql {folder} {bad}",
        "ls {folder} --where {bad}",
        "replay {folder}",
        "show {folder} {bad}",
        "{bad}",
    ],
)
def test_no_output_steers_the_terminal(
    steering: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with trajrec.open(steering) as corpus:
        (episode,) = corpus.episodes()
    values = {
        "folder": str(steering),
        "id": episode.id,
        "query": "SELECT * FROM attempts, episodes",
        "bad": f"'{STEERING.replace(chr(0), '')}",
    }
    try:
        main([word.format(**values) for word in command.split()])
    except SystemExit as exc:
        assert exc.code == 2  # noqa: PT017
    said = capsys.readouterr()
    assert said.out or said.err
    assert is_safe(said.out)
    assert is_safe(said.err)
    if command.endswith("--json") and not command.startswith("ls"):
        texts = [json.loads(line) for line in said.out.splitlines()]
        assert any(STEERING[:8] in str(value) for text in texts for value in walk(text))


def walk(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)
    else:
        yield value


def test_escapes_of_json_are_read_back() -> None:
    text = "".join(map(chr, range(0x250))) + STEERING + "é €"
    shown = escaped_json(json.dumps(text, ensure_ascii=False))
    assert is_safe(shown)
    assert json.loads(shown) == text
    assert "é €" in shown


# Index files of somebody else


def hostile_view(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    columns = [row[0] for row in con.execute("DESCRIBE failures").fetchall()]
    con.execute("DROP TABLE failures")
    reading = ", ".join(
        f"(SELECT content FROM read_text('{file}')) AS {name}"
        if name == "message"
        else f"NULL AS {name}"
        for name in columns
    )
    con.execute(f"CREATE VIEW failures AS SELECT {reading}")


def extra_view(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute(f"CREATE VIEW more AS SELECT * FROM read_text('{file}')")


def extra_column(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute("ALTER TABLE steps ADD COLUMN more VARCHAR DEFAULT 'x'")


def generated_column(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute("DROP TABLE index_state")
    con.execute("CREATE TABLE index_state (a INT, version INT GENERATED ALWAYS AS (14))")


def extra_schema(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute("CREATE SCHEMA more; CREATE TABLE more.steps (a INT)")


def lost_table(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute("DROP TABLE steps")


def no_version(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute("DELETE FROM index_state")


FORGERIES = [
    hostile_view,
    extra_view,
    extra_column,
    generated_column,
    extra_schema,
    lost_table,
    no_version,
]


@mostly_deep("hostile", drawn=4)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("can_write", [True, False])
def test_an_index_that_is_not_ours_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: Any, can_write: bool
) -> None:
    fill(tmp_path / "runs")
    (tmp_path / "secret").write_text("a secret file")
    trajrec.open(tmp_path / "runs").close()
    con = duckdb.connect(str(tmp_path / "runs" / INDEX_NAME))
    forge(con, tmp_path / "secret")
    con.close()
    if not can_write:
        monkeypatch.setattr("trajrec.corpus.index.live.update_index", lambda *_, **__: False)
    with trajrec.open(tmp_path / "runs") as corpus:
        assert corpus.sql("SELECT message FROM failures").fetchall() == []
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(N_STEPS,)]
    if can_write:
        with duckdb.connect(str(tmp_path / "runs" / INDEX_NAME), read_only=True) as con:
            assert con.execute(
                "SELECT count(*) FROM duckdb_views() WHERE NOT internal"
            ).fetchone() == (0,)


@pytest.mark.slow
@third_slow("index")
@pytest.mark.parametrize("size", [0, 1, 100, 5000, 20000])
def test_a_truncated_index_is_made_again(tmp_path: Path, size: int) -> None:
    fill(tmp_path)
    trajrec.open(tmp_path).close()
    file = tmp_path / INDEX_NAME
    data = file.read_bytes()
    assert size < len(data)
    for damage in (data[:size], b"\x00" * size, b"no database" * (size // 10)):
        file.write_bytes(damage)
        with trajrec.open(tmp_path) as corpus:
            assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(N_STEPS,)]
        file.write_bytes(damage)
        assert main(["index", str(tmp_path), "--rebuild"]) == 0
        assert file.stat().st_size > 20000
