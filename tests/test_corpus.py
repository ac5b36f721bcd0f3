"""The index equals the logs, whoever records or queries meanwhile, and a lost index is rebuilt."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, record, run
from tiers import Share, suite, third_slow

import trajrec
import trajrec.envs
from trajrec.cli.main import main
from trajrec.corpus.index.file import INDEX_NAME, update_index
from trajrec.corpus.index.tables import TABLES
from trajrec.errors import CorpusError, QueryError
from trajrec.exchange.to_parquet import export_parquet
from trajrec.values.json import to_json


def dump(corpus: trajrec.Corpus) -> dict[str, list[Any]]:
    """Return all rows of all tables, in a fixed order."""
    return {
        table.name: corpus.sql(f"SELECT * FROM {table.name} ORDER BY ALL").fetchall()
        for table in TABLES
    }


def test_tables_hold_episodes_steps_and_digests(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, interface={"policy": "random"})
    env.action_space.seed(0)
    rewards = []
    actions = []
    for k in range(4):
        env.reset(seed=k)
        done = False
        while not done:
            actions.append(int(env.action_space.sample()))
            result = env.step(actions[-1])
            rewards.append(float(result[1]))
            done = result[2] or result[3]
    env.close()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql(
            "SELECT sum(n_steps), sum(total_reward), count(*) FROM episodes"
        ).fetchall() == [(len(actions), sum(rewards), 4)]
        result = corpus.sql(
            "SELECT CAST(action AS INT) FROM steps JOIN episodes USING (episode_id) "
            "ORDER BY number, step"
        ).fetchall()
        assert [row[0] for row in result] == actions
        assert corpus.sql(
            "SELECT DISTINCT ending, seed_origin, interface->>'policy' FROM episodes"
        ).fetchall() == [("terminated", "caller", "random")]
        episode = next(corpus.episodes("seed = 2"))
        digests = corpus.sql(
            "SELECT state_check, state_key FROM steps WHERE episode_id = ? ORDER BY step",
            params=[episode.id],
        ).fetchall()
        assert episode.state_digests is not None
        assert digests == [(check, None) for check in episode.state_digests[1:].tolist()]


def test_options_of_a_reset_are_in_sql_python_and_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    for options in ({"low": -0.01, "high": 0.02}, None):
        env.reset(seed=1, options=options)
        env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT options->'$.high', options FROM episodes ORDER BY number")
        assert rows.fetchall() == [("0.02", '{"low":-0.01,"high":0.02}'), (None, None)]
        first, second = corpus.episodes(order_by="number")
        assert first.reset_options == {"low": -0.01, "high": 0.02}
        assert second.reset_options is None
        assert main(["show", str(tmp_path), first.id]) == 0
    assert 'options           {"low":-0.01,"high":0.02}' in capsys.readouterr().out


def test_options_of_a_worlds_reset_are_in_sql(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, world=trajrec.envs.Shop(seed=7), options={"task": 0}):
        pass
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT options FROM episodes").fetchall() == [('{"task":0}',)]
        assert next(corpus.episodes()).reset_options == {"task": 0}


def test_state_changes_hold_the_changes_of_each_step(tmp_path: Path) -> None:
    record(gym.make("FrozenLake-v1", is_slippery=False), tmp_path, 5)
    with trajrec.open(tmp_path) as corpus:
        for episode in corpus.episodes():
            result = corpus.sql(
                "SELECT step, CAST(before AS INT), CAST(after AS INT) FROM state_changes "
                "WHERE episode_id = ? ORDER BY step",
                params=[episode.id],
            ).fetchall()
            states = [episode.states[k] for k in range(episode.n_steps + 1)]
            assert result == [
                (k, a, b) for k, (a, b) in enumerate(itertools.pairwise(states)) if a != b
            ]


def test_rewards_by_agent_have_their_own_table(tmp_path: Path) -> None:
    ends = {"terminations": {"a": False, "b": True}, "truncations": {"a": False, "b": False}}
    steps = [
        ({"a": 1, "b": 0.5}, {}),
        ({"a": np.float32(2), "b": None}, ends),
        ({"a": -1.0}, {"terminations": {"a": True}, "truncations": {"a": True}, "why": object()}),
        ({}, {}),
    ]
    record(
        Scripted(lambda k: (0, steps[k][0] if k >= 0 else {}, k == 3, False, steps[k][1])),
        tmp_path,
        2,
    )
    with trajrec.open(tmp_path) as corpus:
        assert (
            corpus.sql("SELECT total_reward, n_steps FROM episodes").fetchall() == [(None, 4)] * 2
        )
        assert corpus.sql("SELECT DISTINCT reward FROM steps").fetchall() == [(None,)]
        query = (
            "SELECT episode_id, step, agent, reward, terminated, truncated FROM "
            "agent_rewards ORDER BY 1, 2, 3"
        )
        result = corpus.sql(query).fetchall()
        assert [row[1:] for row in result] == [
            (0, "a", 1.0, None, None),
            (0, "b", 0.5, None, None),
            (1, "a", 2.0, False, False),
            (1, "b", None, True, False),
            (2, "a", -1.0, True, True),
        ] * 2
        assert len({row[0] for row in result}) == 2


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda parts: [np.float32(part) for part in parts]]
)
def test_lists_and_vectors_of_rewards_have_rows_by_place(kind: Any, tmp_path: Path) -> None:
    record(Scripted(lambda k: (0, kind([k, 0.5]), k == 2, False, {})), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT total_reward FROM episodes").fetchall() == [(None,)]
        query = "SELECT step, agent, reward FROM agent_rewards ORDER BY 1, 2"
        assert corpus.sql(query).fetchall() == [
            (step, agent, reward)
            for step in range(3)
            for agent, reward in (("0", float(step)), ("1", 0.5))
        ]
        (episode,) = corpus.episodes()
        assert episode.rewards_by_agent == {0: 3.0, 1: 1.5}


def test_rewards_of_mixed_kinds_have_no_sum(
    tmp_path: Path,
) -> None:
    record(Scripted(lambda k: (0, 1.0 if k < 2 else {"a": 1.0}, k == 3, False, {})), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT total_reward FROM episodes").fetchall() == [(None,)]
        assert corpus.sql("SELECT step, reward FROM agent_rewards").fetchall() == [
            (2, 1.0),
            (3, 1.0),
        ]
        assert corpus.sql("SELECT reward FROM steps ORDER BY step").fetchall() == [
            (1.0,),
            (1.0,),
            (None,),
            (None,),
        ]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "info", [{"a": 1, "A": 2}, {"": 1}, {"x": {"b": 1, "B": {"c": 2}}}, {"'": 1}]
)
def test_infos_with_keys_that_sql_confuses_are_indexed(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    env = trajrec.record(Scripted(lambda k: (0, 1.0, k == 1, False, info)), tmp_path)
    run(env, 1)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        texts = corpus.sql("SELECT info FROM steps").fetchall()
    assert [json.loads(text) for (text,) in texts] == [info, info]


def test_failures_and_checks_have_rows(tmp_path: Path) -> None:
    def at(k: int) -> Any:
        if k == 2:
            raise TimeoutError("too slow")
        return np.zeros(2), 1.0, k == 5, False, {}

    env = trajrec.record(Scripted(at), tmp_path, checks=[lambda env: False])
    env.reset(seed=0)
    for k in range(6):
        try:
            env.step(k)
        except TimeoutError:
            continue
    env.close()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql(
            "SELECT step, error_type, message, CAST(action AS INT) FROM failures"
        ).fetchall() == [(2, "builtins.TimeoutError", "too slow", 2)]
        assert corpus.sql("SELECT status, verdict FROM checks").fetchall() == [("ok", False)]
        assert corpus.sql(
            "SELECT n_steps, outcome, ending, n_failures, missing_steps FROM episodes"
        ).fetchall() == [(6, "failure", "terminated", 1, 0)]
        assert [r[0] for r in corpus.sql("SELECT step FROM steps ORDER BY step").fetchall()] == [
            0,
            1,
            3,
            4,
            5,
        ]


@pytest.mark.slow
def test_an_open_corpus_sees_later_episodes(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(env, 2)
    env.flush()
    with trajrec.open(tmp_path) as corpus:
        count = "SELECT count(*), sum(n_steps) FROM episodes"
        assert corpus.sql(count).fetchall()[0][0] == 2
        for k in range(3, 6):
            run(env, 1, seed=None)
            env.flush()
            n, total = corpus.sql(count).fetchall()[0]
            assert n == k
            assert total == corpus.sql("SELECT count(*) FROM steps").fetchall()[0][0]
        env.reset()
        env.step(0)
        env.flush()
        assert corpus.sql(
            "SELECT ending FROM episodes ORDER BY number DESC LIMIT 1"
        ).fetchall() == [("running",)]
        env.close()
        assert corpus.sql(
            "SELECT ending FROM episodes ORDER BY number DESC LIMIT 1"
        ).fetchall() == [("abandoned",)]
        incremental = dump(corpus)
    update_index(tmp_path, rebuild=True)
    with trajrec.open(tmp_path) as corpus:
        assert dump(corpus) == incremental


@pytest.mark.slow
@third_slow("index")
@pytest.mark.parametrize(
    "env_id",
    [
        "Blackjack-v1",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("CartPole-v1", "Taxi-v4")),
    ],
)
def test_an_index_built_in_steps_equals_one_built_at_once(env_id: str, tmp_path: Path) -> None:
    env = trajrec.record(gym.make(env_id), tmp_path)
    for k in range(6):
        run(env, 1, seed=0 if k == 0 else None)
        env.reset()
        env.step(env.action_space.sample())
        env.flush()
        assert update_index(tmp_path)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        incremental = dump(corpus)
    (tmp_path / INDEX_NAME).unlink()
    with trajrec.open(tmp_path) as corpus:
        assert dump(corpus) == incremental


@pytest.mark.slow
def test_deleted_and_replaced_logs_leave_no_rows(tmp_path: Path) -> None:
    first = record(gym.make("CartPole-v1"), tmp_path, 2)
    second = record(gym.make("Taxi-v4"), tmp_path, 1)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(3,)]
        first.unlink()
        assert corpus.sql(
            "SELECT DISTINCT env_id FROM steps JOIN episodes USING (episode_id)"
        ).fetchall() == [("Taxi-v4",)]
        from trajrec.log.compaction import compact

        compact(second)
        assert corpus.sql("SELECT count(*), count(DISTINCT step) FROM steps").fetchall() == [
            (200, 200)
        ]
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(1,)]


@pytest.mark.slow
def test_a_locked_index_file_changes_no_answer(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    update_index(tmp_path)
    code = (
        "import duckdb, sys; con = duckdb.connect(sys.argv[1]); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / INDEX_NAME)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        record(gym.make("CartPole-v1"), tmp_path, 2)
        with trajrec.open(tmp_path) as corpus:
            assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(5,)]
    finally:
        holder.communicate("")


@pytest.mark.slow
def test_an_index_open_for_reading_changes_no_answer(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    code = (
        "import trajrec, sys; c = trajrec.open(sys.argv[1]); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        record(gym.make("Taxi-v4"), tmp_path, 1)
        with trajrec.open(tmp_path) as corpus:
            assert corpus.sql(
                "SELECT count(*), sum(n_steps) FROM episodes WHERE env_id = 'Taxi-v4'"
            ).fetchall() == [(1, 200)]
            assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(4,)]
    finally:
        holder.communicate("")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("content", [b"", b"not a database", b"\0" * 5000])
def test_an_invalid_index_file_is_rebuilt(content: bytes, tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    (tmp_path / INDEX_NAME).parent.mkdir()
    (tmp_path / INDEX_NAME).write_bytes(content)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(3,)]
    duckdb.connect(str(tmp_path / INDEX_NAME), read_only=True).close()


@pytest.mark.slow
def test_an_index_of_a_newer_duckdb_is_rebuilt(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    update_index(tmp_path)
    file = tmp_path / INDEX_NAME
    data = bytearray(file.read_bytes())
    # The header: checksum, "DUCK", then the storage version.
    assert data[8:12] == b"DUCK"
    data[12:20] = (2**40).to_bytes(8, "little")
    file.write_bytes(data)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(3,)]


def test_an_index_of_another_version_is_rebuilt(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    update_index(tmp_path)
    con = duckdb.connect(str(tmp_path / INDEX_NAME))
    con.execute("UPDATE index_state SET version = 99; DROP TABLE steps")
    con.close()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) > 0 FROM steps").fetchall() == [(True,)]


def test_a_read_only_folder_answers_queries(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    record(gym.make("CartPole-v1"), folder, 3)
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            # root may write anywhere, but not open a folder as a database
            (folder / INDEX_NAME).mkdir(parents=True)
        with trajrec.open(folder) as corpus:
            assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(3,)]
    finally:
        folder.chmod(0o755)


def test_unreadable_files_are_reported_and_skipped(
    tmp_path: Path,
) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "deep" / "er", 2)
    (tmp_path / "foreign.trj").write_bytes(b"no log at all, but named like one")
    (tmp_path / "empty.trj").write_bytes(b"")
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(2,)]
        assert sorted(problem.log for problem in corpus.problems()) == ["empty.trj", "foreign.trj"]


def test_an_episode_is_found_by_any_unique_prefix(cartpole: trajrec.Corpus) -> None:
    ids = [row[0] for row in cartpole.sql("SELECT episode_id FROM episodes").fetchall()]
    assert cartpole.episode(ids[0][:9]).id == ids[0]
    with pytest.raises(CorpusError, match="no episode 'xyz'"):
        cartpole.episode("xyz")
    with pytest.raises(CorpusError, match="no episode ''"):
        cartpole.episode("")


def test_an_ambiguous_prefix_names_the_candidates(tmp_path: Path) -> None:
    record(gym.make("Blackjack-v1"), tmp_path, 40)
    with trajrec.open(tmp_path) as corpus:
        ids = [row[0] for row in corpus.sql("SELECT episode_id FROM episodes").fetchall()]
        prefix = next(i[0] for i in ids if sum(j[0] == i[0] for j in ids) > 1)
        with pytest.raises(CorpusError, match="several episodes begin with"):
            corpus.episode(prefix)


def test_wrong_sql_names_the_nearest_column(cartpole: trajrec.Corpus) -> None:
    with pytest.raises(QueryError, match=r"(?s)rewrd.*reward"):
        cartpole.sql("SELECT rewrd FROM steps")


@pytest.mark.parametrize(
    ("make", "what"), [(None, "no such folder"), ("folder", "no logs"), ("file", "not a folder")]
)
def test_a_folder_that_is_no_corpus_is_refused(make: str | None, what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if make == "folder":
        path.mkdir()
    elif make == "file":
        path.write_text("x")
    with pytest.raises(CorpusError, match=what):
        trajrec.open(path)


@pytest.mark.parametrize("wrong", [b"runs", None, 3, ["runs"]])
def test_a_folder_of_another_type_is_refused(wrong: Any) -> None:
    for given in (trajrec.open, lambda folder: trajrec.episode(folder, task="t")):
        with pytest.raises(TypeError, match=r"a folder must be a str or a pathlib\.Path, got"):
            given(wrong)


@pytest.mark.slow
@third_slow("index")
@pytest.mark.parametrize("sandbox", [False, True])
def test_long_queries_draw_no_progress_on_stdout(sandbox: bool) -> None:
    # DuckDB does it where the program has no file: under `python -c` and in an interactive Python.
    folder = Path(__file__).parents[1] / "sample_trajectories" / "support"
    program = (
        "import trajrec\n"
        f"with trajrec.open({str(folder)!r}) as corpus:\n"
        f"    print(corpus.sql(\"SELECT current_setting('enable_progress_bar')\", "
        f"sandbox={sandbox}).fetchall())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert printed.stdout == "[(False,)]\n", printed.stderr


@pytest.mark.slow
def test_a_notebook_without_widgets_opens_a_corpus() -> None:
    # DuckDB knows a notebook by the settings of IPython's shell.
    folder = Path(__file__).parents[1] / "sample_trajectories" / "support"
    program = (
        "import sys, types\n"
        "shell = types.SimpleNamespace(config={'IPKernelApp': {}})\n"
        "sys.modules['ipywidgets'] = None\n"
        "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: shell)\n"
        "import duckdb, trajrec\n"
        f"with trajrec.open({str(folder)!r}) as corpus:\n"
        "    print(duckdb.__jupyter__, corpus.sql('SELECT count(*) FROM episodes').fetchall())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert printed.stdout == "True [(12,)]\n", printed.stderr


WRITER = """
import sys, time
import gymnasium as gym, trajrec
env = trajrec.record(gym.make("CartPole-v1"), sys.argv[1])
until = time.monotonic() + float(sys.argv[2])
n = 0
with open(sys.argv[3], "a", buffering=1) as told:
    while time.monotonic() < until:
        env.reset(seed=n)
        done = False
        while not done:
            result = env.step(env.action_space.sample())
            done = result[2] or result[3]
        print(env.episode_id, time.monotonic(), file=told)
        n += 1
        time.sleep(0.002)
