"""Exported tables: the rows of SQL, in the folders and with the front matter that others read."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import pytest
from conftest import Scripted, record
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.index.tables import ALL_EPISODES, TABLES
from trajrec.corpus.sandbox import Sandbox
from trajrec.errors import CorpusError
from trajrec.exchange.to_parquet import export_parquet
from trajrec.replay import fork


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rollouts, a fork, an agent's episode, a label, and a copy of a log."""
    folder = tmp_path_factory.mktemp("tables") / "runs [1]"
    path = record(gym.make("FrozenLake-v1"), folder, 4)
    record(Scripted(lambda k: (0.5, [1.0, float("nan")][k % 2], k == 3, False, {})), folder, 2)
    with trajrec.open(folder) as corpus:
        with fork(next(corpus.episodes("number = 0 AND env_id = 'FrozenLake-v1'")), at=0) as env:
            env.step(1)
        corpus.label(next(corpus.episodes()).id, "note", 'a "quoted" word', by="program")
    with trajrec.episode(folder, task="talk", metadata={"split": "train"}) as ep:
        ep.tool(lambda n: {"n": n}, name="put", access="write")
        ep.call("put", n=2**60)
        ep.model(lambda messages: "y" * 5000, messages=[{"role": "user", "content": "go"}])
    trajrec.close_logs()
    shutil.copyfile(path, folder / "again.trj")
    return folder


