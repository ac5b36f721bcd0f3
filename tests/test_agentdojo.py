"""User tasks of agentdojo, recorded with ground truth, pass their checks and replay.

A process that imports agentdojo takes two seconds before its first task, so two of the suites are in the deep tier alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiers import Share, suite

import trajrec

pytest.importorskip("agentdojo", reason="agentdojo is not installed")

N_TASKS = 97
CHANGING = "SELECT DISTINCT task FROM state_changes JOIN episodes USING (episode_id)"


def dojo(what: str, folder: Path, *how: str, share: Share, hash_seed: str = "0") -> str:
    script = Path(__file__).parent / "dojo.py"
    env = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "TRAJREC_DOJO_TASKS": ",".join(map(str, share.of(range(N_TASKS)))),
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(script), what, str(folder), *how],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=env,
    ).stdout


def replay(folder: Path, share: Share, hash_seed: str = "0") -> list[dict[str, Any]]:
    lines = dojo("replay", folder, share=share, hash_seed=hash_seed).splitlines()
    return [report for _, report in map(json.loads, lines)]


@suite("agents", fixed=0, drawn=1, whole=N_TASKS)
def test_tasks_with_a_frozen_clock_replay_exactly(share: Share, tmp_path: Path) -> None:
    dojo("record", tmp_path, share=share)
    with trajrec.open(tmp_path) as corpus:
        endings = corpus.sql(
            "SELECT outcome, ending, count(*) FROM episodes GROUP BY ALL"
        ).fetchall()
        assert endings == [("success", "terminated", share.size)]
        n_changing = len(corpus.sql(CHANGING).fetchall())
    assert n_changing == 61 if share.is_whole else n_changing <= share.size
    grades = Counter(report["grade"] for report in replay(tmp_path, share))
    assert grades == {"exact": share.size}
    # Elsewhere sets come in another order: the report names that cause of a difference.
    elsewhere = replay(tmp_path, share, hash_seed="1")
    causes = {r["divergence"]["cause"][:13] for r in elsewhere if r["divergence"]}
    assert causes == {"unordered set"} if share.is_whole else causes <= {"unordered set"}


@suite("agents", fixed=0, drawn=0, whole=N_TASKS)
def test_tasks_with_options_of_ten_kilobytes_replay_exactly(share: Share, tmp_path: Path) -> None:
    dojo("record", tmp_path, "large", share=share)
    with trajrec.open(tmp_path) as corpus:
        for episode in corpus.episodes():
            assert len(episode.value(episode.start.options_data)["notes"]) == 10_000
    grades = Counter(report["grade"] for report in replay(tmp_path, share))
    assert grades == {"exact": share.size}


@suite("agents", fixed=0, drawn=0, whole=N_TASKS)
def test_a_free_clock_is_named_as_the_cause(share: Share, tmp_path: Path) -> None:
    dojo("record", tmp_path, "free", share=share)
    reports = replay(tmp_path, share)
    grades = Counter(report["grade"] for report in reports)
    assert grades["exact"] + grades["diverged"] == share.size
    assert grades == {"exact": 73, "diverged": 24} or not share.is_whole
    for report in reports:
        if report["divergence"] is not None:
            path = report["divergence"]["field"].split("/")
            assert {"timestamp", "last_modified"} & set(path), path
            assert report["divergence"]["cause"].startswith("clock")


@suite("agents", fixed=0, drawn=0, whole=N_TASKS)
def test_a_dropped_last_call_fails_nearly_every_check(share: Share, tmp_path: Path) -> None:
    dojo("record", tmp_path / "whole", share=share)
    dojo("record", tmp_path / "cut", "cut", share=share)
    with trajrec.open(tmp_path / "whole") as corpus:
        changing = {task for (task,) in corpus.sql(CHANGING).fetchall()}
    with trajrec.open(tmp_path / "cut") as corpus:
        failures = corpus.sql("SELECT task FROM episodes WHERE outcome = 'failure'").fetchall()
    n_missed = len(changing - {task for (task,) in failures})
    assert n_missed <= 2
    assert (len(changing), n_missed) == (61, 2) or not share.is_whole


@suite("agents", fixed=0, drawn=1, whole=N_TASKS)
def test_nearly_every_wrong_call_is_named(share: Share, tmp_path: Path) -> None:
    lines = dojo("credit", tmp_path, str(N_TASKS), share=share).splitlines()
    decisions = [json.loads(line) for line in lines]
    n_missed = sum(step != wrong for _, wrong, step, _ in decisions)
    if share.is_whole:
        assert len(decisions) == 47
        assert n_missed <= 4
    else:
        assert n_missed <= 1