env.close()
"""


def ask_while_recording(folder: Path, n_writers: int, n_readers: int, seconds: float) -> None:
    """Record and query in several processes; an answer must have all episodes of 200 ms ago."""
    told = [folder / f"told{k}" for k in range(n_writers)]
    for file in told:
        file.touch()
    runs = folder / "runs"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(runs), str(seconds), str(file)])
        for file in told
    ]
    while (
        not runs.exists() or not list(runs.glob("*.trj")) or not any(f.stat().st_size for f in told)
    ):
        time.sleep(0.01)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(runs), str(seconds), *map(str, told)],
            stdout=subprocess.PIPE,
        )
        for _ in range(n_readers)
    ]
    outputs = [reader.communicate()[0] for reader in readers]
    assert [p.wait() for p in (*writers, *readers)] == [0] * (n_writers + n_readers)
    assert all(int(output) >= 3 for output in outputs), outputs
    n_told = sum(len(file.read_text().splitlines()) for file in told)
    with trajrec.open(runs) as corpus:
        assert corpus.sql(
            "SELECT count(*) FROM episodes WHERE ending = 'terminated'"
        ).fetchall() == [(n_told,)]


READER = """
import sys, time
import trajrec
until = time.monotonic() + float(sys.argv[2])
n = 0
while time.monotonic() < until or n < 3:
    begin = time.monotonic()
    ended = set()
    for file in sys.argv[3:]:
        for line in open(file):
            parts = line.split()
            if line.endswith("\\n") and float(parts[1]) < begin - 0.2:
                ended.add(parts[0])
    with trajrec.open(sys.argv[1]) as corpus:
        query = "SELECT episode_id FROM episodes WHERE ended_at IS NOT NULL"
        seen = {row[0] for row in corpus.sql(query).fetchall()}
    assert ended <= seen, (len(ended), len(ended - seen))
    n += 1