@pytest.fixture(scope="module")
def exported(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "it's [all]"
    with trajrec.open(runs) as corpus:
        export_parquet(corpus, output)
    return output


def rows_of(folder: Path, columns: str) -> list[tuple[Any, ...]]:
    """Return the rows of an exported table."""
    files = [str(file) for file in folder.rglob("*.parquet")]
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        return con.execute(
            f"SELECT {columns} FROM read_parquet(?) ORDER BY ALL", [files]
        ).fetchall()


def folders(runs: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each folder with the query of its rows, and its columns."""
    for name, kind in (("episodes", "rollout"), ("forks", "fork"), ("nested", "nested")):
        yield name, f"all_episodes WHERE kind = '{kind}'", ALL_EPISODES.names
    for table in TABLES:
        if table is not ALL_EPISODES:
            yield table.name, table.name, table.names


@pytest.mark.slow
def test_exported_tables_have_the_rows_of_sql(runs: Path, exported: Path) -> None:
    written = set()
    with trajrec.open(runs) as corpus:
        for name, source, names in folders(runs):
            columns = ", ".join(names)
            expected = corpus.sql(f"SELECT {columns} FROM {source} ORDER BY ALL").fetchall()
            if expected:
                written.add(name)
                assert repr(rows_of(exported / name, columns)) == repr(expected), name
    assert {path.name for path in exported.iterdir() if path.is_dir()} == written
    assert {"episodes", "forks", "steps", "attempts", "messages", "labels"} <= written


def test_rows_lie_in_folders_of_environment_and_day(exported: Path) -> None:
    environments = {path.name for path in (exported / "steps").iterdir()}
    assert environments == {"env=FrozenLake-v1", "env=conftest.Scripted", "env=none"}
    (day,) = (exported / "steps" / "env=FrozenLake-v1").iterdir()
    ((started,),) = rows_of(exported / "forks", "started_at")
    assert day.name == f"day={started:%Y-%m-%d}"
    pattern = str(exported / "steps").replace("[", "[[]") + "/**/*.parquet"
    with duckdb.connect() as con:
        ((n,),) = con.execute(
            "SELECT count(*) FROM read_parquet(?, hive_partitioning = true) WHERE env = 'none'",
            [pattern],
        ).fetchall()
    assert n == len(rows_of(exported / "steps" / "env=none", "step"))


def test_the_account_of_tables_adds_up(runs: Path, exported: Path) -> None:
    facts = json.loads((exported / "lineage.json").read_text())
    report = facts["report"]
    assert report["found"] == report["placed"] + report["unknown"] + report["dropped"]
    assert report["records"] == {name: of["rows"] for name, of in facts["tables"].items()}
    reasons = report["dropped_reasons"]
    with trajrec.open(runs) as corpus:
        n_observations = sum(
            len(episode.observation_values)
            for episode in corpus.episodes("kind <> 'copy'", kind="all")
            if not episode.is_agent_episode
        )
    of_observations = [n for reason, n in reasons.items() if reason.startswith("an observation")]
    assert of_observations == [n_observations]
    assert [n for reason, n in reasons.items() if reason.startswith("an episode of a copied")] == [
        4
    ]
    assert [n for reason, n in reasons.items() if reason.startswith("the text of a message")] == [1]


@pytest.mark.slow
@third_slow("imports")
def test_a_condition_selects_the_rows_of_all_tables(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    where = "task = 'talk'"
    line = ["export", str(runs), "parquet", "-o", str(output), "--where", where, "--json"]
    assert main(line) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["episodes"] == 1
    assert report["records"]["logs"] == 1
    with trajrec.open(runs) as corpus:
        (episode,) = corpus.episodes(where)
    for folder in output.iterdir():
        if folder.is_dir() and folder.name != "logs":
            assert {row[0] for row in rows_of(folder, "episode_id")} == {episode.id}
    assert {"attempts", "messages", "steps"} <= {path.name for path in output.iterdir()}
    (output / "of-the-user").touch()
    assert main(line) == 2
    assert "exists; name a new one" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0
    assert not (output / "of-the-user").exists()
    assert [path.name for path in output.parent.iterdir() if ".tmp" in path.name] == []


@pytest.mark.slow
def test_the_digest_of_tables_is_one_of_their_rows(
    cartpole: trajrec.Corpus, tmp_path: Path
) -> None:
    digests = []
    for number, where in enumerate(("true", "number >= 0", "number > 0")):
        export_parquet(cartpole, tmp_path / str(number), where)
        digests.append(json.loads((tmp_path / str(number) / "lineage.json").read_text())["digest"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
def test_tables_of_no_episode_are_not_written(cartpole: trajrec.Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no episode is"):
        export_parquet(cartpole, tmp_path / "out", "number > 99")
    with (
        trajrec.open(cartpole.path, sandbox=Sandbox()) as closed,
        pytest.raises(CorpusError, match="opened with a sandbox"),
    ):
        export_parquet(closed, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_front_matter_names_each_folder(exported: Path) -> None:
    text = (exported / "README.md").read_text(encoding="utf-8")
    lines = text.split("---")[1].strip().splitlines()
    names = [json.loads(line.partition(": ")[2]) for line in lines if "config_name" in line]
    files = [json.loads(line.partition(": ")[2]) for line in lines if "data_files" in line]
    assert sorted(names) == sorted(path.name for path in exported.iterdir() if path.is_dir())
    assert files == [f"{name}/**/*.parquet" for name in names]
    assert all(f"\n## {name}\n" in text for name in names)


def test_no_table_has_a_column_named_as_a_partition() -> None:
    assert all({"env", "day"}.isdisjoint(table.names) for table in TABLES)


@pytest.mark.slow
def test_pyarrow_reads_tables_with_their_partitions(exported: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for folder in exported.iterdir():
        if folder.is_dir():
            assert len(parquet.read_table(folder)) == len(rows_of(folder, "*"))
    table = parquet.read_table(exported / "steps")
    assert {"env", "day"} <= set(table.column_names)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="pip install datasets")
def test_hugging_face_loads_each_table_by_name(exported: Path, tmp_path: Path) -> None:
    import datasets

    folder = shutil.copytree(exported, tmp_path / "tables")
    for name in datasets.get_dataset_config_names(str(folder)):
        loaded = datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        assert loaded["train"].num_rows == len(rows_of(folder / name, "*"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("polars") is None, reason="pip install polars")
def test_polars_reads_tables_with_their_partitions(exported: Path, tmp_path: Path) -> None:
    import polars

    folder = shutil.copytree(exported, tmp_path / "tables")
    steps = polars.read_parquet(folder / "steps" / "**" / "*.parquet", hive_partitioning=True)
    assert len(steps) == len(rows_of(folder / "steps", "*"))
    assert {"env", "day"} <= set(steps.columns)
