"""Fresh rollouts, forks, nested episodes and copies are told apart in every table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import pytest
from conftest import record, run

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.index.file import INDEX_NAME, update_index
from trajrec.corpus.index.tables import TABLES
from trajrec.corpus.index.views import VIEWS
from trajrec.corpus.recheck import recheck
from trajrec.recording.event_log import close_logs
from trajrec.replay import fork_many

COUNTS = "SELECT kind, count(*), sum(n_steps) FROM all_episodes GROUP BY 1 ORDER BY 1"


@trajrec.verifier(id="good", version="1")
def good(state: Any) -> bool:
    return True


@pytest.fixture
def forked(tmp_path: Path) -> Path:
    """A folder with three rollouts of CartPole, and four forks of the first at step 3."""
    record(gym.make("CartPole-v1"), tmp_path, 3)
    with trajrec.open(tmp_path) as corpus:
        first = next(corpus.episodes(order_by="number"))
        fork_many(first, at=3, policy="random", n_branches=4)
    return tmp_path


def dump(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables and views of a corpus, opened anew."""
    with trajrec.open(folder) as corpus:
        names = [table.name for table in (*TABLES, *VIEWS)]
        return {name: corpus.sql(f"FROM {name} ORDER BY ALL").fetchall() for name in names}


@pytest.mark.slow
def test_forks_do_not_count_as_episodes(forked: Path) -> None:
    with trajrec.open(forked) as corpus:
        n, mean = corpus.sql("SELECT count(*), avg(total_reward) FROM episodes").fetchall()[0]
        lengths = [episode.n_steps for episode in corpus.episodes()]
        assert (n, mean) == (3, sum(lengths) / 3)
        assert corpus.sql("SELECT count(*), any_value(kind) FROM forks").fetchall() == [(4, "fork")]
        assert corpus.sql("SELECT DISTINCT kind, depth FROM branches").fetchall() == [("fork", 1)]


@pytest.mark.slow
def test_steps_of_a_fork_are_its_own(forked: Path) -> None:
    with trajrec.open(forked) as corpus:
        query = "SELECT episode_id, n_steps, end_step, total_reward FROM forks"
        for episode_id, n_steps, end_step, total_reward in corpus.sql(query).fetchall():
            numbers = corpus.sql(
                "SELECT count(*), min(step), max(step) + 1 FROM steps WHERE episode_id = ?",
                params=[episode_id],
            ).fetchall()
            assert numbers == [(n_steps, 3, end_step)]
            assert total_reward == n_steps == end_step - 3


@pytest.mark.slow
def test_every_table_has_the_kind_of_its_episode(forked: Path) -> None:
    with trajrec.open(forked) as corpus:
        list(recheck(corpus, good, kind="all"))
        close_logs()
        for table in (*TABLES, *VIEWS):
            columns = [column[0] for column in table.columns]
            # Removed episodes are in no table that could tell their kind.
            if "episode_id" in columns and table.name not in ("all_episodes", "removals"):
                wrong = corpus.sql(
                    f"SELECT count(*) FROM {table.name} t JOIN all_episodes e USING (episode_id) "
                    "WHERE t.kind IS DISTINCT FROM e.kind"
                ).fetchall()
                assert wrong == [(0,)], table.name
        by_kind = "SELECT kind, phase, count(*) FROM checks GROUP BY ALL ORDER BY ALL"
        assert corpus.sql(by_kind).fetchall() == [
            ("fork", "post-hoc", 4),
            ("rollout", "post-hoc", 3),
        ]


