"""Ends of a program, and changes of its folders, while it records: nothing that returned is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Scripted
from tiers import third_slow

import trajrec
from trajrec.errors import LogWriteError
from trajrec.log.journal import journal_path

PROGRAM = """
import atexit, os, sys, threading, time, warnings
import numpy as np
import trajrec
from conftest import Scripted
from test_program_ends import numbers

warnings.simplefilter("error", RuntimeWarning)
report = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def steps(env, n):
    env.reset(seed=0)
    for k in range(n):
        env.step(k)
        os.write(report, b"%d\\n" % k)
"""


def numbers(k: int) -> Any:
    return np.array([k, 2 * k], np.float32), float(k), False, False, {}


def ended(program: str, folder: Path) -> int:
    """Run a program that records one episode; return the number of steps that it reported."""
    report = folder.with_name("report")
    source = PROGRAM + textwrap.dedent(program)
    subprocess.run(
        [sys.executable, "-c", source, str(folder), str(report)],
        check=True,
        cwd=Path(__file__).parent,
        timeout=60,
    )
    return len(report.read_bytes().splitlines())


@pytest.mark.slow
@third_slow("kills")
def test_steps_of_a_daemon_thread_survive_the_end(tmp_path: Path) -> None:
    n_reported = ended(
        """
        env = trajrec.record(Scripted(numbers), sys.argv[1])
        threading.Thread(target=steps, args=(env, 10**9), daemon=True).start()
        time.sleep(0.3)
        """,
        tmp_path / "runs",
    )
    ((n_steps,),) = trajrec.open(tmp_path / "runs").sql("SELECT n_steps FROM episodes").fetchall()
    assert n_reported <= n_steps <= n_reported + 1


@pytest.mark.slow
def test_steps_of_a_function_at_the_end_survive(tmp_path: Path) -> None:
    n_reported = ended(
        """
        # Functions that were registered later are called before.
        atexit._clear()
        atexit.register(lambda: steps(env, 5000))
        from trajrec.log import flusher
        atexit.register(flusher._flush_all)
        env = trajrec.record(Scripted(numbers), sys.argv[1])
        env.reset(seed=1)
        env.step(0)
        """,
        tmp_path / "runs",
    )
    rows = trajrec.open(tmp_path / "runs").sql("SELECT n_steps FROM episodes").fetchall()
    assert n_reported == 5000
    assert sorted(rows) == [(1,), (5000,)]


@pytest.mark.slow
@third_slow("kills")
def test_calls_of_a_daemon_thread_survive_the_end(tmp_path: Path) -> None:
    n_reported = ended(
        """
        def same(k: int) -> int:
            return k

        def work():
            with trajrec.episode(sys.argv[1], task="t") as episode:
                tool = episode.tool(same)
                for k in range(10**9):
                    tool(k)
                    os.write(report, b"%d\\n" % k)

        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.5)
        """,
        tmp_path / "runs",
    )
    ((n_calls,),) = trajrec.open(tmp_path / "runs").sql("SELECT count(*) FROM attempts").fetchall()
    assert n_reported <= n_calls <= n_reported + 1


@pytest.mark.slow
def test_a_program_that_ends_leaves_no_journal(tmp_path: Path) -> None:
    ended(
        """
        env = trajrec.record(Scripted(numbers), sys.argv[1])
        steps(env, 10)
        """,
        tmp_path / "runs",
    )
    assert [path.suffix for path in (tmp_path / "runs").iterdir()] == [".trj"]


@pytest.mark.slow
def test_a_change_of_the_working_folder_moves_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    env = trajrec.record(Scripted(numbers), "runs", keep_last=4)
    for seed in range(12):
        env.reset(seed=seed)
        env.step(0)
        monkeypatch.chdir(tmp_path / "other")
    env.close()
    assert not list((tmp_path / "other").iterdir())
    seeds = trajrec.open(tmp_path / "runs").sql("SELECT seed FROM episodes ORDER BY 1").fetchall()
    assert seeds == [(seed,) for seed in range(7, 12)]
    assert not list((tmp_path / "runs").glob("*.journal"))


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no open file")
def test_a_log_that_is_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path / "runs", on_full="raise")
    env.reset(seed=0)
    env.step(0)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(LogWriteError, match="the file was deleted; what was recorded before is"):
        env.close()
    assert not journal_path(env.path).exists()
