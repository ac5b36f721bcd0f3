"""`trajrec ls` lists the latest episodes, and says how many there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Scripted, run

import trajrec
from trajrec.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 60 episodes in two logs: episode k of a log has k + 1 steps."""
    folder = tmp_path_factory.mktemp("runs")
    length = 0

    def result_of(k: int) -> Any:
        return (0.0, 0.0), 1.0, k == length, False, {}

    for _ in range(2):
        env = trajrec.record(Scripted(result_of), folder)
        for length in range(30):  # noqa: B007 - the environment reads it
            run(env, 1)
        env.close()
    return folder


def ls(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert main(["ls", str(folder), *options]) == 0
    return capsys.readouterr().out.splitlines()


def ls_json(
    folder: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ls(folder, capsys, "--json", *options)]


@pytest.mark.slow
def test_latest_fifty_are_listed_and_all_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, *rows, empty, total = ls(folder, capsys)
    assert (len(rows), empty) == (50, "")
    assert total == "60 episodes; 50 are listed (--limit all lists all)"
    times = [row["started_at"] for row in ls_json(folder, capsys)]
    assert times == sorted(times, reverse=True)
    with trajrec.open(folder) as corpus:
        query = "SELECT episode_id FROM episodes ORDER BY started_at DESC LIMIT 1"
        ((latest,),) = corpus.sql(query).fetchall()
    assert rows[0].startswith(latest)


@pytest.mark.slow
def test_columns_of_environments_or_agents_alone_are_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ls(folder, capsys)[0].split()[:4] == ["episode_id", "env_id", "n_steps", "total_reward"]
    runs = tmp_path / "agents"
    for task in ("refund-1", "refund-2"):
        with trajrec.episode(runs, task=task):
            pass
    head, row, *_ = ls(runs, capsys)
    assert head.split()[:4] == ["episode_id", "task", "n_steps", "ending"]
    assert row.split()[1] == "refund-2"
    assert [row["task"] for row in ls_json(runs, capsys)] == ["refund-2", "refund-1"]
    assert set(ls_json(runs, capsys)[0]) == set(ls_json(folder, capsys)[0])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("limit", "n"), [("1", 1), ("7", 7), ("60", 60), ("1000", 60), ("all", 60)]
)
def test_limit_is_a_number_or_all(
    folder: Path, capsys: pytest.CaptureFixture[str], limit: str, n: int
) -> None:
    lines = ls(folder, capsys, "--limit", limit)
    assert len(lines) == n + 3
    assert ("listed" in lines[-1]) == (n < 60)
    assert len(ls_json(folder, capsys, "--limit", limit)) == n


def test_json_lists_all_unless_it_is_limited(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(ls_json(folder, capsys)) == 60


@pytest.mark.parametrize("limit", ["0", "-3", "some", "1.5"])
def test_limit_of_nothing_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    with pytest.raises(SystemExit) as info:
        main(["ls", str(folder), f"--limit={limit}"])
    assert info.value.code == 2
    assert "--limit" in capsys.readouterr().err


def test_column_to_sort_by_puts_the_largest_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ls_json(folder, capsys, "--sort", "n_steps", "--limit", "4")
    assert [row["n_steps"] for row in rows] == [30, 30, 29, 29]
    with pytest.raises(SystemExit):
        main(["ls", str(folder), "--sort", "n_steps; DROP TABLE steps"])
    capsys.readouterr()


def test_size_adds_the_bytes_of_the_logs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = sorted(path.stat().st_size for path in folder.glob("*.trj"))
    rows = ls_json(folder, capsys, "--size", "--sort", "log_bytes")
    assert [rows[0]["log_bytes"], rows[-1]["log_bytes"]] == sizes[::-1]
    assert ls(folder, capsys, "--size")[-1].startswith(
        f"60 episodes in 2 logs of {sum(sizes)} bytes"
    )


def test_condition_limits_the_count_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ls(folder, capsys, "--where", "n_steps > 28", "--limit", "1")
    assert lines[-1] == "4 episodes; 1 is listed (--limit all lists all)"
    assert ls(folder, capsys, "--where", "n_steps > 99")[-1] == "0 episodes"