@pytest.mark.slow
def test_episodes_of_each_kind_are_asked_for_by_name(forked: Path) -> None:
    with trajrec.open(forked) as corpus:
        assert len(list(corpus.episodes())) == 3
        forks = list(corpus.episodes("n_steps > 0", kind="fork"))
        assert len(forks) == 4
        assert corpus.episode(forks[0].id).fork is not None
        assert len(list(corpus.episodes(kind="all"))) == 7
        assert not list(corpus.episodes(kind="nested"))
        with pytest.raises(ValueError, match=r"kind must be 'rollout', 'fork', .* got 'branch'"):
            next(corpus.episodes(kind="branch"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_condition_with_or_stays_within_its_kind(forked: Path) -> None:
    with trajrec.open(forked) as corpus:
        assert len(list(corpus.episodes("true OR true", kind="fork"))) == 4


def copy_log(folder: Path, name: str) -> Path:
    """Copy the folder's first log under another name."""
    log = min(folder.glob("*.trj"), key=lambda path: path.stat().st_mtime_ns)
    return Path(shutil.copy(log, folder / name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.trj", "zz.trj"])
def test_a_copied_log_is_listed_and_counts_nothing_twice(tmp_path: Path, name: str) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    with trajrec.open(tmp_path) as corpus:
        ((_, _, n_steps),) = corpus.sql(COUNTS).fetchall()
        copy_log(tmp_path, name)
        assert corpus.sql(COUNTS).fetchall() == [("copy", 3, n_steps), ("rollout", 3, n_steps)]
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(n_steps,)]
        assert corpus.sql("SELECT count(*) FROM logs").fetchall() == [(2,)]
        assert len(list(corpus.episodes())) == len(list(corpus.episodes(kind="copy"))) == 3
        seen = {
            name: corpus.sql(f"FROM {name} ORDER BY ALL").fetchall()
            for name in ("steps", "all_episodes")
        }
    update_index(tmp_path)
    rebuilt = dump(tmp_path)
    assert rebuilt["steps"] == seen["steps"]
    assert rebuilt["all_episodes"] == seen["all_episodes"]


@pytest.mark.slow
@pytest.mark.parametrize("is_open", [True, False])
def test_a_copy_stands_in_for_a_deleted_original(tmp_path: Path, is_open: bool) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    before = dump(tmp_path)
    copy = copy_log(tmp_path, "zz.trj")
    corpus = trajrec.open(tmp_path)
    if not is_open:
        corpus.close()
    for log in tmp_path.glob("*.trj"):
        if log != copy:
            log.unlink()
    if not is_open:
        corpus = trajrec.open(tmp_path)
    assert corpus.sql("FROM steps ORDER BY ALL").fetchall() == before["steps"]
    assert (
        corpus.sql("SELECT kind, log FROM all_episodes").fetchall() == [("rollout", "zz.trj")] * 3
    )
    corpus.close()


@pytest.mark.slow
def test_the_original_is_the_log_without_damage(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    for _ in range(3):
        run(env, 1)
        env.flush()
    env.close()
    before = dump(tmp_path)["steps"]
    copy = copy_log(tmp_path, "0.trj")
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 0xFF
    copy.write_bytes(data)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("FROM steps ORDER BY ALL").fetchall() == before
        assert corpus.sql(
            "SELECT DISTINCT log FROM all_episodes WHERE kind = 'copy'"
        ).fetchall() == [("0.trj",)]


@pytest.mark.slow
def test_a_log_that_grows_past_its_copy_stays_the_original(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.step(0)
    env.flush()
    copy = copy_log(tmp_path, "0.trj")
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(1,)]
        env.step(1)
        env.close()
        assert corpus.sql("SELECT count(*) FROM steps").fetchall() == [(2,)]
        assert corpus.sql("SELECT log FROM all_episodes WHERE kind = 'copy'").fetchall() == [
            (copy.name,)
        ]
        seen = corpus.sql("FROM all_episodes ORDER BY ALL").fetchall()
    (tmp_path / INDEX_NAME).unlink()
    assert dump(tmp_path)["all_episodes"] == seen


@pytest.mark.slow
def test_a_copied_log_of_an_agent_counts_nothing_twice(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, watch={"n": [0]}) as ep:
        ep.tool(lambda x: x, name="echo")
        ep.call("echo", x=1)
        with trajrec.episode(tmp_path, task="inner"):
            pass
    close_logs()
    before = dump(tmp_path)
    copy_log(tmp_path, "0.trj")
    after = dump(tmp_path)
    for name in ("steps", "attempts", "state_changes", "episodes", "calls"):
        columns = [row[:-4] if name == "episodes" else row for row in after[name]]
        assert columns == [row[:-4] if name == "episodes" else row for row in before[name]]
    assert sorted(row[1] for row in after["all_episodes"]) == ["copy", "copy", "nested", "rollout"]


def change(path: list[Any]) -> Callable[[dict[Any, Any]], None]:
    """Return a function that sets the value at a path of keys to 7."""

    def set_value(state: dict[Any, Any]) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = 7

    return set_value


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(
    "path", [["a/b", "~x"], ["a/b", 5], ["", "~1"], ["list", 2], ["n"], ["a/b", "~2"], ["", ""]]
)
def test_paths_are_pointers_that_duckdb_takes(tmp_path: Path, path: list[Any]) -> None:
    state: dict[Any, Any] = {
        "a/b": {"~x": 1, 5: 2, "~2": 3},
        "": {"~1": 4, "": 6},
        "list": [1, 2, 3],
        "n": 0,
    }
    with trajrec.episode(tmp_path, watch=lambda: state) as ep:
        ep.tool(change(path), name="change")
        ep.execute("change", {"state": state})
    with trajrec.open(tmp_path) as corpus:
        changes = corpus.sql(
            "SELECT json_extract(?::JSON, path), after FROM state_changes",
            params=[json.dumps({str(key): value for key, value in state.items()})],
        ).fetchall()
    assert changes == [("7", "7")]


def test_argument_changes_are_pointers_into_the_arguments(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:

        def fail(**arguments: Any) -> None:
            raise ValueError("no")

        ep.tool(fail, name="fail")
        for value in ({"a/b": [1]}, {"a/b": [2]}):
            with pytest.raises(ValueError, match="no"):
                ep.execute("fail", {"id": 1, "x~y": value})
    with trajrec.open(tmp_path) as corpus:
        result = corpus.sql(
            "SELECT argument_changes->>'$[0][0]' AS path, json_extract(arguments, path) "
            "FROM attempts WHERE argument_changes IS NOT NULL"
        ).fetchall()
    assert result == [("/x~0y/a~1b/0", "2")]


def test_show_prints_a_goal_as_json_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trajrec.episode(tmp_path, goal={"cents": [1]}) as ep:
        ep.tool(lambda x: {"y": x}, name="echo")
        ep.call("echo", x={"z": [1]})
    close_logs()
    assert main(["show", str(tmp_path), ep.id, "--json"]) == 0
    facts, call = map(json.loads, capsys.readouterr().out.splitlines())
    assert facts["goal"] == {"cents": [1]}
    assert (call["arguments"], call["result"]) == ({"x": {"z": [1]}}, {"y": {"z": [1]}})


@pytest.mark.slow
def test_columns_of_json_hold_values_and_no_texts_of_json(tmp_path: Path) -> None:
    with trajrec.episode(
        tmp_path, watch={"n": {"x": [0]}}, goal={"g": 1}, interface={"base": {"m": 1}}
    ) as ep:
        ep.tool(lambda x: {"y": x}, name="echo")
        ep.call("echo", x={"z": [1]})
        ep.model(lambda **_: {"ok": True}, messages=[{"role": "user"}], temperature=0.5)
        ep.side_effect("clock", lambda: {"t": 1})
        ep.check(lambda *_: trajrec.Verdict(True, evidence={"seen": [1]}))
    record(gym.make("Taxi-v4"), tmp_path, 2)
    with trajrec.open(tmp_path) as corpus:
        for table in TABLES:
            for name, sql_type, _ in table.columns:
                if sql_type != "JSON":
                    continue
                texts = corpus.sql(
                    f"SELECT {name}->>'$' FROM {table.name} WHERE json_type({name}) = 'VARCHAR'"
                ).fetchall()
                for (text,) in texts:
                    assert not text.startswith(("{", "[", '"')), f"{table.name}.{name}: {text}"


def test_branches_end_where_parents_go_round() -> None:
    forks = [("a", "root"), ("b", "a"), ("c", "b"), ("x", "z"), ("y", "x"), ("z", "y"), ("s", "s")]
    rest = "'fork' AS kind, 1 AS fork_step, 1 AS n_steps, 2 AS end_step, 0.0 AS total_reward, "
    with duckdb.connect() as con:
        con.execute(f"""CREATE TABLE forks AS SELECT unnest({[own for own, _ in forks]}) AS episode_id,
            unnest({[parent for _, parent in forks]}) AS parent_id,
            {rest} 'terminated' AS ending, NULL AS outcome""")
        (query,) = [view.query for view in VIEWS if view.name == "branches"]
        rows = con.sql(f"SELECT episode_id, root_id, depth FROM ({query}) ORDER BY 1").fetchall()
    assert rows == [
        ("a", "root", 1),
        ("b", "root", 2),
        ("c", "root", 3),
        ("s", None, 1),
        ("x", None, 3),
        ("y", None, 3),
        ("z", None, 3),
    ]
