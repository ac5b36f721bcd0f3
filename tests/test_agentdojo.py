"""agentdojo's 97 user tasks: recorded with their ground truth, judged by their own checks, replayed in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import trajrec

pytest.importorskip("agentdojo", reason="agentdojo is not installed")
pytestmark = pytest.mark.slow

CHANGING = "SELECT DISTINCT task FROM state_changes JOIN episodes USING (episode_id)"


def dojo(what: str, folder: Path, *how: str, hash_seed: str = "0") -> str:
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(Path(__file__).parent / "dojo.py"),
        what,
        str(folder),
        *how,
    ]
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env).stdout


def replay(folder: Path, **kwargs: Any) -> dict[str, Any]:
    return dict(json.loads(line) for line in dojo("replay", folder, **kwargs).splitlines())


def test_all_tasks_pass_and_replay_exactly_where_the_clock_was_held(tmp_path: Path) -> None:
    dojo("record", tmp_path)
    with trajrec.open(tmp_path) as corpus:
        endings = corpus.sql(
            "SELECT outcome, ending, count(*) FROM episodes GROUP BY ALL"
        ).fetchall()
        assert endings == [("success", "terminated", 97)]
        assert len(corpus.sql(CHANGING).fetchall()) == 61
    assert Counter(report["grade"] for report in replay(tmp_path).values()) == {"exact": 97}
    # Elsewhere sets come in another order: what differs then is said to be that.
    causes = {
        r["divergence"]["cause"][:13]
        for r in replay(tmp_path, hash_seed="1").values()
        if r["divergence"]
    }
    assert causes == {"unordered set"}


def test_with_a_free_clock_every_difference_is_a_clock_field_and_is_said_to_be(
    tmp_path: Path,
) -> None:
    dojo("record", tmp_path, "free")
    reports = replay(tmp_path)
    assert Counter(report["grade"] for report in reports.values()) == {"exact": 73, "diverged": 24}
    for report in reports.values():
        if report["divergence"] is not None:
            path = report["divergence"]["field"].split("/")
            assert {"timestamp", "last_modified"} & set(path), path
            assert report["divergence"]["cause"].startswith("clock")


def test_a_dropped_last_call_fails_the_check_of_nearly_every_task_that_changes_state(
    tmp_path: Path,
) -> None:
    dojo("record", tmp_path / "whole")
    dojo("record", tmp_path / "cut", "cut")
    with trajrec.open(tmp_path / "whole") as corpus:
        changing = {task for (task,) in corpus.sql(CHANGING).fetchall()}
    with trajrec.open(tmp_path / "cut") as corpus:
        failed = {
            task
            for (task,) in corpus.sql(
                "SELECT task FROM episodes WHERE outcome = 'failure'"
            ).fetchall()
        }
    assert len(changing) == 61
    assert len(failed & changing) == 59


def test_a_wrong_call_is_named_in_nearly_every_task_that_it_loses(tmp_path: Path) -> None:
    found = [json.loads(line) for line in dojo("credit", tmp_path, "40").splitlines()]
    assert len(found) == 40
    named = [step == wrong for _, wrong, step, _ in found]
    assert sum(named) >= 36
