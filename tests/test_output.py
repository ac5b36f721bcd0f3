"""Tables on a terminal: wide tables are printed upright, long texts are cut, columns left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import record

pty = pytest.importorskip("pty", reason="needs a terminal of Unix")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    record(gym.make("CartPole-v1"), tmp_path / "runs", 2)
    return tmp_path / "runs"


def on_terminal(columns: int, *command: str) -> list[str]:
    """Run trajrec on a terminal with a number of columns; return the printed lines."""
    controller, terminal = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "trajrec", *command], stdout=terminal, env=env
    ) as process:
        os.close(terminal)
        printed = b""
        while True:
            try:
                data = os.read(controller, 65536)
            except OSError:
                # Linux raises it when the program has closed its end.
                break
            if not data:
                break
            printed += data
        assert process.wait() == 0
    os.close(controller)
    return printed.decode().splitlines()


@pytest.mark.slow
def test_a_wide_row_is_printed_upright_and_whole(runs: Path) -> None:
    lines = on_terminal(80, "sql", str(runs), "SELECT * FROM episodes ORDER BY number")
    records = "\n".join(lines).split("\n\n")
    assert len(records) == 2
    first = dict(line.split(maxsplit=1) for line in records[0].splitlines())
    assert first["env_id"] == "CartPole-v1"
    assert first["number"] == "0"
    assert len(first["episode_id"]) == 16
    assert "task" not in first, "an empty column takes no line"


@pytest.mark.slow
def test_a_long_text_is_cut_but_never_a_number(runs: Path) -> None:
    query = "SELECT repeat('x', 200) AS text, 12345678901234567 AS number FROM episodes"
    lines = on_terminal(60, "sql", str(runs), query)
    assert len(lines) == 3
    assert all(len(line) == 60 for line in lines)
    assert lines[1].endswith("…  12345678901234567")


@pytest.mark.slow
def test_ls_prints_one_line_an_episode(runs: Path) -> None:
    lines = on_terminal(80, "ls", str(runs))
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("episode_id")
    assert "started_at" not in lines[0]
    assert "started_at" in on_terminal(120, "ls", str(runs))[0]
