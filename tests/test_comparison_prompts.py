"""Prompts that only the requests show are a difference of two runs, or unknown; never the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counter_runs import interface, of_run, reached
from test_messages import chat, send, user

import trajrec
from trajrec.analysis.interface_difference import Factor
from trajrec.recording.event_log import close_logs

Prompt = Callable[[], str]


def record(
    folder: Path, run: str, prompt: Prompt, *, n: int = 2, task: str = "t", **of: Any
) -> None:
    for _ in range(n):
        with trajrec.episode(
            folder,
            task=task,
            watch={"count": 3},
            checks=[reached],
            interface=interface(**of),
            metadata={"run": run},
        ) as ep:
            system = {"role": "system", "content": "You count."}
            messages = [system, user(prompt())]
            send(ep, {"model": "m", "messages": messages}, chat("Done."))
    close_logs()


def scaffold_of(folder: Path) -> Factor:
    with trajrec.open(folder) as corpus:
        found: Factor = corpus.compare(a=of_run("a"), b=of_run("b")).factors["scaffold"]
    return found


@pytest.mark.slow
def test_another_template_of_the_prompt_is_a_difference(tmp_path: Path) -> None:
    record(tmp_path, "a", lambda: "Count to 3.")
    record(tmp_path, "b", lambda: "Count to 3, slowly.")
    scaffold = scaffold_of(tmp_path)
    assert scaffold.status == "differs"
    assert [(item.path, item.is_declared) for item in scaffold.differences] == [
        ("scaffold.prompt_digest", False)
    ]


@pytest.mark.slow
def test_equal_prompts_are_no_difference(tmp_path: Path) -> None:
    for run in ("a", "b"):
        record(tmp_path, run, lambda: "Count to 3.")
        record(tmp_path, run, lambda: "Count to 5.", task="t5")
    assert scaffold_of(tmp_path).status == "same"


@pytest.mark.slow
def test_prompts_that_follow_from_seeds_are_no_difference(tmp_path: Path) -> None:
    for run in ("a", "b"):
        seeds = itertools.count()
        record(tmp_path, run, lambda seeds=seeds: f"You see {next(seeds)}.")
    assert scaffold_of(tmp_path).status == "same"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("n", [1, 2])
def test_prompts_that_may_differ_by_chance_are_unknown(tmp_path: Path, n: int) -> None:
    times = itertools.count()
    for run in ("a", "b"):
        record(tmp_path, run, lambda: f"It is {next(times)} o'clock.", n=n)
    scaffold = scaffold_of(tmp_path)
    assert scaffold.status == "unknown"
    assert "unknown whether by chance" in scaffold.unknown[0]


@pytest.mark.slow
def test_a_template_that_changes_half_way_is_unknown(tmp_path: Path) -> None:
    record(tmp_path, "a", lambda: "Count to 3.")
    record(tmp_path, "b", lambda: "Count to 3.")
    record(tmp_path, "b", lambda: "Count to 3, slowly.")
    assert scaffold_of(tmp_path).status == "unknown"


@pytest.mark.slow
def test_prompts_that_both_runs_draw_are_no_difference(tmp_path: Path) -> None:
    for run, first in (("a", 0), ("b", 1)):
        seeds = itertools.count(first)
        record(tmp_path, run, lambda seeds=seeds: f"You see {next(seeds)}.", n=3)
    assert scaffold_of(tmp_path).status == "same"


@pytest.mark.slow
def test_a_declared_difference_explains_that_of_prompts(tmp_path: Path) -> None:
    for run, prompt in (("a", "Count."), ("b", "Count, please.")):
        record(tmp_path, run, lambda prompt=prompt: prompt, scaffold={"prompt": run})
    differences = scaffold_of(tmp_path).differences
    assert [(item.path, item.is_declared) for item in differences] == [("scaffold.prompt", True)]


def test_system_prompts_are_no_part_of_the_digest(tmp_path: Path) -> None:
    record(tmp_path, "a", lambda: "Count to 3.", n=1)
    with trajrec.episode(tmp_path, task="t") as ep:
        send(ep, {"model": "m", "messages": [user("Count to 3.")]}, chat("Done."))
    with trajrec.episode(tmp_path, task="t"):
        pass
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.sql("SELECT prompt_digest, system_digest FROM episodes ORDER BY number, log")
        (first, system), (second, none), (nothing, _) = sorted(
            rows.fetchall(), key=lambda row: (row[0] is None, row[1] is None)
        )
    assert first == second
    assert len(first) == 32
    assert nothing is None
    assert none is None
    assert system is not None