print(n)
"""


@pytest.mark.slow
@third_slow("index")
def test_two_readers_miss_no_episode_of_three_writers(tmp_path: Path) -> None:
    ask_while_recording(tmp_path, 3, 2, 5.0)


@suite("index", fixed=0, drawn=0, whole=300)
def test_two_readers_miss_no_episode_of_eight_writers(share: Share, tmp_path: Path) -> None:
    ask_while_recording(tmp_path, 8, 2, float(share.size))


@pytest.mark.slow
def test_a_copied_folder_answers_the_same(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "a", 3)
    with trajrec.open(tmp_path / "a") as corpus:
        before = dump(corpus)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with trajrec.open(tmp_path / "b") as corpus:
        after = dump(corpus)
    assert before["all_episodes"] == after["all_episodes"]
    assert before["steps"] == after["steps"]


@pytest.mark.slow
def test_unknown_times_are_null_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Records of others often have no times: they are stored as 0.
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    times = (
        "SELECT started_at, ended_at FROM all_episodes UNION ALL "
        "SELECT started_at, latency_ms::VARCHAR::TIMESTAMP FROM attempts UNION ALL "
        "SELECT failed_at, NULL FROM failures UNION ALL SELECT checked_at, NULL FROM checks"
    )
    ep = trajrec.episode(tmp_path, task="t")
    with ep:
        ep.tool(lambda: 1 / 0, name="bad")
        with pytest.raises(ZeroDivisionError):
            ep.call("bad")
        ep.check(trajrec.verifier(id="ok", version="1")(lambda world: True))
        with trajrec.open(tmp_path) as corpus:
            assert corpus.sql("SELECT ending FROM episodes").fetchall() == [("running",)]
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*), min(n_steps) FROM episodes").fetchall() == [(1, 1)]
        rows = corpus.sql(times).fetchall()
    assert rows == [(None, None)] * 4


MIXED_ACTIONS: list[Any] = [
    ({"arm": 1, "left arm": [1.5, 2.0]}, np.uint8(3)),
    (1, 2.5),
    (True, 1),
    ((1, True), {"a": (2, 0.5)}),
]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("action", MIXED_ACTIONS)
def test_tuples_of_several_types_keep_each_type(action: Any, tmp_path: Path) -> None:
    env = trajrec.record(Scripted(lambda k: ((0.0, 0.0), 1.0, k == 2, False, {})), tmp_path)
    env.reset()
    for _ in range(3):
        env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        expected = to_json(episode.actions[0])
        found = corpus.sql("SELECT DISTINCT action::VARCHAR FROM steps").fetchall()
        assert [json.loads(text) for (text,) in found] == [json.loads(expected)]
        assert found == [(expected,)]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, np.array([1.0, 2.0]), 1, 2.5, True], [1, None, 1, 2.5, 1]),
        ([np.int8(2), "3", None, 4.0], [2, None, None, 4]),
        ([{"a": 1}, 1.0], [None, 1]),
        ([float("nan"), 1.0], [None, 1]),
    ],
)
def test_each_reward_that_is_a_number_is_one_in_sql(
    rewards: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    last = len(rewards) - 1
    record(
        Scripted(lambda k: ((0.0, 0.0), rewards[k] if k >= 0 else 0, k == last, False, {})),
        tmp_path,
        2,
    )
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT reward FROM steps ORDER BY episode_id, step").fetchall()
        assert [reward for (reward,) in rows] == expected * 2
        totals = corpus.sql("SELECT total_reward FROM episodes").fetchall()
        assert totals == [(None,)] * 2


@pytest.mark.slow
def test_a_condition_selects_logs_recorded_since_opening(tmp_path: Path) -> None:
    for n_episodes in (1, 2):
        with trajrec.record(gym.make("CartPole-v1"), tmp_path) as env:
            run(env)
        if n_episodes == 1:
            corpus = trajrec.open(tmp_path)
        # The sandbox of the condition sees the second log before the corpus itself does.
        assert len(list(corpus.episodes("n_steps > 0"))) == n_episodes
    corpus.close()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("where", [None, "", " ", 3, True])
def test_a_condition_that_is_no_text_is_named(
    cartpole: trajrec.Corpus, where: Any, tmp_path: Path
) -> None:
    asks: list[Callable[[], object]] = [
        lambda: next(cartpole.episodes(where)),
        lambda: next(cartpole.episodes(order_by=where)),
        lambda: cartpole.transitions(where),
        lambda: next(cartpole.messages(where)),
        lambda: cartpole.pass_k(1, where),
        lambda: cartpole.recovery(where),
        lambda: cartpole.support(where),
        lambda: export_parquet(cartpole, tmp_path / "out", where),
    ]
    for ask in asks:
        with pytest.raises((TypeError, ValueError), match=r"^(where|order_by) must be .* in SQL"):
            ask()


def test_an_environment_without_an_id_is_named_by_its_class(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(lambda k: (0, 1.0, k == 0, False, {})), tmp_path)
    env.reset(seed=0)
    env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT env_id FROM episodes").fetchall() == [("conftest.Scripted",)]
        assert next(corpus.episodes()).env_id == "conftest.Scripted"


@pytest.mark.parametrize("n", [2, 100])
def test_a_score_that_is_nan_stays_one_among_any_number(tmp_path: Path, n: int) -> None:
    with trajrec.episode(tmp_path) as ep:
        for _ in range(n):
            ep.check(lambda world: float("nan"), {})
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT count(*) FILTER (isnan(score)), count(*) FROM checks"
        assert corpus.sql(query).fetchall() == [(n, n)]


@pytest.mark.parametrize("ask", [lambda c: c.sql("SELECT 1"), lambda c: list(c.episodes())])
@pytest.mark.parametrize("has_queried", [False, True])
def test_a_closed_corpus_says_that_it_is(tmp_path: Path, ask: Any, has_queried: bool) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 1)
    corpus = trajrec.open(tmp_path)
    if has_queried:
        ask(corpus)
    corpus.close()
    with pytest.raises(CorpusError, match="the corpus is closed; open it again"):
        ask(corpus)
